"""From regions to names: the same through a directory and straight from a video; files, tables, interruption."""
import argparse
import csv
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from util import naming
from util.cli import InputError

CLASSES = ["dark", "light"]


def classify(crops):
    """Names crops by their mean brightness."""
    means = [crop.mean() / 255 for crop in crops]
    return [int(mean > 0.5) for mean in means], [max(mean, 1 - mean) for mean in means]


def make_detector(width, height):
    """Stands in for the detector: two fixed boxes from the third frame on."""
    count = 0

    def detect(frame):
        nonlocal count
        count += 1
        boxes = np.array([[4, 6, 20, 10], [40, 20, 8, 16]] if count > 2 else [], np.int32).reshape(-1, 4)
        mask = np.zeros((height, width), np.uint8)
        return SimpleNamespace(boxes=boxes, crops=boxes + [-2, -2, 4, 4], scores=np.linspace(0.9, 0.5, len(boxes)), mask=mask)

    return detect


@pytest.fixture
def clip(tmp_path):
    """Five frames, left side light, right side dark."""
    (tmp_path / "clip").mkdir()
    for i in range(5):
        frame = np.random.default_rng(i).integers(0, 60, (48, 64, 3), np.uint8)
        frame[:, :32] += 180
        cv2.imwrite(str(tmp_path / "clip" / f"{i:03d}.png"), frame)
    return tmp_path / "clip"


def arguments(**given):
    defaults = {"fastMCD": None, "multi_fastMCD": None, "video": None, "label": None, "save": None, "limit": None}
    return argparse.Namespace(**{**defaults, **given})


def run(**given):
    return naming.run(arguments(**given), classify, make_detector, CLASSES, {1: {0}})


def test_video_and_directory_give_the_same_names(clip, tmp_path, capsys):
    straight = run(video=str(clip), save=tmp_path / "out")
    assert (tmp_path / "out" / "annotated.mp4").stat().st_size > 0 and (tmp_path / "out" / "contact_sheet.png").exists()
    through = run(multi_fastMCD=tmp_path / "out")
    assert straight.rows == through.rows and len(straight.rows) == 6
    assert straight.rows[0][:7] == (3, 0, 4, 6, 20, 10, "light") and straight.rows[1][6] == "dark"
    best = run(fastMCD=tmp_path / "out")
    assert best.rows == [row for row in straight.rows if row[1] == 0]
    assert "6 objects in 3 of 5 frames" in capsys.readouterr().out


def test_predictions_are_written_where_they_belong(clip, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(video=str(clip))
    with open(tmp_path / "predictions.csv") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == naming.COLUMNS and len(rows) == 6
    assert rows[0]["label"] == "light" and float(rows[0]["probability"]) > 0.5
    run(video=str(clip), save=tmp_path / "out")
    run(fastMCD=tmp_path / "out", save=Path("elsewhere"))
    assert sum(1 for _ in open(tmp_path / "elsewhere" / "predictions.csv")) == 4


def test_label_counts_its_equals_as_right(clip, tmp_path, capsys):
    run(video=str(clip), save=tmp_path / "out", label=0)
    assert "dark: 3 of 6 objects, 50.0%" in capsys.readouterr().out
    run(multi_fastMCD=tmp_path / "out", label=1)
    assert "light or dark: 6 of 6 objects, 100.0%" in capsys.readouterr().out


def test_interruption_keeps_what_was_done(clip, tmp_path):
    calls = []

    def interrupted(crops):
        calls.append(crops)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return classify(crops)

    with pytest.raises(KeyboardInterrupt):
        naming.run(arguments(video=str(clip), save=tmp_path / "out"), interrupted, make_detector, CLASSES, {})
    assert sum(1 for _ in open(tmp_path / "out" / "predictions.csv")) == 3
    assert sum(1 for _ in open(tmp_path / "out" / "detections.csv")) == 3
    assert (tmp_path / "out" / "annotated.mp4").exists()


def test_a_cut_off_video_is_refused_but_what_was_read_is_kept(tmp_path):
    writer = cv2.VideoWriter(str(tmp_path / "clip.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 25, (64, 48))
    for i in range(60):
        writer.write(np.random.default_rng(i).integers(0, 256, (48, 64, 3), np.uint8))
    writer.release()
    whole = (tmp_path / "clip.avi").read_bytes()
    (tmp_path / "clip.avi").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="of the 60 announced frames"):
        run(video=str(tmp_path / "clip.avi"), save=tmp_path / "out")
    rows = sum(1 for _ in open(tmp_path / "out" / "predictions.csv"))
    assert 20 < rows == sum(1 for _ in open(tmp_path / "out" / "detections.csv")) < 110
    assert (tmp_path / "out" / "annotated.mp4").exists()


def test_nothing_found_still_gives_files_and_no_sheet(clip, tmp_path, capsys):
    run(video=str(clip), save=tmp_path / "out", limit=2, label=1)
    assert "0 of 0 objects, 0.0%" in capsys.readouterr().out
    assert (tmp_path / "out" / "predictions.csv").read_text() == ",".join(naming.COLUMNS) + "\n"
    assert not (tmp_path / "out" / "contact_sheet.png").exists()


def test_sampler_keeps_an_even_sample():
    sampler = naming.Sampler(most=8)
    for i in range(100):
        sampler.add(i)
    assert len(sampler.items) <= 8 and sampler.items == list(range(0, 100, sampler.step))


def test_clock_counts_frames_and_stages():
    clock = naming.Clock()
    for _ in clock.each("decode", range(4)):
        with clock("detect"):
            pass
    assert clock.frames == 4 and set(clock.seconds) == {"decode", "detect"} and "all" in str(clock)
