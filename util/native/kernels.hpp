// What a CPU level has to offer. kernels.cpp is compiled once per level; levels.cpp picks one when the program runs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace xnor {

constexpr int MAX_PIXELS = 4;  // output pixels per call: their sums share each weight that is loaded

// Input and weights that lie side by side: `length` loads from `offset` bytes behind the window's start meet the weights from load `weight` on.
struct Run {
    std::int32_t offset, weight, length;
};

// Bits of a map: per pixel one `word_bytes` group for every 32 channels. Levels that count bits store the 32 bits; levels that look
// counts up store 8 bytes, a nibble in the upper half of each, which is the offset of the nibble's row in a table.
struct Kernels {
    const char* name;
    int word_bytes;    // 4 or 8
    int load_bytes;    // 4 (a word) or 1 (a nibble)
    int lanes;         // outputs per block of binary weights
    int float_lanes;   // outputs per block of float weights

    // Depth of a pixel: the loads that `channels` channels take (nibbles or words).
    int (*depth)(int channels);
    // Lay out binary weights, words (outputs, taps, ceil(channels / 32)), as blocks (block, tap, depth, lanes); returns the bytes that takes (out may be null).
    std::size_t (*pack)(const std::uint32_t* words, int outputs, int taps, int channels, std::uint8_t* out);
    // counts[p * stride + o] = popcount(a ^ w) over `count` runs of the window at input[p]; weights (block, length, lanes), length = taps * depth.
    void (*binary)(const std::uint8_t* weights, int blocks, int length, const std::uint8_t* const* input, int pixels, const Run* runs, int count,
                   std::uint16_t* counts, int stride);
    // sums[p * stride + o] = sum of a * w over `rows` runs of `length` floats, the r-th at input[p] + r * pitch; weights (block, rows * length, lanes).
    void (*real)(const float* weights, int blocks, int rows, int length, const float* const* input, int pixels, int pitch, float* sums, int stride);
    // Bits of counts >= least, or of x < threshold, in the map's format; n is rounded up to 32, so that many must be readable.
    void (*count_bits)(const std::uint16_t* counts, const std::uint16_t* least, int n, std::uint8_t* out);
    void (*float_bits)(const float* x, const float* threshold, int n, std::uint8_t* out);
    // y = (taps - 2 count) * scale + shift, or x * scale + shift; below zero becomes zero if relu.
    void (*count_affine)(const std::uint16_t* counts, int taps, const float* scale, const float* shift, bool relu, int n, float* y);
    void (*float_affine)(const float* x, const float* scale, const float* shift, bool relu, int n, float* y);
    // Sign bits of n bfloat16 values in the map's format, and floats rounded to bfloat16 (to the nearest; between two, the even one).
    void (*bfloat16_bits)(const std::uint16_t* x, int n, std::uint8_t* out);
    void (*to_bfloat16)(const float* x, int n, std::uint16_t* y);
    void (*prelu)(const float* x, const float* slope, int n, float* y);  // x * slope where x < 0
    // Does nothing but the level's xnor-popcount-add, in registers, `rounds` times; returns the binary multiply-accumulates done.
    double (*spin)(int rounds);
};

// The kernels called `name`, or default_kernel()'s if that is empty; throws std::invalid_argument if there are none or this
// processor can't run them. In levels.cpp.
const Kernels& find(std::string_view name);

}  // namespace xnor
