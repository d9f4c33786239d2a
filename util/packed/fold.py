"""From a trained model to the steps of a packed network: what can be known before the first image comes.

Between two binarized layers only signs count. With s the integer sum of a binary convolution, alpha = mean |w|, and f the batch norms and
ReLUs that follow, the next layer sees sign(f(alpha s + bias)). Each piece of f is monotone in each channel, so f(alpha s + bias) < 0 is one
comparison, s < threshold or s > threshold; the second becomes the first with the filter's signs turned. A maximum is below a threshold
where all of its window are, above it where any is: max-pooling on bits. Averages and shortcuts need the numbers, so they stay floats.
"""

import math
import operator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import fx, nn

from util.binop import centre_and_clamp
from util.layers import MIN_BN_WEIGHT, BinConv2d, BinLinear, PositiveBatchNorm2d

Shape = tuple[int, int, int]  # channels, height, width
Step = tuple[str, dict]  # a method of _xnor.Network and its keywords


class NotAChainError(ValueError):
    """The model is more than a chain of known layers with shortcuts past some of them."""


# ---- What a model is made of -----------------------------------------------------------------------------------------
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
class Linear:
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
        waiting += (before := waiting.pop()).all_input_nodes
        found.add(before)
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


def _pieces(layer: nn.Module, shape: Shape) -> list:
    """Return the layer as Linear, Affine, Relu and Pool pieces, for an input of `shape`."""
    if isinstance(layer, BinConv2d | BinLinear):
        inner = layer.conv if isinstance(layer, BinConv2d) else layer.linear
        latent = centre_and_clamp(layer.latent_weight.detach())
        alpha = _numpy(latent.abs().flatten(1).mean(1))
        linear = _linear(inner, torch.where(latent < 0, -1.0, 1.0), shape, binary=layer.estimator != "none")
        after = _pieces(layer.activation, shape) if isinstance(layer, BinConv2d) else [Rectifier(np.zeros(1))]
        return [_batch_norm(layer.bn), linear, Affine(alpha, _numpy(inner.bias, len(alpha))), *after]
    if isinstance(layer, nn.Conv2d | nn.Linear):
        linear = _linear(layer, layer.weight, shape, binary=False)
        return [linear, Affine(np.ones(len(linear.weight)), _numpy(layer.bias, len(linear.weight)))]
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


def _linear(layer: nn.Conv2d | nn.Linear, weight: torch.Tensor, shape: Shape, binary: bool) -> Linear:
    if isinstance(layer, nn.Linear):
        if math.prod(shape) != layer.in_features:
            raise NotAChainError(f"{layer} does not fit a map of {shape}")
        return Linear(_numpy(weight).reshape(-1, *shape), 1, 0, binary)
    if layer.groups != 1 or layer.padding_mode != "zeros" or _single(layer, "dilation") != 1 or isinstance(layer.padding, str):
        raise NotAChainError(f"{layer} can't be packed")
    return Linear(_numpy(weight), _single(layer, "stride"), _single(layer, "padding"), binary)


