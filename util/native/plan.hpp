// What a network is made of: maps, steps that fill them, and the loops that several kinds of steps share. For network.cpp alone.
#pragma once

#include <algorithm>
#include <chrono>
#include <functional>
#include <memory>

#include "binary_conv.hpp"
#include "../../fastmcd/workers.hpp"

namespace xnor {

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

struct Step {
    int total;  // pixels, or groups of them, that threads share
    std::function<void(int thread, int first, int end)> work;
};

// ---- Network ---------------------------------------------------------------------------------------------------------
struct Network::Impl {
    const Kernels& k;
    fastmcd::Workers workers;
    std::vector<std::unique_ptr<Map>> maps;
    std::vector<Step> steps;
    std::vector<double> seconds;
    std::vector<float> levels;  // (channels, 256): the float of a pixel's level
    std::vector<std::vector<std::uint16_t>> counts;  // per thread: sums of one group
    std::vector<std::vector<float>> sums;
    std::size_t constants = 0;  // bytes of weights and thresholds

    Impl(const Kernels& kernels, int threads) : k(kernels), workers(threads), counts(threads), sums(threads) {}

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
        const int width = out.shape.width, total = out.shape.height * width;
        steps.push_back({(total + MAX_PIXELS - 1) / MAX_PIXELS, [=, this, &in, packed = std::move(packed)](int t, int first, int last) {
            float* sum = sums[t].data();
            for (int start = first * MAX_PIXELS; start < std::min(last * MAX_PIXELS, total); start += MAX_PIXELS) {
                const int pixels = std::min(MAX_PIXELS, total - start);
                const float* window[MAX_PIXELS];
                for (int p = 0; p < pixels; ++p)
                    window[p] = in.at((start + p) / width * conv.stride - conv.padding, (start + p) % width * conv.stride - conv.padding);
                k.real(packed.data(), blocks, rows, length, window, pixels, in.row(), sum, stride);
                for (int p = 0; p < pixels; ++p) after(sum + p * stride, (start + p) / width, (start + p) % width);
            }
        }});
    }

    // ---- Binary convolution ----
    template <class After>  // after(counts, pattern, y, x) for each output pixel
    void add_binary(BinaryConv conv, Map& in, After after) {
        constants += conv.bytes();
        for (auto& c : counts) c.resize(std::max(c.size(), std::size_t(conv.counts())));
        const int groups = int(conv.groups.size());
        steps.push_back({groups, [=, this, &in, conv = std::move(conv)](int t, int first, int last) {
            conv.run(in.packed.data(), first, last, counts[t].data(), after);
        }});
    }

    // Adds a step that calls pixel(y, x) for each pixel of `out`.
    template <class Pixel>
    void each_pixel(Map& out, Pixel pixel) {
        steps.push_back({out.shape.height * out.shape.width, [=, width = out.shape.width](int, int first, int last) {
            for (int i = first; i < last; ++i) pixel(i / width, i % width);
        }});
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
                workers(steps[s].total, steps[s].work);
                if (timed) seconds[s] += std::chrono::duration<double>(Clock::now() - start).count();
            }
            for (int y = 0; y < end.shape.height; ++y) std::copy_n(end.at(y, 0), row, result + std::size_t(y) * row);
        }
    }
};

}  // namespace xnor
