// Texture, Lucas-Kanade, and the sums that RANSAC and its refinement take over the matches.
#include "kernels.hpp"
#include "simd.hpp"

namespace fastmcd {
namespace {

// ---- Sixteen 16-bit lanes: a row of a tracked window, whatever the level ----------------------------------------------
using Row = std::uint16_t __attribute__((vector_size(32)));
using Signed = std::int16_t __attribute__((vector_size(32)));
using Pairs = std::int32_t __attribute__((vector_size(32)));

ALWAYS Row high_product(Row a, Row b) {  // a * b / 65536
#if defined(__AVX2__)
    return Row(_mm256_mulhi_epu16(__m256i(a), __m256i(b)));
#elif defined(__SSE2__)
    __m128i x[2], y[2];
    std::memcpy(x, &a, 32), std::memcpy(y, &b, 32);
    for (int i = 0; i < 2; ++i) x[i] = _mm_mulhi_epu16(x[i], y[i]);
    return load<Row>(x);
#else
    for (int i = 0; i < 16; ++i) a[i] = std::uint16_t(std::uint32_t(a[i]) * b[i] >> 16);
    return a;
#endif
}

ALWAYS Pairs multiply_add_pairs(Signed a, Signed b) {  // a0 b0 + a1 b1, a2 b2 + a3 b3 ...
#if defined(__AVX2__)
    return Pairs(_mm256_madd_epi16(__m256i(a), __m256i(b)));
#elif defined(__SSE2__)
    __m128i x[2], y[2];
    std::memcpy(x, &a, 32), std::memcpy(y, &b, 32);
    for (int i = 0; i < 2; ++i) x[i] = _mm_madd_epi16(x[i], y[i]);
    return load<Pairs>(x);
#else
    Pairs sum{};
    for (int i = 0; i < 8; ++i) sum[i] = a[2 * i] * b[2 * i] + a[2 * i + 1] * b[2 * i + 1];
    return sum;
#endif
}

ALWAYS Row pixels(const std::uint8_t* p) {
#if defined(__SSE2__) && !defined(__AVX2__)
    const __m128i v = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)), zero = _mm_setzero_si128();
    const __m128i both[2] = {_mm_unpacklo_epi8(v, zero), _mm_unpackhi_epi8(v, zero)};
    return load<Row>(both);
#else
    using Narrow = std::uint8_t __attribute__((vector_size(16)));
    return __builtin_convertvector(load<Narrow>(p), Row);
#endif
}

ALWAYS int total(Pairs v) {
    using Four = std::int32_t __attribute__((vector_size(16)));
    Four sum = __builtin_shufflevector(v, v, 0, 1, 2, 3) + __builtin_shufflevector(v, v, 4, 5, 6, 7);
    sum += __builtin_shufflevector(sum, sum, 2, 3, 0, 1);
    sum += __builtin_shufflevector(sum, sum, 1, 0, 3, 2);
    return sum[0];
}

// ---- Texture ---------------------------------------------------------------------------------------------------------
void tensors(const std::uint8_t* const rows[6], int blocks, float* out, std::ptrdiff_t pitch) {
    const Pairs even = Pairs{} + 0x00ff00ff;  // of a block's four pixels, two; a lane holds a block
    for (int b = 0; b < blocks; b += 8) {
        Pairs xx{}, xy{}, yy{};
        for (int y = 1; y <= 4; ++y)
            for (int odd = 0; odd < 2; ++odd) {
                const auto two = [&](int row, int shift) {
                    return Signed(load<Pairs>(rows[row] + 4 * b + odd + shift) & even);
                };
                const Signed gx = two(y, 1) - two(y, -1), gy = two(y + 1, 0) - two(y - 1, 0);
                xx += multiply_add_pairs(gx, gx), xy += multiply_add_pairs(gx, gy), yy += multiply_add_pairs(gy, gy);
            }
        using Eight = float __attribute__((vector_size(32)));
        store(out + b, __builtin_convertvector(xx, Eight));
        store(out + pitch + b, __builtin_convertvector(xy, Eight));
        store(out + 2 * pitch + b, __builtin_convertvector(yy, Eight));
    }
}

void texture(const float* const rows[3], std::ptrdiff_t pitch, int blocks, float* out) {
    for (int b = 0; b < blocks; b += kFloats) {
        const auto sum = [&](int which) {
            Floats v{};
            for (int row = 0; row < 3; ++row)
                for (int i = -1; i <= 1; ++i) v += load<Floats>(rows[row] + which * pitch + b + i);
            return v;
        };
        const Floats xx = sum(0), xy = sum(1), yy = sum(2), half = (xx + yy) * 0.5f, difference = (xx - yy) * 0.5f;
        store(out + b, half - root(difference * difference + xy * xy));
    }
}

