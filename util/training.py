"""What every training needs and nobody wants to read: the log, the curve, the checkpoint after each epoch."""
import csv
import math
from pathlib import Path

import torch

from util import checkpoint
from util.cli import InputError
from util.files import atomic_write

COLUMNS = ["epoch", "lr", "seconds", "loss", "held_out_accuracy"]
# A resumed run must agree with the first on these; its length may change.
SETTINGS = ["arch", "lr", "batch_size", "seed", "limit", "pretrained"]


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Return nothing; every parameter group gets this learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def finite(loss: float, epoch: int, step: int) -> float:
    """Return `loss`; raises InputError if it is NaN or infinite."""
    if not math.isfinite(loss):
        raise InputError(f"the loss became {loss} at epoch {epoch}, step {step}; try a smaller --lr")
    return loss


class Log:
    """One run of training in `directory`: ARCH.last.pth.tar (to resume), ARCH.best.pth.tar, ARCH.log.csv, ARCH.curve.png.

    The last three are touched by `finish` only, and only if the run beats what is there on the held-out images: a quick try
    never costs anybody good weights.
    """

    def __init__(self, directory: Path, args, model: torch.nn.Module, optimizer: torch.optim.Optimizer):
        self.directory, self.model, self.optimizer = directory, model, optimizer
        self.arch = args.arch
        self.settings = {name: getattr(args, name) for name in SETTINGS}
        self.settings["pretrained"] = args.pretrained and str(args.pretrained)  # torch.load(weights_only=True) reads no Path
        self.epoch, self.rows, self.best = 0, [], None
        self.last_path = directory / f"{args.arch}.last.pth.tar"
        self.best_path = directory / f"{args.arch}.best.pth.tar"
        if args.resume:
            self._resume()

    def _resume(self) -> None:
        saved = checkpoint.load(self.last_path)
        if missing := {"settings", "epoch", "rows", "best", "optimizer"} - saved.keys():
            raise InputError(f"{self.last_path}: no training to resume in it ({', '.join(sorted(missing))} missing)")
        for name, value in self.settings.items():
            if (earlier := saved["settings"].get(name)) != value:
                raise InputError(f"{self.last_path}: was trained with {name} {earlier}, not {value}; repeat its options")
        self.model.load_state_dict(saved["state_dict"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.epoch, self.rows, self.best = saved["epoch"], saved["rows"], saved["best"]

    def end_epoch(self, epoch: int, loss: float, accuracy: float, seconds: float) -> None:
        """Print one line and save everything that `--resume` needs; `accuracy` in [0, 1] is that of the held-out images."""
        lr = self.optimizer.param_groups[0]["lr"]
        self.rows.append([epoch, round(lr, 8), round(seconds, 1), round(loss, 5), round(accuracy, 5)])
        print(f"epoch {epoch:3d}  lr {lr:.5f}  {seconds:6.1f} s  loss {loss:.4f}  held out {100 * accuracy:.2f} %", flush=True)
        state = {key: value.clone() for key, value in self.model.state_dict().items()}
        if self.best is None or accuracy >= self.best["held_out_accuracy"]:
            self.best = {"held_out_accuracy": accuracy, "epoch": epoch, "state_dict": state}
        checkpoint.save(self.last_path, {
            "arch": self.arch, "best_acc": 100 * self.best["held_out_accuracy"], "epoch": epoch, "settings": self.settings,
            "rows": self.rows, "best": self.best, "state_dict": state, "optimizer": self.optimizer.state_dict(),
        })  # fmt: skip

    def load_best(self) -> None:
        """Put the weights of the epoch that was best on the held-out images into the model."""
        self.model.load_state_dict(self.best["state_dict"])

    def finish(self, accuracy: float) -> None:
        """Print the test `accuracy` (in [0, 1]); keep weights, log and curve if the run is the best so far."""
        held_out = 100 * self.best["held_out_accuracy"]
        print(f"epoch {self.best['epoch']} (held out {held_out:.2f} %): {100 * accuracy:.2f} % of the test images right")
        if self.best_path.exists():
            earlier = checkpoint.load(self.best_path)
            score = earlier.get("held_out_accuracy", earlier["best_acc"])
            if not score <= held_out:  # NaN: a file without a score, not made here
                print(f"{self.best_path} ({score:.2f} % held out) is better and stays; this run's weights are in {self.last_path}")
                return
        checkpoint.save(self.best_path, {
            "arch": self.arch, "best_acc": 100 * accuracy, "held_out_accuracy": held_out, "epoch": self.best["epoch"],
            "settings": self.settings, "state_dict": self.best["state_dict"],
        })  # fmt: skip
        with atomic_write(self.directory / f"{self.arch}.log.csv") as path, open(path, "w", newline="") as file:
            csv.writer(file).writerows([COLUMNS, *self.rows])
        self._plot(self.directory / f"{self.arch}.curve.png", accuracy)
        print(f"written: {self.best_path}")

    def _plot(self, path: Path, accuracy: float) -> None:
        from matplotlib.figure import Figure  # here, since only a finished training draws

        epochs, _, _, losses, held_out = zip(*self.rows, strict=True)
        figure = Figure(figsize=(6, 3.5), layout="constrained")  # no pyplot: neither a window system nor a global state
        left = figure.subplots()
        left.plot(epochs, losses, color="tab:blue")
        left.set(xlabel="epoch", title=f"{self.arch}: {100 * accuracy:.2f} % on the test set")
        left.set_ylabel("training loss", color="tab:blue")
        right = left.twinx()
        right.plot(epochs, [100 * a for a in held_out], color="tab:orange", marker=".")
        right.set_ylabel("held-out accuracy, %", color="tab:orange")
        with atomic_write(path) as temporary:
            figure.savefig(temporary, dpi=110)
