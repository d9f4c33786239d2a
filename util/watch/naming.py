"""From a directory of the detector's results to names: what `--fastMCD` and `--multi_fastMCD` do."""
import csv
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from tqdm import tqdm

from util.cli import InputError
from util.crops import prepare
from util.files import atomic_write
from util.outputs.pictures import contact_sheet
from util.outputs.results import read_results
from util.spec import Network
from util.track.evidence import softmax

COLUMNS = ["frame", "object", "x", "y", "width", "height", "label", "probability"]
BATCH = 128  # crops classified at once


class Predictions:
    """The names given so far, as rows (frame, object, x, y, width, height, label, probability)."""

    def __init__(self, classes: Sequence[str]):
        self.classes = classes
        self.rows: list[tuple] = []

    def add(self, frame: int, number: int, box: Iterable[int], label: int, probability: float) -> str:
        """Return the caption of the new row, "name 93%"; `label` is an index into `classes`."""
        self.rows.append((frame, number, *map(int, box), self.classes[label], probability))
        return f"{self.classes[label]} {probability:.0%}"

    def write(self, path: Path) -> None:
        """Write the rows as CSV; the file is whole or the earlier one stays."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary, open(temporary, "w", newline="") as file:
            csv.writer(file).writerow(COLUMNS)
            csv.writer(file).writerows([*row[:7], f"{row[7]:.4f}"] for row in self.rows)

    def table(self) -> str:
        """Return one line per label, most frequent first: objects, share, mean probability."""
        lines = [f"{'label':<12}{'objects':>8}{'share':>9}{'mean probability':>19}"]
        for label, count in Counter(row[6] for row in self.rows).most_common():
            mean = sum(row[7] for row in self.rows if row[6] == label) / count
            lines.append(f"{label:<12}{count:>8}{count / len(self.rows):>9.1%}{mean:>19.2f}")
        return "\n".join(lines)

    def share_right(self, names: Sequence[str]) -> str:
        """Return a line that says how many objects were named one of `names`."""
        right = sum(row[6] in names for row in self.rows)
        return f"{' or '.join(names)}: {right} of {len(self.rows)} objects, {right / max(1, len(self.rows)):.1%}"


def name_directory(args, network: Network, right: Sequence[str] = ()) -> Predictions:
    """Return the Predictions for the objects in a directory of results, that of --fastMCD or --multi_fastMCD (see util.cli).

    Prints a table, with the share of `right` names if there are any, and writes predictions.csv: into --save, else into the directory.
    """
    directory = args.fastMCD or args.multi_fastMCD
    path = (args.save or directory) / "predictions.csv"
    predictions = Predictions(network.spec.classes)
    try:
        _name_all(args, directory, predictions, network)
    except (KeyboardInterrupt, InputError):  # what could be read is kept
        if predictions.rows:
            predictions.write(path)
        raise
    if predictions.rows:
        print(predictions.table())
    if right:
        print(predictions.share_right(right))
    predictions.write(path)
    print(f"written: {path}")
    return predictions


def _name_all(args, directory: Path, predictions: Predictions, network: Network) -> None:
    detections = read_results(directory, best_only=bool(args.fastMCD))[: args.limit]
    captions = []
    for start in tqdm(range(0, len(detections), BATCH), "naming", unit="batch", leave=False, disable=None):
        some = detections[start : start + BATCH]
        probabilities = softmax(network(prepare([d.image for d in some], network.spec)))
        for d, label, probability in zip(some, probabilities.argmax(1).tolist(), probabilities.max(1).tolist(), strict=True):
            captions.append(predictions.add(d.frame, d.object, (d.x, d.y, d.width, d.height), label, probability))
    print(f"{directory}: {len(detections)} objects in {len({d.frame for d in detections})} frames")
    if args.save and detections:
        args.save.mkdir(parents=True, exist_ok=True)
        contact_sheet([d.image[..., :3] for d in detections], captions, args.save / "contact_sheet.png", directory.name)
