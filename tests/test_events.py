"""Events: that they are what their schema says, and that each start has its end."""
import json
from dataclasses import replace
from types import SimpleNamespace

import jsonschema
import numpy as np
import pytest

from tests.scripts import ROOT
from util.outputs.events import Changes, event_of
from util.track.places import Crossing, Places, Tally, Visit
from util.track.tracking import Moment, Track
from util.watch.pipeline import Clock

SCHEMA = json.loads((ROOT / "docs" / "event.schema.json").read_text())
VIDEO = SimpleNamespace(name="rtsp://camera/\x1b[2J", time_of=lambda seconds: None)


def check(event):
    """Raise where an event is not as docs/event.schema.json has it, or has what is not described there."""
    jsonschema.Draft202012Validator(SCHEMA).validate(event)
    assert set(event) <= set(SCHEMA["properties"])


def track(number, label="cat", end=1.0):
    return Track(number, label, 0.75, 1, 26, 0.0, end, 20, np.zeros((4, 4, 3), np.uint8), 3, (5, 6, 7, 8))


def moment(number, **changes):
    return Moment(number, number / 25, None, None, [], **changes)


def test_the_schema_is_one_and_refuses_what_is_none():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    event = event_of("start", track(1), VIDEO)
    check(event)
    assert event["source"] == r"rtsp://camera/\x1b[2J"
    wrong = [{"version": 2}, {"event": "begin"}, {"track": 0}, {"confidence": 1.5}, {"box": [1, 2, 3]}, {"start_time": "16:00"},
             {"start_time": "2026-11-26T16:00:00.000+01:00"}, {"previous_label": "dog"}, {"event": "name"}, {"event": "cross"},
             {"event": "cross", "line": "l", "direction": "up"}, {"event": "enter"}, {"event": "leave", "zone": "z"}, {"dwell": 1.0},
             {"event": "enter", "zone": "z", "dwell": 1.0}, {"event": "end", "visits": []},
             {"visits": [{"zone": "z", "start": 0, "end": 1}]}]  # fmt: skip
    for change in wrong:
        with pytest.raises(jsonschema.ValidationError):
            check({**event, **change})
    with pytest.raises(jsonschema.ValidationError):
        check({key: value for key, value in event.items() if key != "label"})


def test_every_start_has_its_end():
    told = []
    changes = Changes(told.append, VIDEO)
    changes.add(moment(1, begun=[track(1), track(2)]))
    changes.add(moment(2, begun=[track(3)], renamed=[track(1, "dog")], ended=[track(2)]))
    changes.add(moment(3, begun=[track(4), track(5)], dropped=[track(3)]))
    changes.finish([track(1, "dog"), track(4)], Clock())  # 5 is dropped at the end
    for event in told:
        check(event)
    assert [(event["event"], event["track"]) for event in told] == [
        ("start", 1), ("start", 2), ("start", 3), ("name", 1), ("end", 2), ("start", 4), ("start", 5), ("drop", 3),
        ("end", 1), ("end", 4), ("drop", 5)]  # fmt: skip
    assert told[3]["previous_label"] == "cat" and told[3]["label"] == told[8]["label"] == "dog"


def test_what_a_track_passes_is_told_and_whoever_entered_leaves():
    told, entered = [], Visit("gate", 0.5, 0.5)
    changes = Changes(told.append, VIDEO)
    inside = replace(track(1), visits=(entered,))
    crossing = Crossing("stop", "left", 0.6)
    left = Visit("gate", 0.5, 0.75, left=True)
    away = replace(track(1), visits=(left,), crossings=(crossing,))
    back = replace(away, visits=(left, Visit("gate", 0.9, 1.0)))
    changes.add(moment(1, begun=[track(1), track(2)], passed=[(inside, entered)]))
    changes.add(moment(2, passed=[(away, crossing), (away, left)]))
    changes.add(moment(3, passed=[(back, back.visits[1]), (replace(track(2), visits=(entered,)), entered)]))
    changes.add(moment(4, ended=[back]))
    changes.finish([], Clock())  # 2 is dropped
    for event in told:
        check(event)
    assert [(event["event"], event["track"]) for event in told] == [
        ("start", 1), ("start", 2), ("enter", 1), ("cross", 1), ("leave", 1), ("enter", 1), ("enter", 2), ("leave", 1), ("end", 1),
        ("leave", 2), ("drop", 2)]  # fmt: skip
    assert told[3]["line"] == "stop" and told[3]["direction"] == "left"
    assert [event["dwell"] for event in told if event["event"] == "leave"] == [0.25, 0.1, 0]
    assert told[8]["crossings"] == [{"line": "stop", "direction": "left", "at": 0.6}]
    assert told[8]["visits"] == [{"zone": "gate", "start": 0.5, "end": 0.75}, {"zone": "gate", "start": 0.9, "end": 1.0}]
    assert "crossings" not in told[10]


def test_passages_are_counted_by_the_name_in_the_end():
    tally = Tally(Places({"stop": [[0, 0], [9, 0]], "quiet": [[0, 0], [9, 9]]}, {"gate": np.ones((9, 9), bool)}))
    over = (Crossing("stop", "left", 1.0), Crossing("stop", "right", 2.0))
    tally.add(replace(track(1), crossings=over, visits=(Visit("gate", 1, 2), Visit("gate", 3, 6))))
    tally.add(replace(track(2, "dog"), crossings=over[:1]))
    tally.add(replace(track(3), crossings=over[:1]))
    none = {"left": {}, "right": {}}
    assert tally.summary() == {
        "lines": {"stop": {"left": {"cat": 2, "dog": 1}, "right": {"cat": 1}}, "quiet": none},
        "zones": {"gate": {"cat": {"visits": 2, "mean_seconds": 2.0, "longest_seconds": 3.0}}},
    }
    assert Tally(Places()).summary() == {}
