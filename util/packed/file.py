"""Files of packed networks (.xnor): a Spec, steps, packed weights. docs/packed.md has the format."""
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from util.errors import InputError
from util.files import atomic_write
from util.packed.run import PackedNetwork, Shape, Step
from util.spec import Spec

FORMAT, VERSION = "xnor network", 2
WINDOW = {"stride": int, "padding": int}
POOL = {"size": int, **WINDOW}
# Step -> keyword -> int, bool, or an array's dtype and number of axes; `weight` and `negative` have a bit each where all are 1 or -1.
STEPS = {
    "conv": {"weight": ("float32", 4), "scale": ("float32", 1), "shift": ("float32", 1), "relu": bool, **WINDOW},
    "conv_sign": {"weight": ("float32", 4), "threshold": ("float32", 1), **WINDOW},
    "binary_conv": {"negative": ("uint8", 4), "scale": ("float32", 1), "shift": ("float32", 1), "relu": bool, **WINDOW},
    "binary_conv_sign": {"negative": ("uint8", 4), "threshold": ("int32", 1), **WINDOW},
    "affine": {"scale": ("float32", 1), "shift": ("float32", 1), "relu": bool},
    "sign": {"scale": ("float32", 1), "threshold": ("float32", 1)},
    "prelu": {"slope": ("float32", 1)},
    "add": {"map": int, "size": int},
    "max_pool": POOL,
    "average_pool": POOL,
    "max_pool_bits": {"any": ("uint8", 1), **POOL},
}
MAX_VALUES = 2**24  # in all maps of one image together: 64 MiB
MAX_SUMMED = 2**32  # values that the windows of one image see together: twenty times as many as those of the networks here


# ---- Writing ---------------------------------------------------------------------------------------------------------
def save(network: PackedNetwork, path: str | Path) -> int:
    """Return the size in bytes of the file written to `path`; it is whole or the earlier one stays."""
    from safetensors.numpy import save as to_bytes

    arrays, steps = {}, []
    for i, (name, keywords) in enumerate(network.engine.steps):
        step = {"step": name}
        for key, value in keywords.items():
            if isinstance(value, np.ndarray):
                step[key] = list(value.shape)
                arrays[f"{i:02d}.{key}"] = _packed(key, value)
            else:
                step[key] = value
        steps.append(step)
    head = {"format": FORMAT, "version": VERSION, "spec": network.spec.to_dict(), "steps": steps}
    text = json.dumps(head, separators=(",", ":"))
    content = to_bytes(arrays, {"network": f"{_digest(text, arrays)} {text}"})  # one entry: safetensors keeps no order
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)
    return len(content)


def _packed(key: str, value: np.ndarray) -> np.ndarray:
    if key == "negative":
        return np.packbits(value)
    if key == "weight":
        return np.packbits(value < 0) if (np.abs(value) == 1).all() else value
    return value[:1] if (value == value[0]).all() else value  # equal values are stored once


def _digest(text: str, arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode() + arrays[name].tobytes())
    return digest.hexdigest()


# ---- Reading ---------------------------------------------------------------------------------------------------------
def is_packed(path: str | Path) -> bool:
    """Return whether the file at `path` looks like a packed network (rather than a checkpoint): 8 bytes of length, then JSON."""
    try:
        if not Path(path).is_file():  # a pipe may never have a writer
            return False
        with open(path, "rb") as file:
            return file.read(9)[8:] == b"{"
    except OSError:
        return False


