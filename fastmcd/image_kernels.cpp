// Grey levels, smoothing, halving: row by row.
#include "simd.hpp"

namespace fastmcd {
namespace {

template <class V>
ALWAYS V median3(V a, V b, V c) {
    return greater(lesser(a, b), lesser(greater(a, b), c));
}

template <class V>
ALWAYS V median5(V a, V b, V c, V d, V e) {  // neither the least of two least ones nor the greatest of two greatest
    return median3(greater(lesser(a, b), lesser(c, d)), lesser(greater(a, b), greater(c, d)), e);
}

template <class V>
ALWAYS void smooth_by(const std::uint8_t* const rows[5], int width, std::uint8_t* line, std::uint8_t* out) {
    constexpr int n = sizeof(V);
    for (int x = 0;; x = x + 2 * n < width ? x + n : width - n) {  // the last step overlaps the one before
        store(line + 2 + x, median5(load<V>(rows[0] + x), load<V>(rows[1] + x), load<V>(rows[2] + x),
                                    load<V>(rows[3] + x), load<V>(rows[4] + x)));
        if (x == width - n) break;
    }
    line[0] = line[1] = line[2];
    line[width + 2] = line[width + 3] = line[width + 1];
    for (int x = 0; x < width; x += n)
        store(out + x, median5(load<V>(line + x), load<V>(line + x + 1), load<V>(line + x + 2), load<V>(line + x + 3),
                               load<V>(line + x + 4)));
}

void smooth(const std::uint8_t* const rows[5], int width, std::uint8_t* line, std::uint8_t* out) {
    using Short = std::uint8_t __attribute__((vector_size(16)));
    if (width < kVector) smooth_by<Short>(rows, width, line, out);
    else smooth_by<Bytes>(rows, width, line, out);
}

void grey(const std::uint8_t* bgr, int count, std::uint8_t* out) {
    for (int x = 0; x < count; ++x)
        out[x] = std::uint8_t((29 * bgr[3 * x] + 150 * bgr[3 * x + 1] + 77 * bgr[3 * x + 2] + 128) >> 8);
}

void halve(const std::uint8_t* a, const std::uint8_t* b, int width, std::uint8_t* out) {
    for (int x = 0; x < width; ++x)
        out[x] = std::uint8_t((a[2 * x] + a[2 * x + 1] + b[2 * x] + b[2 * x + 1] + 2) >> 2);
}

}  // namespace

#define NAME2(a, b) a##b
#define NAME(a, b) NAME2(a, b)
extern const ImageKernels NAME(image_kernels_, FASTMCD_LEVEL);
const ImageKernels NAME(image_kernels_, FASTMCD_LEVEL) = {grey, smooth, halve};

}  // namespace fastmcd
