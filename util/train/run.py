"""One run of training: it counts steps, keeps the best epoch, stops on Ctrl-C, goes on later, and leaves files behind."""
import contextlib
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn
from tqdm import tqdm

from util.errors import InputError
from util.files import locked
from util.signals import stoppable
from util.spec import Spec
from util.train import checkpoint, curve
from util.train.batches import Batch, batches_of
from util.train.recipe import Recipe
from util.train.steps import Learner, set_lr

COUNTS = ("epoch", "step", "total", "images", "seconds")  # what a run counts: total, images, seconds of the present epoch
SAVE_EVERY = 10  # seconds: epochs on a GPU can be shorter than writing them


@dataclass(frozen=True)
class Best:
    """The epoch that was best on the held-out images, and its weights."""

    epoch: int
    held_out_accuracy: float  # 0..1
    state_dict: dict[str, torch.Tensor]


class Files:
    """Where a run called `name` writes: `last` to resume from, and what it leaves behind. best: what the file of the weights is called."""

    def __init__(self, directory: Path, name: str, best: str = "{}.best.pth.tar"):
        self.name = name
        self.best = directory / best.format(name)
        self.earlier = directory / f"{name}.earlier.pth.tar"
        self.last = directory / f"{name}.last.pth.tar"
        self.lock = directory / f".{name}.lock"
        self.log = directory / f"{name}.log.csv"
        self.picture = directory / f"{name}.curve.png"
        self.packed = directory / f"{name}.xnor"
        self.confusion = directory / f"{name}.confusion.png"


def settings_of(args, arch: str, recipe: Recipe, classes: Sequence[str] = (), images: int = 0) -> dict[str, Any]:
    """Return what a resumed run must have in common with its first part; its length may differ.

    classes, images: of somebody's own, and how many are learnt from.
    """
    own = {"classes": ", ".join(classes), "images": images} if classes else {}
    given = {name: getattr(args, name, None) for name in ("seed", "limit", "pretrained", "teacher")}
    given |= {"old_std": True} if getattr(args, "old_std", False) else {}
    return {"arch": arch, "lr": recipe.lr, "batch_size": recipe.batch_size, **given, **own}


def _plain(value):
    """A setting as a checkpoint holds it: paths as text."""
    return " ".join(map(str, value)) if isinstance(value, list) else str(value) if isinstance(value, Path) else value


