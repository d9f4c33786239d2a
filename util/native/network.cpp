// The steps of a network: planning when they are added, and the loops of run().
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <map>
#include <stdexcept>
#include <tuple>

#include "kernels.hpp"
#include "team.hpp"
#include "xnor.hpp"

namespace xnor {

namespace {

[[noreturn]] void refuse(const std::string& what) { throw std::invalid_argument(what); }

std::string text(const Shape& s) {
    return std::to_string(s.channels) + " channels of " + std::to_string(s.width) + "x" + std::to_string(s.height);
}

// ---- Maps and steps --------------------------------------------------------------------------------------------------
// What a step leaves: floats with a margin of zeros for a convolution that pads, or packed bits.
struct Map {
    Shape shape;
    bool bits;
    int margin = 0;  // pixels on each side (floats only)
    int pixel = 0;   // floats, or bytes of bits, from one pixel to the next
    std::vector<float> floats;
    std::vector<std::uint8_t> packed;

    int row() const { return (shape.width + 2 * margin) * pixel; }
    float* at(int y, int x) { return floats.data() + std::ptrdiff_t(y + margin) * row() + (x + margin) * pixel; }
    std::uint8_t* bits_at(int y, int x) { return packed.data() + (std::ptrdiff_t(y) * shape.width + x) * pixel; }
    std::size_t bytes() const { return floats.size() * sizeof(float) + packed.size(); }
};

constexpr std::uint16_t NEVER = 65535;         // no count is as large
constexpr double MOST_VALUES = 1 << 26;        // of a map: offsets are 32 bits
constexpr int LARGEST = 1 << 16;               // window or stride

constexpr int up(int n, int multiple) { return (n + multiple - 1) / multiple * multiple; }

// Part t of `total` things for a team of `threads`.
std::pair<int, int> share(int total, int t, int threads) {
    return {int(std::int64_t(total) * t / threads), int(std::int64_t(total) * (t + 1) / threads)};
}

// Output pixels whose windows hold the same taps of the kernel are summed together, wherever they lie.
struct Group {
    int pattern, pixels;
    std::int32_t input[MAX_PIXELS];  // bytes from the map's start to the window's first tap inside
    std::int32_t y[MAX_PIXELS], x[MAX_PIXELS];
};
struct Pattern {
    std::vector<Run> runs;
    int taps;                          // bits of a window
    std::vector<std::uint16_t> least;  // per output: the sum is below its threshold from this count on
};

using Work = std::function<void(int thread)>;

}  // namespace

// ---- Network ---------------------------------------------------------------------------------------------------------
struct Network::Impl {
    const Kernels& k;
    Team team;
    std::vector<std::unique_ptr<Map>> maps;
    std::vector<Work> steps;
    std::vector<double> seconds;
    std::vector<float> levels;  // (channels, 256): the float of a pixel's level
    std::vector<std::vector<std::uint16_t>> counts;  // per thread: sums of one group
    std::vector<std::vector<float>> sums;
    std::size_t constants = 0;  // bytes of weights and thresholds

    Impl(const Kernels& kernels, int threads) : k(kernels), team(threads), counts(threads), sums(threads) {}

    Map& last() { return *maps.back(); }

    Map& need(bool bits, const char* step) {
        if (last().bits != bits) refuse(std::string(step) + " works on " + (bits ? "bits" : "floats") + ", but the step before leaves " + (bits ? "floats" : "bits"));
        return last();
    }

    static void check_size(const Shape& shape) {
        if (double(shape.channels) * shape.height * shape.width > MOST_VALUES) refuse("a map of " + text(shape) + " is too large");
    }

    Map& add(Shape shape, bool bits) {
        check_size(shape);
        auto map = std::make_unique<Map>();
        map->shape = shape, map->bits = bits;
        const std::size_t pixels = std::size_t(shape.height) * shape.width;
        if (bits) {
            map->pixel = up(shape.channels, 32) / 32 * k.word_bytes;
            map->packed.assign(pixels * map->pixel, 0);
        } else {
            map->pixel = shape.channels;
            map->floats.assign(pixels * map->pixel, 0.0f);
        }
        const int wide = up(shape.channels, 64) + 64;
        for (auto& c : counts) c.resize(std::max(c.size(), std::size_t(MAX_PIXELS) * wide));
        for (auto& s : sums) s.resize(std::max(s.size(), std::size_t(MAX_PIXELS) * wide));
        maps.push_back(std::move(map));
        return last();
    }

