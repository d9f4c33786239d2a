// Binarized networks on packed bits: xnor + popcount in place of multiply + add (XNOR-Net, arXiv:1603.05279). C++
// standard library only.
//
//     xnor::Network network(3, 32, 32);                      // channels, height, width of the images
//     network.normalize(mean, std);                          // uint8 pixels -> float
//     network.conv_sign({192, 5, 5, 1, 2}, weight, threshold); // float sums, of which only the sign is kept -> bits
//     network.binary_conv_sign({160, 1, 1, 1, 0}, negative, threshold);
//     ...
//     network.run(pixels, images, scores);
//
// A step is added at a time and works on what the one before it left: a map of floats or a map of bits. Maps lie pixel
// by pixel (height, width, channels). Bit 1 means negative, so +-1 vectors a, b of n entries have the product
// a . b = n - 2 popcount(a ^ b). Taps outside the image add nothing: n counts the taps inside. sign(0) is +1. A linear
// layer is a convolution as large as its map.
//
// Steps that follow each other are run as one pass over memory where they can be (sums, scale, ReLU or PReLU, shortcut,
// sign), which changes no result. The first run plans that and takes all memory; later ones take none.
//
// A step that can't be throws std::invalid_argument; throw the network away then. One thread at a time may run a
// network; networks share nothing. Every kernel gives the same bits: integer sums are exact, float sums are fused
// multiply-adds in one fixed order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace xnor {

// Names of the kernels this processor can run, best first: "avx512vpopcnt", "avx512", "avx2", "popcnt", "neon",
// "scalar" (always there).
std::vector<std::string> kernels();

// The kernel that a network gets if none is asked for: the environment's XNOR_KERNEL, else the first of kernels().
// Throws std::invalid_argument if XNOR_KERNEL names one that is unknown or not supported here.
std::string default_kernel();

// Binary multiply-accumulates per second that `kernel` reaches in registers and first-level cache on one thread: the
// limit for its layers.
double peak(std::string_view kernel);

struct Conv {
    int outputs;
    int height, width;  // of the kernel, in taps
    int stride = 1;
    int padding = 0;  // pixels on each side, less than the kernel
};

struct Pool {
    int size, stride, padding;
};

struct Shape {
    int channels, height, width;
};

// Calls `work` on every thread that shall help, and returns when all have ended. Work takes the next image until none
// is left.
using Everywhere = std::function<void(const std::function<void()>& work)>;
inline void here(const std::function<void()>& work) { work(); }

// One binarized layer on many images, for a training step, whose weights differ from call to call:
// y = (sign(x) . sign(w)) * scale + shift.
// x: (count, height, width, channels) in bfloat16, of which the sign bits count: it must not hold -0.0, as sign(0) is
// +1. y: (count, height', width', outputs), T is float or, for bfloat16 (to the nearest), std::uint16_t. negative, scale
// and shift as in Network::binary_conv. Throws std::invalid_argument for what can't be, and what `everywhere` throws.
template <class T>
void binary_conv(const Conv&, const Shape& in, std::span<const std::uint8_t> negative, std::span<const float> scale,
                 std::span<const float> shift, const std::uint16_t* x, int count, T* y, std::string_view kernel = "",
                 const Everywhere& everywhere = here);

class Network {
public:
    // kernel: "" for default_kernel(). threads: >= 1, this one included.
    Network(int channels, int height, int width, std::string_view kernel = "", int threads = 1);
    ~Network();
    Network(Network&&) noexcept;  // one that was moved from can only be destroyed

    // (v / 255 - mean) / std per channel, for images of uint8, or else v / 255; images of float are taken as they are.
    void normalize(std::span<const float> mean, std::span<const float> std);

    // From floats. weight: (outputs, channels, height, width).
    void conv(const Conv&, std::span<const float> weight, std::span<const float> scale, std::span<const float> shift,
              bool relu);  // sum * scale + shift
    // bit = sum < threshold
    void conv_sign(const Conv&, std::span<const float> weight, std::span<const float> threshold);
    // x * scale + shift per channel
    void affine(std::span<const float> scale, std::span<const float> shift, bool relu);
    void sign(std::span<const float> scale, std::span<const float> threshold);  // bit = x * scale < threshold
    void prelu(std::span<const float> slope);                                   // x * slope where x < 0, per channel
    void max_pool(const Pool&);
    void average_pool(const Pool&);  // padding counts as zeros, as in torch
    // A shortcut: plus what step `map` left (0: the images; floats), averaged over size x size pixels, its channels
    // repeated as often as they fit.
    void add(int map, int size);

    // From bits. negative: (outputs, channels, height, width), non-zero where a weight is -1. At most 65,534 taps per
    // output.
    void binary_conv(const Conv&, std::span<const std::uint8_t> negative, std::span<const float> scale,
                     std::span<const float> shift, bool relu);
    // bit = sum < threshold
    void binary_conv_sign(const Conv&, std::span<const std::uint8_t> negative, std::span<const std::int32_t> threshold);
    // Bit 1 where all of the window are 1 (the sign of a maximum), or any where the channel's `any` is non-zero (the
    // sign of a minimum).
    void max_pool_bits(const Pool&, std::span<const std::uint8_t> any);

    Shape output() const;  // of the last step
    std::string_view kernel() const;
    std::size_t bytes();                  // held: packed weights, thresholds, maps; plans, as the first run does
    // Spent in each step by the last run, if `timed`; 0 in those that another takes along.
    std::vector<double> seconds() const;

    // images: (count, height, width, channels). result: (count, height', width', channels') of output(), which must be
    // floats.
    void run(const std::uint8_t* images, int count, float* result, bool timed = false);
    void run(const float* images, int count, float* result, bool timed = false);

private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

}  // namespace xnor
