"""Scores the results of a run against the truth: moving pixels, boxes, proposals, identities, names; one row a clip, and the mean.

    python3 -m util.score.evaluate RESULTS TRUTH [RESULTS TRUTH]… [--json FILE]

RESULTS is what `main.py --video CLIP --save RESULTS` wrote, or any folder with some of these files; what is missing is not scored ("-"):

    masks/000123.png (or cdnet/bin000123.png, or bin000123.png)    P R F: pixels, by CDnet's protocol
    coco.json (or else detections.csv)   boxP boxR: at IoU 0.5; AR1 AR10 AR100 AP50: COCO's, whatever the name
    tracks.txt                           MOTA IDF1 HOTA switches, where the truth has identities
    predictions.csv                      label: share of right names among boxes on an object; mAP50: found and named

TRUTH is a folder in the layout of CDnet, DAVIS or MOTChallenge, a gt.txt or a COCO file of annotations: see util/score/truth.py.
Two folders of which each holds a folder for every clip, by the same names, are as many pairs. More numbers than the table shows are
in the JSON.
"""
from util.cli import Parser, guard, run
from util.errors import InputError, printable, read_text, reading, say

if __name__ == "__main__":
    guard()  # Ctrl-C while the rest loads

import csv
import io
import json
import re
from pathlib import Path

import numpy as np
from tabulate import tabulate
from tqdm import tqdm

from util.files import atomic_write
from util.score import metrics
from util.score.metrics import Boxes, Pixels
from util.score.truth import MAX_FRAMES, Truth, checked, mot_rows, read_truth
from util.source.images import read_bgr

MASKS = [("masks", r"([0-9]+)\.png"), ("cdnet", r"bin([0-9]+)\.png"), ("", r"bin([0-9]+)\.(?:png|jpg)")]  # the first that is there
BOXES = ["coco.json", "detections.csv", "predictions.csv"]  # likewise
FILES = [*BOXES, "tracks.txt"]
TABLE = {  # heading -> key
    "frames": "frames", "P": "precision", "R": "recall", "F": "f_measure", "boxP": "box_precision", "boxR": "box_recall", "AR1": "AR1",
    "AR10": "AR10", "AR100": "AR100", "AP50": "AP50", "MOTA": "MOTA", "IDF1": "IDF1", "HOTA": "HOTA", "switches": "switches",
    "label": "label_accuracy", "mAP50": "mAP50",
}  # fmt: skip
COUNTS = {"frames", "switches"}  # keys of whole numbers


# ---- The results of a run --------------------------------------------------------------------------------------------
def read_masks(directory: Path) -> dict[int, Path]:
    """{frame: mask file} of a results directory; empty if it holds none."""
    for folder, pattern in MASKS:
        if (directory / folder).is_dir():
            names = ((re.fullmatch(pattern, path.name), path) for path in (directory / folder).iterdir())
            if found := {int(name[1]): path for name, path in names if name}:
                return found
    return {}


def read_boxes(directory: Path, names: list[str]) -> Boxes | None:
    """The boxes in the first of these files that is there; None if none is."""
    readers = {"coco.json": _read_coco, "tracks.txt": _read_tracks}  # tracks.txt has identities, predictions.csv names
    return next((readers.get(name, _read_csv)(directory / name) for name in names if (directory / name).exists()), None)


def read_classes(directory: Path) -> list[str]:
    """The names that the run's network knows, unknown among them; empty if the directory doesn't say."""
    path = directory / "coco_categories.json"
    if not path.exists():
        return []
    with reading(path, "COCO file of categories"):
        return [category["name"] for category in json.loads(read_text(path, "COCO file of categories"))]


def _read_tracks(path: Path) -> Boxes:
    return checked(path, Boxes.of((frame, *box, score, number) for _, (frame, number, *box, score, _) in mot_rows(path)))


