"""The files of a run: read by the tools they are for, whole whatever ends the run, and no memory grows with it."""
import csv
import errno
import json
import os
import resource
import signal
import tracemalloc
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from util.cli import InputError
from util.outputs import sinks
from util.outputs.report import Report
from util.outputs.results import read_results
from util.outputs.sinks import ChangeMasks, Coco, Events, Predictions, Tracks, open_sinks
from util.track.tracking import UNKNOWN, Moment, Sighting, Track
from util.watch.pipeline import Clock

CLASSES = ["cat", "motor bike, red"]
VIDEO = SimpleNamespace(name="/somewhere/clip.avi", fps=25.0, width=96, height=64)
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
    return Track(number, label, 0.9375, 1, 10, 0.0, 0.36, 10, best, 6, (6, 5, 20, 16))


def run(directory, end=None, at=FRAMES):
    """A run of 12 frames in which track 1 ends at frame 11, or that `end` breaks off after frame `at`."""
    with ExitStack() as stack:
        sinks = open_sinks(stack, SimpleNamespace(save=directory, video="clip.avi", show_debug=False), VIDEO, CLASSES, None)
        try:
            for number in range(1, at + 1):
                for sink in sinks:
                    sink.add(moment(number, [track(1)] * (number == 11)))
            if end:
                raise end
        finally:
            for sink in sinks:
                sink.finish([track(2, UNKNOWN)], CLOCK)
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
    files = [*files.split(), "tracks.txt", "events/000001.png", "events/000002.png"]
    assert found == sorted([*files, *numbered, *crops]) and len(crops) == 33
    report = (tmp_path / "out" / "report.html").read_text()
    assert "clip.avi" in report and 'src="annotated.mp4"' in report


def test_predictions_give_each_object_its_track(tmp_path):
    rows = table(run(tmp_path / "out"))
    assert list(rows[0]) == sinks.PREDICTIONS and len(rows) == 33
    assert list(rows[0].values()) == ["1", "0", "70", "40", "12", "9", "unknown", "0.0000", ""]
    assert list(rows[-1].values()) == ["12", "2", "0", "24", "30", "18", "motor bike, red", "0.5000", "2"]
    detected = [(d.frame, d.object, d.x, d.y) for d in read_results(tmp_path / "out")]
    assert detected == [tuple(int(row[key]) for key in ("frame", "object", "x", "y")) for row in rows]


def test_without_save_the_predictions_are_written_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with ExitStack() as stack:
        [sink] = open_sinks(stack, SimpleNamespace(save=None, video="clip.avi"), VIDEO, CLASSES, None)
        sink.add(moment(1))
    assert names(tmp_path) == ["predictions.csv"] and len(table(tmp_path)) == 2


def test_events_are_lines_with_pictures(tmp_path):
    lines = (run(tmp_path / "out") / "events.jsonl").read_text().splitlines()
    assert json.loads(lines[0]) == {
        "track": 1, "label": "cat", "confidence": 0.9375, "start": 0.0, "end": 0.36, "first_frame": 1, "last_frame": 10, "sightings": 10,
        "box": [6, 5, 20, 16], "best_frame": 6, "best_crop": "events/000001.png",
    }  # fmt: skip
    assert json.loads(lines[1])["label"] == UNKNOWN and len(lines) == 2
    picture = cv2.imread(str(tmp_path / "out" / "events" / "000002.png"))
    assert picture.shape == (30, 40, 3) and (picture == (2, 100, 250)).all(), "blue green red"


