// Packed networks against plain loops, on every kernel that this processor has. Also run under AddressSanitizer and UBSan.
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <new>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "xnor.hpp"

using namespace xnor;

static int failures = 0;
#define CHECK(condition) \
    do { \
        if (!(condition)) { \
            std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
            ++failures; \
        } \
    } while (false)

// Memory of whole cache lines runs out where a test says so: on other threads than the first.
static std::atomic<bool> no_memory = false;
static const std::thread::id first_thread = std::this_thread::get_id();
void* operator new(std::size_t size, std::align_val_t line) {
    void* p = nullptr;
    if ((no_memory && std::this_thread::get_id() != first_thread) || posix_memalign(&p, std::size_t(line), size)) throw std::bad_alloc();
    return p;
}
void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
void operator delete(void* p, std::size_t, std::align_val_t) noexcept { std::free(p); }

static std::mt19937 generator(1);
static int draw(int low, int high) { return std::uniform_int_distribution<int>(low, high)(generator); }
static std::vector<float> floats(std::size_t n) {
    std::normal_distribution<float> normal;
    std::vector<float> values(n);
    for (float& v : values) v = normal(generator);
    return values;
}
static std::vector<std::uint8_t> flags(std::size_t n) {
    std::vector<std::uint8_t> values(n);
    for (auto& v : values) v = std::uint8_t(draw(0, 1));
    return values;
}

// Maps of the plain loops: height, width, channels.
struct Plain {
    Shape shape;
    std::vector<float> values;
    float& at(int y, int x, int c) { return values[(std::size_t(y) * shape.width + x) * shape.channels + c]; }
};

static Plain convolve(Plain in, const Conv& conv, const std::function<float(int o, int c, int y, int x)>& weight) {
    Plain out{{conv.outputs, (in.shape.height + 2 * conv.padding - conv.height) / conv.stride + 1, (in.shape.width + 2 * conv.padding - conv.width) / conv.stride + 1}, {}};
    out.values.resize(std::size_t(out.shape.height) * out.shape.width * conv.outputs);
    for (int y = 0; y < out.shape.height; ++y)
        for (int x = 0; x < out.shape.width; ++x)
            for (int o = 0; o < conv.outputs; ++o) {
                float sum = 0;  // in the order that every kernel keeps: rows, columns, channels
                for (int ky = 0; ky < conv.height; ++ky)
                    for (int kx = 0; kx < conv.width; ++kx)
                        for (int c = 0; c < in.shape.channels; ++c) {
                            const int iy = y * conv.stride - conv.padding + ky, ix = x * conv.stride - conv.padding + kx;
                            if (iy >= 0 && iy < in.shape.height && ix >= 0 && ix < in.shape.width) sum = std::fma(in.at(iy, ix, c), weight(o, c, ky, kx), sum);
                        }
                out.at(y, x, o) = sum;
            }
    return out;
}

static Plain pool(Plain in, const Pool& p, bool any) {  // of +-1: the largest, or the smallest if any
    Plain out{{in.shape.channels, (in.shape.height + 2 * p.padding - p.size) / p.stride + 1, (in.shape.width + 2 * p.padding - p.size) / p.stride + 1}, {}};
    out.values.resize(std::size_t(out.shape.height) * out.shape.width * in.shape.channels);
    for (int y = 0; y < out.shape.height; ++y)
        for (int x = 0; x < out.shape.width; ++x)
            for (int c = 0; c < in.shape.channels; ++c) {
                float best = any ? 1 : -1;
                for (int iy = y * p.stride - p.padding; iy < y * p.stride - p.padding + p.size; ++iy)
                    for (int ix = x * p.stride - p.padding; ix < x * p.stride - p.padding + p.size; ++ix)
                        if (iy >= 0 && iy < in.shape.height && ix >= 0 && ix < in.shape.width) best = any ? std::min(best, in.at(iy, ix, c)) : std::max(best, in.at(iy, ix, c));
                out.at(y, x, c) = best;
            }
    return out;
}

static Shape random_shape(int most_channels) {  // some of them one pixel wide or high
    return {draw(1, most_channels), draw(1, 9), draw(1, 9)};
}

