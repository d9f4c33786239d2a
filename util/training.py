"""What every training needs and nobody wants to read: the log, the curve, checkpoints, several processes."""
import contextlib
import copy
import csv
import ctypes
import hashlib
import math
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import distributed, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from util import checkpoint
from util.binop import latent_names, to_codes
from util.cli import InputError
from util.files import atomic_write
from util.step_ops import cpu_has

COLUMNS = ["epoch", "lr", "seconds", "loss", "held_out_accuracy"]
# A resumed run must agree with the first on these; its length may change.
SETTINGS = ["arch", "lr", "batch_size", "seed", "limit", "pretrained", "teacher"]
DECAY = 0.998  # of the running average of the weights, per step: that of the last 500 steps or so
HEAT = 2  # the temperature at which a teacher's answer is softened
SAVE_EVERY = 10  # seconds: epochs on a GPU can be shorter than writing them
OF_DEVICE = ["fused", "capturable"]  # an optimizer's options that depend on where it runs
LARGEST = 6e6  # bytes of a file of weights; a larger network's latent weights are kept in 8 bits each


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Return nothing; every parameter group gets this learning rate, times its own `lr_scale` if it has one."""
    for group in optimizer.param_groups:
        value = lr * group.get("lr_scale", 1)
        if isinstance(group["lr"], torch.Tensor):  # a recorded step reads it there
            group["lr"].fill_(value)
        else:
            group["lr"] = value


def generator(*numbers: int) -> torch.Generator:
    """Return a generator of random numbers that `numbers` (such as seed, epoch and step) fix."""
    text = " ".join(map(str, numbers)).encode()
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(text).digest()[:7]))


def fast_bf16(device: torch.device) -> bool:
    """Return whether `device` computes in bfloat16 faster than in float32: a CPU with AMX or AVX-512 BF16, or a GPU that has it."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and any(map(cpu_has, ("amx_tile", "avx512_bf16")))


def keep_memory() -> None:
    """Make the C library keep what is freed: the tensors of the next step take it, instead of pages that the system must clear first."""
    with contextlib.suppress(OSError, AttributeError):  # other C libraries have no mallopt
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-4, 0), mallopt(-1, 2**31 - 1), mallopt(-2, 64 * 2**20)  # M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD


def join_processes(device: torch.device) -> tuple[int, int]:
    """Return (rank, number of processes), (0, 1) unless torchrun started this one; then after joining the others (gloo, on GPUs NCCL)."""
    if "WORLD_SIZE" not in os.environ:
        return 0, 1
    distributed.init_process_group("gloo" if device.type == "cpu" else "nccl")
    return distributed.get_rank(), distributed.get_world_size()


def step_model(model: nn.Module, args) -> nn.Module:
    """Return what a training step calls in the model's place: itself, averaging gradients over processes, compiled if asked for."""
    if args.processes > 1:
        model = DistributedDataParallel(model)
    return torch.compile(model, dynamic=False) if args.compile else model


class Recorded:
    """A training step on a GPU, recorded and from then on replayed: one launch instead of hundreds (a CUDA graph).

    `step` takes tensors on the GPU, and others that tell what it does, and returns a tensor. It must launch the same work each time
    that the shapes and the others are the same, and never wait for it. The first calls of a kind run as they are: they compile.
    """

    FIRST = 3

    def __init__(self, step: Callable[..., torch.Tensor]):
        self.step, self.calls, self.records, self.stream = step, Counter(), {}, torch.cuda.Stream()

    def __call__(self, *inputs) -> torch.Tensor:
        kind = tuple(x.shape if isinstance(x, torch.Tensor) else x for x in inputs)
        self.calls[kind] += 1
        if self.calls[kind] <= self.FIRST:
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                result = self.step(*inputs)
            torch.cuda.current_stream().wait_stream(self.stream)
            return result
        if kind not in self.records:
            graph, given = torch.cuda.CUDAGraph(), [x.clone() if isinstance(x, torch.Tensor) else x for x in inputs]
            with torch.cuda.graph(graph, stream=self.stream):
                result = self.step(*given)
            self.records[kind] = graph, given, result
        graph, given, result = self.records[kind]
        for x, value in zip(given, inputs, strict=True):
            if isinstance(x, torch.Tensor):
                x.copy_(value)
        graph.replay()
        return result.clone()


def running_average(model: nn.Module) -> nn.Module:
    """Return a copy of `model`, whose parameters `follow(copy, model)` after each step makes the running average of the model's.

    Which sign a latent weight near zero has after a step is chance; not so in the average.
    """
    return copy.deepcopy(model).requires_grad_(False)


@torch.no_grad()
def follow(average: nn.Module, model: nn.Module) -> None:
    """Take a step of the running average: a <- DECAY a + (1 - DECAY) w; buffers are copied."""
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - DECAY)
    for ours, theirs in zip(average.buffers(), model.buffers(), strict=True):
        ours.copy_(theirs)


def load_answers(path: Path, count: int, classes: int) -> torch.Tensor:
    """Return a teacher's logits, float32 (count, classes), for the training images in their order; raises InputError without them."""
    logits = checkpoint.load_tensors(path).get("logits")
    if logits is None or logits.shape[1:] != (classes,) or len(logits) < count:
        raise InputError(f"{path}: holds no logits for {count} images; write them with PyTorch_CIFAR10/main.py --logits")
    return logits[:count].float()


def image_size(sizes: list[tuple[float, int]], progress: float) -> int:
    """Return the side of the training images after a share `progress` of all epochs: each of `sizes` is (until what share, side).

    Small ones first: a network learns most at a quarter of the cost; the last epochs are at full size.
    """
    return next(size for until, size in sizes if progress <= until)


def loss_of(logits: torch.Tensor, labels: torch.Tensor, taught: torch.Tensor | None, smoothing: float = 0.0) -> torch.Tensor:
    """Return the mean cross-entropy of float logits (N, C), where there is a teacher nine tenths of it to its softened answer.

    L = 0.1 CE(logits, labels) + 0.9 D, D = distance(logits, taught).
    """
    loss = F.cross_entropy(logits, labels, label_smoothing=smoothing)
    return loss if taught is None else 0.1 * loss + 0.9 * distance(logits, taught)


def distance(logits: torch.Tensor, taught: torch.Tensor) -> torch.Tensor:
    """Return the mean distance of float logits (N, C) to a teacher's.

    D = T^2 KL(softmax(taught / T) || softmax(logits / T)), T = 2 (Hinton et al. 2015, arXiv:1503.02531).
    """
    return HEAT**2 * F.kl_div((logits / HEAT).log_softmax(1), (taught / HEAT).softmax(1), reduction="batchmean")


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
        needed = {"settings", "epoch", "step", "total", "seconds", "rows", "best", "optimizer"} | ({"average"} if self.average else set())
        if missing := needed - saved.keys():
            raise InputError(f"{self.last_path}: no training to resume in it ({', '.join(sorted(missing))} missing)")
        for name, value in self.settings.items():
            if (earlier := saved["settings"].get(name)) != value:
                raise InputError(f"{self.last_path}: was trained with {name} {earlier}, not {value}; repeat its options")
        self.model.load_state_dict(saved["state_dict"])
        own = [{name: group[name] for name in ("lr", *OF_DEVICE) if name in group} for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(saved["optimizer"])
        for group, options in zip(self.optimizer.param_groups, own, strict=True):
            group.update(options)  # the run may go on on another device
        if self.average:
            self.average.load_state_dict(saved["average"])
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
