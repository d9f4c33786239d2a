// From the raw mask to objects: clean-up on the grid of cells, connected components, merging, scores, crops.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "fastmcd.hpp"
#include "homography.hpp"
#include "image.hpp"

namespace fastmcd {

// A window's sums at every place of a grid of bytes, sides 2 * radius + 1, cut at the edges. In place.
class WindowSums {
public:
    WindowSums(int columns, int rows);
    void operator()(const std::vector<std::uint8_t>& grid, int radius);
    int operator[](std::size_t i) const { return sums_[i]; }
    std::size_t bytes() const { return (sums_.size() + rows_sum_.size()) * sizeof(std::int32_t); }

private:
    int columns_, rows_;
    std::vector<std::int32_t> sums_, rows_sum_;
};

class Regions {
public:
    Regions(int width, int height, const Params& params);

    void reset() { tracks_.clear(); }

    // Cleans mask in place; contrast is that of each cell, h takes current to previous coordinates. Best object first.
    std::span<const Object> operator()(Plane& mask, const std::vector<std::uint8_t>& contrast, const Homography& h);

    std::size_t bytes() const;

private:
    struct Region {
        int left, top, right, bottom;  // right and bottom are one past the end
        std::int64_t pixels, contrast;  // moving pixels; their cells' contrast, summed over them
        int age;                       // frames seen
    };

    void grow(int radius);
    void shrink(int radius);
    void find_cells(const Plane& mask);
    int label_cells();
    void collect(const Plane& mask, const std::vector<std::uint8_t>& contrast, int labels);
    void merge();
    void follow(const Homography& h);
    void clean(Plane& mask) const;
    Object describe(const Region& region) const;
    int root(int label);

    Params params_;
    int width_, height_, columns_, rows_, closing_;
    std::vector<std::uint8_t> counts_, on_;
    WindowSums sums_;
    std::vector<std::int32_t> labels_, parents_;
    std::vector<Region> all_, regions_, tracks_;
    std::vector<Object> objects_;
};

}  // namespace fastmcd
