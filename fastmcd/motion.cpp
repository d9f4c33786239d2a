#include "motion.hpp"

#include <algorithm>
#include <cmath>
#include <cstdlib>

namespace fastmcd {
namespace {

constexpr int kBaseSide = 512;     // px: longest side of the level that is tracked
constexpr int kSmallestSide = 24;  // px: of the coarsest level
constexpr int kCoarser = 3;        // levels above the base
constexpr int kBlock = 4;          // px: side of the blocks whose texture is compared

constexpr int kRadius = 5;  // px: the tracked window is 11 x 11
constexpr int kSide = 2 * kRadius + 1;
constexpr int kArea = kSide * kSide;
constexpr int kSteps = 12;             // Gauss-Newton steps per level
constexpr float kStepEnd = 0.03f;      // px
constexpr double kMinTexture = 1;      // grey levels per px, rms, in the direction where it is weakest
constexpr float kMaxResidual = 12;     // grey levels, mean absolute, after tracking
constexpr int kMinPoints = 10;
constexpr double kExact = 0.3;         // px of the base level: a movement that would matter to the model
constexpr double kAsGood = 0.8;        // rest explains this share of what the best homography does: the camera is still
constexpr double kMaxChanged = 0.25;   // share of pixels, for a still frame without enough texture

double weakest_texture(double xx, double xy, double yy) {  // smaller eigenvalue
    const double half = (xx + yy) / 2, difference = (xx - yy) / 2;
    return half - std::sqrt(difference * difference + xy * xy);
}

// The window around a whole pixel: its values, and its gradients (times 2).
struct Window {
    std::int16_t value[kArea], gx[kArea], gy[kArea];
    int sum_x = 0, sum_y = 0;
    float xx, xy, yy;  // gradient products about their mean

