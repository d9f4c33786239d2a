// From the raw mask to objects: clean-up on the grid of cells, connected components, merging, scores, crops.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "bits.hpp"
#include "fastmcd.hpp"
#include "homography.hpp"
#include "image.hpp"
#include "model.hpp"
#include "motion.hpp"

namespace fastmcd {

class Regions {
public:
    Regions(int width, int height, const Params& params);

    void reset() { tracks_.clear(), objects_.clear(); }

    // Cleans mask in place; marks are those of its cells, h takes current to previous coordinates, steady: the camera has
    // stood still for a while, points were tracked in the frame. Best object first.
    std::span<const Object> operator()(Plane& mask, const Grid<std::int32_t>& marks, const Homography& h, bool steady,
                                       std::span<const PointMotion> points);

    std::span<const Object> last() const { return objects_; }

    std::size_t bytes() const;

private:
    struct Region {
        int left, top, right, bottom;  // right and bottom are one past the end
        int pixels;                    // that move
        int age;                       // frames seen
        std::int64_t contrast;         // of the cells of these pixels, summed over them
        int whole = 0;                 // of a part: the region that it belongs to
        int largest = 1, equals = 0;   // pixels of its largest part; parts that are of about that size
        bool moved = false;            // an object of frames before, which may stop now
        bool split() const { return equals >= 2; }
    };

    struct Run {  // of cells that are on, in a row
        int row, first, end, label;
    };

    void find_cells(const Grid<std::int32_t>& marks);
    int label_runs(const Bits& bits, std::vector<Run>& runs);
    int collect(const Bits& bits, std::vector<Run>& runs, const Grid<std::int32_t>& marks, std::vector<Region>& regions);
    int split(int labels, const Grid<std::int32_t>& marks);
    void keep(int labels);
    void add(Region& region, const Run& run, const Grid<std::int32_t>& marks) const;
    void merge();
    void follow(const Homography& h);
    void forget_unreported();
    void clean(Plane& mask);
    void fill(Plane& mask, int row, int first, int end, std::uint8_t value) const;
    static bool rests(const Region& region, const Plane& mask, std::span<const PointMotion> points);
    Evidence evidence(const Region& region) const;
    Object describe(const Region& region) const;
    int root(int label);

    const Kernels& kernels_ = kernels();
    Params params_;
    int width_, height_, columns_, rows_, closing_;
    std::size_t most_regions_;  // looked at in a frame, the largest
    Bits on_, cores_, inner_;
    std::vector<Run> runs_, core_runs_;
    std::vector<int> parents_;
    std::vector<Region> all_, parts_, regions_, tracks_;
    std::vector<Object> objects_;
};

}  // namespace fastmcd
