"""Scores against counts made by hand, pycocotools on files, and TrackEval's own way from files to numbers."""
import contextlib
import io
import json

import numpy as np
import pytest
import trackeval
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from util.score import metrics
from util.score.metrics import Boxes, Pixels


def clip(seed, frames=12, objects=5):
    """Truth of objects that walk, and boxes found: shaken, some missing, some too many, identities mixed up now and then."""
    rng = np.random.default_rng(seed)
    start, speed, size = rng.uniform(0, 200, (objects, 2)), rng.uniform(-6, 6, (objects, 2)), rng.uniform(20, 60, (objects, 2))
    true, found, names = [], [], list(range(1, objects + 1))
    for frame in range(1, frames + 1):
        if rng.random() < 0.3:
            i, j = rng.choice(objects, 2, replace=False)
            names[i], names[j] = names[j], names[i]
        for k in range(objects):
            box = np.r_[start[k] + frame * speed[k], size[k]]
            true.append((frame, *box, 1.0, k + 1, "cat" if k % 2 else "dog", False))
            if rng.random() < 0.85:
                shaken = box + rng.normal(0, 4, 4)
                found.append((frame, *shaken, rng.random(), names[k], "cat" if rng.random() < 0.5 else "dog"))
        if rng.random() < 0.4:
            found.append((frame, *rng.uniform(0, 200, 2), 30, 30, rng.random(), 100 + frame, "unknown"))
    return Boxes.of(true), Boxes.of(found)


# ---- Pixels ----
def test_pixels_by_hand():
    truth = np.array([[0, 0, 0, 0, 50, 50, 85, 170], [255, 255, 255, 255, 255, 0, 0, 255]], np.uint8)
    mask = np.array([[0, 0, 0, 1, 1, 0, 1, 1], [1, 1, 1, 0, 0, 0, 1, 1]], np.uint8)
    region = np.ones((2, 8), bool)
    region[1, 6:] = False
    counts = Pixels()
    counts.add(mask, truth, region)
    assert (counts.tp, counts.fp, counts.fn, counts.tn, counts.shadow, counts.shadow_fp) == (3, 2, 2, 5, 2, 1)
    assert counts.scores() == pytest.approx(
        {
            "precision": 3 / 5,
            "recall": 3 / 5,
            "f_measure": 3 / 5,
            "specificity": 5 / 7,
            "fpr": 2 / 7,
            "fnr": 2 / 5,
            "pbc": 100 * 4 / 12,
            "fpr_shadow": 1 / 2,
        }
    )


def test_pixels_are_pooled_over_the_frames_of_a_clip():
    counts = Pixels()
    counts.add(np.ones((1, 3), np.uint8), np.full((1, 3), 255, np.uint8))  # F 1
    counts.add(np.ones((1, 1), np.uint8), np.zeros((1, 1), np.uint8))  # F 0
    assert counts.scores()["f_measure"] == pytest.approx(2 * 3 / (2 * 3 + 1))


def test_without_a_moving_pixel_there_is_no_recall():
    counts = Pixels()
    counts.add(np.zeros((2, 2), np.uint8), np.zeros((2, 2), np.uint8))
    assert counts.scores()["recall"] is None and counts.scores()["specificity"] == 1 and counts.scores()["fpr_shadow"] is None


# ---- Boxes ----
def test_overlap_by_hand():
    assert metrics.iou([[0, 0, 10, 10]], [[5, 0, 10, 10], [20, 20, 1, 1], [0, 0, 10, 10]])[0].tolist() == pytest.approx([1 / 3, 0, 1])


def test_every_true_box_is_found_once():
    truth = Boxes.of([(1, 0, 0, 10, 10), (2, 0, 0, 10, 10)])
    found = Boxes.of([(1, 0, 0, 10, 10), (1, 1, 0, 10, 10), (2, 4, 0, 10, 10), (3, 0, 0, 10, 10)])  # IoU 1, 0.82, 0.43; no truth
    score = metrics.detection(truth, found)
    assert (score["boxes_true"], score["boxes_found"], score["boxes_right"]) == (2, 4, 1)
    assert score["box_precision"] == 1 / 4 and score["box_recall"] == 1 / 2


