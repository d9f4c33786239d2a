#include <charconv>
#include <cmath>
#include <iterator>
#include <stdexcept>
#include <string>

#include "fastmcd.hpp"

namespace fastmcd {
namespace {

using P = Params;
constexpr Parameter kParameters[] = {
    {"points", "most points tracked to find the camera's motion", 32, 1000, &P::points},
    {"tolerance", "px (of the tracked level) that a point may deviate from the camera's motion", 0.2, 5, &P::tolerance},
    {"min_inliers", "share of points that must agree, else the camera's motion is unknown", 0.25, 0.9, &P::min_inliers},
    {"max_age", "frames of memory: what stops becomes background after so many; ghosts last as long", 2, 1000, &P::max_age},
    {"match", "variances within which a cell updates its background", 0.5, 20, &P::match},
    {"threshold", "variances beyond which a pixel is foreground", 1, 50, &P::threshold},
    {"initial_variance", "variance of a cell just seen first, grey levels squared", 1, 10000, &P::initial_variance},
    {"min_variance", "least variance, grey levels squared", 1, 1000, &P::min_variance},
    {"decay_variance", "variance above which a cell loses age, grey levels squared", 100, 65025, &P::decay_variance},
    {"decay_rate", "how fast it does, per grey level squared", 0, 1, &P::decay_rate},
    {"min_area", "smallest region, as a share of the frame", 0, 0.5, &P::min_area},
    {"closing", "gaps that are bridged, as a share of the frame's diagonal", 0, 0.1, &P::closing},
    {"persistence", "frames an object must be seen before it is reported", 1, 30, &P::persistence},
    {"min_score", "least score of an object that is reported", 0, 1, &P::min_score},
    {"max_objects", "most objects per frame, the best ones", 1, 1000, &P::max_objects},
    {"crop_context", "margin around a crop, as a share of the box's width and height", 0, 1, &P::crop_context},
    {"crop_aspect", "longer side of a crop over its shorter one at most", 1, 100, &P::crop_aspect},
    {"min_crop", "px, shortest side of a crop", 1, 1024, &P::min_crop},
    {"rehearsal", "first frames of a clip that are seen backwards before; 0: none, and the first frames have no objects", 0, 100, &P::rehearsal},
    {"threads", "threads that share the rows of large frames; the results stay the same", 1, 16, &P::threads},
};

std::string text(double value) {  // the shortest that is this number and no other
    char digits[32];
    return {digits, std::to_chars(digits, std::end(digits), value).ptr};
}

}  // namespace

double Parameter::get(const Params& params) const {
    return std::visit([&](auto member) { return double(params.*member); }, field);
}

void Parameter::set(Params& params, double value) const {
    const bool whole = std::holds_alternative<int Params::*>(field);
    if (!(value >= low && value <= high) || (whole && value != std::floor(value)))
        throw std::invalid_argument(std::string(name) + " is " + text(value) + ", must be a " +
                                    (whole ? "whole " : "") + "number from " + text(low) + " to " + text(high));
    if (whole) params.*std::get<int Params::*>(field) = int(value);
    else params.*std::get<double Params::*>(field) = value;
}

std::span<const Parameter> parameters() { return kParameters; }

}  // namespace fastmcd
