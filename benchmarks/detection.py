"""Prints how well the detector finds what moves, beside OpenCV's MOG2 and KNN, on sequences with ground truth.

    python benchmarks/detection.py SEQUENCE... [--param NAME=VALUE]... [--pictures DIR] [--no-rivals]

SEQUENCE is a directory with input/ and groundtruth/ as in CDnet (also ROI.bmp and temporalROI.txt) or DAVIS. P, R and
F are over pixels by the CDnet protocol: 0 (static) and 50 (shadow) against 255 (moving), inside the regions of
interest; other levels do not count. Box recall and precision are at IoU 0.5 against the connected regions of 255. DAVIS
labels one object and has no frames to warm up, so its rows are good for comparing only. ms are medians per frame, BGR
in, one thread; the stages are the detector's own.
"""

import argparse
import re
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import fastmcd  # noqa: E402

STATIC, SHADOW, MOVING = 0, 50, 255
MIN_TRUE_AREA = 50  # px: smaller regions of the truth are crumbs
RIVALS = {"MOG2": cv2.createBackgroundSubtractorMOG2, "KNN": cv2.createBackgroundSubtractorKNN}
STAGES = ("smooth", "motion", "model", "boxes")


@dataclass
class Score:
    """Sums over the frames of one sequence."""

    tp: int = 0
    fp: int = 0
    fn: int = 0
    true_boxes: int = 0
    found_boxes: int = 0
    right_boxes: int = 0
    ms: list[float] = field(default_factory=list)
    stages: list[list[float]] = field(default_factory=list)

    def row(self) -> str:
        precision, recall = self.tp / max(1, self.tp + self.fp), self.tp / max(1, self.tp + self.fn)
        f = 2 * self.tp / max(1, 2 * self.tp + self.fp + self.fn)
        boxes = f"{self.right_boxes / max(1, self.true_boxes):.2f}  {self.right_boxes / max(1, self.found_boxes):.2f}"
        stages = "  ".join(f"{v:6.2f}" for v in np.median(self.stages, axis=0)) if self.stages else ""
        return f"{precision:.2f}  {recall:.2f}  {f:.3f}  {boxes}  {np.median(self.ms):6.2f}  {stages}"


def components(mask: np.ndarray, min_area: int) -> np.ndarray:
    """(N, 4) boxes x, y, width, height of mask's connected regions (8 neighbours) of at least min_area pixels."""
    stats = cv2.connectedComponentsWithStats(mask, connectivity=8)[2][1:]
    return stats[stats[:, cv2.CC_STAT_AREA] >= min_area, :4]


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(N, M) intersection over union of boxes (N, 4) and (M, 4)."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, :2] + a[:, None, 2:], b[None, :, :2] + b[None, :, 2:])
    inter = np.prod(np.maximum(high - low, 0), axis=2)
    return inter / (np.prod(a[:, 2:], axis=1)[:, None] + np.prod(b[:, 2:], axis=1)[None] - inter)


def matched(found: np.ndarray, true: np.ndarray) -> int:
    """Number of found boxes that are the first at IoU >= 0.5 with a true one of their own."""
    overlap, count = iou(found.astype(float), true.astype(float)), 0
    for row in overlap:
        if len(row) and row.max() >= 0.5:
            overlap[:, row.argmax()] = 0
            count += 1
    return count


def read(directory: Path):
    """Yields (BGR frame, truth, region of interest) of a sequence in order; truth is None where nothing counts."""
    frames = sorted(p for p in (directory / "input").iterdir() if p.suffix in (".jpg", ".png"))
    truths = {int(re.findall(r"\d+", p.stem)[-1]): p for p in (directory / "groundtruth").glob("*.png")}
    first, last = 0, 10**9
    if (directory / "temporalROI.txt").exists():
        first, last = map(int, (directory / "temporalROI.txt").read_text().split()[:2])
    roi = cv2.imread(str(directory / "ROI.bmp"), cv2.IMREAD_GRAYSCALE) if (directory / "ROI.bmp").exists() else None
    for path in frames:
        bgr, number = cv2.imread(str(path)), int(re.findall(r"\d+", path.stem)[-1])
        region = np.ones(bgr.shape[:2], bool) if roi is None else roi[: bgr.shape[0], : bgr.shape[1]] > 127
        use = number in truths and first <= number <= last
        truth = cv2.imread(str(truths[number]), cv2.IMREAD_GRAYSCALE) if use else None
        yield bgr, None if truth is None or np.isin(truth, (85, 170)).all() else truth, region


