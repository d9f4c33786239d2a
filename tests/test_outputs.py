"""The files of a run: read by the tools they are for, whole whatever ends the run, and no memory grows with it."""
import csv
import errno
import json
import os
import resource
import signal
import sys
import tracemalloc
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import trackeval
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from util.errors import InputError
from util.files import GrowingFile
from util.outputs.report import Report
from util.outputs.results import DetectionFiles, read_results
from util.outputs.sink import BEHIND, Sink, Sinks
from util.outputs.sinks import Annotated, ChangeMasks, Coco, Events, PredictionTable, Tracks, open_sinks
from util.outputs.staging import Staging
from util.track.places import Places
from util.track.tracking import UNKNOWN, Moment, Sighting, Track
from util.watch.pipeline import Clock

CLASSES = ["cat", "motor bike, red"]
VIDEO = SimpleNamespace(name="/somewhere/clip.avi", fps=25.0, width=96, height=64, live=False, time_of=lambda seconds: None)
CLOCK = Clock()
CLOCK.seconds, CLOCK.frames = {"detect": 0.5}, 12
FRAMES = 12


def sighted(number):
    """What is seen in a frame: an unnamed object without a track, track 1 moving right, from frame 4 on track 2 moving down."""
    seen = [Sighting((70, 40, 12, 9), (66, 36, 20, 17), 0.25), Sighting((number, 5, 20, 16), (number, 0, 30, 26), 0.875, 1, "cat", 0.75)]
    return seen + [Sighting((0, 2 * number, 30, 18), (0, 2 * number, 32, 32), 0.5, 2, CLASSES[1], 0.5)] * (number >= 4)


def moment(number, ended=()):
    seen, frame = sighted(number), np.random.default_rng(number).integers(0, 256, (64, 96, 3), np.uint8)
    mask = np.zeros((64, 96), np.uint8)
    for x, y, width, height in (each.box for each in seen):
        mask[y : y + height, x : x + width] = 255
    boxes, crops, scores = (np.array([getattr(each, name) for each in seen]) for name in ("box", "crop", "score"))
    result = SimpleNamespace(boxes=boxes, crops=crops, scores=scores, mask=mask)
    return Moment(number, (number - 1) / 25, frame, result, seen, list(ended))


def track(number, label="cat"):
    best = np.full((30, 40, 3), (250, 100, number), np.uint8)
    return Track(number, label, 0.9375, 1, 10, 0.0, 0.36, 10, best, 6, (6, 5, 20, 16), "vehicle", 0.75)


def run(directory, end=None, at=FRAMES):
    """A run of 12 frames in which track 1 ends at frame 11, or that `end` breaks off after frame `at`."""
    with open_sinks(SimpleNamespace(save=directory, video="clip.avi", show_debug=False), VIDEO, CLASSES, None, Places()) as sinks:
        try:
            for number in range(1, at + 1):
                sinks.add(moment(number, [track(1)] * (number == 11)))
            if end:
                raise end
        finally:
            sinks.finish([track(2, UNKNOWN)], CLOCK)
        sinks.summarize(frames=at)
    return directory


@contextmanager
def disk_full_at(size):
    """A limit on the size of files stands in for the disk."""
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


def table(directory):
    with open(directory / "predictions.csv", newline="") as file:
        return list(csv.DictReader(file))


def names(directory):
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())


def test_a_run_writes_the_files_of_the_contract(tmp_path):
    found = names(run(tmp_path / "out"))
    numbered = [f"{name}{number:06d}.png" for name in ("cdnet/bin", "masks/") for number in range(1, 13)]
    crops = [name for name in found if name.startswith("crops/")]
    files = "annotated.mp4 coco.json coco_categories.json contact_sheet.png detections.csv events.jsonl predictions.csv report.html"
    files = [*files.split(), "changes.jsonl", "manifest.txt", "summary.json", "tracks.txt", "events/000001.png", "events/000002.png"]
    assert found == sorted([*files, *numbered, *crops]) and len(crops) == 33
    report = (tmp_path / "out" / "report.html").read_text()
    assert "clip.avi" in report and 'src="annotated.mp4"' in report


