// What becomes of a pixel's sums, as Finish says. For kernels.cpp: compiled once per level, as simd.hpp is.
#pragma once

#include <cstring>

#include "../../fastmcd/simd.hpp"
#include "kernels.hpp"

namespace xnor {
namespace {

using namespace fastmcd;

// ---- Bits of 32 channels -------------------------------------------------------------------------------------------
#if defined(SHUFFLES)
constexpr int kWordBytes = 8;
ALWAYS void put_word(std::uint8_t* out, std::uint32_t word) {
    std::uint64_t wide = word;
    wide = (wide | wide << 16) & 0x0000ffff0000ffff;
    wide = (wide | wide << 8) & 0x00ff00ff00ff00ff;
    // The low nibble goes to the upper half of its byte, the high nibble to the next byte's.
    wide = (wide << 4 | wide << 8) & 0xf0f0f0f0f0f0f0f0;
    std::memcpy(out, &wide, 8);
}
#else
constexpr int kWordBytes = 4;
ALWAYS void put_word(std::uint8_t* out, std::uint32_t word) { std::memcpy(out, &word, 4); }
#endif

ALWAYS std::uint32_t at_least(const std::uint16_t* counts, const std::uint16_t* least) {  // a bit for each of 32
#if VECTOR == 64
    return _mm512_cmpge_epu16_mask(_mm512_loadu_si512(counts), _mm512_loadu_si512(least));
#elif VECTOR == 32
    const auto compare = [&](int i) {
        const __m256i c = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(counts + i));
        const __m256i l = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(least + i));
        return _mm256_cmpeq_epi16(_mm256_max_epu16(c, l), c);
    };
    const __m256i bytes = _mm256_packs_epi16(compare(0), compare(16));  // in the order 0-7, 16-23, 8-15, 24-31
    return std::uint32_t(_mm256_movemask_epi8(_mm256_permute4x64_epi64(bytes, 0b11011000)));
#else
    std::uint32_t word = 0;
    for (int i = 0; i < 32; ++i) word |= std::uint32_t(counts[i] >= least[i]) << i;
    return word;
#endif
}

ALWAYS void count_bits(const std::uint16_t* counts, const std::uint16_t* least, int n, std::uint8_t* out) {
    for (int start = 0; start < n; start += 32, out += kWordBytes)
        put_word(out, at_least(counts + start, least + start));
}

// ---- Floats and bits -----------------------------------------------------------------------------------------------
using Halves = std::uint16_t __attribute__((vector_size(kVector / 2)));

template <class V, class T>
ALWAYS void store_part(T* p, V v, int count) {
    if (count >= kFloats) store(p, v);
    else std::memcpy(p, &v, sizeof(T) * unsigned(count));
}

ALWAYS Floats scaled(const Affine& affine, int i, Floats v, Floats floor) {  // floor: affine's, in all lanes
    return greater(fused(v, load<Floats>(affine.scale + i), load<Floats>(affine.shift + i)), floor);
}

// The shortcut's channels at a pixel: where they lie, or in `line`.
ALWAYS const float* shortcut(const Finish& f, int y, int x, float* line) {
    if (f.size == 1 && f.past_channels == f.channels) return f.past.at(y, x);
    const int n = f.past_channels;
    for (int i = 0; i < f.size * f.size; ++i) {
        const float* from = f.past.at(y * f.size + i / f.size, x * f.size + i % f.size);
        for (int c = 0; c < n; ++c) line[c] = i == 0 ? from[c] : line[c] + from[c];
    }
    const float area = float(f.size) * float(f.size);
    for (int c = 0; c < n; ++c) line[c] /= area;
    for (int c = n; c < f.channels; ++c) line[c] = line[c - n];
    return line;
}

// Where a pixel's sums come from: floats, or counts of the bits in which inputs and weights differ.
struct Sums {
    const float* sums;
    ALWAYS Floats operator()(int i) const { return load<Floats>(sums + i); }
};
struct Counts {
    const std::uint16_t* counts;
    int taps;
    ALWAYS Floats operator()(int i) const { return real(taps - 2 * widened(counts + i)); }
};

enum Kept { kFloatsOnly, kBitsOnly, kBoth };

// A loop for each thing that can be asked for, as a branch per vector would cost a third. line: memory for a shortcut.
template <bool SCALED, bool PAST, Kept KEPT, class Source>
__attribute__((noinline)) void finish_pixel(const Finish& f, int y, int x, float* line, Source source) {
    const float* past = PAST ? shortcut(f, y, x, line) : nullptr;
    float* floats = KEPT != kBitsOnly && f.floats.data ? f.floats.at(y, x) : nullptr;
    std::uint16_t* halves = KEPT == kFloatsOnly && f.halves.data ? f.halves.at(y, x) : nullptr;
    std::uint8_t* bits = KEPT != kFloatsOnly ? f.bits.at(y, x) : nullptr;
    const Floats floor = broadcast(f.affine.floor);
    const auto vector = [&](int i, int count) __attribute__((always_inline)) {  // returns bits
        Floats v = source(i);
        if (SCALED) {
            v = scaled(f.affine, i, v, floor);
            if (f.slope) v = v < 0 ? v * load<Floats>(f.slope + i) : v;
        }
        if (PAST) v += load<Floats>(past + i);
        if (KEPT == kBoth || (KEPT == kFloatsOnly && floats)) store_part(floats + i, v, count);
        if (KEPT == kFloatsOnly && halves) {
            const Ints rounded = (Ints(v) + 0x7fff + (Ints(v) >> 16 & 1)) >> 16;
            store_part(halves + i, __builtin_convertvector(rounded, Halves), count);
        }
        if (KEPT == kFloatsOnly) return 0u;
        return below(f.turn ? v * load<Floats>(f.turn + i) : v, load<Floats>(f.threshold + i));
    };
    int start = 0;
    for (; start + 32 <= f.channels; start += 32) {
        std::uint32_t word = 0;
        for (int i = 0; i < 32; i += kFloats) word |= vector(start + i, kFloats) << i;
        if (KEPT != kFloatsOnly) put_word(bits, word), bits += kWordBytes;
    }
    if (start == f.channels) return;
    std::uint32_t word = 0;
    for (int i = 0; start + i < f.channels; i += kFloats) word |= vector(start + i, f.channels - start - i) << i;
    if (KEPT != kFloatsOnly) put_word(bits, word);
}

template <class Source>
using FinishPixel = void (*)(const Finish&, int y, int x, float* line, Source);

template <bool SCALED, bool PAST, class Source>
constexpr FinishPixel<Source> kFinish[3] = {finish_pixel<SCALED, PAST, kFloatsOnly, Source>,
                                            finish_pixel<SCALED, PAST, kBitsOnly, Source>,
                                            finish_pixel<SCALED, PAST, kBoth, Source>};

template <class Source>
FinishPixel<Source> finish_for(const Finish& f) {
    const Kept kept = !f.bits.data ? kFloatsOnly : f.floats.data ? kBoth : kBitsOnly;
    const bool scales = f.affine.scale != nullptr;
    if (f.past.data) return scales ? kFinish<true, true, Source>[kept] : kFinish<false, true, Source>[kept];
    return scales ? kFinish<true, false, Source>[kept] : kFinish<false, false, Source>[kept];
}

}  // namespace
}  // namespace xnor
