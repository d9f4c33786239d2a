#include "colours.hpp"

#include <algorithm>

namespace fastmcd {
namespace {

constexpr int kBits = 4;              // of each of blue, green and red
constexpr int kBins = 1 << 3 * kBits;
constexpr float kKept = 0.9f;         // of the histograms from frame to frame
constexpr float kSure = 0.6f;         // evidence of a cell that teaches what moves
constexpr float kFewest = 50;         // cells, before the histogram of what moves is asked
constexpr float kPrior = 0.02f;       // share of all of a colour's cells that both histograms are given
constexpr float kMost = 2, kWeight = 0.3f;

}  // namespace

Colours::Colours(int columns, int rows)
    : columns_(columns), rows_(rows), colour_(columns, rows), moving_(kBins), still_(kBins), ratio_(kBins), line_(columns + kLanes) {}

void Colours::reset() {
    for (auto* v : {&moving_, &still_, &ratio_}) std::fill(v->begin(), v->end(), 0.0f);
}

// Four pixels from the middle of each cell.
template <class At>
void Colours::look(int width, int height, const At& at) {
    for (int y = 0; y < rows_; ++y) {
        std::uint16_t* out = colour_.row(y);
        const int top = std::min(kCell * y + 1, height - 2);
        for (int x = 0; x < columns_; ++x) out[x] = std::uint16_t(at(std::min(kCell * x + 1, width - 2), top));
    }
}

void Colours::look(Colour frame) {
    look(frame.width, frame.height, [&](int x, int y) {
        const std::uint8_t *p = frame.data + y * frame.stride + 3 * x, *q = p + frame.stride;
        const auto level = [&](int k) { return (p[k] + p[k + 3] + q[k] + q[k + 3]) >> (10 - kBits); };
        return (level(0) << kBits | level(1)) << kBits | level(2);
    });
}

void Colours::look(Image frame) {
    look(frame.width, frame.height, [&](int x, int y) {
        const std::uint8_t *p = fastmcd::row(frame, y) + x, *q = p + frame.stride;
        const int level = (p[0] + p[1] + q[0] + q[1]) >> (10 - kBits);
        return (level << kBits | level) << kBits | level;
    });
}

const float* Colours::row(int y) {
    const std::uint16_t* colour = colour_.row(y);
    for (int x = 0; x < columns_; ++x) line_[x] = ratio_[colour[x]];
    return line_.data();
}

void Colours::learn(const Grid<float>& evidence, const Grid<float>& belief, const Grid<float>& uncovered) {
    for (auto* v : {&moving_, &still_})
        for (float& count : *v) count *= kKept;
    for (int y = 0; y < rows_; ++y) {
        const float *e = evidence.row(y), *b = belief.row(y), *u = uncovered.row(y);
        const std::uint16_t* colour = colour_.row(y);
        for (int x = 0; x < columns_; ++x) {
            if (b[x] > 0 && e[x] + u[x] > kSure) moving_[colour[x]] += 1;
            else if (b[x] < 0 && e[x] < 0) still_[colour[x]] += 1;
        }
    }
    float moving = 1, still = 1;
    for (int i = 0; i < kBins; ++i) moving += moving_[i], still += still_[i];
    for (int i = 0; i < kBins; ++i) {
        const float prior = kPrior * (moving_[i] + still_[i] + 1);
        const float r = (moving_[i] + prior) / moving * still / (still_[i] + prior);
        const float ln = 3 * (r * r - 1) / (r * r + 4 * r + 1);  // Pade: the C library's log differs in the last bit between CPUs
        ratio_[i] = moving < kFewest ? 0 : kWeight * std::clamp(ln, -kMost, kMost);
    }
}

std::size_t Colours::bytes() const {
    return colour_.bytes() + (3 * std::size_t(kBins) + line_.size()) * sizeof(float);
}

}  // namespace fastmcd
