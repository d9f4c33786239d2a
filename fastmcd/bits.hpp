// A grid of bits, and its dilation and erosion by squares.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <vector>

namespace fastmcd {

// Bits past a row's end are 0.
class Bits {
public:
    Bits(int columns, int rows)
        : columns_(columns), rows_(rows), words_((columns + 63) / 64), bits_(std::size_t(words_) * rows), line_(words_) {}

    std::uint64_t* row(int y) { return bits_.data() + std::ptrdiff_t(y) * words_; }
    const std::uint64_t* row(int y) const { return bits_.data() + std::ptrdiff_t(y) * words_; }
    int words() const { return words_; }
    std::uint64_t last() const { return ~std::uint64_t(0) >> (64 * words_ - columns_); }  // a row's last word, all on
    std::size_t bytes() const { return (bits_.size() + line_.size()) * sizeof(std::uint64_t); }

    // First column from `from` on whose bit is `on`; `columns` if there is none.
    int next(int y, int from, bool on) const {
        for (int word = from / 64; word < words_; ++word) {
            std::uint64_t v = on ? row(y)[word] : ~row(y)[word];
            if (word == from / 64) v &= ~std::uint64_t(0) << (from % 64);
            if (v) return std::min(columns_, 64 * word + std::countr_zero(v));
        }
        return columns_;
    }

    void clear(int y, int first, int end) {
        for (int x = first; x < end; ++x) row(y)[x / 64] &= ~(std::uint64_t(1) << (x % 64));
    }

    void dilate(int radius) {  // what is within the radius of an on bit is on
        for (int y = 0; y < rows_; ++y) dilate_row(row(y), radius);
        // n rows are joined by ever longer steps; downwards first, then upwards
        for (int done = 0; done < radius;) {
            const int step = std::min(done + 1, radius - done);
            for (int y = rows_ - 1; y >= step; --y) join(row(y), row(y - step));
            done += step;
        }
        for (int done = 0; done < radius;) {
            const int step = std::min(done + 1, radius - done);
            for (int y = 0; y + step < rows_; ++y) join(row(y), row(y + step));
            done += step;
        }
    }

    void erode(int radius) {  // what is off is dilated; beyond the edges all is on
        flip();
        dilate(radius);
        flip();
    }

private:
    void join(std::uint64_t* to, const std::uint64_t* from) const {
        for (int i = 0; i < words_; ++i) to[i] |= from[i];
    }

    void flip() {
        for (int y = 0; y < rows_; ++y) {
            for (int i = 0; i < words_; ++i) row(y)[i] = ~row(y)[i];
            row(y)[words_ - 1] &= last();
        }
    }

    void dilate_row(std::uint64_t* bits, int radius) {
        for (int done = 0; done < radius;) {
            const int step = std::min({done + 1, radius - done, 63});
            std::uint64_t before = 0;
            for (int i = 0; i < words_; ++i) {
                const std::uint64_t here = bits[i], after = i + 1 < words_ ? bits[i + 1] : 0;
                line_[i] = here | here << step | before >> (64 - step) | here >> step | after << (64 - step);
                before = here;
            }
            std::copy(line_.begin(), line_.end(), bits);
            done += step;
        }
        bits[words_ - 1] &= last();
    }

    int columns_, rows_, words_;
    std::vector<std::uint64_t> bits_, line_;
};

}  // namespace fastmcd
