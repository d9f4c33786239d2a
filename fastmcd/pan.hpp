// Where a picture as a whole has gone, however far.
#pragma once

#include "image.hpp"
#include "kernels.hpp"

namespace fastmcd {

// The whole translation from current to previous under which two small images differ least, by the mean of absolute differences cut off
// at some levels: what moves on its own, or has come into view, has little say.
Shift best_translation(const Plane& current, const Plane& previous);

}  // namespace fastmcd
