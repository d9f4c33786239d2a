// The Python module _xnor; its face, with the documentation, is ../packed/run.py.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/vector.h>

#include <mutex>
#include <stdexcept>
#include <string>

#include "../../fastmcd/workers.hpp"
#include "conv.hpp"

namespace nb = nanobind;
using namespace nb::literals;
using namespace xnor;

namespace {

template <class T>
using Values = nb::ndarray<const T, nb::c_contig, nb::device::cpu>;
template <class T>
using Maps = nb::ndarray<T, nb::ndim<4>, nb::c_contig, nb::device::cpu>;  // images, height, width, channels

template <class T>
bool fits(const Maps<T>& maps, const Shape& s) {
    return maps.shape(1) == std::size_t(s.height) && maps.shape(2) == std::size_t(s.width) &&
           maps.shape(3) == std::size_t(s.channels);
}

template <class T>
std::span<const T> span(const Values<T>& array) {
    return {array.data(), array.size()};
}

template <class T>
Conv conv_of(const Values<T>& weight, int stride, int padding) {
    if (weight.ndim() != 4)
        throw nb::value_error("a convolution's weights have 4 axes: outputs, channels, height, width");
    return {int(weight.shape(0)), int(weight.shape(2)), int(weight.shape(3)), stride, padding};
}

struct Locked {  // a network that threads may share: one call at a time, as run() lets other Python threads go on
    Network network;
    Shape input;
    std::mutex mutex;
    std::unique_lock<std::mutex> lock() {  // waits without the GIL, which whoever holds the mutex may need to go on
        nb::gil_scoped_release release;
        return std::unique_lock(mutex);
    }
};

// A method of Python's that calls use(network, arguments...) under the lock.
template <class Result, class... Arguments>
auto locked(Result (*use)(Network&, Arguments...)) {
    return [use](Locked& self, Arguments... arguments) -> Result {
        const auto lock = self.lock();
        return use(self.network, arguments...);
    };
}

template <class T>
void run(Locked& self, const Maps<const T>& images, const Maps<float>& scores, bool timed) {
    const auto lock = self.lock();
    const Shape in = self.input, out = self.network.output();
    if (!fits(images, in))
        throw nb::value_error("images do not have the height, width and channels that the network was made for");
    if (!fits(scores, out) || scores.shape(0) != images.shape(0))
        throw nb::value_error("the result's shape is not (images, height, width, channels) of the last step");
    nb::gil_scoped_release release;
    self.network.run(images.data(), int(images.shape(0)), scores.data(), timed);
}

// What calls work on `threads` threads: those of the OpenMP runtime whose GOMP_parallel is at `gomp`, as an idle one of
// them looks for work for milliseconds, on a core that another would need; or our own, where that is 0.
Everywhere on_threads(int threads, std::uintptr_t gomp) {
    using Parallel = void (*)(void (*)(void*), void*, unsigned, unsigned);
    return [=](const std::function<void()>& work) {
        if (gomp != 0) {
            const auto call = [](void* given) { (*static_cast<const std::function<void()>*>(given))(); };
            reinterpret_cast<Parallel>(gomp)(call, const_cast<std::function<void()>*>(&work), unsigned(threads), 0);
            return;
        }
        fastmcd::Workers workers(threads);
        workers(workers.count(), [&](int, int, int) { work(); });
    };
}

template <class T>
void one_layer(const Maps<const std::uint16_t>& x, const Values<std::uint8_t>& negative, const Values<float>& scale,
               const Values<float>& shift, int stride, int padding, const Maps<T>& y, const std::string& kernel,
               int threads, std::uintptr_t gomp) {
    const Conv conv = conv_of(negative, stride, padding);
    const Shape in{int(x.shape(3)), int(x.shape(1)), int(x.shape(2))};
    const Shape out = shape_after(in, conv.outputs, conv.height, conv.width, stride, padding, "binary_conv");
    if (negative.shape(1) != x.shape(3) || y.shape(0) != x.shape(0) || !fits(y, out))
        throw nb::value_error("the shapes of images, weights and result do not belong together");
    if (threads < 1 || threads > 1024) throw nb::value_error("threads must be 1 to 1024");
    nb::gil_scoped_release release;
    binary_conv(conv, in, span(negative), span(scale), span(shift), x.data(), int(x.shape(0)), y.data(), kernel,
                on_threads(threads, gomp));
}

nb::tuple shape_tuple(const Shape& s) { return nb::make_tuple(s.channels, s.height, s.width); }

}  // namespace

