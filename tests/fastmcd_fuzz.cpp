// The detector under random frames, sizes, strides and parameters; in threads; and for thousands of frames. Run by ctest.
//
//     fastmcd_fuzz [SECONDS [SEED [FRAMES]]]      seconds of random rounds, seed of the first, frames of the long run
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <random>
#include <span>
#include <stdexcept>
#include <thread>
#include <variant>
#include <vector>

#include "fastmcd.hpp"

using namespace fastmcd;

namespace {

int failures = 0;
unsigned seed = 1;  // of the round that runs: what a failure is replayed with

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition) && ++failures < 20)                                                       \
            std::printf("%s:%d: seed %u: failed: %s\n", __FILE__, __LINE__, seed, #condition);     \
    } while (false)

struct Dice {
    std::mt19937 random;
    int x = 0, y = 0;  // where the camera looks
    int below(int n) { return int(random() % unsigned(n)); }
    bool one_in(int n) { return below(n) == 0; }
};

// `channels` bytes per pixel at some stride; the memory ends with the last row's last byte, for the sanitizer to watch.
struct Frame {
    int width, height, channels;
    std::ptrdiff_t stride;
    std::vector<std::uint8_t> bytes;
    Frame(int w, int h, int c, int gap) : width(w), height(h), channels(c), stride(w * c + gap), bytes(stride * (h - 1) + w * c) {}
    Image grey() const { return {bytes.data(), width, height, stride}; }
    Colour colour() const { return {bytes.data(), width, height, stride}; }
};

std::uint8_t clipped(int v) { return std::uint8_t(std::clamp(v, 0, 255)); }

int ground(int x, int y) {  // blocks of 7x7 pixels, each of a level of its own
    const unsigned h = (unsigned(x + 70000) / 7 * 374761393u) ^ (unsigned(y + 70000) / 7 * 668265263u);
    return int((h * 1274126177u) >> 24);
}

void draw(Frame& frame, Dice& dice) {
    enum { ramp, black, white, noise, saturated, jump, pan, kinds };
    const int kind = std::min(dice.below(kinds + 4), int(pan)), slope = dice.below(9) - 4, level = dice.below(256);
    if (kind == jump) dice.x = dice.below(60000), dice.y = dice.below(60000);
    else dice.x += dice.below(7) - 3, dice.y += dice.below(5) - 2;
    const int x0 = dice.below(frame.width), y0 = dice.below(frame.height), side = dice.below(60), dark = dice.below(120);
    std::size_t i = 0;
    for (int y = 0; y < frame.height; ++y, i = std::size_t(y) * std::size_t(frame.stride))
        for (int x = 0; x < frame.width * frame.channels; ++x, ++i) {
            const int column = x / frame.channels, at = ground(column + dice.x, y + dice.y);
            int v = at - dark / 4 + int(dice.random() & 7);
            if (kind == ramp) v = level + slope * column - slope * y / 2;
            if (kind == black || kind == white) v = kind == white ? 255 : 0;
            if (kind == noise) v = int(dice.random() & 255);
            if (kind == saturated) v = 9 * (at - 128);
            if (kind >= jump && column >= x0 && column < x0 + side && y >= y0 && y < y0 + side) v = level;
            frame.bytes[i] = clipped(v);
        }
}

Params any_params(Dice& dice) {
    Params params;
    for (const Parameter& p : parameters()) {
        if (dice.one_in(2)) continue;
        const double between = p.low + (p.high - p.low) * dice.below(1001) / 1000.0;
        const double value = dice.one_in(3) ? p.low : dice.one_in(2) ? p.high : between;
        p.set(params, std::holds_alternative<int Params::*>(p.field) ? std::round(value) : value);
    }
    return params;
}

const std::uint8_t* row(Image image, int y) { return image.data + y * image.stride; }

bool inside(const Box& in, const Box& out) {
    return in.width > 0 && in.height > 0 && in.x >= out.x && in.y >= out.y && in.x + in.width <= out.x + out.width &&
           in.y + in.height <= out.y + out.height;
}

void check_sane(const Result& result, int width, int height) {
    float last = 1;
    for (const Object& object : result.objects) {
        CHECK(inside(object.crop, {0, 0, width, height}) && inside(object.box, object.crop));
        CHECK(object.score >= 0 && object.score <= last);  // NaN is neither
        last = object.score;
    }
    CHECK(result.mask.width == width && result.mask.height == height);
    for (int y = 0; y < height; ++y)
        CHECK(std::all_of(row(result.mask, y), row(result.mask, y) + width, [](int v) { return v == 0 || v == 255; }));
    for (const double v : result.motion.homography) CHECK(std::isfinite(v));
    CHECK(result.motion.inliers >= 0 && result.motion.inliers <= result.motion.points);
}

