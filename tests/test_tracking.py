"""Identities and names over time: a moving camera, crossings, gaps, flicker, names that change."""
import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest

from util.track.names import Names
from util.track.tracking import UNKNOWN, Moment, Sighting, Tracker
from util.track.views import Schedule

CLASSES = ["a", "b", "c"]
FRAME = np.zeros((240, 320, 3), np.uint8)


def follow(frames, homographies=None, logits=None, fps=25, names=Names(CLASSES), **options):  # noqa: B008
    """Return (moments, all tracks) of a tracker that saw `frames`, a list of lists of boxes, at `fps` frames per second."""
    tracker, moments, tracks = Tracker(names, fps, **options), [], []
    for t, boxes in enumerate(frames):
        homography = np.eye(3) if homographies is None else homographies[t]
        sightings = [Sighting(tuple(box), (0, 0, 32, 32), 0.9) for box in boxes]
        moment = Moment(t + 1, t / fps, FRAME, SimpleNamespace(homography=homography), sightings)
        given = np.tile([2.0, 0, 0], (len(boxes), 1)) if logits is None else logits[t]
        viewed = tracker.associate(moment)
        tracker.name(moment, viewed, np.asarray(given)[viewed])
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


def test_a_speed_is_in_heights_per_second_against_the_background():
    still, moving = (200, 100, 40, 30), [(10 + 3 * t, 50, 30, 20) for t in range(40)]
    moments, _ = follow([[still, box] for box in moving])
    assert all(math.isnan(sighting.speed) for moment in moments[:3] for sighting in moment.sightings)
    assert [s.speed for s in moments[-1].sightings] == pytest.approx([0, 3 * 25 / 20], abs=0.1)
    pan = np.array([[1.0, 0, 3], [0, 1, 0], [0, 0, 1]])  # the camera follows: what rests goes to the left
    moments, _ = follow([[(200 - 3 * t, 100, 40, 30), (50, 50, 30, 20)] for t in range(40)], [pan] * 40)
    assert [s.speed for s in moments[-1].sightings] == pytest.approx([0, 3 * 25 / 20], abs=0.1)


def test_a_moment_tells_which_tracks_begin_and_which_change_their_name():
    names = [[[2.0, 0, 0]]] * 9 + [[[0, 9.0, 0]]] * 21 + [np.zeros((0, 3))] * 30
    moments, _ = follow([[(10 + 3 * t, 50, 30, 20)] for t in range(30)] + [[]] * 30, logits=names, min_sightings=5)
    seen = next(moment for moment in moments if moment.tracks)
    assert [(moment.number, [track.label for track in moment.begun]) for moment in moments if moment.begun] == [(seen.number, ["a"])]
    [renamed] = [moment for moment in moments if moment.renamed]
    assert [(track.number, track.label) for track in renamed.renamed] == [(1, "b")] and renamed.number > 9
    assert renamed.sightings[0].label == "b" and moments[renamed.number - 2].sightings[0].label == "a"


def test_what_is_dropped_as_none_of_the_classes_is_told_once():
    names = [[[2.0, 0, 0]]] * 6 + [[[0, 0, 9.0]]] * 24
    frames = [[(10 + 3 * t, 50, 30, 20)] for t in range(30)] + [[]] * 40
    moments, tracks = follow(frames, logits=names + [np.zeros((0, 3))] * 40, names=Names(["a", "b", "other"], drop_other=True))
    assert not tracks and [track.number for moment in moments for track in moment.begun] == [1]
    assert [(track.number, track.label) for moment in moments for track in moment.dropped] == [(1, UNKNOWN)]


def test_a_track_ends_with_the_name_that_it_had_most_of_the_time():
    """Not with that of its last sightings, in which it may be half a thing; what a sighting counts by its box counts here, too."""
    unsure, names = [0.1, 0, 0], Names(CLASSES, unknown_below=0.6)
    frames = [[(10 + 3 * t, 50, 30, 20)] for t in range(60)]
    moments, [track] = follow(frames, logits=[[[4.0, 0, 0]]] * 30 + [[unsure]] * 30, names=dataclasses.replace(names, unknown_below=0.9))
    assert moments[-1].sightings[0].label == UNKNOWN and track.label == "a" and track.probability > 0.9
    far_then_near = [[(10 + t, 50, 8, 8)] for t in range(40)] + [[(50 + 2 * t, 50, 8 + 2 * t, 8 + 2 * t)] for t in range(20)]
    moments, [track] = follow(far_then_near, logits=[[[0, 4.0, 0]]] * 40 + [[[4.0, 0, 0]]] * 20, names=names)
    assert sum(moment.sightings[0].label == "b" for moment in moments) > 30 and track.label == "a"