    Window(const Plane& image, int x, int y) {
        int sxx = 0, sxy = 0, syy = 0;
        for (int i = 0, k = 0; i < kSide; ++i) {
            const std::uint8_t* p = image.row(y + i - kRadius) + x - kRadius;
            for (int j = 0; j < kSide; ++j, ++k) {
                value[k] = p[j];
                gx[k] = std::int16_t(p[j + 1] - p[j - 1]);
                gy[k] = std::int16_t(p[j + image.width] - p[j - image.width]);
            }
        }
        for (int k = 0; k < kArea; ++k) {
            sum_x += gx[k], sum_y += gy[k];
            sxx += gx[k] * gx[k], sxy += gx[k] * gy[k], syy += gy[k] * gy[k];
        }
        xx = float(sxx) - float(sum_x) * float(sum_x) / kArea;
        xy = float(sxy) - float(sum_x) * float(sum_y) / kArea;
        yy = float(syy) - float(sum_y) * float(sum_y) / kArea;
    }
};

bool holds_window(const Plane& image, int x, int y) {  // one pixel wider: for gradients and interpolation
    return x > kRadius && y > kRadius && x + kRadius + 1 < image.width && y + kRadius + 1 < image.height;
}

// difference = 32 * (image at the shifted window, bilinear - the window's own values). Integers throughout.
void compare(const Window& window, const Plane& image, float x, float y, std::int16_t difference[kArea]) {
    const int ix = int(x), iy = int(y);
    const int fx = int((x - float(ix)) * 128 + 0.5f), fy = int((y - float(iy)) * 128 + 0.5f);
    const int w00 = (128 - fx) * (128 - fy), w01 = fx * (128 - fy), w10 = (128 - fx) * fy, w11 = fx * fy;
    for (int i = 0, k = 0; i < kSide; ++i) {
        const std::uint8_t* p = image.row(iy + i - kRadius) + ix - kRadius;
        const std::uint8_t* q = p + image.width;
        for (int j = 0; j < kSide; ++j, ++k) {
            const int sum = w00 * p[j] + w01 * p[j + 1] + w10 * q[j] + w11 * q[j + 1];
            difference[k] = std::int16_t(((sum + 256) >> 9) - 32 * window.value[k]);
        }
    }
}

float residual(const std::int16_t difference[kArea]) {  // mean absolute, brightness left out, in grey levels
    int sum = 0, deviation = 0;
    for (int k = 0; k < kArea; ++k) sum += difference[k];
    for (int k = 0; k < kArea; ++k) deviation += std::abs(difference[k] - sum / kArea);
    return float(deviation) / (32 * kArea);
}

// Lucas-Kanade at one level, from the given shift. A constant difference in brightness is left out of account: with
// gradients about their mean it takes no part. False if the window leaves the image, has no texture or does not fit.
bool refine(const Window& window, const Plane& image, int x, int y, Shift& shift) {
    std::int16_t difference[kArea];
    const float det = window.xx * window.yy - window.xy * window.xy;
    if (!(det > 0)) return false;
    Shift s = shift;
    for (int step = 0; step < kSteps; ++step) {
        const float px = float(x) + s.x, py = float(y) + s.y;
        if (!(px > kRadius && py > kRadius && px < float(image.width) && py < float(image.height))) return false;
        if (!holds_window(image, int(px), int(py))) return false;
        compare(window, image, px, py, difference);
        int sum = 0, bx = 0, by = 0;
        for (int k = 0; k < kArea; ++k) {
            sum += difference[k], bx += difference[k] * window.gx[k], by += difference[k] * window.gy[k];
        }
        const float cx = float(bx) - float(sum) * float(window.sum_x) / kArea;
        const float cy = float(by) - float(sum) * float(window.sum_y) / kArea;
        const float dx = (window.yy * cx - window.xy * cy) / (16 * det);  // 16: differences x 32, gradients x 2
        const float dy = (window.xx * cy - window.xy * cx) / (16 * det);
        s.x -= dx, s.y -= dy;
        if (dx * dx + dy * dy < kStepEnd * kStepEnd) break;
    }
    shift = s;
    return residual(difference) < kMaxResidual;
}

float median(std::vector<Shift>& shifts, float Shift::*part) {
    const auto middle = shifts.begin() + std::ptrdiff_t(shifts.size() / 2);
    std::nth_element(shifts.begin(), middle, shifts.end(), [part](Shift a, Shift b) { return a.*part < b.*part; });
    return (*middle).*part;
}

}  // namespace

Pyramid::Pyramid(int width, int height) {
    levels.emplace_back(width, height);
    while (std::max(levels.back().width, levels.back().height) > kBaseSide)
        levels.emplace_back(levels.back().width / 2, levels.back().height / 2);
    base = int(levels.size()) - 1;
    for (int i = 0; i < kCoarser && std::min(levels.back().width, levels.back().height) >= 2 * kSmallestSide; ++i)
        levels.emplace_back(levels.back().width / 2, levels.back().height / 2);
}

void Pyramid::build() {
    for (std::size_t i = 1; i < levels.size(); ++i) halve(levels[i - 1].view(), levels[i]);
}

std::size_t Pyramid::bytes() const {
    std::size_t sum = 0;
    for (const Plane& level : levels) sum += level.pixels.size();
    return sum;
}

MotionEstimator::MotionEstimator(int width, int height, const Params& params)
    : width_(width), height_(height), points_(params.points), tolerance_(params.tolerance),
      min_inliers_(params.min_inliers), ransac_(width, height, params.points) {
    const Pyramid shape(width, height);
    const Plane& image = shape.levels[shape.base];
    block_columns_ = image.width / kBlock, block_rows_ = image.height / kBlock;
    const double side = std::sqrt(double(block_columns_) * block_rows_ / points_);  // of a lattice cell, in blocks
    lattice_columns_ = std::clamp(int(block_columns_ / side), 1, std::min(points_, block_columns_));
    lattice_rows_ = std::clamp(points_ / lattice_columns_, 1, block_rows_);
    tensors_.resize(std::size_t(block_columns_) * block_rows_);
    found_.reserve(points_);
    shifts_.reserve(points_);
    good_.reserve(points_);
    lost_.reserve(points_);
    matches_.reserve(points_);
}

// Puts the best-textured block of each lattice cell in found_.
void MotionEstimator::find_points(const Plane& image) {
    std::fill(tensors_.begin(), tensors_.end(), Tensor{0, 0, 0});
    for (int y = 1; y < std::min(block_rows_ * kBlock, image.height - 1); ++y) {
        const std::uint8_t* p = image.row(y);
        Tensor* line = tensors_.data() + std::ptrdiff_t(y / kBlock) * block_columns_;
        for (int x = 1; x < std::min(block_columns_ * kBlock, image.width - 1); ++x) {
            const int gx = p[x + 1] - p[x - 1], gy = p[x + image.width] - p[x - image.width];
            Tensor& t = line[x / kBlock];
            t.xx += gx * gx, t.xy += gx * gy, t.yy += gy * gy;
        }
    }
    found_.clear();
    for (int row = 0; row < lattice_rows_; ++row)
        for (int column = 0; column < lattice_columns_; ++column) best_of(column, row);
    std::erase_if(found_, [&](Pixel p) { return !holds_window(image, p.x, p.y); });
}

// A block's texture is that of the 3x3 blocks around it, about the window that will be tracked.
void MotionEstimator::best_of(int column, int row) {
    const int left = std::max(1, column * block_columns_ / lattice_columns_);
    const int right = std::min(block_columns_ - 1, (column + 1) * block_columns_ / lattice_columns_);
    const int top = std::max(1, row * block_rows_ / lattice_rows_);
    const int bottom = std::min(block_rows_ - 1, (row + 1) * block_rows_ / lattice_rows_);
    double best = kMinTexture * kMinTexture * 4 * 9 * kBlock * kBlock;  // gradients are times 2
    Pixel where{-1, -1};
    for (int y = top; y < bottom; ++y)
        for (int x = left; x < right; ++x) {
            double xx = 0, xy = 0, yy = 0;
            for (int j = -1; j <= 1; ++j)
                for (int i = -1; i <= 1; ++i) {
                    const Tensor& t = tensors_[std::size_t(y + j) * block_columns_ + x + i];
                    xx += t.xx, xy += t.xy, yy += t.yy;
                }
            const double texture = weakest_texture(xx, xy, yy);
            if (texture > best) best = texture, where = {x * kBlock + kBlock / 2, y * kBlock + kBlock / 2};
        }
    if (where.x >= 0) found_.push_back(where);
}

// True if nearly all pixels kept their value: a still camera before a bare wall gives no points, but is still.
bool MotionEstimator::unchanged(const Plane& current, const Plane& previous) const {
    constexpr int kSame = 8;  // grey levels
    std::size_t changed = 0;
    for (std::size_t i = 0; i < current.pixels.size(); ++i)
        changed += std::abs(current.pixels[i] - previous.pixels[i]) > kSame;
    return double(changed) < kMaxChanged * double(current.pixels.size());
}

// Tracks the points from the coarsest level down. What is found at one level, for the nearest whole pixel there, is the
// start for the next, so every window stays on whole pixels. Above the base a point that got lost, or whose window
// reaches over the edge, starts from the median of the others instead.
void MotionEstimator::track(const Pyramid& current, const Pyramid& previous) {
    const double scale = double(1 << current.base);
    matches_.clear();
    shifts_.assign(found_.size(), Shift{0, 0});
    for (int level = int(current.levels.size()) - 1; level >= current.base; --level) {
        const Plane& image = current.levels[level];
        const int down = level - current.base;
        good_.clear(), lost_.clear();
        for (std::size_t i = 0; i < found_.size(); ++i) {
            const int x = found_[i].x >> down, y = found_[i].y >> down;
            Shift& shift = shifts_[i];
            const bool tracked = holds_window(image, x, y) &&
                                 refine(Window(image, x, y), previous.levels[level], x, y, shift);
            if (!tracked) lost_.push_back(i);
            else if (level > current.base) good_.push_back(shift);
            else {
                const Point from{(x + 0.5) * scale - 0.5, (y + 0.5) * scale - 0.5};  // centre of the reduced pixel
                matches_.push_back({from, {from.x + scale * double(shift.x), from.y + scale * double(shift.y)}});
            }
        }
        if (!good_.empty()) {
            const Shift middle{median(good_, &Shift::x), median(good_, &Shift::y)};
            for (const std::size_t i : lost_) shifts_[i] = middle;
        }
        if (level > current.base)
            for (Shift& shift : shifts_) shift.x *= 2, shift.y *= 2;
    }
}

Motion MotionEstimator::operator()(const Pyramid& current, const Pyramid& previous) {
    const Plane& image = current.levels[current.base];
    const double scale = double(1 << current.base);
    find_points(image);
    track(current, previous);
    Motion motion{kIdentity, false, int(matches_.size()), 0};
    Homography h;
    if (motion.points >= kMinPoints) motion.inliers = ransac_(matches_, tolerance_ * scale, h);
    if (motion.inliers >= kMinPoints && motion.inliers >= min_inliers_ * motion.points) {
        const double exact = kExact * scale;
        const bool still = count_within(kIdentity, matches_, exact) >= kAsGood * count_within(h, matches_, exact);
        motion.homography = still ? kIdentity : h;
        motion.known = true;
    } else if (motion.points < kMinPoints) {
        motion.known = unchanged(image, previous.levels[previous.base]);
    }
    return motion;
}

std::size_t MotionEstimator::bytes() const {
    return tensors_.size() * sizeof(Tensor) + found_.capacity() * sizeof(Pixel) + matches_.capacity() * sizeof(Match) +
           (shifts_.capacity() + good_.capacity()) * sizeof(Shift) + lost_.capacity() * sizeof(std::size_t) +
           ransac_.bytes();
}

}  // namespace fastmcd