    // The map that a convolution reads gets a margin, so that no window leaves it.
    void pad(Map& map, int margin) {
        check_size({map.shape.channels, map.shape.height + 2 * margin, map.shape.width + 2 * margin});
        map.margin = margin;
        map.floats.assign(std::size_t(map.shape.height + 2 * margin) * map.row(), 0.0f);
    }

    Shape shape_after(const Shape& in, int channels, int height, int width, int stride, int padding, const char* step) const {
        if (channels < 1 || height < 1 || width < 1 || stride < 1 || padding < 0 || padding >= std::min(height, width) ||
            std::max({height, width, stride}) > LARGEST)
            refuse(std::string(step) + ": outputs, size and stride must be at least 1 (the latter two at most " + std::to_string(LARGEST) +
                   "), padding at least 0 and less than the size");
        const Shape out{channels, (in.height + 2 * padding - height) / stride + 1, (in.width + 2 * padding - width) / stride + 1};
        if (in.height + 2 * padding < height || in.width + 2 * padding < width)
            refuse(std::string(step) + ": a window of " + std::to_string(width) + "x" + std::to_string(height) + " does not fit into " + text(in));
        return out;
    }

    template <class T>
    std::vector<T> constant(std::span<const T> values, std::size_t n, T tail, const char* name) {
        if (values.size() != n) refuse(std::string(name) + " has " + std::to_string(values.size()) + " entries, expected " + std::to_string(n));
        std::vector<T> padded(values.begin(), values.end());
        padded.resize(up(int(n), 64) + 64, tail);  // kernels read whole vectors
        constants += n * sizeof(T);
        return padded;
    }

    // ---- Float convolution ----
    template <class After>  // after(thread, const float* sums, pixel) for each output pixel
    void add_real(const Conv& conv, std::span<const float> weight, Map& in, Map& out, After after) {
        const int channels = in.shape.channels, rows = conv.height, length = conv.width * channels, lanes = k.float_lanes;
        const int blocks = (conv.outputs + lanes - 1) / lanes, stride = blocks * lanes;
        if (weight.size() != std::size_t(conv.outputs) * rows * length)
            refuse("weight has " + std::to_string(weight.size()) + " entries, expected " + std::to_string(std::size_t(conv.outputs) * rows * length));
        std::vector<float> packed(std::size_t(blocks) * rows * length * lanes, 0.0f);
        for (int o = 0; o < conv.outputs; ++o)
            for (int c = 0; c < channels; ++c)
                for (int y = 0; y < rows; ++y)
                    for (int x = 0; x < conv.width; ++x)
                        packed[((std::size_t(o / lanes) * rows + y) * length + x * channels + c) * lanes + o % lanes] =
                            weight[((std::size_t(o) * channels + c) * rows + y) * conv.width + x];
        constants += packed.size() * sizeof(float);
        pad(in, conv.padding);
        steps.push_back([=, this, &in, &out, packed = std::move(packed)](int t) {
            const int width = out.shape.width, total = out.shape.height * width;
            float* sum = sums[t].data();
            const auto [first, last] = share((total + MAX_PIXELS - 1) / MAX_PIXELS, t, team.size);
            for (int start = first * MAX_PIXELS; start < std::min(last * MAX_PIXELS, total); start += MAX_PIXELS) {
                const int pixels = std::min(MAX_PIXELS, total - start);
                const float* window[MAX_PIXELS];
                for (int p = 0; p < pixels; ++p)
                    window[p] = in.at((start + p) / width * conv.stride - conv.padding, (start + p) % width * conv.stride - conv.padding);
                k.real(packed.data(), blocks, rows, length, window, pixels, in.row(), sum, stride);
                for (int p = 0; p < pixels; ++p) after(sum + p * stride, (start + p) / width, (start + p) % width);
            }
        });
    }