def test_a_track_that_was_mostly_named_is_not_dropped_for_its_last_sightings():
    names = Names(["a", "b", "other"], drop_other=True)
    frames = [[(10 + 3 * t, 50, 30, 20)] for t in range(60)]
    moments, [track] = follow(frames, logits=[[[4.0, 0, 0]]] * 30 + [[[0, 0, 9.0]]] * 24 + [[[0, 0, 9.0]]] * 6, names=names)
    assert moments[-1].sightings[0].label == UNKNOWN and track.label == "a"


def test_a_kind_that_a_track_was_called_by_is_concluded_with_its_own_probability():
    names = Names(CLASSES, unknown_below=0.6, kinds={"letter": ["a", "b"]}, name_kinds=True)
    [track] = follow([[(10 + 3 * t, 50, 30, 20)] for t in range(30)], logits=[[[3.0, 3.0, 0]]] * 30, names=names)[1]
    assert track.label == track.kind == "letter" and track.probability == track.kind_probability == pytest.approx(0.976, abs=0.002)


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


@pytest.mark.parametrize("fps", [25, 1, 1 / 2, 1 / 5])
def test_a_time_lapse_has_the_tracks_of_its_frames(fps):
    """Also where two frames lie further apart than lost_seconds; one that is missed in two frames is still the same."""
    frames = [[] if t in (20, 21) else [(10 + 4 * t, 50, 40, 30)] for t in range(60)]
    [track] = follow(frames, fps=fps)[1]
    assert track.sightings >= 57 and track.last == 60


def test_a_pause_of_a_video_ends_no_track():
    """At a variable frame rate, whatever rate is announced; frames without the object do, once the time is over, too."""
    times = [t / 25 for t in range(20)] + [20 + 10 * t for t in range(20)]
    tracker, ended = Tracker(Names(CLASSES), 25), []
    for t, seconds in enumerate(times):
        moment = Moment(t + 1, seconds, FRAME, SimpleNamespace(homography=np.eye(3)), [Sighting((60, 50, 30, 20), (0, 0, 32, 32), 0.9)])
        tracker.name(moment, viewed := tracker.associate(moment), np.tile([2.0, 0, 0], (len(viewed), 1)))
        ended += moment.ended
    assert not ended
    for t in range(4):
        assert not ended
        moment = Moment(41 + t, 220 + 10 * t, FRAME, SimpleNamespace(homography=np.eye(3)), [])
        tracker.name(moment, tracker.associate(moment), np.empty((0, 3)))
        ended += moment.ended
    [track] = ended
    assert track.sightings >= 39 and track.last == 40


def test_what_is_seen_once_is_no_track_even_if_one_sighting_is_enough():
    """It has no identity yet: its number would be lost, and the object would get another one in the next frame."""
    moments, tracks = follow([[]] + [[(10 + 3 * t, 50, 30, 20)] for t in range(20)], min_sightings=1)
    assert [track.number for moment in moments for track in moment.begun] == [1] == [track.number for track in tracks]
    assert {sighting.track for moment in moments[2:] for sighting in moment.sightings} == {1}


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
    _, [track] = follow([[(50 + t, 50, 40, 30)] for t in range(20)], logits=logits, names=Names(CLASSES, unknown_below=0.6))
    assert track.label == UNKNOWN and track.probability < 0.6


