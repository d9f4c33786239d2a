// The loops that a frame's time goes into. Compiled once per CPU level (simd.hpp), and all levels give the same bits.
#pragma once

#include <cstddef>
#include <cstdint>

// A function that the files of all levels share is inlined: or else the linker might give one level's copy of it to everybody.
#define SHARED [[gnu::always_inline]] inline

namespace fastmcd {

// Every row that a kernel reads or writes by whole vectors may be read and written up to this many bytes past its end.
inline constexpr int kSlack = 64;
inline constexpr int kLanes = 16;  // cells (and matches) that every level handles together: rows of them are padded to this
inline constexpr int kCell = 4;    // px: side of a cell of the background model
inline constexpr int kColourBits = 4;  // of each of blue, green and red, where colours are counted

SHARED std::ptrdiff_t rounded_up(std::ptrdiff_t n, std::ptrdiff_t step) { return (n + step - 1) / step * step; }

struct ImageKernels {
    void (*grey)(const std::uint8_t* bgr, int count, std::uint8_t* out);
    // Median, nearly, of five by five pixels; at the ends the outermost repeat. At least 16 pixels.
    // line: room for 5 * (width + 4 + kSlack) bytes.
    void (*smooth)(const std::uint8_t* const rows[5], int width, std::uint8_t* line, std::uint8_t* out);
    void (*halve)(const std::uint8_t* a, const std::uint8_t* b, int width, std::uint8_t* out);  // width: of out
    // For each cell the mean colour of four pixels in its middle, from two rows of blue, green and red: kColourBits of each.
    void (*colours)(const std::uint8_t* upper, const std::uint8_t* lower, int width, int cells, std::uint16_t* out);
};

struct Pixel {
    int x, y;
};

struct Shift {
    float x, y;
};

inline constexpr int kRadius = 5;  // px: the tracked window is 11 x 11
inline constexpr int kBlock = 4;   // px: side of the blocks whose texture is compared

SHARED bool holds_window(int width, int height, int x, int y) {  // one pixel wider: for gradients and interpolation
    return x > kRadius && y > kRadius && x + kRadius + 1 < width && y + kRadius + 1 < height;
}

struct Tracking {  // one level of both pyramids
    const std::uint8_t *image, *target;
    std::ptrdiff_t stride;
    int width, height;
};

// Matches, one array per coordinate, relative to the frame's middle; padded to whole vectors by ones that never fit.
struct MatchArrays {
    const float *x, *y, *to_x, *to_y;
    int padded;
};

inline constexpr int kSums = 24;  // of the weighted products that a homography's normal equations consist of

struct MotionKernels {
    // Structure tensors of the blocks of a row of blocks, summed over 4x4 pixels: three rows xx, xy, yy, `pitch` apart.
    // rows[0] to rows[5]: the pixels' four rows, with one above and one below. Gradients are times 2.
    void (*tensors)(const std::uint8_t* const rows[6], int blocks, float* out, std::ptrdiff_t pitch);
    // Smaller eigenvalue of the tensors summed over 3x3 blocks; rows as written by tensors, one above and one below.
    void (*texture)(const float* const rows[3], std::ptrdiff_t pitch, int blocks, float* out);
    // Lucas-Kanade for each point from its shift on. tracked: 0 if the window left the image, had no texture or did not
    // fit; then shifts stay.
    void (*track)(const Tracking& level, const Pixel* points, int count, Shift* shifts, std::uint8_t* tracked);
    int (*count)(const MatchArrays& matches, const float h[9], float tolerance);
    // Geman-McClure weights for errors under h; sums over matches of weight * {xx, xy, x, yy, y, 1} * {1, X, Y, XX + YY}.
    void (*sums)(const MatchArrays& matches, const float h[9], float tolerance, double out[kSums]);
};

struct Planes {  // of the model or of a row of it: two modes x {mean, variance, age}
    float* of[6];
};

struct ModelConstants {
    float max_age, match, threshold, initial_variance, min_variance, decay_variance, decay_rate;
};

struct Warp {
    const ModelConstants* constants;
    Planes from, to;  // from: the whole model; to: the row
    std::ptrdiff_t pitch;
    int columns, rows;
    float h[9];  // from cells to cells, at this row
};

struct Learning {  // one row of cells
    const ModelConstants* constants;
    Planes from, to;  // the row; may be the same
    const std::uint8_t* pixels;
    std::uint8_t* mask;
    std::ptrdiff_t stride, mask_stride;
    std::int32_t* marks;
    float* means;  // of the cells, grey levels
    int columns;
    float light, gain, slope;  // change of level in column i: light + gain * level + slope * i
};

// A cell's marks: pixels that moved (0..16), which columns (4 bits) and rows (4 bits) hold them, |cell - background|.
SHARED int moved(std::int32_t mark) { return mark & 255; }
SHARED int moved_columns(std::int32_t mark) { return mark >> 8 & 15; }
SHARED int moved_rows(std::int32_t mark) { return mark >> 12 & 15; }
SHARED int contrast(std::int32_t mark) { return mark >> 16; }

inline constexpr int kUnlike = 5;          // of a cell's 16 pixels: a one-pixel line, as edges leave it, has 4
inline constexpr std::int32_t kAllMoved = 0xff10;  // the mark, but for its contrast, of a cell that moved as a whole

inline constexpr int kLightSums = 14;  // of 4 x 5 symmetric normal equations

struct ModelKernels {
    void (*warp)(const Warp& row);
    void (*means)(const std::uint8_t* pixels, std::ptrdiff_t stride, int columns, float* out);
    void (*learn)(const Learning& row);
    // Adds a row's settled cells to the normal equations of change = l . (1, level, column, row), 16 lanes each.
    void (*light)(const float* mean, const float* age, const float* cell, int columns, float step, float y,
                  const float l[4], float spread, float sums[kLightSums][kLanes]);
    // bits: whether the cell and its surroundings moved enough. above, here, below: marks; they may be read one before
    // the row and up to 16 past it, and hold 0 there.
    void (*seeds)(const std::int32_t* above, const std::int32_t* here, const std::int32_t* below, int columns,
                  int least_here, int least_around, std::uint64_t* bits);
};

struct Past {  // a row of cells, and how it lies in an earlier frame
    const float *above, *here, *below;  // means of the frame's cells; columns -1 and `columns` repeat the outermost
    const float* then;                  // those of the earlier frame, all of them, the outermost repeated too
    std::ptrdiff_t pitch;
    int columns, rows;
    float h[9];       // from cells to the earlier frame's, at this row
    float gain, offset;  // of its grey levels since
    float noise_scale;  // variance of the differences at rest, as a multiple of what is expected of it
    float weight;
    bool first;  // of the frames compared with: out is written, not added to
    float* out;
    const float *moved, *moved_here;  // belief of the earlier frame's cells, all of them; of its row at the same place
    float* uncovered;    // the part of out, 0 or less, of cells that rested in the comparisons before, and where something moved then
    float* stays;        // 1 where something moved then, there and at the same place of the picture, else 0. Either may be nullptr: not asked for
};

struct Weighing {  // of a row of cells
    const std::int32_t* marks;
    const float *age, *variance, *rest, *uncovered, *colour;
    int columns;
    float *stays, *out;  // stays: from 0 or 1 to evidence
};

inline constexpr int kSteps = 16;     // in which sums count, so that they are whole numbers and the same in any order
inline constexpr int kMostSquare = 9;  // a cell's squared difference over its expected variance counts this much at most

struct SegmentKernels {
    // Adds each cell's logarithm of how much likelier rest is than motion. Returns the sum of kSteps * min(kMostSquare, squared
    // difference over the variance that is expected at rest) and the number of cells that it was taken over.
    std::int64_t (*compare)(const Past& row, int* cells);
    // How strongly a cell is tied to its right-hand and lower neighbours; returns the sum of kSteps * |difference| of both.
    int (*tie)(const float* here, const float* below, int columns, float scale, float* right, float* down);
    void (*weigh)(const Weighing& row);
    // Messages along `count` (at most kLanes) rows, from both sides: out = what the left and right tell each cell.
    void (*along_rows)(const float* evidence, const float* ties, std::ptrdiff_t pitch, int count, int columns, float* room, float* out);
    // One step along the columns: out = line (or += if `back`); line = what the next row is told.
    void (*along_columns)(const float* evidence, const float* horizontal, const float* ties, int columns, bool back, float* line, float* out);
};

struct Kernels {
    const char* name;
    const ImageKernels& image;
    const MotionKernels& motion;
    const ModelKernels& model;
    const SegmentKernels& segment;
};

// The best that this processor can run, or the one that the environment's FASTMCD_LEVEL names.
// std::invalid_argument if that is unknown or not supported here.
const Kernels& kernels();

}  // namespace fastmcd