def _read_coco(path: Path) -> Boxes:
    rows = []
    with reading(path, "COCO file of results"):
        for found in json.loads(read_text(path, "COCO file of results")):
            x, y, width, height = map(float, found["bbox"])
            rows.append((int(found["image_id"]), x, y, width, height, float(found["score"])))
        return checked(path, Boxes.of(rows))


def _read_csv(path: Path) -> Boxes:
    rows, table = [], csv.DictReader(io.StringIO(read_text(path, "table of boxes", errors="replace"), newline=""))
    try:
        for row in table:
            box = [float(row[key]) for key in ("x", "y", "width", "height")]
            sure = float(row["score"] if "score" in row else row["probability"])
            rows.append((int(row["frame"]), *box, sure, 0, row.get("label") or ""))
        boxes = Boxes.of(rows)
    except Exception as error:  # csv.Error too
        raise InputError(f"{path} line {table.line_num}: {type(error).__name__} {error}") from error
    return checked(path, boxes)


# ---- Scores ----------------------------------------------------------------------------------------------------------
def score(results: str | Path, truth: str | Path, limit: int | None = None, label: str = "") -> dict[str, float | int | None]:
    """All scores of one clip by name, None where a file or a truth of that kind is missing.

    limit: only the first frames count. label: what all objects are where the truth has no names.
    InputError naming the file if anything is damaged, or there are no results.
    """
    try:
        return _score(Path(results), read_truth(truth), limit, label)
    except OSError as error:
        raise InputError(f"{error.filename or results}: {error.strerror or error}") from None


def _score(results: Path, truth: Truth, limit: int | None, label: str) -> dict[str, float | int | None]:
    if not is_results(results):
        raise InputError(f"{results} {f'holds neither masks nor one of {FILES}' if results.is_dir() else 'is no folder of results'}")
    masks = read_masks(results)
    boxes, frames = (truth.boxes, truth.frames) if truth.boxes is not None else truth.mask_boxes()
    if label and not (boxes.label != "").any():
        boxes.label[:] = label
        if (classes := read_classes(results)) and label not in classes:
            say(printable(f"{results}: its network has no class {label!r}; it has {' '.join(map(str, classes))}"))
    limit = limit or MAX_FRAMES
    last, there = min(limit, max(boxes.frame if frames is None else frames, default=0)), max(masks, default=0)
    if masks and there < last:
        raise InputError(f"{results} ends at frame {there}, but the truth goes on to {last}; --limit {there} scores what is there")
    known = np.empty(0, int) if frames is None else frames[frames <= limit]

    def part(table: Boxes | None) -> Boxes | None:
        if table is None:
            return None
        keep = np.ones(len(table), bool) if frames is None else np.isin(table.frame, known)
        return _inside(table[keep & (table.frame <= limit)], truth)

    boxes, (found, tracks, names) = part(boxes), (part(read_boxes(results, n)) for n in (BOXES, ["tracks.txt"], ["predictions.csv"]))
    out = {"frames": len(known) if frames is not None else len(masks) or None}
    out |= _pixels(masks, truth, known.tolist()) if masks and truth.masks else {}
    if found is not None:
        out |= metrics.detection(boxes, found) | metrics.coco(boxes, found)
    if tracks is not None and (boxes.id > 0).any():
        out |= metrics.tracking(boxes, tracks)
    if names is not None and (boxes.label != "").any():
        out |= metrics.naming(boxes, names) | {"mAP50": metrics.coco(boxes, names, by_name=True)["AP50"]}
    return {key: out.get(key) for key in TABLE.values()} | out


def _pixels(masks: dict[int, Path], truth: Truth, frames: list[int]) -> dict:
    counts = Pixels()
    for frame in frames:
        levels = truth.levels(frame)
        if levels is None:
            continue
        if frame not in masks:
            raise InputError(f"{next(iter(masks.values())).parent} has no mask of frame {frame}")
        mask = read_bgr(masks[frame]).max(axis=2)
        if mask.shape != levels.shape:
            sizes = "{1}x{0}, the true one {3}x{2}".format(*mask.shape, *levels.shape)
            raise InputError(f"{masks[frame]} is {sizes} ({truth.masks[frame]})")
        counts.add(mask > 127, levels, truth.inside(levels.shape))
    return counts.scores() | vars(counts)


