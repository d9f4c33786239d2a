// The directory that the fastMCD program writes: a table of detections and the PNG files it names. No OpenCV here.
#pragma once

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

namespace fastmcd {

namespace fs = std::filesystem;

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

// Keeps a second run away from a directory, be it this program or Python.
class Lock {
public:
    Lock() = default;
    ~Lock() {
        if (file_ >= 0) ::close(file_);
    }
    Lock(const Lock&) = delete;
    Lock& operator=(const Lock&) = delete;

    void take(const std::filesystem::path& directory, const std::filesystem::path& place) {
        file_ = ::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (file_ < 0) throw Failure(directory.string() + ": " + std::strerror(errno) + "; choose another directory");
        taken_ = flock(file_, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK;  // some file systems have no locks
        if (!taken_) throw Failure(place.string() + " is being written by another run; wait for it, or write elsewhere");
    }

    bool taken() const { return taken_; }

private:
    int file_ = -1;
    bool taken_ = false;
};

// A results directory in the making, as util/outputs/staging.py has it: written in OUT.part, every name recorded in its manifest.txt before
// the thing itself is made, and put in the place of OUT by finish(). Only what a manifest names is ever deleted. Without finish() earlier
// results stay in OUT, and what was finished is kept in OUT.part, or in OUT if nothing was there; without a whole frame nothing is kept.
class Results {
public:
    // Failure if OUT or OUT.part holds what no run has recorded, is a link or a file, or if the input lies in it.
    Results(const fs::path& input, const fs::path& directory, bool frames) : place_(without_slash(directory)), part_(beside(".part")) {
        for (const fs::path& path : {place_, part_})
            if (is_symlink(path)) throw Failure(path.string() + " is a link, which is not followed; give the directory that it leads to");
        if (weakly_canonical(fs::current_path() / "x").string().starts_with((weakly_canonical(place_) / "").string()))
            throw Failure(place_.string() + " is the current directory or above it and cannot be replaced; give a directory in it");
        refuse_input(input);
        fs::create_directories(part_);
        try {
            part_lock_.take(part_, place_);
            if (exists(place_)) place_lock_.take(place_, place_);
            const fs::path aside = beside(".old");  // a run was killed while it exchanged the two
            if (exists(aside) && !exists(place_)) fs::rename(aside, place_);
            if (earlier()) refuse_foreign(place_, true);
            for (const fs::path& leftover : {part_, aside})
                if (exists(leftover)) refuse_foreign(leftover, false), remove(leftover, leftover != part_);
            manifest_ = open(kManifest);
            append(manifest_, kFirstLine);
            for (const char* kind : {"crops", "masks", "frames"})
                if (frames || kind[0] != 'f') {
                    append(manifest_, kind + std::string("/\n"));
                    fs::create_directory(part_ / kind);
                }
            append(manifest_, std::string(kTable) + "\n");
            table_ = open(kTable);
            append(table_, "frame,object,x,y,width,height,score,crop\n");
        } catch (...) {
            std::error_code ignored;
            if (part_lock_.taken()) fs::remove(part_, ignored);  // if it is empty
            close();
            throw;
        }
    }

    ~Results() {
        close();
        std::error_code ignored;
        try {
            if (finished_) return;
            if (!frames_)
                remove(part_);
            else if (!earlier())
                remove_empty(place_), fs::rename(part_, place_);
        } catch (const std::exception&) {  // it stays in OUT.part
        }
    }
    Results(const Results&) = delete;
    Results& operator=(const Results&) = delete;

    // One frame's files and rows: all of them, or none and a Failure.
    void add(const std::vector<File>& files, const std::string& rows) {
        std::string names;
        for (const File& file : files) names += file.name + "\n";
        append(manifest_, names);
        std::size_t written = 0;
        try {
            for (; written < files.size(); ++written) write(part_ / files[written].name, files[written].data);
            append(table_, rows);
        } catch (...) {
            std::error_code ignored;
            for (std::size_t i = 0; i < written; ++i) fs::remove(part_ / files[i].name, ignored);
            throw;
        }
        ++frames_;
    }

