#include "image.hpp"

namespace fastmcd {
namespace {

constexpr int kBaseSide = 512;     // px: longest side of the level that is tracked
constexpr int kSmallestSide = 24;  // px: of the coarsest level
constexpr int kCoarser = 3;        // levels above the base

}  // namespace

void repeat_edges(Plane& plane) {
    for (int y = 0; y < plane.height; ++y) {
        std::uint8_t* p = plane.row(y);
        std::fill(p + plane.width, p + plane.stride, p[plane.width - 1]);
    }
    for (int y = plane.height; y % kCell; ++y) std::copy_n(plane.row(plane.height - 1), plane.stride, plane.row(y));
}

Plane copy_of(Image image) {
    Plane out(image.width, image.height);
    for (int y = 0; y < image.height; ++y) std::copy_n(row(image, y), image.width, out.row(y));
    repeat_edges(out);
    return out;
}

template <class RowAt>
void Smoother::smooth(int height, Plane& target, const RowAt& row_at) {
    workers_(height, [&](int band, int first, int end) {
        std::uint8_t* const greys = room_.data() + 2 * 5 * pitch_ * band;
        const std::uint8_t* ready[5];  // row y is ready[y % 5]
        int next = std::max(first - 2, 0);
        for (int y = first; y < end; ++y) {
            for (; next <= std::min(y + 2, height - 1); ++next) ready[next % 5] = row_at(next, greys + next % 5 * pitch_);
            const std::uint8_t* rows[5];
            for (int k = 0; k < 5; ++k) rows[k] = ready[std::clamp(y + k - 2, 0, height - 1) % 5];
            kernels_.image.smooth(rows, target.width, greys + 5 * pitch_, target.row(y));
        }
    });
    repeat_edges(target);
}

void Smoother::operator()(Image source, Plane& target) {
    smooth(source.height, target, [&](int y, std::uint8_t*) { return row(source, y); });
}

void Smoother::operator()(Colour source, Plane& target) {
    smooth(source.height, target, [&](int y, std::uint8_t* grey) {
        kernels_.image.grey(source.data + y * source.stride, source.width, grey);
        return grey;
    });
}

Pyramid::Pyramid(int width, int height) {
    levels.emplace_back(width, height);
    while (std::max(levels.back().width, levels.back().height) > kBaseSide)
        levels.emplace_back(levels.back().width / 2, levels.back().height / 2);
    base = int(levels.size()) - 1;
    for (int i = 0; i < kCoarser && std::min(levels.back().width, levels.back().height) >= 2 * kSmallestSide; ++i)
        levels.emplace_back(levels.back().width / 2, levels.back().height / 2);
}

void Pyramid::build(Workers& workers) {
    for (std::size_t i = 1; i < levels.size(); ++i) {
        const Plane& source = levels[i - 1];
        (i == 1 ? workers : alone())(levels[i].height, [&](int, int first, int end) {
            for (int y = first; y < end; ++y)
                kernels_->image.halve(source.row(2 * y), source.row(2 * y + 1), levels[i].width, levels[i].row(y));
        });
    }
}

std::size_t Pyramid::bytes() const {
    std::size_t sum = 0;
    for (const Plane& level : levels) sum += level.pixels.size();
    return sum;
}

void grey_from_bgr(const std::uint8_t* bgr, std::ptrdiff_t stride, int width, int height, std::uint8_t* grey) {
    const Kernels& with = kernels();
    for (int y = 0; y < height; ++y) with.image.grey(bgr + y * stride, width, grey + std::ptrdiff_t(y) * width);
}

}  // namespace fastmcd