def test_a_named_track_that_is_lost_is_expected_where_it_was_going():
    frames = [[(10 + 4 * t, 50, 40, 30)] for t in range(30)] + [[]] * 40
    moments, _ = follow(frames, logits=[[[2.0, 0, 0]]] * 30 + [np.zeros((0, 3))] * 40, keep_seconds=0.41)
    expected = [moment.expected[0].box if moment.expected else None for moment in moments]
    assert expected[:30] == [None] * 30 and all(expected[30:40]) and expected[40:] == [None] * 30
    for t in range(30, 40):
        assert np.allclose(expected[t], (10 + 4 * t, 50, 40, 30), atol=3)
    assert {(moments[t].expected[0].label, moments[t].expected[0].track) for t in range(30, 40)} == {("a", 1)}


def test_a_track_is_expected_no_longer_than_it_was_seen():
    frames = [[(50, 50, 40, 30)]] * 11 + [[]] * 40
    moments, _ = follow(frames, logits=[[[2.0, 0, 0]]] * 11 + [np.zeros((0, 3))] * 40, keep_seconds=1.0)
    assert [moment.number for moment in moments if moment.expected] == list(range(12, 22))  # seen for 10 / 25 s


def test_what_left_over_the_frames_edge_is_not_expected():
    width = FRAME.shape[1]
    leaving = [[(max(0, 40 - 4 * t), 50, min(40, 80 - 4 * t), 30)] for t in range(18)]  # its box ends as a sliver
    right = [[(width - x - w, y, w, h)] for [(x, y, w, h)] in leaving]
    for frames in (leaving, right):
        assert not any(moment.expected for moment in follow(frames + [[]] * 20)[0])


def test_what_is_lost_keeps_its_size():
    grows = [[(100 - t, 80 - t, 40 + 2 * t, 30 + 2 * t)] for t in range(20)] + [[]] * 20
    moments, _ = follow(grows)
    sizes = [moment.expected[0].box[2:] for moment in moments[20:35]]
    assert np.allclose(sizes, (78, 68), atol=3)


def test_what_has_no_name_or_is_seen_otherwise_is_not_expected():
    gone = [[(50, 50, 40, 30)]] * 20 + [[]] * 10
    unnamed = [[[0, 0, 0]]] * 20 + [np.zeros((0, 3))] * 10
    assert not any(moment.expected for moment in follow(gone, logits=unnamed, names=Names(CLASSES, unknown_below=0.5))[0])
    larger = [[(50, 50, 40, 30)]] * 20 + [[(0, 0, 200, 150)]] * 10  # too large to be the same, and all around it
    assert not any(moment.expected for moment in follow(larger)[0])


@pytest.mark.parametrize(("score", "given", "named"), [(0.0, [3.0, 0, 0], True), (0.0, [2.0, 0, 0], False), (0.3, [0.8, 0, 0], True)])
def test_an_object_in_no_track_yet_needs_score_or_a_sure_name(score, given, named):
    """Probabilities of these logits: 0.91, 0.79, 0.53."""
    tracker = Tracker(Names(CLASSES), fps=25)
    for t in range(6):
        moment = Moment(t + 1, t / 25, FRAME, SimpleNamespace(homography=np.eye(3)), [Sighting((50, 50, 40, 30), (0, 0, 32, 32), score)])
        tracker.name(moment, tracker.associate(moment), np.array([given]))
        assert moment.sightings[0].label == ("a" if named or moment.sightings[0].track else UNKNOWN)
    assert moment.sightings[0].track == 1


def test_a_name_is_held_until_another_is_clearly_likelier():
    """Two classes in turn, each a little ahead: the name flaps unless it is held; what is clearly likelier takes its place all the same."""
    frames = [[(50 + t, 50, 40, 30)] for t in range(90)]
    looks = [[[2.0, 1.0, 0]]] * 5 + [[[1.0, 1.3, 0]], [[1.3, 1.0, 0]], [[1.0, 1.5, 0]]] * 15 + [[[0, 4.0, 0]]] * 40
    moments = {hold: follow(frames, logits=looks, names=Names(CLASSES, hold=hold))[0] for hold in (0.0, 0.2)}
    names = {hold: [moment.sightings[0].label for moment in moments[hold]] for hold in moments}
    changes = {hold: sum(a != b for a, b in zip(labels, labels[1:], strict=False)) for hold, labels in names.items()}
    assert changes[0.0] >= 1 and "b" in names[0.0][5:50]
    assert changes[0.2] == 1 and set(names[0.2][5:50]) == {"a"} and names[0.2][-1] == "b"