static Conv random_conv(const Shape& in, int most_outputs) {  // its window may be larger than the map
    const int padding = draw(0, 2);
    const auto side = [&](int length) { return draw(padding + 1, std::max(padding + 1, std::min(5, length + 2 * padding))); };
    return {draw(1, most_outputs), side(in.height), side(in.width), draw(1, 3), padding};
}

// conv_sign, max_pool_bits, binary_conv_sign, binary_conv: bits and sums must be those of the loops, to the last bit.
static void test_against_loops() {
    for (int trial = 0; trial < 60; ++trial) {
        const Shape in = random_shape(5);
        Plain image{in, floats(std::size_t(in.channels) * in.height * in.width)};
        const Conv first = random_conv(in, 140);
        const auto weight = floats(std::size_t(first.outputs) * in.channels * first.height * first.width);
        const auto threshold = floats(first.outputs);
        Plain map = convolve(image, first, [&](int o, int c, int y, int x) { return weight[((std::size_t(o) * in.channels + c) * first.height + y) * first.width + x]; });
        for (std::size_t i = 0; i < map.values.size(); ++i) map.values[i] = map.values[i] < threshold[i % first.outputs] ? -1.0f : 1.0f;

        const Pool window{std::min({draw(1, 3), map.shape.height, map.shape.width}), draw(1, 2), 0};
        const auto any = flags(first.outputs);
        Plain largest = pool(map, window, false), smallest = pool(map, window, true);
        for (std::size_t i = 0; i < largest.values.size(); ++i)
            if (any[i % first.outputs]) largest.values[i] = smallest.values[i];

        const Conv second = random_conv(largest.shape, 140);
        const auto negative = flags(std::size_t(second.outputs) * first.outputs * second.height * second.width);
        const auto sign_of = [](const std::vector<std::uint8_t>& bits, int channels, const Conv& conv) {
            return [&bits, channels, conv](int o, int c, int y, int x) { return bits[((std::size_t(o) * channels + c) * conv.height + y) * conv.width + x] ? -1.0f : 1.0f; };
        };
        Plain middle = convolve(largest, second, sign_of(negative, first.outputs, second));
        std::vector<std::int32_t> limit(second.outputs);
        for (auto& l : limit) l = draw(0, 9) ? draw(-20, 20) : draw(0, 1) ? 1 << 30 : -(1 << 30);  // always and never, too
        for (std::size_t i = 0; i < middle.values.size(); ++i) middle.values[i] = middle.values[i] < float(limit[i % second.outputs]) ? -1.0f : 1.0f;

        const Conv third{draw(1, 40), middle.shape.height, middle.shape.width, 1, 0};  // a linear layer
        const auto last = flags(std::size_t(third.outputs) * second.outputs * third.height * third.width);
        const auto expected = convolve(middle, third, sign_of(last, second.outputs, third)).values;
        const std::vector<float> ones(third.outputs, 1.0f), zeros(third.outputs, 0.0f);

        for (const auto& kernel : kernels())
            for (const int threads : {1, 3}) {
                Network network(in.channels, in.height, in.width, kernel, threads);
                network.conv_sign(first, weight, threshold);
                network.max_pool_bits(window, any);
                network.binary_conv_sign(second, negative, limit);
                network.binary_conv(third, last, ones, zeros, false);
                const Shape out = network.output();
                CHECK(out.channels == third.outputs && out.height == 1 && out.width == 1);
                std::vector<float> two(image.values), result(2 * expected.size(), -1);
                two.insert(two.end(), image.values.begin(), image.values.end());
                network.run(two.data(), 2, result.data());
                bool same = true;
                for (std::size_t i = 0; i < result.size(); ++i) same = same && result[i] == expected[i % expected.size()];
                CHECK(same);
            }
    }
}

