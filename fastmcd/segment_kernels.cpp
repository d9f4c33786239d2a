// Evidence and messages of the segmentation: a cell per lane. What each step means is told in segment.cpp.
#include "kernels.hpp"
#include "places.hpp"
#include "simd.hpp"

namespace fastmcd {
namespace {

constexpr float kNoise = 3;            // grey levels: of the difference of two cells at rest
constexpr float kMisplaced = 0.4f;     // cells by which registration may be off, and that blur may hide
constexpr float kAtRest = 1;           // most that one comparison may say for rest
constexpr float kMoving = 1;           // and for motion
constexpr float kBackground = 0.3f;    // for rest, of a cell like its background, if that is trusted
constexpr float kVague = 100;          // grey levels squared: a background of greater variance says the less for rest
constexpr float kStays = 0.3f;         // for motion, of a cell like a vague background where something moved a frame ago
constexpr float kForeground = 0.5f;    // for motion, of a cell unlike it that has changed lately
constexpr float kStill = 2;            // and of one that is still, if it is no ghost but the middle of an even object, or slow, or small
constexpr float kStillLeast = 0.8f;    // whatever else tells of rest there
constexpr float kTrusted = 4;          // frames, at which a background's age makes it half trusted
constexpr float kNoGhost = 100;        // and at which what is still and unlike it is no likelier a ghost, an object's learned place, than an object

ALWAYS Floats clamp(Floats v, Floats low, Floats high) { return lesser(greater(v, low), high); }

// The difference d of a cell to where it was is Gaussian: of variance s0 at rest, from noise and misplaced edges, of s1 if what is
// there moves by a cell or is something else. The ratio's logarithm is 1/2 ln(s1 / s0) - d^2 / 2 (1 / s0 - 1 / s1): a flat cell at
// rest says little, a textured one much. ln by its Pade approximant.
std::int64_t compare(const Past& row, int* cells) {
    Ints sum{}, count{};
    for (int column = 0; column < row.columns; column += kFloats) {
        const Places places = places_of(row.h, column, row.columns, row.rows, row.pitch);
        const Ints inside = places.inside & (places.x < float(row.columns));
        const auto corner = [&](std::ptrdiff_t offset) {
            return places.side_by_side ? values_at<true>(row.then + offset, places) : values_at<false>(row.then + offset, places);
        };
        const Floats upper = corner(0) + places.tu * (corner(1) - corner(0));
        const Floats lower = corner(row.pitch) + places.tu * (corner(row.pitch + 1) - corner(row.pitch));
        const Floats d = load<Floats>(row.here + column) - (row.gain * (upper + places.tv * (lower - upper)) + row.offset);
        const Floats gx = load<Floats>(row.here + column + 1) - load<Floats>(row.here + column - 1);
        const Floats gy = load<Floats>(row.below + column) - load<Floats>(row.above + column);
        const Floats edge = (gx * gx + gy * gy) * 0.25f, square = d * d;
        const Floats rest = kNoise * kNoise + kMisplaced * kMisplaced * edge, s0 = row.noise_scale * rest;
        const Floats s1 = s0 + edge + kNoise * kNoise, ratio = s1 / s0;
        const Floats half_ln = 1.5f * (ratio * ratio - 1) / (ratio * ratio + 4 * ratio + 1);
        const Floats llr = half_ln - 0.5f * square * (1 / s0 - 1 / s1);
        const Floats told = select(inside, row.weight * clamp(llr, broadcast(-kMoving), broadcast(kAtRest)), Floats{});
        const Ints nearest = whole(places.v + 0.5f) * int(row.pitch) + whole(places.u + 0.5f);
        const Floats belief = bits(nearest != lanes() + nearest[0]) ? gather(row.moved, nearest) : load<Floats>(row.moved + nearest[0]);
        const Ints then = inside & (belief > 0);
        if (row.uncovered) store(row.uncovered + column, select(then & (load<Floats>(row.out + column) >= 0), lesser(told, Floats{}), Floats{}));
        if (row.stays) store(row.stays + column, select(then & (load<Floats>(row.moved_here + column) > 0), broadcast(1), Floats{}));
        store(row.out + column, row.first ? told : load<Floats>(row.out + column) + told);
        sum += inside & whole(kSteps * lesser(square / s0, broadcast(kMostSquare)));
        count -= inside;
    }
    std::int64_t total = 0;
    for (int i = 0; i < kFloats; ++i) total += sum[i], *cells += count[i];
    return total;
}

int tie(const float* here, const float* below, int columns, float scale, float* right, float* down) {
    float* const outs[] = {right, down};
    Ints sum{};
    for (int column = 0; column < columns; column += kFloats) {
        const Floats v = load<Floats>(here + column);
        const Ints inside = lanes() + column < columns;
        for (float* out : outs) {
            const Floats d = load<Floats>(out == right ? here + column + 1 : below + column) - v;
            const Floats q = 1 / (1 + d * d * scale);
            store(out + column, q * q);
            sum += inside & whole(kSteps * greater(d, -d));
        }
    }
    int total = 0;
    for (int i = 0; i < kFloats; ++i) total += sum[i];
    return total;
}

void weigh(const Weighing& row) {
    for (int column = 0; column < row.columns; column += kFloats) {
        const Ints count = load<Ints>(row.marks + column) & 255, unlike = count >= kUnlike;
        const Floats n = real(count) * (1.0f / 16), age = load<Floats>(row.age + column), hue = load<Floats>(row.colour + column);
        // a change where an object was is that object's leaving, if what is seen now has the colour of what rests
        const Floats rest = load<Floats>(row.rest + column) - select(hue < 0, load<Floats>(row.uncovered + column), Floats{});
        const Ints known = age > 1;
        const Floats doubt = kTrusted / (kTrusted + age), no_ghost = age / (age + kNoGhost);
        const Floats differs = n * select(rest >= 0, kStill * no_ghost, broadcast(kForeground));
        // a vague background fits much; but of what is there no more, it is the better witness
        const Floats sharp = lesser(kVague / load<Floats>(row.variance + column), broadcast(1));
        const Floats sure = select(load<Floats>(row.uncovered + column) < 0, broadcast(1), sharp);
        const Floats seen = select(unlike, differs, (n - 1) * kBackground * (1 - doubt) * sure);
        store(row.stays + column, select(~unlike & (hue >= 0), kStays * (1 - sharp) * load<Floats>(row.stays + column), Floats{}));
        const Floats still = select((rest >= 0) | unlike, rest, doubt * rest);
        const Floats colour = select((hue > 0) & (rest >= 0), Floats{}, hue);  // what rests may look like what moves
        const Floats all = select(known, seen, Floats{}) - still + colour;
        store(row.out + column, select(known & unlike, greater(all, kStillLeast * no_ghost), all));
    }
}

// As columns of a transposed band, kLanes rows at once.
void along_rows(const float* evidence, const float* ties, std::ptrdiff_t pitch, int count, int columns, float* room, float* out) {
    float *told = room, *tied = room + columns * kLanes, *heard = tied + columns * kLanes;
    for (int y = 0; y < count; ++y)
        for (int x = 0; x < columns; ++x) {
            told[x * kLanes + y] = evidence[y * pitch + x];
            tied[x * kLanes + y] = ties[y * pitch + x];
        }
    for (int lane = 0; lane < kLanes; lane += kFloats) {
        Floats message{};
        for (int x = 0; x < columns; ++x) {
            store(heard + x * kLanes + lane, message);
            const Floats most = load<Floats>(tied + x * kLanes + lane);
            message = clamp(message + load<Floats>(told + x * kLanes + lane), -most, most);
        }
        message = Floats{};
        for (int x = columns - 1; x >= 0; --x) {
            float* p = heard + x * kLanes + lane;
            store(p, load<Floats>(p) + message);
            if (x == 0) break;
            const Floats most = load<Floats>(tied + (x - 1) * kLanes + lane);
            message = clamp(message + load<Floats>(told + x * kLanes + lane), -most, most);
        }
    }
    for (int y = 0; y < count; ++y)
        for (int x = 0; x < columns; ++x) out[y * pitch + x] = heard[x * kLanes + y];
}

void along_columns(const float* evidence, const float* horizontal, const float* ties, int columns, bool back, float* line, float* out) {
    for (int column = 0; column < columns; column += kFloats) {
        const Floats message = load<Floats>(line + column), most = load<Floats>(ties + column);
        store(out + column, back ? load<Floats>(out + column) + message : message);
        store(line + column, clamp(message + load<Floats>(evidence + column) + load<Floats>(horizontal + column), -most, most));
    }
}

}  // namespace

extern const SegmentKernels OF_LEVEL(segment_kernels_);
const SegmentKernels OF_LEVEL(segment_kernels_) = {compare, tie, weigh, along_rows, along_columns};

}  // namespace fastmcd
