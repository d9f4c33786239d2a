"""From a directory of the detector's results to names: what `--fastMCD` and `--multi_fastMCD` do."""
import csv
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tabulate import tabulate
from tqdm import tqdm

from util.crops import prepare
from util.outputs import sheet
from util.outputs.manifest import adopted
from util.outputs.pictures import encode_png
from util.outputs.results import Detection, read_results
from util.outputs.sinks import PredictionTable
from util.outputs.staging import Staging, refuse_other_table
from util.spec import Network
from util.track.names import Names

TABLE = PredictionTable.NAME
COLUMNS = list(PredictionTable.COLUMNS[:-1])  # single objects belong to no track
HEAD = ",".join(COLUMNS) + "\n"
ALIGN = ["left"] + ["right"] * 3  # of the table for the eye
BATCH = 128  # crops classified at once


def name_directory(args, network: Network, right: Sequence[str] = ()) -> list[tuple]:
    """Return (frame, object, x, y, width, height, label, probability) of each object in the results of --fastMCD or --multi_fastMCD.

    Prints a table, with the share of `right` names if there are any, and writes predictions.csv: with a contact sheet into --save (see
    util.outputs.staging), else into the directory. Raises InputError if that holds a predictions.csv from elsewhere, such as a video's run.
    """
    directory = args.fastMCD or args.multi_fastMCD
    if args.save:
        with Staging(args.save, source=directory) as staging:
            rows = _name_all(args, directory, network, staging)
    else:
        refuse_other_table(directory / TABLE, HEAD)
        rows = _name_all(args, directory, network)
    if rows:
        print(table(rows))
    if right:
        count = sum(row[6] in right for row in rows)
        print(f"{' or '.join(right)}: {count} of {len(rows)} objects, {count / max(1, len(rows)):.1%}")
    print(f"written: {(args.save or directory) / TABLE}")
    return rows


def table(rows: list[tuple]) -> str:
    """Return one line per label, most frequent first: objects, share, mean probability."""
    cells = []
    for label, count in Counter(row[6] for row in rows).most_common():
        mean = sum(row[7] for row in rows if row[6] == label) / count
        cells.append([label, count, f"{count / len(rows):.1%}", f"{mean:.2f}"])
    return tabulate(cells, ["label", "objects", "share", "mean probability"], "plain", disable_numparse=True, colalign=ALIGN)


def _name_all(args, directory: Path, network: Network, staging: Staging | None = None) -> list[tuple]:
    detections = read_results(directory, best_only=bool(args.fastMCD))
    frames = set(sorted({detection.frame for detection in detections})[: args.limit])
    detections = [detection for detection in detections if detection.frame in frames]
    names, rows = Names(network.spec.classes, network.spec.temperature, network.spec.unknown_below), []
    try:
        for start in tqdm(range(0, len(detections), BATCH), "naming", unit="batch", leave=False, disable=None):
            some = detections[start : start + BATCH]
            boxes = np.array([(d.x, d.y, d.width, d.height) for d in some])
            for d, logits in zip(some, classify(network, [d.image for d in some], boxes), strict=True):
                rows.append((d.frame, d.object, d.x, d.y, d.width, d.height, *_name(logits, names)))
    finally:
        if rows or not detections:  # what could be named is kept
            _write(directory, rows, Crops(detections[: len(rows)]), staging)
    print(f"{directory}: {len(detections)} objects in {len(frames)} frames")
    return rows


def classify(network: Network, crops: list[np.ndarray], boxes: np.ndarray) -> np.ndarray:
    """Return logits, float64 (N, classes), with the prior and what the boxes' aspects tell, as in a clip; one frame tells no speed."""
    spec = network.spec
    log_odds = spec.log_prior() + spec.log_geometry(boxes, np.full(len(boxes), np.nan))
    return network(prepare(crops, spec)) + spec.temperature * log_odds


def _name(logits: np.ndarray, names: Names) -> tuple[str, float]:
    """Return (class or "unknown", probability) of one object, as a track of one view would be named."""
    evidence = names.evidence()
    evidence.add(logits)
    return names.of(evidence)[1:]


class Crops(Sequence):
    """The crops of detections without their masks, each read when it is asked for: a contact sheet shows few of many."""

    def __init__(self, detections: Sequence[Detection]):
        self._detections = detections

    def __len__(self) -> int:
        return len(self._detections)

    def __getitem__(self, i: int) -> np.ndarray:
        return self._detections[i].image[..., :3]


def _write(directory: Path, rows: list[tuple], images: Sequence[np.ndarray], staging: Staging | None) -> None:
    lines = io.StringIO()
    csv.writer(lines, lineterminator="\n").writerows([COLUMNS, *([*row[:7], f"{row[7]:.4f}"] for row in rows)])
    if staging:
        labels, captions = [row[6] for row in rows], [f"{row[6]} {row[7]:.0%}" for row in rows]
        pictures = {sheet.NAME: encode_png(sheet.draw_sheet(images, captions, labels, directory.name))} if images else {}
        staging.write({TABLE: lines.getvalue().encode(), **pictures})
        staging.frames = len(images)
    else:
        with adopted(directory, TABLE) as temporary:
            temporary.write_bytes(lines.getvalue().encode())
