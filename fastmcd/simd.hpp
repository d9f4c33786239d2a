// The compiler's vectors, as wide as the CPU level has them; the detector's kernels and the packed networks' share
// them. A file that includes this is compiled once per level, with its flags and -DFASTMCD_LEVEL=name (see
// levels.cmake), and uses no template of the standard library: or else the linker might give one level's copy of it to
// everybody. Lanes do not mix but in integers, and what is fused is called `fused`: all levels give the same bits.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(FASTMCD_SCALAR)
#define VECTOR 4  // bytes: one lane
#elif defined(__AVX512BW__)
#define VECTOR 64
#elif defined(__AVX2__)
#define VECTOR 32
#else
#define VECTOR 16
#endif
#if defined(__SSE2__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#define ALWAYS inline __attribute__((always_inline))

// What a file defines for its level: OF_LEVEL(image_kernels_) is image_kernels_avx2, say.
#define JOINED(a, b) a##b
#define NAMED(a, b) JOINED(a, b)
#define OF_LEVEL(name) NAMED(name, FASTMCD_LEVEL)

namespace fastmcd {
namespace {

constexpr int kVector = VECTOR;
using Bytes = std::uint8_t __attribute__((vector_size(kVector)));
using Ints = std::int32_t __attribute__((vector_size(kVector)));
using Floats = float __attribute__((vector_size(kVector)));
constexpr int kFloats = kVector / 4;

template <class V>
ALWAYS V load(const void* p) {
    V v;
    std::memcpy(&v, p, sizeof v);
    return v;
}

template <class V>
ALWAYS void store(void* p, V v) {
    std::memcpy(p, &v, sizeof v);
}

template <class V>
ALWAYS V lesser(V a, V b) {
    return a < b ? a : b;
}

template <class V>
ALWAYS V greater(V a, V b) {
    return a < b ? b : a;
}

ALWAYS Floats broadcast(float v) { return v - Floats{}; }                    // not 0 + v, which is another number for -0
ALWAYS Ints whole(Floats v) { return __builtin_convertvector(v, Ints); }  // towards zero
ALWAYS Floats real(Ints v) { return __builtin_convertvector(v, Floats); }

ALWAYS Ints lanes() {  // 0, 1, 2 ...
    Ints v{};
    for (int i = 0; i < kFloats; ++i) v[i] = i;
    return v;
}

ALWAYS unsigned bits(Ints mask) {  // one per lane, whose sign it is
#if VECTOR == 64
    return _mm512_movepi32_mask(__m512i(mask));
#elif VECTOR == 32
    return unsigned(_mm256_movemask_ps(__m256(mask)));
#elif VECTOR == 16 && defined(__SSE2__)
    return unsigned(_mm_movemask_ps(__m128(mask)));
#elif VECTOR == 16 && defined(__ARM_NEON)
    const Ints weight = {1, 2, 4, 8};
    return vaddvq_u32(uint32x4_t(mask >> 31 & weight));
#else
    unsigned out = 0;
    for (int i = 0; i < kFloats; ++i) out |= (mask[i] < 0 ? 1u : 0u) << i;
    return out;
#endif
}

ALWAYS unsigned below(Floats a, Floats b) {  // one bit per lane: a < b
#if VECTOR == 64
    return _mm512_cmp_ps_mask(__m512(a), __m512(b), _CMP_LT_OQ);
#else
    return bits(a < b);
#endif
}

ALWAYS Ints widened(const std::uint16_t* p) {
#if VECTOR == 64
    return Ints(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
#elif VECTOR == 32
    return Ints(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#else
    using Halves = std::uint16_t __attribute__((vector_size(kVector / 2)));
    return __builtin_convertvector(load<Halves>(p), Ints);
#endif
}

ALWAYS Floats root(Floats v) {
#if VECTOR == 64
    return Floats(_mm512_maskz_sqrt_ps(0xffff, __m512(v)));
#elif VECTOR == 32
    return Floats(_mm256_sqrt_ps(__m256(v)));
#elif VECTOR == 16 && defined(__SSE2__)
    return Floats(_mm_sqrt_ps(__m128(v)));
#else
    for (int i = 0; i < kFloats; ++i) v[i] = __builtin_sqrtf(v[i]);
    return v;
#endif
}

ALWAYS Floats gather(const float* p, Ints index) {
#if VECTOR == 64
    return Floats(_mm512_mask_i32gather_ps(_mm512_setzero_ps(), 0xffff, __m512i(index), p, 4));
#elif VECTOR == 32
    return Floats(_mm256_i32gather_ps(p, __m256i(index), 4));
#else
    Floats v{};
    for (int i = 0; i < kFloats; ++i) v[i] = p[index[i]];
    return v;
#endif
}

ALWAYS Floats fused(Floats a, Floats b, Floats c) {  // a * b + c, rounded once
#if VECTOR == 64
    return Floats(_mm512_fmadd_ps(__m512(a), __m512(b), __m512(c)));
#elif VECTOR == 32
    return Floats(_mm256_fmadd_ps(__m256(a), __m256(b), __m256(c)));
#elif VECTOR == 16 && defined(__ARM_NEON)
    return Floats(vfmaq_f32(float32x4_t(c), float32x4_t(a), float32x4_t(b)));
#else
    for (int i = 0; i < kFloats; ++i) c[i] = __builtin_fmaf(a[i], b[i], c[i]);
    return c;
#endif
}

// ---- Bits ----------------------------------------------------------------------------------------------------------
#if VECTOR == 4 || defined(__AVX512VPOPCNTDQ__)
#define COUNTS 1  // ones are counted word by word
ALWAYS Ints popcount(Ints v) {
#if VECTOR == 4
    return Ints{__builtin_popcount(unsigned(v[0]))};
#else
    return Ints(_mm512_popcnt_epi32(__m512i(v)));
#endif
}
#elif VECTOR > 16 || defined(__ARM_NEON)
#define SHUFFLES 1  // 16 bytes are looked up in a table
ALWAYS Bytes repeat(const std::uint8_t* p) {  // 16 aligned bytes, side by side
#if VECTOR == 64
    return Bytes(_mm512_broadcast_i32x4(_mm_load_si128(reinterpret_cast<const __m128i*>(p))));
#elif VECTOR == 32
    return Bytes(_mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(p))));
#else
    return load<Bytes>(p);
#endif
}
ALWAYS Bytes look_up(Bytes table, Bytes index) {  // table[index] of each group of 16 bytes
#if VECTOR == 64
    return Bytes(_mm512_shuffle_epi8(__m512i(table), __m512i(index)));
#elif VECTOR == 32
    return Bytes(_mm256_shuffle_epi8(__m256i(table), __m256i(index)));
#else
    return Bytes(vqtbl1q_u8(uint8x16_t(table), uint8x16_t(index)));
#endif
}
// The lower and the upper half as 16-bit numbers. By name: what the compiler makes of a conversion keeps the vector in
// memory.
using Shorts = std::uint16_t __attribute__((vector_size(kVector)));
#if VECTOR == 64
ALWAYS Shorts lower(Bytes v) { return Shorts(_mm512_cvtepu8_epi16(_mm512_castsi512_si256(__m512i(v)))); }
ALWAYS Shorts upper(Bytes v) { return Shorts(_mm512_cvtepu8_epi16(_mm512_extracti64x4_epi64(__m512i(v), 1))); }
#elif VECTOR == 32
ALWAYS Shorts lower(Bytes v) { return Shorts(_mm256_cvtepu8_epi16(_mm256_castsi256_si128(__m256i(v)))); }
ALWAYS Shorts upper(Bytes v) { return Shorts(_mm256_cvtepu8_epi16(_mm256_extracti128_si256(__m256i(v), 1))); }
#else
ALWAYS Shorts lower(Bytes v) { return Shorts(vmovl_u8(vget_low_u8(uint8x16_t(v)))); }
ALWAYS Shorts upper(Bytes v) { return Shorts(vmovl_u8(vget_high_u8(uint8x16_t(v)))); }
#endif
#endif

}  // namespace
}  // namespace fastmcd
