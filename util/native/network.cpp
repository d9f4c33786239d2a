// The steps of a network: planning when they are added, and the loops of run().
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>

#include "binary_conv.hpp"
#include "team.hpp"

namespace xnor {

namespace {

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
        for (auto& s : sums) s.resize(std::max(s.size(), std::size_t(MAX_PIXELS) * (up(shape.channels, 64) + 64)));
        maps.push_back(std::move(map));
        return last();
    }

    // The map that a convolution reads gets a margin, so that no window leaves it.
    void pad(Map& map, int margin) {
        check_size({map.shape.channels, map.shape.height + 2 * margin, map.shape.width + 2 * margin});
        map.margin = margin;
        map.floats.assign(std::size_t(map.shape.height + 2 * margin) * map.row(), 0.0f);
    }

    template <class T>
    std::vector<T> constant(std::span<const T> values, std::size_t n, T tail, const char* name) {
        constants += n * sizeof(T);
        return with_tail(values, n, tail, name);
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
    template <class After>  // after(counts, pattern, y, x) for each output pixel
    void add_binary(BinaryConv conv, Map& in, After after) {
        constants += conv.bytes();
        for (auto& c : counts) c.resize(std::max(c.size(), std::size_t(conv.counts())));
        steps.push_back([=, this, &in, conv = std::move(conv)](int t) {
            const auto [first, last] = share(int(conv.groups.size()), t, team.size);
            conv.run(in.packed.data(), first, last, counts[t].data(), after);
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
    Map& out = m.add(shape_after(in.shape, c.outputs, c.height, c.width, c.stride, c.padding, "conv"), false);
    m.add_real(c, weight, in, out,
               [&m, &out, relu, scale = m.constant(scale, c.outputs, 0.0f, "scale"), shift = m.constant(shift, c.outputs, 0.0f, "shift")](
                   const float* sum, int y, int x) { m.k.float_affine(sum, scale.data(), shift.data(), relu, out.shape.channels, out.at(y, x)); });
}

void Network::conv_sign(const Conv& c, std::span<const float> weight, std::span<const float> threshold) {
    Impl& m = *impl_;
    Map& in = m.need(false, "conv_sign");
    Map& out = m.add(shape_after(in.shape, c.outputs, c.height, c.width, c.stride, c.padding, "conv_sign"), true);
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
    Map& out = m.add(shape_after(in.shape, in.shape.channels, pool.size, pool.size, pool.stride, pool.padding, "max_pool"), false);
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
    Map& out = m.add(shape_after(in.shape, in.shape.channels, pool.size, pool.size, pool.stride, pool.padding, "average_pool"), false);
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
    BinaryConv conv(m.k, c, in.shape, negative, "binary_conv");
    Map& out = m.add(conv.out, false);
    m.add_binary(std::move(conv), in,
                 [&m, &out, relu, scale = m.constant(scale, c.outputs, 0.0f, "scale"), shift = m.constant(shift, c.outputs, 0.0f, "shift")](
                     const std::uint16_t* count, const Pattern& pattern, int y, int x) {
                     m.k.count_affine(count, pattern.taps, scale.data(), shift.data(), relu, out.shape.channels, out.at(y, x));
                 });
}

void Network::binary_conv_sign(const Conv& c, std::span<const std::uint8_t> negative, std::span<const std::int32_t> threshold) {
    Impl& m = *impl_;
    Map& in = m.need(true, "binary_conv_sign");
    BinaryConv conv(m.k, c, in.shape, negative, "binary_conv_sign");
    const std::vector<std::int32_t> below = m.constant(threshold, c.outputs, std::int32_t(0), "threshold");
    for (Pattern& pattern : conv.patterns) {
        // taps - 2 count < t is count > (taps - t) / 2, that is count >= floor((taps - t) / 2) + 1.
        pattern.least.assign(below.size(), NEVER);
        for (int o = 0; o < c.outputs; ++o) {
            const std::int64_t least = ((std::int64_t(pattern.taps) - below[o]) >> 1) + 1;
            pattern.least[o] = std::uint16_t(std::clamp<std::int64_t>(least, 0, NEVER));
        }
    }
    Map& out = m.add(conv.out, true);
    m.add_binary(std::move(conv), in, [&m, &out](const std::uint16_t* count, const Pattern& pattern, int y, int x) {
        m.k.count_bits(count, pattern.least.data(), out.shape.channels, out.bits_at(y, x));
    });
}

void Network::max_pool_bits(const Pool& pool, std::span<const std::uint8_t> any) {
    Impl& m = *impl_;
    Map& in = m.need(true, "max_pool_bits");
    Map& out = m.add(shape_after(in.shape, in.shape.channels, pool.size, pool.size, pool.stride, pool.padding, "max_pool_bits"), true);
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
