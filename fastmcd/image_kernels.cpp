// Grey levels, smoothing, halving: row by row.
#include "kernels.hpp"
#include "simd.hpp"

namespace fastmcd {
namespace {

template <class V>
ALWAYS V median3(V a, V b, V c) {
    return greater(lesser(a, b), lesser(greater(a, b), c));
}

template <class V>
ALWAYS V median5(V a, V b, V c, V d, V e) {  // neither the least of two least ones nor the greatest of two greatest
    return median3(greater(lesser(a, b), lesser(c, d)), lesser(greater(a, b), greater(c, d)), e);
}

template <class V>
ALWAYS V second5(V a, V b, V c, V d, V e) {  // greatest but one
    const V ab = greater(a, b), cd = greater(c, d);
    const V four = greater(lesser(ab, cd), greater(lesser(a, b), lesser(c, d)));
    return greater(four, lesser(greater(ab, cd), e));
}

template <class V>
ALWAYS V fourth5(V a, V b, V c, V d, V e) {  // least but one
    const V ab = lesser(a, b), cd = lesser(c, d);
    const V four = lesser(greater(ab, cd), lesser(greater(a, b), greater(c, d)));
    return lesser(four, greater(lesser(ab, cd), e));
}

template <class V>
ALWAYS void order(V& a, V& b) {
    const V low = lesser(a, b);
    b = greater(a, b), a = low;
}

template <class V>
ALWAYS void sort5(V& a, V& b, V& c, V& d, V& e) {
    order(a, b), order(d, e), order(c, e), order(c, d), order(a, d);
    order(a, c), order(b, e), order(b, d), order(b, c);
}

// With the columns of the 5x5 neighbourhood sorted, and then the rows, the middle of 25 lies on or beside the diagonal from
// the greatest of the least to the least of the greatest: its median is nearly that of all.
template <class V>
ALWAYS void smooth_by(const std::uint8_t* const rows[5], int width, std::uint8_t* line, std::uint8_t* out) {
    constexpr int n = sizeof(V);
    const std::ptrdiff_t pitch = width + 4 + kSlack;
    for (int x = 0;; x = x + 2 * n < width ? x + n : width - n) {  // the last step overlaps the one before
        V v[5];
        for (int k = 0; k < 5; ++k) v[k] = load<V>(rows[k] + x);
        sort5(v[0], v[1], v[2], v[3], v[4]);
        for (int k = 0; k < 5; ++k) store(line + k * pitch + 2 + x, v[k]);
        if (x == width - n) break;
    }
    for (int k = 0; k < 5; ++k) {
        std::uint8_t* p = line + k * pitch;
        p[0] = p[1] = p[2];
        p[width + 2] = p[width + 3] = p[width + 1];
    }
    for (int x = 0; x < width; x += n) {
        const auto at = [&](int k, int i) { return load<V>(line + k * pitch + x + i); };
        const auto all = [&](int k, auto f) { return f(at(k, 0), at(k, 1), at(k, 2), at(k, 3), at(k, 4)); };
        const V values[5] = {
            all(0, [](V a, V b, V c, V d, V e) { return greater(greater(greater(a, b), greater(c, d)), e); }),
            all(1, [](V a, V b, V c, V d, V e) { return second5(a, b, c, d, e); }),
            all(2, [](V a, V b, V c, V d, V e) { return median5(a, b, c, d, e); }),
            all(3, [](V a, V b, V c, V d, V e) { return fourth5(a, b, c, d, e); }),
            all(4, [](V a, V b, V c, V d, V e) { return lesser(lesser(lesser(a, b), lesser(c, d)), e); })};
        store(out + x, median5(values[0], values[1], values[2], values[3], values[4]));
    }
}

void smooth(const std::uint8_t* const rows[5], int width, std::uint8_t* line, std::uint8_t* out) {
    using Short = std::uint8_t __attribute__((vector_size(16)));
    if (width < kVector) smooth_by<Short>(rows, width, line, out);
    else smooth_by<Bytes>(rows, width, line, out);
}

#if defined(__AVX512BW__)
// As many whole vectors of 16 pixels as there are; how many pixels that was. Each goes to a lane of 32 bits: whole lanes are
// moved first, as bytes only move within 16 bytes. Levels less 128 are signed bytes, which is what weights multiply.
ALWAYS int greys_by_vectors(const std::uint8_t* bgr, int count, std::uint8_t* out) {
    const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 2, 3, 4, 5, 5, 6, 7, 8, 8, 9, 10, 11, 11);
    const __m512i bytes = _mm512_maskz_broadcast_i32x4(0xffff, _mm_setr_epi8(0, 1, 2, -1, 3, 4, 5, -1, 6, 7, 8, -1, 9, 10, 11, -1));
    const __m512i weights = _mm512_set1_epi32(29 | 150 << 8 | 77 << 16), ones = _mm512_set1_epi16(1);
    int x = 0;
    for (; x + 16 <= count; x += 16) {
        const __m512i v = _mm512_maskz_permutexvar_epi32(0xffff, lanes, _mm512_maskz_loadu_epi32(0x0fff, bgr + 3 * x));
        const __m512i levels = _mm512_xor_si512(_mm512_shuffle_epi8(v, bytes), _mm512_set1_epi8(-128));
        const Ints sum = Ints(_mm512_madd_epi16(_mm512_maddubs_epi16(weights, levels), ones)) + (256 * 128 + 128);
        store(out + x, _mm512_maskz_cvtepi32_epi8(0xffff, __m512i(sum >> 8)));
    }
    return x;
}
#else
ALWAYS int greys_by_vectors(const std::uint8_t*, int, std::uint8_t*) { return 0; }  // the compiler's own are as fast
#endif

void grey(const std::uint8_t* bgr, int count, std::uint8_t* out) {
    for (int x = greys_by_vectors(bgr, count, out); x < count; ++x)
        out[x] = std::uint8_t((29 * bgr[3 * x] + 150 * bgr[3 * x + 1] + 77 * bgr[3 * x + 2] + 128) >> 8);
}

void halve(const std::uint8_t* a, const std::uint8_t* b, int width, std::uint8_t* out) {
    for (int x = 0; x < width; ++x)
        out[x] = std::uint8_t((a[2 * x] + a[2 * x + 1] + b[2 * x] + b[2 * x + 1] + 2) >> 2);
}

// A cell's four pixels are the upper six of the eight bytes, in each row, that begin two before them.
void colours(const std::uint8_t* upper, const std::uint8_t* lower, int width, int cells, std::uint16_t* out) {
    using Wide = std::uint16_t __attribute__((vector_size(16)));
    constexpr Wide kPlace = {0, 0, 1 << 2 * kColourBits, 1 << kColourBits, 1};
    const auto widened = [](const std::uint8_t* p) __attribute__((always_inline)) {
#if defined(__SSE2__)  // the compiler's own conversion takes half as many instructions again
        return Wide(_mm_unpacklo_epi8(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)), _mm_setzero_si128()));
#else
        using Narrow = std::uint8_t __attribute__((vector_size(8)));
        return __builtin_convertvector(load<Narrow>(p), Wide);
#endif
    };
    const auto colour = [&](int x) __attribute__((always_inline)) {
        const Wide v = widened(upper + 3 * x - 2) + widened(lower + 3 * x - 2);
        const Wide sums = v + __builtin_shufflevector(v, Wide{}, 3, 4, 5, 6, 7, 8, 8, 8);
        const Wide places = (sums >> (10 - kColourBits)) * kPlace;
        return std::uint16_t(places[2] + places[3] + places[4]);
    };
    for (int i = 0; i + 1 < cells; ++i) out[i] = colour(kCell * i + 1);
    const int last = kCell * (cells - 1) + 1;
    out[cells - 1] = colour(last < width - 2 ? last : width - 2);
}

}  // namespace

extern const ImageKernels OF_LEVEL(image_kernels_);
const ImageKernels OF_LEVEL(image_kernels_) = {grey, smooth, halve, colours};

}  // namespace fastmcd
