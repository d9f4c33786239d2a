// A convolution of bits, planned once for maps of one shape; what a network and a layer by itself share.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "kernels.hpp"
#include "xnor.hpp"

namespace xnor {

constexpr std::uint16_t NEVER = 65535;  // no count is as large
constexpr int LARGEST = 1 << 16;        // window or stride

[[noreturn]] inline void refuse(const std::string& what) { throw std::invalid_argument(what); }
std::string text(const Shape&);
constexpr int up(int n, int multiple) { return (n + multiple - 1) / multiple * multiple; }

void check_size(const Shape&);  // refuses a map whose offsets don't fit in 32 bits
// What a window leaves of a map; refuses one that can't be, or leaves too large a map, before anything is planned for it.
Shape shape_after(const Shape& in, int channels, int height, int width, int stride, int padding, const char* step);

// `values`, of which there must be n, with a tail: kernels read whole vectors.
template <class T>
std::vector<T> with_tail(std::span<const T> values, std::size_t n, T tail, const char* name) {
    if (values.size() != n) refuse(std::string(name) + " has " + std::to_string(values.size()) + " entries, expected " + std::to_string(n));
    std::vector<T> padded(values.begin(), values.end());
    padded.resize(up(int(n), 64) + 64, tail);
    return padded;
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
    std::vector<std::uint16_t> least;  // where only a sum's sign is kept, per output: the sum is below its threshold from this count on
};

struct BinaryConv {
    const Kernels& k;
    Shape in, out;
    int pixel;  // bytes of packed bits from one pixel of the input to the next
    std::vector<Pattern> patterns;
    std::vector<Group> groups;

    // negative: see Network::binary_conv; step: the name in an error.
    BinaryConv(const Kernels&, const Conv&, const Shape& in, std::span<const std::uint8_t> negative, const char* step);

    std::size_t bytes() const;    // held: packed weights and thresholds
    int counts() const { return MAX_PIXELS * stride_; }  // entries of the scratch memory that run needs

    // Calls after(counts, pattern, y, x) for each output pixel of the groups from `first` to before `last`.
    template <class After>
    void run(const std::uint8_t* map, int first, int last, std::uint16_t* count, After after) const {
        for (int i = first; i < last; ++i) {
            const Group& g = groups[i];
            const Pattern& pattern = patterns[g.pattern];
            const std::uint8_t* input[MAX_PIXELS];
            for (int p = 0; p < g.pixels; ++p) input[p] = map + g.input[p];
            k.binary(weights_.data(), blocks_, length_, input, g.pixels, pattern.runs.data(), int(pattern.runs.size()), count, stride_);
            for (int p = 0; p < g.pixels; ++p) after(count + p * stride_, pattern, g.y[p], g.x[p]);
        }
    }

private:
    int blocks_, length_, stride_;
    std::vector<std::uint8_t> weights_;
};

}  // namespace xnor
