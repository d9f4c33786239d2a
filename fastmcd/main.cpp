// fastMCD INPUT OUT_DIR: runs the detector over a video, a directory of images or a camera, and writes what it found:
//
//     OUT_DIR/detections.csv           frame,object,x,y,width,height,score,crop; frames count from 1, best object first
//     OUT_DIR/crops/000123_00.png      the region with context, cut from the colour frame
//     OUT_DIR/masks/000123.png         0 or 255
//     OUT_DIR/frames/000123.png        with --frames
//
// It is written in OUT_DIR.part and takes its place at the end, see results.hpp.
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <opencv2/core/utils/logger.hpp>
#include <opencv2/imgcodecs.hpp>
#include <optional>
#include <string>
#include <vector>

#include "fastmcd.hpp"
#include "options.hpp"
#include "results.hpp"
#include "source.hpp"

namespace fs = std::filesystem;

namespace {

using fastmcd::Failure;
using fastmcd::format;
using fastmcd::Options;

volatile std::sig_atomic_t interrupted = 0;

// ---- The run

void write_frame(fastmcd::Results& results, long number, const cv::Mat& frame, const fastmcd::Result& found,
                 bool keep) {
    std::vector<fastmcd::File> files;
    std::string rows;
    const auto add = [&files](std::string name, const cv::Mat& image) {
        files.push_back({std::move(name), {}});
        cv::imencode(".png", image, files.back().data);
    };
    for (std::size_t i = 0; i < found.objects.size(); ++i) {
        const fastmcd::Object& object = found.objects[i];
        const fastmcd::Box &box = object.box, &crop = object.crop;
        add(format("crops/%06ld_%02zu.png", number, i), frame(cv::Rect(crop.x, crop.y, crop.width, crop.height)));
        rows += format("%ld,%zu,%d,%d,%d,%d,%.4f,%s\n", number, i, box.x, box.y, box.width, box.height, double(object.score),
                       files.back().name.c_str());
    }
    const auto& [data, width, height, stride] = found.mask;
    add(format("masks/%06ld.png", number),
        cv::Mat(height, width, CV_8U, const_cast<std::uint8_t*>(data), std::size_t(stride)));
    if (keep) add(format("frames/%06ld.png", number), frame);
    results.add(files, rows);
}

// One line that is written over on a terminal; elsewhere one every ten seconds.
class Progress {
public:
    Progress(long total, bool quiet) : total_(total), quiet_(quiet) {}

    double seconds() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }

    void show(long frames, long objects) {
        const double now = seconds();
        if (quiet_ || now - shown_ < (terminal_ ? 0.1 : 10)) return;
        shown_ = now;
        std::string line = format("frame %ld", frames);
        if (total_) line += format("/%ld", total_);
        line += format("  %.1f frames/s  %ld objects", double(frames) / now, objects);
        if (total_) {
            const long left = std::lround(now / double(frames) * double(total_ - frames));
            line += format("  %ld:%02ld left", left / 60, left % 60);
        }
        std::fprintf(stderr, terminal_ ? "\r%s\x1b[K" : "%s\n", line.c_str());
    }

    void clear() const {
        if (terminal_ && !quiet_) std::fputs("\r\x1b[K", stderr);
    }

private:
    using Clock = std::chrono::steady_clock;
    const Clock::time_point start_ = Clock::now();
    const bool terminal_ = isatty(2);
    long total_;
    bool quiet_;
    double shown_ = 0;
};

// A source's frames, of which the first `most` are read at once; what is wrong with one of these is told when it is its turn.
class Frames {
public:
    Frames(fastmcd::Source& source, int most) : source_(source) {
        try {
            for (cv::Mat frame; (first_.empty() || int(first_.size()) < most) && source.next(frame); frame = cv::Mat())
                first_.push_back(frame);
        } catch (const Failure& failure) {
            if (first_.empty()) throw;
            failure_ = failure;
        }
    }

