// How a network's steps are run: joined into passes over memory, each with its kernel; and all the memory they take.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "../../fastmcd/workers.hpp"
#include "conv.hpp"

namespace xnor {

struct Scaling {  // what an Affine points to; no entries: x as it is
    Aligned<float> scale = {}, shift = {};
    bool relu = false;

    Affine affine() const {
        return scale.empty() ? Affine{} : Affine{scale.data(), shift.data(), relu ? 0.0f : kLowest};
    }
};

// A step takes sums from a map and does some of what Finish says; empty arrays stand for what it doesn't. One that
// takes each pixel as it is can join the pass before, if that has not yet come so far.
struct Step {
    enum Part { kSums, kScale, kSlope, kPast, kSign };  // in Finish's order

    bool alone() const { return !binary && !real && !window; }  // takes each pixel as it is
    Part first() const {
        return !scaling.scale.empty() ? kScale : !slope.empty() ? kSlope : past >= 0 ? kPast : kSign;
    }
    Part last() const {
        if (bits) return kSign;
        if (past >= 0) return kPast;
        if (scaling.relu || !slope.empty()) return kSlope;
        return scaling.scale.empty() ? kSums : kScale;
    }

    Shape out;
    bool bits = false;  // what it leaves, if not floats
    std::shared_ptr<const BinaryConv> binary = nullptr;
    std::shared_ptr<const RealConv> real = nullptr;
    std::optional<Pool> window = {};
    bool average = false;
    std::vector<std::uint32_t> any = {};  // pooling of bits: all ones in channels where any 1 will do
    Scaling scaling = {};
    Aligned<float> slope = {}, turn = {}, threshold = {};
    int past = -1, size = 1;  // map, and pixels that it is averaged over
};

// Map i is what step i - 1 left; map 0 are the images. Floats have a margin of zeros for a convolution that pads.
struct Map {
    Shape shape;
    bool bits;
    int margin = 0;
    Aligned<float> memory = {};
    Aligned<std::uint8_t> packed = {};

    Plane<float> floats();
    Plane<const float> read() { return {floats().data, floats().pixel, floats().row}; }
    Plane<std::uint8_t> plane(int word_bytes);
    void allocate(int word_bytes);
};

struct Pass : Step {
    int step;                       // the first of those joined
    int from, floats, packed = -1;  // maps: of the input, and of the output as floats and as bits; -1: none
    Scaling before = {};            // of each pixel of a window, before it is pooled
    bool pools = false;             // sums are pooled (2 x 2) as they come
};

class Plan {
public:
    Plan(const Kernels&, fastmcd::Workers&, const Shape& images, const std::vector<Step>&);
    Plan(const Plan&) = delete;  // its loops point into its memory

    Plane<float> input() { return maps_.front().floats(); }  // an image
    Plane<float> output() { return maps_.back().floats(); }  // what becomes of it, if the last step leaves floats
    void run(std::vector<double>* seconds);                  // adds to them what each step took, unless null
    std::size_t bytes() const;                               // of its maps

private:
    struct Loop {
        int total;  // what the threads share
        std::function<void(int thread, int first, int last)> work;
        int step;
    };
    struct Memory {  // of one thread
        Aligned<std::uint16_t> counts;
        Aligned<float> sums, past;
    };

    Finish finish(const Pass&);
    Loop loop(const Pass&);
    Loop pool_bits(const Pass&);

    const Kernels& k_;
    fastmcd::Workers& workers_;
    std::vector<Pass> passes_;
    std::vector<Map> maps_;
    std::vector<Loop> loops_;
    Aligned<float> zeros_, ones_;
    std::vector<Memory> memory_;
};

}  // namespace xnor
