// Planning convolutions, and one binary layer by itself.
#include "conv.hpp"

#include <algorithm>
#include <atomic>
#include <exception>
#include <map>
#include <tuple>

namespace xnor {
namespace {

constexpr std::uint16_t kNever = 65535;  // no count is as large
constexpr std::size_t kMaxRuns = 1 << 20;

}  // namespace

void check_entries(std::size_t found, std::size_t expected, const char* name) {
    if (found != expected)
        throw std::invalid_argument(std::string(name) + " has " + std::to_string(found) + " entries, expected " +
                                    std::to_string(expected));
}

std::string text(const Shape& s) {
    return std::to_string(s.channels) + " channels of " + std::to_string(s.width) + "x" + std::to_string(s.height);
}

void check_size(const Shape& shape) {
    constexpr double most = 1 << 26;
    if (double(shape.channels) * shape.height * shape.width > most)
        throw std::invalid_argument("a map of " + text(shape) + " is too large");
}

Shape shape_after(const Shape& in, int channels, int height, int width, int stride, int padding, const char* step) {
    if (channels < 1 || height < 1 || width < 1 || stride < 1 || padding < 0 || padding >= std::min(height, width) ||
        std::max({height, width, stride}) > kLargest)
        throw std::invalid_argument(std::string(step) +
                                    ": outputs, size and stride must be at least 1 (the latter two at most " +
                                    std::to_string(kLargest) + "), padding at least 0 and less than the size");
    check_size(in);
    if (in.height + 2 * padding < height || in.width + 2 * padding < width)
        throw std::invalid_argument(std::string(step) + ": a window of " + std::to_string(width) + "x" +
                                    std::to_string(height) + " does not fit into " + text(in));
    const Shape out{channels, (in.height + 2 * padding - height) / stride + 1,
                    (in.width + 2 * padding - width) / stride + 1};
    check_size(out);
    return out;
}

// ---- Bits ----------------------------------------------------------------------------------------------------------
BinaryConv::BinaryConv(const Kernels& k, const Conv& conv, const Shape& shape, std::span<const std::uint8_t> negative,
                       const char* step)
    : in(shape), out(shape_after(shape, conv.outputs, conv.height, conv.width, conv.stride, conv.padding, step)) {
    const std::int64_t all_taps = std::int64_t(conv.height) * conv.width * in.channels;
    if (all_taps >= kNever)
        throw std::invalid_argument("binary_conv: " + std::to_string(all_taps) + " taps per output, at most 65534");
    const int taps = conv.height * conv.width, words = up(in.channels, 32) / 32, depth = k.depth(in.channels);
    check_entries(negative.size(), std::size_t(conv.outputs) * in.channels * taps, "negative");
    std::vector<std::uint32_t> bits(std::size_t(conv.outputs) * taps * words, 0);
    const std::uint8_t* flag = negative.data();
    for (int o = 0; o < conv.outputs; ++o)
        for (int c = 0; c < in.channels; ++c)
            for (int t = 0; t < taps; ++t)
                bits[(std::size_t(o) * taps + t) * words + c / 32] |= std::uint32_t(*flag++ != 0) << c % 32;
    weights_.resize(k.pack(bits.data(), conv.outputs, taps, in.channels, nullptr));
    k.pack(bits.data(), conv.outputs, taps, in.channels, weights_.data());
    blocks_ = (conv.outputs + k.lanes - 1) / k.lanes, length_ = taps * depth,
    stride_ = up(blocks_ * k.lanes, 32) + kTail / 2;
    pixel = words * k.word_bytes;
    const bool seamless = depth * k.load_bytes == pixel;  // one pixel's bits end where the next one's begin

    std::map<std::tuple<int, int, int, int>, std::pair<int, int>> known;  // taps inside -> pattern, group with room
    for (int y = 0; y < out.height; ++y)
        for (int x = 0; x < out.width; ++x) {
            const int top = y * conv.stride - conv.padding, left = x * conv.stride - conv.padding;
            const int y0 = std::max(0, -top), y1 = std::min(conv.height, in.height - top);
            const int x0 = std::max(0, -left), x1 = std::min(conv.width, in.width - left);
            const auto [entry, is_new] = known.try_emplace({y0, y1, x0, x1}, int(patterns_.size()), -1);
            auto& [pattern, group] = entry->second;
            if (is_new) {
                const int first = int(runs_.size());
                for (int ky = y0; ky < y1; ++ky)
                    for (int kx = x0; kx < x1; ++kx) {
                        if (kx > x0 && seamless) runs_.back().length += depth;
                        else
                            runs_.push_back(
                                {((ky - y0) * in.width + kx - x0) * pixel, (ky * conv.width + kx) * depth, depth});
                    }
                if (runs_.size() > kMaxRuns)
                    throw std::invalid_argument(std::string(step) + ": its window leaves the map in too many ways");
                patterns_.push_back({first, int(runs_.size()) - first, (y1 - y0) * (x1 - x0) * in.channels});
            }
            if (group < 0 || groups_[group].pixels == kPixels) {
                group = int(groups_.size());
                groups_.push_back({pattern, 0, {}, {}, {}});
            }
            Group& g = groups_[group];
            g.input[g.pixels] = ((top + y0) * in.width + left + x0) * pixel;
            g.y[g.pixels] = y, g.x[g.pixels++] = x;
        }
}

void BinaryConv::keep_signs(std::span<const std::int32_t> threshold) {
    check_entries(threshold.size(), out.channels, "threshold");
    least_.assign(patterns_.size() * stride_, kNever);
    for (std::size_t p = 0; p < patterns_.size(); ++p)
        for (int o = 0; o < out.channels; ++o) {
            // taps - 2 count < t is count > (taps - t) / 2, that is count >= floor((taps - t) / 2) + 1.
            const std::int64_t least = ((std::int64_t(patterns_[p].taps) - threshold[o]) >> 1) + 1;
            least_[p * stride_ + o] = std::uint16_t(std::clamp<std::int64_t>(least, 0, kNever));
        }
}

BinaryJob BinaryConv::job() const {
    return {weights_.data(),  blocks_,        length_, runs_.data(),
            patterns_.data(), groups_.data(), stride_, least_.empty() ? nullptr : least_.data()};
}

// ---- Floats --------------------------------------------------------------------------------------------------------
RealConv::RealConv(const Kernels& k, const Conv& c, const Shape& in, std::span<const float> weight, const char* step)
    : conv(c), out(shape_after(in, c.outputs, c.height, c.width, c.stride, c.padding, step)) {
    const int rows = conv.height, lanes = k.float_lanes;
    check_entries(weight.size(), std::size_t(conv.outputs) * rows * conv.width * in.channels, "weight");
    check_size({in.channels, in.height + 2 * conv.padding, in.width + 2 * conv.padding});
    length_ = conv.width * in.channels, blocks_ = (conv.outputs + lanes - 1) / lanes, stride_ = blocks_ * lanes + kTail;
    weights_.assign(std::size_t(blocks_) * rows * length_ * lanes, 0.0f);
    const float* from = weight.data();
    for (int o = 0; o < conv.outputs; ++o)
        for (int channel = 0; channel < in.channels; ++channel)
            for (int y = 0; y < rows; ++y)
                for (int x = 0; x < conv.width; ++x)
                    weights_[((std::size_t(o / lanes) * rows + y) * length_ + x * in.channels + channel) * lanes +
                             o % lanes] = *from++;
}

RealJob RealConv::job() const {
    return {weights_.data(), blocks_,   conv.height,           length_, conv.stride, conv.padding,
            stride_,         out.width, out.height * out.width};
}

// ---- One layer -----------------------------------------------------------------------------------------------------
template <class T>
void binary_conv(const Conv& conv, const Shape& in, std::span<const std::uint8_t> negative,
                 std::span<const float> scale, std::span<const float> shift, const std::uint16_t* x, int count, T* y,
                 std::string_view kernel, const Everywhere& everywhere) {
    if (in.channels < 1 || in.height < 1 || in.width < 1)
        throw std::invalid_argument("channels, height and width must be at least 1");
    const Kernels& k = find(kernel);
    const BinaryConv plan(k, conv, in, negative, "binary_conv");
    const int outputs = conv.outputs, row = plan.out.width * outputs;
    const auto scales = with_tail(scale, outputs, 0.0f, "scale"), shifts = with_tail(shift, outputs, 0.0f, "shift");
    const std::size_t pixels = std::size_t(in.height) * in.width, results = std::size_t(plan.out.height) * row;
    std::atomic<int> next = 0;  // image: whoever is ready takes it
    std::exception_ptr failure;  // the first; out of another thread it would end the program
    std::atomic_flag failed;
    const auto work = [&] {
        Aligned<std::uint8_t> map(pixels * plan.pixel);
        Aligned<std::uint16_t> counts(plan.counts());
        BinaryJob job = plan.job();
        job.input = map.data();
        Finish finish{outputs, {scales.data(), shifts.data()}};
        for (int n; (n = next++) < count;) {
            const std::uint16_t* from = x + n * pixels * in.channels;
            for (std::size_t i = 0; i < pixels; ++i)
                k.bfloat16_bits(from + i * in.channels, in.channels, map.data() + i * plan.pixel);
            if constexpr (sizeof(T) == sizeof(float)) finish.floats = {y + n * results, outputs, row};
            else finish.halves = {y + n * results, outputs, row};
            k.binary(job, finish, 0, plan.groups(), {counts.data(), nullptr, nullptr});
        }
    };
    everywhere([&] {
        try {
            work();
        } catch (...) {
            if (!failed.test_and_set()) failure = std::current_exception();
        }
    });
    if (failure) std::rethrow_exception(failure);
}

template void binary_conv(const Conv&, const Shape&, std::span<const std::uint8_t>, std::span<const float>,
                          std::span<const float>, const std::uint16_t*, int, float*, std::string_view,
                          const Everywhere&);
template void binary_conv(const Conv&, const Shape&, std::span<const std::uint8_t>, std::span<const float>,
                          std::span<const float>, const std::uint16_t*, int, std::uint16_t*, std::string_view,
                          const Everywhere&);

}  // namespace xnor
