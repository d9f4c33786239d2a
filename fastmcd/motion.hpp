// Camera motion between two frames: textured points, tracked by pyramidal Lucas-Kanade, explained by one homography.
#pragma once

#include <span>
#include <vector>

#include "epipole.hpp"
#include "fastmcd.hpp"
#include "homography.hpp"
#include "image.hpp"
#include "pan.hpp"

namespace fastmcd {

// What a tracked point tells of its surroundings: whether they go with the background.
struct PointMotion {
    enum Kind { kRests, kUnclear, kMoves };
    Point at;
    Kind kind;
};

class MotionEstimator {
public:
    MotionEstimator(const Pyramid& shape, const Params& params);  // for pyramids of that shape

    void reset() { find_epipole_.reset(), epipole_ = {}, told_.clear(); }  // the next frame is the first

    // Maps pixel coordinates of `current` to those of `previous`; `likely` is looked at first. `moved`: the
    // previous frame's mask; points on what moved there have less of a say.
    Motion operator()(const Pyramid& current, const Pyramid& previous, const Homography& likely = kIdentity,
                      const Plane* moved = nullptr);

    const Epipole& epipole() const { return epipole_; }  // of the last call
    std::span<const PointMotion> points() const { return told_; }  // tracked in the last call; none if it found no motion

    std::vector<TrackedPoint> tracked() const;  // in the last call; as many as its motion's points

    std::size_t bytes() const;

private:
    void find_points(const Plane& image);
    void best_of(int column, int row);
    void track_level(const Pyramid& current, const Pyramid& previous, int level, const std::vector<Pixel>& points);
    void descend(const Pyramid& current, const Pyramid& previous, const std::vector<Pixel>& points, Shift start = {0, 0});
    void start_from(const Homography& h, const std::vector<Pixel>& points);
    void vote(const std::vector<Pixel>& points, const Plane& moved);
    Point full_size(Pixel p) const;
    Point source_position(Pixel p, Shift shift) const;
    Motion pan(const Pyramid& current, const Pyramid& previous, const Homography& likely, Motion motion);
    Motion arrive(const Pyramid& current, const Pyramid& previous, const std::vector<Pixel>& points);
    Motion follow(const Pyramid& current, const Pyramid& previous, const Homography& likely);
    void look_for_epipole(const Motion& motion);
    void tell_points(const Motion& motion);
    bool unchanged(const Plane& current, const Plane& previous) const;
    float* tensor_row(int row) { return tensors_.data() + kLanes + (row + 1) * 3 * block_pitch_; }

    const Kernels& kernels_ = kernels();
    int points_, base_;                           // base_: the pyramid's level that is tracked
    double scale_, tolerance_, min_inliers_;      // px of the frame per px of that level; px of the frame
    int block_columns_ = 0, block_rows_ = 0;      // of the base level
    int lattice_columns_ = 0, lattice_rows_ = 0;  // at most one point in each lattice cell
    std::ptrdiff_t block_pitch_ = 0;
    std::vector<float> tensors_, texture_;  // of blocks: xx, xy, yy; how well they can be tracked
    std::vector<Pixel> found_, guides_;     // at the base level; some of them
    std::vector<Pixel> scaled_;             // at the level being tracked
    std::vector<Shift> shifts_, good_;      // of each point; of those tracked at this level
    std::vector<std::uint8_t> tracked_;
    const Plane* moved_ = nullptr;  // in the previous frame
    Ransac ransac_;
    Homography fitted_ = kIdentity;  // of the last call, before rest may have been preferred
    bool fits_ = false;              // false: none was found
    PanFinder find_pan_;
    EpipoleFinder find_epipole_;
    Epipole epipole_;
    std::vector<PointMotion> told_;
};

}  // namespace fastmcd
