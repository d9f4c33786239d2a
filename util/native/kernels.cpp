// The kernels of one CPU level: compiled once per level (see fastmcd/simd.hpp).
#include "kernels.hpp"

#include <cstring>

#include "../../fastmcd/simd.hpp"

namespace xnor {
namespace {

using namespace fastmcd;

// Up to 4 pixels by BLOCKS blocks of sums are held in registers.
template <int PIXELS, int BLOCKS>
struct Tile {};

// Calls f with the tile that fits `pixels` and `blocks` (both at least 1; more than 3 blocks count as 3); returns the blocks done.
template <class F>
ALWAYS int choose(int pixels, int blocks, F f) {
    const auto with_pixels = [&]<int PIXELS>() {
        if (blocks >= 3) return f(Tile<PIXELS, 3>{}), 3;
        if (blocks == 2) return f(Tile<PIXELS, 2>{}), 2;
        return f(Tile<PIXELS, 1>{}), 1;
    };
    if (pixels == 4) return with_pixels.template operator()<4>();
    if (pixels == 3) return with_pixels.template operator()<3>();
    if (pixels == 2) return with_pixels.template operator()<2>();
    return with_pixels.template operator()<1>();
}

// ---- Binary sums -----------------------------------------------------------------------------------------------------
struct BinaryJob {
    const std::uint8_t* weights;  // of the tile's first block
    std::size_t block_bytes;
    const std::uint8_t* const* input;
    const Run* runs;
    int count;
    std::uint16_t* counts;
    int stride;
};

#if defined(SHUFFLES)
// popcount(a ^ w) of two nibbles is found in row a, column w of this table. The row is picked by the input and spread over a register; a
// register of weights then picks the columns: one shuffle and one addition for LANES x 4 multiply-adds, half the work of counting bits.
struct alignas(64) Table {
    std::uint8_t count[16][16];
    constexpr Table() : count{} {
        for (int a = 0; a < 16; ++a)
            for (int w = 0; w < 16; ++w) {
                const int x = a ^ w;
                count[a][w] = std::uint8_t((x & 1) + (x >> 1 & 1) + (x >> 2 & 1) + (x >> 3));
            }
    }
};
constexpr Table TABLE;
constexpr int LANES = kVector;
constexpr int FULL = 63;  // nibbles, of at most 4 each, that a byte can count

constexpr int NIBBLES = 8;  // of a word of 32 channels
constexpr int WORD_BYTES = NIBBLES, LOAD_BYTES = 1;
int depth_of(int channels) { return (channels + 3) / 4; }
ALWAYS std::uint8_t weight_at(const std::uint32_t* words, int i) { return words[i / NIBBLES] >> (i % NIBBLES * 4) & 15; }

ALWAYS void put_word(std::uint8_t* out, std::uint32_t word) {
    std::uint64_t wide = word;
    wide = (wide | wide << 16) & 0x0000ffff0000ffff;
    wide = (wide | wide << 8) & 0x00ff00ff00ff00ff;
    wide = (wide << 4 | wide << 8) & 0xf0f0f0f0f0f0f0f0;  // low nibble to the upper half of its byte, high nibble to the next byte's
    std::memcpy(out, &wide, 8);
}

ALWAYS void widen(std::uint16_t* p, Bytes v, bool first) {  // p[i] = or += v[i]
    store(p, first ? lower(v) : lower(v) + load<Shorts>(p));
    store(p + LANES / 2, first ? upper(v) : upper(v) + load<Shorts>(p + LANES / 2));
}

template <int PIXELS, int BLOCKS>
ALWAYS void sum_binary(Tile<PIXELS, BLOCKS>, const BinaryJob& job) {
    const std::uint8_t* table = TABLE.count[0];
    Bytes sum[PIXELS][BLOCKS];
    int held = 0;
    bool first = true;
    const auto clear = [&]() __attribute__((always_inline)) {
        for (int p = 0; p < PIXELS; ++p)
            for (int b = 0; b < BLOCKS; ++b) sum[p][b] = Bytes{};
        held = 0;
    };
    const auto flush = [&]() __attribute__((always_inline)) {
        for (int p = 0; p < PIXELS; ++p)
            for (int b = 0; b < BLOCKS; ++b) widen(job.counts + p * job.stride + b * LANES, sum[p][b], first);
        first = false;
        clear();
    };
    clear();
    for (const Run* run = job.runs; run != job.runs + job.count; ++run) {
        const std::uint8_t* weights = job.weights + std::size_t(run->weight) * LANES;
        const std::uint8_t* a[PIXELS];
        for (int p = 0; p < PIXELS; ++p) a[p] = job.input[p] + run->offset;
        for (int start = 0; start < run->length;) {
            if (held == FULL) flush();
            int end = start + FULL - held;
            if (end > run->length) end = run->length;
            held += end - start;
            for (; start < end; ++start) {
                Bytes w[BLOCKS];
                for (int b = 0; b < BLOCKS; ++b) w[b] = load<Bytes>(weights + b * job.block_bytes + std::size_t(start) * LANES);
                for (int p = 0; p < PIXELS; ++p) {
                    const Bytes counts = repeat(table + a[p][start]);
                    for (int b = 0; b < BLOCKS; ++b) sum[p][b] = sum[p][b] + look_up(counts, w[b]);
                }
            }
        }
    }
    flush();
}
#else
constexpr int LANES = kFloats, WORD_BYTES = 4, LOAD_BYTES = 4;
int depth_of(int channels) { return (channels + 31) / 32; }
ALWAYS std::uint32_t weight_at(const std::uint32_t* words, int i) { return words[i]; }
using Halves = std::uint16_t __attribute__((vector_size(kVector / 2)));
ALWAYS void put_word(std::uint8_t* out, std::uint32_t word) { std::memcpy(out, &word, 4); }

template <int PIXELS, int BLOCKS>
ALWAYS void sum_binary(Tile<PIXELS, BLOCKS>, const BinaryJob& job) {
    Ints sum[PIXELS][BLOCKS];
    for (int p = 0; p < PIXELS; ++p)
        for (int b = 0; b < BLOCKS; ++b) sum[p][b] = Ints{};
    for (const Run* run = job.runs; run != job.runs + job.count; ++run) {
        const std::uint8_t* weights = job.weights + std::size_t(run->weight) * LANES * 4;
        for (int i = 0; i < run->length; ++i)
            for (int p = 0; p < PIXELS; ++p) {
                std::int32_t word;
                std::memcpy(&word, job.input[p] + run->offset + 4 * i, 4);
                const Ints a = Ints{} + word;
                for (int b = 0; b < BLOCKS; ++b)
                    sum[p][b] += popcount(a ^ load<Ints>(weights + b * job.block_bytes + std::size_t(i) * LANES * 4));
            }
    }
    for (int p = 0; p < PIXELS; ++p)
        for (int b = 0; b < BLOCKS; ++b) store(job.counts + p * job.stride + b * LANES, __builtin_convertvector(sum[p][b], Halves));
}
#endif

std::size_t pack(const std::uint32_t* words, int outputs, int taps, int channels, std::uint8_t* out) {
    const int depth = depth_of(channels), per_tap = (channels + 31) / 32, blocks = (outputs + LANES - 1) / LANES;
    if (out == nullptr) return std::size_t(blocks) * taps * depth * LANES * LOAD_BYTES;
    std::uint8_t* to = out;
    for (int block = 0; block < blocks; ++block)
        for (int t = 0; t < taps; ++t)
            for (int i = 0; i < depth; ++i)
                for (int lane = 0; lane < LANES; ++lane, to += LOAD_BYTES) {
                    const int o = block * LANES + lane;
                    const auto w = o < outputs ? weight_at(words + (std::size_t(o) * taps + t) * per_tap, i) : 0;
                    std::memcpy(to, &w, LOAD_BYTES);
                }
    return std::size_t(to - out);
}

void binary(const std::uint8_t* weights, int blocks, int length, const std::uint8_t* const* input, int pixels, const Run* runs, int count,
            std::uint16_t* counts, int stride) {
    const std::size_t block_bytes = std::size_t(length) * LANES * LOAD_BYTES;
    for (int block = 0; block < blocks;)
        block += choose(pixels, blocks - block, [&](auto tile) {
            sum_binary(tile, {weights + block * block_bytes, block_bytes, input, runs, count, counts + block * LANES, stride});
        });
}

// ---- Float sums ------------------------------------------------------------------------------------------------------
void real(const float* weights, int blocks, int rows, int length, const float* const* input, int pixels, int pitch, float* sums, int stride) {
    const std::size_t block_size = std::size_t(rows) * length * kFloats;
    for (int block = 0; block < blocks;)
        block += choose(pixels, blocks - block, [&]<int PIXELS, int BLOCKS>(Tile<PIXELS, BLOCKS>) {
            const float* w = weights + block * block_size;
            Floats sum[PIXELS][BLOCKS];
            for (int p = 0; p < PIXELS; ++p)
                for (int b = 0; b < BLOCKS; ++b) sum[p][b] = Floats{};
            for (int r = 0; r < rows; ++r)
                for (int i = 0; i < length; ++i, w += kFloats)
                    for (int p = 0; p < PIXELS; ++p) {
                        const Floats a = spread(input[p][std::ptrdiff_t(r) * pitch + i]);
                        for (int b = 0; b < BLOCKS; ++b) sum[p][b] = fused(a, load<Floats>(w + b * block_size), sum[p][b]);
                    }
            for (int p = 0; p < PIXELS; ++p)
                for (int b = 0; b < BLOCKS; ++b) store(sums + p * stride + (block + b) * kFloats, sum[p][b]);
        });
}

// ---- What follows a sum ----------------------------------------------------------------------------------------------
void count_bits(const std::uint16_t* counts, const std::uint16_t* least, int n, std::uint8_t* out) {
    for (int start = 0; start < n; start += 32, out += WORD_BYTES) {
        std::uint32_t word = 0;
#if defined(__AVX2__)
        const auto at_least = [&](int i) {
            const __m256i c = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(counts + start + i));
            const __m256i l = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(least + start + i));
            return _mm256_cmpeq_epi16(_mm256_max_epu16(c, l), c);
        };
        const __m256i bytes = _mm256_packs_epi16(at_least(0), at_least(16));  // in the order 0-7, 16-23, 8-15, 24-31
        word = std::uint32_t(_mm256_movemask_epi8(_mm256_permute4x64_epi64(bytes, 0b11011000)));
#else
        for (int i = 0; i < 32; ++i) word |= std::uint32_t(counts[start + i] >= least[start + i]) << i;
#endif
        put_word(out, word);
    }
}