// prelu and add, over every size of pool and number of repeats, and against a map that a convolution's margin surrounds.
static void test_shortcuts() {
    for (int trial = 0; trial < 40; ++trial) {
        const int size = draw(1, 3), repeats = draw(1, 3), channels = draw(1, 37);
        const Shape in{channels, draw(size, 9), draw(size, 9)};
        Plain image{in, floats(std::size_t(channels) * in.height * in.width)};
        const auto slope = floats(channels);
        const Conv conv{channels * repeats, size, size, size, draw(0, 1) * (size - 1) / 2};  // as many pixels as the pool leaves, or nearly
        const auto weight = floats(std::size_t(conv.outputs) * channels * size * size);
        const std::vector<float> ones(conv.outputs, 1.0f), zeros(conv.outputs, 0.0f);
        Plain left = image;
        for (std::size_t i = 0; i < left.values.size(); ++i)
            if (left.values[i] < 0) left.values[i] *= slope[i % channels];
        Plain expected = convolve(left, conv, [&](int o, int c, int y, int x) { return weight[((std::size_t(o) * channels + c) * size + y) * size + x]; });
        for (int y = 0; y < expected.shape.height; ++y)
            for (int x = 0; x < expected.shape.width; ++x)
                for (int o = 0; o < conv.outputs; ++o) {
                    float sum = left.at(y * size, x * size, o % channels);
                    for (int i = 1; i < size * size; ++i) sum += left.at(std::min(y * size + i / size, in.height - 1), std::min(x * size + i % size, in.width - 1), o % channels);
                    expected.at(y, x, o) += size > 1 ? sum / float(size * size) : sum;
                }
        for (const auto& kernel : kernels()) {
            Network network(channels, in.height, in.width, kernel, draw(1, 2));
            network.prelu(slope);
            network.conv(conv, weight, ones, zeros, false);
            if (network.output().height != in.height / size || network.output().width != in.width / size) break;  // refused, as tested below
            network.add(1, size);
            std::vector<float> result(expected.values.size());
            network.run(image.values.data(), 1, result.data());
            CHECK(result == expected.values);
        }
    }
}

// A network of one step, which nothing can join; `sign` goes with the layer that reads it.
static Plain one_step(const Plain& in, const std::function<void(Network&)>& add) {
    Network network(in.shape.channels, in.shape.height, in.shape.width, "scalar");
    add(network);
    Plain out{network.output(), {}};
    out.values.resize(std::size_t(out.shape.channels) * out.shape.height * out.shape.width);
    network.run(in.values.data(), 1, out.values.data());
    return out;
}

static Plain added(Plain to, Plain past, int size) {
    for (int y = 0; y < to.shape.height; ++y)
        for (int x = 0; x < to.shape.width; ++x)
            for (int c = 0; c < to.shape.channels; ++c) {
                float sum = past.at(y * size, x * size, c % past.shape.channels);
                for (int i = 1; i < size * size; ++i) sum += past.at(y * size + i / size, x * size + i % size, c % past.shape.channels);
                to.at(y, x, c) += size > 1 ? sum / float(size * size) : sum;
            }
    return to;
}

// Steps in any order, with shortcuts from any map: joined into passes, they leave the bits that they leave one by one.
static void test_joined_steps() {
    for (int trial = 0; trial < 120; ++trial) {
        const int sizes[] = {1, 7, 16, 32, 48, 70};
        const Shape in{sizes[draw(0, 5)], draw(1, 9), draw(1, 9)};
        std::vector<Plain> maps{{in, floats(std::size_t(in.channels) * in.height * in.width)}};
        std::vector<std::function<void(Network&)>> steps;
        const auto then = [&](const std::function<void(Network&)>& add) {
            maps.push_back(one_step(maps.back(), add));
            steps.push_back(add);
        };
        for (int i = 0; i < 12; ++i) {
            const Shape now = maps.back().shape;
            const int n = now.channels, pick = draw(0, 7);
            const int side = std::min({now.height, now.width, draw(1, 3)});
            if (pick == 0) {
                then([slope = floats(n)](Network& net) { net.prelu(slope); });
            } else if (pick == 1) {
                then([scale = floats(n), shift = floats(n), relu = draw(0, 1) == 1](Network& net) { net.affine(scale, shift, relu); });
            } else if (pick == 2) {
                then([pool = Pool{side, draw(1, 2), draw(0, side - 1)}](Network& net) { net.max_pool(pool); });
            } else if (pick == 3) {
                then([pool = Pool{side, draw(1, 2), draw(0, side - 1)}](Network& net) { net.average_pool(pool); });
            } else if (pick == 4) {
                const Conv conv{sizes[draw(0, 5)], side, side, 1, draw(0, side - 1)};
                then([conv, weight = floats(std::size_t(conv.outputs) * n * side * side), scale = floats(conv.outputs), shift = floats(conv.outputs),
                      relu = draw(0, 1) == 1](Network& net) { net.conv(conv, weight, scale, shift, relu); });
                if (maps.back().shape.height > 1 && maps.back().shape.width > 1 && draw(0, 1))
                    then([](Network& net) { net.max_pool({2, 2, 0}); });
            } else if (pick == 5) {
                const int map = draw(0, int(maps.size()) - 1);
                const Shape& past = maps[map].shape;
                const int size = std::max(1, past.height / now.height);
                if (past.channels == 0 || n % past.channels || past.height / size != now.height || past.width / size != now.width) continue;
                maps.push_back(added(maps.back(), maps[map], size));
                steps.push_back([map, size](Network& net) { net.add(map, size); });
            } else {
                const Conv conv{draw(0, 1) ? n : sizes[draw(0, 5)], side, side, 1, draw(0, side - 1)};
                const auto sign = [turn = floats(n), threshold = floats(n)](Network& net) { net.sign(turn, threshold); };
                const auto layer = [conv, negative = flags(std::size_t(conv.outputs) * n * side * side), scale = floats(conv.outputs),
                                    shift = floats(conv.outputs)](Network& net) { net.binary_conv(conv, negative, scale, shift, false); };
                const Plain out = one_step(maps.back(), [&](Network& net) { sign(net), layer(net); });
                maps.push_back({{0, 1, 1}, {}});  // bits
                maps.push_back(out);
                steps.push_back(sign), steps.push_back(layer);
            }
        }
        const std::vector<float>& expected = maps.back().values;
        for (const auto& kernel : kernels()) {
            Network network(in.channels, in.height, in.width, kernel, kernel == kernels()[trial % kernels().size()] ? 2 : 1);
            for (const auto& add : steps) add(network);
            std::vector<float> result(expected.size());
            network.run(maps[0].values.data(), 1, result.data());
            CHECK(result == expected);
        }
    }
}

