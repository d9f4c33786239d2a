#include "pan.hpp"

#include <algorithm>
#include <cstdlib>
#include <limits>

namespace fastmcd {
namespace {

constexpr int kCut = 24;           // grey levels
constexpr double kOverlap = 0.35;  // share of the images at least

}  // namespace

Shift best_translation(const Plane& current, const Plane& previous) {
    const int width = current.width, height = current.height;
    double least = std::numeric_limits<double>::max();
    Shift best{0, 0};
    for (int dy = -height / 2; dy <= height / 2; ++dy)
        for (int dx = -width / 2; dx <= width / 2; ++dx) {
            const int left = std::max(0, -dx), right = std::min(width, width - dx);
            const int top = std::max(0, -dy), bottom = std::min(height, height - dy);
            const int area = (right - left) * (bottom - top);
            if (area < kOverlap * width * height) continue;
            int sum = 0;
            for (int y = top; y < bottom; ++y) {
                const std::uint8_t *a = current.row(y), *b = previous.row(y + dy) + dx;
                for (int x = left; x < right; ++x) sum += std::min(std::abs(a[x] - b[x]), kCut);
            }
            if (double(sum) < least * area) least = double(sum) / area, best = {float(dx), float(dy)};
        }
    return best;
}

}  // namespace fastmcd
