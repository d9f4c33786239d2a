// Which CPU levels this processor can run, and which of them a detector gets.
#include "cpu.hpp"
#include "fastmcd.hpp"
#include "kernels.hpp"

namespace fastmcd {

#define DECLARE_LEVEL(level)                             \
    extern const ImageKernels image_kernels_##level;     \
    extern const MotionKernels motion_kernels_##level;   \
    extern const ModelKernels model_kernels_##level;     \
    extern const SegmentKernels segment_kernels_##level; \
    static const Kernels level{#level, image_kernels_##level, motion_kernels_##level, model_kernels_##level, segment_kernels_##level};

DECLARE_LEVEL(baseline)
#if defined(__x86_64__)
DECLARE_LEVEL(avx2)
DECLARE_LEVEL(avx512)
#endif

static const Levels<Kernels>& all() {
    static const Levels<Kernels> found = [] {
        Levels<Kernels> levels;
#if defined(__x86_64__)
        levels.add(avx512, has_avx512());
        levels.add(avx2, has_avx2());
#endif
        levels.add(baseline, true);
        return levels;
    }();
    return found;
}

std::vector<std::string> levels() { return all().names(); }
const Kernels& kernels() { return all().chosen("FASTMCD_LEVEL"); }

}  // namespace fastmcd
