"""From a model's pieces to the steps of a packed network: what can be known before the first image comes.

Between two binarized layers only signs count. With s the integer sum of a binary convolution, alpha = mean |w|, and f the batch norms and
ReLUs that follow, the next layer sees sign(f(alpha s + bias)). Each piece of f is monotone in each channel, so f(alpha s + bias) < 0 is one
comparison, s < threshold or s > threshold; the second becomes the first with the filter's signs turned. A maximum is below a threshold
where all of its window are, above it where any is: max-pooling on bits. Averages and shortcuts need the numbers, so they stay floats.
"""
from itertools import pairwise

import numpy as np
from torch import nn

from util.packed.run import Shape, Step
from util.packed.trace import Affine, Convolution, Pool, Rectifier, Shortcut, pieces_of


def shape_after(piece, shape: Shape) -> Shape:
    """Return the shape of what a piece makes of a map of `shape`."""
    if isinstance(piece, Convolution):
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
        for piece in pieces_of(layer, at):
            pieces.append(piece)
            at = shape_after(piece, at)
    return steps + _fold_run(pieces, start)


def _fold_run(pieces: list, shape: Shape) -> list[Step]:
    """Return the steps of a run of pieces without a shortcut, from floats of `shape` to floats."""
    starts = [i for i, piece in enumerate(pieces) if isinstance(piece, Convolution)]
    segments = [(None, pieces[: starts[0]] if starts else pieces)]
    segments += [(pieces[i], pieces[i + 1 : j]) for i, j in pairwise([*starts, len(pieces)])]
    steps, channels = [], shape[0]
    for (convolution, after), following in zip(segments, [*(s[0] for s in segments[1:]), None], strict=True):
        channels = len(convolution.weight) if convolution else channels
        if following and following.binary:
            steps += _to_bits(convolution, after, channels)
        else:
            if following and following.padding == 0:
                after = _absorb(after, following)
            steps += _to_floats(convolution, after, channels)
    return steps


def _to_bits(convolution: Convolution | None, after: list, channels: int) -> list[Step]:
    """Return the steps from `convolution` (None: from floats) to the sign of what `after` makes of it.

    Walks back from "x < 0" to the condition on the convolution's sums, channel by channel: x < limit, or x > limit where `above`.
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
    if convolution is None or after:
        steps = _to_floats(convolution, after, channels)
        return [*steps, ("sign", {"scale": turn.astype(np.float32), "threshold": _float_above(limit)}), *pools]
    turned = convolution.weight * turn.reshape(-1, 1, 1, 1)
    window = {"stride": convolution.stride, "padding": convolution.padding}
    if convolution.binary:
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


def _absorb(after: list, following: Convolution) -> list:
    """Return `after` without the factors that `following`, a float layer without padding, can take into its weights.

    relu(a x + b) = a relu(x + b / a) for a > 0, and W (a x) = (W a) x.
    """
    if [type(piece) for piece in after] != [Affine, Rectifier] or not (after[0].scale > 0).all():
        return after
    scale, shift = after[0].scale, after[0].shift
    following.weight = following.weight * scale.reshape(1, -1, 1, 1)
    return [Affine(np.ones_like(scale), shift / scale), after[1]]


def _to_floats(convolution: Convolution | None, after: list, channels: int) -> list[Step]:
    """Return the steps from `convolution` (None: from floats) through `after`, all in floats."""
    after, steps = list(after), []
    if convolution:
        name = "binary_conv" if convolution.binary else "conv"
        weight = convolution.weight
        weights = {"negative": (weight < 0).astype(np.uint8)} if convolution.binary else {"weight": weight.astype(np.float32)}
        window = {"stride": convolution.stride, "padding": convolution.padding}
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
