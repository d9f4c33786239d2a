"""Bit-packed inference: a trained binarized network as packed bits, thresholds and the few float layers that are left.

    frozen = xnor.freeze(model, (3, 32, 32), MEAN, STD)       # or xnor.load("nin.xnor")
    logits = frozen(images)                                   # uint8 pixels, or floats as the model takes them
    frozen.save("nin.xnor")

What a model folds into is described in folding.py, the kernels and what a step computes in native/xnor.hpp, the file in docs/packed.md.
"""

import hashlib
import json
import math
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from torch import nn

from util.cli import InputError
from util.files import atomic_write
from util.layers import BinConv2d, BinLinear
from util.packed.fold import NotAChainError, Shape, Step, chain, fold
from util.train import checkpoint

try:
    from util.packed import _xnor
except ImportError:  # not built: scripts go on with PyTorch
    _xnor = None

FORMAT, VERSION = "xnor network", 1


# ---- The frozen network ----------------------------------------------------------------------------------------------
class Frozen(nn.Module):
    """A packed network: (N, C, H, W) -> (N, outputs) logits, float32, on the CPU; the same bits for every kernel, batch and thread count.

    Images are uint8 pixels, standardised inside, or float32, taken as they are. Nothing in it can be trained.
    Raises ValueError for another shape or dtype.
    """

    def __init__(self, steps: list[Step], shape: Shape, mean, std, arch: str = "", kernel: str = "", threads: int = 1):
        super().__init__()
        _need_native()
        self.steps, self.shape, self.arch = steps, tuple(shape), arch
        self.mean, self.std = (np.asarray(values, np.float32) for values in (mean, std))
        if not (np.isfinite(self.mean).all() and (self.std > 0).all()):
            raise ValueError(f"mean {mean} and deviation {std} can't standardise anything")
        try:
            self.network = _xnor.Network(*shape, kernel, threads)
        except ValueError as error:  # XNOR_KERNEL, or a shape from a file
            raise InputError(str(error)) from error
        self.network.normalize(self.mean, self.std)
        for name, keywords in steps:
            getattr(self.network, name)(**keywords)
        self.output: Shape = self.network.output

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if images.dim() != 4 or tuple(images.shape[1:]) != self.shape or images.dtype not in (torch.uint8, torch.float32):
            raise ValueError(
                f"images are {images.dtype} {tuple(images.shape)}, expected uint8 or float32 (N, {', '.join(map(str, self.shape))})"
            )
        images = images.detach().cpu().permute(0, 2, 3, 1).contiguous()
        channels, height, width = self.output
        scores = torch.empty(len(images), height, width, channels)
        self.network.run(images.numpy(), scores.numpy())
        return scores.permute(0, 3, 1, 2).flatten(1)

    def extra_repr(self):
        return f"{self.arch}, kernel={self.network.kernel}, " + " ".join(name for name, _ in self.steps)

    def save(self, path: str | Path) -> int:
        """Return the size in bytes of the packed file written to `path`; it is whole or the earlier one stays. See docs/packed.md."""
        from safetensors.numpy import save

        tensors, steps = {}, []
        for i, (name, keywords) in enumerate(self.steps):
            step = {"step": name}
            for key, value in keywords.items():
                if isinstance(value, np.ndarray):
                    step[key] = list(value.shape)
                    tensors[f"{i:02d}.{key}"] = _packed(key, value)
                else:
                    step[key] = value
            steps.append(step)
        head = {"format": FORMAT, "version": VERSION, "arch": self.arch, "shape": self.shape,
                "mean": self.mean.tolist(), "std": self.std.tolist(), "steps": steps}  # fmt: skip
        text = json.dumps(head, separators=(",", ":"))
        data = save(tensors, {"network": f"{_digest(text, tensors)} {text}"})  # one entry: safetensors keeps no order
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary:
            temporary.write_bytes(data)
        return len(data)


def _packed(key: str, value: np.ndarray) -> np.ndarray:
    if key == "negative":
        return np.packbits(value)
    if key == "weight" and (np.abs(value) == 1).all():  # of a layer with 1-bit weights alone
        return np.packbits(value < 0)
    return value.reshape(-1)[:1] if (value == value.reshape(-1)[0]).all() else value  # equal values are stored once


