// What a CPU level has to offer. kernels.cpp is compiled once per level; levels.cpp picks one when the program runs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace xnor {

constexpr int kPixels = 4;  // output pixels whose sums share each weight that is loaded
constexpr int kTail = 64;   // entries that may be read past the end of a pass's arrays: kernels read whole vectors

// A map's memory from pixel 0, 0 on, in entries (floats, or bytes of bits) from one pixel and one row to the next.
template <class T>
struct Plane {
    T* data = nullptr;
    int pixel = 0, row = 0;

    // Inlined always: the linker must not give one level's copy to another.
    __attribute__((always_inline)) T* at(int y, int x) const {
        return data + std::ptrdiff_t(y) * row + std::ptrdiff_t(x) * pixel;
    }
};

constexpr float kLowest = -__builtin_inff();

struct Affine {  // per channel x * scale + shift, at least `floor`; scale null: x as it is
    const float *scale = nullptr, *shift = nullptr;
    float floor = kLowest;
};

// What becomes of each channel's sum at a pixel: y = affine(sum), times `slope` where it is below zero, plus a
// shortcut. It is kept as it is, in bfloat16 (to the nearest; between two, the even one), and as a bit,
// y * turn < threshold. Bits lie in groups of 32 channels, 4 bytes each; levels that look counts up take 8: a nibble in
// the upper half of each byte, which is the offset of the nibble's row in a table.
struct Finish {
    int channels;
    Affine affine = {};
    const float* slope = nullptr;  // may be null; must be where affine.scale is
    Plane<const float> past = {};  // the shortcut's: averaged over size x size pixels, its channels repeated
    int past_channels = 0, size = 1;
    Plane<float> floats = {};
    Plane<std::uint16_t> halves = {};
    Plane<std::uint8_t> bits = {};
    const float *turn = nullptr, *threshold = nullptr;  // turn may be null
};

struct Scratch {            // memory of one thread
    std::uint16_t* counts;  // kPixels x counts_stride
    float *sums, *past;     // kPixels x sums_stride; channels
};

// Input and weights that lie side by side: `length` loads from `offset` bytes behind the window's start meet the
// weights from load `weight` on.
struct Run {
    std::int32_t offset, weight, length;
};
struct Pattern {       // which taps of the kernel lie inside the map
    int first, count;  // of the runs
    int taps;          // bits of a window
};
struct Group {  // output pixels of one pattern, wherever they lie, are summed together
    int pattern, pixels;
    std::int32_t input[kPixels];  // bytes from the map's start to the window's first tap inside
    std::int32_t y[kPixels], x[kPixels];
};

struct BinaryJob {
    const std::uint8_t* weights;  // (block, length, lanes), length = taps * depth
    int blocks, length;
    const Run* runs;
    const Pattern* patterns;
    const Group* groups;
    int stride;                  // of the counts of a pixel
    const std::uint16_t* least;  // null; or bit = count >= least, (pattern, stride), is all that is left of a sum
    const std::uint8_t* input = nullptr;
};

struct RealJob {
    const float* weights;           // (block, rows * length, lanes)
    int blocks, rows, length;       // length: width * channels
    int stride, padding;            // pixels
    int sums_stride, width, total;  // of the output
    Plane<const float> input = {};  // with a margin of zeros, so that no window leaves it
    int pool = 1;                   // the output is the maximum over squares of so many pixels
    Affine before = {};             // of each pixel before it is pooled: not null then
};

struct PoolJob {
    enum Kind { kSame, kMaximum, kAverage } kind;  // kSame: the pixel itself
    int size, stride, padding;
    int height, width;  // of the input
    int out_width;
    Plane<const float> input;
    Affine before = {};  // of each pixel of a window before it is pooled
};

struct Kernels {
    const char* name;
    int word_bytes;   // of 32 channels of bits
    int load_bytes;   // 4 (a word) or 1 (a nibble)
    int lanes;        // outputs per block of binary weights
    int float_lanes;  // outputs per block of float weights

    // Depth of a pixel: the loads that `channels` channels take (nibbles or words).
    int (*depth)(int channels);
    // Lay out binary weights, words (outputs, taps, ceil(channels / 32)), as blocks (block, tap, depth, lanes); returns
    // the bytes that takes (out may be null).
    std::size_t (*pack)(const std::uint32_t* words, int outputs, int taps, int channels, std::uint8_t* out);

    // Passes over a map: groups, sets of kPixels pixels, or pixels from `first` to before `last`.
    void (*binary)(const BinaryJob&, const Finish&, int first, int last, const Scratch&);
    void (*real)(const RealJob&, const Finish&, int first, int last, const Scratch&);
    void (*pool)(const PoolJob&, const Finish&, int first, int last, const Scratch&);

    void (*bfloat16_bits)(const std::uint16_t* x, int n, std::uint8_t* out);  // their signs
    // Does nothing but the level's xnor-popcount-add, in registers, `rounds` times; returns the binary
    // multiply-accumulates.
    double (*spin)(int rounds);
};

// The kernels called `name`, or default_kernel()'s if that is empty; throws std::invalid_argument if there are none or
// this processor can't run them. In levels.cpp.
const Kernels& find(std::string_view name);

}  // namespace xnor
