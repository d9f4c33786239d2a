// The steps of a network as they are added, and the passes over memory that they are joined into when it runs.
#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <functional>
#include <optional>
#include <utility>

#include "../../fastmcd/workers.hpp"
#include "conv.hpp"

namespace xnor {
namespace {

// A step takes sums from a map and does some of what Finish says; empty arrays stand for what it doesn't. One that
// takes each pixel as it is can join the pass before, if that has not yet come so far.
struct Step {
    enum Stage { kSums, kScale, kSlope, kPast, kSign };

    bool alone() const { return !binary && !real && !window; }
    Stage first() const { return !scale.empty() ? kScale : !slope.empty() ? kSlope : past >= 0 ? kPast : kSign; }
    Stage last() const {
        return bits ? kSign : past >= 0 ? kPast : relu || !slope.empty() ? kSlope : !scale.empty() ? kScale : kSums;
    }

    Shape out;
    bool bits = false;  // what it leaves, if not floats
    std::shared_ptr<const BinaryConv> binary = nullptr;
    std::shared_ptr<const RealConv> real = nullptr;
    std::optional<Pool> window = {};
    bool average = false;
    std::vector<std::uint32_t> any = {};  // pooling of bits: all ones in channels where any 1 will do
    Aligned<float> scale = {}, shift = {}, slope = {}, turn = {}, threshold = {};
    bool relu = false;
    int past = -1, size = 1;  // map, and pixels that it is averaged over
};

struct Pass : Step {
    int step;                       // the first of those joined
    int from, floats, packed = -1;  // maps: of the input, and of the output as floats and as bits; -1: none
    // What happens to each pixel of a window before it is pooled, and whether sums are pooled (2 x 2) as they come.
    Aligned<float> scale_before = {}, shift_before = {};
    float floor_before = kLowest;
    bool pools = false;
};

// Map i is what step i - 1 left; map 0 are the images. Floats have a margin of zeros for a convolution that pads.
struct Map {
    Shape shape;
    bool bits;
    int margin = 0;
    Aligned<float> memory = {};
    Aligned<std::uint8_t> packed = {};

    Plane<float> floats() {
        const int row = (shape.width + 2 * margin) * shape.channels;
        return {memory.data() + std::ptrdiff_t(margin) * row + margin * shape.channels, shape.channels, row};
    }
    Plane<const float> read() { return {floats().data, floats().pixel, floats().row}; }
    Plane<std::uint8_t> plane(int word_bytes) {
        const int pixel = up(shape.channels, 32) / 32 * word_bytes;
        return {packed.data(), pixel, shape.width * pixel};
    }
    void allocate(int word_bytes) {
        const std::size_t pixels = std::size_t(shape.height + 2 * margin) * (shape.width + 2 * margin);
        if (bits) packed.assign(pixels * plane(word_bytes).pixel, 0);
        else memory.assign(pixels * shape.channels + kTail, 0.0f);
    }
};

struct Stage {
    int total;  // what the threads share
    std::function<void(int thread, int first, int last)> work;
    int step;
};

}  // namespace

struct Network::Impl {
    const Kernels& k;
    fastmcd::Workers workers;
    std::vector<Step> steps;
    std::vector<Map> maps;
    std::vector<float> levels;  // (channels, 256): the float of a pixel's level; none until pixels or their normalization are given
    std::vector<double> seconds;

    // The plan, made anew by the first run after a step was added.
    bool planned = false;
    std::vector<Pass> passes;
    std::vector<Stage> stages;
    Aligned<float> zeros, ones;
    struct Memory {
        Aligned<std::uint16_t> counts;
        Aligned<float> sums, past;
    };
    std::vector<Memory> memory;  // per thread

    Impl(const Kernels& kernels, int threads) : k(kernels), workers(threads) {}

    const Shape& need(bool bits, const char* step) const {
        if (maps.back().bits != bits)
            throw std::invalid_argument(std::string(step) + " works on " + (bits ? "bits" : "floats") +
                                        ", but the step before leaves " + (bits ? "floats" : "bits"));
        return maps.back().shape;
    }

    void add(Step step) {
        check_size(step.out);
        maps.push_back({step.out, step.bits});
        steps.push_back(std::move(step));
        planned = false;
    }

    void join();
    void plan();
    Finish finish(const Pass& pass);
    Stage stage(const Pass& pass);
    Stage pool_bits(const Pass& pass);