    // What a message about a failure has to add.
    std::string kept() const {
        return frames_ && earlier() ? "; " + place_.string() + " is as it was, and what was finished is in " + part_.string() : "";
    }

    // Puts the results in their place; Failure if that goes wrong.
    void finish() {
        if (!close()) fail(part_);
        finished_ = true;
        fs::last_write_time(part_ / kManifest, fs::file_time_type::clock::now());  // nothing of ours is younger
        if (!earlier()) return remove_empty(place_), fs::rename(part_, place_);
        try {
            refuse_foreign(place_, true);
        } catch (const Failure& failure) {
            throw Failure(failure.what() + ("; the results are in " + part_.string()));
        }
        exchange();
        remove(part_);  // the earlier results
    }

private:
    struct Growing {
        std::FILE* file = nullptr;
        fs::path path;
        std::uintmax_t whole = 0;  // bytes
    };

    static constexpr const char* kTable = "detections.csv";
    static constexpr const char* kManifest = "manifest.txt";
    static constexpr const char* kFirstLine = "fastMCD results 1: what this run made, and the next one may delete\n";

    static fs::path without_slash(const fs::path& path) {
        const fs::path plain = path.lexically_normal();
        return plain.has_filename() ? plain : plain.parent_path();
    }

    fs::path beside(const char* ending) const { return place_.string() + ending; }

    [[noreturn]] static void fail(const fs::path& path) {
        throw Failure(path.string() + ": " + std::strerror(errno) + "; make room or choose another directory");
    }

    void refuse_input(const fs::path& input) const {
        if (!exists(input)) return;  // a camera
        for (const fs::path& ours : {place_, part_}) {
            const auto in = weakly_canonical(input), out = weakly_canonical(ours);
            if (std::mismatch(out.begin(), out.end(), in.begin(), in.end()).first == out.end())
                throw Failure(input.string() + " lies in " + ours.string() + ", which would be replaced; choose another directory");
        }
    }

    // Whether anything but directories is in OUT.
    bool earlier() const {
        if (!exists(place_)) return false;
        const auto is_dir = [](const fs::directory_entry& entry) { return entry.symlink_status().type() == fs::file_type::directory; };
        return !std::all_of(fs::recursive_directory_iterator(place_), {}, is_dir);
    }

    static void remove_empty(const fs::path& directory) {
        if (!exists(directory)) return;
        for (const auto& entry : fs::directory_iterator(directory)) remove_empty(entry.path());
        fs::remove(directory);
    }

    // ---- What is ours

    // The names in a manifest and its own; none if there is no manifest.
    static std::vector<std::string> recorded(const fs::path& directory) {
        const fs::path path = directory / kManifest;
        std::vector<std::string> names;
        if (!exists(symlink_status(path))) return names;
        std::ifstream file(path, std::ios::binary);
        std::string line, first = kFirstLine;
        bool ours = is_regular_file(symlink_status(path)) && file;
        if (std::getline(file, line)) ours = ours && (file.eof() ? first.starts_with(line) : line + "\n" == first);
        while (ours && std::getline(file, line) && !file.eof()) {  // a last line without its end was cut off before anything was made
            const auto slash = line.find('/');
            const bool plain = std::all_of(line.begin(), line.end(), [](unsigned char c) { return std::isalnum(c) || std::strchr("._-/", c); });
            ours = plain && !line.empty() && line[0] != '/' && line.find("..") == line.npos && line.find("./") == line.npos &&
                   (slash == line.npos || line.find('/', slash + 1) == line.npos);
            names.push_back(line);
        }
        if (!ours) throw Failure(path.string() + " is not a manifest of this program; choose an empty or a new directory");
        names.push_back(kManifest);
        return names;
    }

