#include "regions.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <tuple>
#include <utility>

#include "model.hpp"

namespace fastmcd {
namespace {

constexpr int kMinDensity = 32;    // of the 144 pixels of 3x3 cells
constexpr int kOpening = 1;       // radius, cells
constexpr int kSpare = 4;          // regions per object that may be reported: some merge, some are not sure
constexpr double kEqual = 0.35;    // of several parts in one region, those of this share of the largest are objects too
constexpr int kFewestPoints = 2;   // that tell whether a region rests
constexpr double kOverlap = 0.25;  // share of the smaller of two boxes that makes them one object, or the same one

// Logistic regression on sequences with truth, real and rendered: printed by benchmarks/score.py.
float score(const Evidence& e) {
    const double z = -13.20 + 9.76 * double(e.size) + 4.80 * double(e.solid) + 4.93 * double(e.distinct) + 0.88 * double(e.lasting);
    // 1 / (1 + e^-z): the C library's exp differs in the last bit between CPUs
    double power = 1 - z / 65536;
    for (int i = 0; i < 16; ++i) power *= power;
    return float(1 / (1 + power));
}

int radius_in_cells(int width, int height, double closing) {
    const double diagonal = std::sqrt(double(width) * width + double(height) * height);
    return int(closing * diagonal / 2 / kCell + 0.5);
}

}  // namespace

Regions::Regions(int width, int height, const Params& params)
    : params_(params), width_(width), height_(height), columns_(cells(width)), rows_(cells(height)),
      closing_(radius_in_cells(width, height, params.closing)),
      most_regions_(std::size_t(kSpare * params.max_objects)), on_(columns_, rows_), cores_(on_), inner_(on_) {
    const std::size_t runs = std::size_t(columns_ / 2 + 1) * rows_;  // at most
    for (auto* v : {&runs_, &core_runs_}) v->reserve(runs);
    parents_.resize(runs + 1);
    for (auto* v : {&all_, &parts_}) v->resize(2 * runs + 1);
    for (auto* v : {&regions_, &tracks_}) v->reserve(most_regions_);
    objects_.reserve(most_regions_);
}

// A cell is on if enough of it and of its surroundings moved. Then gaps up to two closing radii are bridged by a
// closing, and bridges of one or two cells broken by an opening; the two erosions in between are one.
void Regions::find_cells(const Grid<std::int32_t>& marks) {
    for (int y = 0; y < rows_; ++y)
        kernels_.model.seeds(marks.row(y - 1), marks.row(y), marks.row(y + 1), columns_, kUnlike, kMinDensity, on_.row(y));
    cores_ = on_;
    on_.dilate(closing_);
    on_.erode(closing_ + kOpening);
    on_.dilate(kOpening);
}

int Regions::root(int label) {
    while (parents_[label] != label) label = parents_[label] = parents_[parents_[label]];
    return label;
}

// Connected components (8 neighbours) of the cells that are on; labels count from 1 and are not yet resolved.
int Regions::label_runs(const Bits& bits, std::vector<Run>& runs) {
    int last = 0;
    runs.clear();
    for (int row = 0; row < rows_; ++row) {
        std::size_t above = runs.size();
        while (above > 0 && runs[above - 1].row == row - 1) --above;
        const std::size_t here = runs.size();
        for (int x = bits.next(row, 0, true); x < columns_;) {
            Run run{row, x, bits.next(row, x, false), 0};
            while (above < here && runs[above].end < run.first) ++above;
            for (std::size_t i = above; i < here && runs[i].first <= run.end; ++i) {
                const int other = root(runs[i].label);
                if (run.label) parents_[std::max(run.label, other)] = std::min(run.label, other);
                run.label = run.label ? std::min(run.label, other) : other;
            }
            if (!run.label) {
                run.label = ++last;
                parents_[last] = last;
            }
            runs.push_back(run);
            x = bits.next(row, run.end, true);
        }
    }
    return last;
}

void Regions::add(Region& region, const Run& run, const Grid<std::int32_t>& marks) const {
    for (int column = run.first; column < run.end; ++column) {
        const std::int32_t mark = marks.row(run.row)[column];
        if (!moved(mark)) continue;
        const auto span = [](unsigned four) { return std::pair(std::countr_zero(four), 32 - std::countl_zero(four)); };
        const auto [left, right] = span(unsigned(moved_columns(mark)));
        const auto [top, bottom] = span(unsigned(moved_rows(mark)));
        region.left = std::min(region.left, column * kCell + left);
        region.right = std::max(region.right, std::min(column * kCell + right, width_));
        region.top = std::min(region.top, run.row * kCell + top);
        region.bottom = std::max(region.bottom, std::min(run.row * kCell + bottom, height_));
        region.pixels += moved(mark), region.contrast += moved(mark) * contrast(mark);
    }
}

int Regions::collect(const Bits& bits, std::vector<Run>& runs, const Grid<std::int32_t>& marks,
                     std::vector<Region>& regions) {
    const int labels = label_runs(bits, runs);
    for (int label = 1; label <= labels; ++label) regions[label] = {width_, height_, 0, 0, 0, 1, 0};
    for (Run& run : runs) add(regions[run.label = root(run.label)], run, marks);
    return labels;
}

// Objects side by side that only the closing has joined come apart again, if they are of similar size. (Under a moving
// camera the mask is too ragged for that: measured, box recall 0.82 to 0.10 on a swan.)
int Regions::split(int labels, const Grid<std::int32_t>& marks) {
    cores_.erode(kOpening);
    cores_.dilate(kOpening);
    const int parts = collect(cores_, core_runs_, marks, parts_);
    std::size_t whole = 0;
    for (const Run& core : core_runs_) {  // both are in the order of rows and columns
        while (runs_[whole].row < core.row || runs_[whole].end <= core.first) ++whole;
        parts_[core.label].whole = runs_[whole].label;
    }
    const auto begin = parts_.begin() + 1, end = begin + parts;
    for (auto part = begin; part != end; ++part) all_[part->whole].largest = std::max(all_[part->whole].largest, part->pixels);
    const auto equal = [&](const Region& part) { return part.pixels >= kEqual * all_[part.whole].largest; };
    for (auto part = begin; part != end; ++part) all_[part->whole].equals += equal(*part);
    int last = labels;
    for (auto part = begin; part != end; ++part)
        if (equal(*part) && all_[part->whole].split()) all_[++last] = *part;
    return last;
}

void Regions::keep(int labels) {
    const auto too_small = [&](const Region& region) {
        return region.pixels == 0 || double(region.pixels) < params_.min_area * width_ * height_;
    };
    for (const Run& run : runs_)
        if (too_small(all_[run.label])) on_.clear(run.row, run.first, run.end);
    // the largest come first and are kept
    const auto begin = all_.begin() + 1;
    const auto end = std::remove_if(begin, begin + labels, [&](const Region& r) { return r.split() || too_small(r); });
    std::sort(begin, end, [](const Region& a, const Region& b) {
        const auto key = [](const Region& r) { return std::tuple(-r.pixels, r.top, r.left, r.bottom, r.right); };
        return key(a) < key(b);
    });
    regions_.assign(begin, begin + std::min(end - begin, std::ptrdiff_t(most_regions_)));
}

// Boxes that overlap are fragments of one object. One that has grown may overlap any other, so all are looked at again, from the next
// one around: twice as many rounds as there are regions at most.
void Regions::merge() {
    const auto area = [](const Region& r) { return double(r.right - r.left) * (r.bottom - r.top); };
    const auto overlap = [&](const Region& a, const Region& b) {
        const int width = std::min(a.right, b.right) - std::max(a.left, b.left);
        const int height = std::min(a.bottom, b.bottom) - std::max(a.top, b.top);
        return width > 0 && height > 0 && double(width) * height >= kOverlap * std::min(area(a), area(b));
    };
    for (std::size_t i = 0; i < regions_.size(); ++i)
        for (std::size_t away = 1; away < regions_.size(); ++away) {
            const std::size_t j = (i + away) % regions_.size();
            Region &a = regions_[i], &b = regions_[j];
            if (!overlap(a, b)) continue;
            a = {std::min(a.left, b.left), std::min(a.top, b.top), std::max(a.right, b.right),
                 std::max(a.bottom, b.bottom), a.pixels + b.pixels, 1, a.contrast + b.contrast};
            regions_.erase(regions_.begin() + std::ptrdiff_t(j));
            if (j < i) --i;
            away = 0;
        }
}

// An object's age, and that it was one, go on from the previous frame's object that it overlaps most, seen from this frame.
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
            region.moved = track.moved;
        }
    }
}

