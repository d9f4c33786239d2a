// Where what rests at another depth than the background seems to go, under a camera that travels.
#pragma once

#include <vector>

#include "homography.hpp"

namespace fastmcd {

// What rests off the plane that a homography is of is off that plane's way too, by a shift along the line to one point, the epipole
// (plane plus parallax; Irani and Anandan 1998). Its homogeneous coordinates have the sign with which that shift is towards it.
struct Epipole {
    double x = 0, y = 0, w = 0;  // px
    double size = 0;             // px of the usual shift; 0: there is none, or it isn't known

    Point shift(Point p) const;  // the usual one, of what is seen at p
};

// Finds it from tracked points that leave the plane's way. A thing that moves leaves it too, all of it towards one point. But what
// rests fills much of the frame's border, goes on from frame to frame, and does not go further than the plane itself does.
class EpipoleFinder {
public:
    EpipoleFinder(int width, int height, int max_points, double tolerance);

    void reset();
    void clear();                                     // the next frame's points are added then
    void add(Point at, Point plane, Point from);      // where it came from, and would have if it were on the plane
    const Epipole& operator()();                      // of that frame; without points there is none
    std::size_t bytes() const { return points_.capacity() * sizeof(Off) + sizes_.capacity() * sizeof(double); }

private:
    struct Off {
        Point at, shift;
    };

    static bool agrees(const Epipole& e, const Off& point, double across);
    Epipole search();
    bool near_border(Point p) const;

    int width_, height_;
    double tolerance_;
    std::vector<Off> points_;
    std::vector<double> sizes_;
    int all_ = 0, border_ = 0;  // points added; of those, near the border
    double way_sum_ = 0;
    Epipole found_, none_;                      // the last one
    double trust_ = 0, size_ = 0, way_ = 0;     // means over the last frames: of 1 if found, of the shifts' size, of the plane's way
};

}  // namespace fastmcd
