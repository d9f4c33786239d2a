#include "motion.hpp"

#include <algorithm>
#include <cmath>
#include <cstdlib>

namespace fastmcd {
namespace {

constexpr double kMinTexture = 1;      // grey levels per px, rms, in the direction where it is weakest
constexpr int kMinPoints = 10;
constexpr int kVotes = 3;              // of a point that did not move before
constexpr double kLeastPan = 2;        // px of the coarsest level, from frame to frame
constexpr double kMostChange = 3;      // px there by which a pan goes on differently
constexpr int kGuides = 32;            // points, at most
constexpr double kEnough = 0.6;        // share of points that must agree, or they are looked for more thoroughly
constexpr double kExact = 0.3;         // px of the base level: a movement that would matter to the model
constexpr double kAsGood = 0.8;        // rest explains this share of what the best homography does: the camera is still
constexpr double kRests = 0.5, kMoves = 0.9;  // tolerances: a point that is nearer to the background's way, or further off it
constexpr double kAlong = 0.8;         // cosine of the angle to the way of what stands nearer, within which a point may be such a thing
constexpr double kLeastWay = 0.5;      // px that the background must have gone for that
constexpr double kMaxChanged = 0.25;   // share of pixels, for a still frame without enough texture

float median(std::vector<Shift>& shifts, float Shift::*part) {
    const auto middle = shifts.begin() + std::ptrdiff_t(shifts.size() / 2);
    std::nth_element(shifts.begin(), middle, shifts.end(), [part](Shift a, Shift b) { return a.*part < b.*part; });
    return (*middle).*part;
}

}  // namespace

MotionEstimator::MotionEstimator(const Pyramid& shape, const Params& params)
    : points_(params.points), base_(shape.base), scale_(1 << base_), tolerance_(params.tolerance * scale_), min_inliers_(params.min_inliers),
      ransac_(shape.levels[0].width, shape.levels[0].height, kVotes * points_),
      find_pan_(shape.levels.back().width, shape.levels.back().height),
      find_epipole_(shape.levels[0].width, shape.levels[0].height, points_, tolerance_) {
    const Plane& image = shape.levels[base_];
    block_columns_ = image.width / kBlock, block_rows_ = image.height / kBlock;
    block_pitch_ = rounded_up(block_columns_, kLanes);
    const double side = std::sqrt(double(block_columns_) * block_rows_ / points_);  // of a lattice cell, in blocks
    lattice_columns_ = std::clamp(int(block_columns_ / side), 1, std::min(points_, block_columns_));
    lattice_rows_ = std::clamp(points_ / lattice_columns_, 1, block_rows_);
    tensors_.resize(3 * block_pitch_ * (block_rows_ + 2) + 2 * kLanes);
    texture_.resize(block_pitch_ * block_rows_);
    for (auto* v : {&found_, &guides_}) v->reserve(points_);
    scaled_.resize(points_);
    for (auto* v : {&shifts_, &good_}) v->reserve(points_);
    told_.reserve(points_);
    tracked_.resize(points_);
}

// Puts the best-textured block of each lattice cell in found_. A block's texture is that of the 3x3 blocks around it,
// about the window that will be tracked.
void MotionEstimator::find_points(const Plane& image) {
    for (int row = 0; row < block_rows_; ++row) {
        const std::uint8_t* rows[6];
        for (int k = 0; k < 6; ++k) rows[k] = image.row(std::clamp(row * kBlock + k - 1, 0, image.height - 1));
        kernels_.motion.tensors(rows, block_columns_, tensor_row(row), block_pitch_);
    }
    for (int row = 1; row + 1 < block_rows_; ++row) {
        const float* const rows[3] = {tensor_row(row - 1), tensor_row(row), tensor_row(row + 1)};
        kernels_.motion.texture(rows, block_pitch_, block_columns_, texture_.data() + row * block_pitch_);
    }
    found_.clear();
    for (int row = 0; row < lattice_rows_; ++row)
        for (int column = 0; column < lattice_columns_; ++column) best_of(column, row);
    std::erase_if(found_, [&](Pixel p) { return !holds_window(image.width, image.height, p.x, p.y); });
}

void MotionEstimator::best_of(int column, int row) {
    const int left = std::max(1, column * block_columns_ / lattice_columns_);
    const int right = std::min(block_columns_ - 1, (column + 1) * block_columns_ / lattice_columns_);
    const int top = std::max(1, row * block_rows_ / lattice_rows_);
    const int bottom = std::min(block_rows_ - 1, (row + 1) * block_rows_ / lattice_rows_);
    float best = float(kMinTexture * kMinTexture * 4 * 9 * kBlock * kBlock);  // gradients are times 2
    Pixel where{-1, -1};
    for (int y = top; y < bottom; ++y)
        for (int x = left; x < right; ++x) {
            const float texture = texture_[std::size_t(y * block_pitch_ + x)];
            if (texture > best) best = texture, where = {x * kBlock + kBlock / 2, y * kBlock + kBlock / 2};
        }
    if (where.x >= 0) found_.push_back(where);
}

// True if nearly all pixels kept their value: a still camera before a bare wall gives no points, but is still.
bool MotionEstimator::unchanged(const Plane& current, const Plane& previous) const {
    constexpr int kSame = 8;  // grey levels
    int changed = 0;
    for (int y = 0; y < current.height; ++y)
        for (int x = 0; x < current.width; ++x) changed += std::abs(current.row(y)[x] - previous.row(y)[x]) > kSame;
    return changed < kMaxChanged * current.width * current.height;
}

Point MotionEstimator::full_size(Pixel p) const {  // centre of a pixel of the base level
    return {(p.x + 0.5) * scale_ - 0.5, (p.y + 0.5) * scale_ - 0.5};
}

Point MotionEstimator::source_position(Pixel p, Shift shift) const {  // where full_size(p) was
    const Point at = full_size(p);
    return {at.x + scale_ * double(shift.x), at.y + scale_ * double(shift.y)};
}

void MotionEstimator::track_level(const Pyramid& current, const Pyramid& previous, int level,
                                  const std::vector<Pixel>& points) {
    const Plane &image = current.levels[level], &target = previous.levels[level];
    const int down = level - base_, count = int(points.size());
    for (int i = 0; i < count; ++i) scaled_[i] = {points[i].x >> down, points[i].y >> down};
    const Tracking tracking{image.row(0), target.row(0), image.stride, image.width, image.height};
    kernels_.motion.track(tracking, scaled_.data(), count, shifts_.data(), tracked_.data());
}

// Tracks points from the coarsest level down to the one above the base. What is found at one level, for the nearest whole
// pixel there, is the start for the next, so every window stays on whole pixels. A point that got lost, or whose window
// reaches over the edge, starts from the median of the others instead.
void MotionEstimator::descend(const Pyramid& current, const Pyramid& previous, const std::vector<Pixel>& points, Shift start) {
    shifts_.assign(points.size(), start);
    for (int level = int(current.levels.size()) - 1; level > base_; --level) {
        track_level(current, previous, level, points);
        good_.clear();
        for (std::size_t i = 0; i < shifts_.size(); ++i)
            if (tracked_[i]) good_.push_back(shifts_[i]);
        if (!good_.empty()) {
            const Shift middle{median(good_, &Shift::x), median(good_, &Shift::y)};
            for (std::size_t i = 0; i < shifts_.size(); ++i)
                if (!tracked_[i]) shifts_[i] = middle;
        }
        for (Shift& shift : shifts_) shift.x *= 2, shift.y *= 2;
    }
}

void MotionEstimator::start_from(const Homography& h, const std::vector<Pixel>& points) {
    shifts_.clear();
    for (const Pixel& p : points) {
        const Point from = full_size(p), to = project(h, from);
        shifts_.push_back({float((to.x - from.x) / scale_), float((to.y - from.y) / scale_)});
    }
}

// The background did not move before: a point that comes from off what moved has more votes.
void MotionEstimator::vote(const std::vector<Pixel>& points, const Plane& moved) {
    int match = 0;
    for (std::size_t i = 0; i < points.size() && match < ransac_.size(); ++i) {
        if (!tracked_[i]) continue;
        const Point from = source_position(points[i], shifts_[i]);
        const bool inside = from.x > -1 && from.y > -1 && from.x < moved.width && from.y < moved.height;
        ransac_.repeat(match++, inside && !moved.row(int(from.y))[int(from.x)] ? kVotes - 1 : 0);
    }
}

// Tracks points at the base level from where they are thought to be, and fits the homography.
Motion MotionEstimator::arrive(const Pyramid& current, const Pyramid& previous, const std::vector<Pixel>& points) {
    track_level(current, previous, base_, points);
    ransac_.clear();
    for (std::size_t i = 0; i < points.size(); ++i) {
        if (!tracked_[i]) continue;
        ransac_.add(full_size(points[i]), source_position(points[i], shifts_[i]));
    }
    if (moved_) vote(points, *moved_);
    Motion motion{kIdentity, false, ransac_.size(), 0};
    const int votes = motion.points >= kMinPoints ? ransac_(tolerance_, motion.homography) : 0;
    fitted_ = motion.homography, fits_ = votes > 0;
    if (fits_) motion.inliers = ransac_.matches_within(motion.homography, tolerance_);
    motion.known = motion.inliers >= kMinPoints && votes >= min_inliers_ * ransac_.votes();
    return motion;
}

// A few points, the guides, show the way: from the likely motion straight on the base level, or else down the levels.
// If most of the others then confirm it, that is the motion. If not, all points go down the levels each on its own.
Motion MotionEstimator::follow(const Pyramid& current, const Pyramid& previous, const Homography& likely) {
    const auto agreed = [](const Motion& m, const std::vector<Pixel>& points) {
        return m.known && m.inliers >= kEnough * double(points.size());
    };
    guides_.clear();
    const std::size_t step = (found_.size() + kGuides - 1) / kGuides;
    for (std::size_t i = step / 2; i < found_.size(); i += step) guides_.push_back(found_[i]);

    start_from(likely, guides_);
    Motion motion = arrive(current, previous, guides_);
    if (!agreed(motion, guides_)) {
        descend(current, previous, guides_);
        motion = arrive(current, previous, guides_);
    }
    if (agreed(motion, guides_)) {
        start_from(motion.homography, found_);
        motion = arrive(current, previous, found_);
        if (agreed(motion, found_)) return motion;
    }
    descend(current, previous, found_);
    motion = arrive(current, previous, found_);
    return motion.known ? motion : pan(current, previous, likely, motion);
}

// The camera turns so fast that points are lost: they start again from where the coarsest pictures fit. If they still do not agree, being
// blurred, but the pictures fit where the last motion leads to, that is where the camera looks.
Motion MotionEstimator::pan(const Pyramid& current, const Pyramid& previous, const Homography& likely, Motion motion) {
    const double shrink = double(1 << (current.levels.size() - 1));
    const Point middle{current.levels[0].width / 2.0, current.levels[0].height / 2.0}, from = project(likely, middle);
    const Point way{(from.x - middle.x) / shrink, (from.y - middle.y) / shrink};
    const bool pans = length(way) >= kLeastPan;
    if (int(found_.size()) < kMinPoints && !pans) return motion;  // the pictures alone would not be believed
    const Shift shift = find_pan_(current.levels.back().view(), previous.levels.back().view());
    descend(current, previous, found_, shift);
    motion = arrive(current, previous, found_);
    const bool goes_on = pans && length({double(shift.x) - way.x, double(shift.y) - way.y}) <= kMostChange;
    if (!motion.known && goes_on) {
        fitted_ = motion.homography = {1, 0, shrink * double(shift.x), 0, 1, shrink * double(shift.y), 0, 0, 1};
        fits_ = motion.known = true;
        motion.inliers = ransac_.matches_within(fitted_, tolerance_);
    }
    return motion;
}

void MotionEstimator::look_for_epipole(const Motion& motion) {
    find_epipole_.clear();
    for (std::size_t i = 0; i < found_.size() && motion.homography != kIdentity; ++i) {
        if (!tracked_[i]) continue;
        const Point at = full_size(found_[i]);
        find_epipole_.add(at, project(motion.homography, at), source_position(found_[i], shifts_[i]));
    }
    epipole_ = find_epipole_();
}

// A point that leaves the background's way moves, unless what stands nearer would go so: on along that way, or towards the epipole. Under
// a still camera the frame compared with may be long past, and a point's place in it be covered.
void MotionEstimator::tell_points(const Motion& motion) {
    told_.clear();
    for (std::size_t i = 0; i < found_.size() && motion.known; ++i) {
        if (!tracked_[i]) continue;
        const Point at = full_size(found_[i]), to = project(motion.homography, at), from = source_position(found_[i], shifts_[i]);
        const Point off{from.x - to.x, from.y - to.y};
        const double size = length(off);
        const auto along = [&](Point way, double least) {
            const double distance = length(way);
            return distance > least && off.x * way.x + off.y * way.y > kAlong * distance * size;
        };
        const bool nearer = along({to.x - at.x, to.y - at.y}, kLeastWay) || along(epipole_.shift(at), 0);
        const bool moves = motion.homography != kIdentity && size > kMoves * tolerance_ && !nearer;
        told_.push_back({at, size < kRests * tolerance_ ? PointMotion::kRests : moves ? PointMotion::kMoves : PointMotion::kUnclear});
    }
}

Motion MotionEstimator::operator()(const Pyramid& current, const Pyramid& previous, const Homography& likely, const Plane* moved) {
    moved_ = moved;
    const Plane& image = current.levels[base_];
    find_points(image);
    Motion motion = follow(current, previous, likely);
    if (motion.known) {
        const double exact = kExact * scale_;
        const int moving = ransac_.votes_within(motion.homography, exact);
        if (moving >= kMinPoints && ransac_.votes_within(kIdentity, exact) >= kAsGood * moving) motion.homography = kIdentity;
    } else {
        motion.homography = kIdentity;
        motion.known = motion.points < kMinPoints && unchanged(image, previous.levels[base_]);
    }
    look_for_epipole(motion);
    tell_points(motion);
    return motion;
}

std::vector<TrackedPoint> MotionEstimator::tracked() const {
    std::vector<TrackedPoint> out;
    for (std::size_t i = 0; i < found_.size(); ++i) {
        if (!tracked_[i]) continue;
        const Point at = full_size(found_[i]), to = project(fitted_, at);
        const Point from = source_position(found_[i], shifts_[i]);
        const double off = length({to.x - from.x, to.y - from.y});
        out.push_back({at.x, at.y, from.x, from.y, fits_ && off <= tolerance_});
    }
    return out;
}

std::size_t MotionEstimator::bytes() const {
    return (tensors_.size() + texture_.size()) * sizeof(float) + (found_.capacity() + guides_.capacity() + scaled_.size()) * sizeof(Pixel) +
           (shifts_.capacity() + good_.capacity()) * sizeof(Shift) + tracked_.size() + ransac_.bytes() +
           find_pan_.bytes() + find_epipole_.bytes() + told_.capacity() * sizeof(PointMotion);
}

}  // namespace fastmcd