def test_predictions_give_each_object_its_track(tmp_path):
    rows = table(run(tmp_path / "out"))
    assert list(rows[0]) == list(PredictionTable.COLUMNS) and len(rows) == 33
    assert list(rows[0].values()) == ["1", "0", "70", "40", "12", "9", "unknown", "0.0000", ""]
    assert list(rows[-1].values()) == ["12", "2", "0", "24", "30", "18", "motor bike, red", "0.5000", "2"]
    detected = [(d.frame, d.object, d.x, d.y) for d in read_results(tmp_path / "out")]
    assert detected == [tuple(int(row[key]) for key in ("frame", "object", "x", "y")) for row in rows]


def test_without_save_the_predictions_are_written_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with open_sinks(SimpleNamespace(save=None, video="clip.avi"), VIDEO, CLASSES, None, Places()) as sinks:
        sinks.add(moment(1))
        sinks.finish([], CLOCK)
        assert (tmp_path / "predictions.csv.part").read_text().count("\n") == 3, "to be read as it grows"
    assert names(tmp_path) == ["predictions.csv"] and len(table(tmp_path)) == 2


def test_events_are_lines_with_pictures(tmp_path):
    lines = (run(tmp_path / "out") / "events.jsonl").read_text().splitlines()
    assert json.loads(lines[0]) == {
        "version": 1, "event": "end", "source": "/somewhere/clip.avi", "track": 1, "label": "cat", "confidence": 0.9375,
        "start": 0.0, "end": 0.36, "first_frame": 1, "last_frame": 10, "sightings": 10,
        "box": [6, 5, 20, 16], "best_frame": 6, "best_crop": "events/000001.png", "kind": "vehicle", "kind_confidence": 0.75,
    }  # fmt: skip
    assert json.loads(lines[1])["label"] == UNKNOWN and len(lines) == 2
    picture = cv2.imread(str(tmp_path / "out" / "events" / "000002.png"))
    assert picture.shape == (30, 40, 3) and (picture == (2, 100, 250)).all(), "blue green red"


def test_events_and_report_have_the_time_of_day_where_it_is_known(tmp_path, monkeypatch):
    began = datetime.fromisoformat("2026-11-26T23:59:59.750+05:30")
    monkeypatch.setattr(VIDEO, "time_of", lambda seconds: began + timedelta(seconds=seconds))
    event = json.loads((run(tmp_path / "out") / "events.jsonl").read_text().splitlines()[0])
    assert event["start_time"] == "2026-11-26T23:59:59.750+05:30" and event["end_time"] == "2026-11-27T00:00:00.110+05:30"
    report = (tmp_path / "out" / "report.html").read_text()
    assert "2026-11-26 23:59:59 +05:30 to 2026-11-27 00:00:00 +05:30" in report and "<dd>0.4 s · 00:00:00</dd>" in report


def test_pycocotools_reads_the_results(tmp_path):
    run(tmp_path / "out")
    categories = json.loads((tmp_path / "out" / "coco_categories.json").read_text())
    assert [(each["id"], each["name"]) for each in categories] == [(0, UNKNOWN), (1, "cat"), (2, "motor bike, red")]
    identity = {each["name"]: each["id"] for each in categories}
    boxes = [(number, seen) for number in range(1, FRAMES + 1) for seen in sighted(number)]
    truth = COCO()
    truth.dataset = {"images": [{"id": number} for number in range(1, FRAMES + 1)], "categories": categories, "annotations": [
        {"id": i, "image_id": number, "category_id": identity[seen.label], "bbox": list(seen.box),
         "area": seen.box[2] * seen.box[3], "iscrowd": 0} for i, (number, seen) in enumerate(boxes, 1)]}  # fmt: skip
    truth.createIndex()
    found = truth.loadRes(str(tmp_path / "out" / "coco.json"))
    first = found.loadAnns(found.getAnnIds(imgIds=[4]))
    assert [(each["category_id"], each["bbox"], each["score"], each["track_id"]) for each in first] == [
        (0, [70, 40, 12, 9], 0.25, 0), (1, [4, 5, 20, 16], 0.875, 1), (2, [0, 8, 30, 18], 0.5, 2)]  # fmt: skip
    judge = COCOeval(truth, found, "bbox")
    judge.evaluate(), judge.accumulate(), judge.summarize()
    assert np.isclose(judge.stats[0], 1), "average precision"


