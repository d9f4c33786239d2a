// Owned images, the 5x5 median and the pyramid.
#pragma once

#include <cstdint>
#include <vector>

#include "fastmcd.hpp"

namespace fastmcd {

struct Plane {
    int width = 0, height = 0;
    std::vector<std::uint8_t> pixels;

    Plane() = default;
    Plane(int w, int h) : width(w), height(h), pixels(std::size_t(w) * h) {}
    std::uint8_t* row(int y) { return pixels.data() + std::ptrdiff_t(y) * width; }
    const std::uint8_t* row(int y) const { return pixels.data() + std::ptrdiff_t(y) * width; }
    Image view() const { return {pixels.data(), width, height, width}; }
};

inline const std::uint8_t* row(Image image, int y) { return image.data + y * image.stride; }

// 5x5 median, borders repeated (the same bytes as cv2.medianBlur). Width and height at least 16.
class Median {
public:
    explicit Median(int width) : columns_(5 * (std::size_t(width) + 4)) {}
    void operator()(Image source, Plane& target);
    std::size_t bytes() const { return columns_.size(); }

private:
    std::vector<std::uint8_t> columns_;  // each column's five pixels, sorted: five rows, two pixels wider on each side
};

// Halves both sides: each pixel is the rounded mean of four. An odd last row or column is left out.
void halve(Image source, Plane& target);

}  // namespace fastmcd
