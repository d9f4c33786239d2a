// The directory that the fastMCD program writes: a table of detections and the PNG files it names. No OpenCV here.
#pragma once

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

namespace fastmcd {

// A wrong input, or a disk that takes no more: what() is one complete line.
struct Failure : std::runtime_error {
    using std::runtime_error::runtime_error;
};

template <class... Values>
std::string format(const char* pattern, Values... values) {
    std::string text(std::size_t(std::snprintf(nullptr, 0, pattern, values...)), '\0');
    std::snprintf(text.data(), text.size() + 1, pattern, values...);
    return text;
}

struct File {
    std::string name;  // relative to the directory
    std::vector<std::uint8_t> data;
};

// What has been added stays, whatever comes: the table gets its name with all whole frames in it, even on a full disk.
class Results {
public:
    // Makes the directory, or empties it of earlier results. Failure if it holds anything else, or the input.
    Results(const std::filesystem::path& input, const std::filesystem::path& directory, bool frames)
        : directory_(directory) {
        refuse_input(input);
        std::filesystem::create_directories(directory_);
        if (!exists(table()) && !exists(part())) refuse_foreign();
        for (const char* kind : {"crops", "masks", "frames"}) {
            const bool needed = frames || kind[0] != 'f';
            if (needed) std::filesystem::create_directories(directory_ / kind);
            if (is_directory(directory_ / kind)) clear(directory_ / kind);
        }
        std::filesystem::remove(table());
        file_ = std::fopen(part().c_str(), "wb");
        if (!file_) fail(part());
        std::setvbuf(file_, nullptr, _IONBF, 0);
        append("frame,object,x,y,width,height,score,crop\n");
    }

    ~Results() { close(); }
    Results(const Results&) = delete;
    Results& operator=(const Results&) = delete;

    // One frame's files and rows: all of them, or none and a Failure.
    void add(const std::vector<File>& files, const std::string& rows) {
        std::size_t written = 0;
        try {
            for (; written < files.size(); ++written) write(directory_ / files[written].name, files[written].data);
            append(rows);
        } catch (...) {
            std::error_code ignored;
            for (std::size_t i = 0; i <= written && i < files.size(); ++i)
                std::filesystem::remove(directory_ / files[i].name, ignored);
            throw;
        }
    }

    // Gives the table its name; Failure if that goes wrong.
    void finish() {
        if (!close()) fail(table());
    }

private:
    std::filesystem::path table() const { return directory_ / "detections.csv"; }
    std::filesystem::path part() const { return directory_ / "detections.csv.part"; }

    [[noreturn]] static void fail(const std::filesystem::path& path) {
        throw Failure(path.string() + ": " + std::strerror(errno) + "; make room or choose another directory");
    }

    void refuse_input(const std::filesystem::path& input) const {
        if (!exists(input)) return;  // a camera
        const auto in = weakly_canonical(input), out = weakly_canonical(directory_);
        if (std::mismatch(out.begin(), out.end(), in.begin(), in.end()).first == out.end())
            throw Failure(input.string() + " lies in " + directory_.string() +
                          ", which would be replaced; choose another directory");
    }

    void refuse_foreign() const {
        for (const auto& entry : std::filesystem::directory_iterator(directory_)) {
            const std::string name = entry.path().filename().string();
            if (name != "predictions.csv" && name != "contact_sheet.png" && !name.starts_with("annotated."))
                throw Failure(directory_.string() + " is no results directory but holds '" + name +
                              "'; choose an empty or a new one");
        }
    }

    static void clear(const std::filesystem::path& directory) {
        std::vector<std::filesystem::path> stale;
        for (const auto& entry : std::filesystem::directory_iterator(directory)) {
            const auto& path = entry.path();
            const bool numbered = std::isdigit(static_cast<unsigned char>(path.filename().string()[0]));
            if (numbered && path.extension() == ".png") stale.push_back(path);
        }
        for (const auto& path : stale) std::filesystem::remove(path);
    }

    static void write(const std::filesystem::path& path, const std::vector<std::uint8_t>& data) {
        std::FILE* file = std::fopen(path.c_str(), "wb");
        if (!file) fail(path);
        const bool whole = std::fwrite(data.data(), 1, data.size(), file) == data.size();
        if (std::fclose(file) != 0 || !whole) fail(path);
    }

    void append(const std::string& rows) {
        if (std::fwrite(rows.data(), 1, rows.size(), file_) != rows.size()) fail(part());
        whole_ += rows.size();
    }

    bool close() {
        if (!file_) return true;
        const bool closed = std::fclose(std::exchange(file_, nullptr)) == 0;
        std::error_code error;
        std::filesystem::resize_file(part(), whole_, error);
        return closed && !error && std::rename(part().c_str(), table().c_str()) == 0;
    }

    std::filesystem::path directory_;
    std::FILE* file_ = nullptr;
    std::uintmax_t whole_ = 0;  // bytes of whole frames
};

}  // namespace fastmcd
