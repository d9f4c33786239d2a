// Where a picture as a whole has gone, however far.
#pragma once

#include <vector>

#include "image.hpp"
#include "kernels.hpp"

namespace fastmcd {

// The whole translation from current to previous under which two small images differ least, by the mean of absolute differences cut off
// at some levels: what moves on its own, or has come into view, has little say. All translations are compared on images of at most 64 x 64
// pixels in area, as a long thin frame's coarsest ones are not; on larger ones only those next to what their halves gave.
class PanFinder {
public:
    PanFinder(int width, int height);
    Shift operator()(Image current, Image previous);
    std::size_t bytes() const;

private:
    struct Halves {
        int width, height;
        std::vector<std::uint8_t> current, previous;  // row by row
        Image view(const std::vector<std::uint8_t>& pixels) const { return {pixels.data(), width, height, width}; }
    };

    const Kernels& kernels_ = kernels();
    std::vector<Halves> halves_;  // the largest first; none for small images
};

}  // namespace fastmcd
