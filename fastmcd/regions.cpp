#include "regions.hpp"

#include <algorithm>
#include <cmath>
#include <tuple>
#include <utility>

#include "model.hpp"

namespace fastmcd {
namespace {

constexpr int kMinCount = 5;       // of a cell's 16 pixels: a one-pixel line, as edges leave it, has 4
constexpr int kMinDensity = 32;    // of the 144 pixels of 3x3 cells
constexpr int kOpening = 1;       // radius, cells
constexpr double kOverlap = 0.25;  // share of the smaller of two boxes that makes them one object, or the same one

int radius_in_cells(int width, int height, double closing) {
    const double diagonal = std::sqrt(double(width) * width + double(height) * height);
    return int(closing * diagonal / 2 / kCell + 0.5);
}

}  // namespace

WindowSums::WindowSums(int columns, int rows)
    : columns_(columns), rows_(rows), sums_(std::size_t(columns) * rows), rows_sum_(columns) {}

void WindowSums::operator()(const std::vector<std::uint8_t>& grid, int radius) {
    std::fill(rows_sum_.begin(), rows_sum_.end(), 0);
    const auto add = [&](int row, int sign) {
        if (row < 0 || row >= rows_) return;
        const std::uint8_t* p = grid.data() + std::size_t(row) * columns_;
        for (int x = 0; x < columns_; ++x) rows_sum_[x] += sign * p[x];
    };
    for (int row = 0; row < radius; ++row) add(row, 1);
    for (int row = 0; row < rows_; ++row) {
        add(row + radius, 1);
        add(row - radius - 1, -1);
        std::int32_t* out = sums_.data() + std::size_t(row) * columns_;
        std::int32_t sum = 0;
        for (int x = 0; x < std::min(radius, columns_); ++x) sum += rows_sum_[x];
        for (int x = 0; x < columns_; ++x) {
            if (x + radius < columns_) sum += rows_sum_[x + radius];
            if (x - radius - 1 >= 0) sum -= rows_sum_[x - radius - 1];
            out[x] = sum;
        }
    }
}

Regions::Regions(int width, int height, const Params& params)
    : params_(params), width_(width), height_(height), columns_(cells(width)), rows_(cells(height)),
      closing_(radius_in_cells(width, height, params.closing)), sums_(columns_, rows_) {
    const std::size_t count = std::size_t(columns_) * rows_;
    counts_.resize(count);
    on_.resize(count);
    labels_.resize(count);
    parents_.resize(count / 2 + 2);
    all_.resize(count / 2 + 2);
    regions_.reserve(4 * params.max_objects);
    tracks_.reserve(4 * params.max_objects);
    objects_.reserve(4 * params.max_objects);
}

void Regions::grow(int radius) {
    sums_(on_, radius);
    for (std::size_t i = 0; i < on_.size(); ++i) on_[i] = sums_[i] > 0;
}

// Growing what is off; beyond the frame's edge counts as on.
void Regions::shrink(int radius) {
    for (auto& on : on_) on ^= 1;
    grow(radius);
    for (auto& on : on_) on ^= 1;
}

// A cell is on if enough of it and of its surroundings moved. Then gaps up to two closing radii are bridged (grow and
// shrink back) and bridges of one or two cells are broken (shrink and grow back).
void Regions::find_cells(const Plane& mask) {
    std::fill(counts_.begin(), counts_.end(), 0);
    for (int y = 0; y < height_; ++y) {
        const std::uint8_t* p = mask.row(y);
        std::uint8_t* count = counts_.data() + std::size_t(y / kCell) * columns_;
        for (int x = 0; x < width_; ++x) count[x / kCell] += p[x] & 1;
    }
    sums_(counts_, 1);
    for (std::size_t i = 0; i < on_.size(); ++i) on_[i] = counts_[i] >= kMinCount && sums_[i] >= kMinDensity;
    grow(closing_);
    shrink(closing_ + kOpening);
    grow(kOpening);
}

int Regions::root(int label) {
    while (parents_[label] != label) label = parents_[label] = parents_[parents_[label]];
    return label;
}

// Connected components (8 neighbours) of the cells that are on; labels count from 1 and are not yet resolved.
int Regions::label_cells() {
    int last = 0;
    for (int row = 0; row < rows_; ++row)
        for (int column = 0; column < columns_; ++column) {
            const std::size_t i = std::size_t(row) * columns_ + column;
            labels_[i] = 0;
            if (!on_[i]) continue;
            int label = 0;
            const auto join = [&](std::size_t neighbour) {
                if (!labels_[neighbour]) return;
                const int other = root(labels_[neighbour]);
                if (label) parents_[std::max(label, other)] = std::min(label, other);
                label = label ? std::min(label, other) : other;
            };
            if (column > 0) join(i - 1);
            if (row > 0) {
                join(i - columns_);
                if (column > 0) join(i - columns_ - 1);
                if (column + 1 < columns_) join(i - columns_ + 1);
            }
            if (!label) {
                label = ++last;
                parents_[label] = label;
            }
            labels_[i] = label;
        }
    return last;
}

void Regions::collect(const Plane& mask, const std::vector<std::uint8_t>& contrast, int labels) {
    for (int label = 1; label <= labels; ++label) all_[label] = {width_, height_, 0, 0, 0, 0, 1};
    for (int y = 0; y < height_; ++y)
        for (int column = 0; column < columns_; ++column) {
            const std::size_t i = std::size_t(y / kCell) * columns_ + column;
            if (!labels_[i]) continue;
            Region& region = all_[labels_[i] = root(labels_[i])];
            const std::uint8_t* p = mask.row(y);
            for (int x = column * kCell; x < std::min((column + 1) * kCell, width_); ++x) {
                if (!p[x]) continue;
                region.left = std::min(region.left, x), region.right = std::max(region.right, x + 1);
                region.top = std::min(region.top, y), region.bottom = std::max(region.bottom, y + 1);
                region.pixels += 1, region.contrast += contrast[i];
            }
        }
    const auto too_small = [&](const Region& region) {
        return region.pixels == 0 || double(region.pixels) < params_.min_area * width_ * height_;
    };
    for (std::size_t i = 0; i < on_.size(); ++i) on_[i] = labels_[i] && !too_small(all_[labels_[i]]);
    // the largest come first and are kept, as many as there is room for
    const auto end = std::remove_if(all_.begin() + 1, all_.begin() + 1 + labels, too_small);
    std::sort(all_.begin() + 1, end, [](const Region& a, const Region& b) {
        const auto key = [](const Region& r) { return std::tuple(-r.pixels, r.top, r.left, r.bottom, r.right); };
        return key(a) < key(b);
    });
    regions_.assign(all_.begin() + 1, std::min(end, all_.begin() + 1 + std::ptrdiff_t(regions_.capacity())));
}

// Boxes that overlap are fragments of one object.
void Regions::merge() {
    const auto area = [](const Region& r) { return double(r.right - r.left) * (r.bottom - r.top); };
    for (std::size_t i = 0; i < regions_.size(); ++i)
        for (std::size_t j = i + 1; j < regions_.size(); ++j) {
            Region &a = regions_[i], &b = regions_[j];
            const int width = std::min(a.right, b.right) - std::max(a.left, b.left);
            const int height = std::min(a.bottom, b.bottom) - std::max(a.top, b.top);
            if (width <= 0 || height <= 0 || double(width) * height < kOverlap * std::min(area(a), area(b))) continue;
            a = {std::min(a.left, b.left), std::min(a.top, b.top), std::max(a.right, b.right),
                 std::max(a.bottom, b.bottom), a.pixels + b.pixels, a.contrast + b.contrast, 1};
            regions_.erase(regions_.begin() + std::ptrdiff_t(j));
            j = i;  // a has grown: look at all after it again
        }
}

// An object's age goes on from the previous frame's object that it overlaps most, seen from this frame.
void Regions::follow(const Homography& h) {
    for (Region& region : regions_) {
        const Point a = project(h, {double(region.left), double(region.top)});
        const Point b = project(h, {double(region.right), double(region.bottom)});
        double best = 0;
        for (const Region& track : tracks_) {
            const double width = std::min<double>(b.x, track.right) - std::max<double>(a.x, track.left);
            const double height = std::min<double>(b.y, track.bottom) - std::max<double>(a.y, track.top);
            const double smaller = std::min((b.x - a.x) * (b.y - a.y),
                                            double(track.right - track.left) * (track.bottom - track.top));
            if (width <= 0 || height <= 0 || width * height < kOverlap * smaller || width * height <= best) continue;
            best = width * height;
            region.age = std::min(track.age + 1, 1000);
        }
    }
    tracks_.assign(regions_.begin(), regions_.end());
}

Object Regions::describe(const Region& region) const {
    const int width = region.right - region.left, height = region.bottom - region.top;
    const double solid = std::min(1.0, double(region.pixels) / (double(width) * height));
    const double contrast = double(region.contrast) / double(region.pixels);
    const double distinct = contrast / (contrast + 16), lasting = double(region.age) / (region.age + 1);
    const int longer = std::max(width, height), margin = int(params_.crop_context * longer + 0.5);
    // towards a square: the shorter side grows to the longer one's length, as far as the frame allows
    const int side = std::max(longer + 2 * margin, params_.min_crop);
    const auto span = [side](int low, int high, int limit) {
        const int length = std::min(side, limit), start = (low + high - length) / 2;
        return std::pair(std::clamp(start, 0, limit - length), length);
    };
    const auto [x, crop_width] = span(region.left, region.right, width_);
    const auto [y, crop_height] = span(region.top, region.bottom, height_);
    const Box box{region.left, region.top, width, height}, crop{x, y, crop_width, crop_height};
    return {box, crop, float(solid * distinct * lasting)};
}

// Within the regions the mask is kept, with holes filled where all cells around are on; elsewhere it is cleared.
void Regions::clean(Plane& mask) const {
    for (int y = 0; y < height_; ++y) {
        const int row = y / kCell;
        std::uint8_t* p = mask.row(y);
        for (int column = 0; column < columns_; ++column) {
            const std::size_t i = std::size_t(row) * columns_ + column;
            const int left = column * kCell, right = std::min(left + kCell, width_);
            if (!on_[i]) {
                std::fill(p + left, p + right, std::uint8_t(0));
            } else if ((row == 0 || on_[i - columns_]) && (row + 1 == rows_ || on_[i + columns_]) &&
                       (column == 0 || on_[i - 1]) && (column + 1 == columns_ || on_[i + 1])) {
                std::fill(p + left, p + right, std::uint8_t(255));
            }
        }
    }
}

std::span<const Object> Regions::operator()(Plane& mask, const std::vector<std::uint8_t>& contrast,
                                            const Homography& h) {
    find_cells(mask);
    collect(mask, contrast, label_cells());
    merge();
    follow(h);
    clean(mask);
    objects_.clear();
    for (const Region& region : regions_)
        if (region.age >= params_.persistence) objects_.push_back(describe(region));
    std::sort(objects_.begin(), objects_.end(), [](const Object& a, const Object& b) {
        const auto key = [](const Object& o) {
            return std::tuple(-o.score, -o.box.width * o.box.height, o.box.y, o.box.x, o.box.width);
        };
        return key(a) < key(b);
    });
    return {objects_.data(), std::min(objects_.size(), std::size_t(params_.max_objects))};
}

std::size_t Regions::bytes() const {
    return counts_.size() + on_.size() + sums_.bytes() + (labels_.size() + parents_.size()) * sizeof(std::int32_t) +
           (all_.size() + regions_.capacity() + tracks_.capacity()) * sizeof(Region) +
           objects_.capacity() * sizeof(Object);
}

}  // namespace fastmcd
