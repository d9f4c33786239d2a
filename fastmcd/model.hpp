// Dual-mode background model: per cell of 4x4 pixels one Gaussian that stands for the background ("apparent") and one
// that may replace it ("candidate"), each with an age. Yi et al. 2013.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "fastmcd.hpp"
#include "homography.hpp"
#include "image.hpp"

namespace fastmcd {

inline int cells(int pixels) { return (pixels + kCell - 1) / kCell; }

// Something for each cell, in rows that whole vectors may be read from and written to.
template <class T>
class Grid {
public:
    Grid(int columns, int rows)
        : pitch_(rounded_up(columns, kLanes) + kLanes), values_(kLanes + pitch_ * (rows + 2)) {}
    T* row(int y) { return values_.data() + kLanes + (y + 1) * pitch_; }  // -1 to rows
    const T* row(int y) const { return values_.data() + kLanes + (y + 1) * pitch_; }
    std::ptrdiff_t pitch() const { return pitch_; }
    std::size_t bytes() const { return values_.size() * sizeof(T); }
    void fill(T value) { std::fill(values_.begin(), values_.end(), value); }

private:
    std::ptrdiff_t pitch_;
    std::vector<T> values_;
};

// By what light, exposure and gain made of the grey levels: gain * level + offset.
struct Exposure {
    float gain = 1, offset = 0;
};

class Model {
public:
    Model(int width, int height, const Params& params, Workers& workers = alone());

    void reset();  // every cell is new again

    // Brings the model under the frame (h maps its pixel coordinates to those of the one before), learns the frame, and
    // marks in mask (0 or 255) what was no background.
    void update(const Plane& frame, const Homography& h, Plane& mask);

    // Takes over what was decided for each cell of the last frame: belief above 0 is moving, rest above 0 unchanged.
    void correct(const Grid<float>& belief, const Grid<float>& rest, Plane& mask);

    int columns() const { return columns_; }
    int rows() const { return rows_; }
    Background background() const;
    const Grid<float>& plane(int mode, int which) const { return modes_[3 * mode + which]; }  // mean, variance, age
    Exposure exposure() const { return exposure_; }
    const Grid<std::int32_t>& marks() const { return marks_; }
    const Homography& to_last_cells() const { return cells_; }  // from the last frame's cells to those of the one before
    const Grid<float>& means() const { return means_; }  // of the last frame's cells; those around repeat the outermost
    std::size_t bytes() const;

private:
    using Light = std::array<float, 4>;  // change of grey level = l . (1, level / 128 - 1, x, y), x and y from -1 to 1
    Planes planes(std::vector<Grid<float>>& modes, int row);
    Planes arrived(int row, int band);
    void take_sample(const Plane& frame);
    Light fit_light();
    void learn(int row, int band, const Light& light, const Plane& frame, Plane& mask);

    const Kernels& kernels_ = kernels();
    Workers& workers_;
    ModelConstants constants_;
    int columns_, rows_, sample_step_;
    std::vector<Grid<float>> modes_, next_;
    std::vector<Grid<float>> line_;    // one row of the modes for each thread
    std::vector<Grid<float>> sample_;  // every so many rows: mean and age of the background, mean of the frame
    Homography cells_ = kIdentity;     // takes the frame's cells to the model's
    Grid<std::int32_t> marks_;
    Grid<float> means_;
    Exposure exposure_;  // from the frame before to the last one
};

}  // namespace fastmcd
