#include "plan.hpp"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <utility>

namespace xnor {
namespace {

// Whether a pool can take a pass's pixels as they come: sums that are at most scaled, window by window.
bool pool_joins(const Pass& pass, const Step& step) {
    if (!step.window || step.bits || pass.window || pass.binary || pass.past >= 0 || !pass.slope.empty() || pass.bits)
        return false;
    const auto [size, stride, padding] = *step.window;
    const bool once = stride >= size || (step.out.height == 1 && step.out.width == 1);  // no pixel is in two windows
    return once && (!pass.real || (!step.average && size == 2 && stride == 2 && padding == 0));
}

void take_pool(Pass& pass, const Step& step, int map) {
    pass.before = std::exchange(pass.scaling, {}), pass.pools = pass.real != nullptr;
    pass.window = step.window, pass.average = step.average, pass.out = step.out, pass.floats = map;
}

void take(Pass& pass, const Step& step, int map, bool keep_floats) {
    if (!step.scaling.scale.empty()) pass.scaling = step.scaling;
    if (!step.slope.empty()) pass.slope = step.slope;
    if (step.past >= 0) pass.past = step.past, pass.size = step.size;
    if (step.bits) {
        pass.bits = true, pass.turn = step.turn, pass.threshold = step.threshold, pass.packed = map;
        if (!keep_floats) pass.floats = -1;
    } else {
        pass.floats = map;
    }
}

std::vector<Pass> joined(const std::vector<Step>& steps) {
    std::vector<bool> shortcut(steps.size() + 1, false);  // starts at this map, which has to be left
    for (const Step& step : steps)
        if (step.past >= 0) shortcut[step.past] = true;
    std::vector<Pass> passes;
    for (int i = 0; i < int(steps.size()); ++i) {
        const Step& step = steps[i];
        const int from = i, to = i + 1;  // maps
        if (i > 0 && !shortcut[from] && pool_joins(passes.back(), step))
            take_pool(passes.back(), step, to);
        else if (i > 0 && (!shortcut[from] || step.bits) && step.alone() && passes.back().last() < step.first())
            take(passes.back(), step, to, shortcut[from]);
        else
            passes.push_back({step, i, from, step.bits ? -1 : to, step.bits ? to : -1});
    }
    return passes;
}

}  // namespace

// ---- Maps ----------------------------------------------------------------------------------------------------------
Plane<float> Map::floats() {
    const int row = (shape.width + 2 * margin) * shape.channels;
    return {memory.data() + std::ptrdiff_t(margin) * row + margin * shape.channels, shape.channels, row};
}

Plane<std::uint8_t> Map::plane(int word_bytes) {
    const int pixel = up(shape.channels, 32) / 32 * word_bytes;
    return {packed.data(), pixel, shape.width * pixel};
}

void Map::allocate(int word_bytes) {
    const std::size_t pixels = std::size_t(shape.height + 2 * margin) * (shape.width + 2 * margin);
    if (bits) packed.assign(pixels * plane(word_bytes).pixel, 0);
    else memory.assign(pixels * shape.channels + kTail, 0.0f);
}

// ---- Loops ---------------------------------------------------------------------------------------------------------
Plan::Plan(const Kernels& kernels, fastmcd::Workers& workers, const Shape& images, const std::vector<Step>& steps)
    : k_(kernels), workers_(workers), passes_(joined(steps)) {
    maps_.push_back({images, false});
    for (const Step& step : steps) maps_.push_back({step.out, step.bits});
    int channels = 0, counts = 0, sums = 0;
    for (const Map& map : maps_) channels = std::max(channels, map.shape.channels);
    for (const Pass& pass : passes_) {
        if (pass.real) maps_[pass.from].margin = pass.real->conv.padding, sums = std::max(sums, pass.real->sums());
        if (pass.binary) counts = std::max(counts, pass.binary->counts());
    }
    sums = std::max(sums, channels + kTail);
    zeros_.assign(channels + kTail, 0.0f), ones_.assign(channels + kTail, 1.0f);
    memory_.assign(workers.count(),
                   {Aligned<std::uint16_t>(counts), Aligned<float>(sums), Aligned<float>(channels + kTail)});
    maps_.front().allocate(k_.word_bytes);
    for (const Pass& pass : passes_) {
        for (const int map : {pass.floats, pass.packed})
            if (map >= 0) maps_[map].allocate(k_.word_bytes);
        loops_.push_back(loop(pass));
    }
}

Finish Plan::finish(const Pass& pass) {
    const auto array = [](const Aligned<float>& values) { return values.empty() ? nullptr : values.data(); };
    Finish f{pass.out.channels, pass.scaling.affine(), array(pass.slope)};
    if (f.slope && !f.affine.scale) f.affine = {ones_.data(), zeros_.data()};
    if (pass.past >= 0)
        f.past = maps_[pass.past].read(), f.past_channels = maps_[pass.past].shape.channels, f.size = pass.size;
    if (pass.floats >= 0) f.floats = maps_[pass.floats].floats();
    if (pass.packed >= 0) f.bits = maps_[pass.packed].plane(k_.word_bytes);
    f.turn = array(pass.turn), f.threshold = array(pass.threshold);
    return f;
}

Plan::Loop Plan::loop(const Pass& pass) {
    const Finish f = finish(pass);
    Map& in = maps_[pass.from];
    const auto with = [&](auto kernel, const auto& job, int total) {
        return Loop{total,
                    [=, this](int thread, int first, int last) {
                        Memory& own = memory_[thread];
                        kernel(job, f, first, last, {own.counts.data(), own.sums.data(), own.past.data()});
                    },
                    pass.step};
    };
    if (pass.binary) {
        BinaryJob job = pass.binary->job();
        job.input = in.packed.data();
        return with(k_.binary, job, pass.binary->groups());
    }
    if (pass.real) {
        RealJob job = pass.real->job();
        job.input = in.read(), job.before = pass.before.affine();
        if (pass.pools) job.pool = 2, job.width = pass.out.width, job.total = pass.out.height * pass.out.width;
        return with(k_.real, job, pass.pools ? job.total : (job.total + kPixels - 1) / kPixels);
    }
    if (in.bits) return pool_bits(pass);
    const Pool window = pass.window.value_or(Pool{1, 1, 0});
    const auto kind = !pass.window ? PoolJob::kSame : pass.average ? PoolJob::kAverage : PoolJob::kMaximum;
    const PoolJob job{kind,           window.size,    window.stride, window.padding,      in.shape.height,
                      in.shape.width, pass.out.width, in.read(),     pass.before.affine()};
    return with(k_.pool, job, pass.out.height * pass.out.width);
}

Plan::Loop Plan::pool_bits(const Pass& pass) {
    Map& input = maps_[pass.from];
    const Plane<std::uint8_t> from = input.plane(k_.word_bytes), to = maps_[pass.packed].plane(k_.word_bytes);
    const Shape in = input.shape;
    const auto work = [=, pool = *pass.window, width = pass.out.width, &any = pass.any](int, int first, int last) {
        for (int pixel = first; pixel < last; ++pixel) {
            const int y = pixel / width, x = pixel % width, top = y * pool.stride - pool.padding,
                      left = x * pool.stride - pool.padding;
            const int y0 = std::max(0, top), y1 = std::min(in.height, top + pool.size);
            const int x0 = std::max(0, left), x1 = std::min(in.width, left + pool.size);
            for (std::size_t i = 0; i < any.size(); ++i) {  // any of them is 1 = not all of their inverses are 1
                std::uint32_t all = ~std::uint32_t(0), word;
                for (int iy = y0; iy < y1; ++iy)
                    for (int ix = x0; ix < x1; ++ix) {
                        std::memcpy(&word, from.at(iy, ix) + 4 * i, 4);
                        all &= word ^ any[i];
                    }
                all ^= any[i];
                std::memcpy(to.at(y, x) + 4 * i, &all, 4);
            }
        }
    };
    return {pass.out.height * pass.out.width, work, pass.step};
}

void Plan::run(std::vector<double>* seconds) {
    using Clock = std::chrono::steady_clock;
    for (const Loop& loop : loops_) {
        const auto start = seconds ? Clock::now() : Clock::time_point();
        workers_(loop.total, loop.work);
        if (seconds) (*seconds)[loop.step] += std::chrono::duration<double>(Clock::now() - start).count();
    }
}

std::size_t Plan::bytes() const {
    std::size_t total = 0;
    for (const Map& map : maps_) total += map.memory.size() * sizeof(float) + map.packed.size();
    return total;
}

}  // namespace xnor