def test_trackeval_reads_the_tracks(tmp_path):
    (tmp_path / "truth" / "clip").mkdir(parents=True)
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "clip.txt").write_text((run(tmp_path / "out") / "tracks.txt").read_text())
    moving = [(n, s.track, *s.box) for n in range(1, FRAMES + 1) for s in sighted(n) if s.track]
    truth = "".join(f"{n},{t},{x + 1},{y + 1},{w},{h},1,1,1\n" for n, t, x, y, w, h in moving)
    (tmp_path / "truth" / "clip" / "gt.txt").write_text(truth)
    data = trackeval.datasets.MotChallenge2DBox({
        "GT_FOLDER": str(tmp_path / "truth"), "TRACKERS_FOLDER": str(tmp_path), "TRACKERS_TO_EVAL": ["ours"], "TRACKER_SUB_FOLDER": "",
        "GT_LOC_FORMAT": "{gt_folder}/{seq}/gt.txt", "SEQ_INFO": {"clip": FRAMES}, "SKIP_SPLIT_FOL": True, "PRINT_CONFIG": False,
    })  # fmt: skip
    raw = data.get_raw_seq_data("ours", "clip")
    assert [ids.tolist() for ids in raw["tracker_ids"]] == [[1]] * 3 + [[1, 2]] * 9
    assert raw["tracker_dets"][3].tolist() == [[5, 6, 20, 16], [1, 9, 30, 18]] and raw["tracker_confidences"][3].tolist() == [0.875, 0.5]
    score = trackeval.metrics.CLEAR({"PRINT_CONFIG": False}).eval_sequence(data.get_preprocessed_seq_data(raw, "pedestrian"))
    assert score["MOTA"] == 1 and score["CLR_TP"] == 21 and score["IDSW"] == 0


def no_links(*paths):
    raise OSError(errno.EPERM, "Operation not permitted")


@pytest.mark.parametrize("links", [True, False])
def test_masks_have_the_names_of_cdnet(tmp_path, links, monkeypatch):
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    directory = run(tmp_path / "out")
    for number in (1, FRAMES):
        path = directory / "cdnet" / f"bin{number:06d}.png"
        mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert mask.dtype == np.uint8 and np.array_equal(mask, moment(number).result.mask) and set(np.unique(mask)) == {0, 255}
        assert path.samefile(directory / "masks" / f"{number:06d}.png") == links


@pytest.mark.parametrize("end", [KeyboardInterrupt(), ValueError("a bug")])
def test_a_run_that_breaks_off_leaves_whole_files(tmp_path, end):
    with pytest.raises(type(end)):
        run(tmp_path / "out", end, at=5)
    assert len(table(tmp_path / "out")) == 12 and len(read_results(tmp_path / "out")) == 12
    assert len(json.loads((tmp_path / "out" / "coco.json").read_text())) == 12
    assert len((tmp_path / "out" / "tracks.txt").read_text().splitlines()) == 7
    assert [json.loads(line)["track"] for line in open(tmp_path / "out" / "events.jsonl")] == [2]
    assert "5</dd>" in (tmp_path / "out" / "report.html").read_text()


def prediction_table(staging):
    return PredictionTable(GrowingFile(staging.new("predictions.csv"), PredictionTable.HEAD))


@pytest.mark.parametrize("make", [prediction_table, Tracks, lambda staging: Events(staging, VIDEO), lambda staging: Coco(staging, CLASSES)])
def test_files_are_whole_while_the_run_goes_on_and_after_the_disk_is_full(tmp_path, make):
    def check():
        """The whole records of the file that grows; anything torn raises or stands out."""
        if (staging.path / "coco.json").exists():
            return json.loads((staging.path / "coco.json").read_text())
        [path] = [path for path in staging.path.iterdir() if path.is_file() and path.name != "manifest.txt"]
        lines = path.read_text().splitlines(keepends=True)
        assert all(line.endswith("\n") and line.count(",") >= 8 for line in lines)
        if path.suffix == ".jsonl":
            assert [json.loads(line)["best_crop"] for line in lines] == [name for name in names(staging.path) if name.endswith(".png")]
        return lines

    with Staging(tmp_path / "out") as staging:
        sink = make(staging)
        before = check()
        with pytest.raises(OSError) as caught, disk_full_at(1500):
            for number in range(1, 100):
                sink.add(moment(number % 5 + 4, [track(number)]))
                grown = check()
                assert len(grown) > len(before)
                before = grown
        assert caught.value.filename.startswith(str(staging.path)), "the message names the file"
        assert check() == before and len(before) > 3, "what was there stays, nothing half"
        sink.add(moment(9, [track(200)]))  # there is room again
        assert len(check()) > len(before)
        sink.close()
        assert len(check()) > len(before)
        recorded = (staging.path / "manifest.txt").read_text().splitlines()
        assert set(names(staging.path)) - {"manifest.txt"} <= set(recorded)


