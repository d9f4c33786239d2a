"""What a trained PyTorch model is made of: its layers in order, and each as plain pieces."""
import math
import operator
from dataclasses import dataclass

import numpy as np
import torch
from torch import fx, nn

from util.binop import centre_and_clamp
from util.layers import MIN_BN_WEIGHT, BinConv2d, BinLinear, PositiveBatchNorm2d
from util.packed.run import Shape


class NotAChainError(ValueError):
    """The model is more than a chain of known layers with shortcuts past some of them."""


@dataclass
class Affine:
    scale: np.ndarray  # float64, per channel
    shift: np.ndarray


@dataclass
class Rectifier:
    """x below zero times slope: 0 for a ReLU, learned for a PReLU, per channel or one for all."""

    slope: np.ndarray


@dataclass
class Pool:
    kind: str  # "max" or "average"
    size: int
    stride: int
    padding: int


@dataclass
class Convolution:
    """A convolution (a linear layer is one as large as its map): float weights, or signs if `binary`."""

    weight: np.ndarray  # float64 (outputs, channels, height, width); +-1 if binary
    stride: int
    padding: int
    binary: bool


@dataclass
class Shortcut:
    """Adds what was there after `source` layers, averaged over size x size pixels, its channels repeated as often as they fit."""

    source: int
    size: int


LEAVES = (nn.Conv2d, nn.Linear, nn.BatchNorm2d, nn.ReLU, nn.PReLU, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d,
          nn.Flatten, nn.Dropout, nn.Identity, BinConv2d, BinLinear)  # fmt: skip


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module, name):
        return isinstance(module, LEAVES)


def chain(model: nn.Module) -> list[nn.Module | Shortcut]:
    """Return the model's layers and the shortcuts between them in the order of its forward pass; raises NotAChainError for any other."""
    try:
        graph = _Tracer().trace(model)
    except Exception as error:  # forward passes that depend on data raise many kinds
        raise NotAChainError(f"{type(model).__name__}'s forward pass can't be traced: {error}") from error
    modules, layers, known = dict(model.named_modules()), [], {}

    def refuse(node):
        raise NotAChainError(f"{type(model).__name__} is no chain of layers with shortcuts that can be packed: see {node}")

    def walk(node):  # adds the layers up to this node
        if node in known:
            refuse(node)  # two ways lead on from it, and neither is a shortcut
        if node.op == "call_function" and node.target in (operator.add, torch.add) and len(node.all_input_nodes) == 2 and not node.kwargs:
            for way, past in (node.args, node.args[::-1]):
                source, size = _past(past, modules)
                if source is not way and source in _ancestors(way):
                    walk(way)
                    layers.append(Shortcut(known[source], size))
                    break
            else:
                refuse(node)
        elif node.op != "placeholder":
            if len(node.all_input_nodes) != 1:
                refuse(node)
            walk(node.all_input_nodes[0])
            if node.op == "call_module":
                layers.append(modules[node.target])
            elif node.op != "output" and node.target not in (torch.flatten, "flatten"):
                refuse(node)
        known[node] = len(layers)

    walk(next(node for node in graph.nodes if node.op == "output"))
    return layers


def _past(node: fx.Node, modules: dict[str, nn.Module]) -> tuple[fx.Node, int]:
    """Return where a shortcut that ends at `node` comes from, and over how many pixels it averages on the way."""
    size = 1
    while True:
        module = modules.get(node.target) if node.op == "call_module" else None
        if isinstance(module, nn.AvgPool2d) and size == 1 and module.padding == 0 and not module.ceil_mode \
                and module.stride == module.kernel_size and not module.divisor_override:  # fmt: skip
            size = _single(module, "kernel_size")
        elif not (isinstance(module, nn.Identity) or node.target is torch.cat and node.args[1:] == (1,) and len(node.all_input_nodes) == 1):
            return node, size
        node = node.all_input_nodes[0]


def _ancestors(node: fx.Node) -> set[fx.Node]:
    found, waiting = set(), [node]
    while waiting:
        if (before := waiting.pop()) not in found:  # each shortcut is another way to all that comes before it
            found.add(before)
            waiting += before.all_input_nodes
    return found


