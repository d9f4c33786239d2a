"""Prints how well the detector finds what moves, and how fast, beside other methods.

    python benchmarks/detection.py SEQUENCE... [--peers NAME...] [--param NAME=VALUE]... [--pictures DIR]
    python benchmarks/detection.py --speed [SEQUENCE]

SEQUENCE is a directory with input/ and groundtruth/ as in CDnet (also ROI.bmp and temporalROI.txt) or DAVIS. P, R and
F are over pixels by the CDnet protocol: 0 (static) and 50 (shadow) against 255 (moving), inside the regions of
interest; other levels do not count. Box recall and precision are at IoU 0.5 against the connected regions of 255. DAVIS
labels one object and has no frames to warm up, so its rows are good for comparing only. ms are medians per frame, BGR
in, one thread; the stages are the detector's own. Peers: MOG2 and KNN are OpenCV's; CNT and GSOC need
opencv-contrib-python, SuBSENSE needs pybgs. --pictures writes a sheet of the best and worst frames of each sequence.

--speed times the detector on every CPU level, and MOG2, by turns on the same frames: a sequence's, resized, or those of
a synthetic scene (panning camera, two moving objects). --threads N adds a detector with N threads.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from operator import itemgetter
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import fastmcd  # noqa: E402
from benchmarks.machine import cpu_name  # noqa: E402
from fastmcd import _fastmcd  # noqa: E402
from util.cli import Parser  # noqa: E402
from util.cli import run as run_script  # noqa: E402
from util.score.metrics import MOVING, Pixels, components, match  # noqa: E402
from util.score.scenes import Mover, Scene, camera_path, digit_sprite, texture  # noqa: E402
from util.score.truth import MIN_AREA, read_truth  # noqa: E402
from util.source.images import list_images  # noqa: E402

STAGES = ("smooth", "motion", "model", "boxes")
SIZES = ((320, 240), (640, 480), (1280, 720), (1920, 1080))
WARM_UP = 10  # frames that are not timed


def pybgs_subsense():
    import pybgs

    return pybgs.SuBSENSE()


PEERS: dict[str, Callable] = {
    "MOG2": cv2.createBackgroundSubtractorMOG2,
    "KNN": cv2.createBackgroundSubtractorKNN,
    "CNT": lambda: cv2.bgsegm.createBackgroundSubtractorCNT(),
    "GSOC": lambda: cv2.bgsegm.createBackgroundSubtractorGSOC(),
    "SuBSENSE": pybgs_subsense,
}


@dataclass
class Score(Pixels):
    """Sums over the frames of one sequence."""

    true_boxes: int = 0
    found_boxes: int = 0
    right_boxes: int = 0
    ms: list[float] = field(default_factory=list)
    stages: list[list[float]] = field(default_factory=list)

    def add_frame(self, mask: np.ndarray, boxes: np.ndarray, truth: np.ndarray, region: np.ndarray) -> None:
        """Counts one frame."""
        self.add(mask, truth, region)
        true = components((region & (truth == MOVING)).astype(np.uint8), MIN_AREA)
        centre = boxes[:, :2] + boxes[:, 2:] // 2
        boxes = boxes[region[centre[:, 1], centre[:, 0]]]
        self.true_boxes += len(true)
        self.found_boxes += len(boxes)
        self.right_boxes += len(match(boxes, true))

    def f(self) -> float:
        return self.scores()["f_measure"] or 0.0

    def row(self) -> str:
        precision, recall = self.tp / max(1, self.tp + self.fp), self.tp / max(1, self.tp + self.fn)
        boxes = f"{self.right_boxes / max(1, self.true_boxes):.2f}  {self.right_boxes / max(1, self.found_boxes):.2f}"
        stages = "  ".join(f"{v:6.2f}" for v in np.median(self.stages, axis=0)) if self.stages else ""
        return f"{precision:.2f}  {recall:.2f}  {self.f():.3f}  {boxes}  {np.median(self.ms):6.2f}  {stages}"


def read(directory: Path):
    """Yields (BGR frame, truth, region of interest) of a sequence in order; truth is None where nothing counts."""
    truth = read_truth(directory)
    for number, path in enumerate(list_images(directory / "input"), 1):
        bgr = cv2.imread(str(path))
        region = truth.inside(bgr.shape[:2])
        yield bgr, truth.levels(number), np.ones(bgr.shape[:2], bool) if region is None else region


def rehearsed(frames: Iterator[tuple], **params: float) -> tuple[fastmcd.Detector, Iterator[tuple]]:
    """A detector for frames as `read` yields them, and these, once it has seen the first ones backwards."""
    first = next(frames)
    detector = fastmcd.Detector(*first[0].shape[1::-1], **params)
    return detector, detector.rehearsed(chain([first], frames), itemgetter(0))


def picture(bgr: np.ndarray, mask: np.ndarray, boxes: np.ndarray, truth: np.ndarray | None) -> np.ndarray:
    """The frame with found boxes green and true ones red, beside the mask."""
    out = bgr.copy()
    if truth is not None:
        for x, y, w, h in components((truth == MOVING).astype(np.uint8), MIN_AREA):
            cv2.rectangle(out, (x, y), (x + w - 1, y + h - 1), (0, 0, 255), 1)
    for x, y, w, h in boxes:
        cv2.rectangle(out, (x, y), (x + w - 1, y + h - 1), (0, 255, 0), 1)
    return np.hstack([out, cv2.cvtColor(mask, cv2.COLOR_GRAY2BGR)])


def sheet(views: list[tuple[float, np.ndarray]], count: int = 4) -> np.ndarray:
    """The views of the best scores in the left column, and those of the worst in the right one, the very worst first."""
    ordered = [view for _, view in sorted(views, key=lambda pair: pair[0])]
    half = min(count, (len(ordered) + 1) // 2)
    return np.hstack([np.vstack(ordered[-half:][::-1]), np.vstack(ordered[:half])])


def timed(call: Callable, frame: np.ndarray) -> tuple[object, float]:
    """What call(frame) returns, and the ms that it took."""
    start = time.perf_counter()
    result = call(frame)
    return result, 1e3 * (time.perf_counter() - start)


def run(directory: Path, params: dict[str, float], pictures: Path | None, peers: Iterable[str]) -> dict[str, Score]:
    """{'fastMCD': Score, peer: Score ...} of one sequence."""
    scores = {name: Score() for name in ("fastMCD", *peers)}
    (detector, frames), rivals, views = rehearsed(read(directory), **params), {name: PEERS[name]() for name in peers}, []
    for number, (bgr, truth, region) in enumerate(frames):
        result, ms = timed(detector.detect, bgr)
        scores["fastMCD"].ms.append(ms)
        scores["fastMCD"].stages.append([result.timings[stage] for stage in STAGES])
        if truth is not None:
            scores["fastMCD"].add_frame(result.mask, result.boxes, truth, region)
        if pictures and truth is not None and number % 5 == 4 and (truth == MOVING).any():
            frame_score = Score()
            frame_score.add_frame(result.mask, result.boxes, truth, region)
            views.append((frame_score.f(), picture(bgr, result.mask, result.boxes, truth)))
        for name, rival in rivals.items():
            mask, ms = timed(rival.apply, bgr)
            scores[name].ms.append(ms)
            if truth is not None:
                mask = (mask > 200).astype(np.uint8)  # 127 is shadow
                scores[name].add_frame(mask, components(mask, MIN_AREA), truth, region)
    if views:
        pictures.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(pictures / f"{directory.name}.png"), sheet(views))
    return scores


def made_scene(width: int, height: int, frames: int) -> list[np.ndarray]:
    """BGR frames of a panning, trembling camera over textured ground on which two objects move."""
    path = camera_path(frames, start=(60, 60), pan=(1.3, 0.4), shake=0.5)
    size, ground = height // 4, texture(width + 2 * frames + 120, height + frames + 120, seed=1)
    movers = [
        Mover(digit_sprite(3, size=size), lambda t: (60 + 0.3 * width + 4 * t, 60 + 0.3 * height)),
        Mover(digit_sprite(8, size=size), lambda t: (60 + 0.8 * width - 3 * t, 60 + 0.7 * height)),
    ]
    return [frame.image for frame in Scene(width, height, ground, path, movers)]


def detectors(width: int, height: int, threads: int) -> dict[str, fastmcd.Detector]:
    """CPU level -> a detector that uses it; and one that uses the best with several threads, if `threads` is over 1."""
    before, out = os.environ.get("FASTMCD_LEVEL"), {}
    for level in _fastmcd.levels():
        os.environ["FASTMCD_LEVEL"] = level
        out[level] = fastmcd.Detector(width, height)
    os.environ.pop("FASTMCD_LEVEL")
    os.environ.update({"FASTMCD_LEVEL": before} if before else {})
    if threads > 1:
        out[f"{next(iter(out))} x{threads}"] = fastmcd.Detector(width, height, threads=threads)
    return out


def speed(frames: list[np.ndarray], threads: int = 1) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{'MOG2' or CPU level: (ms of each frame, ms of each frame and stage)}, after the warm-up."""
    height, width = frames[0].shape[:2]
    ours, rival = detectors(width, height, threads), PEERS["MOG2"]()
    ms, stages = {name: [] for name in ("MOG2", *ours)}, {name: [] for name in ours}
    for frame in frames:
        ms["MOG2"].append(timed(rival.apply, frame)[1])
        for level, detector in ours.items():
            result, spent = timed(detector.detect, frame)
            ms[level].append(spent)
            stages[level].append([result.timings[stage] for stage in STAGES])
    return {name: (np.array(ms[name][WARM_UP:]), np.array(stages.get(name, [])[WARM_UP:])) for name in ms}


