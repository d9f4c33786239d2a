// Where the fastMCD program's frames come from: a video, a directory of images or a camera, by OpenCV.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cctype>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <opencv2/core.hpp>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/videoio.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "results.hpp"

namespace fastmcd {

// libpng, libjpeg and others write to stderr by themselves; while this lives they write nowhere.
class Quiet {
public:
    Quiet() : saved_(dup(2)), null_(::open("/dev/null", O_WRONLY)) { dup2(null_, 2); }
    ~Quiet() {
        dup2(saved_, 2);
        ::close(saved_);
        ::close(null_);
    }
    Quiet(const Quiet&) = delete;
    Quiet& operator=(const Quiet&) = delete;

private:
    int saved_, null_;
};

// ---- Names

inline bool is_digit(char c) { return c >= '0' && c <= '9'; }

inline bool is_image(const fs::path& path) {
    static const char* const kSuffixes[] = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"};
    std::string suffix = path.extension().string();
    for (char& c : suffix) c = char(std::tolower(static_cast<unsigned char>(c)));
    return std::find(std::begin(kSuffixes), std::end(kSuffixes), suffix) != std::end(kSuffixes);
}

// Whether one name comes before another, by text in which numbers count as numbers: 1, 2, 10.
inline bool comes_before(std::string_view one, std::string_view other) {
    const auto number = [](std::string_view text, std::size_t& at) {
        const std::size_t start = std::min(text.find_first_not_of('0', at), text.size());
        for (at = start; at < text.size() && is_digit(text[at]);) ++at;
        return text.substr(start, at - start);
    };
    std::size_t i = 0, j = 0;
    while (i < one.size() && j < other.size()) {
        const char a = one[i], b = other[j];
        if (is_digit(a) && is_digit(b)) {
            const auto x = number(one, i), y = number(other, j);
            if (x != y) return x.size() == y.size() ? x < y : x.size() < y.size();
        } else if (is_digit(a) || is_digit(b)) {
            return is_digit(a);
        } else if (a != b) {
            return static_cast<unsigned char>(a) < static_cast<unsigned char>(b);
        } else {
            ++i, ++j;
        }
    }
    const auto left = one.size() - i, right = other.size() - j;
    return left || right ? !left : one < other;
}

// ---- Files

// Bytes of a file from `at` on, at most `most`; fewer at its end.
inline std::string read_file(const fs::path& path, std::size_t most, std::uintmax_t at = 0) {
    std::ifstream file(path, std::ios::binary);
    const std::uintmax_t size = fs::file_size(path);
    std::string data(std::size_t(std::min<std::uintmax_t>(most, size - std::min(at, size))), '\0');
    if (!file.seekg(std::streamoff(at)).read(data.data(), std::streamsize(data.size())))
        throw Failure(path.string() + ": " + std::strerror(errno));
    return data;
}

inline cv::Mat read_image(const fs::path& path, int flags = cv::IMREAD_COLOR) {
    const std::string data = read_file(path, SIZE_MAX);
    if (data.empty()) throw Failure(path.string() + " is empty");
    // OpenCV fills the missing part of a JPEG with grey. Neither marker can occur inside the compressed data.
    const auto last = [&](const char* marker) { return std::ptrdiff_t(data.rfind(marker)); };
    const bool cut_off = data.starts_with("\xff\xd8") && last("\xff\xd9") < last("\xff\xda");
    if (cut_off) throw Failure(path.string() + " is cut off");
    cv::Mat image;
    try {
        const Quiet quiet;
        image = cv::imdecode(cv::Mat(1, int(data.size()), CV_8U, const_cast<char*>(data.data())), flags);
    } catch (const cv::Exception&) {  // then it stays empty
    }
    if (image.empty()) throw Failure(path.string() + " cannot be read as an image");
    return image;
}

inline std::uint64_t big_endian(std::string_view bytes) {
    std::uint64_t value = 0;
    for (unsigned char byte : bytes) value = value << 8 | byte;
    return value;
}

// How far a video file must reach by what its container says at its top level; 0 if it doesn't say. AVI, MP4, Matroska and MPEG-TS do.
inline std::uintmax_t announced_size(const fs::path& path) {
    const std::uintmax_t size = fs::file_size(path);
    const std::string head = read_file(path, 512);
    std::uintmax_t at = 0;
    if (head.starts_with("RIFF")) {
        while (at + 8 <= size) {  // one of 1 GiB after the other
            std::string chunk = read_file(path, 8, at);
            if (!chunk.starts_with("RIFF")) break;
            std::reverse(chunk.begin() + 4, chunk.end());
            const std::uint64_t length = big_endian(chunk.substr(4));
            if (length == 0 || length == 0xffffffff) return 0;  // its recorder could not go back to say
            at += 8 + length;
        }
        return at;
    }
    for (const char* box : {"ftyp", "moov", "mdat", "wide", "free", "skip"}) {
        if (head.size() < 8 || head.compare(4, 4, box) != 0) continue;
        while (at + 8 <= size) {
            const std::string start = read_file(path, 16, at);
            const std::uint64_t brief = big_endian(start.substr(0, 4)), length = brief == 1 ? big_endian(start.substr(8)) : brief;
            if (length < 8 || length > INT64_MAX - at) return 0;  // 0: to the end of the file
            at += length;
        }
        return at;
    }
    if (const auto segment = head.find("\x18\x53\x80\x67"); segment != head.npos && head.starts_with("\x1a\x45\xdf\xa3")) {
        const std::string field = head.substr(segment + 4, 8);  // RFC 8794, 4: as many bytes as its first one has leading zeros, and one
        const auto zeros = field.empty() ? 8 : std::countl_zero(static_cast<unsigned char>(field[0]));
        if (std::size_t(zeros) >= field.size()) return 0;
        const std::uint64_t unknown = (std::uint64_t(1) << 7 * (zeros + 1)) - 1;
        const std::uint64_t length = big_endian(field.substr(0, std::size_t(zeros) + 1)) & unknown;
        return length == unknown ? 0 : segment + 5 + std::uint64_t(zeros) + length;
    }
    if (head.size() > 188 && head[0] == 'G' && head[188] == 'G') return (size + 187) / 188 * 188;
    return 0;
}

// ---- Frames

class Source {
public:
    explicit Source(const std::string& input) : name(input) {
        camera_ = !input.empty() && input.size() < 9 && std::all_of(input.begin(), input.end(), is_digit) && !fs::exists(input);
        if (camera_) {
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
                          (camera_ ? "; is it connected, and free?"
                                   : " as a video; it may be cut off, damaged or of an unknown format"));
        count = announced();
    }