void float_bits(const float* x, const float* threshold, int n, std::uint8_t* out) {
    for (int start = 0; start < n; start += 32, out += WORD_BYTES) {
        std::uint32_t word = 0;
#if defined(__AVX2__)
        for (int i = 0; i < 32; i += 8) {
            const __m256 below = _mm256_cmp_ps(_mm256_loadu_ps(x + start + i), _mm256_loadu_ps(threshold + start + i), _CMP_LT_OQ);
            word |= std::uint32_t(_mm256_movemask_ps(below)) << i;
        }
#else
        for (int i = 0; i < 32; ++i) word |= std::uint32_t(x[start + i] < threshold[start + i]) << i;
#endif
        put_word(out, word);
    }
}

void bfloat16_bits(const std::uint16_t* x, int n, std::uint8_t* out) {
    for (int start = 0; start < n; start += 32, out += WORD_BYTES) {
        std::uint32_t word = 0;
#if defined(__AVX512BW__)
        const __mmask32 inside = n - start < 32 ? (__mmask32(1) << (n - start)) - 1 : ~__mmask32(0);
        word = _mm512_movepi16_mask(_mm512_maskz_loadu_epi16(inside, x + start));
#else
        for (int i = 0; i < 32 && start + i < n; ++i) word |= std::uint32_t(x[start + i] >> 15) << i;
#endif
        put_word(out, word);
    }
}

