// Camera motion between two frames: textured points, tracked by pyramidal Lucas-Kanade, explained by one homography.
#pragma once

#include <vector>

#include "fastmcd.hpp"
#include "homography.hpp"
#include "image.hpp"

namespace fastmcd {

// A smoothed frame and its halvings. Tracking starts at the smallest level and ends at `base`, the first that is at
// most 512 pixels wide and high: the cost stays bounded, and a tenth of its pixel is precise enough for 4-pixel cells.
struct Pyramid {
    Pyramid(int width, int height);
    void build();  // from levels[0]
    std::size_t bytes() const;

    std::vector<Plane> levels;
    int base = 0;
};

struct Shift {
    float x, y;
};

class MotionEstimator {
public:
    MotionEstimator(int width, int height, const Params& params);

    // Maps pixel coordinates of `current` to those of `previous`.
    Motion operator()(const Pyramid& current, const Pyramid& previous);

    std::size_t bytes() const;

private:
    void find_points(const Plane& image);
    void best_of(int column, int row);
    void track(const Pyramid& current, const Pyramid& previous);
    bool unchanged(const Plane& current, const Plane& previous) const;

    struct Tensor {
        int xx, xy, yy;  // sums of products of gradients
    };
    struct Pixel {
        int x, y;
    };

    int width_, height_, points_;
    double tolerance_, min_inliers_;
    int block_columns_ = 0, block_rows_ = 0;      // blocks of 4x4 pixels of the base level
    int lattice_columns_ = 0, lattice_rows_ = 0;  // at most one point in each lattice cell
    std::vector<Tensor> tensors_;
    std::vector<Pixel> found_;
    std::vector<Shift> shifts_, good_;  // of each point; of those tracked at this level
    std::vector<std::size_t> lost_;     // points that were not
    std::vector<Match> matches_;
    Ransac ransac_;
};

}  // namespace fastmcd