// ---- Lucas-Kanade ----------------------------------------------------------------------------------------------------
constexpr int kSide = 2 * kRadius + 1;
constexpr int kArea = kSide * kSide;
constexpr int kSteps = 12;           // Gauss-Newton steps per level
constexpr float kStepEnd = 0.03f;    // px
constexpr float kMaxResidual = 12;   // grey levels, mean absolute, after tracking
constexpr int kScale = 32;           // of differences; gradients are times 2

struct Window {
    Signed value[kSide], gx[kSide], gy[kSide];  // value times kScale
    int sum_x, sum_y;
    float xx, xy, yy;  // gradient products about their mean
};

ALWAYS Signed used() {  // 1 in the window's lanes
    Signed v{};
    for (int i = 0; i < kSide; ++i) v[i] = 1;
    return v;
}

ALWAYS void open(Window& w, const std::uint8_t* corner, std::ptrdiff_t stride) {
    const Signed ones = used();
    Pairs sx{}, sy{}, xx{}, xy{}, yy{};
    for (int i = 0; i < kSide; ++i, corner += stride) {
        const Signed gx = Signed(pixels(corner + 1) - pixels(corner - 1)) * ones;
        const Signed gy = Signed(pixels(corner + stride) - pixels(corner - stride)) * ones;
        w.value[i] = Signed(pixels(corner)) * kScale, w.gx[i] = gx, w.gy[i] = gy;
        sx += multiply_add_pairs(gx, ones), sy += multiply_add_pairs(gy, ones);
        xx += multiply_add_pairs(gx, gx), xy += multiply_add_pairs(gx, gy), yy += multiply_add_pairs(gy, gy);
    }
    w.sum_x = total(sx), w.sum_y = total(sy);
    w.xx = float(total(xx)) - float(w.sum_x) * float(w.sum_x) / kArea;
    w.xy = float(total(xy)) - float(w.sum_x) * float(w.sum_y) / kArea;
    w.yy = float(total(yy)) - float(w.sum_y) * float(w.sum_y) / kArea;
}

struct Fit {
    int sum, bx, by;  // of differences; of their products with the gradients
};

// difference = kScale * (target at the shifted window, bilinear) - the window's own values.
ALWAYS Fit compare(const Window& w, const std::uint8_t* corner, std::ptrdiff_t stride, int fx, int fy,
                   Signed difference[kSide]) {
    const Signed ones = used();
    const Row right = Row{} + std::uint16_t(2 * fx), left = Row{} + std::uint16_t(256 - 2 * fx);  // of 256
    const Row below = Row{} + std::uint16_t(64 * fy), above = Row{} + std::uint16_t(8192 - 64 * fy);
    const auto across = [&](const std::uint8_t* p) { return pixels(p) * left + pixels(p + 1) * right; };
    Pairs sum{}, bx{}, by{};
    Row upper = across(corner);
    for (int i = 0; i < kSide; ++i) {
        corner += stride;
        const Row lower = across(corner);
        const Signed d = Signed(high_product(upper, above) + high_product(lower, below)) - w.value[i];
        difference[i] = d;
        sum += multiply_add_pairs(d, ones);
        bx += multiply_add_pairs(d, w.gx[i]), by += multiply_add_pairs(d, w.gy[i]);
        upper = lower;
    }
    return {total(sum), total(bx), total(by)};
}

ALWAYS float residual(const Signed difference[kSide], int sum) {  // mean absolute, brightness left out, grey levels
    const std::int16_t level = std::int16_t(sum / kArea);  // a name of its own: with UBSan gcc sees an int otherwise
    const Signed ones = used(), mean = Signed{} + level;
    Pairs deviation{};
    for (int i = 0; i < kSide; ++i) {
        const Signed d = difference[i] - mean;
        deviation += multiply_add_pairs(greater(d, -d), ones);
    }
    return float(total(deviation)) / (kScale * kArea);
}