def test_a_later_run_leaves_nothing_of_an_earlier_one(tmp_path):
    run(tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "out", KeyboardInterrupt(), at=2)
    found = names(tmp_path / "out")
    assert "masks/000002.png" in found and "cdnet/bin000003.png" not in found and "events/000001.png" not in found
    assert {int(row["frame"]) for row in table(tmp_path / "out")} == {1, 2} and "summary.json" not in found
    assert names(tmp_path) == [f"out/{name}" for name in found], "nothing is left beside"


FULL = OSError(errno.ENOSPC, "No space left on device", "out.part/tracks.txt")


@pytest.mark.parametrize("error", [InputError("frame 3 is broken"), FULL])
def test_a_run_that_fails_leaves_the_earlier_results_and_its_own_beside(tmp_path, error):
    before = contents(run(tmp_path / "out"))
    with pytest.raises(InputError) as caught:
        run(tmp_path / "out", error, at=2)
    assert str(caught.value).endswith(f"; {tmp_path / 'out'} is as it was, and what was finished is in {tmp_path / 'out.part'}")
    assert contents(tmp_path / "out") == before and {int(row["frame"]) for row in table(tmp_path / "out.part")} == {1, 2}
    run(tmp_path / "out")  # the next one clears that
    assert not (tmp_path / "out.part").exists()


def contents(directory):
    """Every file's bytes, but for those that hold a time."""
    return {name: (directory / name).read_bytes() for name in names(directory)}


