// The sums of one CPU level, and its table of kernels: compiled once per level (see fastmcd/simd.hpp).
#include "kernels.hpp"

#include <cstring>

#include "../../fastmcd/simd.hpp"
#include "finish.hpp"

namespace xnor {
namespace {

using namespace fastmcd;

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

// ---- Binary sums ---------------------------------------------------------------------------------------------------
#if defined(SHUFFLES)
using Load = std::uint8_t;  // what is loaded at once of an output's weights: those of 4 channels, or of 32
constexpr int kLanes = kVector, kLoadBits = 4;
#else
using Load = std::uint32_t;
constexpr int kLanes = kFloats, kLoadBits = 32;
#endif
constexpr std::uint32_t kLoadMask = ~std::uint32_t(0) >> (32 - kLoadBits);

int depth_of(int channels) { return (channels + kLoadBits - 1) / kLoadBits; }

std::size_t pack(const std::uint32_t* words, int outputs, int taps, int channels, std::uint8_t* out) {
    const int depth = depth_of(channels), per_tap = (channels + 31) / 32, blocks = (outputs + kLanes - 1) / kLanes;
    if (out == nullptr) return std::size_t(blocks) * taps * depth * kLanes * sizeof(Load);
    std::uint8_t* to = out;
    for (int block = 0; block < blocks; ++block)
        for (int t = 0; t < taps; ++t)
            for (int i = 0; i < depth; ++i)
                for (int lane = 0; lane < kLanes; ++lane, to += sizeof(Load)) {
                    const int o = block * kLanes + lane, word = i * kLoadBits / 32, bit = i * kLoadBits % 32;
                    Load w = 0;
                    if (o < outputs) w = words[(std::size_t(o) * taps + t) * per_tap + word] >> bit & kLoadMask;
                    std::memcpy(to, &w, sizeof w);
                }
    return std::size_t(to - out);
}

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
            for (int w = 0; w < 16; ++w) count[a][w] = std::uint8_t(__builtin_popcount(unsigned(a ^ w)));
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

void binary(const BinaryJob& job, const Finish& f, int first, int last, const Scratch& scratch) {
    const std::size_t block_bytes = std::size_t(job.length) * kLanes * sizeof(Load);
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
                Floats v = broadcast(kLowest);
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
    const Floats area = broadcast(float(job.size) * float(job.size)), lowest = broadcast(kLowest);
    const Floats floor = broadcast(job.before.floor);
    const bool scales = job.before.scale != nullptr;
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
                for (int ix = x0; ix < x1; ++ix) {
                    const Floats value = load<Floats>(job.input.at(iy, ix) + i);
                    v = add(v, scales ? scaled(job.before, i, value, floor) : value);
                }
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
#else
    Ints bits = Ints{} + 7, w = Ints{} + 5, sum[kSums] = {};
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
    return double(kLoadBits) * kLanes * kSums * rounds;
}

}  // namespace

#define TEXT2(a) #a
#define TEXT(a) TEXT2(a)
extern const Kernels OF_LEVEL(kernels_);
const Kernels OF_LEVEL(kernels_) = {
    TEXT(FASTMCD_LEVEL), kWordBytes, sizeof(Load),  kLanes, kFloats, depth_of, pack, binary,
    real_sums,           pool,       bfloat16_bits, spin};

}  // namespace xnor
