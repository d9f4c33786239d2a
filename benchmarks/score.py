"""Fits the detector's score on sequences with truth, and prints how true it is on sequences that it was not fitted on.

    python benchmarks/score.py SEQUENCE...

SEQUENCE is a directory as for detection.py; eight rendered scenes are added, which count half a sequence each. A score
is to be the share of true boxes (IoU >= 0.5) among boxes like it: logistic regression on the evidence of each box
(fastmcd.EVIDENCE), each sequence of the same weight. Each is then scored by what was fitted on all others. ECE: by how
much scores miss the share of true boxes, mean over ten bins; AP: average precision at IoU 0.5, by the order of scores.
"product" is solid x distinct x n / (n + 1) for comparison, "shipped" what the detector gives.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import fastmcd  # noqa: E402
from benchmarks import detection  # noqa: E402
from util.cli import Parser, run  # noqa: E402
from util.score.metrics import MOVING, calibration_error, components, iou, reliability  # noqa: E402
from util.score.scenes import Mover, Scene, camera_path, digit_sprite, texture  # noqa: E402
from util.score.truth import MIN_AREA  # noqa: E402

RIDGE = 3e-4
WIDTH, HEIGHT, FRAMES = 320, 240, 90
CAMERAS = (
    {}, {"shake": 0.6}, {"pan": (2.5, 0.5)}, {"pan": (-4, 1), "shake": 1}, {"zoom": 1.5, "turn": 5}, {"zoom": 0.75, "pan": (1, 0)},
    {"turn": 25, "shake": 0.4}, {"pan": (7, 0), "shake": 2},
)  # fmt: skip


@dataclass
class SequenceBoxes:
    """All boxes found in one sequence."""

    evidence: np.ndarray  # (N, len(fastmcd.EVIDENCE))
    right: np.ndarray  # bool (N,): is the first with a true box of its own at IoU >= 0.5
    shipped: np.ndarray  # (N,): the detector's scores
    true: int  # boxes that were to be found
    weight: float = 1.0  # of the sequence


def right(found: np.ndarray, true: np.ndarray) -> list[bool]:
    """For each found box (best first), whether it has a true one of its own; both (N, 4) x, y, width, height."""
    overlap, out = iou(found.astype(float), true.astype(float)), []
    for row in overlap:
        out.append(bool(len(row) and row.max() >= 0.5))
        if out[-1]:
            overlap[:, row.argmax()] = 0
    return out


def gather(frames: Iterator[tuple[np.ndarray, np.ndarray | None, np.ndarray]], weight: float = 1.0) -> SequenceBoxes:
    """The boxes of (BGR frame, truth, region of interest), as detection.read yields them."""
    (detector, frames), evidence, hits, scores, count = detection.rehearsed(frames, min_score=0), [], [], [], 0
    for bgr, truth, region in frames:
        result = detector.detect(bgr)
        if truth is None:
            continue
        true = components((region & (truth == MOVING)).astype(np.uint8), MIN_AREA)
        x, y = (result.boxes[:, :2] + result.boxes[:, 2:] // 2).T
        inside = region[y, x]
        count += len(true)
        hits += right(result.boxes[inside], true)
        evidence.append(result.evidence[inside])
        scores.append(result.scores[inside])
    return SequenceBoxes(np.concatenate(evidence).astype(float), np.array(hits, bool), np.concatenate(scores), count, weight)


def mover(rng: np.random.Generator, poses: np.ndarray) -> Mover:
    """A thick grey digit that crosses the ground, in the frame's middle at some time."""
    size, grey, start = (int(rng.integers(low, high)) for low, high in ((24, 100), (30, 256), (0, len(poses) * 2 // 3)))
    speed = rng.uniform(-4, 4, 2)
    x, y = rng.uniform([40, 30], [WIDTH - 40, HEIGHT - 30])
    place = cv2.perspectiveTransform(np.float64([[[x, y]]]), poses[start])[0, 0]
    sprite = digit_sprite(int(rng.integers(10)), int(rng.integers(100)), size, (grey,) * 3, pen=(0.12, 0.3))
    return Mover(sprite, lambda t: tuple(place + speed * (t - start)))


def scene(number: int) -> Iterator[tuple[np.ndarray, np.ndarray | None, np.ndarray]]:
    """Frames as detection.read yields them: every second one under changing light, the first eight without truth."""
    rng = np.random.default_rng(number)
    poses = camera_path(FRAMES, (500, 300), centre=(WIDTH / 2, HEIGHT / 2), seed=number, **CAMERAS[number])
    movers = [mover(rng, poses) for _ in range(4)]
    made = Scene(WIDTH, HEIGHT, texture(1400, 900, number), poses, movers, rng.uniform(1, 6), seed=number)
    if number % 2:
        made.light = lambda t: 1 + 0.25 * np.sin(t / 9) + 0.3 * (t > 50)
    for t, frame in enumerate(made):
        yield frame.image, frame.mask if t >= 8 else None, np.ones((HEIGHT, WIDTH), bool)


def fit(sequences: list[SequenceBoxes]) -> np.ndarray:
    """Constant and one weight per evidence: ridge logistic regression by Newton's method."""
    x = np.concatenate([np.c_[np.ones(len(s.right)), s.evidence] for s in sequences])
    y = np.concatenate([s.right for s in sequences])
    w = np.concatenate([np.full(len(s.right), s.weight / max(1, len(s.right))) for s in sequences])
    w, b = w / w.sum(), np.zeros(x.shape[1])
    ridge = RIDGE * np.diag(np.arange(len(b)) > 0)
    for _ in range(30):
        p = 1 / (1 + np.exp(-x @ b))
        b -= np.linalg.solve((x * (w * p * (1 - p))[:, None]).T @ x + ridge + 1e-9 * np.eye(len(b)), x.T @ (w * (p - y)) + ridge @ b)
    return b


def apply(b: np.ndarray, evidence: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-(b[0] + evidence @ b[1:])))


def product(evidence: np.ndarray) -> np.ndarray:
    _, solid, distinct, lasting = evidence.T
    frames = 4 * lasting / (1 - lasting)
    return solid * distinct * frames / (frames + 1)


def average_precision(scores: np.ndarray, hits: np.ndarray, true: int) -> float:
    """Area under precision (made falling) over recall."""
    hits = hits[np.argsort(-scores, kind="stable")]
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return float((np.maximum.accumulate(precision[::-1])[::-1] * hits).sum() / max(1, true))


def print_table(sequences: dict[str, SequenceBoxes]) -> None:
    print(f"{'sequence':<22}{'boxes':>6}{'true':>6}{'mean':>6}   {'ECE product':>11}{'held out':>9}{'shipped':>8}"
          f"   {'AP product':>10}{'held out':>9}{'shipped':>8}")  # fmt: skip
    held_out = {}
    for name, s in sequences.items():
        p = held_out[name] = apply(fit([other for key, other in sequences.items() if key != name]), s.evidence)
        kinds = (product(s.evidence), p, s.shipped)
        misses, precisions = [calibration_error(k, s.right) for k in kinds], [average_precision(k, s.right, s.true) for k in kinds]
        print(f"{name:<22}{len(p):>6}{s.right.mean():>6.2f}{p.mean():>6.2f}   {misses[0]:>11.3f}{misses[1]:>9.3f}{misses[2]:>8.3f}"
              f"   {precisions[0]:>10.3f}{precisions[1]:>9.3f}{precisions[2]:>8.3f}")  # fmt: skip
    everything = np.concatenate(list(held_out.values())), np.concatenate([s.right for s in sequences.values()])
    weights = np.concatenate([np.full(len(s.right), s.weight / max(1, len(s.right))) for s in sequences.values()])
    print(f"\nall together, held out: ECE {calibration_error(*everything, weights):.3f}\n{'boxes':>6}  {'score':>6}  {'true':>5}")
    for share, mean, true in reliability(*everything, weights):
        print(f"{share:>6.1%}  {mean:>6.2f}  {true:>5.2f}")


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__.splitlines()[0])
    text = "directory with input/ and groundtruth/"
    parser.add_argument("sequences", nargs="+", type=detection.sequence_of, metavar="SEQUENCE", help=text)
    directories = parser.parse_args(argv).sequences
    cv2.setNumThreads(1)
    sequences = {directory.name: gather(detection.read(directory)) for directory in directories}
    sequences |= {f"scene {k}": gather(scene(k), weight=0.5) for k in range(len(CAMERAS))}
    sequences = {name: boxes for name, boxes in sequences.items() if len(boxes.right)}
    print_table(sequences)
    b = fit(list(sequences.values()))
    print("\nfitted on all: " + " ".join(f"{weight:+.2f} {name}".strip() for weight, name in zip(b, ("", *fastmcd.EVIDENCE), strict=True)))


if __name__ == "__main__":
    run(main)
