// Where a row of cells lies in another picture of cells, a cell per lane. For the kernels, compiled once per level as simd.hpp is.
#pragma once

#include "simd.hpp"

namespace fastmcd {
namespace {

ALWAYS Floats select(Ints mask, Floats a, Floats b) { return mask ? a : b; }

struct Places {
    Floats x;           // columns
    Floats u, v;        // the places there; 0 where they are outside
    Ints inside;
    Floats tu, tv;      // shares of the way from the first of the four cells around to the others
    Ints index;         // of the first
    bool side_by_side;  // in memory, as they are but where a row or column is skipped
};

// h: from cells to cells there; h[1], h[4], h[7] have the row's part of the sums already.
ALWAYS Places places_of(const float h[9], int column, int columns, int rows, std::ptrdiff_t pitch) {
    Places p;
    p.x = real(lanes() + column);
    const Floats scale = 1 / (h[6] * p.x + h[7]), zero{};
    p.u = (h[0] * p.x + h[1]) * scale, p.v = (h[3] * p.x + h[4]) * scale;
    p.inside = (p.u >= 0) & (p.v >= 0) & (p.u <= float(columns - 1)) & (p.v <= float(rows - 1));
    p.u = select(p.inside, p.u, zero), p.v = select(p.inside, p.v, zero);
    const Ints left = whole(p.u), top = whole(p.v);
    p.tu = p.u - real(left), p.tv = p.v - real(top);
    p.index = top * int(pitch) + left;
    p.side_by_side = !bits(p.index != lanes() + p.index[0]);
    return p;
}

template <bool kSideBySide>
ALWAYS Floats values_at(const float* p, const Places& places) {
    return kSideBySide ? load<Floats>(p + places.index[0]) : gather(p, places.index);
}

}  // namespace
}  // namespace fastmcd
