#include "model.hpp"

#include <algorithm>
#include <cmath>

#include "linear.hpp"

namespace fastmcd {
namespace {

constexpr float kNoAge = 1e-3f;  // frames; less is none: mixing would halve it for ever, into slow denormal numbers
constexpr float kGrowth = 2;     // most that one frame's deviations count, as a multiple of the variance so far
constexpr float kSpread = 0.5f;  // share of the spread of means that enters a mix's variance

// e^-x for x >= 0 by the first terms of its series and four squarings. The C library's differs in the last bit between
// CPUs; this doesn't, and is within 1e-6.
float exp_minus(float x) {
    const float y = std::min(x, 80.0f) / 16;
    float e = 1 / (1 + y * (1 + y / 2 * (1 + y / 3 * (1 + y / 4 * (1 + y / 5 * (1 + y / 6 * (1 + y / 7)))))));
    for (int i = 0; i < 4; ++i) e *= e;
    return e;
}

struct Corners {  // the four cells around a place, and their shares
    std::size_t index[4];
    float weight[4];
};

float mix(const std::vector<float>& v, const Corners& c) {
    return c.weight[0] * v[c.index[0]] + c.weight[1] * v[c.index[1]] + c.weight[2] * v[c.index[2]] +
           c.weight[3] * v[c.index[3]];
}

}  // namespace

Model::Model(int width, int height, const Params& params)
    : params_(params), columns_(cells(width)), rows_(cells(height)), low_(columns_ * kCell), high_(columns_ * kCell) {
    const std::size_t count = std::size_t(columns_) * rows_;
    for (auto* modes : {&modes_, &warped_})
        for (Mode& mode : *modes)
            for (auto* plane : {&mode.mean, &mode.variance, &mode.age}) plane->resize(count);
    contrast_.resize(count);
    cells_.resize(count);
}

void Model::reset() {
    for (Mode& mode : modes_) std::fill(mode.age.begin(), mode.age.end(), 0.0f);
}

// Each cell takes the bilinear mix of the four cells around the place where its centre was. The mix's variance holds
// half of the spread of the four means too: that makes edges tolerant. (All of it, as in the paper, adds up under a
// steady pan until textured cells are blind: measured, F 0.64 against 0.65 and worse boxes.) A cell that comes from
// outside, if only in part, starts anew.
void Model::warp(const Homography& h) {
    const float decay_variance = float(params_.decay_variance), decay_rate = float(params_.decay_rate);
    const float max_age = float(params_.max_age), min_variance = float(params_.min_variance);
    for (int row = 0; row < rows_; ++row)
        for (int column = 0; column < columns_; ++column) {
            const std::size_t i = std::size_t(row) * columns_ + column;
            constexpr double kCentre = (kCell - 1) / 2.0;  // of a cell, counted from its first pixel's centre
            const Point p = project(h, {column * kCell + kCentre, row * kCell + kCentre});
            const float u = float((p.x - kCentre) / kCell), v = float((p.y - kCentre) / kCell);  // whole at centres
            if (!(u >= 0 && v >= 0 && u <= float(columns_ - 1) && v <= float(rows_ - 1))) {
                warped_[0].age[i] = warped_[1].age[i] = 0;
                continue;
            }
            const float fu = std::floor(u), fv = std::floor(v), tu = u - fu, tv = v - fv;
            const int left = int(fu), right = std::min(left + 1, columns_ - 1);
            const std::size_t top = std::size_t(fv) * columns_;
            const std::size_t bottom = std::size_t(std::min(int(fv) + 1, rows_ - 1)) * columns_;
            const Corners c{{top + left, top + right, bottom + left, bottom + right},
                            {(1 - tu) * (1 - tv), tu * (1 - tv), (1 - tu) * tv, tu * tv}};
            for (int m = 0; m < 2; ++m) {
                const float mean = mix(modes_[m].mean, c);
                float variance = mix(modes_[m].variance, c), age = mix(modes_[m].age, c);
                for (int k = 0; k < 4; ++k) {
                    const float d = mean - modes_[m].mean[c.index[k]];
                    variance += kSpread * c.weight[k] * d * d;
                }
                if (variance > decay_variance) age *= exp_minus(decay_rate * (variance - decay_variance));
                warped_[m].mean[i] = mean;
                warped_[m].variance[i] = std::max(variance, min_variance);
                warped_[m].age[i] = age < kNoAge ? 0 : std::min(age, max_age);
            }
        }
    std::swap(modes_, warped_);
}

void Model::measure(const Plane& frame) {
    for (int row = 0; row < rows_; ++row)
        for (int column = 0; column < columns_; ++column)
            cells_[std::size_t(row) * columns_ + column] = measure(frame, column, row);
}

// Fits change = l . (1, level, column, row) to how the settled cells differ from the background. Robust, so that moving
// objects have no say: cells far off the fit count less and less (Geman-McClure). Half of the cells are enough.
Model::Light Model::fit_light() const {
    Light light{};
    for (const double spread : {32.0, 16.0, 8.0}) {  // grey levels
        double normal[4][5] = {};
        for (int row = 0; row < rows_; ++row)
            for (int column = row % 2; column < columns_; column += 2) {
                const std::size_t i = std::size_t(row) * columns_ + column;
                if (!(modes_[0].age[i] > 1)) continue;
                const double level = double(modes_[0].mean[i]), change = double(cells_[i].mean) - level;
                const double x[5] = {1, level / 128 - 1, 2.0 * column / columns_ - 1, 2.0 * row / rows_ - 1, change};
                const double error = (change - light.at(level, x[2], x[3])) / spread;
                const double w = 1 / (1 + error * error);
                for (int j = 0; j < 4; ++j)
                    for (int k = 0; k < 5; ++k) normal[j][k] += w * w * x[j] * x[k];
            }
        const double ridge = 1e-3 * normal[0][0];  // a frame of one level tells nothing about the gain: then it is 0
        for (int j = 0; j < 4; ++j) normal[j][j] += ridge;
        if (!solve<4>(normal, light.l.data())) return {};
    }
    return light;
}

// Follows the lighting: exposure (an offset and a gain) and, as the camera pans, a lens's darker corners (a slope).
void Model::compensate() {
    const Light light = fit_light();
    for (int row = 0; row < rows_; ++row)
        for (int column = 0; column < columns_; ++column)
            for (Mode& mode : modes_) {
                float& mean = mode.mean[std::size_t(row) * columns_ + column];
                const double change = light.at(double(mean), 2.0 * column / columns_ - 1, 2.0 * row / rows_ - 1);
                mean = std::clamp(mean + float(change), 0.0f, 255.0f);
            }
}

Model::Cell Model::measure(const Plane& frame, int column, int row) const {
    const int left = column * kCell, right = std::min(left + kCell, frame.width);
    const int top = row * kCell, bottom = std::min(top + kCell, frame.height);
    int sum = 0, low = 255, high = 0;
    for (int y = top; y < bottom; ++y) {
        const std::uint8_t* p = frame.row(y);
        for (int x = left; x < right; ++x) {
            sum += p[x];
            low = std::min<int>(low, p[x]), high = std::max<int>(high, p[x]);
        }
    }
    return {float(sum) / float((right - left) * (bottom - top)), std::uint8_t(low), std::uint8_t(high)};
}

// One mode learns the cell. The variance is that of the worst pixel, not the mean: one Gaussian stands for all of the
// cell's pixels, and an edge through it must not be foreground for ever. It may only grow step by step: or else an
// object's front, when it has just reached the cell, would blind the cell to the object.
void Model::blend(int m, std::size_t i, const Cell& cell) {
    float &mean = modes_[m].mean[i], &variance = modes_[m].variance[i], &age = modes_[m].age[i];
    const float keep = age / (age + 1);
    mean = age < 1 ? cell.mean : keep * mean + (1 - keep) * cell.mean;
    const float up = float(cell.high) - mean, down = mean - float(cell.low);
    const float worst = std::max(up * up, down * down);
    if (age == 0) variance = std::max(worst, float(params_.initial_variance));
    else variance = keep * variance + (1 - keep) * std::min(worst, kGrowth * variance);
    variance = std::max(variance, float(params_.min_variance));
    age = std::min(age + 1, float(params_.max_age));
}

// Swap, match and learn one cell. Returns how far a pixel may be from the apparent mean, in grey levels; 255 where the
// background is too young to tell. As in the authors' program the test is by the new mean but the old variance.
float Model::learn(std::size_t i, const Cell& cell) {
    const float fresh = float(params_.initial_variance);
    Mode &apparent = modes_[0], &candidate = modes_[1];
    if (apparent.age[i] == 0 && candidate.age[i] == 0) {
        blend(0, i, cell);
        candidate.mean[i] = cell.mean, candidate.variance[i] = fresh;
        return 255;
    }
    if (candidate.age[i] > apparent.age[i]) {
        std::swap(apparent.mean[i], candidate.mean[i]);
        std::swap(apparent.variance[i], candidate.variance[i]);
        std::swap(apparent.age[i], candidate.age[i]);
    }
    const float old_age = apparent.age[i], old_variance = apparent.variance[i];
    const auto matches = [&](int m) {
        const float d = cell.mean - modes_[m].mean[i];
        return d * d < float(params_.match) * modes_[m].variance[i];
    };
    if (matches(0)) {
        blend(0, i, cell);
    } else {
        if (!matches(1)) candidate.age[i] = 0;
        blend(1, i, cell);
    }
    return old_age > 1 ? std::sqrt(float(params_.threshold) * old_variance) : 255;
}

void Model::update(const Plane& frame, Plane& mask) {
    measure(frame);
    compensate();
    for (int row = 0; row < rows_; ++row) {
        for (int column = 0; column < columns_; ++column) {
            const std::size_t i = std::size_t(row) * columns_ + column;
            const Cell& cell = cells_[i];
            const float tolerance = learn(i, cell), mean = modes_[0].mean[i];
            contrast_[i] = std::uint8_t(std::abs(cell.mean - mean));
            const int low = std::max(0, int(std::ceil(mean - tolerance)));
            const int high = std::min(255, int(mean + tolerance));
            std::fill_n(low_.begin() + column * kCell, kCell, std::uint8_t(low));
            std::fill_n(high_.begin() + column * kCell, kCell, std::uint8_t(high));
        }
        for (int y = row * kCell; y < std::min((row + 1) * kCell, frame.height); ++y) {
            const std::uint8_t* p = frame.row(y);
            std::uint8_t* out = mask.row(y);
            for (int x = 0; x < frame.width; ++x) out[x] = p[x] < low_[x] || p[x] > high_[x] ? 255 : 0;
        }
    }
}

std::size_t Model::bytes() const {
    return modes_[0].mean.size() * 12 * sizeof(float) + cells_.size() * sizeof(Cell) + contrast_.size() + low_.size() +
           high_.size();
}

}  // namespace fastmcd
