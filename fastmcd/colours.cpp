#include "colours.hpp"

#include <algorithm>

namespace fastmcd {
namespace {

constexpr int kBins = 1 << 3 * kColourBits;
constexpr float kKept = 0.9f;         // of the histograms from frame to frame
constexpr float kSure = 0.6f;         // evidence of a cell that teaches what moves
constexpr float kNone = 1e-20f;       // cells; less is none: it would decay into slow denormal numbers
constexpr float kFewest = 50;         // cells, before the histogram of what moves is asked
constexpr float kPrior = 0.02f;       // share of all of a colour's cells that both histograms are given
constexpr int kTiles = 16;            // along the frame's longer side
constexpr int kAround = 2;            // tiles
constexpr int kMovers = 4;            // cells that surely move, in a tile that others are around
constexpr float kElsewhere = 0.1f;    // weight of what rests far from what moves
constexpr float kMost = 2, kWeight = 0.3f;

int top(int row, int height) { return std::min(kCell * row + 1, height - 2); }  // of the four pixels in the middle of a cell

bool surely_moves(float evidence, float belief, float uncovered) { return belief > 0 && evidence + uncovered > kSure; }

}  // namespace

Colours::Colours(int columns, int rows)
    : columns_(columns), rows_(rows), tile_(std::max(1, std::max(columns, rows) / kTiles)), tile_columns_((columns - 1) / tile_ + 1),
      tile_rows_((rows - 1) / tile_ + 1), colour_(columns, rows), moving_(kBins), still_(kBins), ratio_(kBins), line_(columns + kLanes),
      weight_(std::size_t(tile_columns_) * tile_rows_), movers_(weight_.size()) {}

void Colours::reset() {
    for (auto* v : {&moving_, &still_, &ratio_}) std::fill(v->begin(), v->end(), 0.0f);
}

void Colours::look(Colour frame) {
    for (int y = 0; y < rows_; ++y) {
        const std::uint8_t* upper = frame.data + top(y, frame.height) * frame.stride;
        kernels_.image.colours(upper, upper + frame.stride, frame.width, columns_, colour_.row(y));
    }
}

void Colours::look(Image frame) {
    for (int y = 0; y < rows_; ++y) {
        const std::uint8_t *upper = fastmcd::row(frame, top(y, frame.height)), *lower = upper + frame.stride;
        for (int column = 0; column < columns_; ++column) {
            const int x = std::min(kCell * column + 1, frame.width - 2);
            const int level = (upper[x] + upper[x + 1] + lower[x] + lower[x + 1]) >> (10 - kColourBits);
            colour_.row(y)[column] = std::uint16_t((level << kColourBits | level) << kColourBits | level);
        }
    }
}

const float* Colours::row(int y) {
    const std::uint16_t* colour = colour_.row(y);
    for (int x = 0; x < columns_; ++x) line_[x] = ratio_[colour[x]];
    return line_.data();
}

// An object's trail, or rim, is to be told from what it moves before, not from a sky far away: what rests around it counts most.
void Colours::weigh_tiles(const Grid<float>& evidence, const Grid<float>& belief, const Grid<float>& uncovered) {
    std::fill(movers_.begin(), movers_.end(), 0);
    for (int y = 0; y < rows_; ++y) {
        const float *e = evidence.row(y), *b = belief.row(y), *u = uncovered.row(y);
        int* movers = &movers_[std::size_t(y / tile_) * tile_columns_];
        for (int x = 0; x < columns_; ++movers)
            for (const int end = std::min(x + tile_, columns_); x < end; ++x) *movers += surely_moves(e[x], b[x], u[x]);
    }
    std::fill(weight_.begin(), weight_.end(), kElsewhere);
    for (int y = 0; y < tile_rows_; ++y)
        for (int x = 0; x < tile_columns_; ++x) {
            if (movers_[std::size_t(y) * tile_columns_ + x] < kMovers) continue;
            for (int j = std::max(0, y - kAround); j <= std::min(tile_rows_ - 1, y + kAround); ++j)
                for (int i = std::max(0, x - kAround); i <= std::min(tile_columns_ - 1, x + kAround); ++i)
                    weight_[std::size_t(j) * tile_columns_ + i] = 1;
        }
}

void Colours::learn(const Grid<float>& evidence, const Grid<float>& belief, const Grid<float>& uncovered) {
    weigh_tiles(evidence, belief, uncovered);
    for (auto* v : {&moving_, &still_})
        for (float& count : *v) count = count < kNone ? 0 : count * kKept;
    for (int y = 0; y < rows_; ++y) {
        const float *e = evidence.row(y), *b = belief.row(y), *u = uncovered.row(y), *weight = &weight_[std::size_t(y / tile_) * tile_columns_];
        const std::uint16_t* colour = colour_.row(y);
        for (int x = 0; x < columns_; ++weight)
            for (const int end = std::min(x + tile_, columns_); x < end; ++x) {
                if (surely_moves(e[x], b[x], u[x])) moving_[colour[x]] += 1;
                else if (b[x] < 0 && e[x] < 0) still_[colour[x]] += *weight;
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
    return colour_.bytes() + (3 * std::size_t(kBins) + line_.size() + weight_.size()) * sizeof(float) + movers_.size() * sizeof(int);
}

}  // namespace fastmcd