// A run plans the steps so far: one that is added later is planned by the next.
static void test_a_step_after_a_run() {
    const auto image = floats(2 * 6 * 6), weight = floats(5 * 2 * 9), slope = floats(5);
    const std::vector<float> ones(5, 1.0f), zeros(5, 0.0f);
    Network grown(2, 6, 6), whole(2, 6, 6);
    std::vector<float> first(5 * 6 * 6), second(first), expected(first);
    for (Network* network : {&grown, &whole}) network->conv({5, 3, 3, 1, 1}, weight, ones, zeros, false);
    grown.run(image.data(), 1, first.data());
    for (Network* network : {&grown, &whole}) network->prelu(slope);
    grown.run(image.data(), 1, second.data());
    whole.run(image.data(), 1, expected.data());
    CHECK(second == expected && first != second && grown.bytes() == whole.bytes());
}

static void test_long_sums() {  // more than a byte can count, and as many as 16 bits can
    for (const int channels : {64, 252, 253, 4100, 65534}) {
        const std::vector<std::uint8_t> negative(3 * std::size_t(channels), 1);
        const std::vector<float> image(channels, 1.0f), ones(channels, 1.0f), zeros(channels, 0.0f);
        for (const auto& kernel : kernels()) {
            Network network(channels, 1, 1, kernel);
            network.sign(ones, zeros);
            network.binary_conv({3, 1, 1, 1, 0}, negative, std::vector<float>(3, 1.0f), std::vector<float>(3, 0.0f), false);
            float result[3];
            network.run(image.data(), 1, result);
            CHECK(result[0] == -channels && result[1] == -channels && result[2] == -channels);
        }
    }
}

// Pixels are looked up in a table of 1 KiB a channel: only where there are pixels. If nothing is said of them they are v / 255.
static void test_a_table_of_levels_is_for_pixels() {
    CHECK(Network(1 << 20, 1, 1).bytes() < std::size_t(1) << 27);
    Network network(3, 1, 1);
    network.affine(std::vector<float>(3, 1.0f), std::vector<float>(3, 0.0f), false);
    const std::uint8_t pixel[] = {0, 51, 255};
    float result[3];
    network.run(pixel, 1, result);
    CHECK(result[0] == 0 && result[1] == 51 / 255.0f && result[2] == 1);
    network.normalize(std::vector<float>(3, 1.0f), std::vector<float>(3, 2.0f));
    network.run(pixel, 1, result);
    CHECK(result[0] == -0.5f && result[2] == 0);
}

