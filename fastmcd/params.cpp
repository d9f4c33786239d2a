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
    {"points", "largest number of points tracked to find the camera's motion", 32, 1000, &P::points},
    {"tolerance", "px (of the tracked pyramid level) by which a point may deviate from the camera's motion", 0.2, 5, &P::tolerance},
    {"min_inliers", "share of points that must agree on the camera's motion, else it is unknown", 0.25, 0.9, &P::min_inliers},
    {"max_age", "frames of memory: an object that stops becomes background after so many, and ghosts last as long", 2, 1000, &P::max_age},
    {"match", "squared distance from the background, in variances, up to which a cell updates it", 0.5, 20, &P::match},
    {"threshold", "squared distance from the background, in variances, beyond which a pixel is foreground", 1, 50, &P::threshold},
    {"initial_variance", "variance of a cell that is seen for the first time, grey levels squared", 1, 10000, &P::initial_variance},
    {"min_variance", "least variance, grey levels squared", 1, 1000, &P::min_variance},
    {"decay_variance", "variance above which a cell loses age, grey levels squared", 100, 65025, &P::decay_variance},
    {"decay_rate", "how fast such a cell loses age, per grey level squared", 0, 1, &P::decay_rate},
    {"min_area", "area of the smallest region, as a share of the frame", 0, 0.5, &P::min_area},
    {"closing", "width of the gaps that are bridged, as a share of the frame's diagonal", 0, 0.1, &P::closing},
    {"persistence", "frames in which an object must be found before it is reported", 1, 30, &P::persistence},
    {"min_score", "least score of an object that is reported", 0, 1, &P::min_score},
    {"max_objects", "largest number of objects per frame; those with the best scores are kept", 1, 1000, &P::max_objects},
    {"crop_context", "margin around a crop, as a share of the box's width and height", 0, 1, &P::crop_context},
    {"crop_aspect", "largest ratio of a crop's longer side to its shorter one", 1, 100, &P::crop_aspect},
    {"min_crop", "smallest side of a crop, px", 1, 1024, &P::min_crop},
    {"rehearsal", "first frames of a clip, fed backwards first so that they have objects, too; 0: none", 0, 100, &P::rehearsal},
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
