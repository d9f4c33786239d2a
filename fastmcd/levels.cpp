// Which CPU levels this processor can run, and which of them a detector gets.
#include <cstdlib>
#include <stdexcept>
#include <string_view>

#include "fastmcd.hpp"
#include "kernels.hpp"

namespace fastmcd {

#define FASTMCD_DECLARE(level)                            \
    extern const ImageKernels image_kernels_##level;      \
    extern const MotionKernels motion_kernels_##level;    \
    extern const ModelKernels model_kernels_##level;
#define FASTMCD_KERNELS(level) {#level, image_kernels_##level, motion_kernels_##level, model_kernels_##level}

FASTMCD_DECLARE(avx512)
FASTMCD_DECLARE(avx2)
FASTMCD_DECLARE(baseline)

namespace {

struct Level {
    Kernels kernels;
    bool supported;
};

std::span<const Level> all() {
    static const Level found[] = {  // best first
#if defined(__x86_64__)
        {FASTMCD_KERNELS(avx512), __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")},
        {FASTMCD_KERNELS(avx2), bool(__builtin_cpu_supports("avx2"))},
#endif
        {FASTMCD_KERNELS(baseline), true},
    };
    return found;
}

}  // namespace

std::vector<std::string> levels() {
    std::vector<std::string> names;
    for (const Level& level : all())
        if (level.supported) names.emplace_back(level.kernels.name);
    return names;
}

const Kernels& kernels() {
    const char* asked = std::getenv("FASTMCD_LEVEL");
    std::string names;
    for (const Level& level : all()) {
        if (!level.supported) continue;
        if (!asked || !*asked || std::string_view(asked) == level.kernels.name) return level.kernels;
        names += std::string(names.empty() ? "" : " ") + level.kernels.name;
    }
    throw std::invalid_argument("FASTMCD_LEVEL is '" + std::string(asked) +
                                "', which is unknown or not supported here; use one of: " + names);
}

}  // namespace fastmcd