class Run:
    """One run of training: of a learner, by a recipe.

    settings: see settings_of; its seed fixes the order of the images. held_out: the fingerprint of the held-out images
    (util.train.data.fingerprint). All files but NAME.last.pth.tar are touched by `finish` only, and only if the run beats what is there on
    the same held-out images: a quick try never costs anybody good weights. A context: inside, no other run may have its name, and the
    first Ctrl-C, SIGTERM or closed terminal lets the step end and saves it (see util.files.stoppable).
    Of several processes, the first writes and prints.
    """

    def __init__(self, files: Files, recipe: Recipe, learner: Learner, settings: Mapping[str, Any], held_out: str, resume: bool = False):
        self.files, self.recipe, self.learner, self.machine, self.held_out = files, recipe, learner, learner.machine, held_out
        self.settings = {name: _plain(value) for name, value in settings.items()} | {"arithmetic": self.machine.arithmetic}
        self.epoch, self.step, self.total, self.images, self.seconds = 0, 0, 0.0, 0, 0.0
        self.rows: list[curve.Epoch] = []
        self.best: Best | None = None
        self._lr, self._losses, self._saved, self._stop = recipe.lr, [], -math.inf, False
        self._context = contextlib.ExitStack()
        if resume:
            self._resume()

    def __enter__(self):
        if self.machine.first:
            self._context.enter_context(locked(self.files.lock, f"a training called {self.files.name} is running; give this one --name"))
            what = f"{self.recipe.epochs} epochs" if self.recipe.epochs else "the head alone"
            print(f"training {self.files.name}: {what} on {self.machine}", flush=True)
        self._context.enter_context(stoppable(self._ask_to_stop))
        return self

    def __exit__(self, *exception):
        self._context.close()

    def _ask_to_stop(self):
        self._stop = True

    # ---- One step after the other ----
    @property
    def over(self) -> bool:
        """Whether all epochs are done, or the recipe's patience is at its end (early stopping)."""
        if self.epoch >= self.recipe.epochs:
            return True
        if not (self.recipe.patience and self.rows):
            return False
        best = max(self.rows, key=lambda row: row.held_out_accuracy)  # the first of several
        return self.epoch - best.epoch >= self.recipe.patience

    def batches(self, count: int) -> Iterator[Batch]:
        """Yield an epoch's batches of `count` images, from the one after the last that was saved, each at its learning rate.

        Give each one's loss to `add`.
        """
        batches = batches_of(count, self.settings["seed"], self.epoch + 1, self.recipe, self.machine)
        if self.step > len(batches):
            raise InputError(f"{self.files.last}: was cut off after step {self.step} of {len(batches)}; begin anew, without --resume")
        self._lr = self.recipe.lr_at(batches[-1].progress)
        title = f"epoch {self.epoch + 1} at {self.recipe.size(self.epoch + 1)} px"
        start, hide = time.perf_counter() - self.seconds, None if self.machine.first else True  # None: where there is no terminal
        bar = {"initial": self.step, "unit": "step", "leave": False, "disable": hide}
        for batch in tqdm(batches[self.step :], title, len(batches), **bar):
            set_lr(self.learner.optimizer, self.recipe.lr_at(batch.progress))
            yield batch
            self.step, self.seconds = batch.step + 1, time.perf_counter() - start
            if self._all_stop():
                self._save()
                raise KeyboardInterrupt

    def _all_stop(self) -> bool:
        """Return whether any process was asked to stop; all get the same answer, or one would wait for the others for ever."""
        if self.machine.processes == 1:
            return self._stop
        stop = torch.tensor(float(self._stop), device=self.machine.device)
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
            self.total, self.images = self.total + value * images, self.images + images
        self._losses.clear()

    def end_epoch(self, accuracy: float, evaluated: nn.Module) -> None:
        """Print one line and save what `--resume` needs; accuracy, in [0, 1]: of the `evaluated` model on the held-out images."""
        self._count()
        self.epoch += 1
        lr, loss, seconds = self._lr, self.total / self.images, round(self.seconds, 1)
        self.rows.append(curve.Epoch(self.epoch, round(lr, 8), seconds, round(loss, 5), round(accuracy, 5), self.machine.arithmetic))
        best = self.best
        # Of equal epochs the last is taken; but what the training began with (epoch 0) stays until one is better.
        if best is None or accuracy > best.held_out_accuracy or accuracy == best.held_out_accuracy and best.epoch:
            self._keep(accuracy, evaluated)
        if self.machine.first:
            held_out = f"held out {100 * accuracy:.2f} %"
            print(f"epoch {self.epoch:3d}  lr {lr:.5f}  {self.seconds:6.1f} s  loss {loss:.4f}  {held_out}", flush=True)
        self.step, self.total, self.images, self.seconds = 0, 0.0, 0, 0.0
        if self.over or time.monotonic() - self._saved >= SAVE_EVERY:
            self._save()

    def take_as_best(self, accuracy: float, evaluated: nn.Module) -> None:
        """Take for the best what no epoch ended with, such as what the training begins with; accuracy, evaluated: see `end_epoch`."""
        self._keep(accuracy, evaluated)
        if self.machine.first:
            print(f"epoch {self.epoch:3d}  held out {100 * accuracy:.2f} %", flush=True)
        self._save()

    def _keep(self, accuracy: float, evaluated: nn.Module) -> None:
        self.best = Best(self.epoch, accuracy, {key: value.clone() for key, value in evaluated.state_dict().items()})

    # ---- To go on later ----
    def _save(self) -> None:
        self._count()
        if not self.machine.first:
            return
        self._saved = time.monotonic()
        checkpoint.save(self.files.last, {
            "arch": self.settings["arch"], "best_acc": 100 * self.best.held_out_accuracy if self.best else 0.0,
            **{name: getattr(self, name) for name in COUNTS},
            "settings": self.settings, "held_out": self.held_out, "rows": [list(row) for row in self.rows],
            "best": vars(self.best) if self.best else None, **{name: part.state_dict() for name, part in self.learner.parts.items()},
        })  # fmt: skip

    def _resume(self) -> None:
        last = self.files.last
        if not last.is_file():
            raise InputError(f"{last}: no such file, so there is no training to resume; begin one, without --resume")
        saved = checkpoint.load(last)
        needed = {"settings", "held_out", "rows", "best", *COUNTS, *self.learner.parts}
        if missing := needed - saved.keys():
            raise InputError(f"{last}: no training to resume in it ({', '.join(sorted(missing))} missing)")
        try:
            counts = {name: type(getattr(self, name))(saved[name]) for name in COUNTS}
            settings, rows, best = {**saved["settings"]}, [curve.epoch_of(row) for row in saved["rows"]], saved["best"]
            best = Best(int(best["epoch"]), float(best["held_out_accuracy"]), {**best["state_dict"]}) if best else None
            if min(counts["epoch"], counts["step"]) < 0:
                raise ValueError("a count below 0")
        except (TypeError, ValueError, KeyError, RuntimeError) as error:
            raise InputError(f"{last}: its training can't be read ({error}); begin anew, without --resume") from error
        for name in self.settings | settings:
            if (earlier := settings.get(name)) != (now := self.settings.get(name)):
                raise InputError(f"{last}: was trained with {name} {earlier}, not {now}; repeat its options")
        if saved["held_out"] != self.held_out:
            raise InputError(f"{last}: was trained on other images; give its --data, or begin anew, without --resume")
        states = [("best", self.learner.evaluated, best.state_dict)] if best else []  # seen to fit; what follows takes its place there
        states += [(name, part, saved[name]) for name, part in self.learner.parts.items()]
        for name, part, state in states:
            try:
                part.load_state_dict(state)
            except (RuntimeError, ValueError, KeyError, AttributeError, TypeError) as error:
                found = str(error).splitlines()[0]
                raise InputError(f"{last}: its {name} does not fit ({found}); begin anew, without --resume") from error
        vars(self).update(counts, rows=rows, best=best)

    # ---- What is left behind ----
    def finish(self, accuracy: float, state: Mapping[str, Any], spec: Spec) -> bool:
        """Return whether the weights of the best epoch, `state`, were written, being the best so far; print the test `accuracy` (0..1).

        spec: what a clip needs to know of the network, which goes with them.

        Raises InputError, and keeps what was there, if the weights are not finite.
        """
        if not self.machine.first:
            return False
        held_out = 100 * self.best.held_out_accuracy
        print(f"epoch {self.best.epoch} (held out {held_out:.2f} %): {100 * accuracy:.2f} % of the test images right")
        checkpoint.check_weights(state, "this training's weights")
        self._put_aside()
        if why := self._why_earlier_stays(held_out):
            last = self.files.last  # it holds more than the best weights, so it can't be used in their place
            print(f"{self.files.best} {why} and stays; to keep this run's, rename {last} OTHER.last.pth.tar, and add --resume --name OTHER")
            return False
        state = {key: value.cpu() if isinstance(value, torch.Tensor) else value for key, value in state.items()}  # a file for any machine
        checkpoint.save(self.files.best, {
            "arch": self.settings["arch"], "best_acc": 100 * accuracy, "held_out_accuracy": held_out, "held_out": self.held_out,
            "epoch": self.best.epoch, "settings": self.settings, "state_dict": state, "spec": spec.to_dict(),
        })  # fmt: skip
        if self.rows:
            curve.write(self.files.log, self.rows)
            curve.plot(self.files.picture, self.rows, f"{self.files.name}: {100 * accuracy:.2f} % on the test set")
        else:  # those of an earlier run are of other weights
            for path in (self.files.log, self.files.picture):
                path.unlink(missing_ok=True)
        print(f"written: {self.files.best}")
        return True

    def _put_aside(self) -> None:
        """Rename earlier weights of somebody's own classes that were judged on other images: their scores can't be compared."""
        with contextlib.suppress(InputError):
            earlier = checkpoint.load(self.files.best) if self.files.best.exists() and "classes" in self.settings else {}
            of_own = isinstance(earlier.get("settings"), dict) and "classes" in earlier["settings"]
            if of_own and earlier.get("held_out") != self.held_out:
                os.replace(self.files.best, self.files.earlier)
                print(f"{self.files.best} was judged on other images; kept as {self.files.earlier}")

    def _why_earlier_stays(self, held_out: float) -> str | None:
        """Return why the weights that are there are not replaced by ours, which have `held_out` percent; None if they are."""
        if not self.files.best.exists():
            return None
        try:
            earlier = checkpoint.load(self.files.best)
        except InputError:
            return "can't be read"
        if earlier.get("held_out") != self.held_out:
            return "was judged on other images"
        score = checkpoint.number(earlier.get("held_out_accuracy"))
        return None if score <= held_out else f"({score:.2f} % held out) is better"
