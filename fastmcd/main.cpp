// fastMCD INPUT OUT_DIR: runs the detector over a video, a directory of images or a camera, and writes what it found:
//
//     OUT_DIR/detections.csv           frame,object,x,y,width,height,score,crop; frames count from 1, best object first
//     OUT_DIR/crops/000123_00.png      the region with context, cut from the colour frame
//     OUT_DIR/masks/000123.png         0 or 255
//     OUT_DIR/frames/000123.png        with --frames
//
// It is written in OUT_DIR.part and takes its place at the end, see results.hpp.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <opencv2/core/utils/logger.hpp>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/videoio.hpp>
#include <optional>
#include <string>
#include <vector>

#include "fastmcd.hpp"
#include "options.hpp"
#include "results.hpp"

namespace fs = std::filesystem;

namespace {

using fastmcd::Failure;
using fastmcd::format;
using fastmcd::Options;

volatile std::sig_atomic_t interrupted = 0;

// libpng, libjpeg and others write to stderr by themselves; while this lives they write nowhere.
class Quiet {
public:
    Quiet() : saved_(dup(2)), null_(open("/dev/null", O_WRONLY)) { dup2(null_, 2); }
    ~Quiet() {
        dup2(saved_, 2);
        close(saved_);
        close(null_);
    }
    Quiet(const Quiet&) = delete;
    Quiet& operator=(const Quiet&) = delete;

private:
    int saved_, null_;
};

// ---- Frames in

const char* const kSuffixes[] = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"};

bool is_image(const fs::path& path) {
    std::string suffix = path.extension().string();
    for (char& c : suffix) c = char(std::tolower(static_cast<unsigned char>(c)));
    return std::find(std::begin(kSuffixes), std::end(kSuffixes), suffix) != std::end(kSuffixes);
}

std::string read_file(const fs::path& path, std::size_t most) {
    std::ifstream file(path, std::ios::binary);
    std::string data(std::min<std::uintmax_t>(most, fs::file_size(path)), '\0');
    if (!file.read(data.data(), std::streamsize(data.size())))
        throw Failure(path.string() + ": " + std::strerror(errno));
    return data;
}

cv::Mat read_image(const fs::path& path) {
    const std::string data = read_file(path, SIZE_MAX);
    if (data.empty()) throw Failure(path.string() + " is empty");
    // OpenCV fills the missing part of a JPEG with grey. Neither marker can occur inside the compressed data.
    const auto last = [&](const char* marker) { return std::ptrdiff_t(data.rfind(marker)); };
    const bool cut_off = data.starts_with("\xff\xd8") && last("\xff\xd9") < last("\xff\xda");
    if (cut_off) throw Failure(path.string() + " is cut off");
    cv::Mat image;
    try {
        const Quiet quiet;
        image = cv::imdecode(cv::Mat(1, int(data.size()), CV_8U, const_cast<char*>(data.data())), cv::IMREAD_COLOR);
    } catch (const cv::Exception&) {  // then it stays empty
    }
    if (image.empty()) throw Failure(path.string() + " cannot be read as an image");
    return image;
}

class Source {
public:
    explicit Source(const std::string& input) : name(input) {
        const bool camera = input.size() < 9 && input.find_first_not_of("0123456789") == input.npos;
        if (camera) {
            name = "camera " + input;
            const Quiet quiet;
            capture_.open(std::stoi(input));
        } else if (fs::is_directory(input)) {
            list(input);
        } else {
            open_file(input);
        }
        if (images_.empty() && !capture_.isOpened())
            throw Failure(name + " cannot be opened" +
                          (camera ? "; is it connected, and free?"
                                  : " as a video; it may be cut off, damaged or of an unknown format"));
        const double announced = images_.empty() ? capture_.get(cv::CAP_PROP_FRAME_COUNT) : double(images_.size());
        count = !camera && announced > 0 && announced < 1e9 ? long(announced) : 0;
    }

