// Which CPU levels this processor can run, and the choice among the kernels that were compiled for them (see
// levels.cmake).
#pragma once

#include <cstdlib>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace fastmcd {

#if defined(__x86_64__)
inline bool has_popcnt() { return __builtin_cpu_supports("popcnt"); }
inline bool has_avx2() { return has_popcnt() && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
inline bool has_avx512() {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
inline bool has_avx512vpopcnt() { return has_avx512() && __builtin_cpu_supports("avx512vpopcntdq"); }
#endif

// The kernels of each level that this processor can run, best first. Kernels have a `name`.
template <class Kernels>
class Levels {
public:
    void add(const Kernels& kernels, bool supported) {
        if (supported) levels_.push_back(&kernels);
    }

    std::vector<std::string> names() const {
        std::vector<std::string> found;
        for (const Kernels* level : levels_) found.emplace_back(level->name);
        return found;
    }

    // Those called `name`. Throws std::invalid_argument, naming `asked_by`, if there are none.
    const Kernels& find(std::string_view name, const std::string& asked_by) const {
        std::string known;
        for (const Kernels* level : levels_) {
            if (name == level->name) return *level;
            known += std::string(known.empty() ? "" : " ") + level->name;
        }
        throw std::invalid_argument(asked_by + " is '" + std::string(name) +
                                    "', which is unknown or not supported here; use one of: " + known);
    }

    // Those that the environment's `variable` names; the best if it names none.
    const Kernels& chosen(const char* variable) const {
        const char* name = std::getenv(variable);
        return name && *name ? find(name, variable) : *levels_.front();
    }

private:
    std::vector<const Kernels*> levels_;
};

}  // namespace fastmcd
