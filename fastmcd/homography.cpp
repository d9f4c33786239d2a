#include "homography.hpp"

#include <algorithm>
#include <cmath>

#include "linear.hpp"
#include "random.hpp"

namespace fastmcd {
namespace {

constexpr int kTrials = 500;           // at 35 % inliers still a 99.9 % chance of one clean sample
constexpr double kMissChance = 0.002;  // stop when this improbable that every sample so far held an outlier
constexpr int kRefinements = 4;
constexpr float kNowhere = 1e3f;       // where padding leads to: no match

std::array<Point, 4> corners(int width, int height) {
    const double right = width - 1, bottom = height - 1;
    return {{{0, 0}, {right, 0}, {0, bottom}, {right, bottom}}};
}

Homography adjugate(const Homography& m) {
    return {m[4] * m[8] - m[5] * m[7], m[2] * m[7] - m[1] * m[8], m[1] * m[5] - m[2] * m[4],
            m[5] * m[6] - m[3] * m[8], m[0] * m[8] - m[2] * m[6], m[2] * m[3] - m[0] * m[5],
            m[3] * m[7] - m[4] * m[6], m[1] * m[6] - m[0] * m[7], m[0] * m[4] - m[1] * m[3]};
}

// The map that takes (1,0,0), (0,1,0), (0,0,1) and (1,1,1) to four points.
Homography basis(const std::array<Point, 4>& p) {
    const Homography m = {p[0].x, p[1].x, p[2].x, p[0].y, p[1].y, p[2].y, 1, 1, 1};
    const Homography a = adjugate(m);
    Homography out;
    for (int j = 0; j < 3; ++j) {
        const double scale = a[3 * j] * p[3].x + a[3 * j + 1] * p[3].y + a[3 * j + 2];
        for (int i = 0; i < 3; ++i) out[3 * i + j] = m[3 * i + j] * scale;
    }
    return out;
}

bool divided_by_last(Homography& h) {
    const double last = h[8];
    for (double& v : h) v /= last;
    return std::all_of(h.begin(), h.end(), [](double v) { return std::isfinite(v); });
}

std::array<float, 9> single(const Homography& h) {
    std::array<float, 9> out;
    std::transform(h.begin(), h.end(), out.begin(), [](double v) { return float(v); });
    return out;
}

}  // namespace

Point project(const Homography& h, Point p) {
    const double w = h[6] * p.x + h[7] * p.y + h[8];
    return {(h[0] * p.x + h[1] * p.y + h[2]) / w, (h[3] * p.x + h[4] * p.y + h[5]) / w};
}

Homography product(const Homography& a, const Homography& b) {
    Homography out;
    for (int i = 0; i < 3; ++i)
        for (int j = 0; j < 3; ++j) out[3 * i + j] = a[3 * i] * b[j] + a[3 * i + 1] * b[3 + j] + a[3 * i + 2] * b[6 + j];
    return out;
}

void at_row(const Homography& h, int y, float out[9]) {
    for (int k = 0; k < 9; k += 3) out[k] = float(h[k]), out[k + 1] = float(h[k + 1] * y + h[k + 2]), out[k + 2] = 0;
}

bool plausible(const Homography& h, int width, int height) {
    if (!std::all_of(h.begin(), h.end(), [](double v) { return std::isfinite(v); })) return false;
    for (const Point p : corners(width, height)) {
        const double w = h[6] * p.x + h[7] * p.y + h[8];
        if (!(w > 0.7 && w < 1.4)) return false;  // tilt: the frame's corners stay at about the same distance
        const Point q = project(h, p);
        const double a = (h[0] - q.x * h[6]) / w, b = (h[1] - q.x * h[7]) / w;  // derivatives of q by p
        const double c = (h[3] - q.y * h[6]) / w, d = (h[4] - q.y * h[7]) / w;
        const double det = a * d - b * c, square = a * a + b * b + c * c + d * d;
        if (!(det > 0.25 && det < 4)) return false;       // mirrored, or zoomed beyond belief
        if (!(square < 2.5 * det)) return false;          // singular values s1 > s2: s1/s2 + s2/s1 < 2.5
    }
    return corner_shift(h, width, height) < std::max(width, height);
}

double corner_shift(const Homography& h, int width, int height) {
    double shift = 0;
    for (const Point p : corners(width, height)) {
        const Point q = project(h, p);
        shift = std::max(shift, length({q.x - p.x, q.y - p.y}));
    }
    return shift;
}

Ransac::Ransac(int width, int height, int max_matches)
    : width_(width), height_(height), middle_{(width - 1) / 2.0, (height - 1) / 2.0}, unit_(std::max(width, height) / 2.0),
      in_{1 / unit_, 0, -middle_.x / unit_, 0, 1 / unit_, -middle_.y / unit_, 0, 0, 1},
      out_{unit_, 0, middle_.x, 0, unit_, middle_.y, 0, 0, 1} {
    for (auto* v : {&x_, &y_, &to_x_, &to_y_}) v->resize(max_matches + kLanes);
}

void Ransac::add(Point from, Point to) {
    x_[count_] = float((from.x - middle_.x) / unit_), y_[count_] = float((from.y - middle_.y) / unit_);
    to_x_[count_] = float((to.x - middle_.x) / unit_), to_y_[count_] = float((to.y - middle_.y) / unit_);
    matches_ = ++count_;
}

void Ransac::repeat(int match, int times) {
    for (; times > 0; --times, ++count_) {
        x_[count_] = x_[match], y_[count_] = y_[match];
        to_x_[count_] = to_x_[match], to_y_[count_] = to_y_[match];
    }
}

MatchArrays Ransac::arrays() {
    const int padded = int(rounded_up(count_, kLanes));
    for (int i = count_; i < padded; ++i) x_[i] = y_[i] = 0, to_x_[i] = to_y_[i] = kNowhere;
    return {x_.data(), y_.data(), to_x_.data(), to_y_.data(), padded};
}

Homography Ransac::relative(const Homography& absolute) const { return product(in_, product(absolute, out_)); }

Homography Ransac::absolute(const Homography& relative) const {
    Homography h = product(out_, product(relative, in_));
    divided_by_last(h);
    return h;
}

int Ransac::count(const Homography& relative, double tolerance) {
    return kernels_.motion.count(arrays(), single(relative).data(), float(tolerance / unit_));
}

int Ransac::votes_within(const Homography& h, double tolerance) { return count(relative(h), tolerance); }

int Ransac::matches_within(const Homography& h, double tolerance) const {
    const Homography r = relative(h);
    const double most = tolerance / unit_;
    int n = 0;
    for (int i = 0; i < matches_; ++i) {
        const Point p = project(r, {double(x_[i]), double(y_[i])});
        const double dx = p.x - double(to_x_[i]), dy = p.y - double(to_y_[i]);
        n += dx * dx + dy * dy <= most * most;
    }
    return n;
}

bool Ransac::sample(Homography& h, const std::size_t which[4]) const {
    std::array<Point, 4> from, to;
    for (int k = 0; k < 4; ++k) {
        const std::size_t i = which[k];
        from[k] = {double(x_[i]), double(y_[i])}, to[k] = {double(to_x_[i]), double(to_y_[i])};
    }
    h = product(basis(to), adjugate(basis(from)));
    return divided_by_last(h);  // points on a line, or one twice, give 0 / 0
}

bool Ransac::search(double tolerance, Homography& h) {
    Random random;
    int best = 0;
    double miss = 1;  // chance that no sample so far was free of outliers, were the best h the true one
    for (int trial = 0; trial < kTrials && miss > kMissChance; ++trial) {
        std::size_t which[4];
        for (std::size_t& i : which) i = random.below(std::size_t(count_));
        Homography candidate;
        if (sample(candidate, which)) {
            const int hits = count(candidate, tolerance);
            if (hits > best && plausible(absolute(candidate), width_, height_)) best = hits, h = candidate;
        }
        const double share = double(best) / double(count_);
        miss *= 1 - share * share * share * share;
    }
    return best >= 4;
}

// Weighted least squares of X w = a x + b y + c, Y w = d x + e y + f, w = g x + h y + 1 over all matches.
bool Ransac::refit(const double sums[kSums], Homography& h) const {
    constexpr int kIndex[3][3] = {{0, 1, 2}, {1, 3, 4}, {2, 4, 5}};  // of xx xy x, yx yy y, x y 1
    const auto s = [&](int i, int j, int which) { return sums[6 * which + kIndex[i][j]]; };
    double normal[8][9] = {};
    for (int i = 0; i < 3; ++i)
        for (int j = 0; j < 3; ++j) normal[i][j] = normal[3 + i][3 + j] = s(i, j, 0);
    for (int i = 0; i < 3; ++i)
        for (int half = 0; half < 2; ++half) {
            for (int j = 0; j < 2; ++j) normal[3 * half + i][6 + j] = normal[6 + j][3 * half + i] = -s(i, j, 1 + half);
            normal[3 * half + i][8] = s(i, 2, 1 + half);
        }
    for (int i = 0; i < 2; ++i) {
        for (int j = 0; j < 2; ++j) normal[6 + i][6 + j] = s(i, j, 3);
        normal[6 + i][8] = -s(i, 2, 3);
    }
    h[8] = 1;
    return solve<8>(normal, h.data());
}

int Ransac::operator()(double tolerance, Homography& h) {
    Homography relative;
    if (count_ < 4 || !search(tolerance, relative)) return 0;
    const MatchArrays matches = arrays();
    for (int i = 0; i < kRefinements; ++i) {
        double sums[kSums];
        kernels_.motion.sums(matches, single(relative).data(), float(tolerance / unit_), sums);
        Homography refined;
        if (!refit(sums, refined) || !plausible(absolute(refined), width_, height_)) break;
        relative = refined;
    }
    h = absolute(relative);
    return count(relative, tolerance);
}

}  // namespace fastmcd