def _inside(boxes: Boxes, truth: Truth) -> Boxes:
    """Boxes whose centre is in the region where anything counts."""
    if truth.region is None:
        return boxes
    x, y = (boxes.box[:, :2] + boxes.box[:, 2:] / 2).astype(int).T
    height, width = truth.region.shape
    return boxes[truth.region[y.clip(0, height - 1), x.clip(0, width - 1)]]


def mean(rows: list[dict]) -> dict[str, float | None]:
    """The mean of each score over the clips that have it (as CDnet does, of the clips' scores, not over all frames)."""
    known = {key: [row[key] for row in rows if row.get(key) is not None] for row in rows for key in row}
    return {key: float(np.mean(values)) if values else None for key, values in known.items()}


# ---- The command -----------------------------------------------------------------------------------------------------
def is_results(directory: Path) -> bool:
    return directory.is_dir() and (any((directory / name).exists() for name in FILES) or bool(read_masks(directory)))


def pairs(paths: list[Path]) -> list[tuple[str, Path, Path]]:
    """(name, results, truth) of each clip, for paths given by turns; a folder of results stands for the finished ones in it."""
    out = []
    for results, truth in zip(paths[::2], paths[1::2], strict=True):
        many = results.is_dir() and not is_results(results)
        inner = []
        for path in sorted(path for path in results.iterdir() if is_results(path)) if many else ():
            if path.suffix == ".part":
                say(printable(f"{path} is left out: a run that was not finished"))
            else:
                inner.append((path.name, path, truth / path.name))
        name = (truth if truth.is_dir() else results).resolve().name
        out += inner or [(name, results, truth)]
    return out


def table(rows: dict[str, dict]) -> str:
    """The table that is printed: a row for each name."""
    cells = [[printable(name), *(_cell(key, row.get(key)) for key in TABLE.values())] for name, row in rows.items()]
    return tabulate(cells, ["clip", *TABLE], "plain", disable_numparse=True, colalign=["left"] + ["right"] * len(TABLE))


def _cell(key: str, value: float | None) -> str:
    if value is None:
        return "-"
    if key in COUNTS:
        return f"{value:.0f}" if value == int(value) else f"{value:.1f}"
    return f"{value:.3f}"


def parse_args(argv=None):
    parser = Parser(prog="python3 -m util.score.evaluate", description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="+", type=Path, metavar="RESULTS TRUTH", help="pairs of a run's results and the ground truth")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all scores there, also those that the table leaves out")
    parser.add_argument("--limit", type=int, metavar="N", help="score the first N frames only")
    text = "class of all objects in clips whose ground truth has no names (default: not known)"
    parser.add_argument("--label", default="", metavar="NAME", help=text)
    args = parser.parse_args(argv)
    if len(args.paths) % 2:
        parser.error(f"{len(args.paths)} paths are given; expected RESULTS TRUTH, by turns")
    if args.limit is not None and not 1 <= args.limit <= MAX_FRAMES:
        parser.error(f"--limit is {args.limit}; expected 1 to {MAX_FRAMES}")
    return args


def main(argv=None) -> dict[str, dict]:
    args = parse_args(argv)
    clips = pairs(args.paths)
    rows = {}
    for name, results, truth in tqdm(clips, "scoring", unit=" clips", leave=False, disable=None):
        rows[name if name not in rows else str(results)] = score(results, truth, args.limit, args.label)
    average = mean(list(rows.values()))
    print(table(rows | ({"mean": average} if len(rows) > 1 else {})))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(args.json) as temporary:
            temporary.write_text(json.dumps({"clips": rows, "mean": average}, indent=1) + "\n")
    return rows


if __name__ == "__main__":
    run(main)
