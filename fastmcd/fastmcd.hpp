// fastMCD: finds moving objects before a camera that may move itself. C++20, standard library only.
//
//     fastmcd::Detector detector(640, 480);
//     for (...) {                                                        // grey: 640 x 480 bytes
//         const fastmcd::Result result = detector.detect({grey, 640, 480, 640});
//         for (const fastmcd::Object& object : result.objects) use(object.box, object.crop, object.score);
//     }
//
// Each frame is smoothed (nearly a 5x5 median), registered to the one before it (textured points tracked by Lucas-Kanade,
// then a RANSAC homography), and compared with a background model that is carried along under that homography:
// one Gaussian per cell of 4x4 pixels, and a second one as the candidate that may replace it. Cells that do not fit the background,
// have changed since the last frames, or have the colours of what moved, are evidence for motion; neighbouring cells that look alike
// prefer the same label. Moving cells become the mask, and the mask's connected regions become boxes. docs/detector.md has more.
// Method: Yi et al., "Detection of Moving Objects with Non-stationary Cameras in 5.8ms", CVPR Workshops 2013.
//
// With CMake: add_subdirectory(fastmcd), and link fastmcd_core.
//
// The same frames give the same bits, on every CPU and with any number of threads. A detector belongs to one thread at a time; different
// detectors share nothing. The first objects come with the second or third frame, and six frames after a scene cut. After rehearse(),
// which learns the background from a clip's first dozen frames, fed backwards, they come with the first frame.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <variant>
#include <vector>

namespace fastmcd {

// A non-owning view of one byte per pixel; a function reads it until it returns, not after. Rows are `stride` bytes apart, at least the
// length of a row. An image whose last row comes first in memory has a negative stride; `data` still points to the first row.
struct Image {
    const std::uint8_t* data;
    int width, height;
    std::ptrdiff_t stride;
};

// The same for pixels of three bytes: blue, green, red.
struct Colour {
    const std::uint8_t* data;
    int width, height;
    std::ptrdiff_t stride;
};

// Whole pixels, origin at the top left, always inside the frame.
struct Box {
    int x, y, width, height;
};

// What a score is computed from, each from 0 to 1.
struct Evidence {
    float size;      // s / (s + 0.1), s: square root of the box's area over the frame's
    float solid;     // share of the box that moved
    float distinct;  // c / (c + 16), c: contrast of its cells to the background, grey levels
    float lasting;   // n / (n + 4), n: number of frames in which it was found
};

struct Object {
    Box box;      // tight around what moved
    Box crop;     // box with context: the region to cut out for a classifier
    float score;  // 0..1: estimated share of true boxes (intersection over union >= 0.5) among boxes like this one
    Evidence evidence;
};

// The camera's motion. Frames of unknown motion are skipped, four in a row at most; then everything is learnt anew. Such a frame has no
// objects, except after a fast turn (more than a tenth of the frame): then it has those of the frame before.
struct Motion {
    // Row-major. Maps current pixel coordinates to the reference frame: the last frame of known motion or, while the camera stands
    // still, the frame in which it came to rest. So the homography is the identity as long as the camera rests.
    std::array<double, 9> homography;
    bool known;                        // false: scene cut, blur or too little texture; homography is then the identity
    // Points tracked, and those of them that the homography explains; where the camera rests or motion is unknown, those that the best
    // homography other than the identity would have explained.
    int points, inliers;
};

struct Timings {
    double smooth_ms, motion_ms, model_ms, boxes_ms;  // smooth includes colour to grey; model includes the segmentation
};

// Views into the detector, valid until its next call.
struct Result {
    std::span<const Object> objects;  // best score first; ties: larger box first, then topmost, then leftmost
    Image mask;                       // 0 or 255, after cleaning; only of the objects reported
    Motion motion;
};

// The detector's inner state, for tuning; copies.
struct TrackedPoint {
    double x, y;            // px, in the last frame
    double from_x, from_y;  // in the reference frame, see Motion
    bool inlier;            // the camera's motion explains it
};

struct Background {
    int columns, rows;                       // of cells of 4x4 px, row by row; the last ones may reach past the frame
    std::vector<float> mean, variance, age;  // grey levels, grey levels squared, frames
};

// Every parameter: its default, then its range and what more of it does. The constructor checks ranges; parameters() has help texts.
// Grey levels are 0..255, so a variance is in grey levels squared; ages are in frames.
struct Params {
    // Camera motion. Large frames are tracked on a level of the pyramid that is at most 512 pixels wide and high.
    int points = 192;               // 32..1000: largest number of points tracked. More: steadier, slower
    double tolerance = 1.0;         // 0.2..5 px of the tracked level: how far an inlier may deviate. Less: motion unknown more often
    double min_inliers = 0.3;       // 0.25..0.9: share of points that must agree, else motion is unknown. More: safer
    // Background model.
    double max_age = 250;           // 2..1000 frames of memory: what stops becomes background after so many. More: ghosts last, too
    double match = 1;               // 0.5..20 variances: a cell this near its background updates it. More: absorbs more
    double threshold = 3.5;         // 1..50 variances: foreground is beyond. More: less noise, thinner objects
    double initial_variance = 400;  // 1..10000: of a cell just seen for the first time
    double min_variance = 36;       // 1..1000: the noise that is always expected. More: misses more in dark scenes
    double decay_variance = 2500;   // 100..65025: above this a cell is unreliable and loses age
    double decay_rate = 0.001;      // 0..1 per variance: how fast it loses age
    // Regions and boxes.
    double min_area = 0.0015;       // 0..0.5 of the frame: smaller regions are dropped
    double closing = 0.02;          // 0..0.1 of the frame's diagonal: gaps that are bridged. More: neighbours join
    int persistence = 1;            // 1..30 frames with an object before it is reported. More: less flicker
    double min_score = 0.2;         // 0..1: objects that score less are not reported. More: fewer false ones, and fewer true ones
    int max_objects = 64;           // 1..1000 per frame; those with the best scores are kept
    double crop_context = 0.1;      // 0..1: margin on each side of a crop, as a share of the box's width or height there
    double crop_aspect = 2;         // 1..100: largest ratio of a crop's longer side to its shorter one; 1: squares
    int min_crop = 32;              // 1..1024 px: smallest side of a crop (less only where the frame is smaller)
    // Start. For the caller who feeds the frames; the detector itself does not read it: see Detector::rehearse.
    int rehearsal = 12;             // 0..100 first frames of a clip to be fed backwards before. More: begins later
    // Speed.
    int threads = 1;                // 1..16: share the rows of large frames; small frames use fewer. They do not outlive fork()
};

// One field of Params, as a command line or a binding needs it.
struct Parameter {
    const char* name;
    const char* help;
    double low, high;  // both allowed
    std::variant<int Params::*, double Params::*> field;

