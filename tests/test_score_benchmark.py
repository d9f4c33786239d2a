"""The detector's score: what it is made of, and the script that fits it, on data of which the answer is known."""
import re

import numpy as np
import pytest

import fastmcd
from tests.scripts import load_script
from tests.test_detection_benchmark import write_sequence
from tests.test_fastmcd import HEIGHT, WIDTH, square_scene

score = load_script("benchmarks/score.py")


def found(**params):
    """(frame number, result) of the square's scene, where it is the only object."""
    detector = fastmcd.Detector(WIDTH, HEIGHT, **params)
    for t, (frame, _) in enumerate(square_scene(30)):
        result = detector.detect(frame)
        if len(result.boxes) == 1:
            yield t, result


def test_evidence_is_what_it_says():
    count = 0
    for t, result in found(persistence=1):
        (size, solid, distinct, lasting), (_, _, w, h) = result.evidence[0].astype(float), result.boxes[0]
        side = np.sqrt(w * h / (WIDTH * HEIGHT))
        assert size == pytest.approx(side / (side + 0.1), abs=1e-5)
        # a light square on grey ground, 30 to 100 grey levels off its background; in the first frames with some of the ground it has left
        assert 0.5 < solid <= 1 and (0.5 if t < 4 else 0.65) < distinct < 1
        assert 4 * lasting / (1 - lasting) == pytest.approx(t, abs=1e-3)  # the first comes with the second frame
        count += 1
    assert count > 20


def test_score_is_a_logistic_function_of_the_evidence():
    results = [result for _, result in found()]
    evidence, scores = (np.array([getattr(r, name)[0] for r in results], float) for name in ("evidence", "scores"))
    assert evidence.shape[1] == len(fastmcd.EVIDENCE) == 4
    x = np.c_[np.ones(len(scores)), evidence]
    logit = np.log(scores / (1 - scores))
    assert np.abs(x @ np.linalg.lstsq(x, logit, rcond=None)[0] - logit).max() < 2e-3
    assert np.ptp(scores) > 0.05


def test_fit_finds_the_weights_that_made_the_data():
    rng, truth = np.random.default_rng(0), np.array([-3, 4, 0, 2, -1])
    sequences = []
    for n, weight in ((3000, 1), (9000, 1), (6000, 0.5)):
        evidence = rng.uniform(0, 1, (n, 4))
        p = score.apply(truth, evidence)
        sequences.append(score.SequenceBoxes(evidence, rng.random(n) < p, p, n, weight))
    b = score.fit(sequences)
    assert np.abs(b - truth).max() < 0.35
    assert score.calibration_error(score.apply(b, sequences[1].evidence), sequences[1].right) < 0.03


def test_average_precision_by_hand():
    # right, wrong, right, of three true ones: 1/3 at precision 1, 1/3 at 2/3
    assert score.average_precision(np.array([0.2, 0.9, 0.5]), np.array([True, True, False]), 3) == pytest.approx(1 / 3 + 2 / 9)
    assert score.average_precision(np.array([0.9, 0.8]), np.array([True, True]), 2) == 1


def test_reliability_by_hand():
    scores, hits = np.array([0.05, 0.05, 0.95, 0.95]), np.array([False, True, True, True])
    assert score.reliability(scores, hits, np.ones(4)) == [(0.5, pytest.approx(0.05), 0.5), (0.5, pytest.approx(0.95), 1)]
    assert score.calibration_error(scores, hits) == pytest.approx(0.5 * 0.45 + 0.5 * 0.05)
    assert score.calibration_error(scores, hits, np.array([1, 0, 0, 0])) == pytest.approx(0.05)


def test_each_true_box_makes_one_found_box_right():
    true = np.array([[0, 0, 10, 10]])
    assert score.right(np.array([[0, 0, 10, 9], [0, 0, 10, 10], [50, 50, 9, 9]]), true) == [True, False, False]
    assert score.right(np.array([[0, 0, 10, 9]]), np.empty((0, 4), int)) == [False]


def test_script_prints_a_row_per_sequence_and_the_weights(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(score, "CAMERAS", score.CAMERAS[:2])
    monkeypatch.setattr(score, "FRAMES", 30)
    score.main([str(write_sequence(tmp_path / "cards", cdnet=True))])
    out = capsys.readouterr().out
    rows = [line.split() for line in out.splitlines()[1:4]]
    assert [row[0] for row in rows] == ["cards", "scene", "scene"]
    assert all(0 <= float(v) <= 1 for row in rows for v in row[-6:])
    assert len(re.findall(r"[+-]\d+\.\d\d", out.splitlines()[-1])) == 5
