"""Events: that they are what their schema says, and that each start has its end."""
import json
from types import SimpleNamespace

import jsonschema
import numpy as np
import pytest

from tests.scripts import ROOT
from util.outputs.events import Changes, event_of
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
             {"start_time": "2026-11-26T16:00:00.000+01:00"}, {"previous_label": "dog"}, {"event": "name"}]  # fmt: skip
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
