"""Checkpoints: plain dicts, written whole or not at all, read without unpickling code."""
import math
import pickle
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from util import packed
from util.binop import dequantize, latent_names, quantize
from util.errors import InputError
from util.files import atomic_write
from util.spec import Spec

LARGEST = 6e6  # bytes of a file of weights; a larger network's latent weights are kept in 8 bits each
WRAPPERS = ("module.", "_orig_mod.")
MAX_EXPANDED = 1 << 32  # bytes of a tensor that holds fewer numbers than its shape says: more may be none that memory takes


def save(path: str | Path, checkpoint: dict) -> None:
    """Write `checkpoint` (tensors, numbers, strings, dicts, lists) to `path`; the file is complete or the earlier one stays."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        try:
            torch.save(checkpoint, temporary)
        except RuntimeError as error:  # torch hides the errno of a failed write
            raise InputError(f"{path}: could not be written ({_first_line(error)}); is the disk full?") from error


def load(path: str | Path) -> dict:
    """Return the checkpoint at `path`: a dict with at least `state_dict` (keys without `module.`) and `best_acc` (percent, NaN if none).

    Files of XNOR-Net-PyTorch are read as they are (score under `acc` or `best_acc`). A bare state dict is taken too, and weights
    kept in 8 bits each (util.binop.quantize).
    Raises InputError for a missing, empty, truncated, foreign or code-carrying file, and for weights that `check_weights` refuses.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; train one with main.py or give another with --pretrained")
    if packed.is_packed(path):
        raise InputError(f"{path}: a packed network neither learns nor teaches; give the checkpoint that it was made from")
    try:
        with warnings.catch_warnings(action="ignore"):  # about old pickle protocols
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = "not a file of plain tensors (another format, or it holds code)"
        raise InputError(f"{path}: refused: {reason}; use a file written by main.py") from error
    except Exception as error:  # torch raises a dozen kinds on damaged bytes
        raise InputError(f"{path}: not a readable checkpoint ({_first_line(error)}); is it cut short?") from error
    if isinstance(checkpoint, dict) and checkpoint and all(isinstance(v, torch.Tensor) for v in checkpoint.values()):
        checkpoint = {"state_dict": checkpoint}
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), dict):
        raise InputError(f"{path}: holds no 'state_dict'; use a file written by main.py")
    if not isinstance(checkpoint.get("arch"), str | None) or not all(isinstance(key, str) for key in checkpoint["state_dict"]):
        raise InputError(f"{path}: its network or its weights have names that are no text; use a file written by main.py")
    state = {_plain_key(key): value for key, value in checkpoint["state_dict"].items()}
    check_weights(state, path)
    try:
        state = {key: dequantize(value) if isinstance(value, dict) else value for key, value in state.items()}
    except (KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        raise InputError(f"{path}: holds a weight in 8 bits that can't be read ({_first_line(error)})") from error
    return {**checkpoint, "state_dict": state, "best_acc": number(checkpoint.get("best_acc", checkpoint.get("acc")))}


def _plain_key(key: str) -> str:
    """Return a state dict's key without what DistributedDataParallel and torch.compile put before it."""
    while key.startswith(WRAPPERS):
        key = key.partition(".")[2]
    return key


def check_weights(state: Mapping, what: str | Path) -> None:
    """Raise InputError if a tensor of a state dict can't be a weight: not dense, without values, quantized, complex, NaN or infinite.

    Neither can one of a dict in it (util.binop.quantize). What is no tensor passes. `what` begins the message.
    """
    parts = {f"{key}.{part}": x for key, value in state.items() if isinstance(value, dict) for part, x in value.items()}
    for key, value in {**state, **parts}.items():
        if not isinstance(value, torch.Tensor):
            continue
        if value.layout != torch.strided or value.is_meta or value.is_quantized or value.is_complex():
            kind = "quantized" if value.is_quantized else "without values" if value.is_meta else f"{value.layout}, {value.dtype}"
            raise InputError(f"{what}: {key} is {kind.replace('torch.', '')}; expected plain dense numbers")
        if value.nbytes > max(MAX_EXPANDED, value.untyped_storage().nbytes()):
            raise InputError(f"{what}: {key} is {tuple(value.shape)}, but holds fewer numbers; expected plain dense numbers")
        if value.is_floating_point() and not value.isfinite().all():
            raise InputError(f"{what}: {key} holds NaN or infinite numbers; use weights of an earlier epoch")


def number(value) -> float:
    """Return a score as a float, NaN if it is none: a score never keeps good weights from being read."""
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        return math.nan


def compact(state: Mapping[str, torch.Tensor], model: nn.Module) -> dict:
    """Return a state dict of `model` in which, if it would take more than LARGEST bytes, latent weights have 8 bits each (quantize)."""
    if sum(value.nbytes for value in state.values()) <= LARGEST:
        return dict(state)
    return {**state, **{name: quantize(state[name]) for name in latent_names(model)}}


def load_tensors(path: str | Path) -> dict[str, torch.Tensor]:
    """Return the named tensors in the safetensors file at `path`; raises InputError if it is missing or damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a readable file of tensors ({_first_line(error)})") from error


def load_into(model: nn.Module, path: str | Path, arch: str) -> dict:
    """Return the checkpoint at `path`, its weights copied into `model`; raises InputError if they are not of `arch`."""
    checkpoint = load(path)
    fill(model, checkpoint, path, arch)
    return checkpoint


def fill(model: nn.Module, checkpoint: dict, path: str | Path, arch: str, *also: str) -> None:
    """Copy the weights of the checkpoint that was read from `path` into `model`; raises InputError if they are of none of these archs."""
    found = checkpoint.get("arch")
    if found is not None and found not in (arch, *also):
        raise InputError(f"{path}: holds {found}, expected {arch}; choose it with --arch or give another file")
    state, expected = checkpoint["state_dict"], model.state_dict()
    for key in sorted(expected.keys() | state.keys()):
        if key.endswith("num_batches_tracked") and key not in state:  # files older than torch 0.4.1
            state[key] = expected[key]
        if key not in state or key not in expected:
            where = "missing from" if key not in state else "unknown to this network but in"
            raise InputError(f"{path}: not a checkpoint of {arch}: {key} is {where} the file")
        if not isinstance(state[key], torch.Tensor) or state[key].shape != expected[key].shape:
            shape = tuple(getattr(state[key], "shape", ()))
            raise InputError(f"{path}: not a checkpoint of {arch}: {key} is {shape}, expected {tuple(expected[key].shape)}")
    model.load_state_dict(state)


def start_from(model: nn.Module, path: str | Path, spec: Spec, known: Mapping[str, Sequence[str]]) -> str | None:
    """Put the weights at `path` into `model`, whose network is `spec`; return the arch that the file holds, None if it doesn't say.

    The head (the last layer) keeps the rows of classes that both have, by name; those of others begin with small random weights, and a
    line says so. known: arch -> classes of its files that tell none. Raises InputError if the file holds none of these archs.
    """
    saved = load(path)
    found = saved.get("arch")
    classes = list(known.get(found, known[spec.arch]))
    if "spec" in saved:
        classes = list(_spec(saved, path).classes)
    kept = None
    if classes != list(spec.classes):
        state, fresh = saved["state_dict"], model.state_dict()
        head = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)][-1]
        pairs = [(i, classes.index(name)) for i, name in enumerate(spec.classes) if name in classes]
        for key in (key for key in (f"{head}.weight", f"{head}.bias") if key in fresh):
            if not isinstance(state.get(key), torch.Tensor) or state[key].shape != (len(classes), *fresh[key].shape[1:]):
                break  # `fill` says what is wrong
            rows = 0.2 * fresh[key].cpu()
            for ours, theirs in pairs:
                rows[ours] = state[key][theirs]
            state[key] = rows
        new = [name for name in spec.classes if name not in classes]
        kept = f"head new for {' '.join(new)}" if new else "head kept for fewer classes, or in another order"
    fill(model, saved, path, spec.arch, *known)
    if kept:
        print(f"{path}: body kept; {kept}", flush=True)
    return found


def spec_of(checkpoint: dict, path: str | Path, default: Spec) -> Spec:
    """Return what the checkpoint of `path` says of its network, or `default`, the script's, for a file that says nothing.

    Raises InputError if it isn't readable or if another kind of network is meant than `default`'s; its classes may be others.
    """
    if "spec" not in checkpoint:
        return default
    spec = _spec(checkpoint, path)
    if (spec.arch, spec.shape) != (default.arch, default.shape):
        found, expected = (f"{s.arch} for images {s.shape}" for s in (spec, default))
        raise InputError(f"{path}: tells of {found}; expected {expected}")
    return spec


def _spec(checkpoint: dict, path: str | Path) -> Spec:
    try:
        return Spec.from_dict(checkpoint["spec"])
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
