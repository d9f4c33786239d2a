// Owned images, smoothing and the pyramid.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "fastmcd.hpp"
#include "kernels.hpp"
#include "workers.hpp"

namespace fastmcd {

constexpr int kMinSide = 32, kMaxSide = 4096;  // of a frame, in pixels

// Rows lie a multiple of 64 bytes apart and there is a multiple of four of them, with room around for whole vectors.
struct Plane {
    int width = 0, height = 0;
    std::ptrdiff_t stride = 0;
    std::vector<std::uint8_t> pixels;

    Plane() = default;
    Plane(int w, int h)
        : width(w), height(h), stride(rounded_up(w, kSlack)), pixels(2 * kSlack + stride * rounded_up(h, kCell)) {}
    std::uint8_t* row(int y) { return pixels.data() + kSlack + y * stride; }
    const std::uint8_t* row(int y) const { return pixels.data() + kSlack + y * stride; }
    Image view() const { return {row(0), width, height, stride}; }
};

inline const std::uint8_t* row(Image image, int y) { return image.data + y * image.stride; }

// Repeats the last pixels to the end of the rows, and the last row to a multiple of four: so the cells of the model that
// the frame's edge cuts are whole.
void repeat_edges(Plane& plane);
Plane copy_of(Image image);  // with edges repeated

// Nearly the 5x5 median (0.4 grey levels off on average, equal in four of five pixels) at a third of its cost, borders
// repeated. Edges are repeated in the target. Width at least 16. Colours become grey row by row, while they are in the cache.
class Smoother {
public:
    explicit Smoother(int width, Workers& workers = alone())
        : workers_(workers), pitch_(width + 4 + kSlack), room_(std::size_t(2 * 5 * pitch_) * workers.count()) {}
    void operator()(Image source, Plane& target);
    void operator()(Colour source, Plane& target);
    std::size_t bytes() const { return room_.size(); }

private:
    template <class RowAt>  // called for each row once, in order, from two above a band to two below it
    void smooth(int height, Plane& target, const RowAt& row_at);

    const Kernels& kernels_ = kernels();
    Workers& workers_;
    std::ptrdiff_t pitch_;
    std::vector<std::uint8_t> room_;  // for each thread five rows of grey, and five for the kernel
};

// A smoothed frame and its halvings: each pixel is the rounded mean of four; an odd last row or column is left out.
// Tracking starts at the smallest level and ends at `base`, the first that is at most 512 pixels wide and high: the cost
// stays bounded, and a tenth of its pixel is precise enough for 4-pixel cells.
struct Pyramid {
    Pyramid(int width, int height);
    void build(Workers& workers = alone());  // from levels[0]
    std::size_t bytes() const;

    std::vector<Plane> levels;
    int base = 0;

private:
    const Kernels* kernels_ = &kernels();  // a pointer: pyramids are swapped
};

}  // namespace fastmcd