// All that a result says, to be kept and compared.
struct Copy {
    std::vector<int> numbers;
    std::vector<float> scores;  // and what they are made of
    std::vector<std::uint8_t> mask;
    std::array<double, 9> homography;
    explicit Copy(const Result& r) : homography(r.motion.homography) {
        numbers = {r.motion.known, r.motion.points, r.motion.inliers};
        for (const Object& o : r.objects) {
            for (const Box& b : {o.box, o.crop}) numbers.insert(numbers.end(), {b.x, b.y, b.width, b.height});
            scores.insert(scores.end(), {o.score, o.evidence.size, o.evidence.solid, o.evidence.distinct, o.evidence.lasting});
        }
        for (int y = 0; y < r.mask.height; ++y) mask.insert(mask.end(), row(r.mask, y), row(r.mask, y) + r.mask.width);
    }
    bool operator==(const Copy&) const = default;
};

bool refused(int width, int height) {
    try {
        Detector detector(width, height);
    } catch (const std::invalid_argument&) {
        return true;
    }
    return false;
}

std::vector<Detector> one_per_level(int width, int height, Params params) {  // and each with another number of threads
    std::vector<Detector> detectors;
    for (const std::string& level : levels()) {
        setenv("FASTMCD_LEVEL", level.c_str(), 1);
        params.threads = 1 + int(detectors.size());
        detectors.emplace_back(width, height, params);
    }
    unsetenv("FASTMCD_LEVEL");
    return detectors;
}

void random_round() {
    Dice dice{std::mt19937(seed)};
    const int width = 1 + dice.below(200), height = 1 + dice.below(200);
    if (width < 32 || height < 32) {
        CHECK(refused(width, height));
        return;
    }
    auto detectors = one_per_level(width, height, any_params(dice));
    std::vector<std::size_t> bytes;
    for (const Detector& detector : detectors) bytes.push_back(detector.bytes());
    for (int t = 0; t < 14; ++t) {
        Frame frame(width, height, dice.one_in(4) ? 3 : 1, dice.below(2) * dice.below(50));
        draw(frame, dice);
        const bool forget = dice.one_in(20), turn = dice.one_in(10);
        std::optional<Copy> first;
        for (std::size_t i = 0; i < detectors.size(); ++i) {
            Detector& detector = detectors[i];
            if (forget) detector.reset();
            if (turn && frame.channels == 3) detector.rehearse(std::vector(2, frame.colour()));
            if (turn && frame.channels == 1) detector.rehearse(std::vector(2, frame.grey()));
            const Result result = frame.channels == 3 ? detector.detect_bgr(frame.colour()) : detector.detect(frame.grey());
            check_sane(result, width, height);
            CHECK(detector.bytes() == bytes[i]);
            if (!first) first.emplace(result);
            else CHECK(*first == Copy(result));
        }
    }
}

void random_rounds(double seconds) {
    const auto start = std::chrono::steady_clock::now();
    int rounds = 0;
    for (; std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() < seconds; ++rounds, ++seed) random_round();
    std::printf("%d random rounds on %zu CPU levels\n", rounds, levels().size());
}

std::vector<Copy> results_of(unsigned which) {
    Dice dice{std::mt19937(which)};
    Detector detector(160, 120);
    std::vector<Copy> out;
    for (int t = 0; t < 40; ++t) {
        Frame frame(160, 120, 1, 0);
        for (int y = 0; y < 120; ++y)
            for (int x = 0; x < 160; ++x) {
                const bool object = std::abs(x - 2 * t - 30) < 15 && std::abs(y - 60) < 15;
                frame.bytes[std::size_t(y) * 160 + x] = clipped((object ? 240 : ground(x + 2 * t, y + t) / 2) + dice.below(5));
            }
        out.emplace_back(detector.detect(frame.grey()));
    }
    return out;
}

// Four at once give what each gives alone.
void one_detector_per_thread_is_safe() {
    constexpr unsigned kThreads = 4;
    std::vector<std::vector<Copy>> alone, together(kThreads);
    for (unsigned i = 0; i < kThreads; ++i) alone.push_back(results_of(i));
    std::vector<std::thread> threads;
    for (unsigned i = 0; i < kThreads; ++i) threads.emplace_back([&together, i] { together[i] = results_of(i); });
    for (std::thread& thread : threads) thread.join();
    CHECK(alone == together && alone[0] != alone[1]);
    CHECK(std::any_of(alone[0].begin(), alone[0].end(), [](const Copy& c) { return !c.scores.empty(); }));
}