def load(path: str | Path, expected: Spec | None = None, kernel: str = "", threads: int = 1) -> PackedNetwork:
    """Return the packed network in the file at `path`. It has to be of `expected`'s arch, if that is given.

    A file of version 1 doesn't tell its classes and calibration, which are then `expected`'s.
    Raises InputError for a file that is missing, cut short, altered, of a later version, or holds another network.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file, safe_open

    if not is_packed(path):
        what = "not a packed network, which main.py --export writes" if Path(path).is_file() else "no such file"
        raise InputError(f"{path}: {what}")
    try:
        with safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
        arrays = load_file(path)
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise InputError(f"{path}: not a readable packed network ({error}); is it cut short? Write it anew with --export") from error
    digest, _, text = metadata.get("network", "").partition(" ")
    if digest != _digest(text, arrays):
        raise InputError(f"{path}: checksum wrong: the packed network was altered or damaged; write it anew with --export")
    try:
        head = json.loads(text)
        if head["format"] != FORMAT or head["version"] not in (1, VERSION):
            raise InputError(f"{path}: is {head['format']} version {head['version']}, expected {FORMAT} version 1 or {VERSION}")
        arch = head["arch"] if head["version"] == 1 else head["spec"]["arch"]
        if expected and arch != expected.arch:
            raise InputError(f"{path}: holds {arch}, expected {expected.arch}; choose it with --arch or give another file")
        spec = _first_spec(head, expected) if head["version"] == 1 else Spec.from_dict(head["spec"])
        check(head["steps"], arrays, spec.shape, len(spec.classes))
        return PackedNetwork(unpack(head["steps"], arrays), spec, kernel, threads)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise InputError(f"{path}: no valid packed network ({' '.join(str(error).split())[:200]})") from error


def _first_spec(head: dict, expected: Spec | None) -> Spec:
    if expected is None:
        raise ValueError("version 1 doesn't tell its classes: write it anew with main.py --pretrained FILE --export FILE")
    return replace(expected, shape=tuple(head["shape"]), mean=tuple(head["mean"]), std=tuple(head["std"]))


def check(steps: list[dict], arrays: Mapping[str, np.ndarray], shape: Shape, outputs: int) -> None:
    """Raise ValueError, for steps that can't be run or want more memory or time than a network, in one line; nothing is unpacked."""
    maps, values, summed = [tuple(shape)], math.prod(shape), 0
    for i, step in enumerate(steps):
        name, channels = step["step"], maps[-1][0]
        if name not in STEPS or step.keys() != {"step", *STEPS[name]}:
            raise ValueError(f"unknown step {str(step)[:100]}")
        sizes = {}
        for key, kind in STEPS[name].items():
            if isinstance(kind, tuple):
                sizes[key] = _checked_array(key, step[key], arrays[f"{i:02d}.{key}"], *kind)
            elif type(step[key]) is not kind or not 0 <= step[key] <= 2**16:
                raise ValueError(f"{key} of step {i}, {name}, is {str(step[key])[:100]}")
        if len(kernel := next((size for size in sizes.values() if len(size) == 4), ())) and kernel[1] != channels:
            raise ValueError(f"weights of {kernel} on {channels} channels")
        channels = kernel[0] if kernel else channels
        if any(size != (channels,) for size in sizes.values() if len(size) == 1):
            raise ValueError(f"arrays of {sizes} on {channels} channels")
        window = kernel[2:] or (step["size"],) * 2 if "stride" in step else ()
        sides = maps[-1][1:]
        if window:
            sides = (_slid(length, size, step["stride"], step["padding"]) for length, size in zip(sides, window, strict=True))
        maps.append((channels, *sides))
        values += math.prod(maps[-1])
        summed += math.prod(maps[-1]) * math.prod(kernel[1:] or window)
        if values > MAX_VALUES or summed > MAX_SUMMED:
            raise ValueError(f"maps of more than {MAX_VALUES} values, or sums of more than {MAX_SUMMED}")
    if math.prod(maps[-1]) != outputs:
        raise ValueError(f"{math.prod(maps[-1])} outputs for {outputs} classes")


def _checked_array(key: str, size: Any, array: np.ndarray, dtype: str, axes: int) -> tuple[int, ...]:
    """Return an array's size, once that is seen to fit what is stored of it."""
    if not isinstance(size, list) or len(size) != axes or not all(type(n) is int and 0 < n < 2**31 for n in size):
        raise ValueError(f"{key} is of size {str(size)[:100]}")
    count = math.prod(size)
    bits = key == "negative" or key == "weight" and array.dtype == np.uint8
    stored = [(count + 7) // 8] if bits else [count] if axes == 4 else [1, count]  # equal values of an axis are stored once
    if array.dtype != ("uint8" if bits else dtype) or array.size not in stored:
        raise ValueError(f"{key} of {size}, but {array.size} values of {array.dtype}")
    return tuple(size)


def _slid(length: int, window: int, stride: int, padding: int) -> int:
    """Return how many places a window has along a side."""
    if not (0 < window <= length + 2 * padding and 0 < stride and padding < window):
        raise ValueError(f"a window of {window} with padding {padding} and stride {stride} on {length} pixels")
    return (length + 2 * padding - window) // stride + 1


def unpack(steps: list[dict], arrays: Mapping[str, np.ndarray]) -> list[Step]:
    """Return the steps with their arrays, for PackedNetwork."""
    return [(step["step"], {key: _unpacked(key, arrays[f"{i:02d}.{key}"], value) if isinstance(value, list) else value
                            for key, value in step.items() if key != "step"}) for i, step in enumerate(steps)]  # fmt: skip


def _unpacked(key: str, array: np.ndarray, size: list[int]) -> np.ndarray:
    if key == "negative" or key == "weight" and array.dtype == np.uint8:
        negative = np.unpackbits(array, count=math.prod(size)).reshape(size)
        return negative if key == "negative" else np.where(negative, np.float32(-1), np.float32(1))
    return array.reshape(size) if array.size == math.prod(size) else np.full(size, array.reshape(-1)[0])