def test_boxes_on_ignored_truth_count_neither_way():
    truth = Boxes.of([(1, 0, 0, 10, 10), (1, 0, 0, 40, 10, 1.0, 2, "", True)])
    found = Boxes.of([(1, 0, 0, 10, 9), (1, 20, 0, 10, 10), (1, 34, 0, 10, 10), (1, 36, 0, 10, 10)])  # right, inside, 6/10, 4/10
    assert metrics.counted(truth, found).box[:, 0].tolist() == [0, 36]
    assert metrics.detection(truth, found)["box_precision"] == 1 / 2 and metrics.detection(truth, found)["boxes_true"] == 1
    assert metrics.tracking(truth, Boxes.of([(1, 0, 0, 10, 10, 1.0, 1), (1, 20, 0, 10, 10, 1.0, 2)]))["MOTA"] == 1


def test_names_are_judged_where_a_box_is_on_an_object():
    truth = Boxes.of([(f, 0, 0, 10, 10, 1.0, 0, name) for f, name in enumerate(["cat", "cat", "dog", "cat", ""], 1)])
    names = [(0, "cat"), (0, "dog"), (0, "unknown"), (9, "cat"), (0, "cat")]
    found = Boxes.of([(f, x, 0, 10, 10, 0.9, 0, name) for f, (x, name) in enumerate(names, 1)])
    assert metrics.naming(truth, found) == {"label_accuracy": 1 / 3, "label_unknown": 1 / 3, "labels": 3}


# ---- COCO ----
def pycocotools_says(tmp_path, truth, found, categories=0):
    names = {"cat": 1, "dog": 2, "unknown": 3}
    everything = {"images": [{"id": i} for i in range(1, 13)], "categories": [{"id": i, "name": n} for n, i in names.items()]}
    everything["annotations"] = [
        {"id": i, "image_id": int(f), "category_id": names[n], "bbox": b.tolist(), "area": b[2] * b[3], "iscrowd": int(c)}
        for i, (f, b, n, c) in enumerate(zip(truth.frame, truth.box, truth.label, truth.ignored, strict=True), 1)
    ]
    results = [
        {"image_id": int(f), "category_id": names[n], "bbox": b.tolist(), "score": s}
        for f, b, n, s in zip(found.frame, found.box, found.label, found.score, strict=True)
    ]
    (tmp_path / "truth.json").write_text(json.dumps(everything))
    (tmp_path / "results.json").write_text(json.dumps(results))
    with contextlib.redirect_stdout(io.StringIO()):
        there = COCO(str(tmp_path / "truth.json"))
        judge = COCOeval(there, there.loadRes(str(tmp_path / "results.json")), "bbox")
        judge.params.useCats = categories
        judge.evaluate(), judge.accumulate(), judge.summarize()
    return dict(zip(["AP", "AP50", "AR1", "AR10", "AR100"], judge.stats[[0, 1, 6, 7, 8]], strict=True))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("crowd", [False, True])
def test_proposals_are_scored_as_pycocotools_does(tmp_path, seed, crowd):
    truth, found = clip(seed)
    truth.ignored = truth.id == 1 if crowd else truth.ignored
    ours = metrics.coco(truth, found)
    assert ours == pytest.approx(pycocotools_says(tmp_path, truth, found), abs=1e-12) and 0.1 < ours["AP50"] < 0.95


def test_named_boxes_are_scored_as_pycocotools_does(tmp_path):
    truth, found = clip(5)
    ours = metrics.coco(truth, found, by_name=True)
    assert ours == pytest.approx(pycocotools_says(tmp_path, truth, found, categories=1), abs=1e-12)
    assert ours["AP50"] < metrics.coco(truth, found)["AP50"]


def test_one_of_two_found_by_hand():
    truth = Boxes.of([(1, 0, 0, 10, 10), (1, 50, 0, 10, 10)])
    ours = metrics.coco(truth, Boxes.of([(1, 0, 0, 10, 10, 0.9), (1, 80, 80, 10, 10, 0.8)]))
    assert ours["AR1"] == ours["AR100"] == 0.5 and ours["AP50"] == pytest.approx(51 / 101)  # recall 0, 0.01 … 0.50 at precision 1
    assert metrics.coco(truth, truth)["AP"] == pytest.approx(1) and metrics.coco(truth, Boxes.of([]))["AR10"] == 0
    assert set(metrics.coco(Boxes.of([]), truth).values()) == {None}


