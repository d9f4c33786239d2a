"""From the detector's results to names: which objects, the table, predictions.csv, interruption."""
import argparse
import csv
import tracemalloc
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from tests.networks import RedOrGrey
from tests.results import ResultsWriter
from util import watch
from util.errors import InputError
from util.outputs.results import COLUMNS
from util.watch import naming


@pytest.fixture
def results(tmp_path):
    """Five frames, left side red, right side grey, an object in each half from the third on."""
    with ResultsWriter(tmp_path / "results") as writer:
        for i in range(5):
            frame = np.random.default_rng(i).integers(0, 60, (48, 64, 3), np.uint8)
            frame[:, :32, 2] += 180
            boxes = np.array([[4, 6, 20, 10], [40, 20, 8, 16]] if i > 1 else [], np.int32).reshape(-1, 4)
            scores, mask = np.linspace(0.9, 0.5, len(boxes)), np.zeros((48, 64), np.uint8)
            writer.add(i + 1, frame, SimpleNamespace(boxes=boxes, crops=boxes + [-2, -2, 4, 4], scores=scores, mask=mask))
    return tmp_path / "results"


def run(network=None, **given):
    defaults = {"fastMCD": None, "multi_fastMCD": None, "video": None, "label": None, "save": None, "limit": None}
    return watch.run(argparse.Namespace(**{**defaults, **given}), network or RedOrGrey(also_right={"red": ("grey",)}))


def test_all_objects_or_the_best_of_each_frame_get_names(results, capsys):
    every = run(multi_fastMCD=results)
    assert len(every) == 6 and every[0][:7] == (3, 0, 4, 6, 20, 10, "red") and every[1][6] == "grey"
    best = run(fastMCD=results)
    assert best == [row for row in every if row[1] == 0]
    assert "6 objects in 3 frames" in capsys.readouterr().out
    assert run(multi_fastMCD=results, limit=2) == every[:4], "those of two frames"


def test_predictions_are_written_where_they_belong(results, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(multi_fastMCD=results)
    with open(results / "predictions.csv") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == naming.COLUMNS and len(rows) == 6
    assert rows[0]["label"] == "red" and float(rows[0]["probability"]) > 0.5
    run(fastMCD=results, save=Path("elsewhere"))
    assert sum(1 for _ in open(tmp_path / "elsewhere" / "predictions.csv")) == 4
    assert (tmp_path / "elsewhere" / "contact_sheet.png").exists()


def test_label_counts_its_equals_as_right(results, capsys):
    run(multi_fastMCD=results, label="0")
    assert "grey: 3 of 6 objects, 50.0%" in capsys.readouterr().out
    run(multi_fastMCD=results, label="red")
    assert "red or grey: 6 of 6 objects, 100.0%" in capsys.readouterr().out


def test_interruption_keeps_what_was_done(results, monkeypatch):
    monkeypatch.setattr(naming, "BATCH", 2)

    class Interrupted(RedOrGrey):
        calls = 0

        def __call__(self, images):
            self.calls += 1
            if self.calls == 3:
                raise KeyboardInterrupt
            return super().__call__(images)

    with pytest.raises(KeyboardInterrupt):
        run(Interrupted(), multi_fastMCD=results)
    assert sum(1 for _ in open(results / "predictions.csv")) == 5


def test_memory_does_not_hold_all_crops(tmp_path, monkeypatch):
    monkeypatch.setattr(naming, "BATCH", 16)
    (tmp_path / "crops").mkdir()
    cv2.imwrite(str(tmp_path / "crops" / "a.png"), np.full((200, 200, 3), 99, np.uint8))
    rows = "".join(f"{number},0,0,0,200,200,0.5,crops/a.png\n" for number in range(1, 401))
    (tmp_path / "detections.csv").write_text(",".join(COLUMNS) + "\n" + rows)
    run(fastMCD=tmp_path, limit=16)
    tracemalloc.start()
    assert len(run(fastMCD=tmp_path)) == 400
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 16e6, "all of them are 48 MB"


def test_a_table_from_elsewhere_stays(results, tmp_path):
    run(multi_fastMCD=results)
    run(fastMCD=results)  # its own is replaced
    assert sum(1 for _ in open(results / "predictions.csv")) == 4
    for text in ("frame,object,x,y,width,height,label,probability,track\n", "mine\n"):  # a video's run, somebody
        (results / "predictions.csv").write_text(text)
        with pytest.raises(InputError, match="predictions.csv is not of a run like this one; move it, or write elsewhere with --save DIR"):
            run(fastMCD=results)
        assert (results / "predictions.csv").read_text() == text
    run(fastMCD=results, save=tmp_path / "names")
    (tmp_path / "names" / "mine").write_text("mine")
    with pytest.raises(InputError, match="holds 'mine'"):
        run(fastMCD=results, save=tmp_path / "names")


def test_results_that_were_named_can_be_replaced(results):
    run(fastMCD=results)
    with ResultsWriter(results):
        pass
    assert not (results / "predictions.csv").exists()


def test_what_is_other_or_not_sure_enough_is_unknown(results):
    class Three(RedOrGrey):
        def __call__(self, images):
            return np.concatenate([super().__call__(images), np.full((len(images), 1), 1.0, np.float32)], 1)

    network = Three()
    network.spec = replace(network.spec, classes=("grey", "red", "other"))
    rows = run(network, multi_fastMCD=results)
    assert [row[6] for row in rows] == ["red", "unknown"] * 3  # what is grey is most like `other`
    sure = run(multi_fastMCD=results)
    cool = run(RedOrGrey(temperature=2.0), multi_fastMCD=results)
    assert all(0.5 < warm[7] < cold[7] for cold, warm in zip(sure, cool, strict=True))
    below = run(RedOrGrey(temperature=2.0, unknown_below=0.9), multi_fastMCD=results)
    assert [row[6] for row in below] == [row[6] if row[7] >= 0.9 else "unknown" for row in cool] and "unknown" in {row[6] for row in below}


def test_the_prior_and_the_aspect_of_the_box_count_as_in_a_clip(results):
    plain = [row[7] for row in run(multi_fastMCD=results)]
    network = RedOrGrey(temperature=0.5)
    calibrated = [row[7] for row in run(network, multi_fastMCD=results)]
    network.spec = replace(network.spec, prior={"red": 3.0, "grey": 0.5})
    more = [row[7] for row in run(network, multi_fastMCD=results)]
    odds, shifted = (np.array(p) / (1 - np.array(p)) for p in (calibrated, more))
    assert calibrated != plain and shifted / odds == pytest.approx([6, 1 / 6] * 3, rel=1e-6), "red is six times as likely against grey"
    network.spec = replace(network.spec, prior={}, aspects={"red": (np.log(2), 0.3)})  # the red box is 20 x 10, the grey one 8 x 16
    tall = [row[7] for row in run(network, multi_fastMCD=results)]
    assert all(now < before for now, before in zip(tall, calibrated, strict=True)), "the red one is not tall as red ones are, the grey is"