    // Failure if a directory holds what its manifest doesn't name; `changed`: or what is younger than the manifest.
    static void refuse_foreign(const fs::path& directory, bool changed) {
        const auto listed = recorded(directory);
        const std::set<std::string> names(listed.begin(), listed.end());
        const auto stamp = names.empty() ? fs::file_time_type::min() : fs::last_write_time(directory / kManifest);
        for (const auto& entry : fs::recursive_directory_iterator(directory)) {
            const auto kind = entry.symlink_status().type();
            const std::string name = fs::relative(entry.path().parent_path(), directory).string();
            const std::string leaf = entry.path().filename().string(), whole = name == "." ? leaf : name + "/" + leaf;
            const bool known = kind == fs::file_type::directory ? names.count(whole + "/") > 0
                                                                : kind == fs::file_type::regular && names.count(whole) > 0;
            if (!known)
                throw Failure(directory.string() + " holds '" + whole +
                              "', which no run has recorded as its own; choose an empty or a new directory");
            if (changed && kind == fs::file_type::regular && entry.last_write_time() > stamp)
                throw Failure(entry.path().string() + " was changed after the run that made it; choose an empty or a new directory");
        }
    }

    // Deletes what the manifest names, the manifest last, then the directory if it is empty; nothing through a link.
    static void remove(const fs::path& directory, bool itself = true) {
        std::error_code ignored;
        const auto names = recorded(directory);
        for (const std::string& name : names)
            if (name.back() != '/' && name != kManifest && !is_symlink((directory / name).parent_path()) &&
                is_regular_file(symlink_status(directory / name)))
                fs::remove(directory / name, ignored);
        for (const std::string& name : names)
            if (name.back() == '/' && !is_symlink(directory / name.substr(0, name.size() - 1)))
                fs::remove(directory / name.substr(0, name.size() - 1), ignored);  // if it is empty
        if (std::distance(fs::directory_iterator(directory), {}) == 1) fs::remove(directory / kManifest, ignored);
        if (itself) fs::remove(directory, ignored);
    }

    // Lets OUT.part and OUT change places, in one step where the system has one.
    void exchange() const {
#ifdef RENAME_EXCHANGE
        if (renameat2(AT_FDCWD, part_.c_str(), AT_FDCWD, place_.c_str(), RENAME_EXCHANGE) == 0) return;
#endif
        fs::rename(place_, beside(".old"));
        fs::rename(part_, place_);
        fs::rename(beside(".old"), part_);
    }

    // ---- Writing

    Growing open(const char* name) const {
        Growing growing{std::fopen((part_ / name).c_str(), "wbx"), part_ / name};  // x: a new file, never through a link
        if (!growing.file) fail(growing.path);
        std::setvbuf(growing.file, nullptr, _IONBF, 0);
        return growing;
    }

    static void write(const fs::path& path, const std::vector<std::uint8_t>& data) {
        std::FILE* file = std::fopen(path.c_str(), "wbx");
        if (!file) fail(path);
        const bool whole = std::fwrite(data.data(), 1, data.size(), file) == data.size();
        const int reason = errno;
        if (std::fclose(file) != 0 || !whole) {
            std::error_code ignored;
            fs::remove(path, ignored);
            errno = whole ? errno : reason;
            fail(path);
        }
    }

    // All of the text, or none and a Failure.
    static void append(Growing& growing, const std::string& text) {
        if (std::fwrite(text.data(), 1, text.size(), growing.file) != text.size()) {
            const int reason = errno;
            std::error_code ignored;
            fs::resize_file(growing.path, growing.whole, ignored);
            std::fseek(growing.file, long(growing.whole), SEEK_SET);
            errno = reason;
            fail(growing.path);
        }
        growing.whole += text.size();
    }

    bool close() {
        bool closed = true;
        for (Growing* growing : {&table_, &manifest_})
            if (growing->file) closed = std::fclose(std::exchange(growing->file, nullptr)) == 0 && closed;
        return closed;
    }

    fs::path place_, part_;
    Lock part_lock_, place_lock_;
    Growing manifest_, table_;
    long frames_ = 0;
    bool finished_ = false;
};

}  // namespace fastmcd