static float widened(std::uint16_t half) {
    const std::uint32_t bits = std::uint32_t(half) << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

// A layer by itself, many images on several threads: the float sums of the loops, to the last bit, and the bfloat16 values nearest to them.
static void test_one_layer() {
    for (int trial = 0; trial < 60; ++trial) {
        const Shape in = random_shape(100);
        const int count = draw(0, 4);
        const std::size_t size = std::size_t(in.channels) * in.height * in.width;
        const Conv conv = random_conv(in, 140);
        std::vector<std::uint16_t> x(count * size);
        for (auto& v : x) v = std::uint16_t(draw(0, 65535));  // only their sign bits count
        const auto negative = flags(std::size_t(conv.outputs) * in.channels * conv.height * conv.width);
        const auto scale = floats(conv.outputs), shift = floats(conv.outputs);
        std::vector<float> expected;
        for (int n = 0; n < count; ++n) {
            Plain image{in, std::vector<float>(size)};
            for (std::size_t i = 0; i < size; ++i) image.values[i] = x[n * size + i] >= 32768 ? -1.0f : 1.0f;
            const auto sums = convolve(image, conv, [&](int o, int c, int ky, int kx) { return negative[((std::size_t(o) * in.channels + c) * conv.height + ky) * conv.width + kx] ? -1.0f : 1.0f; }).values;
            for (std::size_t i = 0; i < sums.size(); ++i) expected.push_back(std::fma(sums[i], scale[i % conv.outputs], shift[i % conv.outputs]));
        }
        for (const auto& kernel : kernels())
            for (const int threads : {1, 3}) {
                std::vector<float> y(expected.size());
                std::vector<std::uint16_t> half(expected.size());
                const Everywhere everywhere = [&](const std::function<void()>& work) {
                    std::vector<std::jthread> team;
                    for (int t = 0; t < threads; ++t) team.emplace_back(work);
                };
                binary_conv(conv, in, negative, scale, shift, x.data(), count, y.data(), kernel, everywhere);
                binary_conv(conv, in, negative, scale, shift, x.data(), count, half.data(), kernel);
                CHECK(y == expected);
                const auto is_nearest = [&](std::size_t i) {
                    const double off = std::fabs(double(widened(half[i])) - expected[i]);
                    const auto further = [&](int step) { return off <= std::fabs(double(widened(std::uint16_t(half[i] + step))) - expected[i]); };
                    return further(1) && ((half[i] & 0x7fff) == 0 || further(-1));
                };
                bool nearest = true;
                for (std::size_t i = 0; i < half.size(); ++i) nearest = nearest && is_nearest(i);
                CHECK(nearest);
            }
    }
}

template <class F>
static void check_refused(F build, const std::string& words) {
    try {
        build();
        CHECK(!"refused");
    } catch (const std::invalid_argument& error) {
        CHECK(std::string(error.what()).find(words) != std::string::npos);
    }
}

// What a helping thread throws reaches the caller.
static void test_a_thread_without_memory() {
    const std::vector<std::uint16_t> x(64);
    float y[64];
    const Everywhere on_others = [](const std::function<void()>& work) {
        for (int t = 0; t < 2; ++t) std::jthread(work).join();
    };
    no_memory = true;
    bool thrown = false;
    try {
        binary_conv({1, 1, 1, 1, 0}, {1, 8, 8}, std::vector<std::uint8_t>(1), std::vector<float>(1), std::vector<float>(1), x.data(), 1, y, "", on_others);
    } catch (const std::bad_alloc&) {
        thrown = true;
    }
    no_memory = false;
    CHECK(thrown);
}

static void test_bad_input_is_refused() {
    const std::vector<float> one(1, 1.0f), nine(9, 1.0f);
    const std::vector<std::uint8_t> sign(1, 0);
    check_refused([] { Network(0, 8, 8); }, "at least 1");
    check_refused([] { Network(1, 8, 8, "sse9"); }, "use one of");
    check_refused([] { Network(1, 8, 8, "", 0); }, "threads");
    check_refused([] { Network(1, 1 << 20, 1 << 20); }, "too large");
    const auto with = [](auto add) { return [add] { Network n(1, 8, 8); add(n); }; };
    check_refused(with([&](Network& n) { n.conv({1, 3, 3, 1, 0}, one, one, one, false); }), "expected 9");
    check_refused(with([&](Network& n) { n.conv({1, 3, 3, 1, 3}, nine, one, one, false); }), "padding");
    check_refused(with([&](Network& n) { n.conv({1, 3, 3, 0, 0}, nine, one, one, false); }), "stride");
    check_refused(with([&](Network& n) { n.max_pool({1 << 30, 1, (1 << 30) - 1}); }), "at most 65536");
    check_refused(with([&](Network& n) { n.conv({1, 9, 1, 1, 0}, nine, one, one, false); }), "does not fit");
    check_refused(with([&](Network& n) { n.conv({1, 3, 3, 1, 0}, nine, nine, one, false); }), "scale has 9");
    check_refused(with([&](Network& n) { n.binary_conv({1, 1, 1, 1, 0}, sign, one, one, false); }), "works on bits");
    check_refused(with([&](Network& n) { n.sign(one, one), n.max_pool({2, 2, 0}); }), "works on floats");
    check_refused(with([&](Network& n) { n.sign(one, one), n.max_pool_bits({2, 2, 0}, std::vector<std::uint8_t>(2)); }), "any has 2");
    check_refused(with([&](Network& n) { n.prelu(nine); }), "slope has 9");
    check_refused(with([&](Network& n) { n.add(1, 1); }), "no map 1 of floats");
    check_refused(with([&](Network& n) { n.sign(one, one), n.add(0, 1); }), "works on floats");
    check_refused(with([&](Network& n) { n.max_pool({2, 2, 0}), n.add(0, 1); }), "does not fit onto");
    check_refused(with([&](Network& n) { n.normalize(one, nine); }), "normalize");
    check_refused(with([&](Network& n) { float x = 0; n.sign(one, one), n.run(&x, 1, &x); }), "floats");
    const int many = 70000;
    check_refused([&] { Network n(many, 1, 1); n.sign(std::vector<float>(many, 1.0f), std::vector<float>(many)); n.binary_conv({1, 1, 1, 1, 0}, std::vector<std::uint8_t>(many), one, one, false); }, "at most 65534");
    check_refused(with([&](Network& n) { n.max_pool({8, 8, 0}), n.sign(one, one), n.binary_conv({1, 65536, 65536, 1, 32768}, {}, one, one, false); }), "4294967296 taps");
    const auto layer = [&](Conv conv, Shape in, std::size_t weights) {
        return [=] {
            std::uint16_t x[64] = {};
            float y[64];
            binary_conv(conv, in, std::vector<std::uint8_t>(weights), std::vector<float>(1), std::vector<float>(1), x, 1, y);
        };
    };
    check_refused(layer({1, 3, 3, 1, 0}, {1, 8, 8}, 8), "expected 9");
    check_refused(layer({2, 3, 3, 1, 0}, {1, 8, 8}, 18), "scale has 1");
    check_refused(layer({1, 3, 3, 1, 0}, {0, 8, 8}, 9), "at least 1");
    check_refused(layer({1, 3, 3, 1, 3}, {1, 8, 8}, 9), "padding");
    check_refused(layer({1, 9, 9, 1, 0}, {1, 8, 8}, 81), "does not fit");
    check_refused(layer({1, 30000, 30000, 1, 29999}, {1, 8, 8}, 1), "too large");  // before it is planned pixel by pixel
    check_refused(with([&](Network& n) { n.sign(one, one), n.binary_conv({1, 30000, 30000, 1, 29999}, sign, one, one, false); }), "too large");
    setenv("XNOR_KERNEL", "nonsense", 1);
    check_refused([] { Network(1, 8, 8); }, "XNOR_KERNEL");
    setenv("XNOR_KERNEL", "scalar", 1);
    CHECK(Network(1, 8, 8).kernel() == "scalar");
    unsetenv("XNOR_KERNEL");
}

int main() {
    test_against_loops();
    test_shortcuts();
    test_joined_steps();
    test_a_step_after_a_run();
    test_long_sums();
    test_a_table_of_levels_is_for_pixels();
    test_one_layer();
    test_a_thread_without_memory();
    test_bad_input_is_refused();
    for (const auto& kernel : kernels()) std::printf("%s ", kernel.c_str());
    std::printf(failures ? "%d checks failed\n" : "all checks passed\n", failures);
    return failures != 0;
}