@pytest.mark.parametrize("error", [KeyboardInterrupt(), InputError("broken"), ValueError()])
def test_without_a_whole_frame_nothing_changes(tmp_path, error):
    with pytest.raises(type(error)):
        run(tmp_path / "new", error, at=0)
    assert not list(tmp_path.iterdir())
    before = contents(run(tmp_path / "out"))
    with pytest.raises(type(error)):
        run(tmp_path / "out", error, at=0)
    assert contents(tmp_path / "out") == before and [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("when", ["add", "finish", "close"])
def test_an_error_in_one_sink_loses_no_other(tmp_path, when, monkeypatch):
    def broken(*_):
        raise RuntimeError("of this sink")

    monkeypatch.setattr(Coco, when, broken, raising=False)
    if when == "close":
        monkeypatch.setattr(Coco, "__setattr__", lambda self, name, value: name == "close" or object.__setattr__(self, name, value))
    with pytest.raises(RuntimeError, match="of this sink"):
        run(tmp_path / "out")
    if when == "add":  # no frame is whole
        assert not list(tmp_path.iterdir())
    else:
        assert len(table(tmp_path / "out")) == 33 and (tmp_path / "out" / "events.jsonl").read_text().count("\n") == 2
        found = names(tmp_path / "out")
        assert {"annotated.mp4", "report.html", "contact_sheet.png"} <= set(found) and "summary.json" not in found


@pytest.mark.parametrize("when", ["add", "finish"])
def test_an_interrupt_waits_until_a_moment_and_the_end_are_written(tmp_path, when, monkeypatch):
    """Ctrl-C comes inside one sink of many: all of them have the frame, or the end, and then the run ends."""
    original = getattr(Tracks, when)

    def interrupted(self, *given):
        os.kill(os.getpid(), signal.SIGINT)
        original(self, *given)

    monkeypatch.setattr(Tracks, when, interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "out")
    frames = int(table(tmp_path / "out")[-1]["frame"])
    assert frames <= 1 + BEHIND + 1 if when == "add" else frames == FRAMES
    assert len(list((tmp_path / "out" / "masks").iterdir())) == frames
    assert f"{frames}</dd>" in (tmp_path / "out" / "report.html").read_text()
    assert json.loads((tmp_path / "out" / "events.jsonl").read_text().splitlines()[-1])["track"] == 2
    capture = cv2.VideoCapture(str(tmp_path / "out" / "annotated.mp4"))
    assert sum(1 for _ in iter(lambda: capture.read()[0], False)) == frames
    assert not (tmp_path / "out" / "summary.json").exists()


def test_what_fails_on_the_other_thread_is_raised_here_and_ends_the_writing(tmp_path):
    class Fails(Sink):
        def add(self, moment):
            if moment.number == 3:
                raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space"), Sinks([Fails()], Staging(tmp_path / "out")) as sinks:
        for number in range(1, 100):
            sinks.add(moment(number))
    assert number < 10
    with pytest.raises(OSError, match="No space"), Sinks([Fails()], Staging(tmp_path / "out")) as sinks:
        sinks.add(moment(3))
        sinks.finish([], CLOCK)


def test_memory_does_not_grow_with_the_run(tmp_path):
    moments, held = [moment(number) for number in range(4, 10)], []
    with Staging(tmp_path / "out") as staging:
        sinks = [make(staging) for make in (prediction_table, Tracks, ChangeMasks)] + [Coco(staging, CLASSES)]
        sinks.append(Report(staging, "clip", VIDEO, Annotated.NAME, CLASSES, Places()))
        tracemalloc.start()
        try:
            for number in range(1, 1201):
                now = replace(moments[number % 6], number=number, seconds=number / 25, ended=[track(number)])
                for sink in sinks:
                    sink.add(now)
                if number % 400 == 0:
                    held.append(tracemalloc.get_traced_memory()[0])
        finally:
            tracemalloc.stop()
        assert held[2] - held[1] < 20_000 and (staging.path / "coco.json").stat().st_size > 200_000, held
        for sink in sinks:
            sink.close()


def test_a_frame_leaves_no_name_in_pythons_own_table(tmp_path, monkeypatch):
    """A name that is interned and forgotten still makes that table be built anew, ever larger: a Path interns each part of it."""
    interned, intern = [], sys.intern
    with Sinks([], Staging(tmp_path / "out")) as sinks:
        sinks.sinks += [make(sinks.staged) for make in (DetectionFiles, ChangeMasks, Tracks)]
        sinks.sinks += [Coco(sinks.staged, CLASSES), Annotated(sinks.staged, VIDEO), Events(sinks.staged, VIDEO)]
        sinks.add(moment(1))
        monkeypatch.setattr(sys, "intern", lambda text: interned.append(text) or intern(text))
        for number in range(2, 5):
            sinks.add(replace(moment(number), ended=[track(number)]))
        sinks.finish([], CLOCK)
        assert not [text for text in interned if "00000" in text]


def test_a_table_that_is_none_of_ours_stays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def predict(end=None):
        with open_sinks(SimpleNamespace(save=None, video="clip.avi"), VIDEO, CLASSES, None, Places()) as sinks:
            sinks.add(moment(1))
            if end:
                raise end

    predict()
    before = (tmp_path / "predictions.csv").read_text()
    with pytest.raises(InputError, match=r"is as it was, and what was finished is in predictions.csv.part"):
        predict(InputError("frame 2 is broken"))
    assert (tmp_path / "predictions.csv").read_text() == before
    predict()  # ours, and so is the part
    assert names(tmp_path) == ["predictions.csv"]
    for name in ("predictions.csv", "predictions.csv.part"):
        (tmp_path / name).write_text("a week of work\n")
        with pytest.raises(InputError, match=f"{name} is not of a run like this one"):
            predict()
        assert (tmp_path / name).read_text() == "a week of work\n"
        (tmp_path / name).unlink()
    (tmp_path / "work.csv").write_text(before)
    (tmp_path / "predictions.csv").symlink_to("work.csv")
    with pytest.raises(InputError, match="predictions.csv is a link"):
        predict()
    assert names(tmp_path) == ["predictions.csv", "work.csv"]