def print_speed(sequence: Path | None, sizes: Iterable[tuple[int, int]], count: int, threads: int = 1) -> None:
    print(f"{'size':<11}{'method':<10}{'ms':>7} {'quartiles':>15}  {'MOG2 / ours':>11}  {'  '.join(f'{s:>6}' for s in STAGES)}")
    vga = None
    for width, height in sizes:
        if sequence:
            first = [bgr for (bgr, _, _), _ in zip(read(sequence), range(count), strict=False)]
            frames = [cv2.resize(bgr, (width, height), interpolation=cv2.INTER_AREA) for bgr in first]
        else:
            frames = made_scene(width, height, count)
        figures = speed(frames, threads)
        reference = np.median(figures["MOG2"][0])
        vga = reference if (width, height) == (640, 480) else vga
        for name, (ms, stages) in figures.items():
            low, middle, high = np.percentile(ms, (25, 50, 75))
            parts = "  ".join(f"{v:6.3f}" for v in np.median(stages, axis=0)) if len(stages) else ""
            print(f"{f'{width}x{height}':<11}{name:<10}{middle:7.3f} {f'{low:.3f}-{high:.3f}':>15}  {reference / middle:11.1f}  {parts}")
        if vga and (width, height) == (1920, 1080):
            best = np.median(list(figures.values())[1][0])
            print(f"{width}x{height} on the best level takes {best / vga:.2f} of MOG2's time at 640x480")


