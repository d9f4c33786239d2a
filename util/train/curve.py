"""The curve of a training: what each epoch gave, as a table and as a picture."""
import csv
from pathlib import Path
from typing import NamedTuple

from util.files import atomic_write


class Epoch(NamedTuple):
    """A row of the table."""

    epoch: int
    lr: float  # of its last step
    seconds: float
    loss: float  # mean over the training images
    held_out_accuracy: float  # 0..1
    arithmetic: str = ""  # what computed it, such as "bfloat16 popcount-forward"


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