    // False at the end. All frames have the size of the first. Failure, after the last one, if the file is cut off or most of it is damaged.
    bool next(cv::Mat& frame) {
        std::string place;
        if (images_.empty()) {
            place = format("%s: frame %ld", name.c_str(), read + 1);
            if (!decode(frame)) return end();
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

    std::string name, note;     // note: what is to be said of it, or nothing
    long count = 0;             // frames announced, also those that an edit list hides; 0: unknown
    long read = 0, damaged = 0;  // frames so far, and those between them that could not be decoded

private:
    void list(fs::path directory) {
        if (fs::is_directory(directory / "input")) directory /= "input";  // a clip of CDnet
        name = directory.string();
        for (const auto& entry : fs::directory_iterator(directory))
            if (entry.is_regular_file() && is_image(entry.path()) && !entry.path().filename().string().starts_with("."))
                images_.push_back(entry.path());
        if (images_.empty()) throw Failure(name + " holds no image (png jpg jpeg bmp webp tif tiff)");
        std::sort(images_.begin(), images_.end(), [](const fs::path& one, const fs::path& other) {
            return comes_before(one.filename().string(), other.filename().string());
        });
        const cv::Mat first = read_image(images_[0], cv::IMREAD_ANYDEPTH);
        double most = 0;
        cv::minMaxLoc(first, nullptr, &most);
        if (first.depth() == CV_16U && most < 1 << 14)  // as thermal cameras write 12 and 14 bits
            note = name + ": 16-bit images that use little of their range; here they are as dark as that makes them";
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
        path_ = fs::absolute(path);  // FFmpeg takes what stands before a colon for a protocol
        const Quiet quiet;
        capture_.open(path_.string());
    }

    // 0 too if a damaged header tells of more frames than the file may hold: an entry for one takes 8 bytes in any container.
    long announced() const {
        if (!images_.empty()) return long(images_.size());
        const double frames = camera_ ? 0 : capture_.get(cv::CAP_PROP_FRAME_COUNT);
        return frames > 0 && frames <= double(fs::file_size(path_)) / 8 ? long(frames) : 0;
    }

    // False at the end: OpenCV says the same of a frame that cannot be decoded, but goes on after that when it is asked again.
    bool decode(cv::Mat& frame) {
        const long tries = camera_ ? 1 : std::max(1000L, count - read);
        for (long failed = 0; failed < tries; ++failed) {
            if (!capture_.read(frame)) continue;
            if (read) damaged += failed;
            return true;
        }
        return false;
    }

    bool end() {
        if (!read) throw Failure(name + " holds no frame that can be read");
        if (damaged > read)
            throw Failure(format("%s: %ld of %ld frames are damaged; the others were kept", name.c_str(), damaged, damaged + read));
        if (!path_.empty() && announced_size(path_) > fs::file_size(path_))
            throw Failure(format("%s: ends before its container does, after %ld frames, which were kept; was it cut off?", name.c_str(), read));
        return false;
    }

    std::vector<fs::path> images_;
    fs::path path_;  // of a video
    cv::VideoCapture capture_;
    cv::Size size_;
    bool camera_ = false;
};

}  // namespace fastmcd
