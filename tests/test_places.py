"""Lines that are crossed and zones that are visited, by objects whose ways are drawn."""
import numpy as np
import pytest

from tests.test_tracking import follow
from util.track.places import Crossing, Places, Visit, Whereabouts
from util.track.zones import make_zones

MIDDLE = {"middle": [[160, 0], [160, 240]]}  # looking down the picture: what goes to larger x goes to the left


def whereabouts(places, boxes):
    where = Whereabouts()
    for second, box in enumerate(boxes):
        places.look(where, box, float(second))
    return where


def crossings(lines, centres, size=20):
    boxes = [(round(x - size / 2), round(y - size / 2), size, size) for x, y in centres]
    return [(crossing.line, crossing.direction) for crossing in whereabouts(Places(lines), boxes).crossings]


def test_a_crossing_has_its_direction():
    east, west = [(x, 100) for x in range(100, 220, 5)], [(x, 100) for x in range(220, 100, -5)]
    assert crossings(MIDDLE, east) == [("middle", "left")] and crossings(MIDDLE, west) == [("middle", "right")]
    assert crossings({"middle": MIDDLE["middle"][::-1]}, east) == [("middle", "right")]
    assert crossings(MIDDLE, east + west + east) == [("middle", side) for side in ("left", "right", "left")]
    rising = {"road": [[0, 200], [320, 0]]}  # what goes down the picture goes to its right
    assert crossings(rising, [(160, y) for y in range(20, 200, 7)]) == [("road", "right")]


def test_every_way_through_a_slanted_line_is_counted_once():
    """By geometry alone: many straight ways, of which half the crossings are outside the line's ends."""
    rng, counted = np.random.default_rng(1), 0
    ends = np.array([[100, 60], [220, 180]])
    for _ in range(200):
        share, angle = rng.uniform(-0.9, 1.9), rng.uniform(0.3, np.pi - 0.3)  # where, and how, it meets the endless line
        meet = ends[0] + share * (ends[1] - ends[0])
        along = (ends[1] - ends[0]) / np.hypot(*(ends[1] - ends[0]))
        way = along * np.cos(angle) + np.array([-along[1], along[0]]) * np.sin(angle)  # to the right
        if min(abs(share), abs(share - 1)) < 0.02:
            continue
        got = crossings({"l": ends.tolist()}, [meet + way * step for step in range(-90, 91, 6)])
        assert got == ([("l", "right")] if 0 < share < 1 else []), (share, angle)
        counted += len(got)
    assert counted > 40


def test_trembling_on_a_line_is_no_crossing():
    rng = np.random.default_rng(1)
    stays = [(160 + rng.uniform(-4.5, 4.5), 100) for _ in range(500)]
    assert crossings(MIDDLE, stays) == []
    assert crossings(MIDDLE, [(120, 100), *stays, (120, 100)]) == []
    assert crossings(MIDDLE, [(120, 100), *stays, (200, 100)]) == [("middle", "left")]


def test_the_way_around_the_end_of_a_line_does_not_cross_it():
    wall = {"wall": [[160, 0], [160, 120]]}
    around = [(100, 60), (100, 180), (220, 180), (220, 60)]
    assert crossings(wall, around) == []
    assert crossings(wall, [*around, (100, 60)]) == [("wall", "right")], "straight back"


def test_a_line_that_is_moved_past_an_object_was_not_crossed_by_it():
    places, where = Places({"l": [[100, 0], [100, 240]]}), Whereabouts()
    for second, end in enumerate([100, 100, 200, 200, 100]):
        places.lines = {"l": [[end, 0], [end, 240]]}
        places.look(where, (140, 100, 20, 20), second)
    assert not where.crossings


def gate(x0=100, x1=200):
    return make_zones(320, 240, [], [], gate=[[[x0, 50], [x1, 50], [x1, 150], [x0, 150]]]).named


def test_a_visit_lasts_from_half_in_to_a_quarter_left():
    boxes = [(x, 90, 20, 20) for x in range(60, 260, 5)]  # one a second; its left edge
    [visit] = whereabouts(Places(zones=gate()), boxes).visits
    assert visit == Visit("gate", 6, 27, left=True)  # x from 90, half in, to 195, 6 of 21 columns in; at 200 one


def test_trembling_on_the_border_of_a_zone_is_one_visit():
    rng = np.random.default_rng(1)
    boxes = [(60, 90, 40, 40)] + [(round(95 + rng.uniform(-13, 13)), 90, 40, 40) for _ in range(300)] + [(40, 90, 40, 40)]
    assert len(whereabouts(Places(zones=gate()), boxes).visits) == 1


def test_a_zone_that_is_erased_is_left():
    places, where = Places(zones=gate()), Whereabouts()
    places.look(where, (120, 90, 20, 20), 1)
    assert [visit.left for visit in where.all_visits()] == [False]
    places.zones = {}
    places.look(where, (120, 90, 20, 20), 2)
    assert where.all_visits() == (Visit("gate", 1, 1, left=True),)


def test_tracks_tell_what_they_passed_once_they_count():
    """Crossed when it is not yet a track; into the zone later, and still there at the end."""
    frames = [[(138 + 8 * min(t, 12), 90, 20, 20)] for t in range(40)] + [[]] * 40
    moments, [track] = follow(frames, min_sightings=5, places=Places(MIDDLE, gate(x0=220, x1=300)))
    told = [(moment.number, passage) for moment in moments for _, passage in moment.passed]
    assert [(type(passage), moment) for moment, passage in told] == [(Crossing, 5), (Visit, 10)]
    assert all(passed.number == 1 and passed.label == "a" for moment in moments for passed, _ in moment.passed)
    assert [crossing.direction for crossing in track.crossings] == ["left"]
    assert track.visits == (Visit("gate", pytest.approx(9 / 25), track.end),)


def test_every_track_has_its_own_whereabouts():
    frames = [[(20 + 8 * t, 40, 20, 20), (280 - 8 * t, 150, 20, 20)] for t in range(34)]
    _, tracks = follow(frames, places=Places(MIDDLE))
    assert sorted(crossing.direction for track in tracks for crossing in track.crossings) == ["left", "right"]
