"""The curve of a training, what each epoch gave, and a confusion matrix: as tables and as pictures."""
import csv
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from util.files import atomic_write


class Epoch(NamedTuple):
    """A row of the table."""

    epoch: int
    lr: float  # of its last step
    seconds: float
    loss: float  # mean over the training images
    held_out_accuracy: float  # 0..1
    arithmetic: str = ""  # what computed it, such as "bfloat16 popcount-forward"


def epoch_of(row: Sequence) -> Epoch:
    """Return a row that was saved as a list; raises TypeError or ValueError for what is none."""
    return Epoch(*(kind(value) for kind, value in zip(Epoch.__annotations__.values(), row, strict=False)))  # the last may be missing


def write(path: Path, rows: list[Epoch]) -> None:
    """Write the table, CSV with a header."""
    with atomic_write(path) as temporary, open(temporary, "w", newline="") as file:
        csv.writer(file).writerows([Epoch._fields, *rows])


def plot(path: Path, rows: list[Epoch], title: str) -> None:
    """Write a picture of training loss and held-out accuracy by epoch; the suffix chooses its format."""
    from matplotlib.figure import Figure  # here, since only a finished training draws

    epochs = [row.epoch for row in rows]
    figure = Figure(figsize=(6, 3.5), layout="constrained")  # no pyplot: neither a window system nor a global state
    left = figure.subplots()
    left.plot(epochs, [row.loss for row in rows], color="tab:blue")
    left.set(xlabel="epoch", title=title)
    left.set_ylabel("training loss", color="tab:blue")
    right = left.twinx()
    right.plot(epochs, [100 * row.held_out_accuracy for row in rows], color="tab:orange", marker=".")
    right.set_ylabel("held-out accuracy, %", color="tab:orange")
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=110)


# ---- Confusion matrix ------------------------------------------------------------------------------------------------
def confusion_table(counts: np.ndarray, classes: Sequence[str]) -> str:
    """Return a confusion matrix as text: int (C, C), a row for each class, a column for each name that its images got, share right."""
    width = max(8, *(len(name) for name in classes)) + 1
    lines = [" " * width + "".join(f"{name:>{width}}" for name in classes) + f"{'right':>9}"]
    for name, row in zip(classes, counts, strict=True):
        share = f"{row[classes.index(name)] / row.sum():>9.1%}" if row.sum() else f"{'':>9}"
        lines.append(f"{name:<{width}}" + "".join(f"{count:>{width}}" for count in row) + share)
    return "\n".join(lines)


def plot_confusion(path: Path, counts: np.ndarray, classes: Sequence[str], title: str) -> None:
    """Write a picture of a confusion matrix, shares of each row as shades, counts as text."""
    from matplotlib.figure import Figure

    side = 2.5 + 0.55 * len(classes)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        if count:
            axes.text(column, row, count, ha="center", va="center", color="white" if shares[row, column] > 0.5 else "black")
    shown = [name if len(name) < 16 else name[:15] + "…" for name in classes]
    axes.set_xticks(range(len(classes)), shown, rotation=45, ha="right", parse_math=False)
    axes.set_yticks(range(len(classes)), shown, parse_math=False)
    axes.set(xlabel="named", ylabel="is", title=title)
    with atomic_write(path) as temporary, warnings.catch_warnings(action="ignore"):  # of letters that the font lacks: they are boxes
        figure.savefig(temporary, dpi=110)