    const std::deque<cv::Mat>& first() const { return first_; }

    bool next(cv::Mat& frame) {
        if (first_.empty() && failure_) throw *failure_;
        if (first_.empty()) return source_.next(frame);
        frame = first_.front();
        first_.pop_front();
        return true;
    }

private:
    fastmcd::Source& source_;
    std::deque<cv::Mat> first_;
    std::optional<Failure> failure_;
};

void run(const Options& options) {
    fastmcd::Source source(options.input);
    if (!source.note.empty()) std::fprintf(stderr, "%s\n", source.note.c_str());
    Frames ahead(source, options.params.rehearsal);
    const cv::Size size = ahead.first().front().size();
    std::optional<fastmcd::Detector> detector;
    try {
        detector.emplace(size.width, size.height, options.params);
    } catch (const std::invalid_argument& error) {
        throw Failure(source.name + ": " + error.what());
    }
    fastmcd::Results results(options.input, options.out, options.frames);
    const auto view = [](const cv::Mat& frame) {
        return fastmcd::Colour{frame.data, frame.cols, frame.rows, std::ptrdiff_t(frame.step)};
    };
    std::vector<fastmcd::Colour> first;
    for (const cv::Mat& frame : ahead.first()) first.push_back(view(frame));
    detector->rehearse(first);
    const long total = options.limit && source.count ? std::min(options.limit, source.count)
                                                     : std::max(options.limit, source.count);
    Progress progress(total, options.quiet);
    long frames = 0, objects = 0;
    try {
        for (cv::Mat frame; !interrupted && (!options.limit || frames < options.limit) && ahead.next(frame);) {
            const fastmcd::Result found = detector->detect_bgr(view(frame));
            write_frame(results, ++frames, frame, found, options.frames);
            objects += long(found.objects.size());
            progress.show(frames, objects);
        }
    } catch (const Failure& failure) {
        throw Failure(failure.what() + results.kept());
    }
    results.finish();
    progress.clear();
    if (source.damaged)
        std::fprintf(stderr, "%s: %ld of %ld frames are damaged and were left out\n", source.name.c_str(), source.damaged,
                     source.damaged + source.read);
    if (!options.quiet)
        std::printf("%s: %ld objects in %ld frames, %.1f frames/s\n", options.out.c_str(), objects, frames,
                    double(frames) / progress.seconds());
    if (interrupted) throw Failure("interrupted; what was finished has been kept");
}

int complain(std::string line) {
    std::replace(line.begin(), line.end(), '\n', ' ');
    std::fprintf(stderr, "%sfastMCD: error: %s\n", isatty(2) ? "\r\x1b[K" : "", line.c_str());
    return 2;
}

}  // namespace

int main(int argc, char** argv) {
    setenv("OPENCV_FFMPEG_LOGLEVEL", "-8", 0);  // FFmpeg's "quiet"
    setenv("OPENCV_IO_MAX_IMAGE_PIXELS", "67108864", 0);  // a small file may claim to be a huge image
    cv::utils::logging::setLogLevel(cv::utils::logging::LOG_LEVEL_SILENT);
    struct sigaction action {};
    action.sa_handler = [](int) { interrupted = 1; };
    action.sa_flags = int(SA_RESETHAND);  // the second Ctrl-C ends at once
    sigaction(SIGINT, &action, nullptr);
    sigaction(SIGTERM, &action, nullptr);
    struct sigaction hangup {};
    sigaction(SIGHUP, nullptr, &hangup);
    if (hangup.sa_handler != SIG_IGN) sigaction(SIGHUP, &action, nullptr);  // nohup stays
    try {
        if (const auto options = fastmcd::parse(argc, argv)) run(*options);
        return 0;
    } catch (const fs::filesystem_error& error) {
        return complain(error.path1().string() + ": " + error.code().message());
    } catch (const std::exception& error) {
        return complain(error.what());
    }
}