void to_bfloat16(const float* x, int n, std::uint16_t* y) {
    for (int i = 0; i < n; ++i) {
        std::uint32_t bits;
        std::memcpy(&bits, x + i, 4);
        y[i] = std::uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
    }
}

ALWAYS float after(float x, float scale, float shift, float floor) {
    const float y = __builtin_fmaf(x, scale, shift);
    return y < floor ? floor : y;
}

void count_affine(const std::uint16_t* counts, int taps, const float* scale, const float* shift, bool relu, int n, float* y) {
    const float floor = relu ? 0.0f : -__builtin_inff();
    for (int i = 0; i < n; ++i) y[i] = after(float(taps - 2 * int(counts[i])), scale[i], shift[i], floor);
}

void float_affine(const float* x, const float* scale, const float* shift, bool relu, int n, float* y) {
    const float floor = relu ? 0.0f : -__builtin_inff();
    for (int i = 0; i < n; ++i) y[i] = after(x[i], scale[i], shift[i], floor);
}

void prelu(const float* x, const float* slope, int n, float* y) {
    for (int i = 0; i < n; ++i) {  // no branch, which would be guessed wrong half the time: this form is vectorized at every level
        const float below = x[i] < 0 ? x[i] : 0.0f, above = x[i] < 0 ? 0.0f : x[i];
        y[i] = above + below * slope[i];
    }
}