NB_MODULE(_xnor, m) {
    m.def("kernels", &kernels);
    m.def("default_kernel", &default_kernel);
    m.def("peak", [](const std::string& kernel) {
        nb::gil_scoped_release release;
        return peak(kernel);
    });
    using F = Values<float>;
    using B = Values<std::uint8_t>;
    const auto add_layer = [&]<class T>(T) {
        m.def("binary_conv", &one_layer<T>, "x"_a.noconvert(), "negative"_a.noconvert(), "scale"_a.noconvert(),
              "shift"_a.noconvert(), "stride"_a, "padding"_a, "y"_a.noconvert(), "kernel"_a = "", "threads"_a = 1,
              "gomp"_a = 0);
    };
    add_layer(float()), add_layer(std::uint16_t());
    nb::class_<Locked>(m, "Network")
        .def(
            "__init__",
            [](Locked* self, int channels, int height, int width, const std::string& kernel, int threads) {
                new (self) Locked{Network(channels, height, width, kernel, threads), {channels, height, width}, {}};
            },
            "channels"_a, "height"_a, "width"_a, "kernel"_a = "", "threads"_a = 1)
        .def(
            "normalize", locked(+[](Network& n, const F& mean, const F& std) { n.normalize(span(mean), span(std)); }),
            "mean"_a.noconvert(), "std"_a.noconvert())
        .def(
            "conv",
            locked(+[](Network& n, const F& weight, const F& scale, const F& shift, bool relu, int stride, int padding) {
                n.conv(conv_of(weight, stride, padding), span(weight), span(scale), span(shift), relu);
            }),
            "weight"_a.noconvert(), "scale"_a.noconvert(), "shift"_a.noconvert(), "relu"_a, "stride"_a, "padding"_a)
        .def(
            "conv_sign",
            locked(+[](Network& n, const F& weight, const F& threshold, int stride, int padding) {
                n.conv_sign(conv_of(weight, stride, padding), span(weight), span(threshold));
            }),
            "weight"_a.noconvert(), "threshold"_a.noconvert(), "stride"_a, "padding"_a)
        .def(
            "affine",
            locked(+[](Network& n, const F& scale, const F& shift, bool relu) {
                n.affine(span(scale), span(shift), relu);
            }),
            "scale"_a.noconvert(), "shift"_a.noconvert(), "relu"_a)
        .def(
            "sign", locked(+[](Network& n, const F& scale, const F& threshold) { n.sign(span(scale), span(threshold)); }),
            "scale"_a.noconvert(), "threshold"_a.noconvert())
        .def(
            "prelu", locked(+[](Network& n, const F& slope) { n.prelu(span(slope)); }), "slope"_a.noconvert())
        .def(
            "add", locked(+[](Network& n, int map, int size) { n.add(map, size); }), "map"_a, "size"_a)
        .def(
            "max_pool",
            locked(+[](Network& n, int size, int stride, int padding) { n.max_pool({size, stride, padding}); }), "size"_a,
            "stride"_a, "padding"_a)
        .def(
            "average_pool",
            locked(+[](Network& n, int size, int stride, int padding) { n.average_pool({size, stride, padding}); }),
            "size"_a, "stride"_a, "padding"_a)
        .def(
            "binary_conv",
            locked(+[](Network& n, const B& negative, const F& scale, const F& shift, bool relu, int stride, int padding) {
                n.binary_conv(conv_of(negative, stride, padding), span(negative), span(scale), span(shift), relu);
            }),
            "negative"_a.noconvert(), "scale"_a.noconvert(), "shift"_a.noconvert(), "relu"_a, "stride"_a, "padding"_a)
        .def(
            "binary_conv_sign",
            locked(+[](Network& n, const B& negative, const Values<std::int32_t>& threshold, int stride, int padding) {
                n.binary_conv_sign(conv_of(negative, stride, padding), span(negative), span(threshold));
            }),
            "negative"_a.noconvert(), "threshold"_a.noconvert(), "stride"_a, "padding"_a)
        .def(
            "max_pool_bits",
            locked(+[](Network& n, const B& any, int size, int stride, int padding) {
                n.max_pool_bits({size, stride, padding}, span(any));
            }),
            "any"_a.noconvert(), "size"_a, "stride"_a, "padding"_a)
        .def("run", &run<std::uint8_t>, "images"_a.noconvert(), "scores"_a.noconvert(), "timed"_a = false)
        .def("run", &run<float>, "images"_a.noconvert(), "scores"_a.noconvert(), "timed"_a = false)
        .def_prop_ro("output", locked(+[](Network& n) { return shape_tuple(n.output()); }))
        .def_prop_ro("kernel", locked(+[](Network& n) { return std::string(n.kernel()); }))
        .def_prop_ro("bytes", locked(+[](Network& n) { return n.bytes(); }))
        .def_prop_ro("seconds", locked(+[](Network& n) { return n.seconds(); }));
}
