"""Identities are those of the library `trackers`: crossings, gaps, flicker, a moving camera."""
import numpy as np
import pytest

from util.track.association import Association, camera_motion


def scene(seed, frames=60, camera=0.0):
    """Return [(boxes (n, 4), homography, seconds)]: objects on straight ways, missed at times, and false boxes."""
    rng = np.random.default_rng(seed)
    count = rng.integers(2, 9)
    start, speed, size = rng.uniform(0, 300, (count, 2)), rng.normal(0, 3, (count, 2)), rng.uniform(12, 70, (count, 2))
    shift, moments = np.zeros(2), []
    for t in range(frames):
        step = rng.normal(0, camera, 2) if t else np.zeros(2)
        shift = shift + step
        boxes = np.c_[start + t * speed + shift, size] + rng.normal(0, 1, (count, 4))
        boxes = boxes[rng.random(count) > 0.1]
        false = np.c_[rng.uniform(0, 300, (2, 2)), rng.uniform(10, 30, (2, 2))]
        boxes = np.round(np.concatenate([boxes, false[rng.random(2) < 0.2]]))
        homography = np.array([[1, 0, -step[0]], [0, 1, -step[1]], [0, 0, 1.0]])
        moments.append((boxes, homography, t / 25))
    return moments


def of_the_library(moments):
    """Return the identities that trackers' BoT-SORT gives, frame by frame."""
    import supervision
    import trackers

    class Camera:
        def estimate(self, homography, boxes=None):
            return np.linalg.inv(homography)[:2]

        def reset(self):
            pass

    tracker = trackers.BoTSORTTracker(
        lost_track_buffer=30, frame_rate=25, minimum_consecutive_frames=1, enable_cmc=False, track_activation_threshold=0,
        high_conf_det_threshold=0, minimum_iou_threshold_first_assoc=0.2, minimum_iou_threshold_unconfirmed_assoc=0.2,
    )  # fmt: skip
    tracker.enable_cmc, tracker.cmc = True, Camera()
    found = []
    for boxes, homography, seconds in moments:
        corners = np.c_[boxes[:, :2], boxes[:, :2] + boxes[:, 2:]].astype(np.float32)
        given = supervision.Detections(corners, confidence=np.ones(len(boxes), np.float32), data={"place": np.arange(len(boxes))})
        tracked, ids = tracker.update(given, homography, seconds), np.full(len(boxes), -1)
        if len(tracked):
            ids[tracked.data["place"]] = tracked.tracker_id
        found.append(ids + 1)
    return found


@pytest.mark.parametrize("camera", [0.0, 8.0])
@pytest.mark.parametrize("seed", range(12))
def test_identities_are_the_librarys(seed, camera):
    moments = scene(seed, camera=camera)
    association = Association(25, 1.0, 0.2)
    ours, theirs = [association.update(*moment)[0] for moment in moments], of_the_library(moments)
    same, pairs = 0, {}
    for mine, other in zip(ours, theirs, strict=True):
        assert len(mine) == len(other)
        for a, b in zip(mine.tolist(), other.tolist(), strict=True):
            same += pairs.setdefault(b, a) == a if b else a == 0
    assert same == sum(map(len, ours))


def test_camera_motion_is_the_homography_near_its_origin():
    homography = np.array([[1.02, 0.03, 4], [-0.02, 0.99, -3], [1e-5, -2e-5, 1]])
    linear, shift = camera_motion(homography)
    forward = np.linalg.inv(homography)

    def through(x, y):
        u, v, w = forward @ (x, y, 1)
        return np.array([u / w, v / w])

    h = 1e-4
    by_differences = np.c_[(through(h, 0) - through(-h, 0)) / (2 * h), (through(0, h) - through(0, -h)) / (2 * h), through(0, 0)]
    assert np.allclose(np.c_[linear, shift], by_differences, atol=1e-6)