# ---- Folding ---------------------------------------------------------------------------------------------------------
def _shape_after(piece, shape: Shape) -> Shape:
    if isinstance(piece, Linear):
        channels, size = len(piece.weight), piece.weight.shape[2:]
    elif isinstance(piece, Pool):
        channels, size = shape[0], (piece.size, piece.size)
    else:
        return shape
    height, width = ((n + 2 * piece.padding - k) // piece.stride + 1 for n, k in zip(shape[1:], size, strict=True))
    return channels, height, width


def fold(layers: list[nn.Module | Shortcut], shape: Shape) -> list[Step]:
    """Return the steps of a packed network: names of _xnor.Network's methods, each with its keywords."""
    sources = {layer.source for layer in layers if isinstance(layer, Shortcut)}
    steps, pieces, left_by = [], [], {0: 0}  # left_by: after so many layers, the map is what that step left
    at = start = shape
    for i, layer in enumerate(layers):
        if i in sources or isinstance(layer, Shortcut):
            steps += _fold_run(pieces, start)
            pieces, start, left_by[i] = [], at, len(steps)
        if isinstance(layer, Shortcut):
            steps.append(("add", {"map": left_by[layer.source], "size": layer.size}))
            continue
        for piece in _pieces(layer, at):
            pieces.append(piece)
            at = _shape_after(piece, at)
    return steps + _fold_run(pieces, start)


def _fold_run(pieces: list, shape: Shape) -> list[Step]:
    """Return the steps of a run of pieces without a shortcut, from floats of `shape` to floats."""
    starts = [i for i, piece in enumerate(pieces) if isinstance(piece, Linear)]
    segments = [(None, pieces[: starts[0]] if starts else pieces)]
    segments += [(pieces[i], pieces[i + 1 : j]) for i, j in pairwise([*starts, len(pieces)])]
    steps, channels = [], shape[0]
    for (linear, after), following in zip(segments, [*(s[0] for s in segments[1:]), None], strict=True):
        channels = len(linear.weight) if linear else channels
        if following and following.binary:
            steps += _to_bits(linear, after, channels)
        else:
            if following and following.padding == 0:
                after = _absorb(after, following)
            steps += _to_floats(linear, after, channels)
    return steps


def _to_bits(linear: Linear | None, after: list, channels: int) -> list[Step]:
    """Return the steps from `linear` (None: from floats) to the sign of what `after` makes of it.

    Walks back from "x < 0" to the condition on linear's sums, channel by channel: x < limit, or x > limit where `above`.
    """
    after = list(after)
    limit, above = np.zeros(channels), np.zeros(channels, bool)
    pools = []
    while after and _keeps_order(after[-1]):
        piece = after.pop()
        if isinstance(piece, Affine):
            with np.errstate(divide="ignore", invalid="ignore"):
                moved = (limit - piece.shift) / piece.scale
            always = np.where(above, piece.shift > limit, piece.shift < limit)  # where scale is 0
            constant = np.where(always == above, -np.inf, np.inf)
            limit = np.where(piece.scale == 0, constant, moved)
            above = above ^ (piece.scale < 0)
        elif isinstance(piece, Rectifier):
            with np.errstate(divide="ignore", invalid="ignore"):
                below_zero = np.where(piece.slope == 0, -np.inf, limit / piece.slope)  # the limit, where it lies there
            limit = np.where(np.where(above, limit < 0, limit <= 0), below_zero, limit)
        else:
            pools.insert(0, ("max_pool_bits", {"any": above.astype(np.uint8), **_window(piece)}))
    turn = np.where(above, -1.0, 1.0)
    limit = limit * turn
    if linear is None or after:
        steps = _to_floats(linear, after, channels)
        return [*steps, ("sign", {"scale": turn.astype(np.float32), "threshold": _float_above(limit)}), *pools]
    turned = linear.weight * turn.reshape(-1, 1, 1, 1)
    window = {"stride": linear.stride, "padding": linear.padding}
    if linear.binary:
        threshold = np.clip(np.ceil(limit), -(2**30), 2**30).astype(np.int32)
        return [("binary_conv_sign", {"negative": (turned < 0).astype(np.uint8), "threshold": threshold, **window}), *pools]
    return [("conv_sign", {"weight": turned.astype(np.float32), "threshold": _float_above(limit), **window}), *pools]


def _keeps_order(piece) -> bool:
    """Return whether a greater value never becomes the smaller one (or always does), so that its sign is one comparison."""
    return not (isinstance(piece, Pool) and piece.kind == "average" or isinstance(piece, Rectifier) and (piece.slope < 0).any())


def _float_above(x: np.ndarray) -> np.ndarray:
    """Return the least float32 >= x: a float is below it exactly if it is below x."""
    near = x.astype(np.float32)
    return np.where(near < x, np.nextafter(near, np.float32(np.inf)), near)


def _window(pool: Pool) -> dict:
    return {"size": pool.size, "stride": pool.stride, "padding": pool.padding}


def _absorb(after: list, following: Linear) -> list:
    """Return `after` without the factors that `following`, a float layer without padding, can take into its weights.

    relu(a x + b) = a relu(x + b / a) for a > 0, and W (a x) = (W a) x.
    """
    if [type(piece) for piece in after] != [Affine, Rectifier] or not (after[0].scale > 0).all():
        return after
    scale, shift = after[0].scale, after[0].shift
    following.weight = following.weight * scale.reshape(1, -1, 1, 1)
    return [Affine(np.ones_like(scale), shift / scale), after[1]]


def _to_floats(linear: Linear | None, after: list, channels: int) -> list[Step]:
    """Return the steps from `linear` (None: from floats) through `after`, all in floats."""
    after, steps = list(after), []
    if linear:
        name = "binary_conv" if linear.binary else "conv"
        weights = {"negative": (linear.weight < 0).astype(np.uint8)} if linear.binary else {"weight": linear.weight.astype(np.float32)}
        window = {"stride": linear.stride, "padding": linear.padding}
        steps.append((name, {**weights, **_affine(after, channels), **window}))
    while after:
        if isinstance(after[0], Pool):
            pool = after.pop(0)
            steps.append(("max_pool" if pool.kind == "max" else "average_pool", _window(pool)))
        elif isinstance(after[0], Rectifier) and after[0].slope.any():
            slope = np.broadcast_to(after.pop(0).slope, channels)
            steps.append(("prelu", {"slope": slope.astype(np.float32)}))
        else:
            steps.append(("affine", _affine(after, channels)))
    return steps


def _affine(after: list, channels: int) -> dict:
    """Return scale, shift and relu of one multiply-add, after taking from the front of `after` what goes into it."""
    scale, shift, relu = np.ones(channels), np.zeros(channels), False
    while after and not relu and not isinstance(after[0], Pool):
        if isinstance(after[0], Rectifier) and after[0].slope.any():
            break
        piece = after.pop(0)
        if isinstance(piece, Affine):
            scale, shift = scale * piece.scale, shift * piece.scale + piece.shift
        else:
            relu = True
    return {"scale": scale.astype(np.float32), "shift": shift.astype(np.float32), "relu": relu}