def sequence_of(text: str) -> Path:
    """Return the directory of a sequence that a flag names."""
    directory = Path(text)
    if not ((directory / "input").is_dir() and (directory / "groundtruth").is_dir()):
        raise argparse.ArgumentTypeError(f"{text} is no sequence: it needs the directories input/ and groundtruth/")
    return directory


def param(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    if name not in fastmcd.PARAMS:
        raise argparse.ArgumentTypeError(f"{name} is none of {', '.join(fastmcd.PARAMS)}")
    return name, float(value)


def peer(text: str) -> str:
    if text not in PEERS:
        raise argparse.ArgumentTypeError(f"{text} is none of {', '.join(PEERS)}")
    try:
        PEERS[text]()
    except (ImportError, AttributeError):
        package = "pybgs" if text == "SuBSENSE" else "opencv-contrib-python"
        raise argparse.ArgumentTypeError(f"{text} is not installed here; it needs {package}") from None
    return text


def parse_args(argv=None) -> argparse.Namespace:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("sequences", nargs="*", type=sequence_of, metavar="SEQUENCE", help="directory with input/ and groundtruth/")
    parser.add_argument("--peers", nargs="*", action="append", type=peer, metavar="NAME", help=f"of {', '.join(PEERS)} (default: MOG2)")
    parser.add_argument("--param", action="append", type=param, default=[], metavar="NAME=VALUE", help="a parameter of the detector")
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="write a sheet of hits and misses of each sequence there")
    parser.add_argument("--speed", action="store_true", help="times by size, stage and CPU level instead of quality")
    parser.add_argument("--frames", type=int, default=60, help=f"of --speed; the first {WARM_UP} are not timed")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of --speed: time the best level with N threads too")
    args = parser.parse_args(argv)
    args.peers = ["MOG2"] if args.peers is None else list(dict.fromkeys(chain(*args.peers)))
    if args.speed and (len(args.sequences) > 1 or args.frames <= WARM_UP):
        parser.error(f"--speed takes one SEQUENCE or none, and --frames over {WARM_UP}")
    if not 1 <= args.threads <= 16:
        parser.error("--threads must be from 1 to 16")
    if not args.speed and not args.sequences:
        parser.error("nothing to do: give a SEQUENCE or --speed")
    return args


def main(argv=None) -> None:
    args = parse_args(argv)
    cv2.setNumThreads(1)
    print(f"{cpu_name()}, OpenCV {cv2.__version__}")
    if args.speed:
        return print_speed(next(iter(args.sequences), None), SIZES, args.frames, args.threads)
    stages = "  ".join(f"{stage:>6}" for stage in STAGES)
    print(f"{'sequence':<24}{'method':<10}P     R     F      boxR  boxP  {'ms':>6}  {stages}")
    for directory in args.sequences:
        for method, score in run(directory, dict(args.param), args.pictures, args.peers).items():
            print(f"{directory.name:<24}{method:<10}{score.row()}", flush=True)


if __name__ == "__main__":
    run_script(main)
