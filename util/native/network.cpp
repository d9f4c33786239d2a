// The steps of a network as they are added, and its run, image by image.
#include <algorithm>
#include <optional>
#include <utility>

#include "plan.hpp"

namespace xnor {

struct Network::Impl {
    const Kernels& k;
    fastmcd::Workers workers;
    Shape images;
    std::vector<Step> steps;
    std::vector<float> levels;  // (channels, 256): a pixel's level as a float; none before pixels or normalize()
    std::vector<double> seconds;
    std::optional<Plan> plan;  // made by the first run after a step was added

    Impl(const Kernels& kernels, int threads, const Shape& shape) : k(kernels), workers(threads), images(shape) {}

    int maps() const { return int(steps.size()) + 1; }
    const Shape& shape(int map) const { return map == 0 ? images : steps[map - 1].out; }
    bool bits(int map) const { return map > 0 && steps[map - 1].bits; }

    const Shape& need(bool wanted, const char* step) const {
        const int last = maps() - 1;
        if (bits(last) != wanted)
            throw std::invalid_argument(std::string(step) + " works on " + (wanted ? "bits" : "floats") +
                                        ", but the step before leaves " + (wanted ? "floats" : "bits"));
        return shape(last);
    }

    void add(Step step) {
        check_size(step.out);
        plan.reset();
        steps.push_back(std::move(step));
    }

    Plan& planned() { return plan ? *plan : plan.emplace(k, workers, images, steps); }

    template <class Pixel>
    void run(const Pixel* pixels, int count, float* result, bool timed);
};

template <class Pixel>
void Network::Impl::run(const Pixel* pixels, int count, float* result, bool timed) {
    const int last = maps() - 1;
    if (bits(last)) throw std::invalid_argument("the last step must leave floats");
    const Plane<float> input = planned().input(), output = plan->output();
    const Shape& out = shape(last);
    seconds.assign(steps.size(), 0.0);
    for (int n = 0; n < count; ++n) {
        for (int y = 0; y < images.height; ++y) {
            float* to = input.at(y, 0);
            for (int x = 0; x < images.width; ++x)
                for (int c = 0; c < images.channels; ++c, ++pixels, ++to) {
                    if constexpr (sizeof(Pixel) == 1) *to = levels[std::size_t(c) * 256 + *pixels];
                    else *to = *pixels;
                }
        }
        plan->run(timed ? &seconds : nullptr);
        for (int y = 0; y < out.height; ++y) result = std::copy_n(output.at(y, 0), out.width * out.channels, result);
    }
}

// ---- Steps ---------------------------------------------------------------------------------------------------------
static Scaling scaling(std::span<const float> scale, std::span<const float> shift, int channels, bool relu) {
    return {with_tail(scale, channels, 0.0f, "scale"), with_tail(shift, channels, 0.0f, "shift"), relu};
}

Network::Network(int channels, int height, int width, std::string_view kernel, int threads) {
    if (channels < 1 || height < 1 || width < 1)
        throw std::invalid_argument("channels, height and width must be at least 1");
    if (threads < 1 || threads > 1024)
        throw std::invalid_argument("threads is " + std::to_string(threads) + ", expected 1 to 1024");
    const Shape images{channels, height, width};
    check_size(images);
    impl_ = std::make_unique<Impl>(find(kernel), threads, images);
}

Network::~Network() = default;
Network::Network(Network&&) noexcept = default;

void Network::normalize(std::span<const float> mean, std::span<const float> std) {
    const std::size_t channels = impl_->images.channels;
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
    impl_->add({.out = real->out, .real = real, .scaling = scaling(scale, shift, c.outputs, relu)});
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
    impl_->add({.out = out, .scaling = scaling(scale, shift, out.channels, relu)});
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
    const int count = impl_->maps();
    if (map < 0 || map >= count || impl_->bits(map))
        throw std::invalid_argument("add: there is no map " + std::to_string(map) + " of floats among " +
                                    std::to_string(count));
    const Shape& past = impl_->shape(map);
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
    impl_->add({.out = binary->out, .binary = binary, .scaling = scaling(scale, shift, c.outputs, relu)});
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

Shape Network::output() const { return impl_->shape(impl_->maps() - 1); }
std::string_view Network::kernel() const { return impl_->k.name; }
std::vector<double> Network::seconds() const { return impl_->seconds; }

std::size_t Network::bytes() {
    std::size_t floats = impl_->levels.size(), total = impl_->planned().bytes();
    for (const Step& s : impl_->steps) {
        floats += s.scaling.scale.size() + s.scaling.shift.size() + s.slope.size() + s.turn.size() + s.threshold.size();
        total += (s.binary ? s.binary->bytes() : 0) + (s.real ? s.real->bytes() : 0);
    }
    return total + floats * sizeof(float);
}

void Network::run(const std::uint8_t* images, int count, float* result, bool timed) {
    const std::size_t channels = impl_->images.channels;
    if (impl_->levels.empty()) normalize(std::vector<float>(channels, 0.0f), std::vector<float>(channels, 1.0f));
    impl_->run(images, count, result, timed);
}
void Network::run(const float* images, int count, float* result, bool timed) {
    impl_->run(images, count, result, timed);
}

}  // namespace xnor
