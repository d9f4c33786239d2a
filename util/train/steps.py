"""What every training step needs: where it runs, what learns in it, EMA, distillation, CUDA graphs, several processes."""
import contextlib
import ctypes
import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path

import torch
from torch import distributed, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from util.binop import BinOp
from util.errors import InputError, quiet
from util.train import checkpoint
from util.train.cpu_ops import accelerate, cpu_has
from util.train.recipe import Recipe

TEMPERATURE = 2  # of distillation
JOINING = timedelta(minutes=2)  # that processes wait for each other at the start; PyTorch's own half an hour looks like a hang


# ---- Where and in what arithmetic ------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Machine:
    """Where a training runs and what it computes in."""

    device: torch.device
    bf16: bool = False  # forward and backward in bfloat16 (autocast); otherwise float32
    compiled: bool = False  # the step goes through torch.compile
    popcount_forward: bool = False  # see util.train.cpu_ops.accelerate
    int8_gradients: bool = False  # as well
    rank: int = 0
    processes: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that prints and writes."""
        return self.rank == 0

    def share(self, batch_size: int) -> int:
        """Return how many images of a batch are this process's where it draws them itself."""
        return max(1, batch_size // self.processes)

    @property
    def arithmetic(self) -> str:
        """What a resumed training must compute in, too: it may change the numbers."""
        names = ["bfloat16" if self.bf16 else "float32"]
        return " ".join(names + ["popcount-forward"] * self.popcount_forward + ["int8-gradients"] * self.int8_gradients)

    def __str__(self):
        where = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
        parts = [where, self.arithmetic, *["compiled"] * self.compiled, *[f"{self.processes} processes"] * (self.processes > 1)]
        return ", ".join(parts)


def device_of(args) -> torch.device:
    """Return the GPU if there is one and --cpu was not given; of several processes that torchrun started, each has its own."""
    if args.cpu or not torch.cuda.is_available():
        return torch.device("cpu")
    number, count = os.environ.get("LOCAL_RANK"), torch.cuda.device_count()
    if number is None:
        return torch.device("cuda")
    if not number.isdecimal() or int(number) >= count:
        advice = f"start one process per GPU (torchrun --nproc_per_node={count}), or give --cpu"
        raise InputError(f"LOCAL_RANK is {number!r} of {count} GPUs; {advice}")
    return torch.device("cuda", int(number))


def machine_for(args, bf16: bool | None) -> Machine:
    """Return where a training with these flags runs, after joining the others if torchrun started several.

    bf16: None chooses by `fast_bf16`. Raises InputError for --popcount-forward or --int8-gradients without a compiled step on a CPU, and
    for --compile there without a compiler.
    """
    device = device_of(args)
    own = {name: getattr(args, name, False) for name in ("popcount_forward", "int8_gradients")}
    if any(own.values()) and (device.type != "cpu" or not args.compile):
        raise InputError("--popcount-forward and --int8-gradients are of compiled trainings on a CPU; add --compile, or leave them out")
    if args.compile and device.type == "cpu" and not shutil.which(compiler := os.environ.get("CXX", "g++")):  # as torch.compile finds it
        raise InputError(f"--compile needs a C++ compiler, and there is no {compiler}; install it, set CXX, or leave --compile out")
    rank, processes = join_processes(device)
    return Machine(device, fast_bf16(device) if bf16 is None else bf16, args.compile, rank=rank, processes=processes, **own)


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
    try:
        size, rank = (int(os.environ.get(name, default)) for name, default in (("WORLD_SIZE", "1"), ("RANK", "0")))
        if not 0 <= rank < size:  # the others would be waited for
            raise ValueError(f"RANK is {rank} of {size} processes")
        if device.type == "cuda":
            torch.cuda.set_device(device)  # else NCCL, streams and kernels of all processes are on the first GPU
        with quiet():  # the error below says what PyTorch would say again and again
            store, rank, size = next(distributed.rendezvous("env://", timeout=JOINING))
        distributed.init_process_group("gloo" if device.type == "cpu" else "nccl", store=store, rank=rank, world_size=size)
    except Exception as error:  # ValueError, RuntimeError, and TypeError for a number that no integer of C++ holds
        found = str(error).splitlines()[0][:120]
        raise InputError(f"WORLD_SIZE is set, but processes can't be joined ({found}); start with torchrun, or unset it") from error
    return distributed.get_rank(), distributed.get_world_size()


# ---- Model, optimizer, EMA -----------------------------------------------------------------------------------------------
class Learner:
    """A model in training: what a step calls in its place, its optimizer, and the BinOp of its binarized weights.

    ema: of its weights, where there is one; made before, as the model becomes one of faster layers here.
    """

    def __init__(self, model: nn.Module, recipe: Recipe, machine: Machine, ema: AveragedModel | None = None):
        self.model, self.ema, self.machine, self.bin_op = model, ema, machine, BinOp(model, machine.compiled)
        if machine.compiled and machine.device.type == "cpu":
            accelerate(model, machine.popcount_forward, machine.int8_gradients)
        self.optimizer = portable(recipe.optimizer(model, recipe.lr))
        forward = DistributedDataParallel(model) if machine.processes > 1 else model  # which averages gradients over processes
        self.forward = torch.compile(forward, dynamic=False) if machine.compiled else forward

    @property
    def evaluated(self) -> nn.Module:
        """The model whose weights are evaluated and kept: that of the EMA, where there is one."""
        return self.ema.module if self.ema else self.model

    @property
    def parts(self) -> dict[str, nn.Module | torch.optim.Optimizer]:
        """What a checkpoint must hold for the training to go on, under its names there."""
        return {"state_dict": self.model, "optimizer": self.optimizer} | ({"ema": self.ema} if self.ema else {})


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set every parameter group's learning rate to `lr`, times its own `lr_scale` if it has one."""
    for group in optimizer.param_groups:
        value = lr * group.get("lr_scale", 1)
        if isinstance(group["lr"], torch.Tensor):  # a CUDA graph reads it there
            group["lr"].fill_(value)
        else:
            group["lr"] = value


def portable(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Return `optimizer`, which from now on keeps its own options when it loads a state: a run may go on on another device.

    A state that doesn't fit the weights is a ValueError: kernels for several weights at once would write beyond its ends.
    """

    def keep_own(optimizer, state):
        both = zip(state["param_groups"], optimizer.param_groups, strict=True)
        return state | {"param_groups": [own | {"params": saved["params"]} for saved, own in both]}

    def check(optimizer):
        for parameter, state in optimizer.state.items():
            for name, value in state.items():
                if isinstance(value, torch.Tensor) and value.dim() and value.shape != parameter.shape:
                    raise ValueError(f"{name} is {tuple(value.shape)}, its weights {tuple(parameter.shape)}")

    optimizer.register_load_state_dict_pre_hook(keep_own)
    optimizer.register_load_state_dict_post_hook(check)
    return optimizer


def ema_of(model: nn.Module, decay: float = Recipe.ema_decay) -> AveragedModel:
    """Return the exponential moving average of the model's weights, which `update_ema` moves on; `.module` is a model with them.

    Which sign a latent weight near zero has after a step is chance; not so in the average.
    """
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))


@torch.no_grad()
def update_ema(ema: AveragedModel, model: nn.Module) -> None:
    """Move the EMA on by a step: a <- decay a + (1 - decay) w; buffers are copied.

    What ema.update_parameters(model) does from its second call on, which a CUDA graph can't record: it reads n_averaged back.
    """
    ema.multi_avg_fn(list(ema.module.parameters()), list(model.parameters()), ema.n_averaged)
    for average, current in zip(ema.module.buffers(), model.buffers(), strict=True):
        average.copy_(current)


@torch.no_grad()
def blend(model: nn.Module, others: Mapping[str, torch.Tensor], share: float) -> nn.Module:
    """Return a copy whose weights are a mean: `share` of the model's, the rest of `others`, a state dict. Recalibrate its batch norms.

    A fine-tuned network between its beginning and its end is better than either, on what it has learnt and on what it forgets:
    Wortsman et al. 2022, arXiv:2109.01903.
    """
    blended = deepcopy(model)
    for key, value in blended.state_dict().items():
        if value.is_floating_point():
            value.mul_(share).add_(others[key].to(value), alpha=1 - share)
    return blended


# ---- Distillation ----------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Teacher:
    """What tells a teacher's logits of a batch: (images x, their indices among the training images) -> (N, classes)."""

    logits: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    online: bool  # a network, asked in each step about x itself; otherwise cached logits of the images before augmentation


def cached_teacher(path: Path, count: int, classes: int, kept: torch.Tensor, device: torch.device) -> Teacher:
    """Return the teacher whose logits of all `count` training images are in a file; `kept`: those that indices count."""
    cached = load_teacher_logits(path, count, classes)[kept].to(device)
    return Teacher(lambda x, indices: cached[indices], online=False)


def load_teacher_logits(path: Path, count: int, classes: int) -> torch.Tensor:
    """Return cached logits, float32 (count, classes), of the training images in their order; raises InputError without them."""
    logits = checkpoint.load_tensors(path).get("logits")
    if logits is None or tuple(logits.shape) != (count, classes):
        found = "" if logits is None else f" but of {tuple(logits.shape)}"
        advice = "write them with PyTorch_CIFAR10/main.py --logits, the same --limit"
        raise InputError(f"{path}: holds no logits of {count} images{found}; {advice}")
    return logits.float()


def training_loss(logits: torch.Tensor, labels: torch.Tensor, teacher_logits: torch.Tensor | None, smoothing: float = 0.0) -> torch.Tensor:
    """Return the mean cross-entropy of float logits (N, C); with a teacher, 0.1 times it + 0.9 times the distillation loss."""
    loss = F.cross_entropy(logits, labels, label_smoothing=smoothing)
    return loss if teacher_logits is None else 0.1 * loss + 0.9 * distillation_losses(logits, teacher_logits).mean()


def loss_for(teacher: Teacher | None, smoothing: float = 0.0) -> Callable[..., torch.Tensor]:
    """Return the loss of (logits, labels, teacher's logits or None): of an online teacher the distillation loss alone."""
    if teacher and teacher.online:
        return lambda logits, _, teacher_logits: distillation_losses(logits, teacher_logits).mean()
    return partial(training_loss, smoothing=smoothing)


def distillation_losses(logits: torch.Tensor, teacher_logits: torch.Tensor) -> torch.Tensor:
    """Return T^2 KL(softmax(teacher_logits / T) || softmax(logits / T)), T = TEMPERATURE, (N,); float logits (N, C).

    Hinton et al. 2015, arXiv:1503.02531.
    """
    log_p, q = (logits / TEMPERATURE).log_softmax(1), (teacher_logits / TEMPERATURE).softmax(1)
    return TEMPERATURE**2 * F.kl_div(log_p, q, reduction="none").sum(1)


# ---- CUDA graphs -----------------------------------------------------------------------------------------------------
class CudaGraphStep:
    """A training step on a GPU, recorded as a CUDA graph and from then on replayed: one launch instead of hundreds.

    `step` takes tensors on the GPU, and others that tell what it does, and returns a tensor. It must launch the same work each time
    that the shapes and the others are the same, and never wait for it. The first WARM_UP calls of a kind run as they are: they compile.
    """

    WARM_UP = 3

    def __init__(self, step: Callable[..., torch.Tensor]):
        self.step, self.calls, self.graphs, self.stream = step, Counter(), {}, torch.cuda.Stream()

    def __call__(self, *inputs) -> torch.Tensor:
        kind = kind_of(inputs)
        self.calls[kind] += 1
        if self.calls[kind] <= self.WARM_UP:
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                result = self.step(*inputs)
            torch.cuda.current_stream().wait_stream(self.stream)
            return result
        if kind not in self.graphs:
            graph, static = torch.cuda.CUDAGraph(), [x.clone() if isinstance(x, torch.Tensor) else x for x in inputs]
            with torch.cuda.graph(graph, stream=self.stream):
                result = self.step(*static)
            self.graphs[kind] = graph, static, result
        graph, static, result = self.graphs[kind]
        copy_inputs(static, inputs)
        graph.replay()
        return result.clone()


def kind_of(inputs: tuple) -> tuple:
    """Return what a recorded step depends on: the shape of each tensor, and everything else."""
    return tuple(x.shape if isinstance(x, torch.Tensor) else x for x in inputs)


def copy_inputs(static: list, inputs: tuple) -> None:
    """Write the tensors of `inputs` into those that a recorded step reads."""
    for x, value in zip(static, inputs, strict=True):
        if isinstance(x, torch.Tensor):
            x.copy_(value)
