"""Identities and names over time: a moving camera, crossings, gaps, flicker, names that change."""
import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from util.track.tracking import UNKNOWN, Moment, Sighting, Tracker

CLASSES = ["a", "b", "c"]
FRAME = np.zeros((240, 320, 3), np.uint8)


def follow(frames, homographies=None, logits=None, **options):
    """Return (moments, all tracks) of a tracker that saw `frames`, a list of lists of boxes, at 25 frames per second."""
    tracker, moments, tracks = Tracker(CLASSES, fps=25, **options), [], []
    for t, boxes in enumerate(frames):
        homography = np.eye(3) if homographies is None else homographies[t]
        sightings = [Sighting(tuple(box), (0, 0, 32, 32), 0.9) for box in boxes]
        moment = Moment(t + 1, t / 25, FRAME, SimpleNamespace(homography=homography), sightings)
        given = np.tile([2.0, 0, 0], (len(boxes), 1)) if logits is None else logits[t]
        tracker.update(moment, given)
        moments.append(moment)
        tracks += moment.ended
    return moments, tracks + tracker.finish()


def test_an_object_keeps_its_number_and_has_its_times():
    moments, tracks = follow([[(10 + 3 * t, 50, 30, 20)] for t in range(30)], min_sightings=5)
    numbers = [m.sightings[0].track for m in moments]
    assert numbers[:4] == [0] * 4 and set(numbers[6:]) == {1}
    [track] = tracks
    assert (track.number, track.label, track.last) == (1, "a", 30) and track.first <= 2
    assert track.end == pytest.approx(29 / 25) and track.sightings >= 29 and track.best.shape == (32, 32, 3)


def test_two_objects_that_meet_keep_their_numbers():
    frames = [[(10 + 4 * t, 50, 40, 30), (250 - 4 * t, 95, 40, 30)] for t in range(50)]
    moments, tracks = follow(frames)
    assert len(tracks) == 2
    assert {tuple(s.track for s in m.sightings) for m in moments[6:]} == {(1, 2)}


def test_a_moving_camera_breaks_no_track():
    """A still object before a camera that jumps by 60 px every other frame: only the homography tells where it went."""
    shift = [60 * (t % 2) for t in range(40)]
    frames = [[(100 + shift[t], 80, 24, 24)] for t in range(40)]
    # The homography takes pixels of the current frame to the previous one's.
    homographies = [np.array([[1, 0, -(shift[t] - shift[max(t - 1, 0)])], [0, 1, 0], [0, 0, 1.0]]) for t in range(40)]
    assert len(follow(frames, homographies)[1]) == 1
    assert len(follow(frames)[1]) != 1


def test_a_gap_is_bridged_and_a_long_one_ends_the_track():
    seen = [(t, 10 + 3 * t) for t in range(60) if not 20 <= t < 30]
    frames = [[] for _ in range(60)]
    for t, x in seen:
        frames[t] = [(x, 50, 40, 30)]
    assert len(follow(frames)[1]) == 1
    moments, tracks = follow([[(50, 50, 40, 30)]] * 20 + [[]] * 60, lost_seconds=1.0)
    [ended] = [m for m in moments if m.ended]
    assert len(tracks) == 1 and ended.seconds - tracks[0].end == pytest.approx(1.04)


def test_flicker_is_no_track():
    frames = [[] if t % 9 > 2 else [(30 * (t // 9), 20 * (t // 9), 20, 20)] for t in range(90)]
    moments, tracks = follow(frames, min_sightings=5)
    assert not tracks and not any(s.track for m in moments for s in m.sightings)


def test_the_name_is_that_of_most_evidence_and_steady():
    """Two crops in three say a, one says b: single labels flicker, the track's doesn't."""
    logits = [np.array([[2.0, 0, 0] if t % 3 else [0, 2.0, 0]]) for t in range(45)]
    moments, [track] = follow([[(50 + t, 50, 40, 30)] for t in range(45)], logits=logits)
    assert track.label == "a" and {m.sightings[0].label for m in moments[10:]} == {"a"}


def test_weak_evidence_is_unknown():
    logits = [np.array([[0.2, 0.1, 0]])] * 20
    _, [track] = follow([[(50 + t, 50, 40, 30)] for t in range(20)], logits=logits, calibration=(1.0, 0.6))
    assert track.label == UNKNOWN and track.probability < 0.6


def test_nothing_is_held_of_what_has_ended():
    tracker = Tracker(CLASSES, fps=25)
    for t in range(3000):
        boxes = [(t % 50 * 4, 50, 40, 30)] if t % 80 < 50 else []
        moment = Moment(t + 1, t / 25, FRAME, SimpleNamespace(homography=np.eye(3)), [Sighting(b, (0, 0, 32, 32), 0.9) for b in boxes])
        tracker.update(moment, np.zeros((len(boxes), 3)))
        assert len(tracker._lives) < 5 and len(tracker._association) < 5


def test_tracks_have_every_field_filled():
    _, [track] = follow([[(50 + t, 50, 40, 30)] for t in range(20)])
    assert all(getattr(track, field.name) is not None for field in dataclasses.fields(track))
