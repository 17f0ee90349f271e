// Philox4x32-10: random numbers as a pure function of a key and a counter.
// Source: J. K. Salmon, M. A. Moraes, R. O. Dror and D. E. Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", SC11.

#pragma once

#include <array>
#include <cstdint>

inline std::array<std::uint32_t, 4> philox4x32(std::array<std::uint32_t, 4> c, std::array<std::uint32_t, 2> key) {
    for (int round = 0; round < 10; round++) {
        const std::uint64_t p0 = std::uint64_t{0xD2511F53} * c[0], p1 = std::uint64_t{0xCD9E8D57} * c[2];
        const auto high = [](std::uint64_t product) { return static_cast<std::uint32_t>(product >> 32); };
        const auto low = [](std::uint64_t product) { return static_cast<std::uint32_t>(product); };
        c = {high(p1) ^ c[1] ^ key[0], low(p1), high(p0) ^ c[3] ^ key[1], low(p0)};
        key = {key[0] + 0x9E3779B9, key[1] + 0xBB67AE85};
    }
    return c;
}

// Return the uniform in [0, 1) with 53 random bits for a step of a row.
inline double uniform(std::uint64_t seed, std::uint64_t row, std::uint64_t step) {
    const auto low = [](std::uint64_t word) { return static_cast<std::uint32_t>(word); };
    const auto x = philox4x32({low(step), low(step >> 32), low(row), low(row >> 32)}, {low(seed), low(seed >> 32)});
    return ((std::uint64_t{x[0] >> 5} << 26) + (x[1] >> 6)) * 0x1p-53;
}
