// The vectors of one CPU level: floats side by side, and bits or nibbles side by side. For kernels.cpp alone, which is compiled once per level.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(XNOR_AVX2)
#include <immintrin.h>
#elif defined(XNOR_NEON)
#include <arm_neon.h>
#endif

namespace xnor {
namespace {  // a level's own: the linker must not give it to another

#define ALWAYS inline __attribute__((always_inline))

// ---- Floats: FLOATS lanes --------------------------------------------------------------------------------------------
#if defined(XNOR_AVX512)
using Floats = __m512;
constexpr int FLOATS = 16;
ALWAYS Floats zero() { return _mm512_setzero_ps(); }
ALWAYS Floats load(const float* p) { return _mm512_loadu_ps(p); }
ALWAYS void store(float* p, Floats v) { _mm512_storeu_ps(p, v); }
ALWAYS Floats multiply_add(float a, Floats b, Floats c) { return _mm512_fmadd_ps(_mm512_set1_ps(a), b, c); }
#elif defined(XNOR_AVX2)
using Floats = __m256;
constexpr int FLOATS = 8;
ALWAYS Floats zero() { return _mm256_setzero_ps(); }
ALWAYS Floats load(const float* p) { return _mm256_loadu_ps(p); }
ALWAYS void store(float* p, Floats v) { _mm256_storeu_ps(p, v); }
ALWAYS Floats multiply_add(float a, Floats b, Floats c) { return _mm256_fmadd_ps(_mm256_set1_ps(a), b, c); }
#elif defined(XNOR_NEON)
using Floats = float32x4_t;
constexpr int FLOATS = 4;
ALWAYS Floats zero() { return vdupq_n_f32(0); }
ALWAYS Floats load(const float* p) { return vld1q_f32(p); }
ALWAYS void store(float* p, Floats v) { vst1q_f32(p, v); }
ALWAYS Floats multiply_add(float a, Floats b, Floats c) { return vfmaq_n_f32(c, b, a); }
#else
using Floats = float;
constexpr int FLOATS = 1;
ALWAYS Floats zero() { return 0; }
ALWAYS Floats load(const float* p) { return *p; }
ALWAYS void store(float* p, Floats v) { *p = v; }
ALWAYS Floats multiply_add(float a, Floats b, Floats c) { return __builtin_fmaf(a, b, c); }  // one rounding, as everywhere
#endif

// ---- Bits: LANES outputs ---------------------------------------------------------------------------------------------
// Depth is walked in steps of one nibble (LOOKUP) or one 32-bit word.
#if defined(XNOR_VPOPCNT)
#define LOOKUP 0
constexpr int LANES = 16;
using Counts = __m512i;
ALWAYS Counts spread(std::uint32_t a) { return _mm512_set1_epi32(int(a)); }
ALWAYS Counts load_words(const std::uint8_t* p) { return _mm512_loadu_si512(p); }
ALWAYS Counts count_add(Counts a, Counts w, Counts sum) { return _mm512_add_epi32(sum, _mm512_popcnt_epi32(_mm512_xor_si512(a, w))); }
ALWAYS Counts no_counts() { return _mm512_setzero_si512(); }
ALWAYS void store_counts(std::uint16_t* p, Counts v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_maskz_cvtepi32_epi16(0xffff, v)); }
#elif defined(XNOR_AVX512)
#define LOOKUP 1
constexpr int LANES = 64;
using Bytes = __m512i;
ALWAYS Bytes no_bytes() { return _mm512_setzero_si512(); }
ALWAYS Bytes load_bytes(const std::uint8_t* p) { return _mm512_loadu_si512(p); }
ALWAYS Bytes row(const std::uint8_t* p) { return _mm512_broadcast_i32x4(_mm_load_si128(reinterpret_cast<const __m128i*>(p))); }
ALWAYS Bytes look_up_add(Bytes table, Bytes index, Bytes sum) { return _mm512_add_epi8(sum, _mm512_shuffle_epi8(table, index)); }
ALWAYS void widen(std::uint16_t* p, Bytes v, bool first) {  // p[i] = or += v[i]
    auto* q = reinterpret_cast<__m512i*>(p);
    const __m512i low = _mm512_cvtepu8_epi16(_mm512_castsi512_si256(v)), high = _mm512_cvtepu8_epi16(_mm512_extracti64x4_epi64(v, 1));
    _mm512_storeu_si512(q, first ? low : _mm512_add_epi16(_mm512_loadu_si512(q), low));
    _mm512_storeu_si512(q + 1, first ? high : _mm512_add_epi16(_mm512_loadu_si512(q + 1), high));
}
#elif defined(XNOR_AVX2)
#define LOOKUP 1
constexpr int LANES = 32;
using Bytes = __m256i;
ALWAYS Bytes no_bytes() { return _mm256_setzero_si256(); }
ALWAYS Bytes load_bytes(const std::uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
ALWAYS Bytes row(const std::uint8_t* p) { return _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(p))); }
ALWAYS Bytes look_up_add(Bytes table, Bytes index, Bytes sum) { return _mm256_add_epi8(sum, _mm256_shuffle_epi8(table, index)); }
ALWAYS void widen(std::uint16_t* p, Bytes v, bool first) {  // p[i] = or += v[i]
    auto* q = reinterpret_cast<__m256i*>(p);
    const __m256i low = _mm256_cvtepu8_epi16(_mm256_castsi256_si128(v)), high = _mm256_cvtepu8_epi16(_mm256_extracti128_si256(v, 1));
    _mm256_storeu_si256(q, first ? low : _mm256_add_epi16(_mm256_loadu_si256(q), low));
    _mm256_storeu_si256(q + 1, first ? high : _mm256_add_epi16(_mm256_loadu_si256(q + 1), high));
}
#elif defined(XNOR_NEON)
#define LOOKUP 1
constexpr int LANES = 16;
using Bytes = uint8x16_t;
ALWAYS Bytes no_bytes() { return vdupq_n_u8(0); }
ALWAYS Bytes load_bytes(const std::uint8_t* p) { return vld1q_u8(p); }
ALWAYS Bytes row(const std::uint8_t* p) { return vld1q_u8(p); }
ALWAYS Bytes look_up_add(Bytes table, Bytes index, Bytes sum) { return vaddq_u8(sum, vqtbl1q_u8(table, index)); }
ALWAYS void widen(std::uint16_t* p, Bytes v, bool first) {  // p[i] = or += v[i]
    const uint16x8_t low = vmovl_u8(vget_low_u8(v)), high = vmovl_u8(vget_high_u8(v));
    vst1q_u16(p, first ? low : vaddq_u16(vld1q_u16(p), low));
    vst1q_u16(p + 8, first ? high : vaddq_u16(vld1q_u16(p + 8), high));
}
#else
#define LOOKUP 0
constexpr int LANES = 1;
using Counts = std::uint32_t;
ALWAYS Counts spread(std::uint32_t a) { return a; }
ALWAYS Counts load_words(const std::uint8_t* p) {
    std::uint32_t w;
    std::memcpy(&w, p, 4);
    return w;
}
ALWAYS Counts count_add(Counts a, Counts w, Counts sum) { return sum + Counts(__builtin_popcount(a ^ w)); }
ALWAYS Counts no_counts() { return 0; }
ALWAYS void store_counts(std::uint16_t* p, Counts v) { *p = std::uint16_t(v); }
#endif

}  // namespace
}  // namespace xnor