    double get(const Params& params) const;
    void set(Params& params, double value) const;  // std::invalid_argument if out of range or not whole
};

std::span<const Parameter> parameters();

class Detector {
public:
    // Frames of width x height: each 32 to 4096 px, and at most 4096x2160 pixels in all. std::invalid_argument if out of range.
    // All memory is allocated here. In frames over 10 times as long as they are wide, camera motion may not be found.
    Detector(int width, int height, const Params& params = {});
    ~Detector();
    Detector(Detector&&) noexcept;  // one that was moved from can only be assigned to and destroyed
    Detector& operator=(Detector&&) noexcept;

    // Feeds the next frame. std::invalid_argument if its size is another one. Timings are taken only if asked for.
    [[nodiscard]] Result detect(Image grey, Timings* timings = nullptr);
    [[nodiscard]] Result detect_bgr(Colour frame, Timings* timings = nullptr);  // registers what grey_from_bgr makes of it; grey is colour of equal parts

    std::vector<TrackedPoint> tracked() const;  // by the last frame; empty if that was the first
    Background background() const;              // as the last frame left it

    // Begins a clip: forgets everything, then learns the background from the clip's first frames, given in their order. It feeds them to
    // itself backwards, without the very first. Call detect() with all of them afterwards; the motion of the first is then reported as
    // unknown. If a cut lies between them (the motion is unknown at the end), everything is forgotten again. std::invalid_argument, and
    // nothing is forgotten, if a frame's size is another one.
    void rehearse(std::span<const Image> first);
    void rehearse(std::span<const Colour> first);
    void reset();               // forget everything: the next frame is the first
    std::size_t bytes() const;  // memory held; by default parameters below 30 per pixel from 320x240 up, 50 and 256 KiB at any size

private:
    template <class Frame>
    Result feed(const Frame& frame, Timings* timings);
    template <class Frame>
    void rehearse_any(std::span<const Frame> first);
    struct State;
    std::unique_ptr<State> state_;
};

// Names of the CPU levels that this processor can run, best first. A detector takes the first, or the one that the
// environment variable FASTMCD_LEVEL names when it is constructed (std::invalid_argument if it is none of them).
std::vector<std::string> levels();

// grey = (77 R + 150 G + 29 B + 128) / 256 for rows of blue, green, red bytes `stride` apart; grey rows are contiguous.
// Integers only, so that every caller sees the same bits. Within 1 level of 0.299 R + 0.587 G + 0.114 B.
// std::invalid_argument if FASTMCD_LEVEL names no level.
void grey_from_bgr(const std::uint8_t* bgr, std::ptrdiff_t stride, int width, int height, std::uint8_t* grey);

}  // namespace fastmcd
