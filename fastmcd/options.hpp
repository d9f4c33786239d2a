// The fastMCD program's command line: its few options, and every parameter of the detector by name.
#pragma once

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <string>
#include <vector>

#include "fastmcd.hpp"
#include "results.hpp"

namespace fastmcd {

struct Options {
    std::string input, out;
    Params params;
    bool frames = false, quiet = false;
    long limit = 0;  // 0: none
};

inline std::string flag(const Parameter& parameter) {
    std::string name = std::string("--") + parameter.name;
    std::replace(name.begin(), name.end(), '_', '-');
    return name;
}

inline void print_help() {
    std::puts(
        "usage: fastMCD INPUT OUT_DIR [--option value]...\n\n"
        "Finds what moves in front of a camera that may move itself.\n\n"
        "INPUT is a video file, a directory of images (by name, numbers as numbers) or the number of a camera.\n"
        "OUT_DIR gets detections.csv, crops/ and masks/. It must be new or empty, or is replaced if it holds earlier\n"
        "results. Frames have sides of 32 to 4096 px, and at most 4096x2160 pixels in all. Ctrl-C ends early and keeps what\n"
        "was found so far.\n\n"
        "  --frames             keep the frames too, in OUT_DIR/frames\n"
        "  --limit N            stop after N frames\n"
        "  --quiet              say nothing but errors and warnings\n"
        "  --help               this text\n\n"
        "The detector's parameters, with their defaults and ranges:");
    for (const Parameter& p : parameters())
        std::printf("  %-18s %-7g %s (%g to %g)\n", flag(p).c_str(), p.get({}), p.help, p.low, p.high);
}

inline double number(const std::string& option, const std::string& text) {
    char* end = nullptr;
    const double value = std::strtod(text.c_str(), &end);
    if (text.empty() || *end) throw Failure(option + " is '" + text + "', expected a number");
    return value;
}

// Nothing if only help was asked for; Failure, one line, if something is wrong.
inline std::optional<Options> parse(int argc, char** argv) {
    Options options;
    std::vector<std::string> places;
    for (int i = 1; i < argc; ++i) {
        std::string word = argv[i];
        if (word == "--help" || word == "-h") return print_help(), std::nullopt;
        if (word == "--frames" || word == "--quiet") {
            (word == "--frames" ? options.frames : options.quiet) = true;
        } else if (word.starts_with("-") && word.size() > 1) {
            const std::size_t equals = word.find('=');
            const std::string name = word.substr(0, equals);
            const auto known = parameters();
            const auto p = std::find_if(known.begin(), known.end(), [&](const auto& k) { return flag(k) == name; });
            if (p == known.end() && name != "--limit") throw Failure("unknown option " + name + "; see --help");
            if (equals == word.npos && i + 1 == argc) throw Failure(name + " needs a value; see --help");
            const double value = number(name, equals == word.npos ? argv[++i] : word.substr(equals + 1));
            if (p != known.end())
                p->set(options.params, value);
            else if (!(value >= 1 && value <= 1e9 && value == long(value)))
                throw Failure("--limit must be a whole number from 1 up");
            else
                options.limit = long(value);
        } else {
            places.push_back(word);
        }
    }
    if (places.size() != 2)
        throw Failure(format("INPUT and OUT_DIR are needed, %zu given; see --help", places.size()));
    options.input = places[0], options.out = places[1];
    return options;
}

}  // namespace fastmcd
