#include "model.hpp"

#include <algorithm>
#include <cmath>

#include "linear.hpp"

namespace fastmcd {
namespace {

constexpr int kSampleRows = 16;  // rows of cells that the light is fitted to, about
constexpr float kGhostAge = 3;       // frames that a candidate must have been seen to take the place of a ghost
constexpr float kGhostShare = 0.3f;  // and of the background's age
constexpr float kDisproof = 5;       // frames of age that a background loses per frame in which what moves looks like it
constexpr double kCentre = (kCell - 1) / 2.0;  // of a cell, counted from its first pixel's centre

}  // namespace

Model::Model(int width, int height, const Params& p, Workers& workers)
    : workers_(workers), constants_{float(p.max_age),      float(p.match),          float(p.threshold), float(p.initial_variance),
                 float(p.min_variance), float(p.decay_variance), float(p.decay_rate)},
      columns_(cells(width)), rows_(cells(height)), sample_step_(std::max(1, rows_ / kSampleRows)),
      modes_(6, {columns_, rows_}), next_(modes_), line_(6, {columns_, workers.count()}),
      sample_(3, {columns_, rows_ / sample_step_ + 1}), marks_(columns_, rows_), means_(columns_, rows_) {}

void Model::reset() {
    for (const int age : {2, 5}) modes_[age].fill(0);
}

Planes Model::planes(std::vector<Grid<float>>& modes, int row) {
    Planes out;
    for (int k = 0; k < 6; ++k) out.of[k] = modes[k].row(row);
    return out;
}

// A row of the model as it lies under the current frame. Each cell takes the bilinear mix of the four cells around the
// place where its centre was. The mix's variance holds half of the spread of the four means too: that makes edges
// tolerant. (All of it, as in the paper, adds up under a steady pan until textured cells are blind: measured, F 0.64
// against 0.65 and worse boxes.) Where that variance is great, the cell is unreliable and loses age. A cell that comes
// from outside, if only in part, starts anew.
Planes Model::arrived(int row, int band) {
    if (cells_ == kIdentity) return planes(modes_, row);
    Warp job{&constants_, planes(modes_, 0), planes(line_, band), marks_.pitch(), columns_, rows_, {}};
    at_row(cells_, row, job.h);
    kernels_.model.warp(job);
    return job.to;
}

void Model::take_sample(const Plane& frame) {
    for (int row = sample_step_ / 2, k = 0; row < rows_; row += sample_step_, ++k) {
        const Planes background = arrived(row, 0);
        std::copy_n(background.of[0], columns_, sample_[0].row(k));
        std::copy_n(background.of[2], columns_, sample_[1].row(k));
        kernels_.model.means(frame.row(row * kCell), frame.stride, columns_, sample_[2].row(k));
    }
}

// Fits the change of light to how the settled cells differ from the background: exposure (an offset and a gain) and, as
// the camera pans, a lens's darker corners (a slope). Robust, so that moving objects have no say: cells far off the fit
// count less and less (Geman-McClure).
Model::Light Model::fit_light() {
    Light light{};
    for (const float spread : {32.0f, 16.0f, 8.0f}) {  // grey levels
        float sums[kLightSums][kLanes] = {};
        for (int row = sample_step_ / 2, k = 0; row < rows_; row += sample_step_, ++k)
            kernels_.model.light(sample_[0].row(k), sample_[1].row(k), sample_[2].row(k), columns_, 2.0f / float(columns_),
                                 2 * float(row) / float(rows_) - 1, light.data(), spread, sums);
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
// The candidate replaces the apparent background if it has become older, or has its full age and a frame: so what stops,
// or is uncovered, is background in the end. The loser stays as the candidate. The cell's mean then teaches the mode that it
// matches, or starts the candidate anew. A variance is that of the worst pixel, not the mean: one Gaussian stands for all
// of the cell's pixels, and an edge through it must not be foreground for ever. It may only grow step by step: or else an
// object's front, when it has just reached the cell, would blind the cell to the object. As in the authors' program a
// pixel is tested by the new mean but the old variance.
void Model::update(const Plane& frame, const Homography& h, Plane& mask) {
    const Homography to_pixels = {kCell, 0, kCentre, 0, kCell, kCentre, 0, 0, 1};
    const Homography to_cells = {1. / kCell, 0, -kCentre / kCell, 0, 1. / kCell, -kCentre / kCell, 0, 0, 1};
    cells_ = h == kIdentity ? kIdentity : product(to_cells, product(h, to_pixels));
    take_sample(frame);
    const Light light = fit_light();
    exposure_ = {1 + light[1] / 128, light[0] - light[1]};
    workers_(rows_, [&](int band, int first, int end) {
        for (int row = first; row < end; ++row) learn(row, band, light, frame, mask);
    });
    if (cells_ != kIdentity) std::swap(modes_, next_);
    std::copy_n(means_.row(0) - 1, columns_ + 2, means_.row(-1) - 1);
    std::copy_n(means_.row(rows_ - 1) - 1, columns_ + 2, means_.row(rows_) - 1);
}

Background Model::background() const {
    Background out{columns_, rows_, {}, {}, {}};
    int which = 0;
    for (auto* values : {&out.mean, &out.variance, &out.age}) {
        for (int row = 0; row < rows_; ++row) {
            const float* from = plane(0, which).row(row);
            values->insert(values->end(), from, from + columns_);
        }
        ++which;
    }
    return out;
}

void Model::learn(int row, int band, const Light& light, const Plane& frame, Plane& mask) {
    const float y = 2 * float(row) / float(rows_) - 1;
    std::int32_t* marks = marks_.row(row);
    std::vector<Grid<float>>& to = cells_ == kIdentity ? modes_ : next_;  // at rest in place: half the memory to go through
    kernels_.model.learn({&constants_, arrived(row, band), planes(to, row), frame.row(row * kCell), mask.row(row * kCell),
                          frame.stride, mask.stride, marks, means_.row(row), columns_, light[0] - light[1] - light[2] + light[3] * y,
                          light[1] / 128, 2 * light[2] / float(columns_)});
    std::fill(marks + columns_, marks + marks_.pitch(), 0);
    float* means = means_.row(row);
    means[-1] = means[0], means[columns_] = means[columns_ - 1];
}

// What was segmented otherwise than the background alone would have it. What moves, but is like its background, has taught it, most likely
// in the first frames: that background is worth less. A ghost, still and part of what rests, becomes background at once where its candidate
// is not much younger than the background.
void Model::correct(const Grid<float>& belief, const Grid<float>& rest, Plane& mask) {
    for (int y = 0; y < rows_; ++y) {
        std::int32_t* marks = marks_.row(y);
        const float* beliefs = belief.row(y);
        const Planes modes = planes(modes_, y);
        for (int x = 0; x < columns_; ++x) {
            const bool moves = beliefs[x] > 0, differs = moved(marks[x]) >= kUnlike;
            if (moves == differs) continue;
            if (moves) modes.of[2][x] = std::max(0.0f, modes.of[2][x] - kDisproof);
            if (differs && rest.row(y)[x] > 0 && modes.of[5][x] >= std::max(kGhostAge, kGhostShare * modes.of[2][x])) {
                for (int k = 0; k < 3; ++k) std::swap(modes.of[k][x], modes.of[3 + k][x]);
                modes.of[5][x] = 0;
            }
            marks[x] = (marks[x] & ~0xffff) | (moves ? kAllMoved : 0);
            for (int k = 0; k < kCell; ++k) std::fill_n(mask.row(y * kCell + k) + x * kCell, kCell, std::uint8_t(moves ? 255 : 0));
        }
    }
}

std::size_t Model::bytes() const {
    return 12 * modes_[0].bytes() + 6 * line_[0].bytes() + 3 * sample_[0].bytes() + marks_.bytes() + means_.bytes();
}

}  // namespace fastmcd
