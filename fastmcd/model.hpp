// Dual-mode background model: per cell of 4x4 pixels one Gaussian that stands for the background ("apparent") and one
// that may replace it ("candidate"), each with an age. Yi et al. 2013.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "fastmcd.hpp"
#include "homography.hpp"
#include "image.hpp"

namespace fastmcd {

inline constexpr int kCell = 4;  // px: side of a cell; the last column and row may be cut by the frame's edge

inline int cells(int pixels) { return (pixels + kCell - 1) / kCell; }

struct Mode {
    std::vector<float> mean, variance, age;
};

class Model {
public:
    Model(int width, int height, const Params& params);

    void reset();  // every cell is new again

    // Brings the model under the current frame; h maps current to previous pixel coordinates.
    void warp(const Homography& h);

    // Learns the frame and marks in mask (0 or 255) what was no background.
    void update(const Plane& frame, Plane& mask);

    int columns() const { return columns_; }
    int rows() const { return rows_; }
    const Mode& mode(int m) const { return modes_[m]; }  // 0 apparent, 1 candidate
    const std::vector<std::uint8_t>& contrast() const { return contrast_; }  // |cell - background|, grey levels
    std::size_t bytes() const;

private:
    struct Cell {  // what a cell of the frame looks like
        float mean;
        std::uint8_t low, high;
    };
    struct Light {  // change of grey level by level and place
        std::array<double, 4> l;
        double at(double level, double x, double y) const {  // x and y from -1 to 1 over the frame
            return l[0] + l[1] * (level / 128 - 1) + l[2] * x + l[3] * y;
        }
    };
    void measure(const Plane& frame);
    Light fit_light() const;
    void compensate();
    Cell measure(const Plane& frame, int column, int row) const;
    float learn(std::size_t i, const Cell& cell);
    void blend(int m, std::size_t i, const Cell& cell);

    Params params_;
    int columns_, rows_;
    std::array<Mode, 2> modes_, warped_;
    std::vector<Cell> cells_;
    std::vector<std::uint8_t> contrast_;
    std::vector<std::uint8_t> low_, high_;  // of one row of cells, per pixel: background is low..high
};

}  // namespace fastmcd