// Whether most of the points in it go with the background: a picture that changes, such as a shadow's, a screen's or smoke's.
bool Regions::rests(const Region& region, const Plane& mask, std::span<const PointMotion> points) {
    int all = 0, resting = 0;
    for (const PointMotion& point : points) {
        const int x = int(point.at.x), y = int(point.at.y);
        if (x < region.left || x >= region.right || y < region.top || y >= region.bottom || !mask.row(y)[x]) continue;
        ++all, resting += point.kind == PointMotion::kRests;
    }
    return all >= kFewestPoints && 2 * resting > all;
}

Evidence Regions::evidence(const Region& region) const {
    const auto part = [](double value, double half) { return float(value / (value + half)); };
    const double area = double(region.right - region.left) * (region.bottom - region.top);
    return {part(std::sqrt(area / (double(width_) * height_)), 0.1), float(std::min(1.0, double(region.pixels) / area)),
            part(double(region.contrast) / double(region.pixels), 16), part(region.age, 4)};
}

Object Regions::describe(const Region& region) const {
    const int width = region.right - region.left, height = region.bottom - region.top;
    const auto with_context = [this](int side) { return std::max(side + 2 * int(params_.crop_context * side + 0.5), params_.min_crop); };
    const int wide = with_context(width), high = with_context(height);
    const int shortest = int(std::ceil(std::max(wide, high) / params_.crop_aspect));
    const auto span = [shortest](int low, int high, int side, int limit) {
        const int length = std::min(std::max(side, shortest), limit), start = (low + high - length) / 2;
        return std::pair(std::clamp(start, 0, limit - length), length);
    };
    const auto [x, crop_width] = span(region.left, region.right, wide, width_);
    const auto [y, crop_height] = span(region.top, region.bottom, high, height_);
    const Box box{region.left, region.top, width, height}, crop{x, y, crop_width, crop_height};
    const Evidence seen = evidence(region);
    return {box, crop, score(seen), seen};
}