def test_nothing_is_held_of_what_has_ended():
    tracker = Tracker(Names(CLASSES), fps=25)
    for t in range(1000):
        boxes = [(t % 50 * 4, 50, 40, 30)] if t % 80 < 50 else []
        moment = Moment(t + 1, t / 25, FRAME, SimpleNamespace(homography=np.eye(3)), [Sighting(b, (0, 0, 32, 32), 0.9) for b in boxes])
        tracker.name(moment, tracker.associate(moment), np.zeros((len(boxes), 3)))
        assert len(tracker._states) < 5 and len(tracker._association) < 5


def test_tracks_have_every_field_filled():
    _, [track] = follow([[(50 + t, 50, 40, 30)] for t in range(20)])
    assert all(getattr(track, field.name) is not None for field in dataclasses.fields(track))


def views_of(boxes, logits, schedule):
    """Return the frames, from 0, in which an object with these boxes was looked at."""
    tracker, frames = Tracker(Names(CLASSES), fps=25, schedule=schedule), []
    for t, box in enumerate(boxes):
        moment = Moment(t + 1, t / 25, FRAME, SimpleNamespace(homography=np.eye(3)), [Sighting(box, (0, 0, 32, 32), 0.9)])
        viewed = tracker.associate(moment)
        tracker.name(moment, viewed, np.tile(np.array(logits, float), (len(viewed), 1)))
        frames += [t] * len(viewed)
    return frames


STILL = [(100, 100, 30, 30)] * 100


def test_a_settled_object_is_looked_at_ever_less_often():
    assert views_of(STILL, [9, 0, 0], Schedule(first=3, longest=16)) == [0, 1, 2, 4, 8, *range(16, 100, 16)]


def test_an_object_in_doubt_is_looked_at_often():
    assert views_of(STILL, [1, 0.9, 0], Schedule(first=3, doubtful=4)) == [0, 1, 2, *range(4, 100, 4)]


def test_a_crop_that_is_clearly_better_is_looked_at_at_once():
    boxes = [(100, 100, 18, 18)] * 60 + [(94, 94, 30, 30)] * 40
    assert 60 in views_of(boxes, [9, 0, 0], Schedule(longest=64))


def test_of_too_many_objects_all_have_their_turn():
    tracker, seen = Tracker(Names(CLASSES), fps=25, schedule=Schedule(budget=2)), set()
    for t in range(12):
        sightings = [Sighting((50 * i, 100, 30, 30), (0, 0, 32, 32), 0.9) for i in range(5)]
        moment = Moment(t + 1, t / 25, FRAME, SimpleNamespace(homography=np.eye(3)), sightings)
        viewed = tracker.associate(moment)
        assert len(viewed) <= 2
        tracker.name(moment, viewed, np.tile([9.0, 0, 0], (len(viewed), 1)))
        seen.update(viewed)
    assert seen == set(range(5)) and {sighting.label for sighting in moment.sightings} == {"a"}


def test_other_is_unknown_and_can_be_left_out():
    frames, looks = [[(50 + t, 50, 40, 30)] for t in range(20)], [np.array([[0.0, 0.0, 5.0]])] * 20
    names = Names(["car", "van", "other"], kinds={"vehicle": ["car", "van"]})
    assert [track.label for track in follow(frames, logits=looks, names=names)[1]] == [UNKNOWN]
    assert follow(frames, logits=looks, names=dataclasses.replace(names, drop_other=True))[1] == []


def test_a_kind_names_what_is_one_of_its_classes():
    frames, looks = [[(50 + t, 50, 40, 30)] for t in range(20)], [np.array([[3.0, 2.9, -3.0]])] * 20
    names = Names(["car", "van", "other"], unknown_below=0.8, kinds={"vehicle": ["car", "van"]})
    [track] = follow(frames, logits=looks, names=names)[1]
    assert (track.label, track.kind) == (UNKNOWN, "vehicle") and track.kind_probability > 0.99
    moments, [track] = follow(frames, logits=looks, names=dataclasses.replace(names, name_kinds=True))
    assert track.label == moments[-1].sightings[0].label == "vehicle"