    // ---- Binary convolution ----
    template <class Plan, class After>  // plan(Pattern&) once each, after(counts, pattern, y, x) for each output pixel
    void add_binary(const Conv& conv, std::span<const std::uint8_t> negative, Map& in, Map& out, Plan plan, After after) {
        const Shape shape = in.shape;
        const int taps = conv.height * conv.width, words = up(shape.channels, 32) / 32, depth = k.depth(shape.channels);
        if (std::int64_t(taps) * shape.channels >= NEVER)
            refuse("binary_conv: " + std::to_string(std::int64_t(taps) * shape.channels) + " taps per output, at most 65534");
        const std::size_t size = std::size_t(conv.outputs) * shape.channels * taps;
        if (negative.size() != size) refuse("negative has " + std::to_string(negative.size()) + " entries, expected " + std::to_string(size));
        std::vector<std::uint32_t> canonical(std::size_t(conv.outputs) * taps * words, 0);
        for (int o = 0; o < conv.outputs; ++o)
            for (int c = 0; c < shape.channels; ++c)
                for (int t = 0; t < taps; ++t)
                    if (negative[(std::size_t(o) * shape.channels + c) * taps + t])
                        canonical[(std::size_t(o) * taps + t) * words + c / 32] |= std::uint32_t(1) << c % 32;
        std::vector<std::uint8_t> weights(k.pack(canonical.data(), conv.outputs, taps, shape.channels, nullptr));
        k.pack(canonical.data(), conv.outputs, taps, shape.channels, weights.data());
        const int blocks = (conv.outputs + k.lanes - 1) / k.lanes, stride = blocks * k.lanes;
        const bool seamless = depth * k.load_bytes == in.pixel;  // one pixel's bits end where the next one's begin

        std::vector<Pattern> patterns;
        std::vector<Group> groups;
        std::map<std::tuple<int, int, int, int>, std::pair<int, int>> known;  // taps inside -> pattern, group with room
        for (int y = 0; y < out.shape.height; ++y)
            for (int x = 0; x < out.shape.width; ++x) {
                const int top = y * conv.stride - conv.padding, left = x * conv.stride - conv.padding;
                const int y0 = std::max(0, -top), y1 = std::min(conv.height, shape.height - top);
                const int x0 = std::max(0, -left), x1 = std::min(conv.width, shape.width - left);
                const auto [entry, is_new] = known.try_emplace({y0, y1, x0, x1}, int(patterns.size()), -1);
                auto& [pattern, group] = entry->second;
                if (is_new) {
                    Pattern p;
                    p.taps = (y1 - y0) * (x1 - x0) * shape.channels;
                    for (int ky = y0; ky < y1; ++ky)
                        for (int kx = x0; kx < x1; ++kx) {
                            const Run run{((ky - y0) * shape.width + kx - x0) * in.pixel, (ky * conv.width + kx) * depth, depth};
                            if (kx > x0 && seamless) p.runs.back().length += depth;
                            else p.runs.push_back(run);
                        }
                    plan(p);
                    constants += p.least.size() * sizeof(std::uint16_t);
                    patterns.push_back(std::move(p));
                }
                if (group < 0 || groups[group].pixels == MAX_PIXELS) {
                    group = int(groups.size());
                    groups.push_back({pattern, 0, {}, {}, {}});
                }
                Group& g = groups[group];
                g.input[g.pixels] = ((top + y0) * shape.width + left + x0) * in.pixel;
                g.y[g.pixels] = y, g.x[g.pixels++] = x;
            }
        constants += weights.size();
        steps.push_back([=, this, &in, &out, weights = std::move(weights), patterns = std::move(patterns), groups = std::move(groups)](int t) {
            const auto [first, last] = share(int(groups.size()), t, team.size);
            std::uint16_t* count = counts[t].data();
            for (int i = first; i < last; ++i) {
                const Group& g = groups[i];
                const Pattern& pattern = patterns[g.pattern];
                const std::uint8_t* input[MAX_PIXELS];
                for (int p = 0; p < g.pixels; ++p) input[p] = in.packed.data() + g.input[p];
                k.binary(weights.data(), blocks, taps * depth, input, g.pixels, pattern.runs.data(), int(pattern.runs.size()), count, stride);
                for (int p = 0; p < g.pixels; ++p) after(count + p * stride, pattern, g.y[p], g.x[p]);
            }
        });
    }

    // Adds a step that calls pixel(y, x) for each pixel of `out`.
    template <class Pixel>
    void each_pixel(Map& out, Pixel pixel) {
        steps.push_back([=, this, &out](int t) {
            const auto [first, last] = share(out.shape.height * out.shape.width, t, team.size);
            for (int i = first; i < last; ++i) pixel(i / out.shape.width, i % out.shape.width);
        });
    }

    template <class Combine>  // combine(y, x, y0, y1, x0, x1): the window of output pixel y, x inside the input
    void add_pool(const Pool& pool, Map& in, Map& out, Combine combine) {
        each_pixel(out, [=, &in](int y, int x) {
            const int top = y * pool.stride - pool.padding, left = x * pool.stride - pool.padding;
            combine(y, x, std::max(0, top), std::min(in.shape.height, top + pool.size), std::max(0, left), std::min(in.shape.width, left + pool.size));
        });
    }

