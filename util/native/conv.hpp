// Convolutions, planned once for maps of one shape.
#pragma once

#include <cstdint>
#include <new>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels.hpp"
#include "xnor.hpp"

namespace xnor {

constexpr int kLargest = 1 << 16;  // window or stride

constexpr int up(int n, int multiple) { return (n + multiple - 1) / multiple * multiple; }
std::string text(const Shape&);
void check_entries(std::size_t found, std::size_t expected, const char* name);
void check_size(const Shape&);  // throws for a map whose offsets don't fit in 32 bits
// What a window leaves of a map; throws for a window or a map that can't be, or is too large, before anything is
// planned for it.
Shape shape_after(const Shape& in, int channels, int height, int width, int stride, int padding, const char* step);

// Memory that begins with a cache line, so that no vector lies in two.
template <class T>
struct LineAllocator {
    using value_type = T;
    LineAllocator() = default;
    template <class U>
    LineAllocator(const LineAllocator<U>&) {}
    T* allocate(std::size_t n) { return static_cast<T*>(::operator new(n * sizeof(T), std::align_val_t(64))); }
    void deallocate(T* p, std::size_t) { ::operator delete(p, std::align_val_t(64)); }
    bool operator==(const LineAllocator&) const { return true; }
};
template <class T>
using Aligned = std::vector<T, LineAllocator<T>>;

// `values`, of which there must be n, with a tail.
template <class T>
Aligned<T> with_tail(std::span<const T> values, std::size_t n, T tail, const char* name) {
    check_entries(values.size(), n, name);
    Aligned<T> padded(values.begin(), values.end());
    padded.resize(n + kTail, tail);
    return padded;
}

class BinaryConv {
public:
    // negative: see Network::binary_conv; step: the name in an error.
    BinaryConv(const Kernels&, const Conv&, const Shape& in, std::span<const std::uint8_t> negative, const char* step);

    void keep_signs(std::span<const std::int32_t> threshold);  // bit = sum < threshold
    BinaryJob job() const;                                     // but for the input
    int groups() const { return int(groups_.size()); }
    int counts() const { return kPixels * stride_; }  // entries of scratch memory
    std::size_t bytes() const { return weights_.size() + least_.size() * sizeof(std::uint16_t); }

    Shape in, out;
    int pixel;  // bytes of packed bits from one pixel of the input to the next

private:
    int blocks_, length_, stride_;
    std::vector<Run> runs_;
    std::vector<Pattern> patterns_;
    std::vector<Group> groups_;
    Aligned<std::uint8_t> weights_;
    Aligned<std::uint16_t> least_;
};

class RealConv {
public:
    RealConv(const Kernels&, const Conv&, const Shape& in, std::span<const float> weight, const char* step);

    RealJob job() const;  // but for the input
    int sums() const { return kPixels * stride_; }
    std::size_t bytes() const { return weights_.size() * sizeof(float); }

    Conv conv;
    Shape out;

private:
    int blocks_, length_, stride_;
    Aligned<float> weights_;
};

}  // namespace xnor
