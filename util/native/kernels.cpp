// The kernels of one CPU level: compiled once per level (see fastmcd/simd.hpp).
#include "kernels.hpp"

#include <cstring>

#include "../../fastmcd/simd.hpp"

namespace xnor {
namespace {

using namespace fastmcd;

// ---- Bits of 32 channels -------------------------------------------------------------------------------------------
#if defined(SHUFFLES)
constexpr int kLanes = kVector;  // outputs of a block
constexpr int kNibbles = 8;      // of a word of 32 channels
constexpr int kWordBytes = kNibbles, kLoadBytes = 1;
int depth_of(int channels) { return (channels + 3) / 4; }
ALWAYS std::uint8_t weight_at(const std::uint32_t* words, int i) {
    return words[i / kNibbles] >> (i % kNibbles * 4) & 15;
}

ALWAYS void put_word(std::uint8_t* out, std::uint32_t word) {
    std::uint64_t wide = word;
    wide = (wide | wide << 16) & 0x0000ffff0000ffff;
    wide = (wide | wide << 8) & 0x00ff00ff00ff00ff;
    // The low nibble goes to the upper half of its byte, the high nibble to the next byte's.
    wide = (wide << 4 | wide << 8) & 0xf0f0f0f0f0f0f0f0;
    std::memcpy(out, &wide, 8);
}
#else
constexpr int kLanes = kFloats;
constexpr int kWordBytes = 4, kLoadBytes = 4;
int depth_of(int channels) { return (channels + 31) / 32; }
ALWAYS std::uint32_t weight_at(const std::uint32_t* words, int i) { return words[i]; }
ALWAYS void put_word(std::uint8_t* out, std::uint32_t word) { std::memcpy(out, &word, 4); }
#endif
using Halves = std::uint16_t __attribute__((vector_size(kVector / 2)));

// Up to 4 pixels by BLOCKS blocks of sums are held in registers.
template <int PIXELS, int BLOCKS>
struct Tile {};

// Calls f with the tile that fits `pixels` and `blocks` (both at least 1; more than 3 blocks count as 3); returns the
// blocks done.
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

// ---- What follows a sum --------------------------------------------------------------------------------------------
template <class V, class T>
ALWAYS void store_part(T* p, V v, int count) {
    if (count >= kFloats) store(p, v);
    else std::memcpy(p, &v, sizeof(T) * unsigned(count));
}

ALWAYS Floats scaled(const Affine& affine, int i, Floats v, Floats floor) {
    if (affine.scale == nullptr) return v;
    return greater(fused(v, load<Floats>(affine.scale + i), load<Floats>(affine.shift + i)), floor);
}

// The shortcut's channels at a pixel: where they lie, or in `line`.
ALWAYS const float* shortcut(const Finish& f, int y, int x, float* line) {
    const Plane<const float>& past = f.past;
    if (past.data == nullptr || (f.size == 1 && f.past_channels == f.channels))
        return past.data ? past.at(y, x) : nullptr;
    const int n = f.past_channels;
    for (int i = 0; i < f.size * f.size; ++i) {
        const float* from = past.at(y * f.size + i / f.size, x * f.size + i % f.size);
        for (int c = 0; c < n; ++c) line[c] = i == 0 ? from[c] : line[c] + from[c];
    }
    const float area = float(f.size) * float(f.size);
    for (int c = 0; c < n; ++c) line[c] /= area;
    for (int c = n; c < f.channels; ++c) line[c] = line[c - n];
    return line;
}

enum Kept { kFloatsOnly, kBitsOnly, kBoth };

struct Sums {
    const float* sums;
    ALWAYS Floats operator()(int i) const { return load<Floats>(sums + i); }
};
struct Counts {
    const std::uint16_t* counts;
    int taps;
    ALWAYS Floats operator()(int i) const { return real(taps - 2 * widened(counts + i)); }
};

// A loop for each thing that can be asked for, as a branch per vector would cost a third.
template <bool SCALED, bool PAST, Kept KEPT, class Source>
__attribute__((noinline)) void finish_pixel(const Finish& f, int y, int x, float* line, Source source) {
    const float* past = PAST ? shortcut(f, y, x, line) : nullptr;
    float* floats = KEPT != kBitsOnly && f.floats.data ? f.floats.at(y, x) : nullptr;
    std::uint16_t* halves = KEPT == kFloatsOnly && f.halves.data ? f.halves.at(y, x) : nullptr;
    std::uint8_t* bits = KEPT != kFloatsOnly ? f.bits.at(y, x) : nullptr;
    const Floats floor = broadcast(f.floor);
    const auto vector = [&](int i, int count) __attribute__((always_inline)) {  // returns bits
        Floats v = source(i);
        if (SCALED) {
            v = greater(fused(v, load<Floats>(f.scale + i), load<Floats>(f.shift + i)), floor);
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
    if (f.past.data) return f.scaled ? kFinish<true, true, Source>[kept] : kFinish<false, true, Source>[kept];
    return f.scaled ? kFinish<true, false, Source>[kept] : kFinish<false, false, Source>[kept];
}

// ---- Binary sums ---------------------------------------------------------------------------------------------------
struct Tiled {  // one block, or several, of a group
    const std::uint8_t* weights;
    std::size_t block_bytes;
    const std::uint8_t* const* input;
    const Run *run, *end;
    std::uint16_t* counts;
    int stride;
};

#if defined(SHUFFLES)
// popcount(a ^ w) of two nibbles is found in row a, column w of this table. The row is picked by the input and spread
// over a register; a register of weights then picks the columns: one shuffle and one addition for kLanes x 4
// multiply-adds, half the work of counting bits.
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
constexpr Table kTable;
constexpr int kFull = 63;  // nibbles, of at most 4 each, that a byte can count

ALWAYS void widen(std::uint16_t* p, Bytes v, bool first) {  // p[i] = or += v[i]
    store(p, first ? lower(v) : lower(v) + load<Shorts>(p));
    store(p + kLanes / 2, first ? upper(v) : upper(v) + load<Shorts>(p + kLanes / 2));
}

template <int PIXELS, int BLOCKS>
ALWAYS void sum_binary(Tile<PIXELS, BLOCKS>, const Tiled& job) {
    const std::uint8_t* table = kTable.count[0];
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
            for (int b = 0; b < BLOCKS; ++b) widen(job.counts + p * job.stride + b * kLanes, sum[p][b], first);
        first = false;
        clear();
    };
    clear();
    for (const Run* run = job.run; run != job.end; ++run) {
        const std::uint8_t* weights = job.weights + std::size_t(run->weight) * kLanes;
        const std::uint8_t* a[PIXELS];
        for (int p = 0; p < PIXELS; ++p) a[p] = job.input[p] + run->offset;
        for (int start = 0; start < run->length;) {
            if (held == kFull) flush();
            int end = start + kFull - held;
            if (end > run->length) end = run->length;
            held += end - start;
            for (; start < end; ++start) {
                Bytes w[BLOCKS];
                for (int b = 0; b < BLOCKS; ++b)
                    w[b] = load<Bytes>(weights + b * job.block_bytes + std::size_t(start) * kLanes);
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
template <int PIXELS, int BLOCKS>
ALWAYS void sum_binary(Tile<PIXELS, BLOCKS>, const Tiled& job) {
    Ints sum[PIXELS][BLOCKS];
    for (int p = 0; p < PIXELS; ++p)
        for (int b = 0; b < BLOCKS; ++b) sum[p][b] = Ints{};
    for (const Run* run = job.run; run != job.end; ++run) {
        const std::uint8_t* weights = job.weights + std::size_t(run->weight) * kLanes * 4;
        for (int i = 0; i < run->length; ++i)
            for (int p = 0; p < PIXELS; ++p) {
                std::int32_t word;
                std::memcpy(&word, job.input[p] + run->offset + 4 * i, 4);
                const Ints a = Ints{} + word;
                for (int b = 0; b < BLOCKS; ++b)
                    sum[p][b] += popcount(a ^ load<Ints>(weights + b * job.block_bytes + std::size_t(i) * kLanes * 4));
            }
    }
    for (int p = 0; p < PIXELS; ++p)
        for (int b = 0; b < BLOCKS; ++b)
            store(job.counts + p * job.stride + b * kLanes, __builtin_convertvector(sum[p][b], Halves));
}
#endif

std::size_t pack(const std::uint32_t* words, int outputs, int taps, int channels, std::uint8_t* out) {
    const int depth = depth_of(channels), per_tap = (channels + 31) / 32, blocks = (outputs + kLanes - 1) / kLanes;
    if (out == nullptr) return std::size_t(blocks) * taps * depth * kLanes * kLoadBytes;
    std::uint8_t* to = out;
    for (int block = 0; block < blocks; ++block)
        for (int t = 0; t < taps; ++t)
            for (int i = 0; i < depth; ++i)
                for (int lane = 0; lane < kLanes; ++lane, to += kLoadBytes) {
                    const int o = block * kLanes + lane;
                    const auto w = o < outputs ? weight_at(words + (std::size_t(o) * taps + t) * per_tap, i) : 0;
                    std::memcpy(to, &w, kLoadBytes);
                }
    return std::size_t(to - out);
}

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

void binary(const BinaryJob& job, const Finish& f, int first, int last, const Scratch& scratch) {
    const std::size_t block_bytes = std::size_t(job.length) * kLanes * kLoadBytes;
    const auto finish = finish_for<Counts>(f);
    for (const Group* g = job.groups + first; g != job.groups + last; ++g) {
        const Pattern& pattern = job.patterns[g->pattern];
        const Run* run = job.runs + pattern.first;
        const std::uint8_t* input[kPixels];
        for (int p = 0; p < g->pixels; ++p) input[p] = job.input + g->input[p];
        for (int block = 0; block < job.blocks;)
            block += choose(g->pixels, job.blocks - block, [&](auto tile) {
                sum_binary(tile, {job.weights + block * block_bytes, block_bytes, input, run, run + pattern.count,
                                  scratch.counts + block * kLanes, job.stride});
            });
        for (int p = 0; p < g->pixels; ++p) {
            const std::uint16_t* counts = scratch.counts + p * job.stride;
            if (job.least)
                count_bits(counts, job.least + std::ptrdiff_t(g->pattern) * job.stride, f.channels,
                           f.bits.at(g->y[p], g->x[p]));
            else finish(f, g->y[p], g->x[p], scratch.past, Counts{counts, pattern.taps});
        }
    }
}

// ---- Float sums ----------------------------------------------------------------------------------------------------
template <int PIXELS, int BLOCKS>
ALWAYS void sum_real(Tile<PIXELS, BLOCKS>, const RealJob& job, const float* w, const float* const* input, float* sums) {
    const int rows = job.rows, length = job.length;
    const std::size_t block_size = std::size_t(rows) * length * kFloats, pitch = job.input.row;
    Floats sum[PIXELS][BLOCKS] = {};
    for (int r = 0; r < rows; ++r)
        for (int i = 0; i < length; ++i, w += kFloats)
            for (int p = 0; p < PIXELS; ++p) {
                const Floats a = broadcast(input[p][r * pitch + i]);
                for (int b = 0; b < BLOCKS; ++b) sum[p][b] = fused(a, load<Floats>(w + b * block_size), sum[p][b]);
            }
    for (int p = 0; p < PIXELS; ++p)
        for (int b = 0; b < BLOCKS; ++b) store(sums + p * job.sums_stride + b * kFloats, sum[p][b]);
}

void real_sums(const RealJob& job, const Finish& f, int first, int last, const Scratch& scratch) {
    const std::size_t block_size = std::size_t(job.rows) * job.length * kFloats;
    const int side = job.pool, step = side > 1 ? 1 : kPixels;  // a set is a window, or as many pixels
    const Floats floor = broadcast(job.before.floor);
    const auto finish = finish_for<Sums>(f);
    for (int start = first * step; start < last * step && start < job.total; start += step) {
        const int pixels = side > 1 ? side * side : job.total - start < kPixels ? job.total - start : kPixels;
        int y[kPixels], x[kPixels];
        const float* input[kPixels];
        for (int p = 0; p < pixels; ++p) {
            const int pixel = side > 1 ? start : start + p;
            y[p] = pixel / job.width, x[p] = pixel % job.width;
            const int iy = side > 1 ? y[p] * side + p / side : y[p], ix = side > 1 ? x[p] * side + p % side : x[p];
            input[p] = job.input.at(iy * job.stride - job.padding, ix * job.stride - job.padding);
        }
        for (int block = 0; block < job.blocks;)
            block += choose(pixels, job.blocks - block, [&](auto tile) {
                sum_real(tile, job, job.weights + block * block_size, input, scratch.sums + block * kFloats);
            });
        if (side > 1) {
            float* sums = scratch.sums;
            for (int i = 0; i < f.channels; i += kFloats) {
                Floats v = broadcast(-__builtin_inff());
                for (int p = 0; p < pixels; ++p)
                    v = greater(v, scaled(job.before, i, load<Floats>(sums + p * job.sums_stride + i), floor));
                store(sums + i, v);
            }
            finish(f, y[0], x[0], scratch.past, Sums{sums});
        } else {
            for (int p = 0; p < pixels; ++p)
                finish(f, y[p], x[p], scratch.past, Sums{scratch.sums + p * job.sums_stride});
        }
    }
}

// ---- Floats of a window --------------------------------------------------------------------------------------------
void pool(const PoolJob& job, const Finish& f, int first, int last, const Scratch& scratch) {
    const Floats area = broadcast(float(job.size) * float(job.size)), lowest = broadcast(-__builtin_inff());
    const Floats floor = broadcast(job.before.floor);
    const auto finish = finish_for<Sums>(f);
    for (int pixel = first; pixel < last; ++pixel) {
        const int y = pixel / job.out_width, x = pixel % job.out_width;
        if (job.kind == PoolJob::kSame) {
            finish(f, y, x, scratch.past, Sums{job.input.at(y, x)});
            continue;
        }
        const int top = y * job.stride - job.padding, left = x * job.stride - job.padding;
        const int y0 = top > 0 ? top : 0, y1 = top + job.size < job.height ? top + job.size : job.height;
        const int x0 = left > 0 ? left : 0, x1 = left + job.size < job.width ? left + job.size : job.width;
        const auto window = [&](int i, Floats v, auto add) __attribute__((always_inline)) {
            for (int iy = y0; iy < y1; ++iy)
                for (int ix = x0; ix < x1; ++ix)
                    v = add(v, scaled(job.before, i, load<Floats>(job.input.at(iy, ix) + i), floor));
            return v;
        };
        for (int i = 0; i < f.channels; i += kFloats)
            store(scratch.sums + i, job.kind == PoolJob::kMaximum
                                        ? window(i, lowest, [](Floats a, Floats b) { return greater(a, b); })
                                        : window(i, Floats{}, [](Floats a, Floats b) { return a + b; }) / area);
        finish(f, y, x, scratch.past, Sums{scratch.sums});
    }
}

void bfloat16_bits(const std::uint16_t* x, int n, std::uint8_t* out) {
    for (int start = 0; start < n; start += 32, out += kWordBytes) {
        std::uint32_t word = 0;
#if VECTOR == 64
        const __mmask32 inside = n - start < 32 ? (__mmask32(1) << (n - start)) - 1 : ~__mmask32(0);
        word = _mm512_movepi16_mask(_mm512_maskz_loadu_epi16(inside, x + start));
#else
        for (int i = 0; i < 32 && start + i < n; ++i) word |= std::uint32_t(x[start + i] >> 15) << i;
#endif
        put_word(out, word);
    }
}

// ---- The limit -----------------------------------------------------------------------------------------------------

// The compiler must not see that every round is the same, and must keep the sums in registers.
#if VECTOR == 4
#define OPAQUE(value) asm volatile("" : "+r"(value))
#elif defined(__ARM_NEON)
#define OPAQUE(value) asm volatile("" : "+w"(value))
#else
#define OPAQUE(value) asm volatile("" : "+v"(value))
#endif

double spin(int rounds) {
    constexpr int kSums = 8;  // enough for the processor to have always one that is ready
#if defined(SHUFFLES)
    Bytes table = repeat(kTable.count[0]), w = load<Bytes>(kTable.count[0]), sum[kSums];
    for (Bytes& s : sum) s = Bytes{};
    constexpr double kDepth = 4;
#else
    Ints bits = Ints{} + 7, w = Ints{} + 5, sum[kSums] = {};
    constexpr double kDepth = 32;
#endif
    for (int r = 0; r < rounds; ++r)
#pragma GCC unroll 8
        for (int i = 0; i < kSums; ++i) {
            OPAQUE(w);
#if defined(SHUFFLES)
            sum[i] += look_up(table, w);
#else
            sum[i] += popcount(bits ^ w);
#endif
        }
#pragma GCC unroll 8
    for (int i = 0; i < kSums; ++i) OPAQUE(sum[i]);
    return kDepth * kLanes * kSums * rounds;
}

}  // namespace

#define TEXT2(a) #a
#define TEXT(a) TEXT2(a)
extern const Kernels OF_LEVEL(kernels_);
const Kernels OF_LEVEL(kernels_) = {
    TEXT(FASTMCD_LEVEL), kWordBytes, kLoadBytes,    kLanes, kFloats, depth_of, pack, binary,
    real_sums,           pool,       bfloat16_bits, spin};

}  // namespace xnor