void Regions::fill(Plane& mask, int row, int first, int end, std::uint8_t value) const {
    if (first >= end) return;
    for (int y = row * kCell; y < std::min((row + 1) * kCell, height_); ++y)
        std::fill(mask.row(y) + first * kCell, mask.row(y) + end * kCell, value);
}

// The mask is that of the objects.
void Regions::forget_unreported() {
    for (const Run& run : runs_) {
        const bool reported = std::any_of(objects_.begin(), objects_.end(), [&](const Object& object) {
            const Box& box = object.box;
            return run.first * kCell < box.x + box.width && box.x < run.end * kCell && run.row * kCell < box.y + box.height &&
                   box.y < (run.row + 1) * kCell;
        });
        if (!reported) on_.clear(run.row, run.first, run.end);
    }
}

// Within the regions the mask is kept, with holes filled where all cells around are on; elsewhere it is cleared.
void Regions::clean(Plane& mask) {
    for (int row = 0; row < rows_; ++row) {
        const std::uint64_t* on = on_.row(row);
        const std::uint64_t *above = row > 0 ? on_.row(row - 1) : on, *below = row + 1 < rows_ ? on_.row(row + 1) : on;
        std::uint64_t* inner = inner_.row(row);
        for (int i = 0; i < on_.words(); ++i) {
            const std::uint64_t left = i > 0 ? on[i - 1] >> 63 : 1;
            std::uint64_t right = i + 1 < on_.words() ? on[i + 1] << 63 : ~(on_.last() >> 1);
            inner[i] = on[i] & above[i] & below[i] & (on[i] << 1 | left) & (on[i] >> 1 | right);
        }
        int off = 0;
        for (int x = on_.next(row, 0, true); x < columns_; x = on_.next(row, off, true)) {
            fill(mask, row, off, x, 0);
            off = on_.next(row, x, false);
        }
        fill(mask, row, off, columns_, 0);
        for (int x = inner_.next(row, 0, true); x < columns_;) {
            const int end = inner_.next(row, x, false);
            fill(mask, row, x, end, 255);
            x = inner_.next(row, end, true);
        }
    }
}

std::span<const Object> Regions::operator()(Plane& mask, const Grid<std::int32_t>& marks, const Homography& h,
                                            bool steady, std::span<const PointMotion> points) {
    find_cells(marks);
    const int labels = collect(on_, runs_, marks, all_);
    keep(steady ? split(labels, marks) : labels);
    merge();
    follow(h);
    objects_.clear();
    for (Region& region : regions_) {
        const Object object = describe(region);
        const bool sure = region.age >= params_.persistence && double(object.score) >= params_.min_score;
        if (!sure || (!region.moved && rests(region, mask, points))) continue;
        region.moved = true;
        objects_.push_back(object);
    }
    tracks_.assign(regions_.begin(), regions_.end());
    std::sort(objects_.begin(), objects_.end(), [](const Object& a, const Object& b) {
        const auto key = [](const Object& o) {
            return std::tuple(-o.score, -o.box.width * o.box.height, o.box.y, o.box.x, o.box.width);
        };
        return key(a) < key(b);
    });
    if (objects_.size() > std::size_t(params_.max_objects)) objects_.erase(objects_.begin() + params_.max_objects, objects_.end());
    forget_unreported();
    clean(mask);
    return objects_;
}

std::size_t Regions::bytes() const {
    return 3 * on_.bytes() + 2 * runs_.capacity() * sizeof(Run) + parents_.size() * sizeof(int) +
           (all_.size() + parts_.size() + regions_.capacity() + tracks_.capacity()) * sizeof(Region) +
           objects_.capacity() * sizeof(Object);
}

}  // namespace fastmcd