    template <class Pixel>
    void run(const Pixel* images, int count, float* result, bool timed) {
        Map &first = *maps.front(), &end = last();
        if (end.bits) refuse("the last step must leave floats");
        const std::size_t pixels = std::size_t(first.shape.height) * first.shape.width;
        const int channels = first.shape.channels, row = end.shape.width * end.shape.channels;
        seconds.assign(steps.size(), 0.0);
        using Clock = std::chrono::steady_clock;
        team.begin();
        for (int n = 0; n < count; ++n, images += pixels * channels, result += std::size_t(end.shape.height) * row) {
            for (int y = 0; y < first.shape.height; ++y) {
                const Pixel* from = images + std::size_t(y) * first.shape.width * channels;
                float* to = first.at(y, 0);
                for (int i = 0; i < first.shape.width; ++i)
                    for (int c = 0; c < channels; ++c, ++from, ++to) {
                        if constexpr (sizeof(Pixel) == 1) *to = levels[c * 256 + *from];
                        else *to = *from;
                    }
            }
            for (std::size_t s = 0; s < steps.size(); ++s) {
                const auto start = timed ? Clock::now() : Clock::time_point();
                team.run(steps[s]);
                if (timed) seconds[s] += std::chrono::duration<double>(Clock::now() - start).count();
            }
            for (int y = 0; y < end.shape.height; ++y) std::copy_n(end.at(y, 0), row, result + std::size_t(y) * row);
        }
        team.end();
    }
};

Network::Network(int channels, int height, int width, std::string_view kernel, int threads) {
    if (channels < 1 || height < 1 || width < 1) refuse("channels, height and width must be at least 1");
    if (threads < 1 || threads > 1024) refuse("threads is " + std::to_string(threads) + ", expected 1 to 1024");
    const std::string name = kernel.empty() ? default_kernel() : std::string(kernel);
    impl_ = std::make_unique<Impl>(find(name, "kernel"), threads);
    impl_->add({channels, height, width}, false);
    const std::vector<float> zeros(channels, 0.0f), ones(channels, 1.0f);
    normalize(zeros, ones);
}

Network::~Network() = default;
Network::Network(Network&&) noexcept = default;

void Network::normalize(std::span<const float> mean, std::span<const float> std) {
    const std::size_t channels = impl_->maps.front()->shape.channels;
    if (mean.size() != channels || std.size() != channels) refuse("normalize: expected a mean and a deviation for each of " + std::to_string(channels) + " channels");
    impl_->levels.resize(channels * 256);
    for (std::size_t c = 0; c < channels; ++c)
        for (int v = 0; v < 256; ++v) impl_->levels[c * 256 + v] = (float(v) / 255 - mean[c]) / std[c];
}

void Network::conv(const Conv& c, std::span<const float> weight, std::span<const float> scale, std::span<const float> shift, bool relu) {
    Impl& m = *impl_;
    Map& in = m.need(false, "conv");
    Map& out = m.add(m.shape_after(in.shape, c.outputs, c.height, c.width, c.stride, c.padding, "conv"), false);
    m.add_real(c, weight, in, out,
               [&m, &out, relu, scale = m.constant(scale, c.outputs, 0.0f, "scale"), shift = m.constant(shift, c.outputs, 0.0f, "shift")](
                   const float* sum, int y, int x) { m.k.float_affine(sum, scale.data(), shift.data(), relu, out.shape.channels, out.at(y, x)); });
}

void Network::conv_sign(const Conv& c, std::span<const float> weight, std::span<const float> threshold) {
    Impl& m = *impl_;
    Map& in = m.need(false, "conv_sign");
    Map& out = m.add(m.shape_after(in.shape, c.outputs, c.height, c.width, c.stride, c.padding, "conv_sign"), true);
    constexpr float never = -std::numeric_limits<float>::infinity();
    m.add_real(c, weight, in, out, [&m, &out, threshold = m.constant(threshold, c.outputs, never, "threshold")](const float* sum, int y, int x) {
        m.k.float_bits(sum, threshold.data(), out.shape.channels, out.bits_at(y, x));
    });
}

void Network::affine(std::span<const float> scale, std::span<const float> shift, bool relu) {
    Impl& m = *impl_;
    Map& in = m.need(false, "affine");
    Map& out = m.add(in.shape, false);
    const int n = in.shape.channels;
    m.each_pixel(out, [&m, &in, &out, relu, n, scale = m.constant(scale, n, 0.0f, "scale"), shift = m.constant(shift, n, 0.0f, "shift")](int y, int x) {
        m.k.float_affine(in.at(y, x), scale.data(), shift.data(), relu, n, out.at(y, x));
    });
}

void Network::sign(std::span<const float> scale, std::span<const float> threshold) {
    Impl& m = *impl_;
    Map& in = m.need(false, "sign");
    Map& out = m.add(in.shape, true);
    const int n = in.shape.channels;
    constexpr float never = -std::numeric_limits<float>::infinity();
    m.each_pixel(out, [&m, &in, &out, n, scale = m.constant(scale, n, 0.0f, "scale"), threshold = m.constant(threshold, n, never, "threshold")](int y, int x) {
        constexpr int PART = 64;
        float scaled[PART];
        for (int start = 0; start < n; start += PART) {
            const int count = std::min(PART, n - start);
            std::fill(std::transform(in.at(y, x) + start, in.at(y, x) + start + count, scale.data() + start, scaled, std::multiplies<>()), scaled + PART, 0.0f);
            m.k.float_bits(scaled, threshold.data() + start, count, out.bits_at(y, x) + start / 32 * m.k.word_bytes);
        }
    });
}

void Network::prelu(std::span<const float> slope) {
    Impl& m = *impl_;
    Map& in = m.need(false, "prelu");
    Map& out = m.add(in.shape, false);
    const int n = in.shape.channels;
    m.each_pixel(out, [&m, &in, &out, n, slope = m.constant(slope, n, 1.0f, "slope")](int y, int x) {
        m.k.prelu(in.at(y, x), slope.data(), n, out.at(y, x));
    });
}

void Network::add(int map, int size) {
    Impl& m = *impl_;
    Map& in = m.need(false, "add");
    const int count = int(m.maps.size());
    if (map < 0 || map >= count || m.maps[map]->bits) refuse("add: there is no map " + std::to_string(map) + " of floats among " + std::to_string(count));
    Map& past = *m.maps[map];
    if (size < 1 || size > LARGEST || past.shape.height / size != in.shape.height || past.shape.width / size != in.shape.width || in.shape.channels % past.shape.channels)
        refuse("add: " + text(past.shape) + " averaged over " + std::to_string(size) + " pixels does not fit onto " + text(in.shape));
    Map& out = m.add(in.shape, false);
    m.each_pixel(out, [&in, &past, &out, size, area = float(size) * float(size)](int y, int x) {
        const int n = past.shape.channels;
        float* to = out.at(y, x);
        std::copy_n(past.at(y * size, x * size), n, to);
        for (int i = 1; i < size * size; ++i) std::transform(to, to + n, past.at(y * size + i / size, x * size + i % size), to, std::plus<>());
        if (size > 1) std::transform(to, to + n, to, [area](float v) { return v / area; });
        for (int c = in.shape.channels - n; c >= 0; c -= n) std::transform(to, to + n, in.at(y, x) + c, to + c, std::plus<>());  // the first last: it is read by all
    });
}

void Network::max_pool(const Pool& pool) {
    Impl& m = *impl_;
    Map& in = m.need(false, "max_pool");
    Map& out = m.add(m.shape_after(in.shape, in.shape.channels, pool.size, pool.size, pool.stride, pool.padding, "max_pool"), false);
    m.add_pool(pool, in, out, [&in, &out](int y, int x, int y0, int y1, int x0, int x1) {
        const int n = in.shape.channels;
        float* to = out.at(y, x);
        std::fill_n(to, n, -std::numeric_limits<float>::infinity());
        for (int iy = y0; iy < y1; ++iy)
            for (int ix = x0; ix < x1; ++ix)
                std::transform(to, to + n, in.at(iy, ix), to, [](float a, float b) { return std::max(a, b); });
    });
}

void Network::average_pool(const Pool& pool) {
    Impl& m = *impl_;
    Map& in = m.need(false, "average_pool");
    Map& out = m.add(m.shape_after(in.shape, in.shape.channels, pool.size, pool.size, pool.stride, pool.padding, "average_pool"), false);
    m.add_pool(pool, in, out, [&in, &out, area = float(pool.size) * float(pool.size)](int y, int x, int y0, int y1, int x0, int x1) {
        const int n = in.shape.channels;
        float* to = out.at(y, x);
        std::fill_n(to, n, 0.0f);
        for (int iy = y0; iy < y1; ++iy)
            for (int ix = x0; ix < x1; ++ix)
                std::transform(to, to + n, in.at(iy, ix), to, std::plus<>());
        for (int c = 0; c < n; ++c) to[c] /= area;
    });
}

void Network::binary_conv(const Conv& c, std::span<const std::uint8_t> negative, std::span<const float> scale, std::span<const float> shift, bool relu) {
    Impl& m = *impl_;
    Map& in = m.need(true, "binary_conv");
    Map& out = m.add(m.shape_after(in.shape, c.outputs, c.height, c.width, c.stride, c.padding, "binary_conv"), false);
    m.add_binary(c, negative, in, out, [](Pattern&) {},
                 [&m, &out, relu, scale = m.constant(scale, c.outputs, 0.0f, "scale"), shift = m.constant(shift, c.outputs, 0.0f, "shift")](
                     const std::uint16_t* count, const Pattern& pattern, int y, int x) {
                     m.k.count_affine(count, pattern.taps, scale.data(), shift.data(), relu, out.shape.channels, out.at(y, x));
                 });
}

void Network::binary_conv_sign(const Conv& c, std::span<const std::uint8_t> negative, std::span<const std::int32_t> threshold) {
    Impl& m = *impl_;
    Map& in = m.need(true, "binary_conv_sign");
    Map& out = m.add(m.shape_after(in.shape, c.outputs, c.height, c.width, c.stride, c.padding, "binary_conv_sign"), true);
    const std::vector<std::int32_t> below = m.constant(threshold, c.outputs, std::int32_t(0), "threshold");
    const auto plan = [&](Pattern& pattern) {
        // taps - 2 count < t is count > (taps - t) / 2, that is count >= floor((taps - t) / 2) + 1.
        pattern.least.assign(below.size(), NEVER);
        for (int o = 0; o < c.outputs; ++o) {
            const std::int64_t least = ((std::int64_t(pattern.taps) - below[o]) >> 1) + 1;
            pattern.least[o] = std::uint16_t(std::clamp<std::int64_t>(least, 0, NEVER));
        }
    };
    m.add_binary(c, negative, in, out, plan, [&m, &out](const std::uint16_t* count, const Pattern& pattern, int y, int x) {
        m.k.count_bits(count, pattern.least.data(), out.shape.channels, out.bits_at(y, x));
    });
}

void Network::max_pool_bits(const Pool& pool, std::span<const std::uint8_t> any) {
    Impl& m = *impl_;
    Map& in = m.need(true, "max_pool_bits");
    Map& out = m.add(m.shape_after(in.shape, in.shape.channels, pool.size, pool.size, pool.stride, pool.padding, "max_pool_bits"), true);
    const int n = in.shape.channels;
    if (any.size() != std::size_t(n)) refuse("any has " + std::to_string(any.size()) + " entries, expected " + std::to_string(n));
    std::vector<float> flags(up(n, 32), 0.0f), half(up(n, 32), -0.5f);
    std::transform(any.begin(), any.end(), flags.begin(), [](std::uint8_t a) { return a ? -1.0f : 0.0f; });
    std::vector<std::uint32_t> ors(out.pixel / 4);
    m.k.float_bits(flags.data(), half.data(), n, reinterpret_cast<std::uint8_t*>(ors.data()));
    m.add_pool(pool, in, out, [&in, &out, ors](int y, int x, int y0, int y1, int x0, int x1) {
        // Any of them is 1 = not all of their inverses are 1.
        for (std::size_t i = 0; i < ors.size(); ++i) {
            std::uint32_t all = ~std::uint32_t(0), word;
            for (int iy = y0; iy < y1; ++iy)
                for (int ix = x0; ix < x1; ++ix) {
                    std::memcpy(&word, in.bits_at(iy, ix) + 4 * i, 4);
                    all &= word ^ ors[i];
                }
            all ^= ors[i];
            std::memcpy(out.bits_at(y, x) + 4 * i, &all, 4);
        }
    });
}

Shape Network::output() const { return impl_->last().shape; }
std::string_view Network::kernel() const { return impl_->k.name; }
std::vector<double> Network::seconds() const { return impl_->seconds; }

std::size_t Network::bytes() const {
    std::size_t total = impl_->constants + impl_->levels.size() * sizeof(float);
    for (const auto& map : impl_->maps) total += map->bytes();
    return total;
}

void Network::run(const std::uint8_t* images, int count, float* result, bool timed) { impl_->run(images, count, result, timed); }
void Network::run(const float* images, int count, float* result, bool timed) { impl_->run(images, count, result, timed); }

}  // namespace xnor
