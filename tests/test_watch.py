"""From a video to named tracks: the files of a run, interruption, settings and zones at work."""
import argparse
import base64
import json
import math
import signal
from dataclasses import replace

import cv2
import numpy as np
import pytest

import fastmcd
from tests.networks import RedOrGrey
from tests.results import rows_of
from tests.test_events import check
from tests.test_mqtt import broker, events, free_port, last, listener, needs_mosquitto
from tests.test_webhook import server
from util import watch
from util.cli import time_of
from util.errors import InputError
from util.track.tracking import Tracker
from util.watch import pipeline


class Detector:
    """Stands in for the detector: two boxes from the third frame on, one of them moving to the right."""

    def __init__(self, width, height, **params):
        if params.pop("min_area", 0) > 1 or params:
            raise ValueError(f"cannot take {params}")
        self.size, self.count = (height, width), 0

    def rehearsed(self, items, frame_of, enough):
        return iter(items)

    def detect(self, frame):
        self.count += 1
        boxes = [[4 + self.count % 8, 6, 20, 10], [40, 20, 8, 16]] if self.count > 2 else []
        boxes = np.array(boxes, np.int32).reshape(-1, 4)
        mask = np.zeros(self.size, np.uint8)
        scores = np.linspace(0.9, 0.5, len(boxes))
        return fastmcd.Result(boxes, boxes + [-2, -2, 4, 4], scores, mask, np.eye(3), motion_known=True, points=0, inliers=0, timings={})


@pytest.fixture
def clip(tmp_path):
    """Twelve frames, left side red, right side grey."""
    (tmp_path / "clip").mkdir()
    for i in range(12):
        frame = np.random.default_rng(i).integers(0, 60, (48, 64, 3), np.uint8)
        frame[:, :32, 2] += 180
        cv2.imwrite(str(tmp_path / "clip" / f"{i:03d}.png"), frame)
    return tmp_path / "clip"


@pytest.fixture
def stand_in(monkeypatch):
    monkeypatch.setattr(fastmcd, "Detector", Detector)


def run(network=None, **given):
    flags = ("label", "save", "limit", "settings", "start", "notify", "record", "recordings", "keep", "camera", "serve")
    defaults = {**dict.fromkeys(flags), "show_debug": False, "notify_crop": False, "command": (["x"], ["y"])}
    return watch.run(argparse.Namespace(**{**defaults, **given}), network or RedOrGrey())


def test_a_video_gives_named_tracks_and_all_files(stand_in, clip, tmp_path, capsys):
    summary = run(video=str(clip), save=tmp_path / "out", label="0")
    assert summary.tracks == {"red": 1, "grey": 1} and summary.sightings == {"red": 10, "grey": 10}
    out = capsys.readouterr().out
    assert "20 objects in 10 of 12 frames" in out and "grey: 10 of 20 objects, 50.0%; 1 of 2 tracks, 50.0%" in out
    assert {"annotated.mp4", "contact_sheet.png", "detections.csv", "predictions.csv"} <= {p.name for p in (tmp_path / "out").iterdir()}
    rows = rows_of(tmp_path / "out" / "predictions.csv")
    assert [row["track"] for row in rows if row["label"] == "red"] == [""] * 5 + ["1"] * 5
    assert rows[0] | {"probability": ""} == dict(
        frame="3", object="0", x="7", y="6", width="20", height="10", label="red", probability="", track=""
    )


