// SplitMix64 (Steele et al. 2014): the same samples on every machine.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fastmcd {

struct Random {
    std::uint64_t state = 1;
    std::uint64_t operator()() {
        std::uint64_t z = state += 0x9E3779B97F4A7C15u;
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
        return z ^ (z >> 31);
    }
    std::size_t below(std::size_t n) { return std::size_t((*this)() % n); }
};

}  // namespace fastmcd
