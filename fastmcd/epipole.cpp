#include "epipole.hpp"

#include <algorithm>
#include <cmath>

#include "random.hpp"

namespace fastmcd {
namespace {

constexpr double kOff = 0.7;       // tolerances by which a point is off the plane's way
constexpr double kAcross = 0.3;    // tolerances by which it may miss the line to the epipole,
constexpr double kAngle = 0.2;     // or this share of its shift
constexpr int kTrials = 60;
constexpr int kFewest = 12;        // points that must agree,
constexpr double kShare = 0.6;     // and share of those off the plane,
constexpr double kBorder = 0.2;    // and of those near the frame's border
constexpr double kNearBorder = 0.12;  // of the frame's width or height
constexpr double kFollow = 0.1;    // weight of a frame in the means
constexpr double kTrust = 0.5;     // share of frames with one
constexpr double kFurthest = 1;    // of the plane's way, that the shifts may be long

}  // namespace

Point Epipole::shift(Point p) const {
    const Point d{x - w * p.x, y - w * p.y};
    const double n = length(d);
    if (!(size > 0 && n > 0)) return {0, 0};
    return {size * d.x / n, size * d.y / n};
}

EpipoleFinder::EpipoleFinder(int width, int height, int max_points, double tolerance)
    : width_(width), height_(height), tolerance_(tolerance) {
    points_.reserve(std::size_t(max_points)), sizes_.reserve(std::size_t(max_points));
}

void EpipoleFinder::reset() {
    clear();
    found_ = {};
    trust_ = size_ = way_ = 0;
}

void EpipoleFinder::clear() {
    points_.clear();
    all_ = border_ = 0, way_sum_ = 0;
}

bool EpipoleFinder::near_border(Point p) const {
    return std::min(std::min(p.x, width_ - p.x) / width_, std::min(p.y, height_ - p.y) / height_) < kNearBorder;
}

void EpipoleFinder::add(Point at, Point plane, Point from) {
    ++all_, border_ += near_border(at);
    way_sum_ += length({plane.x - at.x, plane.y - at.y});
    const Point shift{from.x - plane.x, from.y - plane.y};
    if (length(shift) > kOff * tolerance_) points_.push_back({at, shift});
}

bool EpipoleFinder::agrees(const Epipole& e, const Off& point, double across) {
    const double dx = e.x - e.w * point.at.x, dy = e.y - e.w * point.at.y;
    const double along = dx * point.shift.x + dy * point.shift.y, off = dx * point.shift.y - dy * point.shift.x;
    return along > 0 && off * off < std::max(across * across * (dx * dx + dy * dy), kAngle * kAngle * along * along);
}

// RANSAC: two points' lines meet in the epipole.
Epipole EpipoleFinder::search() {
    const std::size_t n = points_.size();
    if (int(n) < kFewest) return {};
    const double across = kAcross * tolerance_;
    Random random;
    Epipole best;
    int most = 0;
    for (int trial = 0; trial < kTrials; ++trial) {
        const Off &a = points_[random.below(n)], &b = points_[random.below(n)];
        const double ca = a.shift.y * a.at.x - a.shift.x * a.at.y, cb = b.shift.y * b.at.x - b.shift.x * b.at.y;
        Epipole e{a.shift.x * cb - ca * b.shift.x, a.shift.y * cb - ca * b.shift.y, a.shift.x * b.shift.y - a.shift.y * b.shift.x};
        if (!agrees(e, a, across)) e = {-e.x, -e.y, -e.w};
        if (!agrees(e, a, across) || !agrees(e, b, across)) continue;  // or the lines are one, or nearer and further things disagree
        const int votes = int(std::count_if(points_.begin(), points_.end(), [&](const Off& p) { return agrees(e, p, across); }));
        if (votes > most) most = votes, best = e;
    }
    if (most < kFewest || most < kShare * double(n)) return {};
    sizes_.clear();
    int border = 0;
    for (const Off& p : points_) {
        if (!agrees(best, p, across)) continue;
        sizes_.push_back(length(p.shift));
        border += near_border(p.at);
    }
    if (border < kBorder * border_) return {};
    const auto middle = sizes_.begin() + std::ptrdiff_t(sizes_.size() / 2);
    std::nth_element(sizes_.begin(), middle, sizes_.end());
    best.size = *middle;
    return best;
}

const Epipole& EpipoleFinder::operator()() {
    const auto follow = [](double& mean, double value) { mean += kFollow * (value - mean); };
    const Epipole e = search();
    if (all_ > 0) follow(way_, way_sum_ / all_);
    follow(trust_, e.size > 0);
    if (e.size > 0) {
        if (size_ > 0) follow(size_, e.size);
        else size_ = e.size;
        found_ = e;
    }
    return all_ > 0 && trust_ >= kTrust && size_ <= kFurthest * way_ ? found_ : none_;
}

}  // namespace fastmcd
