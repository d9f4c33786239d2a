// The steps of a network: each is planned when it is added.
#include <algorithm>
#include <cstring>
#include <functional>
#include <limits>

#include "plan.hpp"

namespace xnor {

Network::Network(int channels, int height, int width, std::string_view kernel, int threads) {
    if (channels < 1 || height < 1 || width < 1) refuse("channels, height and width must be at least 1");
    if (threads < 1 || threads > 1024) refuse("threads is " + std::to_string(threads) + ", expected 1 to 1024");
    impl_ = std::make_unique<Impl>(find(kernel), threads);
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
