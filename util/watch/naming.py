"""From a directory of the detector's results to names: what `--fastMCD` and `--multi_fastMCD` do."""
import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence
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


class Predictions:
    """The names given so far, as rows (frame, object, x, y, width, height, label, probability)."""

    def __init__(self):
        self.rows: list[tuple] = []

    def add(self, frame: int, number: int, box: Iterable[int], label: str, probability: float) -> str:
        """Return the caption of the new row, "name 93%"."""
        self.rows.append((frame, number, *map(int, box), label, probability))
        return f"{label} {probability:.0%}"

    def csv(self) -> bytes:
        """Return the rows as a table."""
        lines = io.StringIO(HEAD)
        lines.seek(0, io.SEEK_END)
        csv.writer(lines, lineterminator="\n").writerows([*row[:7], f"{row[7]:.4f}"] for row in self.rows)
        return lines.getvalue().encode()

    def table(self) -> str:
        """Return one line per label, most frequent first: objects, share, mean probability."""
        rows = []
        for label, count in Counter(row[6] for row in self.rows).most_common():
            mean = sum(row[7] for row in self.rows if row[6] == label) / count
            rows.append([label, count, f"{count / len(self.rows):.1%}", f"{mean:.2f}"])
        return tabulate(rows, ["label", "objects", "share", "mean probability"], "plain", disable_numparse=True, colalign=ALIGN)

    def share_right(self, names: Sequence[str]) -> str:
        """Return a line that says how many objects were named one of `names`."""
        right = sum(row[6] in names for row in self.rows)
        return f"{' or '.join(names)}: {right} of {len(self.rows)} objects, {right / max(1, len(self.rows)):.1%}"


def name_directory(args, network: Network, right: Sequence[str] = ()) -> Predictions:
    """Return the Predictions for the objects in a directory of results, that of --fastMCD or --multi_fastMCD (see util.cli).

    Prints a table, with the share of `right` names if there are any, and writes predictions.csv: with a contact sheet into --save (see
    util.outputs.staging), else into the directory. Raises InputError if that holds a predictions.csv from elsewhere, such as a video's run.
    """
    directory = args.fastMCD or args.multi_fastMCD
    predictions = Predictions()
    if args.save:
        with Staging(args.save, source=directory) as staging:
            _name_all(args, directory, predictions, network, staging)
    else:
        refuse_other_table(directory / TABLE, HEAD)
        _name_all(args, directory, predictions, network)
    if predictions.rows:
        print(predictions.table())
    if right:
        print(predictions.share_right(right))
    print(f"written: {(args.save or directory) / TABLE}")
    return predictions


def _name_all(args, directory: Path, predictions: Predictions, network: Network, staging: Staging | None = None) -> None:
    detections = read_results(directory, best_only=bool(args.fastMCD))
    frames = set(sorted({detection.frame for detection in detections})[: args.limit])
    detections = [detection for detection in detections if detection.frame in frames]
    names, captions = Names(network.spec.classes, network.spec.temperature, network.spec.unknown_below), []
    try:
        for start in tqdm(range(0, len(detections), BATCH), "naming", unit="batch", leave=False, disable=None):
            some = detections[start : start + BATCH]
            boxes = np.array([(d.x, d.y, d.width, d.height) for d in some])
            for d, box, logits in zip(some, boxes, look(network, [d.image for d in some], boxes), strict=True):
                captions.append(predictions.add(d.frame, d.object, box, *_name(logits, names)))
    finally:
        if captions or not detections:  # what could be named is kept
            _write(directory, predictions, Crops(detections[: len(captions)]), captions, staging)
    print(f"{directory}: {len(detections)} objects in {len(frames)} frames")


def look(network: Network, crops: list[np.ndarray], boxes: np.ndarray) -> np.ndarray:
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


def _write(directory: Path, predictions: Predictions, images: Sequence[np.ndarray], captions: list[str], staging: Staging | None) -> None:
    if staging:
        labels = [row[6] for row in predictions.rows]
        pictures = {sheet.NAME: encode_png(sheet.draw_sheet(images, captions, labels, directory.name))} if images else {}
        staging.write({TABLE: predictions.csv(), **pictures})
        staging.frames = len(images)
    else:
        with adopted(directory, TABLE) as temporary:
            temporary.write_bytes(predictions.csv())