def add(score: Score, mask: np.ndarray, boxes: np.ndarray, truth: np.ndarray, region: np.ndarray) -> None:
    """Counts one frame."""
    moving, still = region & (truth == MOVING), region & np.isin(truth, (STATIC, SHADOW))
    score.tp += int((mask[moving] > 0).sum())
    score.fn += int((mask[moving] == 0).sum())
    score.fp += int((mask[still] > 0).sum())
    true = components(moving.astype(np.uint8), MIN_TRUE_AREA)
    centre = boxes[:, :2] + boxes[:, 2:] // 2
    boxes = boxes[region[centre[:, 1], centre[:, 0]]]
    score.true_boxes += len(true)
    score.found_boxes += len(boxes)
    score.right_boxes += matched(boxes, true)


def picture(bgr: np.ndarray, mask: np.ndarray, boxes: np.ndarray, truth: np.ndarray | None) -> np.ndarray:
    """The frame with found boxes green and true ones red, beside the mask."""
    out = bgr.copy()
    if truth is not None:
        for x, y, w, h in components((truth == MOVING).astype(np.uint8), MIN_TRUE_AREA):
            cv2.rectangle(out, (x, y), (x + w - 1, y + h - 1), (0, 0, 255), 1)
    for x, y, w, h in boxes:
        cv2.rectangle(out, (x, y), (x + w - 1, y + h - 1), (0, 255, 0), 1)
    return np.hstack([out, cv2.cvtColor(mask, cv2.COLOR_GRAY2BGR)])


def run(directory: Path, params: dict[str, float], pictures: Path | None, rivals: dict) -> dict[str, Score]:
    """{'fastMCD': Score, name of a rival: Score} of one sequence."""
    scores = {name: Score() for name in ("fastMCD", *rivals)}
    detector, rivals = None, {name: make() for name, make in rivals.items()}
    for number, (bgr, truth, region) in enumerate(read(directory)):
        detector = detector or fastmcd.Detector(bgr.shape[1], bgr.shape[0], **params)
        start = time.perf_counter()
        result = detector.detect(bgr)
        scores["fastMCD"].ms.append(1e3 * (time.perf_counter() - start))
        scores["fastMCD"].stages.append([result.timings[stage] for stage in STAGES])
        if truth is not None:
            add(scores["fastMCD"], result.mask, result.boxes, truth, region)
        if pictures and number % 10 == 9:
            pictures.mkdir(parents=True, exist_ok=True)
            view = picture(bgr, result.mask, result.boxes, truth)
            cv2.imwrite(str(pictures / f"{directory.name}_{number:04d}.png"), view)
        for name, rival in rivals.items():
            start = time.perf_counter()
            mask = (rival.apply(bgr) > 200).astype(np.uint8)  # 127 is shadow
            scores[name].ms.append(1e3 * (time.perf_counter() - start))
            if truth is not None:
                add(scores[name], mask, components(mask, MIN_TRUE_AREA), truth, region)
    return scores


def param(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    if name not in fastmcd.PARAMS:
        raise argparse.ArgumentTypeError(f"{name} is none of {', '.join(fastmcd.PARAMS)}")
    return name, float(value)


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sequences", nargs="+", type=Path, metavar="SEQUENCE")
    parser.add_argument("--param", action="append", type=param, default=[], metavar="NAME=VALUE", help="detector's")
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="write every tenth frame with its boxes there")
    parser.add_argument("--no-rivals", action="store_true", help="only the detector")
    args = parser.parse_args(argv)
    for directory in args.sequences:
        if not ((directory / "input").is_dir() and (directory / "groundtruth").is_dir()):
            parser.error(f"{directory} is no sequence: it needs the directories input/ and groundtruth/")
    return args


def main(argv=None) -> None:
    args = parse_args(argv)
    cv2.setNumThreads(1)
    stages = "  ".join(f"{stage:>6}" for stage in STAGES)
    print(f"{'sequence':<24}{'method':<10}P     R     F      boxR  boxP  {'ms':>6}  {stages}")
    for directory in args.sequences:
        for method, score in run(directory, dict(args.param), args.pictures, {} if args.no_rivals else RIVALS).items():
            print(f"{directory.name:<24}{method:<10}{score.row()}", flush=True)


if __name__ == "__main__":
    main()
