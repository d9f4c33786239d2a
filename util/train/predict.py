"""What predicts for a script: PyTorch, or the same network packed (see util.spec.Network)."""
import math
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from util import packed
from util.binop import BinOp
from util.errors import InputError
from util.packed.freeze import NotAChainError, freeze, freeze_layers
from util.packed.onnx import export
from util.spec import Network, Spec
from util.train import checkpoint, data


class TorchNetwork:
    """A copy of a PyTorch model with binarized weights: uint8 (N, C, H, W) -> float32 logits (N, classes), on the model's device."""

    def __init__(self, model: nn.Module, spec: Spec):
        self.spec, self.model = spec, _binarized(model)
        self.device = next(model.parameters()).device

    @torch.inference_mode()
    def __call__(self, images: np.ndarray) -> np.ndarray:
        x = data.normalize(torch.from_numpy(images).to(self.device), self.spec.mean, self.spec.std)
        return self.model(x.contiguous(memory_format=torch.channels_last)).float().cpu().numpy()


def frozen(model: nn.Module) -> nn.Module:
    """Return a copy of a model with latent weights that computes with signs, floats in and out; on a CPU its layers are packed."""
    if packed.built() and next(model.parameters()).device.type == "cpu":
        return freeze_layers(model, threads=torch.get_num_threads())
    return _binarized(model)


def _binarized(model: nn.Module) -> nn.Module:
    copy = deepcopy(model).eval()
    BinOp(copy).binarization()
    return copy


def load_network(args, build: Callable[..., nn.Module], spec: Spec, weights: Path) -> Network:
    """Return what predicts for `args` (see util.cli): a model with the weights of --pretrained or `weights`, or its packed form.

    build: makes the model, for so many `classes`, where it will run. --engine auto packs what has 1-bit activations, on the CPU.
    --export FILE writes the packed network too, or ONNX. What the file says of the network goes before `spec`, which is the script's.
    Raises InputError for weights that don't fit, for a model that can't be packed, and for --engine xnor where it isn't built.
    """
    path = args.pretrained or weights
    onnx = args.export is not None and args.export.suffix.lower() == ".onnx"
    if packed.is_packed(path):
        if onnx:
            raise InputError(f"{path}: is a packed network, of which ONNX can't be made; give the checkpoint it was made of")
        if args.engine == "torch":
            raise InputError(f"{path}: is a packed network, which PyTorch can't run; give the checkpoint it was made of, or --engine xnor")
        network = packed.load(path, spec, threads=torch.get_num_threads())
    else:
        saved = checkpoint.load(path)
        if args.export and args.export.exists() and args.export.samefile(path):
            raise InputError(f"{path}: is exported, and no training goes on from a packed network; give --export another name")
        spec = checkpoint.spec_of(saved, path, spec)
        model = build(classes=len(spec.classes))
        checkpoint.fill(model, saved, path, spec.arch)
        if onnx:
            return _export_onnx(model, spec, args.export)
        try:
            with np.errstate(all="ignore"):  # such as a variance below zero
                network = _choose(args, model, spec)
        except ValueError as error:  # weights that are finite, but whose thresholds are not
            raise InputError(f"{path}: can't be packed: {error}; use other weights, or --engine torch") from error
    if args.export:
        if not isinstance(network, packed.PackedNetwork):
            raise InputError(f"{spec.arch} can't be packed as a whole, so there is nothing to write to {args.export}")
        print(f"written: {args.export} ({packed.save(network, args.export)} bytes)")
    return network


def _export_onnx(model: nn.Module, spec: Spec, path: Path) -> Network:
    try:
        print(f"written: {path} ({export(model, spec, path)} bytes)")
    except NotAChainError as error:
        raise InputError(f"{path}: {spec.arch} can't be written as ONNX ({error})") from error
    return TorchNetwork(model, spec)


def _choose(args, model: nn.Module, spec: Spec) -> Network:
    has_bits = any(getattr(module, "estimator", "none") != "none" for module in model.modules())
    pays = has_bits and packed.built() and next(model.parameters()).device.type == "cpu"
    if not args.export and (args.engine == "torch" or args.engine == "auto" and not pays):
        return TorchNetwork(model, spec)
    try:
        return freeze(model, spec, threads=torch.get_num_threads())
    except NotAChainError:
        return TorchNetwork(freeze_layers(model, threads=torch.get_num_threads()), spec)


def evaluate(model: nn.Module, spec: Spec, images: torch.Tensor, labels: torch.Tensor, classes: int | None = None) -> float:
    """Return the `accuracy` of a model with latent weights, which stays as it is."""
    return accuracy(TorchNetwork(model, spec), images, labels, classes)


def accuracy(network: Network, images: torch.Tensor, labels: torch.Tensor, classes: int | None = None) -> float:
    """Return the share of uint8 images (N, C, H, W) that get the right one of `labels` (N,), in [0, 1], of the first `classes` or all."""
    batches = zip(images.split(250), labels.split(250), strict=True)
    bar = tqdm(batches, "evaluating", math.ceil(len(images) / 250), unit="batch", leave=False, disable=None)
    return sum(int((network(x.numpy())[:, :classes].argmax(1) == y.numpy()).sum()) for x, y in bar) / len(images)
