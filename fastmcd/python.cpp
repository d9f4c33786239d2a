// The Python module _fastmcd; its face, with the documentation, is __init__.py.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <bit>
#include <climits>
#include <cmath>
#include <mutex>
#include <stdexcept>
#include <string>

#include "fastmcd.hpp"
#include "model.hpp"
#include "motion.hpp"

namespace nb = nanobind;
using namespace nb::literals;
using namespace fastmcd;

namespace {

constexpr std::size_t kEvidence = sizeof(Evidence) / sizeof(float);

using Grey = nb::ndarray<const std::uint8_t, nb::ndim<2>, nb::device::cpu>;
using Pixels = nb::ndarray<const std::uint8_t, nb::shape<-1, -1, 3>, nb::device::cpu>;

int side(std::size_t pixels) {
    if (pixels > INT_MAX) throw nb::value_error("an image has fewer than 2^31 rows and columns");
    return int(pixels);
}

// Any row stride will do, but a row's bytes must lie side by side.
Image view(const Grey& array) {
    if (array.stride(1) != 1 && array.shape(1) > 1)
        throw nb::value_error("frame's columns are not adjacent in memory: pass numpy.ascontiguousarray(frame)");
    return {array.data(), side(array.shape(1)), side(array.shape(0)), std::ptrdiff_t(array.stride(0))};
}

Colour view(const Pixels& array) {
    if (array.stride(2) != 1 || (array.shape(1) > 1 && array.stride(1) != 3))
        throw nb::value_error("image's pixels are not adjacent in memory: pass numpy.ascontiguousarray(image)");
    return {array.data(), side(array.shape(1)), side(array.shape(0)), std::ptrdiff_t(array.stride(0))};
}

template <class T>
nb::ndarray<nb::numpy, T> owned(std::vector<T> values, std::initializer_list<std::size_t> shape) {
    auto* kept = new std::vector<T>(std::move(values));
    const nb::capsule owner(kept, [](void* p) noexcept { delete static_cast<std::vector<T>*>(p); });
    return nb::ndarray<nb::numpy, T>(kept->data(), shape, owner);
}

// height x width bytes that numpy owns, for fill(pointer) to write.
template <class Fill>
auto image_array(int height, int width, Fill fill) {
    auto* kept = new std::uint8_t[std::size_t(height) * width];  // not zeroed first
    const nb::capsule owner(kept, [](void* p) noexcept { delete[] static_cast<std::uint8_t*>(p); });
    fill(kept);
    return nb::ndarray<nb::numpy, std::uint8_t>(kept, {std::size_t(height), std::size_t(width)}, owner);
}

auto image_array(Image image) {
    return image_array(image.height, image.width, [&](std::uint8_t* out) {
        for (int y = 0; y < image.height; ++y) std::copy_n(row(image, y), image.width, out + std::ptrdiff_t(y) * image.width);
    });
}

auto box_array(std::span<const Object> objects, Box Object::*which) {
    std::vector<std::int32_t> out;
    for (const Object& object : objects) {
        const Box& b = object.*which;
        out.insert(out.end(), {b.x, b.y, b.width, b.height});
    }
    return owned(std::move(out), {objects.size(), 4});
}

struct Shared {  // a detector that threads may share: one call at a time
    Detector detector;
    std::mutex mutex;
    std::unique_lock<std::mutex> lock() {  // waits without the GIL, which whoever holds the mutex may need to go on
        nb::gil_scoped_release release;
        return std::unique_lock(mutex);
    }
};

template <class Array>
nb::dict detect(Shared& self, const Array& frame) {
    const auto image = view(frame);
    const auto lock = self.lock();
    Detector& detector = self.detector;
    Timings timings{};
    const Result result = [&] {
        nb::gil_scoped_release release;
        if constexpr (std::is_same_v<Array, Grey>) return detector.detect(image, &timings);
        else return detector.detect_bgr(image, &timings);
    }();
    std::vector<float> scores;
    for (const Object& object : result.objects) scores.push_back(object.score);
    std::vector<float> evidence;
    for (const Object& object : result.objects) {
        const auto values = std::bit_cast<std::array<float, kEvidence>>(object.evidence);
        evidence.insert(evidence.end(), values.begin(), values.end());
    }
    const auto& h = result.motion.homography;
    nb::dict stages, out;
    stages["smooth"] = timings.smooth_ms, stages["motion"] = timings.motion_ms;
    stages["model"] = timings.model_ms, stages["boxes"] = timings.boxes_ms;
    out["boxes"] = box_array(result.objects, &Object::box);
    out["crops"] = box_array(result.objects, &Object::crop);
    out["scores"] = owned(std::move(scores), {result.objects.size()});
    out["evidence"] = owned(std::move(evidence), {result.objects.size(), kEvidence});
    out["mask"] = image_array(result.mask);
    out["homography"] = owned(std::vector<double>(h.begin(), h.end()), {3, 3});
    out["motion_known"] = result.motion.known;
    out["points"] = result.motion.points, out["inliers"] = result.motion.inliers;
    out["timings"] = stages;
    return out;
}

// A list of frames that are all grey, or all of colours.
template <class Array>
void rehearse(Shared& self, const std::vector<Array>& frames) {
    std::vector<decltype(view(frames[0]))> first;
    for (const Array& frame : frames) first.push_back(view(frame));
    const auto lock = self.lock();
    nb::gil_scoped_release release;
    self.detector.rehearse(first);
}

nb::tuple background(Shared& self) {  // mean, variance, age
    const auto lock = self.lock();
    Background b = self.detector.background();
    const auto values = [&](std::vector<float>& v) { return owned(std::move(v), {std::size_t(b.rows), std::size_t(b.columns)}); };
    return nb::make_tuple(values(b.mean), values(b.variance), values(b.age));
}

nb::tuple tracked(Shared& self) {  // current positions, previous ones, inliers
    const auto lock = self.lock();
    const auto points = self.detector.tracked();
    std::vector<float> current, previous;
    std::vector<std::uint8_t> inliers;
    for (const TrackedPoint& p : points) {
        current.insert(current.end(), {float(p.x), float(p.y)});
        previous.insert(previous.end(), {float(p.from_x), float(p.from_y)});
        inliers.push_back(p.inlier);
    }
    return nb::make_tuple(owned(std::move(current), {points.size(), 2}), owned(std::move(previous), {points.size(), 2}),
                          owned(std::move(inliers), {points.size()}));
}

Params params_from(const nb::dict& values) {
    Params params;
    for (const auto [key, value] : values) {
        const std::string name = nb::cast<std::string>(key);
        const auto all = parameters();
        const auto found = std::find_if(all.begin(), all.end(), [&](const Parameter& p) { return name == p.name; });
        if (found == all.end()) throw nb::type_error(("Detector has no parameter " + name).c_str());
        double number = 0;
        if (!nb::try_cast(value, number)) throw nb::type_error((name + " must be a number").c_str());
        found->set(params, number);
    }
    return params;
}

// name -> (default, help)
nb::dict parameter_table() {
    nb::dict table;
    for (const Parameter& p : parameters()) {
        const double value = p.get({});
        const bool whole = std::holds_alternative<int Params::*>(p.field);
        const nb::object number = whole ? nb::object(nb::int_(int(value))) : nb::object(nb::float_(value));
        table[p.name] = nb::make_tuple(number, p.help);
    }
    return table;
}

auto grey(const Pixels& array) {
    const Colour bgr = view(array);
    return image_array(bgr.height, bgr.width, [&](std::uint8_t* out) {
        grey_from_bgr(bgr.data, bgr.stride, bgr.width, bgr.height, out);
    });
}

// As a detector's frames, for the parts that rely on it.
bool fits(int width, int height) { return std::min(width, height) >= kMinSide && std::max(width, height) <= kMaxSide; }

}  // namespace

