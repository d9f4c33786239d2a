#include "model.hpp"

#include <algorithm>
#include <cmath>

#include "linear.hpp"

namespace fastmcd {
namespace {

constexpr int kLightRows = 32;  // the light is fitted to that many rows of cells, about
constexpr double kCentre = (kCell - 1) / 2.0;  // of a cell, counted from its first pixel's centre

}  // namespace

Model::Model(int width, int height, const Params& p)
    : constants_{float(p.max_age),      float(p.match),          float(p.threshold), float(p.initial_variance),
                 float(p.min_variance), float(p.decay_variance), float(p.decay_rate)},
      columns_(cells(width)), rows_(cells(height)), modes_(6, {columns_, rows_}), warped_(6, {columns_, rows_}),
      means_(columns_, rows_), marks_(columns_, rows_) {}

void Model::reset() {
    for (const int age : {2, 5}) modes_[age].fill(0);
}

Planes Model::planes(std::vector<Grid<float>>& modes, int row) {
    Planes out;
    for (int k = 0; k < 6; ++k) out.of[k] = modes[k].row(row);
    return out;
}

// Each cell takes the bilinear mix of the four cells around the place where its centre was. The mix's variance holds
// half of the spread of the four means too: that makes edges tolerant. (All of it, as in the paper, adds up under a
// steady pan until textured cells are blind: measured, F 0.64 against 0.65 and worse boxes.) Where that variance is
// great, the cell is unreliable and loses age. A cell that comes from outside, if only in part, starts anew.
void Model::warp(const Homography& pixels) {
    const Homography h = product(product({1. / kCell, 0, -kCentre / kCell, 0, 1. / kCell, -kCentre / kCell, 0, 0, 1}, pixels),
                                 {kCell, 0, kCentre, 0, kCell, kCentre, 0, 0, 1});
    Warp job{&constants_, planes(modes_, 0), {}, marks_.pitch(), columns_, rows_, {}};
    for (int row = 0; row < rows_; ++row) {
        job.to = planes(warped_, row);
        for (int k = 0; k < 3; ++k) {
            job.h[3 * k] = float(h[3 * k]);
            job.h[3 * k + 1] = float(h[3 * k + 1] * row + h[3 * k + 2]);
        }
        kernels_.model.warp(job);
    }
    std::swap(modes_, warped_);
}

// Fits the change of light to how the settled cells differ from the background: exposure (an offset and a gain) and, as
// the camera pans, a lens's darker corners (a slope). Robust, so that moving objects have no say: cells far off the fit
// count less and less (Geman-McClure).
Model::Light Model::fit_light() {
    Light light{};
    const int step = std::max(1, rows_ / kLightRows);
    for (const float spread : {32.0f, 16.0f, 8.0f}) {  // grey levels
        float sums[kLightSums][kLanes] = {};
        for (int row = step / 2; row < rows_; row += step)
            kernels_.model.light(modes_[0].row(row), modes_[2].row(row), means_.row(row), columns_,
                                 2.0f / float(columns_), 2 * float(row) / float(rows_) - 1, light.data(), spread, sums);
        double normal[4][5], solution[4];
        for (int j = 0, k = 0; j < 4; ++j)
            for (int i = j; i < 5; ++i, ++k) {
                normal[j][i] = 0;
                for (const float lane : sums[k]) normal[j][i] += double(lane);
                if (i < 4) normal[i][j] = normal[j][i];
            }
        const double ridge = 1e-3 * normal[0][0];  // a frame of one level tells nothing about the gain: then it is 0
        for (int j = 0; j < 4; ++j) normal[j][j] += ridge;
        if (!solve<4>(normal, solution)) return {};
        std::copy(solution, solution + 4, light.begin());
    }
    return light;
}

// After the light is accounted for, cell by cell:
// The candidate replaces the apparent background if it has become older. The cell's mean then teaches the mode that it
// matches, or starts the candidate anew. A variance is that of the worst pixel, not the mean: one Gaussian stands for all
// of the cell's pixels, and an edge through it must not be foreground for ever. It may only grow step by step: or else an
// object's front, when it has just reached the cell, would blind the cell to the object. As in the authors' program a
// pixel is tested by the new mean but the old variance.
void Model::update(const Plane& frame, Plane& mask) {
    for (int row = 0; row < rows_; ++row)
        kernels_.model.means(frame.row(row * kCell), frame.stride, columns_, means_.row(row));
    const Light light = fit_light();
    for (int row = 0; row < rows_; ++row) {
        const float y = 2 * float(row) / float(rows_) - 1;
        std::int32_t* marks = marks_.row(row);
        kernels_.model.learn({&constants_, planes(modes_, row), means_.row(row), frame.row(row * kCell),
                              mask.row(row * kCell), frame.stride, mask.stride, marks, columns_,
                              light[0] - light[1] - light[2] + light[3] * y, light[1] / 128,
                              2 * light[2] / float(columns_)});
        std::fill(marks + columns_, marks + marks_.pitch(), 0);
    }
}

std::size_t Model::bytes() const { return 12 * modes_[0].bytes() + means_.bytes() + marks_.bytes(); }

}  // namespace fastmcd
