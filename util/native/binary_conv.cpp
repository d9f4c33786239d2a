// Planning a convolution of bits, and one such layer by itself.
#include "binary_conv.hpp"

#include <atomic>
#include <map>
#include <tuple>

namespace xnor {

std::string text(const Shape& s) {
    return std::to_string(s.channels) + " channels of " + std::to_string(s.width) + "x" + std::to_string(s.height);
}

void check_size(const Shape& shape) {
    constexpr double most = 1 << 26;
    if (double(shape.channels) * shape.height * shape.width > most) refuse("a map of " + text(shape) + " is too large");
}

Shape shape_after(const Shape& in, int channels, int height, int width, int stride, int padding, const char* step) {
    if (channels < 1 || height < 1 || width < 1 || stride < 1 || padding < 0 || padding >= std::min(height, width) ||
        std::max({height, width, stride}) > LARGEST)
        refuse(std::string(step) + ": outputs, size and stride must be at least 1 (the latter two at most " + std::to_string(LARGEST) +
               "), padding at least 0 and less than the size");
    const Shape out{channels, (in.height + 2 * padding - height) / stride + 1, (in.width + 2 * padding - width) / stride + 1};
    if (in.height + 2 * padding < height || in.width + 2 * padding < width)
        refuse(std::string(step) + ": a window of " + std::to_string(width) + "x" + std::to_string(height) + " does not fit into " + text(in));
    check_size(out);
    return out;
}

// ---- The plan --------------------------------------------------------------------------------------------------------
BinaryConv::BinaryConv(const Kernels& kernels, const Conv& conv, const Shape& shape, std::span<const std::uint8_t> negative, const char* step)
    : k(kernels), in(shape), out(shape_after(shape, conv.outputs, conv.height, conv.width, conv.stride, conv.padding, step)) {
    const int taps = conv.height * conv.width, words = up(in.channels, 32) / 32, depth = k.depth(in.channels);
    if (std::int64_t(taps) * in.channels >= NEVER)
        refuse("binary_conv: " + std::to_string(std::int64_t(taps) * in.channels) + " taps per output, at most 65534");
    const std::size_t size = std::size_t(conv.outputs) * in.channels * taps;
    if (negative.size() != size) refuse("negative has " + std::to_string(negative.size()) + " entries, expected " + std::to_string(size));
    std::vector<std::uint32_t> canonical(std::size_t(conv.outputs) * taps * words, 0);
    for (int o = 0; o < conv.outputs; ++o)
        for (int c = 0; c < in.channels; ++c)
            for (int t = 0; t < taps; ++t)
                canonical[(std::size_t(o) * taps + t) * words + c / 32] |= std::uint32_t(negative[(std::size_t(o) * in.channels + c) * taps + t] != 0) << c % 32;
    weights_.resize(k.pack(canonical.data(), conv.outputs, taps, in.channels, nullptr));
    k.pack(canonical.data(), conv.outputs, taps, in.channels, weights_.data());
    blocks_ = (conv.outputs + k.lanes - 1) / k.lanes, length_ = taps * depth, stride_ = up(blocks_ * k.lanes, 64) + 64;
    pixel = words * k.word_bytes;
    const bool seamless = depth * k.load_bytes == pixel;  // one pixel's bits end where the next one's begin

    std::map<std::tuple<int, int, int, int>, std::pair<int, int>> known;  // taps inside -> pattern, group with room
    for (int y = 0; y < out.height; ++y)
        for (int x = 0; x < out.width; ++x) {
            const int top = y * conv.stride - conv.padding, left = x * conv.stride - conv.padding;
            const int y0 = std::max(0, -top), y1 = std::min(conv.height, in.height - top);
            const int x0 = std::max(0, -left), x1 = std::min(conv.width, in.width - left);
            const auto [entry, is_new] = known.try_emplace({y0, y1, x0, x1}, int(patterns.size()), -1);
            auto& [pattern, group] = entry->second;
            if (is_new) {
                Pattern p{{}, (y1 - y0) * (x1 - x0) * in.channels, {}};
                for (int ky = y0; ky < y1; ++ky)
                    for (int kx = x0; kx < x1; ++kx) {
                        const Run run{((ky - y0) * in.width + kx - x0) * pixel, (ky * conv.width + kx) * depth, depth};
                        if (kx > x0 && seamless) p.runs.back().length += depth;
                        else p.runs.push_back(run);
                    }
                patterns.push_back(std::move(p));
            }
            if (group < 0 || groups[group].pixels == MAX_PIXELS) {
                group = int(groups.size());
                groups.push_back({pattern, 0, {}, {}, {}});
            }
            Group& g = groups[group];
            g.input[g.pixels] = ((top + y0) * in.width + left + x0) * pixel;
            g.y[g.pixels] = y, g.x[g.pixels++] = x;
        }
}

std::size_t BinaryConv::bytes() const {
    std::size_t total = weights_.size();
    for (const Pattern& pattern : patterns) total += pattern.least.size() * sizeof(std::uint16_t);
    return total;
}

// ---- One layer -------------------------------------------------------------------------------------------------------
template <class T>
void binary_conv(const Conv& conv, const Shape& in, std::span<const std::uint8_t> negative, std::span<const float> scale, std::span<const float> shift,
                 const std::uint16_t* x, int count, T* y, std::string_view kernel, const Everywhere& everywhere) {
    if (in.channels < 1 || in.height < 1 || in.width < 1) refuse("channels, height and width must be at least 1");
    check_size(in);
    const Kernels& k = find(kernel);
    const BinaryConv plan(k, conv, in, negative, "binary_conv");
    const auto scales = with_tail(scale, conv.outputs, 0.0f, "scale"), shifts = with_tail(shift, conv.outputs, 0.0f, "shift");
    const std::size_t pixels = std::size_t(in.height) * in.width, results = std::size_t(plan.out.height) * plan.out.width * conv.outputs;
    std::atomic<int> next = 0;  // image: whoever is ready takes it
    everywhere([&] {
        std::vector<std::uint8_t> map(pixels * plan.pixel);
        std::vector<std::uint16_t> counts(plan.counts());
        std::vector<float> sums(conv.outputs);
        for (int n; (n = next++) < count;) {
            const std::uint16_t* from = x + n * pixels * in.channels;
            for (std::size_t i = 0; i < pixels; ++i) k.bfloat16_bits(from + i * in.channels, in.channels, map.data() + i * plan.pixel);
            plan.run(map.data(), 0, int(plan.groups.size()), counts.data(), [&](const std::uint16_t* c, const Pattern& pattern, int row, int column) {
                T* to = y + n * results + (std::size_t(row) * plan.out.width + column) * conv.outputs;
                const auto affine = [&](float* sum) { k.count_affine(c, pattern.taps, scales.data(), shifts.data(), false, conv.outputs, sum); };
                if constexpr (sizeof(T) == sizeof(float)) affine(to);
                else affine(sums.data()), k.to_bfloat16(sums.data(), conv.outputs, to);
            });
        }
    });
}

template void binary_conv(const Conv&, const Shape&, std::span<const std::uint8_t>, std::span<const float>, std::span<const float>, const std::uint16_t*, int,
                          float*, std::string_view, const Everywhere&);
template void binary_conv(const Conv&, const Shape&, std::span<const std::uint8_t>, std::span<const float>, std::span<const float>, const std::uint16_t*, int,
                          std::uint16_t*, std::string_view, const Everywhere&);

}  // namespace xnor
