// Whole objects: what each cell tells of rest or motion, carried on within what looks alike.
#pragma once

#include <array>
#include <span>
#include <utility>
#include <vector>

#include "colours.hpp"
#include "fastmcd.hpp"
#include "model.hpp"
#include "motion.hpp"

namespace fastmcd {

class Segmenter {
public:
    Segmenter(int columns, int rows);

    void reset();  // the next frame is the first

    Colours& colours() { return colours_; }  // they are to have looked at the frame

    // Decides for each cell of the model's last frame; epipole: of its motion; points: tracked in it.
    void operator()(const Model& model, const Epipole& epipole, std::span<const PointMotion> points);

    const Grid<float>& belief() const { return earlier(1).moved; }  // above 0: moves
    const Grid<float>& rest() const { return rest_; }      // above 0: has not changed for some frames

    std::size_t bytes() const;

private:
    struct Earlier {  // a frame before
        Grid<float> means, moved;    // of its cells; belief in their motion
        Homography way = kIdentity;  // from the current frame's cells to its own
        Exposure light;              // from its grey levels to the current ones
    };

    const Earlier& earlier(int frames) const { return past_[std::size_t(frames_ - frames) % past_.size()]; }
    void compare(const Model& model, int frames, float weight, bool first);
    void smoothness_weights(const Model& model);
    void unary_evidence(const Model& model);
    float unlike_then(const Model& model, int left, int top, Point way) const;
    bool inside_then(int left, int top, Point way) const;
    Point parallax(Point p) const;
    bool rests_off_plane(const Model& model, int left, int top, Point way, Point parallax) const;
    std::pair<int, int> corner(int patch) const;
    void find_near(const Model& model);
    void discount_parallax(const Model& model);
    void add_point_evidence(const Model& model, std::span<const PointMotion> points);
    void add_temporal_prior();
    void pass_messages(Grid<float>& belief);
    Grid<float>& stays() { return horizontal_; }  // evidence for motion where something moved a frame ago; lost once messages are sent

    const Kernels& kernels_ = kernels();
    int columns_, rows_;
    Colours colours_;
    Grid<float> rest_, uncovered_, evidence_, right_, down_, horizontal_, vertical_;
    std::vector<float> line_, room_, no_colours_;  // the last one: a row of zeros
    std::vector<Earlier> past_;      // a ring of the last frames
    std::vector<Epipole> epipoles_;  // and one of their epipoles, which has the current one already
    int patch_columns_, patch_rows_;
    std::vector<std::uint8_t> near_;   // of each patch: 1 if it seems to stand nearer than the rest, 2 once it was looked at
    std::vector<int> group_;           // patches of these that touch
    std::int64_t frames_ = 0;        // in a row
    float noise_scale_, edge_;       // of the differences at rest, see Past; grey levels that cut a tie to a quarter
    std::int64_t noise_sum_ = 0;
    int noise_cells_ = 0;
};

}  // namespace fastmcd