# ---- Identities ----
def mot_text(boxes):
    rows = zip(boxes.frame, boxes.id, boxes.box.tolist(), strict=True)
    return "".join(f"{f},{i},{','.join(map(repr, b))},1,1,1\n" for f, i, b in rows)


def trackeval_says(tmp_path, truth, found):
    """MOTA, IDF1, HOTA, switches as TrackEval's command finds them in files of the MOTChallenge."""
    for name, text in {
        "gt/clip/gt/gt.txt": mot_text(truth),
        "gt/clip/seqinfo.ini": f"[Sequence]\nname=clip\nseqLength={truth.frame.max()}\n",
        "trackers/ours/data/clip.txt": mot_text(found),
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    quiet = {"PRINT_RESULTS": False, "PRINT_CONFIG": False, "TIME_PROGRESS": False, "OUTPUT_SUMMARY": False}
    files = {"OUTPUT_DETAILED": False, "PLOT_CURVES": False, "LOG_ON_ERROR": None, "USE_PARALLEL": False}
    folders = {"GT_FOLDER": str(tmp_path / "gt"), "TRACKERS_FOLDER": str(tmp_path / "trackers"), "SEQ_INFO": {"clip": None}}
    with contextlib.redirect_stdout(io.StringIO()):
        data = trackeval.datasets.MotChallenge2DBox(
            {**folders, "SKIP_SPLIT_FOL": True, "DO_PREPROC": False, "BENCHMARK": "MOT17", "PRINT_CONFIG": False}
        )
        metrics = [trackeval.metrics.HOTA(), trackeval.metrics.CLEAR(), trackeval.metrics.Identity()]
        out, _ = trackeval.Evaluator({**quiet, **files}).evaluate([data], metrics)
    out = out["MotChallenge2DBox"]["ours"]["clip"]["pedestrian"]
    return out["CLEAR"]["MOTA"], out["Identity"]["IDF1"], out["HOTA"]["HOTA"].mean(), out["CLEAR"]["IDSW"]


@pytest.mark.parametrize("seed", range(3))
def test_identities_are_scored_as_trackeval_does_from_files(tmp_path, seed):
    truth, found = clip(seed)
    ours = metrics.tracking(truth, found)
    assert [ours[key] for key in ("MOTA", "IDF1", "HOTA", "switches")] == pytest.approx(trackeval_says(tmp_path, truth, found), abs=1e-9)
    assert ours["switches"] > 0 and 0.1 < ours["IDF1"] < 0.9


@pytest.mark.parametrize(("frames", "swap"), [(10, 4), (10, 5), (7, 6)])
def test_swapped_identities_lower_idf1_by_the_formula(frames, swap):
    truth = [(f, 100 * k, 0, 20, 20, 1.0, k + 1) for f in range(1, frames + 1) for k in range(2)]
    found = [(*row[:6], 3 - row[6] if row[0] > swap else row[6]) for row in truth]
    ours = metrics.tracking(Boxes.of(truth), Boxes.of(found))
    assert ours["IDF1"] == pytest.approx(max(swap, frames - swap) / frames)  # the better of the two ways to pair them
    assert ours["switches"] == 2 and ours["MOTA"] == pytest.approx(1 - 2 / (2 * frames)) and ours["HOTA"] < 1
    perfect = metrics.tracking(Boxes.of(truth), Boxes.of(truth))
    assert (perfect["MOTA"], perfect["IDF1"], perfect["switches"], perfect["tracks_mostly"]) == (1, 1, 0, 2)
    assert perfect["HOTA"] == pytest.approx(1)


def test_nothing_found_and_nothing_there():
    truth, found = clip(1)
    ours = metrics.tracking(truth, Boxes.of([]))
    assert (ours["MOTA"], ours["IDF1"], ours["HOTA"], ours["switches"], ours["tracks_lost"]) == (0, 0, 0, 0, 5)
    assert set(metrics.tracking(Boxes.of([]), found).values()) == {None}
