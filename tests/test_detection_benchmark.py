"""The benchmark of the detector on tiny sequences in both layouts, and its sums against plain numpy."""
import re

import cv2
import numpy as np
import pytest

from tests.scripts import load_script
from util.errors import InputError
from util.score.scenes import Mover, Scene, camera_path, texture

WIDTH, HEIGHT, FRAMES = 128, 96, 30
detection = load_script("benchmarks/detection.py")


def write_sequence(directory, cdnet):
    """A sequence in CDnet's layout (numbers from 1, regions of interest) or DAVIS's (from 0, neither)."""
    card = np.full((28, 28, 4), 255, np.uint8)
    scene = Scene(WIDTH, HEIGHT, texture(300, 200, 3), camera_path(FRAMES, (50, 50)), [Mover(card, lambda t: (55 + 3 * t, 95))], 1)
    for name in ("input", "groundtruth"):
        (directory / name).mkdir(parents=True)
    for t, frame in enumerate(scene):
        picture, truth = ("in%06d.jpg", "gt%06d.png") if cdnet else ("%05d.jpg", "%05d.png")
        cv2.imwrite(str(directory / "input" / (picture % (t + cdnet))), frame.image)
        cv2.imwrite(str(directory / "groundtruth" / (truth % (t + cdnet))), frame.mask)
    if cdnet:
        cv2.imwrite(str(directory / "ROI.bmp"), np.full((HEIGHT, WIDTH), 255, np.uint8))
        (directory / "temporalROI.txt").write_text(f"11 {FRAMES}")
    return directory


@pytest.mark.parametrize("cdnet", [True, False], ids=["CDnet", "DAVIS"])
def test_a_sequence_gives_a_row_per_method_and_a_sheet(tmp_path, capsys, cdnet):
    directory = write_sequence(tmp_path / "cards", cdnet)
    detection.main([str(directory), "--peers", "MOG2", "KNN", "--pictures", str(tmp_path / "sheets")])
    _, header, *rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert header[2:7] == ["P", "R", "F", "boxR", "boxP"]
    assert [row[:2] for row in rows] == [["cards", m] for m in ("fastMCD", "MOG2", "KNN")]
    for row in rows:
        p, r, f = map(float, row[2:5])
        assert all(0 <= float(v) <= 1 for v in row[2:7]) and f == pytest.approx(2 * p * r / (p + r), abs=0.01)
    assert float(rows[0][4]) > 0.5  # a bright card over a still ground is no riddle
    assert cv2.imread(str(tmp_path / "sheets" / "cards.png")).shape[1] == 4 * WIDTH


def test_only_frames_inside_the_temporal_region_count(tmp_path):
    counted = [truth is not None for _, truth, _ in detection.read(write_sequence(tmp_path, True))]
    assert counted == [False] * 10 + [True] * 20


def test_pixels_are_counted_by_the_protocol():
    truth = np.array([[0, 50, 85, 170, 255, 255, 255, 0]], np.uint8)
    mask, region = np.array([[255, 255, 255, 255, 255, 0, 255, 255]], np.uint8), np.array([[1, 1, 1, 1, 1, 1, 0, 0]], bool)
    score = detection.Score()
    score.add_frame(mask, np.empty((0, 4), int), truth, region)
    assert (score.tp, score.fp, score.fn) == (1, 2, 1) and score.f() == pytest.approx(0.4)


def test_speed_names_every_level_and_ratio(capsys):
    detection.print_speed(None, [(64, 48)], detection.WARM_UP + 2, threads=2)
    rows, levels = capsys.readouterr().out.splitlines()[1:], detection._fastmcd.levels()
    assert [row[11:21].strip() for row in rows] == ["MOG2", *levels, f"{levels[0]} x2"]
    for row in rows[1:]:
        numbers = [float(v) for v in re.findall(r"\d+\.\d+", row)]
        assert sum(numbers[-4:]) < 3 * numbers[0] and numbers[1] <= numbers[0] <= numbers[2]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "nothing to do"),
        (["nowhere"], "is no sequence"),
        (["--peers", "VIBE"], "VIBE is none of"),
        (["--speed", "--frames", "3"], "--frames over"),
        (["--speed", "--threads", "0"], "--threads must be"),
    ],
)
def test_bad_arguments_end_in_one_line(arguments, words):
    with pytest.raises(InputError, match=words) as error:
        detection.main(arguments)
    assert "\n" not in str(error.value)


def test_a_peer_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(detection.PEERS, "CNT", lambda: cv2.no_such_thing)
    with pytest.raises(InputError, match="CNT is not installed here; it needs opencv-contrib-python"):
        detection.main(["--speed", "--peers", "CNT"])