// From the given shift on. A constant difference in brightness is left out of account: with gradients about their mean
// it takes no part.
ALWAYS bool refine(const Tracking& level, const Window& w, Pixel at, Shift& shift) {
    Signed difference[kSide];
    Fit fit{};
    const float det = w.xx * w.yy - w.xy * w.xy;
    if (!(det > 0)) return false;
    Shift s = shift;
    for (int step = 0; step < kSteps; ++step) {
        const float x = float(at.x) + s.x, y = float(at.y) + s.y;
        if (!(x > kRadius && y > kRadius && x < float(level.width) && y < float(level.height))) return false;
        const int ix = int(x), iy = int(y);
        if (!holds_window(level.width, level.height, ix, iy)) return false;
        fit = compare(w, level.target + (iy - kRadius) * level.stride + ix - kRadius, level.stride,
                      int((x - float(ix)) * 128 + 0.5f), int((y - float(iy)) * 128 + 0.5f), difference);
        const float cx = float(fit.bx) - float(fit.sum) * float(w.sum_x) / kArea;
        const float cy = float(fit.by) - float(fit.sum) * float(w.sum_y) / kArea;
        const float scale = 1 / (kScale / 2 * det);
        const float dx = (w.yy * cx - w.xy * cy) * scale, dy = (w.xx * cy - w.xy * cx) * scale;
        s.x -= dx, s.y -= dy;
        if (dx * dx + dy * dy < kStepEnd * kStepEnd) break;
    }
    if (!(residual(difference, fit.sum) < kMaxResidual)) return false;
    shift = s;
    return true;
}

void track(const Tracking& level, const Pixel* points, int count, Shift* shifts, std::uint8_t* tracked) {
    for (int i = 0; i < count; ++i) {
        const Pixel p = points[i];
        tracked[i] = 0;
        if (!holds_window(level.width, level.height, p.x, p.y)) continue;
        Window window;
        open(window, level.image + (p.y - kRadius) * level.stride + p.x - kRadius, level.stride);
        tracked[i] = refine(level, window, p, shifts[i]);
    }
}

// ---- Matches ---------------------------------------------------------------------------------------------------------
int count(const MatchArrays& matches, const float h[9], float tolerance) {
    Ints hits{};
    for (int i = 0; i < matches.padded; i += kFloats) {
        const Floats x = load<Floats>(matches.x + i), y = load<Floats>(matches.y + i);
        const Floats w = h[6] * x + h[7] * y + h[8];
        const Floats dx = h[0] * x + h[1] * y + h[2] - load<Floats>(matches.to_x + i) * w;
        const Floats dy = h[3] * x + h[4] * y + h[5] - load<Floats>(matches.to_y + i) * w;
        hits -= dx * dx + dy * dy < tolerance * tolerance * w * w;
    }
    int sum = 0;
    for (int i = 0; i < kFloats; ++i) sum += hits[i];
    return sum;
}

using Doubles = double __attribute__((vector_size(kVector)));
constexpr int kDoubles = kVector / 8, kSumLanes = 8;  // the same lanes at every level, added up in the same order
static_assert(kLanes % kSumLanes == 0);

ALWAYS Doubles widened(const float* p) {
    Doubles v;
    for (int i = 0; i < kDoubles; ++i) v[i] = double(p[i]);
    return v;
}

void sums(const MatchArrays& matches, const float h[9], float tolerance, double out[kSums]) {
    double lanes[kSums][kSumLanes];
    const double scale = 1 / (double(tolerance) * double(tolerance));
    for (int first = 0; first < kSumLanes; first += kDoubles) {
        Doubles s[kSums] = {};
        for (int i = first; i < matches.padded; i += kSumLanes) {
            const Doubles x = widened(matches.x + i), y = widened(matches.y + i);
            const Doubles to_x = widened(matches.to_x + i), to_y = widened(matches.to_y + i);
            const Doubles w = 1 / (double(h[6]) * x + double(h[7]) * y + double(h[8]));
            const Doubles dx = (double(h[0]) * x + double(h[1]) * y + double(h[2])) * w - to_x;
            const Doubles dy = (double(h[3]) * x + double(h[4]) * y + double(h[5])) * w - to_y;
            const Doubles near = 1 / (1 + (dx * dx + dy * dy) * scale), weight = near * near;
            const Doubles a[6] = {weight * x * x, weight * x * y, weight * x, weight * y * y, weight * y, weight};
            const Doubles square = to_x * to_x + to_y * to_y;
            for (int k = 0; k < 6; ++k) {
                s[k] += a[k], s[6 + k] += a[k] * to_x;
                s[12 + k] += a[k] * to_y, s[18 + k] += a[k] * square;
            }
        }
        for (int k = 0; k < kSums; ++k) store(lanes[k] + first, s[k]);
    }
    for (int k = 0; k < kSums; ++k) {
        out[k] = 0;
        for (const double v : lanes[k]) out[k] += v;
    }
}

}  // namespace

extern const MotionKernels OF_LEVEL(motion_kernels_);
const MotionKernels OF_LEVEL(motion_kernels_) = {tensors, texture, track, count, sums};

}  // namespace fastmcd
