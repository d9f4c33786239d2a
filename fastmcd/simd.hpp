// The compiler's vectors, as wide as the CPU level has them. A file that includes this is compiled once per level, with
// its flags and -DFASTMCD_LEVEL=name, and uses no template of the standard library: or else the linker might give one
// level's copy of it to everybody. Lanes do not mix but in integers, nothing is fused: all levels give the same bits.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "kernels.hpp"

#define ALWAYS inline __attribute__((always_inline))

namespace fastmcd {
namespace {

#if defined(__AVX512BW__)
constexpr int kVector = 64;  // bytes
#elif defined(__AVX2__)
constexpr int kVector = 32;
#else
constexpr int kVector = 16;
#endif

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

ALWAYS Floats spread(float v) { return Floats{} + v; }
ALWAYS Ints whole(Floats v) { return __builtin_convertvector(v, Ints); }  // towards zero
ALWAYS Floats real(Ints v) { return __builtin_convertvector(v, Floats); }

ALWAYS Ints lanes() {  // 0, 1, 2 ...
    Ints v{};
    for (int i = 0; i < kFloats; ++i) v[i] = i;
    return v;
}

ALWAYS unsigned bits(Ints mask) {  // one per lane, whose sign it is
#if defined(__AVX512BW__)
    return _mm512_movepi32_mask(__m512i(mask));
#elif defined(__AVX2__)
    return unsigned(_mm256_movemask_ps(__m256(mask)));
#elif defined(__SSE2__)
    return unsigned(_mm_movemask_ps(__m128(mask)));
#else
    unsigned out = 0;
    for (int i = 0; i < kFloats; ++i) out |= (mask[i] < 0 ? 1u : 0u) << i;
    return out;
#endif
}

ALWAYS Floats root(Floats v) {
#if defined(__AVX512BW__)
    return Floats(_mm512_maskz_sqrt_ps(0xffff, __m512(v)));
#elif defined(__AVX2__)
    return Floats(_mm256_sqrt_ps(__m256(v)));
#elif defined(__SSE2__)
    return Floats(_mm_sqrt_ps(__m128(v)));
#else
    for (int i = 0; i < kFloats; ++i) v[i] = __builtin_sqrtf(v[i]);
    return v;
#endif
}

ALWAYS Floats gather(const float* p, Ints index) {
#if defined(__AVX512BW__)
    return Floats(_mm512_mask_i32gather_ps(_mm512_setzero_ps(), 0xffff, __m512i(index), p, 4));
#elif defined(__AVX2__)
    return Floats(_mm256_i32gather_ps(p, __m256i(index), 4));
#else
    Floats v{};
    for (int i = 0; i < kFloats; ++i) v[i] = p[index[i]];
    return v;
#endif
}

}  // namespace
}  // namespace fastmcd
