"""Packed networks at work, on numpy alone; what a step computes is in ../native/xnor.hpp."""
import math
from typing import Any

import numpy as np

from util.errors import InputError
from util.spec import Spec

try:
    from util.packed import _xnor
except ImportError:  # not built: PyTorch can predict, too
    _xnor = None

Shape = tuple[int, int, int]  # channels, height, width
Step = tuple[str, dict[str, Any]]  # a method of _xnor.Network and its keywords


class Engine:
    """Packed layers in a row: (N, C, H, W) -> float32 (N, C', H', W'); the same bits for every kernel, batch and number of threads.

    Images are uint8 pixels, standardised by `mean` and `std` inside, or float32, taken as they are.
    Raises InputError if the native build is missing, ValueError for steps that don't fit and for another shape or dtype of images.
    """

    def __init__(self, steps: list[Step], shape: Shape, mean=None, std=None, kernel: str = "", threads: int = 1):
        need_native()
        self.steps, self.shape = steps, tuple(shape)
        mean, std = np.zeros(shape[0]) if mean is None else mean, np.ones(shape[0]) if std is None else std
        try:
            self.native = _xnor.Network(*shape, kernel, threads)
        except ValueError as error:  # XNOR_KERNEL
            raise InputError(str(error)) from error
        self.native.normalize(np.asarray(mean, np.float32), np.asarray(std, np.float32))
        for name, keywords in steps:
            getattr(self.native, name)(**keywords)
        self.output: Shape = self.native.output

    def __call__(self, images: np.ndarray) -> np.ndarray:
        if images.ndim != 4 or images.shape[1:] != self.shape or images.dtype not in (np.uint8, np.float32):
            raise ValueError(f"images are {images.dtype} {images.shape}, expected uint8 or float32 (N, {', '.join(map(str, self.shape))})")
        channels, height, width = self.output
        maps = np.empty((len(images), height, width, channels), np.float32)
        self.native.run(np.ascontiguousarray(images.transpose(0, 2, 3, 1)), maps)
        return maps.transpose(0, 3, 1, 2)


class PackedNetwork:
    """A packed network and its Spec: uint8 (N, C, H, W), RGB or grey -> float32 logits (N, classes), on the CPU.

    float32 images are taken as standardised already (see Engine). util.crops.prepare makes uint8 ones of crops of any size.
    Raises ValueError, in one line, for steps that don't lead to a logit per class, and for weights that are not finite.
    """

    def __init__(self, steps: list[Step], spec: Spec, kernel: str = "", threads: int = 1):
        for name, keywords in steps:
            for key, value in keywords.items():
                if isinstance(value, np.ndarray) and (np.isnan(value) if key == "threshold" else ~np.isfinite(value)).any():
                    raise ValueError(f"{key} of a step {name} holds NaN or infinite numbers")
        self.spec = spec
        self.engine = Engine(steps, spec.shape, spec.mean, spec.std, kernel, threads)
        if (outputs := math.prod(self.engine.output)) != len(spec.classes):
            raise ValueError(f"{outputs} outputs for {len(spec.classes)} classes")

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return self.engine(images).reshape(len(images), len(self.spec.classes))

    def __repr__(self):
        return f"PackedNetwork({self.spec.arch}, kernel={self.engine.native.kernel}, {' '.join(name for name, _ in self.engine.steps)})"


def kernels() -> list[str]:
    """Return the names of the kernels that this processor can run, best first."""
    need_native()
    return _xnor.kernels()


def peak(kernel: str) -> float:
    """Return the binary multiply-accumulates per second of `kernel`'s xnor-popcount-add in registers, one thread: its layers' limit."""
    need_native()
    return _xnor.peak(kernel)


def built() -> bool:
    """Return whether packed networks can run here."""
    return _xnor is not None


def need_native() -> None:
    """Raise InputError if the native build is missing."""
    if _xnor is None:
        raise InputError("the xnor engine is not built: run 'make native' in the repository's root, or choose --engine torch")
