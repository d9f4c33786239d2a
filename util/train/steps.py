"""What every training needs and nobody wants to read: fast steps, running averages, losses, several processes."""
import contextlib
import copy
import ctypes
import hashlib
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from torch import distributed, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from util.cli import InputError
from util.train import checkpoint
from util.train.cpu_ops import cpu_has

DECAY = 0.998  # of the running average of the weights, per step: that of the last 500 steps or so
HEAT = 2  # the temperature at which a teacher's answer is softened


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