    template <class Pixel>
    void run(const Pixel* images, int count, float* result, bool timed);
};

// Whether a pool can take a pass's pixels as they come: sums that are at most scaled, window by window.
static bool pool_joins(const Pass& pass, const Step& step) {
    if (!step.window || step.bits || pass.window || pass.binary || pass.past >= 0 || !pass.slope.empty() || pass.bits)
        return false;
    const auto [size, stride, padding] = *step.window;
    const bool once = stride >= size || (step.out.height == 1 && step.out.width == 1);  // no pixel is in two windows
    return once && (!pass.real || (!step.average && size == 2 && stride == 2 && padding == 0));
}

// ---- The plan ------------------------------------------------------------------------------------------------------
void Network::Impl::join() {
    std::vector<bool> shortcut(maps.size(), false);  // starts at this map
    for (const Step& step : steps)
        if (step.past >= 0) shortcut[step.past] = true;
    passes.clear();
    for (int i = 0; i < int(steps.size()); ++i) {
        const Step& step = steps[i];
        if (i > 0 && !shortcut[i] && pool_joins(passes.back(), step)) {
            Pass& pass = passes.back();
            pass.scale_before = std::exchange(pass.scale, {}), pass.shift_before = std::exchange(pass.shift, {});
            pass.floor_before = std::exchange(pass.relu, false) ? 0.0f : kLowest;
            pass.pools = pass.real != nullptr;
            pass.window = step.window, pass.average = step.average, pass.out = step.out, pass.floats = i + 1;
            continue;
        }
        const bool joins = i > 0 && step.alone() && passes.back().last() < step.first() && (step.bits || !shortcut[i]);
        if (!joins) {
            passes.push_back({step, i, i, step.bits ? -1 : i + 1, step.bits ? i + 1 : -1});
            continue;
        }
        Pass& pass = passes.back();
        pass.bits = step.bits;
        if (!step.scale.empty()) pass.scale = step.scale, pass.shift = step.shift, pass.relu = step.relu;
        if (!step.slope.empty()) pass.slope = step.slope;
        if (step.past >= 0) pass.past = step.past, pass.size = step.size;
        if (step.bits) pass.turn = step.turn, pass.threshold = step.threshold, pass.packed = i + 1;
        if (!step.bits) pass.floats = i + 1;
        else if (!shortcut[i]) pass.floats = -1;
    }
}

void Network::Impl::plan() {
    if (planned) return;
    join();
    int channels = 0, counts = 0, sums = 0;
    for (Map& map : maps)
        channels = std::max(channels, map.shape.channels), map.memory = {}, map.packed = {}, map.margin = 0;
    for (const Pass& pass : passes) {
        if (pass.real) maps[pass.from].margin = pass.real->conv.padding, sums = std::max(sums, pass.real->sums());
        if (pass.binary) counts = std::max(counts, pass.binary->counts());
    }
    sums = std::max(sums, channels + kTail);
    zeros.assign(channels + kTail, 0.0f), ones.assign(channels + kTail, 1.0f);
    memory.assign(workers.count(),
                  {Aligned<std::uint16_t>(counts), Aligned<float>(sums), Aligned<float>(channels + kTail)});
    maps.front().allocate(k.word_bytes);
    stages.clear();
    for (const Pass& pass : passes) {
        for (const int map : {pass.floats, pass.packed})
            if (map >= 0) maps[map].allocate(k.word_bytes);
        stages.push_back(stage(pass));
    }
    planned = true;
}

Finish Network::Impl::finish(const Pass& pass) {
    const auto array = [](const Aligned<float>& values, const Aligned<float>& neutral) {
        return values.empty() ? neutral.data() : values.data();
    };
    Finish f{pass.out.channels};
    if (!pass.scale.empty() || !pass.slope.empty())
        f.affine = {array(pass.scale, ones), array(pass.shift, zeros), pass.relu ? 0.0f : kLowest};
    f.slope = pass.slope.empty() ? nullptr : pass.slope.data();
    if (pass.past >= 0)
        f.past = maps[pass.past].read(), f.past_channels = maps[pass.past].shape.channels, f.size = pass.size;
    if (pass.floats >= 0) f.floats = maps[pass.floats].floats();
    if (pass.packed >= 0) f.bits = maps[pass.packed].plane(k.word_bytes);
    f.turn = pass.turn.empty() ? nullptr : pass.turn.data(), f.threshold = array(pass.threshold, zeros);
    return f;
}

Stage Network::Impl::stage(const Pass& pass) {
    const Finish f = finish(pass);
    Map& in = maps[pass.from];
    const Affine before{pass.scale_before.empty() ? nullptr : pass.scale_before.data(), pass.shift_before.data(),
                        pass.floor_before};
    const auto with = [&](auto kernel, const auto& job, int total) {
        return Stage{total,
                     [=, this](int thread, int first, int last) {
                         Memory& own = memory[thread];
                         kernel(job, f, first, last, {own.counts.data(), own.sums.data(), own.past.data()});
                     },
                     pass.step};
    };
    if (pass.binary) {
        BinaryJob job = pass.binary->job();
        job.input = in.packed.data();
        return with(k.binary, job, pass.binary->groups());
    }
    if (pass.real) {
        RealJob job = pass.real->job();
        job.input = in.read(), job.before = before;
        if (pass.pools) job.pool = 2, job.width = pass.out.width, job.total = pass.out.height * pass.out.width;
        return with(k.real, job, pass.pools ? job.total : (job.total + kPixels - 1) / kPixels);
    }
    if (in.bits) return pool_bits(pass);
    const Pool window = pass.window.value_or(Pool{1, 1, 0});
    const auto kind = !pass.window ? PoolJob::kSame : pass.average ? PoolJob::kAverage : PoolJob::kMaximum;
    const PoolJob job{kind,           window.size,    window.stride, window.padding, in.shape.height,
                      in.shape.width, pass.out.width, in.read(),     before};
    return with(k.pool, job, pass.out.height * pass.out.width);
}

Stage Network::Impl::pool_bits(const Pass& pass) {
    const Plane<std::uint8_t> from = maps[pass.from].plane(k.word_bytes), to = maps[pass.packed].plane(k.word_bytes);
    const Shape in = maps[pass.from].shape;
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

template <class Pixel>
void Network::Impl::run(const Pixel* images, int count, float* result, bool timed) {
    if (maps.back().bits) throw std::invalid_argument("the last step must leave floats");
    plan();
    const Plane<float> first = maps.front().floats(), end = maps.back().floats();
    const Shape in = maps.front().shape, out = maps.back().shape;
    seconds.assign(steps.size(), 0.0);
    using Clock = std::chrono::steady_clock;
    for (int n = 0; n < count; ++n) {
        for (int y = 0; y < in.height; ++y) {
            float* to = first.at(y, 0);
            for (int x = 0; x < in.width; ++x)
                for (int c = 0; c < in.channels; ++c, ++images, ++to) {
                    if constexpr (sizeof(Pixel) == 1) *to = levels[std::size_t(c) * 256 + *images];
                    else *to = *images;
                }
        }
        for (const Stage& stage : stages) {
            const auto start = timed ? Clock::now() : Clock::time_point();
            workers(stage.total, stage.work);
            if (timed) seconds[stage.step] += std::chrono::duration<double>(Clock::now() - start).count();
        }
        for (int y = 0; y < out.height; ++y) result = std::copy_n(end.at(y, 0), out.width * out.channels, result);
    }
}

// ---- Steps ---------------------------------------------------------------------------------------------------------
Network::Network(int channels, int height, int width, std::string_view kernel, int threads) {
    if (channels < 1 || height < 1 || width < 1)
        throw std::invalid_argument("channels, height and width must be at least 1");
    if (threads < 1 || threads > 1024)
        throw std::invalid_argument("threads is " + std::to_string(threads) + ", expected 1 to 1024");
    check_size({channels, height, width});
    impl_ = std::make_unique<Impl>(find(kernel), threads);
    impl_->maps.push_back({{channels, height, width}, false});
}

Network::~Network() = default;
Network::Network(Network&&) noexcept = default;

void Network::normalize(std::span<const float> mean, std::span<const float> std) {
    const std::size_t channels = impl_->maps.front().shape.channels;
    if (mean.size() != channels || std.size() != channels)
        throw std::invalid_argument("normalize: expected a mean and a deviation for each of " +
                                    std::to_string(channels) + " channels");
    impl_->levels.resize(channels * 256);
    for (std::size_t c = 0; c < channels; ++c)
        for (int v = 0; v < 256; ++v) impl_->levels[c * 256 + v] = (float(v) / 255 - mean[c]) / std[c];
}

void Network::conv(const Conv& c, std::span<const float> weight, std::span<const float> scale,
                   std::span<const float> shift, bool relu) {
    const auto real = std::make_shared<RealConv>(impl_->k, c, impl_->need(false, "conv"), weight, "conv");
    impl_->add({.out = real->out,
                .real = real,
                .scale = with_tail(scale, c.outputs, 0.0f, "scale"),
                .shift = with_tail(shift, c.outputs, 0.0f, "shift"),
                .relu = relu});
}

void Network::conv_sign(const Conv& c, std::span<const float> weight, std::span<const float> threshold) {
    const auto real = std::make_shared<RealConv>(impl_->k, c, impl_->need(false, "conv_sign"), weight, "conv_sign");
    impl_->add({.out = real->out,
                .bits = true,
                .real = real,
                .threshold = with_tail(threshold, c.outputs, kLowest, "threshold")});
}

void Network::affine(std::span<const float> scale, std::span<const float> shift, bool relu) {
    const Shape& out = impl_->need(false, "affine");
    impl_->add({.out = out,
                .scale = with_tail(scale, out.channels, 0.0f, "scale"),
                .shift = with_tail(shift, out.channels, 0.0f, "shift"),
                .relu = relu});
}

void Network::sign(std::span<const float> scale, std::span<const float> threshold) {
    const Shape& out = impl_->need(false, "sign");
    impl_->add({.out = out,
                .bits = true,
                .turn = with_tail(scale, out.channels, 0.0f, "scale"),
                .threshold = with_tail(threshold, out.channels, kLowest, "threshold")});
}

void Network::prelu(std::span<const float> slope) {
    const Shape& out = impl_->need(false, "prelu");
    impl_->add({.out = out, .slope = with_tail(slope, out.channels, 1.0f, "slope")});
}

void Network::add(int map, int size) {
    const Shape& out = impl_->need(false, "add");
    const int count = int(impl_->maps.size());
    if (map < 0 || map >= count || impl_->maps[map].bits)
        throw std::invalid_argument("add: there is no map " + std::to_string(map) + " of floats among " +
                                    std::to_string(count));
    const Shape& past = impl_->maps[map].shape;
    if (size < 1 || size > kLargest || past.height / size != out.height || past.width / size != out.width ||
        out.channels % past.channels)
        throw std::invalid_argument("add: " + text(past) + " averaged over " + std::to_string(size) +
                                    " pixels does not fit onto " + text(out));
    impl_->add({.out = out, .past = map, .size = size});
}

void Network::max_pool(const Pool& pool) {
    const Shape& in = impl_->need(false, "max_pool");
    impl_->add({.out = shape_after(in, in.channels, pool.size, pool.size, pool.stride, pool.padding, "max_pool"),
                .window = pool});
}

void Network::average_pool(const Pool& pool) {
    const Shape& in = impl_->need(false, "average_pool");
    impl_->add({.out = shape_after(in, in.channels, pool.size, pool.size, pool.stride, pool.padding, "average_pool"),
                .window = pool,
                .average = true});
}

void Network::binary_conv(const Conv& c, std::span<const std::uint8_t> negative, std::span<const float> scale,
                          std::span<const float> shift, bool relu) {
    const auto binary =
        std::make_shared<BinaryConv>(impl_->k, c, impl_->need(true, "binary_conv"), negative, "binary_conv");
    impl_->add({.out = binary->out,
                .binary = binary,
                .scale = with_tail(scale, c.outputs, 0.0f, "scale"),
                .shift = with_tail(shift, c.outputs, 0.0f, "shift"),
                .relu = relu});
}

void Network::binary_conv_sign(const Conv& c, std::span<const std::uint8_t> negative,
                               std::span<const std::int32_t> threshold) {
    const auto binary =
        std::make_shared<BinaryConv>(impl_->k, c, impl_->need(true, "binary_conv_sign"), negative, "binary_conv_sign");
    binary->keep_signs(threshold);
    impl_->add({.out = binary->out, .bits = true, .binary = binary});
}

void Network::max_pool_bits(const Pool& pool, std::span<const std::uint8_t> any) {
    const Shape& in = impl_->need(true, "max_pool_bits");
    const Shape out = shape_after(in, in.channels, pool.size, pool.size, pool.stride, pool.padding, "max_pool_bits");
    const auto flags = with_tail(any, in.channels, std::uint8_t(0), "any");
    std::vector<std::uint16_t> signs(flags.size());
    std::transform(flags.begin(), flags.end(), signs.begin(), [](std::uint8_t flag) { return flag ? 0x8000 : 0; });
    std::vector<std::uint32_t> words(up(in.channels, 32) / 32 * impl_->k.word_bytes / 4);
    impl_->k.bfloat16_bits(signs.data(), in.channels, reinterpret_cast<std::uint8_t*>(words.data()));
    impl_->add({.out = out, .bits = true, .window = pool, .any = words});
}

Shape Network::output() const { return impl_->maps.back().shape; }
std::string_view Network::kernel() const { return impl_->k.name; }
std::vector<double> Network::seconds() const { return impl_->seconds; }

std::size_t Network::bytes() {
    impl_->plan();
    std::size_t floats = impl_->levels.size(), total = 0;
    for (const Step& s : impl_->steps) {
        floats += s.scale.size() + s.shift.size() + s.slope.size() + s.turn.size() + s.threshold.size();
        total += (s.binary ? s.binary->bytes() : 0) + (s.real ? s.real->bytes() : 0);
    }
    for (const Map& map : impl_->maps) floats += map.memory.size(), total += map.packed.size();
    return total + floats * sizeof(float);
}

void Network::run(const std::uint8_t* images, int count, float* result, bool timed) {
    const std::size_t channels = impl_->maps.front().shape.channels;
    if (impl_->levels.empty()) normalize(std::vector<float>(channels, 0.0f), std::vector<float>(channels, 1.0f));
    impl_->run(images, count, result, timed);
}
void Network::run(const float* images, int count, float* result, bool timed) {
    impl_->run(images, count, result, timed);
}

}  // namespace xnor
