// What colours move: one histogram of the cells that do, one of those that don't, of those around the former above all.
#pragma once

#include <cstdint>
#include <vector>

#include "fastmcd.hpp"
#include "kernels.hpp"
#include "model.hpp"

namespace fastmcd {

class Colours {
public:
    Colours(int columns, int rows);

    void reset();
    void look(Colour frame);  // notes the colour of each cell; grey is the colour of equal parts
    void look(Image frame);

    // For each cell of a row, the logarithm of how much likelier its colour is among what moves.
    const float* row(int y);

    // Learns from the cells that surely move, by evidence and belief, and from those that surely don't. What may only have been uncovered,
    // below 0, is not sure to move.
    void learn(const Grid<float>& evidence, const Grid<float>& belief, const Grid<float>& uncovered);

    std::size_t bytes() const;

private:
    void weigh_tiles(const Grid<float>& evidence, const Grid<float>& belief, const Grid<float>& uncovered);

    const Kernels& kernels_ = kernels();
    int columns_, rows_, tile_, tile_columns_, tile_rows_;
    Grid<std::uint16_t> colour_;
    std::vector<float> moving_, still_, ratio_, line_, weight_;  // the last one of what rests, for each tile
    std::vector<int> movers_;                                    // cells that surely move, in each tile
};

}  // namespace fastmcd
