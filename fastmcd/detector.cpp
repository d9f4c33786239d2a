// The pipeline: smooth, register, compare, clean up.
#include <algorithm>
#include <chrono>
#include <stdexcept>
#include <string>
#include <utility>

#include "fastmcd.hpp"
#include "model.hpp"
#include "motion.hpp"
#include "regions.hpp"
#include "segment.hpp"
#include "workers.hpp"

namespace fastmcd {
namespace {

constexpr int kMaxArea = 4096 * 2160;
constexpr int kBandRows = 16;  // rows of cells: fewer are not worth a thread
constexpr int kSteady = 10;   // frames of rest, after which the camera is taken to stand on something firm
constexpr double kFastTurn = 0.1;  // of the frame's longer side, from frame to frame
constexpr int kPatience = 4;  // frames of unknown motion that are passed over: a jerk, or a lorry close by

std::string size(int width, int height) { return std::to_string(width) + "x" + std::to_string(height); }

Params checked(int width, int height, Params params) {
    const auto [shorter, longer] = std::minmax(width, height);
    if (shorter < kMinSide || longer > kMaxSide || std::int64_t(shorter) * longer > kMaxArea)
        throw std::invalid_argument("frame size is " + size(width, height) + ", sides must be " + std::to_string(kMinSide) + " to " +
                                    std::to_string(kMaxSide) + " px, and " + size(kMaxSide, kMaxArea / kMaxSide) + " pixels in all at most");
    for (const Parameter& parameter : parameters()) parameter.set(params, parameter.get(params));
    return params;
}

class Stopwatch {
public:
    explicit Stopwatch(bool on) : on_(on), last_(on ? Clock::now() : Clock::time_point()) {}
    double lap_ms() {
        if (!on_) return 0;
        const auto last = std::exchange(last_, Clock::now());
        return std::chrono::duration<double, std::milli>(last_ - last).count();
    }

private:
    using Clock = std::chrono::steady_clock;
    bool on_;
    Clock::time_point last_;
};

}  // namespace

struct Detector::State {
    State(int width, int height, const Params& params)
        : workers(std::clamp(cells(height) / kBandRows, 1, params.threads)), smooth(width, workers), current(width, height), reference(width, height), estimate_motion(current, params),
          model(width, height, params, workers), mask(width, height), segment(cells(width), cells(height)), find_regions(width, height, params) {}

    void check_size(int width, int height) const;
    void forget() { model.reset(), segment.reset(), estimate_motion.reset(), find_regions.reset(); }
    bool place(const Motion& motion);  // false: the frame could not be compared with the model
    bool turning() const;              // the camera's last known motion was so fast that the next one was lost to it

    Workers workers;
    Smoother smooth;
    Pyramid current, reference;
    MotionEstimator estimate_motion;
    Model model;
    Plane mask;
    Segmenter segment;
    Regions find_regions;
    bool started = false, compared = false;  // with the reference
    bool turned = false;                     // the next frame is a clip's first, and the one before came after it
    int still_frames = 0;
    int lost = 0;  // frames since the last one of known motion
    Homography last = kIdentity;  // motion
};

void Detector::State::check_size(int width, int height) const {
    if (width != mask.width || height != mask.height)
        throw std::invalid_argument("frame is " + size(width, height) + ", detector was made for " + size(mask.width, mask.height));
}

// The reference, against which motion is measured, stays while the camera does: then the model is not resampled either,
// and neither blurs nor drifts; a creeping camera is noticed when its movement has added up. The reference stays too
// where motion is unknown: such frames are passed over, as good ones will follow a jerk of the camera. Only if they
// don't, all is learned anew; doing so at once would take what moves now for background.
bool Detector::State::place(const Motion& motion) {
    const bool still = motion.known && motion.homography == kIdentity;
    if (!motion.known) {
        if (started && ++lost <= kPatience) return false;
        forget();
        started = true;
    }
    lost = 0;
    last = motion.homography;
    still_frames = still ? std::min(still_frames + 1, kSteady + 1) : 0;
    model.update(current.levels[0], motion.homography, mask);
    segment(model, estimate_motion.epipole(), estimate_motion.points());
    model.correct(segment.belief(), segment.rest(), mask);
    if (!still) std::swap(current, reference);
    return true;
}

// A camera that turns fast follows something, and has it still in view where it was; else motion is lost to a cut or to what covers all.
bool Detector::State::turning() const {
    return corner_shift(last, mask.width, mask.height) > kFastTurn * std::max(mask.width, mask.height);
}

Detector::Detector(int width, int height, const Params& params)
    : state_(std::make_unique<State>(width, height, checked(width, height, params))) {}
Detector::~Detector() = default;
Detector::Detector(Detector&&) noexcept = default;
Detector& Detector::operator=(Detector&&) noexcept = default;

Result Detector::detect(Image grey, Timings* timings) { return feed(grey, timings); }
Result Detector::detect_bgr(Colour frame, Timings* timings) { return feed(frame, timings); }

template <class Frame>
Result Detector::feed(const Frame& frame, Timings* timings) {
    State& s = *state_;
    s.check_size(frame.width, frame.height);
    Stopwatch watch(timings != nullptr);
    Timings spent{};

    s.segment.colours().look(frame);
    s.smooth(frame, s.current.levels[0]);
    s.current.build(s.workers);
    spent.smooth_ms = watch.lap_ms();

    const bool first = std::exchange(s.turned, false);
    s.compared = s.started && !first;
    const Motion motion = s.started ? s.estimate_motion(s.current, s.reference, s.last, &s.mask) : Motion{kIdentity, false, 0, 0};
    spent.motion_ms = watch.lap_ms();

    const bool placed = s.place(motion);
    spent.model_ms = watch.lap_ms();

    std::span<const Object> objects;
    if (placed)
        objects = s.find_regions(s.mask, s.model.marks(), motion.homography, s.still_frames > kSteady, s.estimate_motion.points());
    else if (s.turning()) objects = s.find_regions.last();
    else std::fill(s.mask.pixels.begin(), s.mask.pixels.end(), std::uint8_t(0));
    spent.boxes_ms = watch.lap_ms();
    if (timings) *timings = spent;
    if (!first) return {objects, s.mask.view(), motion};
    s.last = kIdentity;  // the next one goes the other way
    return {objects, s.mask.view(), {kIdentity, false, 0, 0}};
}

template <class Frame>
void Detector::rehearse_any(std::span<const Frame> first) {
    for (const Frame& frame : first) state_->check_size(frame.width, frame.height);
    reset();
    for (std::size_t i = first.size(); i-- > 1;) feed(first[i], nullptr);
    if (state_->lost) reset();  // to a scene that comes later
    state_->turned = state_->started;
}

void Detector::rehearse(std::span<const Image> first) { rehearse_any(first); }
void Detector::rehearse(std::span<const Colour> first) { rehearse_any(first); }

std::vector<TrackedPoint> Detector::tracked() const {
    return state_->compared ? state_->estimate_motion.tracked() : std::vector<TrackedPoint>();
}

Background Detector::background() const { return state_->model.background(); }

void Detector::reset() {
    state_->started = state_->compared = state_->turned = false;
    state_->lost = state_->still_frames = 0;
    state_->last = kIdentity;
    state_->forget();
}

std::size_t Detector::bytes() const {
    const State& s = *state_;
    return sizeof s + s.smooth.bytes() + s.current.bytes() + s.reference.bytes() + s.estimate_motion.bytes() +
           s.model.bytes() + s.segment.bytes() + s.mask.pixels.size() + s.find_regions.bytes();
}

}  // namespace fastmcd
