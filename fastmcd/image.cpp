#include "image.hpp"

#include <algorithm>
#include <cstring>

namespace fastmcd {
namespace {

// 16 pixels at a time through the compiler's vectors: SSE2 and NEON, the baselines, have the byte minimum and maximum.
constexpr int kLanes = 16;
using Lanes = std::uint8_t __attribute__((vector_size(kLanes)));

inline Lanes load(const std::uint8_t* p) {
    Lanes v;
    std::memcpy(&v, p, sizeof v);
    return v;
}

inline void store(std::uint8_t* p, Lanes v) { std::memcpy(p, &v, sizeof v); }

inline Lanes min(Lanes a, Lanes b) { return a < b ? a : b; }
inline Lanes max(Lanes a, Lanes b) { return a < b ? b : a; }

inline void order(Lanes& a, Lanes& b) {
    const Lanes low = min(a, b);
    b = max(a, b);
    a = low;
}

inline void sort5(Lanes& a, Lanes& b, Lanes& c, Lanes& d, Lanes& e) {
    order(a, b), order(d, e), order(c, e), order(c, d), order(a, d);
    order(a, c), order(b, e), order(b, d), order(b, c);
}

// Of 8 among 13 values neither the least nor the greatest can be the median of all: drop both, take in another; then of
// 7, and so on. v[k] to v[7] are those still in question. Unrolled, so that they stay in registers.
inline Lanes median13(Lanes v[13]) {
#pragma GCC unroll 6
    for (int k = 0; k < 6; ++k) {
#pragma GCC unroll 7
        for (int i = k + 1; i < 8; ++i) order(v[k], v[i]);  // the least to the front
#pragma GCC unroll 7
        for (int i = k + 1; i < 7; ++i) order(v[i], v[7]);  // the greatest to the back
        if (k < 5) v[7] = v[8 + k];
    }
    return v[6];
}

// Median of 25 whose columns c[row][column] are sorted. Sorting the rows keeps the columns sorted; then element (i, j),
// counted from 1, has i*j - 1 others at most as large and (6-i)(6-j) - 1 at least as large, so only those with both
// products up to 13 can be the 13th. Six on either side fall away: the answer is the median of the 13 left.
inline Lanes median25(Lanes c[5][5]) {
    for (int i = 0; i < 5; ++i) sort5(c[i][0], c[i][1], c[i][2], c[i][3], c[i][4]);
    Lanes middle[13] = {c[0][3], c[0][4], c[1][2], c[1][3], c[1][4], c[2][1], c[2][2],
                        c[2][3], c[3][0], c[3][1], c[3][2], c[4][0], c[4][1]};
    return median13(middle);
}

}  // namespace

void Median::operator()(Image source, Plane& target) {
    const int width = source.width, height = source.height, pitch = width + 4;
    std::uint8_t* const sorted = columns_.data();
    for (int y = 0; y < height; ++y) {
        const std::uint8_t* rows[5];
        for (int k = 0; k < 5; ++k) rows[k] = row(source, std::clamp(y + k - 2, 0, height - 1));
        for (int x = 0;; x = std::min(x + kLanes, width - kLanes)) {  // the last step overlaps the one before
            Lanes v[5];
            for (int k = 0; k < 5; ++k) v[k] = load(rows[k] + x);
            sort5(v[0], v[1], v[2], v[3], v[4]);
            for (int k = 0; k < 5; ++k) store(sorted + k * pitch + 2 + x, v[k]);
            if (x == width - kLanes) break;
        }
        for (int k = 0; k < 5; ++k) {
            std::uint8_t* s = sorted + k * pitch;
            s[0] = s[1] = s[2];
            s[width + 2] = s[width + 3] = s[width + 1];
        }
        for (int x = 0;; x = std::min(x + kLanes, width - kLanes)) {
            Lanes c[5][5];
            for (int i = 0; i < 5; ++i)
                for (int j = 0; j < 5; ++j) c[i][j] = load(sorted + i * pitch + x + j);
            store(target.row(y) + x, median25(c));
            if (x == width - kLanes) break;
        }
    }
}

void halve(Image source, Plane& target) {
    for (int y = 0; y < target.height; ++y) {
        const std::uint8_t* a = row(source, 2 * y);
        const std::uint8_t* b = row(source, 2 * y + 1);
        std::uint8_t* out = target.row(y);
        for (int x = 0; x < target.width; ++x)
            out[x] = std::uint8_t((a[2 * x] + a[2 * x + 1] + b[2 * x] + b[2 * x + 1] + 2) >> 2);
    }
}

void grey_from_bgr(const std::uint8_t* bgr, std::ptrdiff_t stride, int width, int height, std::uint8_t* grey) {
    for (int y = 0; y < height; ++y, bgr += stride, grey += width)
        for (int x = 0; x < width; ++x)
            grey[x] = std::uint8_t((29 * bgr[3 * x] + 150 * bgr[3 * x + 1] + 77 * bgr[3 * x + 2] + 128) >> 8);
}

}  // namespace fastmcd
