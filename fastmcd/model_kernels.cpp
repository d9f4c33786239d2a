// The background model: a row of cells at a time, a cell per lane. What each step means is told in model.cpp.
#include "kernels.hpp"
#include "places.hpp"
#include "simd.hpp"

namespace fastmcd {
namespace {

constexpr float kNoAge = 1e-3f;  // frames; less is none: mixing would halve it for ever, into slow denormal numbers
constexpr float kGrowth = 2;     // most that one frame's deviations count, as a multiple of the variance so far
constexpr float kLoser = 0.5f;   // share of the full age that a background keeps at most when it is replaced
constexpr float kSpread = 0.5f;  // share of the spread of means that enters a mix's variance

// e^-x for x >= 0 by the first terms of its series and four squarings, within 1e-6. The C library's differs in the last
// bit between CPUs.
ALWAYS Floats exp_minus(Floats x) {
    const Floats y = lesser(x, broadcast(80)) * (1.0f / 16);
    Floats sum = 1 + y * (1.0f / 7);
    for (int k = 6; k >= 1; --k) sum = 1 + y * (1.0f / float(k)) * sum;
    Floats e = 1 / sum;
    for (int i = 0; i < 4; ++i) e *= e;
    return e;
}

// The mixes of mean, variance and age.
template <bool kSideBySide>
ALWAYS void mix(const Warp& row, int mode, const Places& places, const Floats weight[4], int column) {
    const std::ptrdiff_t offset[4] = {0, 1, row.pitch, row.pitch + 1};
    const auto corner = [&](int plane, int k) { return values_at<kSideBySide>(row.from.of[3 * mode + plane] + offset[k], places); };
    const auto mixed = [&](const Floats v[4]) {
        return weight[0] * v[0] + weight[1] * v[1] + weight[2] * v[2] + weight[3] * v[3];
    };
    Floats means[4], variances[4], ages[4];
    for (int k = 0; k < 4; ++k) means[k] = corner(0, k), variances[k] = corner(1, k), ages[k] = corner(2, k);
    const Floats mean = mixed(means);
    Floats variance = mixed(variances), age = mixed(ages);
    for (int k = 0; k < 4; ++k) {
        const Floats d = mean - means[k];
        variance += kSpread * weight[k] * d * d;
    }
    const ModelConstants& constants = *row.constants;
    const Ints decaying = variance > constants.decay_variance;
    if (bits(decaying)) {
        const Floats kept = age * exp_minus(constants.decay_rate * greater(variance - constants.decay_variance, Floats{}));
        age = select(decaying, kept, age);
    }
    const Ints has_age = places.inside & (age >= kNoAge);
    store(row.to.of[3 * mode] + column, mean);
    store(row.to.of[3 * mode + 1] + column, greater(variance, broadcast(constants.min_variance)));
    store(row.to.of[3 * mode + 2] + column, select(has_age, lesser(age, broadcast(constants.max_age)), Floats{}));
}

void warp(const Warp& row) {
    for (int column = 0; column < row.columns; column += kFloats) {
        const Places places = places_of(row.h, column, row.columns, row.rows, row.pitch);
        const Floats tu = places.tu, tv = places.tv, weight[4] = {(1 - tu) * (1 - tv), tu * (1 - tv), (1 - tu) * tv, tu * tv};
        for (int mode = 0; mode < 2; ++mode) {
            if (places.side_by_side) mix<true>(row, mode, places, weight, column);
            else mix<false>(row, mode, places, weight, column);
        }
    }
}

// A cell's four pixels of one row lie in a lane; sums of neighbours by shifts.
ALWAYS Ints sum_of_bytes(Ints pairs) { return (pairs + (pairs >> 16)) & 0xffff; }  // pairs: two sums of 16 bits

ALWAYS Floats means_of(const std::uint8_t* pixels, std::ptrdiff_t stride) {
    Ints pairs{};
    for (int y = 0; y < kCell; ++y, pixels += stride) {
        const Ints v = load<Ints>(pixels);
        pairs += (v & 0x00ff00ff) + ((v >> 8) & 0x00ff00ff);
    }
    return real(sum_of_bytes(pairs)) * (1.0f / 16);
}

void means(const std::uint8_t* pixels, std::ptrdiff_t stride, int columns, float* out) {
    for (int column = 0; column < columns; column += kFloats)
        store(out + column, means_of(pixels + column * kCell, stride));
}

struct Mode {
    Floats mean, variance, age;
};

ALWAYS Mode select(Ints mask, const Mode& a, const Mode& b) {
    return {select(mask, a.mean, b.mean), select(mask, a.variance, b.variance), select(mask, a.age, b.age)};
}

ALWAYS Mode blend(const ModelConstants& constants, const Mode& m, Floats mean, Floats low, Floats high, Floats oldest) {
    const Floats keep = m.age / (m.age + 1);
    Mode out;
    out.mean = select(m.age < 1, mean, keep * m.mean + (1 - keep) * mean);
    const Floats up = high - out.mean, down = out.mean - low, worst = greater(up * up, down * down);
    const Floats blended = keep * m.variance + (1 - keep) * lesser(worst, kGrowth * m.variance);
    out.variance = select(m.age == 0, greater(worst, broadcast(constants.initial_variance)), blended);
    out.variance = greater(out.variance, broadcast(constants.min_variance));
    out.age = lesser(m.age + 1, oldest);
    return out;
}

// Swaps, matches and teaches the modes. Returns how far a pixel may be from the apparent mean, in grey levels; 255 where
// the background is too young to tell.
ALWAYS Floats teach(const ModelConstants& constants, Mode& apparent, Mode& candidate, Floats mean, Floats low, Floats high) {
    const Ints fresh = (apparent.age == 0) & (candidate.age == 0), swapped = candidate.age > apparent.age;
    const Mode older = select(swapped, candidate, apparent);
    candidate = select(swapped, apparent, candidate);
    candidate.age = select(swapped, lesser(candidate.age, broadcast(constants.max_age * kLoser)), candidate.age);
    const auto matches = [&](const Mode& m) {
        const Floats d = mean - m.mean;
        return d * d < constants.match * m.variance;
    };
    const Ints first = fresh | matches(older);
    candidate.age = select(first | matches(candidate), candidate.age, Floats{});
    // one frame more for the candidate: or else a background of full age could never be replaced
    const Floats oldest = select(first, broadcast(constants.max_age), broadcast(constants.max_age + 1));
    const Mode taught = blend(constants, select(first, older, candidate), mean, low, high, oldest);
    apparent = select(first, taught, older);
    candidate = select(first, candidate, taught);
    candidate.mean = select(fresh, mean, candidate.mean);
    candidate.variance = select(fresh, broadcast(constants.initial_variance), candidate.variance);
    return select(older.age > 1, root(constants.threshold * older.variance), broadcast(255));
}

ALWAYS Bytes in_each_byte(Ints v) {  // of 0..255
    v |= v << 8;
    return Bytes(v | (v << 16));
}

// Marks the pixels outside mean +- tolerance, in the mask and in sum.
ALWAYS Ints mark(const Learning& row, int column, Floats mean, Floats tolerance) {
    const Floats bottom = greater(mean - tolerance, Floats{});
    const Ints cut = whole(bottom), low = cut - (real(cut) < bottom);  // rounded up
    const Ints high = whole(lesser(mean + tolerance, broadcast(255)));
    const Bytes lows = in_each_byte(low), highs = in_each_byte(high);
    const std::uint8_t* p = row.pixels + column * kCell;
    std::uint8_t* out = row.mask + column * kCell;
    Bytes counts{};
    Ints columns{}, rows{};
    for (int y = 0; y < kCell; ++y, p += row.stride, out += row.mask_stride) {
        const Bytes v = load<Bytes>(p), moved = Bytes((v < lows) | (v > highs));
        store(out, moved);
        counts -= moved;
        columns |= Ints(moved);
        rows |= (Ints(moved) != 0) & (1 << (12 + y));
    }
    const Ints n = Ints(counts), pairs = (n & 0x00ff00ff) + ((n >> 8) & 0x00ff00ff);
    columns &= 0x08040201;
    columns |= columns >> 16;
    columns |= columns >> 8;
    return sum_of_bytes(pairs) | (columns & 15) << 8 | rows;
}

void learn(const Learning& row) {
    const Floats light = broadcast(row.light), zero{}, white = broadcast(255);
    for (int column = 0; column < row.columns; column += kFloats) {
        const std::uint8_t* p = row.pixels + column * kCell;
        Bytes lows = load<Bytes>(p), highs = lows;
        for (int y = 1; y < kCell; ++y) {
            const Bytes v = load<Bytes>(p + y * row.stride);
            lows = lesser(lows, v), highs = greater(highs, v);
        }
        lows = lesser(lows, Bytes(Ints(lows) >> 16)), highs = greater(highs, Bytes(Ints(highs) >> 16));
        lows = lesser(lows, Bytes(Ints(lows) >> 8)), highs = greater(highs, Bytes(Ints(highs) >> 8));
        const Floats low = real(Ints(lows) & 255), high = real(Ints(highs) & 255), mean = means_of(p, row.stride);

        store(row.means + column, mean);

        const Floats offset = light + row.slope * real(lanes() + column);
        Mode modes[2];
        for (int m = 0; m < 2; ++m) {
            const Floats level = load<Floats>(row.from.of[3 * m] + column);
            modes[m] = {lesser(greater(level + (offset + row.gain * level), zero), white),
                        load<Floats>(row.from.of[3 * m + 1] + column), load<Floats>(row.from.of[3 * m + 2] + column)};
        }
        const Floats tolerance = teach(*row.constants, modes[0], modes[1], mean, low, high);
        for (int m = 0; m < 2; ++m) {
            store(row.to.of[3 * m] + column, modes[m].mean);
            store(row.to.of[3 * m + 1] + column, modes[m].variance);
            store(row.to.of[3 * m + 2] + column, modes[m].age);
        }
        const Floats difference = mean - modes[0].mean;
        const Ints contrast = whole(greater(difference, -difference));
        store(row.marks + column, mark(row, column, modes[0].mean, tolerance) | contrast << 16);
    }
}

void light(const float* mean, const float* age, const float* cell, int columns, float step, float y, const float l[4],
           float spread_levels, float sums[kLightSums][kLanes]) {
    for (int first = 0; first < kLanes; first += kFloats) {
        Floats s[kLightSums];
        for (int k = 0; k < kLightSums; ++k) s[k] = load<Floats>(sums[k] + first);
        for (int column = first; column < columns; column += kLanes) {
            const Floats grey = load<Floats>(mean + column), level = grey * (1.0f / 128) - 1;
            const Floats change = load<Floats>(cell + column) - grey;
            const Floats place = real(lanes() + column), x = place * step - 1;
            const Floats error = (change - (l[0] + l[1] * level + l[2] * x + l[3] * y)) * (1 / spread_levels);
            const Floats near = 1 / (1 + error * error);
            const Ints use = (load<Floats>(age + column) > 1) & (place < float(columns));
            const Floats w = select(use, near * near, Floats{}), wl = w * level, wx = w * x, wy = w * y;
            const Floats terms[kLightSums] = {w,      wl,     wx,     wy,     w * change, wl * level, wl * x,
                                              wl * y, wl * change, wx * x, wx * y, wx * change, wy * y, wy * change};
            for (int k = 0; k < kLightSums; ++k) s[k] += terms[k];
        }
        for (int k = 0; k < kLightSums; ++k) store(sums[k] + first, s[k]);
    }
}

void seeds(const std::int32_t* above, const std::int32_t* here, const std::int32_t* below, int columns, int least_here,
           int least_around, std::uint64_t* out) {
    const auto counts = [&](int column) {
        return (load<Ints>(above + column) & 255) + (load<Ints>(here + column) & 255) + (load<Ints>(below + column) & 255);
    };
    for (int column = 0; column < columns; column += kFloats) {
        const Ints around = counts(column - 1) + counts(column) + counts(column + 1);
        const Ints on = ((load<Ints>(here + column) & 255) >= least_here) & (around >= least_around) &
                        (lanes() + column < columns);
        std::uint64_t& word = out[column / 64];
        const int shift = column % 64;
        word = (shift ? word : 0) | std::uint64_t(bits(on)) << shift;
    }
}

}  // namespace

extern const ModelKernels OF_LEVEL(model_kernels_);
const ModelKernels OF_LEVEL(model_kernels_) = {warp, means, learn, light, seeds};

}  // namespace fastmcd