def _numpy(tensor: torch.Tensor | None, n: int = 0) -> np.ndarray:
    return np.zeros(n) if tensor is None else tensor.detach().cpu().double().contiguous().numpy()  # weights may be channels_last


def _batch_norm(norm: nn.BatchNorm2d) -> Affine:
    weight = np.ones(norm.num_features) if norm.weight is None else _numpy(norm.weight)
    if isinstance(norm, PositiveBatchNorm2d):
        weight = np.maximum(weight, MIN_BN_WEIGHT)
    scale = weight / np.sqrt(_numpy(norm.running_var) + norm.eps)
    return Affine(scale, _numpy(norm.bias, norm.num_features) - _numpy(norm.running_mean) * scale)


def _single(layer: nn.Module, name: str) -> int:
    value = getattr(layer, name)
    if isinstance(value, tuple):
        if len(set(value)) != 1:
            raise NotAChainError(f"{layer}: {name} differs between the axes")
        value = value[0]
    return value


def pieces_of(layer: nn.Module, shape: Shape) -> list:
    """Return the layer as pieces (Convolution, Affine, Rectifier, Pool) in their order, for an input of `shape`.

    Raises NotAChainError for a layer that can't be packed.
    """
    if isinstance(layer, BinConv2d | BinLinear):
        inner = layer.conv if isinstance(layer, BinConv2d) else layer.linear
        latent = centre_and_clamp(layer.latent_weight.detach().contiguous())  # sums round by the order in memory
        alpha = _numpy(latent.abs().flatten(1).mean(1))
        convolution = _convolution(inner, torch.where(latent < 0, -1.0, 1.0), shape, binary=layer.estimator != "none")
        after = pieces_of(layer.activation, shape) if isinstance(layer, BinConv2d) else [Rectifier(np.zeros(1))]
        return [_batch_norm(layer.bn), convolution, Affine(alpha, _numpy(inner.bias, len(alpha))), *after]
    if isinstance(layer, nn.Conv2d | nn.Linear):
        convolution = _convolution(layer, layer.weight, shape, binary=False)
        return [convolution, Affine(np.ones(len(convolution.weight)), _numpy(layer.bias, len(convolution.weight)))]
    if isinstance(layer, nn.BatchNorm2d):
        return [_batch_norm(layer)]
    if isinstance(layer, nn.ReLU):
        return [Rectifier(np.zeros(1))]
    if isinstance(layer, nn.PReLU):
        return [Rectifier(_numpy(layer.weight))]
    if isinstance(layer, nn.MaxPool2d | nn.AvgPool2d):
        if layer.ceil_mode or getattr(layer, "dilation", 1) != 1 or not getattr(layer, "count_include_pad", True) \
                or getattr(layer, "divisor_override", None):  # fmt: skip
            raise NotAChainError(f"{layer} can't be packed")
        kind = "max" if isinstance(layer, nn.MaxPool2d) else "average"
        return [Pool(kind, _single(layer, "kernel_size"), _single(layer, "stride"), _single(layer, "padding"))]
    if isinstance(layer, nn.AdaptiveAvgPool2d):
        if layer.output_size not in (1, (1, 1)) or shape[1] != shape[2]:
            raise NotAChainError(f"{layer} on a map of {shape[2]}x{shape[1]} can't be packed")
        return [Pool("average", shape[1], 1, 0)]
    if isinstance(layer, nn.Flatten | nn.Dropout | nn.Identity):
        return []
    raise NotAChainError(f"{layer} can't be packed")


def _convolution(layer: nn.Conv2d | nn.Linear, weight: torch.Tensor, shape: Shape, binary: bool) -> Convolution:
    if isinstance(layer, nn.Linear):
        if math.prod(shape) != layer.in_features:
            raise NotAChainError(f"{layer} does not fit a map of {shape}")
        return Convolution(_numpy(weight).reshape(-1, *shape), 1, 0, binary)
    if layer.groups != 1 or layer.padding_mode != "zeros" or _single(layer, "dilation") != 1 or isinstance(layer.padding, str):
        raise NotAChainError(f"{layer} can't be packed")
    return Convolution(_numpy(weight), _single(layer, "stride"), _single(layer, "padding"), binary)
