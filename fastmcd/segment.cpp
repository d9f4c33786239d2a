#include "segment.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

namespace fastmcd {
namespace {

constexpr int kNear = 1, kFar = 4;   // frames back that are compared with
constexpr float kNearWeight = 0.5f;  // what moves slowly is seen in the far one only
constexpr int kSettled = 4;          // frames, before colours are asked
constexpr float kTypical = 0.6f;      // mean of min(9, squared difference over its variance) at rest: 1 for a Gaussian, which leaves no margin
constexpr float kMostNoise = 16;
constexpr float kFollow = 0.3f;      // share of the way that the noise scale goes from frame to frame
constexpr float kLeastEdge = 2;      // grey levels
constexpr float kEdge = 2;           // times the mean difference of neighbours: a difference that cuts their tie to a quarter
constexpr int kPatch = 6;            // cells: side of the patches that are looked for elsewhere
constexpr float kDoubtful = 1;       // evidence for motion in a patch that makes it worth looking
constexpr double kLeastWay = 1;      // cells that the background must have gone, or depth would not show
constexpr double kLeastFurther = 0.1, kMostFurther = 1.1;  // of the background's way, that something nearer may go in addition
constexpr double kFurtherStep = 1;  // cells
constexpr float kThanBackground = 0.4f, kThanFollowed = 0.35f;   // shares of the difference there that must not be passed
constexpr double kLeastParallax = 1; // cells
constexpr float kOffPlane = 0.5f;    // share of the difference where the background has gone, or where it is, that must not be passed
constexpr double kSmallParallax = 0.2, kMostParallax = 2;  // of the usual one
constexpr double kParallaxStep = 0.5, kMostSteps = 16;     // cells; at most so many
constexpr float kParallax = -0.5f;   // evidence at most
constexpr std::size_t kLarge = 12;   // patches that touch, away from the border: so many are no small thing that moves
constexpr int kPointReach = 2;       // cells around a tracked point of which it tells something
constexpr float kPointRests = 2, kPointMoves = 0.5f;  // evidence for rest, and for motion
constexpr float kLearned = 25;       // frames: age of a background that what rests before it must have stopped there

}  // namespace

Segmenter::Segmenter(int columns, int rows)
    : columns_(columns), rows_(rows), colours_(columns, rows), rest_(columns, rows), uncovered_(rest_), evidence_(rest_), right_(rest_), down_(rest_),
      horizontal_(rest_), vertical_(rest_), line_(columns + kLanes), room_(3 * columns * kLanes), no_colours_(columns + kLanes),
      past_(kFar, {rest_, rest_, kIdentity, {}}), epipoles_(kFar),
      patch_columns_((columns - 1) / kPatch + 1), patch_rows_((rows - 1) / kPatch + 1), near_(std::size_t(patch_columns_) * patch_rows_) {
    group_.reserve(near_.size());
    reset();
}

void Segmenter::reset() {
    frames_ = 0, noise_scale_ = 1, edge_ = 8;
    uncovered_.fill(0);
    std::fill(epipoles_.begin(), epipoles_.end(), Epipole{});
    colours_.reset();
}

// Whether a cell has changed since the frame so many back, seen from where the camera looks now (cf. the local misalignment of Irani,
// Rousso and Peleg 1994). A ghost has not, what moves has, wherever it is not flat.
void Segmenter::compare(const Model& model, int frames, float weight, bool first) {
    const Earlier& then = earlier(frames);
    const Grid<float>& means = model.means();
    for (int y = 0; y < rows_; ++y) {
        Past row{means.row(y - 1), means.row(y), means.row(y + 1), then.means.row(0), means.pitch(), columns_, rows_, {},
                 then.light.gain, then.light.offset, noise_scale_, weight, first, rest_.row(y),
                 then.moved.row(0), then.moved.row(y), frames == kFar ? uncovered_.row(y) : nullptr, frames == kNear && frames_ >= kFar ? stays().row(y) : nullptr};
        at_row(then.way, y, row.h);
        noise_sum_ += kernels_.segment.compare(row, &noise_cells_);
    }
}

// Neighbours are tied the more the less they differ, in terms of what neighbours in this picture differ by.
void Segmenter::smoothness_weights(const Model& model) {
    const float scale = 1 / (edge_ * edge_);
    std::int64_t sum = 0;
    for (int y = 0; y < rows_; ++y)
        sum += kernels_.segment.tie(model.means().row(y), model.means().row(y + 1), columns_, scale, right_.row(y), down_.row(y));
    edge_ = std::max(kLeastEdge, kEdge * float(sum) / (2 * kSteps * float(columns_) * float(rows_)));
}

void Segmenter::unary_evidence(const Model& model) {
    for (int y = 0; y < rows_; ++y) {
        const float* colours = frames_ >= kSettled ? colours_.row(y) : no_colours_.data();
        kernels_.segment.weigh({model.marks().row(y), model.plane(0, 2).row(y), model.plane(0, 1).row(y), rest_.row(y), uncovered_.row(y),
                                colours, columns_, stays().row(y), evidence_.row(y)});
    }
}

bool Segmenter::inside_then(int left, int top, Point way) const {
    const double x = left + way.x, y = top + way.y;
    return x >= 0 && y >= 0 && x + kPatch < columns_ && y + kPatch < rows_;
}

// Mean difference, and one level for noise, of a patch to the earlier frame, so far away.
float Segmenter::unlike_then(const Model& model, int left, int top, Point way) const {
    if (!inside_then(left, top, way)) return std::numeric_limits<float>::infinity();
    const Earlier& then = earlier(kFar);
    const double x = left + way.x, y = top + way.y;
    const int column = int(x), row = int(y);
    const float tx = float(x - column), ty = float(y - row), gain = then.light.gain, offset = then.light.offset;
    float sum = 0;
    for (int j = 0; j < kPatch; ++j) {
        const float *here = model.means().row(top + j) + left, *a = then.means.row(row + j) + column,
                    *b = then.means.row(row + j + 1) + column;
        for (int i = 0; i < kPatch; ++i) {
            const float upper = a[i] + tx * (a[i + 1] - a[i]), lower = b[i] + tx * (b[i + 1] - b[i]);
            sum += std::abs(here[i] - (gain * (upper + ty * (lower - upper)) + offset));
        }
    }
    return sum / (kPatch * kPatch) + 1;
}

// By how much what rests usually leaves the background's way over kFar frames, in cells.
Point Segmenter::parallax(Point p) const {
    Point sum{0, 0};
    for (const Epipole& e : epipoles_) {
        const Point shift = e.shift({kCell * p.x, kCell * p.y});
        sum.x += shift.x / kCell, sum.y += shift.y / kCell;
    }
    return sum;
}

// The first column and row of a patch; the last ones lie within the frame, over their neighbours.
std::pair<int, int> Segmenter::corner(int patch) const {
    return {std::min(patch % patch_columns_ * kPatch, columns_ - kPatch), std::min(patch / patch_columns_ * kPatch, rows_ - kPatch)};
}

// What stands nearer than what the homography was fitted to rests too, but seems to move: the way of the background and further, or off it
// towards the epipole (plane plus parallax; Irani and Anandan 1998). It is told by being found there much better than where the
// background has gone, and than where it is in the picture, as what the camera follows would be. What comes from outside is not told.
bool Segmenter::rests_off_plane(const Model& model, int left, int top, Point way, Point parallax) const {
    const float there = unlike_then(model, left, top, way), here = unlike_then(model, left, top, {0, 0});
    float least = std::min(kThanBackground * there, kThanFollowed * here);
    const auto share = [](double cells, double way, double most) { return std::max(cells / way, most / kMostSteps); };
    const double on = share(kFurtherStep, length(way), kMostFurther);
    if (least > 1)
        for (double further = kLeastFurther; further < kMostFurther; further += on)
            if (unlike_then(model, left, top, {(1 + further) * way.x, (1 + further) * way.y}) < least) return true;
    const double size = length(parallax);
    if (size < kLeastParallax) return false;
    if (!inside_then(left, top, {way.x + parallax.x, way.y + parallax.y})) return true;
    least = kOffPlane * std::min(there, here);
    const double step = share(kParallaxStep, size, kMostParallax);
    for (double k = std::max(kSmallParallax, step); least > 1 && k < kMostParallax; k += step)
        if (unlike_then(model, left, top, {way.x + k * parallax.x, way.y + k * parallax.y}) < least) return true;
    return false;
}

// Marks the patches that seem to stand nearer than the rest.
void Segmenter::find_near(const Model& model) {
    std::fill(near_.begin(), near_.end(), std::uint8_t{0});
    for (std::size_t patch = 0; patch < near_.size(); ++patch) {
        const auto [left, top] = corner(int(patch));
        float moves = 0;
        for (int y = top; y < top + kPatch; ++y)
            for (int x = left; x < left + kPatch; ++x) moves += std::max(0.0f, evidence_.row(y)[x]);
        const Point middle{left + kPatch / 2.0, top + kPatch / 2.0}, then = project(earlier(kFar).way, middle);
        const Point way{then.x - middle.x, then.y - middle.y};
        if (moves < kDoubtful || std::abs(way.x) + std::abs(way.y) < kLeastWay) continue;
        near_[patch] = rests_off_plane(model, left, top, way, parallax(middle));
    }
}

// What stands nearer comes in from the frame's border, or is large; a small thing in the middle that goes such a way moves.
void Segmenter::discount_parallax(const Model& model) {
    find_near(model);
    for (int start = 0; start < int(near_.size()); ++start) {
        if (near_[std::size_t(start)] != 1) continue;
        bool large = false;
        group_.assign(1, start), near_[std::size_t(start)] = 2;
        for (std::size_t k = 0; k < group_.size(); ++k) {
            const int x = group_[k] % patch_columns_, y = group_[k] / patch_columns_;
            large |= x == 0 || y == 0 || x == patch_columns_ - 1 || y == patch_rows_ - 1;
            for (int j = std::max(0, y - 1); j <= std::min(patch_rows_ - 1, y + 1); ++j)
                for (int i = std::max(0, x - 1); i <= std::min(patch_columns_ - 1, x + 1); ++i)
                    if (std::uint8_t& mark = near_[std::size_t(j) * patch_columns_ + i]; mark == 1) mark = 2, group_.push_back(j * patch_columns_ + i);
        }
        if (!large && group_.size() < kLarge) continue;
        for (const int patch : group_) {
            const auto [left, top] = corner(patch);
            for (int y = top; y < top + kPatch; ++y)
                for (int x = left; x < left + kPatch; ++x) evidence_.row(y)[x] = std::min(evidence_.row(y)[x], kParallax);
        }
    }
}

// A tracked point tells more surely than grey levels do: hardly one that goes with the background lies on what moves. It tells of what
// looks like it, or a point beside a small object would speak for the object. What has stopped before a known background stays an object.
void Segmenter::add_point_evidence(const Model& model, std::span<const PointMotion> points) {
    const Grid<float>& means = model.means();
    const auto stopped = [&](int x, int y) { return moved(model.marks().row(y)[x]) >= kUnlike && model.plane(0, 2).row(y)[x] > kLearned; };
    for (const PointMotion& point : points) {
        if (point.kind == PointMotion::kUnclear) continue;
        const float told = point.kind == PointMotion::kMoves ? kPointMoves : -kPointRests;
        const int x = int(point.at.x) / kCell, y = int(point.at.y) / kCell;
        for (int j = std::max(0, y - kPointReach); j <= std::min(rows_ - 1, y + kPointReach); ++j)
            for (int i = std::max(0, x - kPointReach); i <= std::min(columns_ - 1, x + kPointReach); ++i) {
                const float d = means.row(j)[i] - means.row(y)[x], alike = 1 / (1 + d * d / (edge_ * edge_));
                if (told > 0 || !stopped(i, j)) evidence_.row(j)[i] += told * alike * alike;
            }
    }
}

// What moved a frame ago goes on, where nothing else can tell: not even what seems to stand nearer has a say in that.
void Segmenter::add_temporal_prior() {
    for (int y = 0; y < rows_; ++y) {
        const float* stays = this->stays().row(y);
        float* evidence = evidence_.row(y);
        for (int x = 0; x < columns_; ++x) evidence[x] += stays[x];
    }
}

// The likeliest labels of all cells together, if neighbours that are tied had rather agree: an Ising model, by min-sum messages along
// rows, then along columns (belief propagation, Tappen and Freeman 2003). For two labels a message is a number: all that a cell has
// heard and seen, at most as much as the tie carries.
void Segmenter::pass_messages(Grid<float>& belief) {
    for (int y = 0; y < rows_; y += kLanes)
        kernels_.segment.along_rows(evidence_.row(y), right_.row(y), right_.pitch(), std::min(kLanes, rows_ - y), columns_, room_.data(),
                                    horizontal_.row(y));
    std::fill(line_.begin(), line_.end(), 0.0f);
    for (int y = 0; y < rows_; ++y)
        kernels_.segment.along_columns(evidence_.row(y), horizontal_.row(y), down_.row(y), columns_, false, line_.data(), vertical_.row(y));
    std::fill(line_.begin(), line_.end(), 0.0f);
    for (int y = rows_ - 1; y >= 0; --y)
        kernels_.segment.along_columns(evidence_.row(y), horizontal_.row(y), down_.row(std::max(y - 1, 0)), columns_, true, line_.data(), vertical_.row(y));
    for (int y = 0; y < rows_; ++y) {
        const float *e = evidence_.row(y), *h = horizontal_.row(y), *v = vertical_.row(y);
        float* out = belief.row(y);
        for (int x = 0; x < columns_; ++x) out[x] = e[x] + h[x] + v[x];
    }
}

void Segmenter::operator()(const Model& model, const Epipole& epipole, std::span<const PointMotion> points) {
    epipoles_[std::size_t(frames_ % kFar)] = epipole;
    const Exposure change = model.exposure();
    for (auto& [means, moved, way, light] : past_) {
        way = product(way, model.to_last_cells());
        light = {light.gain * change.gain, light.offset * change.gain + change.offset};
    }
    noise_sum_ = 0, noise_cells_ = 0;
    if (frames_ < kFar) stays().fill(0);
    if (frames_ >= kNear) compare(model, kNear, kNearWeight, true);
    else rest_.fill(0);
    if (frames_ >= kFar) compare(model, kFar, 1, false);
    smoothness_weights(model);
    unary_evidence(model);
    if (frames_ >= kFar) discount_parallax(model);
    add_point_evidence(model, points);
    add_temporal_prior();
    auto& [means, moved, way, light] = past_[std::size_t(frames_ % kFar)];  // the furthest was compared with, and is no longer needed
    pass_messages(moved);
    colours_.learn(evidence_, moved, uncovered_);
    if (noise_cells_ > 0) {  // what moves has no great say in it, as each cell counts 9 at most
        const float found = float(noise_sum_) / (kSteps * float(noise_cells_));
        noise_scale_ = std::clamp(noise_scale_ * (1 + kFollow * (found / kTypical - 1)), 1.0f, kMostNoise);
    }
    means = model.means(), way = kIdentity, light = {};
    ++frames_;
}

std::size_t Segmenter::bytes() const {
    return (7 + 2 * past_.size()) * rest_.bytes() + colours_.bytes() + (line_.size() + room_.size() + no_colours_.size()) * sizeof(float) +
           near_.size() + group_.capacity() * sizeof(int);
}

}  // namespace fastmcd
