#include "homography.hpp"

#include <algorithm>
#include <cmath>

#include "linear.hpp"

namespace fastmcd {
namespace {

constexpr int kTrials = 500;            // at 35 % inliers still a 99.9 % chance of one clean sample
constexpr double kMissChance = 0.002;   // stop when this improbable that every sample so far held an outlier
constexpr int kRefinements = 4;

// Moves the points' centre to the origin and their mean distance to about 1: x' = (x - cx) * scale.
struct Frame {
    double cx = 0, cy = 0, scale = 1;
    Point operator()(Point p) const { return {(p.x - cx) * scale, (p.y - cy) * scale}; }
};

Frame centred(std::span<const Match> matches, std::span<const double> weights, Point Match::*end) {
    double sum = 0, x = 0, y = 0, spread = 0;
    for (std::size_t i = 0; i < matches.size(); ++i) {
        const Point p = matches[i].*end;
        sum += weights[i], x += weights[i] * p.x, y += weights[i] * p.y;
    }
    Frame frame{x / sum, y / sum, 1};
    for (std::size_t i = 0; i < matches.size(); ++i) {
        const Point p = matches[i].*end;
        spread += weights[i] * (std::abs(p.x - frame.cx) + std::abs(p.y - frame.cy));
    }
    frame.scale = sum / spread;
    return frame;
}

// h = T^-1 g S for the normalised solution g (its last element 1), from-frame S and to-frame T; last element 1 again.
bool denormalise(const double g[8], const Frame& s, const Frame& t, Homography& h) {
    double m[9];
    for (int i = 0; i < 3; ++i) {
        const double a = g[3 * i], b = g[3 * i + 1], c = i < 2 ? g[3 * i + 2] : 1;
        m[3 * i] = a * s.scale, m[3 * i + 1] = b * s.scale;
        m[3 * i + 2] = c - (a * s.cx + b * s.cy) * s.scale;
    }
    for (int j = 0; j < 3; ++j) {
        h[j] = m[j] / t.scale + t.cx * m[6 + j];
        h[3 + j] = m[3 + j] / t.scale + t.cy * m[6 + j];
        h[6 + j] = m[6 + j];
    }
    const double last = h[8];
    for (double& v : h) v /= last;
    return std::all_of(h.begin(), h.end(), [](double v) { return std::isfinite(v); });
}

std::array<Point, 4> corners(int width, int height) {
    const double right = width - 1, bottom = height - 1;
    return {{{0, 0}, {right, 0}, {0, bottom}, {right, bottom}}};
}

double squared_error(const Homography& h, const Match& match) {
    const Point p = project(h, match.from);
    const double dx = p.x - match.to.x, dy = p.y - match.to.y;
    return dx * dx + dy * dy;
}

// SplitMix64 (Steele et al. 2014): the same samples on every machine.
struct Random {
    std::uint64_t state = 1;
    std::uint64_t operator()() {
        std::uint64_t z = state += 0x9E3779B97F4A7C15u;
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
        return z ^ (z >> 31);
    }
    std::size_t below(std::size_t n) { return std::size_t((*this)() % n); }
};

}  // namespace

Point project(const Homography& h, Point p) {
    const double w = h[6] * p.x + h[7] * p.y + h[8];
    return {(h[0] * p.x + h[1] * p.y + h[2]) / w, (h[3] * p.x + h[4] * p.y + h[5]) / w};
}

bool fit(std::span<const Match> matches, std::span<const double> weights, Homography& h) {
    const Frame s = centred(matches, weights, &Match::from), t = centred(matches, weights, &Match::to);
    double normal[8][9] = {};  // sum of weight * r^T [r | target] over both equations r of each match
    for (std::size_t i = 0; i < matches.size(); ++i) {
        const Point p = s(matches[i].from), q = t(matches[i].to);
        const double rows[2][9] = {{p.x, p.y, 1, 0, 0, 0, -q.x * p.x, -q.x * p.y, q.x},
                                   {0, 0, 0, p.x, p.y, 1, -q.y * p.x, -q.y * p.y, q.y}};
        for (const auto& r : rows)
            for (int j = 0; j < 8; ++j)
                for (int k = j; k < 9; ++k) normal[j][k] += weights[i] * r[j] * r[k];
    }
    for (int j = 0; j < 8; ++j)
        for (int k = 0; k < j; ++k) normal[j][k] = normal[k][j];
    double g[8];
    return solve<8>(normal, g) && denormalise(g, s, t, h);
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
        shift = std::max(shift, std::sqrt((q.x - p.x) * (q.x - p.x) + (q.y - p.y) * (q.y - p.y)));
    }
    return shift;
}

int count_within(const Homography& h, std::span<const Match> matches, double tolerance) {
    return int(std::count_if(matches.begin(), matches.end(),
                             [&](const Match& m) { return squared_error(h, m) < tolerance * tolerance; }));
}

bool Ransac::search(std::span<const Match> matches, double tolerance, Homography& h) const {
    constexpr std::array<double, 4> kEqual = {1, 1, 1, 1};
    Random random;
    int best = 0;
    double miss = 1;  // chance that no sample so far was free of outliers, were the best h the true one
    for (int trial = 0; trial < kTrials && miss > kMissChance; ++trial) {
        std::array<Match, 4> sample;
        for (Match& m : sample) m = matches[random.below(matches.size())];  // a repeated match makes fit() fail: next
        Homography candidate;
        if (fit(sample, kEqual, candidate) && plausible(candidate, width_, height_)) {
            const int count = count_within(candidate, matches, tolerance);
            if (count > best) best = count, h = candidate;
        }
        const double share = double(best) / double(matches.size());
        miss *= 1 - share * share * share * share;
    }
    return best >= 4;
}

int Ransac::operator()(std::span<const Match> matches, double tolerance, Homography& h) {
    if (matches.size() < 4 || !search(matches, tolerance, h)) return 0;
    const std::span<double> weights(weights_.data(), matches.size());
    for (int i = 0; i < kRefinements; ++i) {
        for (std::size_t k = 0; k < matches.size(); ++k) {  // Geman-McClure: smooth, and nil far out
            const double w = 1 / (1 + squared_error(h, matches[k]) / (tolerance * tolerance));
            weights[k] = w * w;
        }
        Homography refined;
        if (!fit(matches, weights, refined) || !plausible(refined, width_, height_)) break;
        h = refined;
    }
    return count_within(h, matches, tolerance);
}

}  // namespace fastmcd
