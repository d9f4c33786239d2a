"""One run of training: its checkpoint, its log, its curve, the best weights; cut off, it can go on."""
import csv
import math
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import distributed, nn
from tqdm import tqdm

from util.binop import latent_names, to_codes
from util.cli import InputError
from util.files import atomic_write
from util.train import checkpoint

COLUMNS = ["epoch", "lr", "seconds", "loss", "held_out_accuracy"]
# A resumed run must agree with the first on these; its length may change.
SETTINGS = ["arch", "lr", "batch_size", "seed", "limit", "pretrained", "teacher"]
OF_DEVICE = ["fused", "capturable"]  # an optimizer's options that depend on where it runs
SAVE_EVERY = 10  # seconds: epochs on a GPU can be shorter than writing them
LARGEST = 6e6  # bytes of a file of weights; a larger network's latent weights are kept in 8 bits each


class Log:
    """One run of training in `directory`: ARCH.last.pth.tar (to resume), ARCH.best.pth.tar, ARCH.log.csv, ARCH.curve.png.

    The last three are touched by `finish` only, and only if the run beats what is there on the held-out images: a quick try
    never costs anybody good weights. A context: inside, Ctrl-C and SIGTERM let the step end and save it. Of several processes,
    the first writes and prints. Where there is an `average` of the model's weights, its weights are the ones that can be best.
    """

    def __init__(
        self, directory: Path, arch: str, args, model: nn.Module, optimizer: torch.optim.Optimizer, average: nn.Module | None = None
    ):
        self.directory, self.arch, self.model, self.optimizer, self.average = directory, arch, model, optimizer, average
        self.judged = model if average is None else average
        self.first, self.processes = args.rank == 0, args.processes
        given = {name: getattr(args, name, None) for name in SETTINGS}
        self.settings = {name: str(value) if isinstance(value, Path) else value for name, value in given.items()}  # files hold no Path
        self.epoch, self.step, self.total, self.seconds, self.rows, self.best = 0, 0, 0.0, 0.0, [], None
        self.epochs, self._losses, self._saved = args.epochs, [], -math.inf
        self.last_path = directory / f"{arch}.last.pth.tar"
        self.best_path = directory / f"{arch}.best.pth.tar"
        self._stop = False
        if args.resume:
            self._resume()

    def __enter__(self):
        self._handlers = {number: signal.signal(number, self._ask_to_stop) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exception):
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _ask_to_stop(self, number, frame):
        if self._stop:  # asked twice: at once
            raise KeyboardInterrupt
        self._stop = True

    def _resume(self) -> None:
        saved = checkpoint.load(self.last_path)
        parts = {"state_dict": self.model, "optimizer": self.optimizer} | ({"average": self.average} if self.average else {})
        needed = {"settings", "epoch", "step", "total", "seconds", "rows", "best", *parts}
        if missing := needed - saved.keys():
            raise InputError(f"{self.last_path}: no training to resume in it ({', '.join(sorted(missing))} missing)")
        for name, value in self.settings.items():
            if (earlier := saved["settings"].get(name)) != value:
                raise InputError(f"{self.last_path}: was trained with {name} {earlier}, not {value}; repeat its options")
        own = [{name: group[name] for name in ("lr", *OF_DEVICE) if name in group} for group in self.optimizer.param_groups]
        for name, part in parts.items():
            try:
                part.load_state_dict(saved[name])
            except (RuntimeError, ValueError, KeyError, AttributeError, TypeError) as error:
                found = str(error).splitlines()[0]
                raise InputError(f"{self.last_path}: its {name} does not fit ({found}); begin anew, without --resume") from error
        for group, options in zip(self.optimizer.param_groups, own, strict=True):
            group.update(options)  # the run may go on on another device
        self.epoch, self.step, self.total, self.seconds = (saved[name] for name in ("epoch", "step", "total", "seconds"))
        self.rows, self.best = saved["rows"], saved["best"]

    def steps(self, count: int, title: str) -> Iterator[int]:
        """Yield the numbers of an epoch's steps, behind the last one that a run to be resumed had done; give each one's loss to `add`."""
        start, hide = time.perf_counter() - self.seconds, None if self.first else True  # None: where there is no terminal
        for i in tqdm(range(self.step, count), title, count, initial=self.step, unit="step", leave=False, disable=hide):
            yield i
            self.step, self.seconds = i + 1, time.perf_counter() - start
            if self._all_stop():
                self._save()
                raise KeyboardInterrupt

    def _all_stop(self) -> bool:
        """Return whether any process was asked to stop; all get the same answer, or one would wait for the others for ever."""
        if self.processes == 1:
            return self._stop
        stop = torch.tensor(float(self._stop), device=next(self.model.parameters()).device)
        distributed.all_reduce(stop)
        return stop.item() > 0

    def add(self, loss: torch.Tensor, images: int) -> None:
        """Count a step's mean loss over so many images; raises InputError if it is NaN or infinite, on a GPU up to 100 steps later."""
        self._losses.append((loss, images))
        if loss.device.type == "cpu" or len(self._losses) == 100:
            self._count()

    def _count(self) -> None:
        values = torch.stack([loss for loss, _ in self._losses]).tolist() if self._losses else []
        for value, (_, images) in zip(values, self._losses, strict=True):
            if not math.isfinite(value):
                raise InputError(f"the loss became {value} at epoch {self.epoch + 1}, step {self.step + 1}; try a smaller --lr")
            self.total += value * images
        self._losses.clear()

    def end_epoch(self, images: int, accuracy: float) -> None:
        """Print one line and save all that `--resume` needs; `images` were trained on, `accuracy` in [0, 1] is of the held-out ones."""
        self._count()
        self.epoch += 1
        lr, loss = float(self.optimizer.param_groups[0]["lr"]), self.total / images
        self.rows.append([self.epoch, round(lr, 8), round(self.seconds, 1), round(loss, 5), round(accuracy, 5)])
        if self.best is None or accuracy >= self.best["held_out_accuracy"]:
            state = {key: value.clone() for key, value in self.judged.state_dict().items()}
            self.best = {"held_out_accuracy": accuracy, "epoch": self.epoch, "state_dict": state}
        if self.first:
            held_out = f"held out {100 * accuracy:.2f} %"
            print(f"epoch {self.epoch:3d}  lr {lr:.5f}  {self.seconds:6.1f} s  loss {loss:.4f}  {held_out}", flush=True)
        self.step, self.total, self.seconds = 0, 0.0, 0.0
        if self.epoch == self.epochs or time.monotonic() - self._saved >= SAVE_EVERY:
            self._save()

    def _save(self) -> None:
        self._count()
        if not self.first:
            return
        self._saved = time.monotonic()
        best = 100 * self.best["held_out_accuracy"] if self.best else 0.0
        checkpoint.save(self.last_path, {
            "arch": self.arch, "best_acc": best, "epoch": self.epoch, "step": self.step, "total": self.total, "seconds": self.seconds,
            "settings": self.settings, "rows": self.rows, "best": self.best, "state_dict": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(), "average": self.average and self.average.state_dict(),
        })  # fmt: skip

    def load_best(self) -> None:
        """Put the weights of the epoch that was best on the held-out images into the model."""
        self.judged.load_state_dict(self.best["state_dict"])

    def finish(self, accuracy: float) -> None:
        """Print the test `accuracy` (in [0, 1]); keep weights, log and curve if the run is the best so far."""
        if not self.first:
            return
        held_out = 100 * self.best["held_out_accuracy"]
        print(f"epoch {self.best['epoch']} (held out {held_out:.2f} %): {100 * accuracy:.2f} % of the test images right")
        if self.best_path.exists():
            earlier = checkpoint.load(self.best_path)
            score = earlier.get("held_out_accuracy", earlier["best_acc"])
            if not score <= held_out:  # NaN: a file without a score, not made here
                print(f"{self.best_path} ({score:.2f} % held out) is better and stays; this run's weights are in {self.last_path}")
                return
        state = {key: value.cpu() for key, value in self.best["state_dict"].items()}  # a file for any machine
        if sum(value.nbytes for value in state.values()) > LARGEST:
            state |= {name: to_codes(state[name]) for name in latent_names(self.model)}
        checkpoint.save(self.best_path, {
            "arch": self.arch, "best_acc": 100 * accuracy, "held_out_accuracy": held_out, "epoch": self.best["epoch"],
            "settings": self.settings, "state_dict": state,
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
