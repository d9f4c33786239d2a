// Which kernels this processor can run, and which of them a network gets.
#include <algorithm>
#include <chrono>

#include "../../fastmcd/cpu.hpp"
#include "kernels.hpp"
#include "xnor.hpp"

namespace xnor {

extern const Kernels kernels_avx512vpopcnt, kernels_avx512, kernels_avx2, kernels_popcnt, kernels_neon, kernels_scalar;

static const fastmcd::Levels<Kernels>& all() {
    static const fastmcd::Levels<Kernels> found = [] {
        fastmcd::Levels<Kernels> levels;
#if defined(__x86_64__)
        levels.add(kernels_avx512vpopcnt, fastmcd::has_avx512vpopcnt());
        levels.add(kernels_avx512, fastmcd::has_avx512());
        levels.add(kernels_avx2, fastmcd::has_avx2());
        levels.add(kernels_popcnt, fastmcd::has_popcnt());
#elif defined(__ARM_NEON)
        levels.add(kernels_neon, true);
#endif
        levels.add(kernels_scalar, true);
        return levels;
    }();
    return found;
}

std::vector<std::string> kernels() { return all().names(); }
std::string default_kernel() { return all().chosen("XNOR_KERNEL").name; }

const Kernels& find(std::string_view name) {
    return name.empty() ? all().chosen("XNOR_KERNEL") : all().find(name, "kernel");
}

double peak(std::string_view kernel) {
    const Kernels& k = find(kernel);
    using Clock = std::chrono::steady_clock;
    double best = 0;
    for (int i = 0; i < 20; ++i) {
        const auto start = Clock::now();
        const double done = k.spin(100000);
        best = std::max(best, done / std::chrono::duration<double>(Clock::now() - start).count());
    }
    return best;
}

}  // namespace xnor