def test_predictions_go_into_the_current_directory_without_save(stand_in, clip, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(video=str(clip))
    assert len(rows_of(tmp_path / "predictions.csv")) == 20


def test_what_no_class_fits_is_unknown(stand_in, clip, tmp_path):
    summary = run(RedOrGrey(1e6, 0.6), video=str(clip), save=tmp_path / "out")
    assert summary.tracks == {"unknown": 2} and summary.sightings == {"unknown": 20}


def test_settings_and_zones_are_obeyed(stand_in, clip, tmp_path):
    right_half = [[36, 0], [64, 0], [64, 48], [36, 48]]
    (tmp_path / "my.toml").write_text(f'tracks.min_sightings = 3\nnames.only = ["red"]\nzones.ignore = [{right_half}]\n')
    summary = run(video=str(clip), save=tmp_path / "out", settings=str(tmp_path / "my.toml"))
    assert summary.sightings == {"red": 10} and summary.tracks == {"red": 1}
    assert [row["track"] for row in rows_of(tmp_path / "out" / "predictions.csv")][:4] == ["", "", "", "1"]
    assert len(rows_of(tmp_path / "out" / "detections.csv")) == 10
    (tmp_path / "my.toml").write_text("zones.gate = [[[36, 16], [50, 16], [50, 40], [36, 40]]]\nlines.stop = [[0, 40], [64, 40]]\n")
    run(video=str(clip), save=tmp_path / "out", settings=str(tmp_path / "my.toml"))
    changes = [json.loads(line) for line in (tmp_path / "out" / "changes.jsonl").read_text().splitlines()]
    assert [(change["event"], change["zone"], change["label"]) for change in changes if "zone" in change] == [
        ("enter", "gate", "grey"), ("leave", "gate", "grey")]  # fmt: skip
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["zones"] == {"gate": {"grey": {"visits": 1, "mean_seconds": 0.32, "longest_seconds": 0.32}}}, "frames 4 to 12"
    assert summary["lines"] == {"stop": {"left": {}, "right": {}}}
    (tmp_path / "my.toml").write_text("detector.nonsense = 2\n")
    with pytest.raises(InputError, match="nonsense"):
        run(video=str(clip), settings=str(tmp_path / "my.toml"))


def test_events_are_sent_to_their_end_though_a_file_cannot_be_finished(stand_in, clip, tmp_path, monkeypatch):
    class Hook:
        sent = dropped = finished = 0

        def send(self, change):
            self.sent += 1

        def finish(self):
            self.finished += 1

    hook = Hook()
    monkeypatch.setattr("util.watch.clip._notifier", lambda *_: hook)
    monkeypatch.setattr("util.outputs.sinks.Sheet.finish", lambda *_: (tmp_path / "none" / "a").read_bytes())
    with pytest.raises(FileNotFoundError):
        run(video=str(clip), save=tmp_path / "out", notify="http://127.0.0.1/")
    assert hook.sent and hook.finished == 1


@pytest.mark.parametrize("recordings", ["out", "out/gate", "out.part/gate"])
def test_recordings_are_not_put_into_results_which_are_replaced(stand_in, clip, tmp_path, recordings):
    with pytest.raises(InputError, match="replaced whole; give another directory"):
        run(video=str(clip), save=tmp_path / "out", record="all", recordings=tmp_path / recordings)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip"]


def test_interruption_keeps_what_was_done_and_ends_the_tracks(stand_in, clip, tmp_path):
    class Interrupted(RedOrGrey):
        calls = 0

        def __call__(self, images):
            self.calls += 1
            if self.calls == 6:  # in the seventh frame that shows the objects: the sixth needs no look
                raise KeyboardInterrupt
            return super().__call__(images)

    run(video=str(clip), save=tmp_path / "out")
    assert (tmp_path / "out" / "summary.json").exists()
    with pytest.raises(KeyboardInterrupt):
        run(Interrupted(), video=str(clip), save=tmp_path / "out")
    assert len(rows_of(tmp_path / "out" / "predictions.csv")) == len(rows_of(tmp_path / "out" / "detections.csv")) == 12
    assert not (tmp_path / "out" / "summary.json").exists()
    assert (tmp_path / "out" / "annotated.mp4").exists() and (tmp_path / "out" / "contact_sheet.png").exists()


def test_an_interruption_waits_until_the_frame_is_named_and_written(stand_in, clip, tmp_path, monkeypatch):
    name, calls = Tracker.name, []

    def interrupted(self, *arguments):
        calls.append(arguments)
        if len(calls) == 8:
            signal.raise_signal(signal.SIGINT)
        return name(self, *arguments)

    monkeypatch.setattr(Tracker, "name", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(video=str(clip), save=tmp_path / "out")
    assert rows_of(tmp_path / "out" / "predictions.csv")[-1]["frame"] == "8"
    assert [json.loads(line)["last_frame"] for line in (tmp_path / "out" / "events.jsonl").open()] == [8, 8]


def test_a_cut_off_video_is_refused_but_what_was_read_is_kept(stand_in, tmp_path):
    writer = cv2.VideoWriter(str(tmp_path / "clip.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 25, (64, 48))
    for i in range(60):
        writer.write(np.random.default_rng(i).integers(0, 256, (48, 64, 3), np.uint8))
    writer.release()
    whole = (tmp_path / "clip.avi").read_bytes()
    (tmp_path / "clip.avi").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="was it cut off"):
        run(video=str(tmp_path / "clip.avi"), save=tmp_path / "out")
    rows = len(rows_of(tmp_path / "out" / "predictions.csv"))
    assert 20 < rows == len(rows_of(tmp_path / "out" / "detections.csv")) < 110
    assert (tmp_path / "out" / "annotated.mp4").exists()


def test_nothing_found_still_gives_files_and_no_sheet(stand_in, clip, tmp_path, capsys):
    run(video=str(clip), save=tmp_path / "out", limit=2, label="1")
    assert "0 of 0 objects, 0.0%" in capsys.readouterr().out
    assert rows_of(tmp_path / "out" / "predictions.csv") == []
    assert not (tmp_path / "out" / "contact_sheet.png").exists()


def test_files_have_the_time_of_day_that_start_gives(stand_in, clip, tmp_path):
    run(video=str(clip), save=tmp_path / "out", start=time_of("2026-11-26T16:00:00Z"))
    events = [json.loads(line) for line in (tmp_path / "out" / "events.jsonl").read_text().splitlines()]
    changes = [json.loads(line) for line in (tmp_path / "out" / "changes.jsonl").read_text().splitlines()]
    for event in events + changes:
        check(event)
    assert [event["event"] for event in changes] == ["start", "start", "end", "end"]
    assert [event | {"best_crop": None} for event in events] == [event | {"best_crop": None} for event in changes[2:]]
    assert {(event["start"], event["start_time"]) for event in events} == {(0.12, "2026-11-26T16:00:00.120+00:00")}
    with pytest.raises(InputError, match="--start is for one clip, and --video means 2"):
        run(video=[str(clip), str(clip / "..")], save=tmp_path / "many", start=time_of("2026-11-26T16:00:00Z"))
    with pytest.raises(InputError, match=f"as many as there are; give {clip} itself"):
        run(video=str(clip.parent), save=tmp_path / "many", start=time_of("2026-11-26T16:00:00Z"))


def test_events_are_posted_as_they_are_written(stand_in, clip, tmp_path, capsys):
    with server() as (port, requests):
        address = f"http://user:secret@127.0.0.1:{port}/secret"
        run(video=str(clip), save=tmp_path / "out", notify=address, command=(["x"], ["--video", str(clip), "--notify", address]))
    assert [event for _, _, event in requests] == [json.loads(line) for line in (tmp_path / "out" / "changes.jsonl").open()]
    assert f"notified: 4 events sent to http://127.0.0.1:{port}, 0 dropped" in capsys.readouterr().out
    summary = (tmp_path / "out" / "summary.json").read_text()
    assert json.loads(summary)["events"] == {"sent": 4, "dropped": 0} and "secret" not in summary


def test_the_picture_goes_with_an_event_if_asked_for(stand_in, clip, tmp_path):
    with server() as (port, requests):
        run(video=str(clip), save=tmp_path / "out", notify=f"http://127.0.0.1:{port}/", notify_crop=True)
    for _, _, event in requests:
        check(event)
    data = np.frombuffer(base64.b64decode(requests[0][2]["crop"]), np.uint8)
    assert cv2.imdecode(data, cv2.IMREAD_COLOR)[..., 2].mean() > 150, "of the red side"


@needs_mosquitto
def test_events_reach_a_broker_as_they_are_written(stand_in, clip, tmp_path, capsys):
    port = free_port()
    with broker(tmp_path, port), listener(port) as messages:
        address = f"mqtt://127.0.0.1:{port}/yard"
        run(video=str(clip), save=tmp_path / "out", notify=address, notify_crop=True, command=(["x"], ["--notify", address]))
    assert events(messages) == [json.loads(line) for line in (tmp_path / "out" / "changes.jsonl").open()]
    assert sum(topic == "yard/crop" and payload.startswith(b"\xff\xd8") for topic, payload, _ in messages) == 4
    assert set(json.loads(last(messages, "yard/counts")[0])) == {"all", "grey", "red", "unknown"}
    assert f"notified: 4 events sent to mqtt://127.0.0.1:{port}, 0 dropped" in capsys.readouterr().out


def test_clock_sums_stages():
    clock = pipeline.Clock()
    for _ in clock.each("decode", range(4)):
        with clock("detect"):
            pass
    clock.frames = 4
    assert clock.ms() == {stage: 250 * seconds for stage, seconds in clock.seconds.items()}
    assert set(clock.seconds) == {"decode", "detect"} and "all" in str(clock)


def test_a_stage_within_a_stage_counts_once(monkeypatch):
    now = [0]
    monkeypatch.setattr(pipeline.time, "perf_counter", lambda: now[0])

    def takes(seconds, items):
        for item in items:
            now[0] += seconds
            yield item

    clock = pipeline.Clock()
    for _ in clock.each("outer", takes(1, clock.each("inner", takes(10, range(3))))):
        pass
    assert clock.seconds == {"inner": 30, "outer": 3}


def test_show_debug_writes_a_look_inside(clip, tmp_path):
    run(video=str(clip), save=tmp_path / "out", show_debug=True)
    video = cv2.VideoCapture(str(tmp_path / "out" / "debug.mp4"))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == 12
    assert video.get(cv2.CAP_PROP_FRAME_WIDTH) == 3 * 64


def test_what_is_met_often_is_named_sooner(stand_in, clip, tmp_path):
    network = RedOrGrey()
    network.spec = replace(network.spec, prior={"red": 1e9})
    assert run(network, video=str(clip), save=tmp_path / "a").tracks == {"red": 2}
    (tmp_path / "a.toml").write_text("names.prior = { red = 1e-9 }\n")
    assert run(network, video=str(clip), save=tmp_path / "b", settings=str(tmp_path / "a.toml")).tracks == {"grey": 2}


def test_a_track_called_by_its_kind_is_in_all_files(stand_in, clip, tmp_path):
    network = RedOrGrey(1e6, 0.6)
    network.spec = replace(network.spec, kinds={"thing": ("grey", "red")})
    (tmp_path / "a.toml").write_text("names.kinds = true\n")
    assert run(network, video=str(clip), save=tmp_path / "out", settings=str(tmp_path / "a.toml")).tracks == {"thing": 2}
    assert {row["label"] for row in rows_of(tmp_path / "out" / "predictions.csv")} == {"thing"}
    assert {found["category_id"] for found in json.loads((tmp_path / "out" / "coco.json").read_text())} == {0}, "it has no class"


def test_the_speed_of_a_box_counts_as_evidence(stand_in, clip, tmp_path):
    network = RedOrGrey()  # the red box goes about two of its heights a second, the grey one rests; by its colour it is just red
    network.spec = replace(network.spec, speeds={"grey": (math.log(2), 0.5), "red": (-3, 0.5)}, prior={"red": 0.025})
    assert run(network, video=str(clip), save=tmp_path / "out").tracks == {"grey": 2}
    (tmp_path / "above.toml").write_text("names.geometry = false\n")
    assert run(network, video=str(clip), save=tmp_path / "above", settings=str(tmp_path / "above.toml")).tracks == {"red": 1, "grey": 1}


def test_the_aspect_of_a_box_counts_as_evidence(stand_in, clip, tmp_path):
    network = RedOrGrey()
    network.spec = replace(network.spec, aspects={"grey": (math.log(1 / 2), 0.05), "red": (math.log(2), 0.05)})
    run(network, video=str(clip), save=tmp_path / "out")
    named = {(row["width"], row["label"]) for row in rows_of(tmp_path / "out" / "predictions.csv")}
    assert named == {("20", "grey"), ("8", "red")}, "the wide one looks red, the tall one grey"
    (tmp_path / "above.toml").write_text("names.geometry = false\n")
    run(network, video=str(clip), save=tmp_path / "above", settings=str(tmp_path / "above.toml"))
    assert {(row["width"], row["label"]) for row in rows_of(tmp_path / "above" / "predictions.csv")} == {("20", "red"), ("8", "grey")}