// ---- The limit -------------------------------------------------------------------------------------------------------
// The compiler must not see that every round is the same, and must keep the sums in registers.
#if VECTOR == 4
#define OPAQUE(value) asm volatile("" : "+r"(value))
#elif defined(__ARM_NEON)
#define OPAQUE(value) asm volatile("" : "+w"(value))
#else
#define OPAQUE(value) asm volatile("" : "+v"(value))
#endif

double spin(int rounds) {
    constexpr int SUMS = 8;  // enough for the processor to have always one that is ready
#if defined(SHUFFLES)
    Bytes table = repeat(TABLE.count[0]), w = load<Bytes>(TABLE.count[0]), sum[SUMS];
    for (Bytes& s : sum) s = Bytes{};
    constexpr double DEPTH = 4;
#else
    Ints bits = Ints{} + 7, w = Ints{} + 5, sum[SUMS] = {};
    constexpr double DEPTH = 32;
#endif
    for (int r = 0; r < rounds; ++r)
#pragma GCC unroll 8
        for (int i = 0; i < SUMS; ++i) {
            OPAQUE(w);
#if defined(SHUFFLES)
            sum[i] += look_up(table, w);
#else
            sum[i] += popcount(bits ^ w);
#endif
        }
#pragma GCC unroll 8
    for (int i = 0; i < SUMS; ++i) OPAQUE(sum[i]);
    return DEPTH * LANES * SUMS * rounds;
}

}  // namespace

#define XNOR_JOIN(a, b) a##b
#define XNOR_TEXT(a) #a
#define XNOR_TABLE(level)                                                                                                          \
    extern const Kernels XNOR_JOIN(kernels_, level);                                                                               \
    const Kernels XNOR_JOIN(kernels_, level){XNOR_TEXT(level), WORD_BYTES, LOAD_BYTES, LANES, kFloats, depth_of, pack, binary, real, count_bits, \
                                             float_bits, count_affine, float_affine, bfloat16_bits, to_bfloat16, prelu, spin};
XNOR_TABLE(FASTMCD_LEVEL)

}  // namespace xnor