struct Tally {
    int false_alarms = 0, found = 0, there = 0, moved = 0;
};

// A still, noisy scene that a small square crosses every hundred frames: in the end as in the beginning.
void nothing_grows_or_drifts(int frames) {
    constexpr int kWidth = 64, kHeight = 48, kSide = 16, kPeriod = 100;
    Dice dice{std::mt19937(9)};
    Detector detector(kWidth, kHeight);
    const std::size_t bytes = detector.bytes();
    Tally tallies[3];
    Frame frame(kWidth, kHeight, 1, 0);
    for (int t = 0; t < frames; ++t) {
        const int left = 2 * (t % kPeriod) - kSide, top = 16;
        for (int y = 0; y < kHeight; ++y)
            for (int x = 0; x < kWidth; ++x) {
                const bool object = x >= left && x < left + kSide && y >= top && y < top + kSide;
                const std::uint32_t r = dice.random();
                const int noise = int(r & 3) + int(r >> 2 & 3) + int(r >> 4 & 3) + int(r >> 6 & 3) - 6;  // deviation 2.2
                frame.bytes[std::size_t(y) * kWidth + x] = clipped((object ? 230 : 30 + ground(x, y) / 2) + noise);
            }
        const Result result = detector.detect(frame.grey());
        if (t < kPeriod) continue;
        Tally& tally = tallies[std::min(2L, 3L * (t - kPeriod) / (frames - kPeriod))];
        const bool visible = left >= 0 && left + kSide <= kWidth;
        bool found = false;
        for (const Object& o : result.objects) {
            const bool hit = std::abs(o.box.x - left) <= 6 && std::abs(o.box.y - top) <= 6 && o.box.width < 2 * kSide;
            found |= hit;
            tally.false_alarms += left >= kWidth && !hit;
        }
        tally.there += visible, tally.found += visible && found;
        tally.moved += result.motion.homography != std::array<double, 9>{1, 0, 0, 0, 1, 0, 0, 0, 1};
    }
    CHECK(detector.bytes() == bytes);
    for (const Tally& t : tallies)
        std::printf("%d frames, a third of them: %d false alarms, found in %d of %d, camera moved in %d\n", frames, t.false_alarms,
                    t.found, t.there, t.moved);
    CHECK(tallies[2].false_alarms <= tallies[0].false_alarms + frames / 1000);
    const auto share = [](const Tally& t) { return double(t.found) / t.there; };
    CHECK(share(tallies[2]) >= 0.9 * share(tallies[0]) && share(tallies[0]) > 0.5);
}

// Large enough for sixteen threads, many more than there are cores.
void any_number_of_threads_gives_the_same_bits() {
    constexpr int kWidth = 96, kHeight = 1040;
    Dice dice{std::mt19937(3)};
    std::vector<Detector> detectors;
    for (const int threads : {1, 2, 5, 16}) {
        Params params;
        params.threads = threads;
        detectors.emplace_back(kWidth, kHeight, params);
    }
    for (int t = 0; t < 24; ++t) {
        Frame frame(kWidth, kHeight, 3, 5);
        draw(frame, dice);
        const Copy alone(detectors[0].detect_bgr(frame.colour()));
        for (std::size_t i = 1; i < detectors.size(); ++i) CHECK(Copy(detectors[i].detect_bgr(frame.colour())) == alone);
    }
}

void memory_is_bounded() {
    for (const auto& [width, height] : {std::pair{320, 240}, {240, 320}, {321, 241}, {854, 480}, {1921, 1081}, {4096, 2160}})
        for (const int threads : {1, 16}) {
            Params params;
            params.threads = threads;
            CHECK(Detector(width, height, params).bytes() <= std::size_t(30) * width * height);
        }
}

}  // namespace

int main(int argc, char** argv) {
    const double seconds = argc > 1 ? std::atof(argv[1]) : 2;
    seed = argc > 2 ? unsigned(std::atoi(argv[2])) : 1;
    const int frames = argc > 3 ? std::atoi(argv[3]) : 3000;
    random_rounds(seconds);
    one_detector_per_thread_is_safe();
    any_number_of_threads_gives_the_same_bits();
    nothing_grows_or_drifts(frames);
    memory_is_bounded();
    std::printf(failures ? "%d checks failed\n" : "all checks passed\n", failures);
    return failures != 0;
}
