// The detector in C++: sizes, contents, known motions, made scenes, bad arguments. Run by ctest.
#include <algorithm>
#include <atomic>
#include <cfenv>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <functional>
#include <limits>
#include <new>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "colours.hpp"
#include "epipole.hpp"
#include "fastmcd.hpp"
#include "kernels.hpp"
#include "model.hpp"
#include "motion.hpp"
#include "regions.hpp"

using namespace fastmcd;

static std::atomic<long> allocations = 0;

// Not inlined: GCC would warn that new and free do not match.
[[gnu::noinline]] void* operator new(std::size_t size) {
    ++allocations;
    if (void* memory = std::malloc(size)) return memory;
    throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace {

int failures = 0;

#define CHECK(condition)                                                              \
    do {                                                                              \
        if (!(condition)) {                                                           \
            ++failures;                                                               \
            std::printf("%s:%d: failed: %s\n", __FILE__, __LINE__, #condition);       \
        }                                                                             \
    } while (false)

struct Frame {
    int width, height;
    std::vector<std::uint8_t> pixels;
    Frame(int w, int h, std::uint8_t value = 0) : width(w), height(h), pixels(std::size_t(w) * h, value) {}
    std::uint8_t& at(int x, int y) { return pixels[std::size_t(y) * width + x]; }
    Image view() const { return {pixels.data(), width, height, width}; }
};

// A world of smooth blobs at three scales, the same at every place for ever.
double knot(int x, int y) {
    std::uint32_t h = std::uint32_t(x) * 374761393u + std::uint32_t(y) * 668265263u;
    h = (h ^ (h >> 13)) * 1274126177u;
    return double((h ^ (h >> 16)) & 255);
}

double blobs(double x, double y, double size) {
    const double u = std::floor(x / size), v = std::floor(y / size), fx = x / size - u, fy = y / size - v;
    const int i = int(u), j = int(v);
    return (knot(i, j) * (1 - fx) + knot(i + 1, j) * fx) * (1 - fy) +
           (knot(i, j + 1) * (1 - fx) + knot(i + 1, j + 1) * fx) * fy;
}

double world(double x, double y) {
    return 20 + 0.3 * blobs(x, y, 9) + 0.25 * blobs(x + 1000, y, 25) + 0.25 * blobs(x + 5000, y, 70);
}

// What a camera sees whose pixel p looks at world(h p).
Frame seen(int width, int height, const Homography& h) {
    Frame frame(width, height);
    for (int y = 0; y < height; ++y)
        for (int x = 0; x < width; ++x) {
            const Point p = project(h, {double(x), double(y)});
            frame.at(x, y) = std::uint8_t(world(p.x, p.y) + 0.5);
        }
    return frame;
}

Homography shift(double x, double y) { return {1, 0, x, 0, 1, y, 0, 0, 1}; }

// Turned and zoomed about the middle, then shifted.
Homography similarity(int width, int height, double degrees, double zoom, double x, double y) {
    const double a = degrees * 3.14159265358979 / 180, c = zoom * std::cos(a), s = zoom * std::sin(a);
    const double mx = width / 2.0, my = height / 2.0;
    return {c, -s, mx - c * mx + s * my + x, s, c, my - s * mx - c * my + y, 0, 0, 1};
}

void put_square(Frame& frame, int left, int top, int side) {
    for (int y = top; y < top + side; ++y)
        for (int x = left; x < left + side; ++x) frame.at(x, y) = ((x - left) / 6 + (y - top) / 6) % 2 ? 250 : 215;
}

double iou(const Box& a, const Box& b) {
    const int w = std::min(a.x + a.width, b.x + b.width) - std::max(a.x, b.x);
    const int h = std::min(a.y + a.height, b.y + b.height) - std::max(a.y, b.y);
    const double both = w > 0 && h > 0 ? double(w) * h : 0;
    return both / (double(a.width) * a.height + double(b.width) * b.height - both);
}

bool inside(const Box& inner, const Box& outer) {
    return inner.width > 0 && inner.height > 0 && inner.x >= outer.x && inner.y >= outer.y &&
           inner.x + inner.width <= outer.x + outer.width && inner.y + inner.height <= outer.y + outer.height;
}

void check_sane(const Result& result, int width, int height) {
    const Box frame{0, 0, width, height};
    float last = 1;
    for (const Object& object : result.objects) {
        CHECK(inside(object.crop, frame) && inside(object.box, object.crop));
        CHECK(object.score >= 0 && object.score <= last);
        last = object.score;
    }
    CHECK(result.mask.width == width && result.mask.height == height);
    for (int y = 0; y < height; ++y)
        CHECK(std::all_of(row(result.mask, y), row(result.mask, y) + width, [](int v) { return v == 0 || v == 255; }));
    for (const double v : result.motion.homography) CHECK(std::isfinite(v));
}

bool same(const Result& a, const Result& b) {
    bool equal = a.objects.size() == b.objects.size() && a.motion.homography == b.motion.homography;
    for (int y = 0; equal && y < a.mask.height; ++y)
        equal = std::equal(row(a.mask, y), row(a.mask, y) + a.mask.width, row(b.mask, y));
    for (std::size_t i = 0; equal && i < a.objects.size(); ++i)
        equal = iou(a.objects[i].box, b.objects[i].box) == 1 && a.objects[i].score == b.objects[i].score;
    return equal;
}

bool throws(const std::function<void()>& action, const std::string& words) {
    try {
        action();
    } catch (const std::invalid_argument& error) {
        return std::string(error.what()).find(words) != std::string::npos;
    }
    return false;
}

// Of processor time. To be compared with that of other work alone: machines, sanitizers and emulators differ.
double seconds_of(const std::function<void()>& work) {
    const std::clock_t start = std::clock();
    work();
    return double(std::clock() - start) / CLOCKS_PER_SEC;
}

void any_size_and_content() {
    std::mt19937 random(1);
    for (const auto& [width, height] : {std::pair{32, 32}, {33, 47}, {61, 32}, {32, 199}, {321, 241}, {514, 33}}) {
        Detector detector(width, height);
        CHECK(detector.bytes() < 30 * std::size_t(width) * height + 262144);
        for (int t = 0; t < 9; ++t) {
            Frame frame(width, height, std::uint8_t(90 * t));  // constant first, then ramps, then noise
            for (std::size_t i = 0; t >= 3 && i < frame.pixels.size(); ++i)
                frame.pixels[i] = t < 6 ? std::uint8_t(i % width + std::size_t(t)) : std::uint8_t(random());
            check_sane(detector.detect(frame.view()), width, height);
        }
    }
    CHECK(Detector(4096, 2160).bytes() < std::size_t(30) * 4096 * 2160);
    for (const auto& [width, height] : {std::pair{32, 4096}, {33, 697}, {65, 4088}, {4096, 32}, {320, 32}})
        CHECK(Detector(width, height).bytes() < 50 * std::size_t(width) * height + 262144);
}

void rows_at_any_stride() {
    Detector a(95, 70), b(95, 70), c(95, 70);
    for (int t = 0; t < 6; ++t) {
        Frame frame = seen(95, 70, shift(2.5 * t, t));
        put_square(frame, 30 + 3 * t, 25, 20);
        Frame wide(113, 70, 77);
        for (int y = 0; y < 70; ++y) std::copy_n(&frame.at(0, y), 95, &wide.at(0, y));
        Frame upside_down(95, 70);
        for (int y = 0; y < 70; ++y) std::copy_n(&frame.at(0, y), 95, &upside_down.at(0, 69 - y));
        const Result packed = a.detect(frame.view()), strided = b.detect({wide.pixels.data(), 95, 70, 113});
        CHECK(same(packed, strided) && same(packed, c.detect({&upside_down.at(0, 69), 95, 70, -95})));
    }
}

void finds_a_known_motion() {
    for (const auto& [width, height] : {std::pair{320, 240}, {175, 131}, {700, 400}}) {
        const auto like = [w = width, h = height](double degrees, double zoom, double x, double y) {
            return similarity(w, h, degrees, zoom, x, y);
        };
        for (const Homography& truth :
             {like(0, 1, 5.3, -2.7), like(0, 1, -17, 9), like(2, 1, 0, 0), like(-1, 1.04, 3, 1), like(0, 0.96, 0, 0),
              Homography{1, 0.01, 2, 0, 1, 1, 2e-5, -1e-5, 1}}) {
            Pyramid previous(width, height), current(width, height);
            previous.levels[0] = copy_of(seen(width, height, kIdentity).view());
            current.levels[0] = copy_of(seen(width, height, truth).view());  // what is at p now was at (truth p)
            previous.build(), current.build();
            const Motion motion = MotionEstimator(current, {})(current, previous);
            CHECK(motion.known && motion.inliers > motion.points / 2);
            const double right = width - 1, bottom = height - 1;
            for (const Point p : {Point{0, 0}, Point{right, 0}, Point{0, bottom}, Point{right, bottom}}) {
                const Point a = project(motion.homography, p), b = project(truth, p);
                CHECK(std::hypot(a.x - b.x, a.y - b.y) < 0.4 * (1 << current.base));
            }
        }
    }
}

// Long thin images are searched by their halves, and as exactly as others.
void a_pan_is_found_in_images_of_any_shape() {
    for (const auto& [width, height, x, y] : {std::tuple{53, 30, 14, -5}, {64, 64, -20, 13}, {512, 47, 151, -6}, {22, 400, 3, 120}}) {
        const Shift found = PanFinder(width, height)(seen(width, height, shift(x, y)).view(), seen(width, height, kIdentity).view());
        CHECK(found.x == float(x) && found.y == float(y));
    }
}

// Two halves that go 42 and 38 px do not agree, but the coarsest pictures fit at 40, as the last motion had it: hardly a point lies there.
void inliers_are_those_of_the_motion_given() {
    constexpr int kWidth = 320, kHeight = 240;
    Params params;
    params.min_inliers = 0.9;
    const auto halves = [](double upper, double lower) {
        Frame frame = seen(kWidth, kHeight, shift(upper, 0));
        const Frame other = seen(kWidth, kHeight, shift(lower, 0));
        std::copy(other.pixels.begin() + kWidth * kHeight / 2, other.pixels.end(), frame.pixels.begin() + kWidth * kHeight / 2);
        return copy_of(frame.view());
    };
    Pyramid previous(kWidth, kHeight), current(kWidth, kHeight);
    previous.levels[0] = halves(0, 0), current.levels[0] = halves(42, 38);
    previous.build(), current.build();
    MotionEstimator estimate(current, params);
    const Motion motion = estimate(current, previous, shift(40, 0));
    CHECK(motion.known && motion.homography == shift(40, 0) && motion.points > 50 && motion.inliers < 5);
    const auto tracked = estimate.tracked();
    CHECK(std::count_if(tracked.begin(), tracked.end(), [](const TrackedPoint& p) { return p.inlier; }) == motion.inliers);
}

void the_search_for_a_pan_is_bounded() {
    const Frame square = seen(64, 64, kIdentity), other = seen(64, 64, shift(9000, 0)), thin = seen(512, 47, kIdentity), other_thin = seen(512, 47, shift(9000, 0));
    PanFinder find(64, 64), find_thin(512, 47);
    const double search = seconds_of([&] { for (int i = 0; i < 20; ++i) find(square.view(), other.view()); });
    CHECK(seconds_of([&] { for (int i = 0; i < 20; ++i) find_thin(thin.view(), other_thin.view()); }) < 2 * search);
    Pyramid black(1024, 1024);  // no points: it is not searched
    black.levels[0] = copy_of(Frame(1024, 1024).view());
    black.build();
    MotionEstimator estimate(black, {});
    CHECK(estimate(black, black).known);
    CHECK(seconds_of([&] { for (int i = 0; i < 20; ++i) estimate(black, black); }) < 0.7 * search);
}

// A textured patch that goes its own way in front of a moving camera; one that goes on along the background's way may just be nearer.
void points_tell_what_moves() {
    constexpr int kWidth = 320, kHeight = 240, kSide = 72;
    const Box patch{120, 80, kSide, kSide};
    const auto with_patch = [&](const Homography& camera, int left, int top) {
        Frame frame = seen(kWidth, kHeight, camera);
        for (int y = 0; y < kSide; ++y)
            for (int x = 0; x < kSide; ++x) frame.at(left + x, top + y) = std::uint8_t(world(900 + x, 700 + y) + 0.5);
        return frame;
    };
    for (const auto& [dx, dy, kind] : {std::tuple{-4, 6, PointMotion::kMoves}, {8, 3, PointMotion::kUnclear}, {5, 2, PointMotion::kRests}}) {
        Pyramid previous(kWidth, kHeight), current(kWidth, kHeight);
        previous.levels[0] = copy_of(with_patch(kIdentity, patch.x + dx, patch.y + dy).view());
        current.levels[0] = copy_of(with_patch(shift(5, 2), patch.x, patch.y).view());
        previous.build(), current.build();
        MotionEstimator estimate(current, {});
        CHECK(estimate.points().empty() && estimate(current, previous).known);
        int in = 0, right = 0, out = 0, resting = 0;
        for (const PointMotion& point : estimate.points()) {
            const Box around{int(point.at.x) - 10, int(point.at.y) - 10, 20, 20};
            if (inside(around, patch)) ++in, right += point.kind == kind;
            else if (iou(around, patch) == 0) ++out, resting += point.kind == PointMotion::kRests;
        }
        CHECK(in >= 5 && right >= 0.8 * in);
        CHECK(out >= 60 && resting >= 0.95 * out);
        estimate.reset();
        CHECK(estimate.points().empty());
    }
}

// A region that changed is no object if most of the points in it rest, unless it was one before; one point is too few to tell.
void what_rests_is_no_object() {
    constexpr int kWidth = 320, kHeight = 240, kLeft = 80, kTop = 60, kSide = 64;
    Params params;
    params.min_score = 0;
    const auto look = [&](Regions& regions, std::vector<PointMotion> points) {
        Plane mask(kWidth, kHeight);
        Grid<std::int32_t> marks(cells(kWidth), cells(kHeight));
        marks.fill(0);
        std::fill(mask.pixels.begin(), mask.pixels.end(), std::uint8_t(0));
        for (int y = kTop; y < kTop + kSide; ++y)
            for (int x = kLeft; x < kLeft + kSide; ++x) mask.row(y)[x] = 255, marks.row(y / kCell)[x / kCell] = 40 << 16 | kAllMoved;
        const std::size_t objects = regions(mask, marks, kIdentity, false, points).size();
        CHECK((mask.row(kTop + kSide / 2)[kLeft + kSide / 2] == 255) == (objects == 1));
        return objects;
    };
    const auto found = [&](std::vector<PointMotion> points) {
        Regions regions(kWidth, kHeight, params);
        return look(regions, points);
    };
    const PointMotion rests{{100, 80}, PointMotion::kRests}, moves{{120, 90}, PointMotion::kMoves}, unclear{{110, 100}, PointMotion::kUnclear};
    const PointMotion beside{{20, 20}, PointMotion::kRests};
    CHECK(found({}) == 1 && found({rests}) == 1 && found({rests, moves}) == 1 && found({rests, unclear, moves}) == 1);
    CHECK(found({moves, beside, beside, beside}) == 1);
    CHECK(found({rests, rests}) == 0 && found({rests, rests, moves}) == 0);
    Regions regions(kWidth, kHeight, params);
    CHECK(look(regions, {rests, rests}) == 0 && look(regions, {moves}) == 1 && look(regions, {rests, rests}) == 1);
}

// Cells that moved as a whole, in rectangles of cells, and the pixels' mask of them.
struct Marked {
    Plane mask;
    Grid<std::int32_t> marks;
    Marked(int width, int height, const std::vector<Box>& boxes) : mask(width, height), marks(cells(width), cells(height)) {
        for (const Box& box : boxes)
            for (int y = box.y; y < box.y + box.height; ++y)
                for (int x = box.x; x < box.x + box.width; ++x) {
                    marks.row(y)[x] = 40 << 16 | kAllMoved;
                    for (int k = 0; k < kCell; ++k) std::fill_n(mask.row(y * kCell + k) + x * kCell, kCell, std::uint8_t(255));
                }
    }
};

void the_mask_shows_what_is_reported() {
    Params params;
    params.min_score = 0, params.max_objects = 1;
    Regions regions(320, 240, params);
    Marked seen(320, 240, {{5, 5, 10, 10}, {40, 30, 20, 20}});
    const auto objects = regions(seen.mask, seen.marks, kIdentity, false, {});
    CHECK(objects.size() == 1 && objects[0].box.x == 160 && regions.last().size() == 1);
    CHECK(seen.mask.row(160)[200] == 255 && seen.mask.row(40)[40] == 0);
}

void a_crop_keeps_its_aspect() {
    for (const double aspect : {1.0, 1.4, 1.9, 2.0, 3.3})
        for (int cells_wide = 3; cells_wide < 40; ++cells_wide) {
            Params params;
            params.min_score = params.min_area = params.closing = 0;
            params.min_crop = 1, params.crop_aspect = aspect;
            Regions regions(320, 240, params);
            Marked seen(320, 240, {{20, 30, cells_wide, 3}});
            for (const Object& object : regions(seen.mask, seen.marks, kIdentity, false, {}))
                CHECK(object.crop.width <= aspect * object.crop.height);
        }
}

// Two angles whose boxes overlap; their joint box overlaps that of a square, which is looked at before them.
void a_box_that_has_grown_reaches_those_before_it() {
    Params params;
    params.min_score = params.min_area = params.closing = 0;
    Regions regions(320, 240, params);
    Marked seen(320, 240, {{0, 0, 20, 20}, {37, 4, 4, 31}, {20, 31, 21, 4}, {10, 24, 4, 17}, {10, 37, 20, 4}});
    const auto objects = regions(seen.mask, seen.marks, kIdentity, false, {});
    CHECK(objects.size() == 1 && iou(objects[0].box, {0, 0, 164, 164}) == 1);
    Marked apart(320, 240, {{0, 0, 20, 20}, {37, 4, 4, 31}, {20, 31, 21, 4}});
    CHECK(regions(apart.mask, apart.marks, kIdentity, false, {}).size() == 2);
}

// The largest frame full of specks, all of which may be objects.
void many_regions_take_no_longer_than_few() {
    constexpr int kWidth = 4096, kHeight = 2160;
    Params params;
    params.min_score = params.min_area = params.closing = 0;
    Regions regions(kWidth, kHeight, params);
    std::vector<Box> specks;
    for (int y = 0; y + 3 <= cells(kHeight); y += 4)
        for (int x = 0; x + 3 <= cells(kWidth); x += 4) specks.push_back({x, y, 3, 3});
    Marked seen(kWidth, kHeight, specks);
    const auto look = [&](bool steady) { return seconds_of([&] { regions(seen.mask, seen.marks, kIdentity, steady, {}); }); };
    const double whole = look(false), split = look(true);
    CHECK(split < 10 * whole);
    CHECK(regions.last().size() == 64);
}

void implausible_homographies_are_refused() {
    const double nan = std::numeric_limits<double>::quiet_NaN();
    CHECK(plausible(kIdentity, 320, 240) && plausible(similarity(320, 240, 5, 1.2, 20, 9), 320, 240));
    CHECK(!plausible({-1, 0, 319, 0, 1, 0, 0, 0, 1}, 320, 240));       // mirrored
    CHECK(!plausible({nan, 0, 0, 0, 1, 0, 0, 0, 1}, 320, 240));
    CHECK(!plausible(shift(400, 0), 320, 240));
    CHECK(!plausible(similarity(320, 240, 0, 3, 0, 0), 320, 240));
    CHECK(!plausible({1, 0, 0, 0, 1, 0, 0.01, 0, 1}, 320, 240));       // tilted
    Ransac line(320, 240, 40);
    for (int i = 0; i < 40; ++i) line.add({i * 5., i * 5.}, {i * 5. + 1, i * 5.});
    Homography h;
    CHECK(line(1, h) == 0);  // points on one line fix no homography
}

void model_moves_with_the_camera() {
    const int width = 67, height = 54;  // the last column and row of cells are cut
    const auto frame = [](double x, double y) { return copy_of(seen(width, height, shift(x, y)).view()); };
    Model model(width, height, {});
    Plane mask(width, height);
    for (int t = 0; t < 5; ++t) model.update(frame(0, 0), kIdentity, mask);
    const Model before = model;
    model.update(frame(2 * kCell, -kCell), shift(2 * kCell, -kCell), mask);  // cell (i, j) was at (i + 2, j - 1)
    for (int j = 0; j < model.rows(); ++j)
        for (int i = 0; i + 1 < model.columns() && j + 1 < model.rows(); ++i) {
            const bool came_from_outside = i + 2 >= model.columns() || j < 1;
            CHECK(model.plane(0, 2).row(j)[i] == (came_from_outside ? 1 : 6));
            if (!came_from_outside && i + 3 < model.columns())
                CHECK(std::abs(model.plane(0, 0).row(j)[i] - before.plane(0, 0).row(j - 1)[i + 2]) < 0.1);
            CHECK(moved(model.marks().row(j)[i]) == 0);
        }
}

// Every level that this processor has gives the same bits.
void levels_agree() {
    for (const auto& [width, height] : {std::pair{240, 180}, {95, 71}, {33, 47}}) {
        std::vector<Detector> detectors;
        for (const std::string& level : levels()) {
            setenv("FASTMCD_LEVEL", level.c_str(), 1);
            detectors.emplace_back(width, height);
        }
        unsetenv("FASTMCD_LEVEL");
        std::mt19937 random(5);
        for (int t = 0; t < 20; ++t) {
            Frame frame = seen(width, height, similarity(width, height, 0.7 * t, 1 + 0.01 * t, 2.3 * t, -1.2 * t));
            put_square(frame, 2 + t / 2, 9 + t / 2, 20);
            for (auto& p : frame.pixels) p = std::uint8_t(std::clamp(int(p) + int(random() % 9) - 4 + t, 0, 255));
            const Result best = detectors[0].detect(frame.view());
            for (std::size_t i = 1; i < detectors.size(); ++i) CHECK(same(best, detectors[i].detect(frame.view())));
        }
    }
    Detector before(64, 64);
    setenv("FASTMCD_LEVEL", "mmx", 1);
    CHECK(throws([] { Detector(64, 64); }, "FASTMCD_LEVEL is 'mmx'"));
    const Frame frame(64, 64);
    CHECK(!throws([&] { (void)before.detect(frame.view()); }, ""));  // the level is chosen once, by the constructor
    unsetenv("FASTMCD_LEVEL");
}

// A textured square crosses a panning, turning view of the world.
Frame scene(int t, Box* truth) {
    Frame frame = seen(240, 180, similarity(240, 180, 0.3 * t, 1, 3.3 * t, 1.2 * t));
    *truth = {30 + 4 * t, 60 + t, 36, 36};
    put_square(frame, truth->x, truth->y, truth->width);
    return frame;
}

void one_object_is_one_box() {
    Detector detector(240, 180), again(240, 180);
    for (int t = 0; t < 40; ++t) {
        Box truth;
        const Frame frame = scene(t, &truth);
        const Result result = detector.detect(frame.view());
        check_sane(result, 240, 180);
        CHECK(result.motion.known == (t > 0));
        if (t >= 16)  // what the first frames hid is unlearned by now
            CHECK(result.objects.size() == 1 && iou(result.objects[0].box, truth) > 0.7);
        CHECK(same(result, again.detect(frame.view())));
    }
    again.reset();
    Detector fresh(240, 180);
    for (int t = 0; t < 8; ++t) {
        Box truth;
        const Frame frame = scene(t, &truth);
        CHECK(same(again.detect(frame.view()), fresh.detect(frame.view())));
    }
}

void only_the_constructor_allocates() {
    std::vector<Frame> frames;
    Box truth;
    for (int t = 0; t < 30; ++t) frames.push_back(t < 20 ? scene(t, &truth) : seen(240, 180, shift(9000 + 3 * t, 5000)));
    std::vector<Image> first;
    for (int t = 0; t < 12; ++t) first.push_back(frames[std::size_t(t)].view());
    Detector detector(240, 180);
    const long before = allocations;
    std::size_t objects = 0;
    detector.rehearse(first);
    for (const Frame& frame : frames) objects += detector.detect(frame.view()).objects.size();
    CHECK(allocations == before && objects > 0);
}

void small_objects_are_dropped() {
    Params params;
    params.min_area = 0.08;  // the square has 0.03, with the place that it has left 0.06
    Detector detector(240, 180, params);
    for (int t = 0; t < 12; ++t) {
        Box truth;
        CHECK(detector.detect(scene(t, &truth).view()).objects.empty());
    }
}

void still_scene_gives_no_box() {
    std::mt19937 random(2);
    Detector detector(160, 120);
    for (int t = 0; t < 30; ++t) {
        Frame frame = seen(160, 120, kIdentity);
        const int light = t < 15 ? 0 : 25;  // a lamp is switched on
        for (auto& p : frame.pixels) p = std::uint8_t(std::clamp(int(p) + light + int(random() % 7) - 3, 0, 255));
        const Result result = detector.detect(frame.view());
        CHECK(result.objects.empty());
        CHECK(result.motion.known == (t > 0) && result.motion.homography == kIdentity);
    }
}

void scene_cut_is_noticed() {
    Detector detector(240, 180);
    for (int t = 0; t < 24; ++t) {
        Box truth;
        const Frame frame = t < 12 ? scene(t, &truth) : seen(240, 180, shift(9000 + 3 * t, 5000));
        const Result result = detector.detect(frame.view());
        CHECK(result.motion.known == (t != 0 && (t < 12 || t > 16)));  // four frames are waited for
        if (t >= 12) CHECK(result.objects.empty());
        if (t == 12) CHECK(result.motion.homography == kIdentity);
    }
}

void what_was_rehearsed_is_found_at_once() {
    const auto rehearse = [](Detector& detector, const std::vector<Frame>& frames) {
        std::vector<Image> first;
        for (const Frame& frame : frames) first.push_back(frame.view());
        detector.rehearse(first);
    };
    Detector detector(240, 180);
    Box truth;
    std::vector<Frame> first;
    for (int t = 0; t < 12; ++t) first.push_back(scene(t, &truth));
    rehearse(detector, first);
    for (int t = 0; t < 20; ++t) {
        const Frame frame = scene(t, &truth);
        const Result result = detector.detect(frame.view());
        check_sane(result, 240, 180);
        CHECK(result.objects.size() == 1 && iou(result.objects[0].box, truth) > 0.7);
        CHECK(result.motion.known == (t > 0) && (t > 0 || result.motion.homography == kIdentity));
        CHECK(detector.tracked().empty() == (t == 0));
    }
    // Three frames, then a cut: what was learned is of the scene that comes later.
    Detector fresh(240, 180);
    for (int t = 3; t < 12; ++t) first[std::size_t(t)] = seen(240, 180, shift(9000 + 3 * t, 5000));
    rehearse(detector, first);
    for (int t = 0; t < 6; ++t) {
        const Frame frame = scene(t, &truth);
        CHECK(same(detector.detect(frame.view()), fresh.detect(frame.view())));
    }
    // The same in colours of equal parts; and nothing is rehearsed of one frame, or none.
    std::vector<std::vector<std::uint8_t>> triples;
    std::vector<Colour> colours;
    for (const Frame& frame : first) {
        std::vector<std::uint8_t>& triple = triples.emplace_back();
        for (const std::uint8_t level : frame.pixels) triple.insert(triple.end(), 3, level);
        colours.push_back({triple.data(), 240, 180, 3 * 240});
    }
    rehearse(fresh, first), detector.rehearse(colours);
    CHECK(same(detector.detect_bgr(colours[0]), fresh.detect(first[0].view())));
    for (const std::size_t few : {0, 1}) {  // whatever came before
        Detector other(240, 180);
        rehearse(fresh, {first.begin(), first.begin() + std::ptrdiff_t(few)});
        CHECK(same(fresh.detect(first[0].view()), other.detect(first[0].view())));
    }
}

void a_refused_rehearsal_changes_nothing() {
    Box truth;
    for (const std::size_t wrong : {0, 1, 5}) {
        Detector detector(240, 180), other(240, 180);
        std::vector<Frame> frames(6, Frame(240, 180));
        frames[wrong] = Frame(64, 48);
        std::vector<Image> first;
        for (const Frame& frame : frames) first.push_back(frame.view());
        for (int t = 0; t < 9; ++t) {
            if (t == 5) CHECK(throws([&] { detector.rehearse(first); }, "64x48, detector was made for 240x180"));
            const Frame frame = scene(t, &truth);
            CHECK(same(detector.detect(frame.view()), other.detect(frame.view())));
        }
    }
}

// A whip pan after a second of rest; then the lens is blurred, so that no motion is found.
void a_fast_turn_keeps_its_objects() {
    for (const double turn : {5.0, 30.0}) {  // px per frame: a tenth of the frame is 24
        Detector detector(240, 180);
        std::vector<Box> last;
        for (int t = 0; t < 20; ++t) {
            Frame frame = seen(240, 180, shift(turn * t, 0));
            put_square(frame, 100 + 2 * t, 60, 50);  // what the camera follows
            const Result result = detector.detect(frame.view());
            last.clear();
            for (const Object& object : result.objects) last.push_back(object.box);
        }
        CHECK(!last.empty() && iou(last[0], {138, 60, 50, 50}) > 0.5);
        const Result lost = detector.detect(Frame(240, 180, 90).view());
        CHECK(!lost.motion.known && lost.objects.size() == (turn > 24 ? last.size() : 0));
        for (std::size_t i = 0; i < lost.objects.size(); ++i) CHECK(iou(lost.objects[i].box, last[i]) == 1);
        bool any = false;
        for (int y = 0; y < 180; ++y)
            for (int x = 0; x < 240; ++x) any |= lost.mask.data[y * lost.mask.stride + x] != 0;
        CHECK(any == (turn > 24));
    }
}

// Rocks, nearer than the ground, go half as fast again under a camera that follows a square.
void what_is_nearer_does_not_move() {
    Detector detector(240, 180);
    int rocks = 0;
    for (int t = 0; t < 40; ++t) {
        Frame frame = seen(240, 180, shift(6 * t, 0));
        for (int y = 130; y < 170; ++y)
            for (int x = 0; x < 240; ++x)
                if ((x + 9 * t) % 110 < 50) frame.at(x, y) = std::uint8_t(255 - std::min(255., 1.3 * world(3 * (x + 9 * t), 3 * y)));
        const Box truth{90 + t / 2, 40, 48, 48};
        put_square(frame, truth.x, truth.y, truth.width);
        const Result result = detector.detect(frame.view());
        if (t < 16) continue;
        CHECK(!result.objects.empty() && iou(result.objects[0].box, truth) > 0.5);
        for (int y = 120; y < 180; ++y)
            for (int x = 0; x < 240; ++x) rocks += result.mask.data[y * result.mask.stride + x] != 0;
    }
    CHECK(rocks < 0.03 * 24 * 240 * 40);
}

// Points of what rests at many depths along the frame's lower border, all towards one point; of a thing that moves; and of the plane.
void the_epipole_is_that_of_what_rests() {
    const Point epipole{500, -300};
    const auto find = [&](double left, double top, double way, int frames) {
        EpipoleFinder finder(320, 240, 192, 1);
        Epipole found;
        for (int t = 0; t < frames; ++t) {
            finder.clear();
            for (int y = 10; y < 240; y += 20)
                for (int x = 10; x < 320; x += 20) {
                    const Point at{double(x), double(y)}, plane{x + way, double(y)};
                    const double dx = epipole.x - x, dy = epipole.y - y, size = (2 + (x + y) % 3) / std::sqrt(dx * dx + dy * dy);
                    Point from = plane;
                    if (x > left && x < 320 - left && y > top && y < top + 70) from = {plane.x + size * dx, plane.y + size * dy};
                    else if (x > 100 && x < 160 && y < 60) from = {plane.x - 4, plane.y + 3};
                    finder.add(at, plane, from);
                }
            found = finder();
        }
        finder.clear();
        CHECK(finder().size == 0);  // a frame without points, as of a camera at rest, has none
        return found;
    };
    const Epipole rocks = find(0, 170, 6, 20);
    const Point shift = rocks.shift({60, 200});
    const double length = std::sqrt(440. * 440 + 500 * 500);  // from there to the epipole
    CHECK(std::abs(shift.x - 3 * 440 / length) < 1e-6 && std::abs(shift.y + 3 * 500 / length) < 1e-6);
    CHECK(find(0, 170, 6, 3).size == 0);   // not yet for long
    CHECK(find(0, 170, 2, 20).size == 0);  // it goes further than the plane
    CHECK(find(60, 80, 6, 20).size == 0);   // it is within the frame: a thing
    CHECK(Epipole{}.shift({1, 2}).x == 0 && Epipole{}.shift({1, 2}).y == 0);
}

// Rocks before a camera that travels one way and turns the other, to keep a square in view: they go less far than the ground.
void what_is_off_the_plane_does_not_move() {
    Detector detector(240, 180);
    int rocks = 0, found = 0;
    for (int t = 0; t < 40; ++t) {
        Frame frame = seen(240, 180, shift(6 * t, 0));
        for (int y = 120; y < 180; ++y)
            for (int x = 0; x < 240; ++x) {
                const int near = x + (y < 150 ? 2 : 1) * t;
                frame.at(x, y) = std::uint8_t(255 - std::min(255., 1.3 * world(near, y)));
            }
        const Box truth{90 + t / 2, 30, 48, 48};
        put_square(frame, truth.x, truth.y, truth.width);
        const Result result = detector.detect(frame.view());
        if (t < 20) continue;
        found += !result.objects.empty() && iou(result.objects[0].box, truth) > 0.5;
        for (int y = 120; y < 180; ++y)
            for (int x = 0; x < 240; ++x) rocks += result.mask.data[y * result.mask.stride + x] != 0;
    }
    CHECK(found >= 15);
    CHECK(rocks < 0.03 * 20 * 240 * 60);
}

// A row of cells that something has left since the frame compared with: each changed then, and rests lately.
void what_is_left_behind_is_told_apart() {
    const int columns = 40;
    const Grid<float> nothing(columns, 1);
    Grid<float> now(columns, 1), then(columns, 1), moved(columns, 1), rest(columns, 1), variance(columns, 1), uncovered(columns, 1), stays(columns, 1), evidence(columns, 1), colour(columns, 1);
    Grid<std::int32_t> marks(columns, 1);
    now.fill(100), then.fill(180), variance.fill(36), colour.fill(-0.1f);
    for (int x = 0; x < columns; ++x) moved.row(0)[x] = x % 2 ? 1.f : -1.f, rest.row(0)[x] = x % 3 ? 0.25f : -0.25f;
    int cells = 0;
    kernels().segment.compare({now.row(-1), now.row(0), now.row(1), then.row(0), now.pitch(), columns, 1, {1, 0, 0, 0, 0, 0, 0, 1, 0}, 1, 0, 1, 1, false,
                               rest.row(0), moved.row(0), moved.row(0), uncovered.row(0), nullptr}, &cells);
    CHECK(cells == columns);
    const auto weighed = [&] {
        kernels().segment.weigh({marks.row(0), nothing.row(0), variance.row(0), rest.row(0), uncovered.row(0), colour.row(0), columns, stays.row(0), evidence.row(0)});
        return std::vector<float>(evidence.row(0), evidence.row(0) + columns);
    };
    const std::vector<float> like_what_rests = weighed();
    colour.fill(0.1f);
    const std::vector<float> like_what_moves = weighed();
    for (int x = 0; x < columns; ++x) {
        const bool left = x % 2 && x % 3;
        CHECK(left == (uncovered.row(0)[x] < 0));
        CHECK(left ? like_what_rests[x] < 0 : like_what_rests[x] >= 0);  // 0.25 for rest, or the change for motion
        CHECK(like_what_moves[x] > 0);
    }
}

void what_moves_unteaches_its_background() {
    const int width = 64, height = 48;
    Model model(width, height, {});
    Plane mask(width, height);
    const Plane frame = copy_of(seen(width, height, kIdentity).view());
    for (int t = 0; t < 20; ++t) model.update(frame, kIdentity, mask);
    Grid<float> belief(model.columns(), model.rows()), rest(belief);
    for (int y = 0; y < model.rows(); ++y)
        for (int x = 0; x < model.columns(); ++x) belief.row(y)[x] = x < 8 ? 1.f : -1.f;
    for (const float age : {20.f, 16.f, 12.f, 8.f, 4.f, 1.f, 1.f}) {  // each frame it loses five, and gains one
        for (int y = 0; y < model.rows(); ++y) CHECK(model.plane(0, 2).row(y)[7] == age && model.plane(0, 2).row(y)[8] >= 20);
        model.correct(belief, rest, mask);
        model.update(frame, kIdentity, mask);
    }
}

// Of two colours that move, one is seen around it at rest as well: that one speaks for rest, rare as it be in the frame.
void colours_are_told_from_what_is_around() {
    const int columns = 160, rows = 90, width = columns * kCell, height = rows * kCell;
    const auto within = [](int x, int y, int side) { return std::abs(x - 45) < side && std::abs(y - 45) < side; };
    const auto leaf = [&](int x, int y) { return within(x, y, 10) && x < 45; };
    std::vector<std::uint8_t> pixels(std::size_t(3) * width * height, 40);
    Grid<float> evidence(columns, rows), belief(columns, rows), uncovered(columns, rows);
    for (int y = 0; y < rows; ++y)
        for (int x = 0; x < columns; ++x) {
            for (int k = 0; k < kCell * kCell; ++k) {
                std::uint8_t* p = &pixels[std::size_t(3) * ((y * kCell + k / kCell) * width + x * kCell + k % kCell)];
                if (leaf(x, y)) p[1] = 200;
                else if (within(x, y, 35)) p[2] = 200;
            }
            evidence.row(y)[x] = belief.row(y)[x] = within(x, y, 10) ? 1.f : -1.f;
        }
    Colours colours(columns, rows);
    colours.look(Colour{pixels.data(), width, height, 3 * width});
    colours.learn(evidence, belief, uncovered);
    const float* line = colours.row(45);
    CHECK(leaf(40, 45) && line[40] > 0.5f);
    CHECK(!leaf(50, 45) && within(50, 45, 10) && line[50] < 0);
    CHECK(line[150] < -0.3f);
}

// Four pixels in the middle of each cell, or the last four where the frame's edge cuts it; nothing outside of the two rows is read.
void a_cell_has_the_colour_of_its_middle() {
    std::mt19937 random(4);
    for (const std::string& level : levels()) {
        setenv("FASTMCD_LEVEL", level.c_str(), 1);
        for (int width = 32; width < 72; ++width) {
            std::vector<std::uint8_t> rows[2] = {std::vector<std::uint8_t>(3 * width), std::vector<std::uint8_t>(3 * width)};
            for (auto& row : rows)
                for (auto& v : row) v = std::uint8_t(random());
            std::vector<std::uint16_t> found(cells(width)), expected;
            kernels().image.colours(rows[0].data(), rows[1].data(), width, cells(width), found.data());
            for (int cell = 0; cell < cells(width); ++cell) {
                const int x = std::min(kCell * cell + 1, width - 2);
                int colour = 0;
                for (int k = 3 * x; k < 3 * x + 3; ++k)
                    colour = colour << kColourBits | (rows[0][k] + rows[0][k + 3] + rows[1][k] + rows[1][k + 3]) >> (10 - kColourBits);
                expected.push_back(std::uint16_t(colour));
            }
            CHECK(found == expected);
        }
    }
    unsetenv("FASTMCD_LEVEL");
}

// What is no longer seen decays to nothing, not into denormal numbers.
void forgotten_colours_are_none() {
    const int columns = 80, rows = 60;
    Grid<float> evidence(columns, rows), belief(columns, rows), uncovered(columns, rows);
    evidence.fill(1), belief.fill(1);
    Colours colours(columns, rows);
    colours.look(Frame(columns * kCell, rows * kCell, 90).view());
    colours.learn(evidence, belief, uncovered);
    evidence.fill(0), belief.fill(0);
    for (int t = 0; t < 1100; ++t) colours.learn(evidence, belief, uncovered);
    std::feclearexcept(FE_UNDERFLOW);
    colours.learn(evidence, belief, uncovered);
    CHECK(!std::fetestexcept(FE_UNDERFLOW));
}

void what_is_still_is_a_ghost_if_its_background_is_young() {
    const int columns = 40;
    const Grid<float> nothing(columns, 1);
    Grid<float> age(columns, 1), variance(columns, 1), rest(columns, 1), stays(columns, 1), evidence(columns, 1);
    Grid<std::int32_t> marks(columns, 1);
    variance.fill(36), rest.fill(0.2f), marks.fill(kAllMoved);
    for (int x = 0; x < columns; ++x) age.row(0)[x] = 2 + 5.f * float(x);
    kernels().segment.weigh({marks.row(0), age.row(0), variance.row(0), rest.row(0), nothing.row(0), nothing.row(0), columns, stays.row(0), evidence.row(0)});
    for (int x = 1; x < columns; ++x) CHECK(evidence.row(0)[x] > evidence.row(0)[x - 1]);
    CHECK(evidence.row(0)[0] < 0.05f && evidence.row(0)[columns - 1] > 1);
}

// A cell like its background rests the surer the sharper that background is.
void a_vague_background_says_little() {
    const int columns = 40;
    const Grid<float> nothing(columns, 1);
    Grid<float> age(columns, 1), variance(columns, 1), stays(columns, 1), evidence(columns, 1);
    const Grid<std::int32_t> marks(columns, 1);
    age.fill(100);
    for (int x = 0; x < columns; ++x) variance.row(0)[x] = 200 + 50.f * float(x);
    kernels().segment.weigh({marks.row(0), age.row(0), variance.row(0), nothing.row(0), nothing.row(0), nothing.row(0), columns, stays.row(0), evidence.row(0)});
    for (int x = 1; x < columns; ++x) CHECK(evidence.row(0)[x] < 0 && evidence.row(0)[x] > evidence.row(0)[x - 1]);
}

// What moved a frame ago, where its background lies now and where it was in the picture, moves, if that background is vague and its colour may.
void what_moved_goes_on_moving() {
    const int columns = 40;
    const Grid<float> nothing(columns, 1);
    Grid<float> moved(columns, 1), rest(columns, 1), variance(columns, 1), stays(columns, 1), evidence(columns, 1), colour(columns, 1);
    const Grid<std::int32_t> marks(columns, 1);
    for (int x = 0; x < columns; ++x) moved.row(0)[x] = x >= 10 && x < 20 ? 1.f : -1.f;
    int cells = 0;
    kernels().segment.compare({nothing.row(-1), nothing.row(0), nothing.row(1), nothing.row(0), nothing.pitch(), columns, 1, {1, 3, 0, 0, 0, 0, 0, 1, 0}, 1, 0, 1, 1, true,
                               rest.row(0), moved.row(0), moved.row(0), nullptr, stays.row(0)}, &cells);
    for (int x = 0; x < columns; ++x) CHECK(stays.row(0)[x] == float(x >= 10 && x < 17));
    for (int x = 0; x < columns; ++x) variance.row(0)[x] = x % 2 ? 1000.f : 50.f, colour.row(0)[x] = x == 15 ? -0.1f : 0.f;
    kernels().segment.weigh({marks.row(0), nothing.row(0), variance.row(0), nothing.row(0), nothing.row(0), colour.row(0), columns, stays.row(0), evidence.row(0)});
    for (int x = 0; x < columns; ++x) CHECK((stays.row(0)[x] > 0.2f) == (x == 11 || x == 13) && (stays.row(0)[x] > 0) == (x == 11 || x == 13));
}

void bad_arguments_throw() {
    CHECK(throws([] { Detector(31, 240); }, "31x240"));
    CHECK(throws([] { Detector(4097, 240); }, "4097x240"));
    CHECK(throws([] { Detector(2976, 2976); }, "2976x2976, sides must be 32 to 4096 px, and 4096x2160 pixels in all at most"));
    CHECK(Detector(2974, 2974).bytes() < std::size_t(30) * 2974 * 2974);
    CHECK(Detector(2160, 4096).bytes() < std::size_t(30) * 4096 * 2160);
    CHECK(throws([] { Detector(320, -1); }, "320x-1"));
    CHECK(throws([] { Params p; p.threshold = 0; Detector(320, 240, p); }, "threshold is 0"));
    CHECK(throws([] { Params p; p.match = std::nan(""); Detector(320, 240, p); }, "match is nan"));
    CHECK(throws([] { Params p; p.min_inliers = 0.2; Detector(320, 240, p); }, "min_inliers is 0.2, must be a number from 0.25"));
    CHECK(throws([] { Params p; p.min_inliers = 0.2499999999; Detector(320, 240, p); }, "min_inliers is 0.2499999999, must be"));
    CHECK(throws([] { Params p; p.points = 5; Detector(320, 240, p); }, "points is 5"));
    CHECK(throws([] { Params p; parameters()[0].set(p, 99.5); }, "whole"));
    const Frame frame(64, 48);
    CHECK(throws([&] { (void)Detector(64, 64).detect(frame.view()); }, "64x48, detector was made for 64x64"));
    for (const Parameter& parameter : parameters()) {  // the defaults are in range, and set() sets what get() gets
        Params params;
        parameter.set(params, parameter.high);
        CHECK(parameter.get(params) == parameter.high && parameter.get({}) >= parameter.low);
    }
}

}  // namespace

int main() {
    any_size_and_content();
    rows_at_any_stride();
    finds_a_known_motion();
    a_pan_is_found_in_images_of_any_shape();
    inliers_are_those_of_the_motion_given();
    the_search_for_a_pan_is_bounded();
    points_tell_what_moves();
    what_rests_is_no_object();
    the_mask_shows_what_is_reported();
    a_crop_keeps_its_aspect();
    a_box_that_has_grown_reaches_those_before_it();
    many_regions_take_no_longer_than_few();
    implausible_homographies_are_refused();
    model_moves_with_the_camera();
    levels_agree();
    one_object_is_one_box();
    only_the_constructor_allocates();
    small_objects_are_dropped();
    still_scene_gives_no_box();
    scene_cut_is_noticed();
    what_was_rehearsed_is_found_at_once();
    a_refused_rehearsal_changes_nothing();
    a_fast_turn_keeps_its_objects();
    what_is_nearer_does_not_move();
    the_epipole_is_that_of_what_rests();
    what_is_off_the_plane_does_not_move();
    what_is_left_behind_is_told_apart();
    what_moves_unteaches_its_background();
    a_cell_has_the_colour_of_its_middle();
    colours_are_told_from_what_is_around();
    forgotten_colours_are_none();
    what_is_still_is_a_ghost_if_its_background_is_young();
    a_vague_background_says_little();
    what_moved_goes_on_moving();
    bad_arguments_throw();
    std::printf(failures ? "%d checks failed\n" : "all checks passed\n", failures);
    return failures != 0;
}