NB_MODULE(_fastmcd, m) {
    nb::class_<Shared>(m, "Detector")
        .def("__init__",
             [](Shared* self, int width, int height, const nb::dict& params) {
                 new (self) Shared{Detector(width, height, params_from(params)), {}};
             })
        .def("detect", &detect<Grey>, "frame"_a.noconvert())
        .def("detect", &detect<Pixels>, "frame"_a.noconvert())
        .def("background", &background)
        .def("tracked", &tracked)
        .def("rehearse", &rehearse<Grey>, "frames"_a.noconvert())
        .def("rehearse", &rehearse<Pixels>, "frames"_a.noconvert())
        .def("reset", [](Shared& self) { const auto lock = self.lock(); self.detector.reset(); })
        .def("bytes", [](Shared& self) { const auto lock = self.lock(); return self.detector.bytes(); });
    m.def("parameters", &parameter_table);
    m.attr("EVIDENCE") = nb::make_tuple("size", "solid", "distinct", "lasting");
    m.def("levels", &levels);
    m.def("grey", &grey, "bgr"_a.noconvert());

    // The parts, for the tests.
    m.def("smooth", [](const Grey& frame) {
        const Image image = view(frame);
        if (image.width < 16 || image.height < 1) throw nb::value_error("an image is 16 pixels wide or more");
        Plane out(image.width, image.height);
        Smoother{image.width}(image, out);
        return image_array(out.view());
    }, "grey"_a.noconvert());
    m.def("estimate_motion", [](const Grey& current, const Grey& previous) {
        const Image a = view(current), b = view(previous);
        if (a.width != b.width || a.height != b.height || !fits(a.width, a.height))
            throw nb::value_error("frames are of two sizes, or not of 32 to 4096 pixels a side");
        Pyramid now(a.width, a.height), then(b.width, b.height);
        now.levels[0] = copy_of(a), then.levels[0] = copy_of(b);
        now.build(), then.build();
        const Motion motion = MotionEstimator(now, {})(now, then);
        const auto& h = motion.homography;
        return nb::make_tuple(owned(std::vector<double>(h.begin(), h.end()), {3, 3}), motion.known, motion.points,
                              motion.inliers);
    }, "current"_a.noconvert(), "previous"_a.noconvert());
    nb::class_<Model>(m, "Model")
        .def("__init__", [](Model* self, int width, int height) {
            if (!fits(width, height)) throw nb::value_error("a model is of 32 to 4096 pixels a side");
            new (self) Model(width, height, {});
        })
        .def("update", [](Model& model, const Grey& frame, const std::array<double, 9>& h) {
            const Image image = view(frame);
            if (model.columns() != cells(image.width) || model.rows() != cells(image.height))
                throw nb::value_error("frame's size is not the model's");
            for (const double value : h)
                if (!std::isfinite(value)) throw nb::value_error("the homography holds what is no number");
            Plane mask(image.width, image.height);
            model.update(copy_of(image), h, mask);
            return image_array(mask.view());
        }, "grey"_a.noconvert(), "homography"_a)
        .def("mode", [](const Model& model, int which) {  // mean, variance, age
            if (which < 0 || which > 1) throw nb::index_error("a model has the modes 0 and 1");
            const auto values = [&](int k) {
                std::vector<float> out;
                for (int y = 0; y < model.rows(); ++y) {
                    const float* row = model.plane(which, k).row(y);
                    out.insert(out.end(), row, row + model.columns());
                }
                return owned(std::move(out), {std::size_t(model.rows()), std::size_t(model.columns())});
            };
            return nb::make_tuple(values(0), values(1), values(2));
        });
}
