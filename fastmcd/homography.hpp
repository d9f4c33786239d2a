// Plane projective maps: fitted robustly to matched points, and judged for plausibility.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <vector>

#include "fastmcd.hpp"
#include "kernels.hpp"

namespace fastmcd {

using Homography = std::array<double, 9>;  // row-major
inline constexpr Homography kIdentity = {1, 0, 0, 0, 1, 0, 0, 0, 1};

struct Point {
    double x, y;
};

inline double length(Point p) { return std::sqrt(p.x * p.x + p.y * p.y); }  // of a vector

Point project(const Homography& h, Point p);
Homography product(const Homography& a, const Homography& b);  // first b, then a

// h for the points of a row, whose y is the same: entries 1, 4 and 7 have the row's part of the sums already, 2, 5 and 8 are 0.
void at_row(const Homography& h, int y, float out[9]);

// True if a camera's motion between two frames of this size may look like that: finite, not mirrored, corners nearer
// than the frame's longer side, and everywhere scaled by 1/2..2, sheared by less than 2:1 and barely tilted.
bool plausible(const Homography& h, int width, int height);

// Largest movement of a frame's corner, in pixels.
double corner_shift(const Homography& h, int width, int height);

// The homography that most matches agree on. Points are kept relative to the frame's middle, in halves of its longer
// side, so that sums over them are well conditioned in single precision too.
class Ransac {
public:
    Ransac(int width, int height, int max_matches);

    void clear() { count_ = matches_ = 0; }
    void add(Point from, Point to);  // all are added before any is repeated
    void repeat(int match, int times);  // gives it as many votes more; each has one
    int size() const { return matches_; }
    int votes() const { return count_; }

    // RANSAC, then a refinement over all matches that lets those far beyond the tolerance count for nothing.
    // Deterministic. Returns the votes within the tolerance (px) of h; 0 if no plausible h was found.
    int operator()(double tolerance, Homography& h);

    // Votes of the matches, or number of them, that h takes to within the tolerance (px) of where they are.
    int votes_within(const Homography& h, double tolerance);
    int matches_within(const Homography& h, double tolerance) const;

    std::size_t bytes() const { return 4 * x_.size() * sizeof(float); }

private:
    bool search(double tolerance, Homography& h);
    bool sample(Homography& h, const std::size_t which[4]) const;
    bool refit(const double sums[kSums], Homography& h) const;
    int count(const Homography& relative, double tolerance);
    MatchArrays arrays();
    Homography relative(const Homography& absolute) const;
    Homography absolute(const Homography& relative) const;

    const Kernels& kernels_ = kernels();
    int width_, height_, matches_ = 0, count_ = 0;  // count_: with repetitions
    Point middle_;          // px
    double unit_;           // px
    Homography in_, out_;  // to relative coordinates, and from them
    std::vector<float> x_, y_, to_x_, to_y_;
};

}  // namespace fastmcd