def test_pycocotools_reads_the_results(tmp_path):
    coco, evaluation = pytest.importorskip("pycocotools.coco"), pytest.importorskip("pycocotools.cocoeval")
    run(tmp_path / "out")
    categories = json.loads((tmp_path / "out" / "coco_categories.json").read_text())
    assert [(each["id"], each["name"]) for each in categories] == [(0, UNKNOWN), (1, "cat"), (2, "motor bike, red")]
    identity = {each["name"]: each["id"] for each in categories}
    boxes = [(number, seen) for number in range(1, FRAMES + 1) for seen in sighted(number)]
    truth = coco.COCO()
    truth.dataset = {"images": [{"id": number} for number in range(1, FRAMES + 1)], "categories": categories, "annotations": [
        {"id": i, "image_id": number, "category_id": identity[seen.label], "bbox": list(seen.box),
         "area": seen.box[2] * seen.box[3], "iscrowd": 0} for i, (number, seen) in enumerate(boxes, 1)]}  # fmt: skip
    truth.createIndex()
    found = truth.loadRes(str(tmp_path / "out" / "coco.json"))
    first = found.loadAnns(found.getAnnIds(imgIds=[4]))
    assert [(each["category_id"], each["bbox"], each["score"], each["track_id"]) for each in first] == [
        (0, [70, 40, 12, 9], 0.25, 0), (1, [4, 5, 20, 16], 0.875, 1), (2, [0, 8, 30, 18], 0.5, 2)]  # fmt: skip
    judge = evaluation.COCOeval(truth, found, "bbox")
    judge.evaluate(), judge.accumulate(), judge.summarize()
    assert np.isclose(judge.stats[0], 1), "average precision"


def test_trackeval_reads_the_tracks(tmp_path):
    trackeval = pytest.importorskip("trackeval")
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


@pytest.mark.parametrize("make", [Predictions, Tracks, Events, lambda directory: Coco(directory, CLASSES)])
def test_files_are_whole_while_the_run_goes_on_and_after_the_disk_is_full(tmp_path, make):
    def check():
        """The whole records of the file that grows; anything torn raises or stands out."""
        if (tmp_path / "coco.json").exists():
            return json.loads((tmp_path / "coco.json").read_text())
        [path] = [path for path in tmp_path.iterdir() if path.is_file()]
        lines = path.read_text().splitlines(keepends=True)
        assert all(line.endswith("\n") and line.count(",") >= 8 for line in lines)
        if path.suffix == ".jsonl":
            assert [json.loads(line)["best_crop"] for line in lines] == [name for name in names(tmp_path) if name.endswith(".png")]
        return lines

    with make(tmp_path) as sink:
        before = check()
        with pytest.raises(OSError), disk_full_at(1500):
            for number in range(1, 100):
                sink.add(moment(number % 5 + 4, [track(number)]))
                grown = check()
                assert len(grown) > len(before)
                before = grown
        assert check() == before and len(before) > 3, "what was there stays, nothing half"
        sink.add(moment(9, [track(200)]))  # there is room again
        assert len(check()) > len(before)
    assert len(check()) > len(before)
    assert not list(tmp_path.rglob(".*")), "nothing is left beside"


def test_a_later_run_leaves_nothing_of_an_earlier_one(tmp_path):
    run(tmp_path / "out")
    with pytest.raises(ValueError):
        run(tmp_path / "out", ValueError(), at=2)
    found = names(tmp_path / "out")
    assert "masks/000002.png" in found and "cdnet/bin000003.png" not in found and "events/000001.png" not in found
    assert {int(row["frame"]) for row in table(tmp_path / "out")} == {1, 2} and "annotated.mp4" not in found


@pytest.mark.parametrize("taken", ["events", "cdnet"])
def test_what_stands_in_the_way_is_one_line(tmp_path, taken):
    run(tmp_path)
    for path in (tmp_path / taken).iterdir():
        path.unlink()
    (tmp_path / taken).rmdir()
    (tmp_path / taken).write_text("a file")
    with pytest.raises(InputError, match=f"{taken}: File exists; choose another directory"):
        run(tmp_path)


def test_memory_does_not_grow_with_the_run(tmp_path):
    moments, held = [moment(number) for number in range(4, 10)], []
    with ExitStack() as stack:
        sinks = [Predictions(tmp_path), Tracks(tmp_path), Coco(tmp_path, CLASSES), ChangeMasks(tmp_path), Report(tmp_path, "clip")]
        for sink in sinks:
            stack.enter_context(sink)
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
    assert held[2] - held[1] < 20_000 and (tmp_path / "coco.json").stat().st_size > 200_000, held
