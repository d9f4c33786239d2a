// Which kernels this processor can run, and which of them a network gets.
#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <stdexcept>

#include "kernels.hpp"
#include "xnor.hpp"

namespace xnor {

extern const Kernels kernels_avx512vpopcnt, kernels_avx512, kernels_avx2, kernels_popcnt, kernels_neon, kernels_scalar;

namespace {

struct Level {
    const Kernels* kernels;
    bool supported;
};

const std::vector<Level>& levels() {
    static const std::vector<Level> all = [] {
        std::vector<Level> found;  // best first
#if defined(__x86_64__)
        __builtin_cpu_init();
        const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
        const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                            __builtin_cpu_supports("avx512dq");
        found.push_back({&kernels_avx512vpopcnt, avx512 && __builtin_cpu_supports("avx512vpopcntdq")});
        found.push_back({&kernels_avx512, avx512});
        found.push_back({&kernels_avx2, avx2});
        found.push_back({&kernels_popcnt, bool(__builtin_cpu_supports("popcnt"))});
#elif defined(__ARM_NEON)
        found.push_back({&kernels_neon, true});
#endif
        found.push_back({&kernels_scalar, true});
        return found;
    }();
    return all;
}

std::string join(const std::vector<std::string>& names) {
    std::string text;
    for (const auto& name : names) text += (text.empty() ? "" : " ") + name;
    return text;
}

}  // namespace

const Kernels& find(std::string_view name, const std::string& asked_by) {
    for (const Level& level : levels())
        if (level.supported && name == level.kernels->name) return *level.kernels;
    throw std::invalid_argument(asked_by + " is '" + std::string(name) + "', which is unknown or not supported here; use one of: " + join(kernels()));
}

std::vector<std::string> kernels() {
    std::vector<std::string> names;
    for (const Level& level : levels())
        if (level.supported) names.emplace_back(level.kernels->name);
    return names;
}

std::string default_kernel() {
    if (const char* asked = std::getenv("XNOR_KERNEL"); asked && *asked) return find(asked, "XNOR_KERNEL").name;
    return kernels().front();
}

double peak(std::string_view kernel) {
    const Kernels& k = find(kernel, "kernel");
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
