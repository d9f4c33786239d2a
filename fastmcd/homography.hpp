// Plane projective maps: fitted robustly to matched points, and judged for plausibility.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

namespace fastmcd {

using Homography = std::array<double, 9>;  // row-major
inline constexpr Homography kIdentity = {1, 0, 0, 0, 1, 0, 0, 0, 1};

struct Point {
    double x, y;
};

struct Match {
    Point from, to;
};

Point project(const Homography& h, Point p);

// Weighted least squares over at least four matches (linear, in normalised coordinates, Hartley 1997).
// False if the matches do not determine a homography.
bool fit(std::span<const Match> matches, std::span<const double> weights, Homography& h);

// True if a camera's motion between two frames of this size may look like that: finite, not mirrored, corners nearer
// than the frame's longer side, and everywhere scaled by 1/2..2, sheared by less than 2:1 and barely tilted.
bool plausible(const Homography& h, int width, int height);

// Largest movement of a frame's corner, in pixels.
double corner_shift(const Homography& h, int width, int height);

// Number of matches that h takes to within `tolerance` of where they are.
int count_within(const Homography& h, std::span<const Match> matches, double tolerance);

// RANSAC, then a refinement over all matches that lets those far beyond the tolerance count for nothing.
// Deterministic. Returns the number of matches within the tolerance of h; 0 if no plausible h was found.
class Ransac {
public:
    Ransac(int width, int height, int max_matches) : width_(width), height_(height), weights_(max_matches) {}
    int operator()(std::span<const Match> matches, double tolerance, Homography& h);
    std::size_t bytes() const { return weights_.size() * sizeof(double); }

private:
    bool search(std::span<const Match> matches, double tolerance, Homography& h) const;
    int width_, height_;
    std::vector<double> weights_;
};

}  // namespace fastmcd