    // False at the end. All frames have the size of the first.
    bool next(cv::Mat& frame) {
        std::string place;
        if (images_.empty()) {
            place = format("%s: frame %ld", name.c_str(), read + 1);
            if (!capture_.read(frame)) return end();
        } else {
            if (std::size_t(read) == images_.size()) return end();
            place = images_[std::size_t(read)].string();
            frame = read_image(place);
        }
        if (frame.type() != CV_8UC3) throw Failure(place + " is not 8-bit colour");
        if (!read++) size_ = frame.size();
        if (frame.size() != size_)
            throw Failure(place + format(" is %dx%d pixels, the first %dx%d; all must have one size", frame.cols,
                                         frame.rows, size_.width, size_.height));
        return true;
    }

    std::string name;
    long count = 0, read = 0;  // frames announced (0: unknown), and read so far
    bool short_of_frames = false;

private:
    void list(fs::path directory) {
        if (fs::is_directory(directory / "input")) directory /= "input";  // a clip of CDnet
        name = directory.string();
        for (const auto& entry : fs::directory_iterator(directory))
            if (entry.is_regular_file() && is_image(entry.path()) && !entry.path().filename().string().starts_with("."))
                images_.push_back(entry.path());
        if (images_.empty()) throw Failure(name + " holds no image (png jpg jpeg bmp webp tif tiff)");
        std::sort(images_.begin(), images_.end());
    }

    void open_file(const fs::path& path) {
        if (!fs::exists(path)) throw Failure(name + ": No such file or directory");
        const std::string head = read_file(path, 4096);
        if (head.empty()) throw Failure(name + " is empty");
        if (is_image(path))  // OpenCV would take 001.png for the start of a numbered sequence
            throw Failure(name + " is a single image; give a video file or the directory of the frames");
        // FFmpeg would draw some text files as frames, or follow a playlist.
        if (std::all_of(head.begin(), head.end(), [](unsigned char c) { return c > 0 && c < 128; }))
            throw Failure(name + " is a text file, not a video");
        const Quiet quiet;
        capture_.open(name);
    }

    bool end() {
        if (!read) throw Failure(name + " holds no frame that can be read");
        short_of_frames = count - read > std::max(2L, count / 100);  // intact AVI files announce up to a few too many
        return false;
    }

    std::vector<fs::path> images_;
    cv::VideoCapture capture_;
    cv::Size size_;
};

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

void run(const Options& options) {
    Source source(options.input);
    cv::Mat frame;
    source.next(frame);
    std::optional<fastmcd::Detector> detector;
    try {
        detector.emplace(frame.cols, frame.rows, options.params);
    } catch (const std::invalid_argument& error) {
        throw Failure(source.name + ": " + error.what());
    }
    fastmcd::Results results(options.input, options.out, options.frames);
    std::vector<std::uint8_t> grey(frame.total());
    const long total = options.limit && source.count ? std::min(options.limit, source.count)
                                                     : std::max(options.limit, source.count);
    Progress progress(total, options.quiet);
    long frames = 0, objects = 0;
    try {
        do {
            fastmcd::grey_from_bgr(frame.data, std::ptrdiff_t(frame.step), frame.cols, frame.rows, grey.data());
            const fastmcd::Result found = detector->detect({grey.data(), frame.cols, frame.rows, frame.cols});
            write_frame(results, ++frames, frame, found, options.frames);
            objects += long(found.objects.size());
            progress.show(frames, objects);
        } while (!interrupted && frames != options.limit && source.next(frame));
        if (source.short_of_frames)
            throw Failure(source.name + ": only " + std::to_string(source.read) + " of the " + std::to_string(source.count) +
                          " announced frames could be read (and were kept); is the file cut off?");
    } catch (const Failure& failure) {
        throw Failure(failure.what() + results.kept());
    }
    results.finish();
    progress.clear();
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
