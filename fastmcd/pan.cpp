#include "pan.hpp"

#include <algorithm>
#include <cstdlib>
#include <limits>

namespace fastmcd {
namespace {

constexpr int kCut = 24;           // grey levels
constexpr double kOverlap = 0.35;  // share of the images at least
constexpr int kMostPixels = 64 * 64;

// The best of the translations that are within reach of the middle.
Shift search(Image current, Image previous, Shift middle, int reach_x, int reach_y) {
    const int width = current.width, height = current.height;
    double least = std::numeric_limits<double>::max();
    Shift best = middle;
    for (int dy = int(middle.y) - reach_y; dy <= int(middle.y) + reach_y; ++dy)
        for (int dx = int(middle.x) - reach_x; dx <= int(middle.x) + reach_x; ++dx) {
            const int left = std::max(0, -dx), right = std::min(width, width - dx);
            const int top = std::max(0, -dy), bottom = std::min(height, height - dy);
            const int area = std::max(0, right - left) * std::max(0, bottom - top);
            if (area < kOverlap * width * height) continue;
            int sum = 0;
            for (int y = top; y < bottom; ++y) {
                const std::uint8_t *a = row(current, y), *b = row(previous, y + dy) + dx;
                for (int x = left; x < right; ++x) sum += std::min(std::abs(a[x] - b[x]), kCut);
            }
            if (double(sum) < least * area) least = double(sum) / area, best = {float(dx), float(dy)};
        }
    return best;
}

}  // namespace

PanFinder::PanFinder(int width, int height) {
    while (width * height > kMostPixels) {
        width /= 2, height /= 2;
        const std::vector<std::uint8_t> pixels(std::size_t(width) * height);
        halves_.push_back({width, height, pixels, pixels});
    }
}

Shift PanFinder::operator()(Image current, Image previous) {
    const auto halve = [&](Image image, Halves& halves, std::vector<std::uint8_t>& out) {
        for (int y = 0; y < halves.height; ++y)
            kernels_.image.halve(row(image, 2 * y), row(image, 2 * y + 1), halves.width, out.data() + std::ptrdiff_t(y) * halves.width);
    };
    Image a = current, b = previous;
    for (Halves& halves : halves_) {
        halve(a, halves, halves.current), halve(b, halves, halves.previous);
        a = halves.view(halves.current), b = halves.view(halves.previous);
    }
    Shift best = search(a, b, {0, 0}, a.width / 2, a.height / 2);
    for (std::size_t level = halves_.size(); level-- > 0;) {
        if (level > 0) a = halves_[level - 1].view(halves_[level - 1].current), b = halves_[level - 1].view(halves_[level - 1].previous);
        else a = current, b = previous;
        best = search(a, b, {2 * best.x, 2 * best.y}, 1, 1);
    }
    return best;
}

std::size_t PanFinder::bytes() const {
    std::size_t sum = 0;
    for (const Halves& halves : halves_) sum += halves.current.size() + halves.previous.size();
    return sum;
}

}  // namespace fastmcd