def _unpacked(key: str, value: np.ndarray, shape: list[int]) -> np.ndarray:
    count, bits = math.prod(shape), key == "negative" or key == "weight" and value.dtype == np.uint8
    if not 0 < count <= 2**26 or (bits and value.size != (count + 7) // 8):
        raise ValueError(f"{key} of {shape}, but {value.size} values")
    if bits:
        negative = np.unpackbits(value, count=count).reshape(shape)
        return negative if key == "negative" else np.where(negative, np.float32(-1), np.float32(1))
    return np.ascontiguousarray(np.broadcast_to(value, shape))


def _digest(text: str, tensors: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tensors[name].shape}".encode() + tensors[name].tobytes())
    return digest.hexdigest()


def is_packed(path: str | Path) -> bool:
    """Return whether the file at `path` looks like a packed network (rather than a checkpoint): 8 bytes of length, then JSON."""
    try:
        with open(path, "rb") as file:
            return file.read(9)[8:] == b"{"
    except OSError:
        return False


def load(path: str | Path, arch: str = "", kernel: str = "", threads: int = 1) -> Frozen:
    """Return the packed network in the file at `path`.

    Raises InputError for a file that is missing, cut short, altered, of a later version, or holds another network than `arch`.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file, safe_open

    try:
        with safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
        tensors = load_file(path)
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise InputError(f"{path}: not a readable packed network ({error}); is it cut short? Write it anew with --export") from error
    digest, _, text = metadata.get("network", "").partition(" ")
    if digest != _digest(text, tensors):
        raise InputError(f"{path}: checksum wrong: the packed network was altered or damaged; write it anew with --export")
    try:
        head = json.loads(text)
        if (found := (head["format"], head["version"])) != (FORMAT, VERSION):
            raise InputError(f"{path}: is {found[0]} version {found[1]}, expected {FORMAT} version {VERSION}")
        if arch and head["arch"] != arch:
            raise InputError(f"{path}: holds {head['arch']}, expected {arch}; choose it with --arch or give another file")
        if math.prod(head["shape"]) > 2**24:
            raise ValueError(f"images of {head['shape']}")
        steps = [_step(i, dict(step), tensors) for i, step in enumerate(head["steps"])]
        return Frozen(steps, head["shape"], head["mean"], head["std"], head["arch"], kernel, threads)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: no valid packed network ({' '.join(str(error).split())[:200]})") from error


STEPS = (
    "conv", "conv_sign", "affine", "prelu", "add", "sign", "max_pool", "average_pool", "binary_conv", "binary_conv_sign", "max_pool_bits",
)  # fmt: skip


def _step(i: int, step: dict, tensors: dict[str, np.ndarray]) -> Step:
    name = step.pop("step")
    if name not in STEPS:
        raise ValueError(f"unknown step {name!r}")
    return name, {
        key: _unpacked(key, tensors[f"{i:02d}.{key}"], value) if isinstance(value, list) else value for key, value in step.items()
    }


# ---- Freezing --------------------------------------------------------------------------------------------------------
def freeze(model: nn.Module, shape: Shape, mean, std, arch: str = "", kernel: str = "", threads: int = 1) -> nn.Module:
    """Return a module that computes what `model` does in evaluation mode, with packed weights; the model stays as it is.

    A chain of layers, with shortcuts or without, becomes a Frozen network as a whole, for images (C, H, W) of `shape` standardised by
    `mean` and `std`. In any other model each binarized layer is packed by itself and the rest goes on in PyTorch. The model holds
    latent weights (not binarized).
    """
    _need_native()
    try:
        return Frozen(fold(chain(model), shape), shape, mean, std, arch, kernel, threads)
    except NotAChainError:
        return _freeze_layers(deepcopy(model).eval(), kernel, threads)


def _freeze_layers(module: nn.Module, kernel: str, threads: int) -> nn.Module:
    for name, child in module.named_children():
        if isinstance(child, BinConv2d | BinLinear):
            setattr(module, name, FrozenLayer(child, kernel, threads))
        else:
            _freeze_layers(child, kernel, threads)
    return module


class FrozenLayer(nn.Module):
    """One packed BinConv2d or BinLinear: floats in, floats out, as the layer in evaluation mode. Maps of any size."""

    def __init__(self, layer: BinConv2d | BinLinear, kernel: str, threads: int):
        super().__init__()
        self.layer, self.kernel, self.threads = [layer], kernel, threads  # in a list: its weights are no parameters of this one
        self.networks: dict[Shape, Frozen] = {}

    def forward(self, x):
        layer, shape = self.layer[0], tuple(x.shape[1:])
        if shape not in self.networks:
            zeros, ones = np.zeros(shape[0]), np.ones(shape[0])
            self.networks[shape] = Frozen(fold([layer], shape), shape, zeros, ones, "", self.kernel, self.threads)
        frozen = self.networks[shape]
        channels, height, width = frozen.output
        y = frozen(x)
        return y.view(len(x), channels, height, width) if isinstance(layer, BinConv2d) else y


def kernels() -> list[str]:
    """Return the names of the kernels that this processor can run, best first."""
    _need_native()
    return _xnor.kernels()


def peak(kernel: str) -> float:
    """Return the binary multiply-accumulates per second of `kernel`'s xnor-popcount-add in registers, one thread: its layers' limit."""
    _need_native()
    return _xnor.peak(kernel)


def _need_native() -> None:
    if _xnor is None:
        raise InputError("the xnor engine is not built: run 'make native' in the repository's root, or choose --engine torch")


def prepare(args, model: nn.Module, name: str, weights: Path, shape: Shape, mean, std, device: torch.device) -> nn.Module:
    """Return what predicts for `args` (see util.cli): the model `name` with the weights of --pretrained or `weights`, or its frozen form.

    --engine auto freezes what has 1-bit activations, on the CPU. --export FILE writes the frozen form too.
    Raises InputError for weights that don't fit, for a model that can't be packed, and for --engine xnor where it isn't built.
    """
    path = args.pretrained or weights
    if is_packed(path):
        if args.engine == "torch":
            raise InputError(
                f"{path}: is a packed network, which PyTorch can't run; give the checkpoint it was made from, or --engine xnor"
            )
        frozen = load(path, name, threads=torch.get_num_threads())
    else:
        checkpoint.load_into(model, path, name)
        pays = _xnor is not None and device.type == "cpu" and any(getattr(m, "estimator", "none") != "none" for m in model.modules())
        if args.engine == "torch" or (args.engine == "auto" and not pays) and not args.export:
            return model
        frozen = freeze(model, shape, mean, std, name, threads=torch.get_num_threads())
    if args.export:
        if not isinstance(frozen, Frozen):
            raise InputError(f"{name} can't be packed as a whole, so there is nothing to write to {args.export}")
        print(f"written: {args.export} ({frozen.save(args.export)} bytes)")
    return frozen
