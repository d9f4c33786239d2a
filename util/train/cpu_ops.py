"""Layers that a training step compiled for a CPU computes faster than torch.compile's own: `accelerate` puts them into a model.

Batch norm and max pooling give torch's numbers. Two further changes are asked for one by one: `popcount_forward` (exact sums, rounded
once) and `int8_gradients` (stochastic rounding). docs/experiments-training.md says what each one saves.
"""
import contextlib
import ctypes
from functools import cache

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from util.errors import InputError
from util.layers import BinConv2d, PositiveBatchNorm2d, next_momentum

try:
    from util.packed import _xnor
except ImportError:  # not built: no popcount forward
    _xnor = None

SMALL_MAP = 16  # pixels: up to there one product of matrices is faster than oneDNN's weight gradient
LARGE_FILTER = 1000  # weights: from there on products of bytes save more than rounding a gradient and unfolding maps cost
UNFOLDED = 2**23  # bytes of maps that are unfolded at a time: what a processor's caches hold
TINY = torch.finfo(torch.float32).tiny


def cpu_has(feature: str) -> bool:
    """Return whether torch says that this processor has `feature`, such as "amx_tile" or "avx512_bf16"."""
    return getattr(torch.cpu, f"_is_{feature}_supported", bool)()  # not public, so any torch may be without it


@cache
def _openmp() -> int:
    """Return the address of GOMP_parallel, which runs what it is given on torch's own threads, or 0 where there is none."""
    with contextlib.suppress(OSError, TypeError, AttributeError):
        return ctypes.cast(ctypes.CDLL(None).GOMP_parallel, ctypes.c_void_p).value
    return 0


# ---- The layers ------------------------------------------------------------------------------------------------------
def accelerate(model: nn.Module, popcount_forward: bool = False, int8_gradients: bool = False) -> nn.Module:
    """Return `model`, in place made of the faster layers below: batch norms, max poolings and binarized convolutions.

    Parameters, buffers and the state dict's keys stay, and evaluation is torch's own. For a model that is compiled for a CPU next;
    not compiled, most of these layers are slower than torch's.
    popcount_forward: convolutions of signs count bits instead of multiplying. int8_gradients: the gradients of binarized convolutions
    whose filters have LARGE_FILTER weights or more are products of 8-bit integers, after stochastic rounding.
    Raises InputError if popcount_forward is asked for and the native part is not built.
    """
    if popcount_forward and _xnor is None:
        raise InputError("--popcount-forward needs the native part; build it with: make native")
    for module in model.modules():
        module.__class__ = FASTER.get(type(module), type(module))
        if isinstance(module, FastBinConv2d):
            module.popcount, module.int8 = popcount_forward, int8_gradients
    return model


class RowBatchNorm2d(nn.BatchNorm2d):
    """torch's batch norm; where gradients are needed, by BatchNormRows."""

    def effective_weight(self) -> torch.Tensor:
        return torch.ones_like(self.running_mean) if self.weight is None else self.weight

    def forward(self, x):
        if not (self.training or torch.is_grad_enabled()):
            return super().forward(x)
        bias = torch.zeros_like(self.running_mean) if self.bias is None else self.bias
        frozen = None if self.training else (self.running_mean.clone(), self.running_var.clone())
        y, mean, var = BatchNormRows.apply(x, self.effective_weight(), bias, self.eps, frozen)
        if self.training:
            momentum, count = next_momentum(self), x.numel() / x.shape[1]
            with torch.no_grad():
                self.running_mean.lerp_(mean, momentum)
                self.running_var.lerp_(var * (count / (count - 1)), momentum)
        return y


class RowPositiveBatchNorm2d(RowBatchNorm2d, PositiveBatchNorm2d):
    """util.layers.PositiveBatchNorm2d; where gradients are needed, by BatchNormRows."""

    effective_weight = PositiveBatchNorm2d.effective_weight


class OpaqueMaxPool2d(nn.MaxPool2d):
    """torch's max pooling, which torch.compile leaves alone in training: ten times as fast as the code that it would write."""

    def forward(self, x):
        window = self.kernel_size, self.stride, self.padding
        if not self.training or not all(isinstance(n, int) for n in window) or self.dilation != 1 or self.ceil_mode:
            return super().forward(x)
        return max_pool(x, *window)[0]


class FastBinConv2d(BinConv2d):
    """A BinConv2d whose convolution is BinaryConv where that is faster, or asked for."""

    popcount = int8 = False

    def convolve(self, x):
        conv, stride, padding = self.conv, self.conv.stride[0], self.conv.padding[0]
        signs = self.estimator != "none" and not self.dropout and not self.annealing
        popcount, int8 = self.popcount and signs, self.int8 and signs and is_large(conv.weight, stride)
        if self.training and (popcount or int8 or is_small(x, conv.weight, stride, padding)):
            return BinaryConv.apply(x, conv.weight, conv.bias, stride, padding, popcount, int8)
        return super().convolve(x)


FASTER = {
    nn.BatchNorm2d: RowBatchNorm2d, PositiveBatchNorm2d: RowPositiveBatchNorm2d, nn.MaxPool2d: OpaqueMaxPool2d, BinConv2d: FastBinConv2d,
}  # fmt: skip


# ---- Batch norm ------------------------------------------------------------------------------------------------------
class BatchNormRows(torch.autograd.Function):
    """Batch norm that sums image by image: (x, weight, bias, eps, frozen) -> (y, mean, var), x (N, C, H, W), the others (C,).

    frozen: None, or the statistics (mean, var) to use instead of those of x, as constants.
    The same numbers as torch's (var is the biased one), but what torch.compile makes of it walks through memory in order:
    five times faster on a CPU than its code for torch's own batch norm of channels-last images.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, eps, frozen):
        values, ctx.frozen = x.float(), frozen is not None
        mean = frozen[0] if ctx.frozen else _sum_per_channel(values) / (x.numel() / x.shape[1])
        centred = values - _per_channel(mean)
        var = frozen[1] if ctx.frozen else _sum_per_channel(centred * centred) / (x.numel() / x.shape[1])
        scale = (var + eps).rsqrt()
        ctx.save_for_backward(x, weight, mean, scale)
        ctx.mark_non_differentiable(mean, var)
        return (centred * _per_channel(scale * weight) + _per_channel(bias)).to(x.dtype), mean, var

    @staticmethod
    def backward(ctx, grad, *_):
        x, weight, mean, scale = ctx.saved_tensors
        count, normed, upstream = x.numel() / x.shape[1], (x.float() - _per_channel(mean)) * _per_channel(scale), grad.float()
        of_bias, of_weight = _sum_per_channel(upstream), _sum_per_channel(upstream * normed)
        inner = upstream if ctx.frozen else upstream - _per_channel(of_bias / count) - normed * _per_channel(of_weight / count)
        return (inner * _per_channel(scale * weight)).to(x.dtype), of_weight, of_bias, None, None


def _sum_per_channel(x):
    return x.permute(0, 2, 3, 1).flatten(0, 1).sum(1).sum(0)


def _per_channel(values):
    return values.view(1, -1, 1, 1)


# ---- Max pooling -----------------------------------------------------------------------------------------------------
@torch.library.custom_op("xnor::max_pool", mutates_args=())
def max_pool(x: torch.Tensor, kernel: int, stride: int, padding: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return torch's own max pooling and its indices, which torch.compile leaves alone: ten times as fast as what it writes."""
    return torch.ops.aten.max_pool2d_with_indices(x, [kernel] * 2, [stride] * 2, [padding] * 2)


@torch.library.custom_op("xnor::max_pool_backward", mutates_args=())
def _max_pool_backward(
    grad: torch.Tensor, x: torch.Tensor, indices: torch.Tensor, kernel: int, stride: int, padding: int
) -> torch.Tensor:
    window = [kernel] * 2, [stride] * 2, [padding] * 2, [1, 1], False
    return torch.ops.aten.max_pool2d_with_indices_backward(grad.contiguous(memory_format=torch.channels_last), x, *window, indices)


def _max_pool_context(ctx, inputs, output):
    x, *ctx.window = inputs
    ctx.save_for_backward(x, output[1])
    ctx.mark_non_differentiable(output[1])


def _max_pool_gradient(ctx, grad, _):
    return _max_pool_backward(grad, *ctx.saved_tensors, *ctx.window), None, None, None


max_pool.register_fake(lambda x, *window: torch.ops.aten.max_pool2d_with_indices(x, *([length] * 2 for length in window)))
_max_pool_backward.register_fake(lambda grad, x, *_: torch.empty_like(x))
max_pool.register_autograd(_max_pool_gradient, setup_context=_max_pool_context)


# ---- Convolution of signs --------------------------------------------------------------------------------------------
@torch.library.custom_op("xnor::binary_conv", mutates_args=())
def _binary_conv(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, stride: int, padding: int) -> torch.Tensor:
    y = _result(x, weight, bias, stride, padding)
    bits, result = (_pixels(t.contiguous(memory_format=torch.channels_last)) for t in (x.to(torch.bfloat16), y))
    negative, scale = (weight < 0).view(torch.uint8).contiguous(), weight.flatten(1)[:, 0].abs()
    threads = {"threads": torch.get_num_threads(), "gomp": _openmp()}
    _xnor.binary_conv(bits, negative.numpy(), scale.numpy(), bias.float().numpy(), stride, padding, result, **threads)
    return y


@_binary_conv.register_fake
def _result(x, weight, bias, stride, padding):
    height, width = ((n + 2 * padding - k) // stride + 1 for n, k in zip(x.shape[2:], weight.shape[2:], strict=True))
    return torch.empty(len(x), len(weight), height, width, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def _pixels(x):
    """Return the memory of channels-last maps as an array (N, H, W, C): numpy knows no bfloat16."""
    x = x.permute(0, 2, 3, 1)
    return x.view(torch.int16).numpy().view(np.uint16) if x.dtype == torch.bfloat16 else x.numpy()


class BinaryConv(torch.autograd.Function):
    """F.conv2d with binarized weights: (x, weight, bias, stride, padding, popcount, int8) -> y; each filter of weight is +-alpha.

    popcount, of x +-1: bits are counted forward. Sums are exact; alpha times a sum + bias is rounded once, to x's dtype.
    int8, of x +-1: both gradients are products of 8-bit integers (_int8_gradients). Without it the weight gradient of a layer on small
    maps is one product of matrices: oneDNN's takes up to eight times as long.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, stride, padding, popcount, int8):
        ctx.stride, ctx.padding, ctx.int8 = stride, padding, int8
        ctx.save_for_backward(x.to(torch.int8) if int8 else x, weight)
        return _binary_conv(x, weight, bias, stride, padding) if popcount else F.conv2d(x, weight, bias, stride, padding)

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        if ctx.int8:
            return *_int8_gradients(x, weight, grad, ctx.padding), None, None, None, None
        grad, small = grad.to(x.dtype), is_small(x, weight, ctx.stride, ctx.padding)
        same = [len(weight)], [ctx.stride] * 2, [ctx.padding] * 2, [1, 1], False, [0, 0], 1
        of_x, of_weight, of_bias = torch.ops.aten.convolution_backward(grad, x, weight.to(x.dtype), *same, [True, not small, not small])
        if small:
            of_weight, of_bias = _small_map_gradients(x, grad)
        return of_x, of_weight.to(weight.dtype), of_bias.to(weight.dtype), None, None, None, None


def is_small(x: torch.Tensor, weight: torch.Tensor, stride: int, padding: int) -> bool:
    """Return whether BinaryConv does without oneDNN's weight gradient: a 3x3 convolution, padded by 1, of maps of a few pixels."""
    return x.shape[2] * x.shape[3] <= SMALL_MAP and tuple(weight.shape[2:]) == (3, 3) and (stride, padding) == (1, 1)


def is_large(weight: torch.Tensor, stride: int) -> bool:
    """Return whether BinaryConv's gradients may be products of bytes: large filters, and more than one (torch._int_mm fails on one row)."""
    return weight[0].numel() >= LARGE_FILTER and len(weight) > 1 and stride == 1


def _small_map_gradients(x, grad):
    (_, channels, height, width), outputs = x.shape, grad.shape[1]
    around = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))  # pixel by pixel, what each of the nine weights saw
    seen = torch.stack([around[:, i : i + height, j : j + width] for i in range(3) for j in range(3)], 3).flatten(0, 2).flatten(1)
    pixels = grad.permute(0, 2, 3, 1).reshape(-1, outputs)
    of_bias = pixels.sum(0, dtype=torch.promote_types(grad.dtype, torch.float32))
    return (pixels.t() @ seen).view(outputs, 3, 3, channels).permute(0, 3, 1, 2), of_bias


# ---- Gradients in 8 bits --------------------------------------------------------------------------------------------
def _int8_gradients(x, weight, grad, padding):
    """Return what convolution_backward does, for x int8 (N, C, H, W) of +-1, weight +-alpha and the gradient of the result.

    One factor of each product is +-1; the other, g = alpha grad, is rounded to q s, q = floor(g / s + u), s = max |g| / 127. The
    numbers u in [0, 1) differ from place to place, so that q s is g on average, and small gradients are not lost (stochastic rounding).
    """
    alpha = weight.flatten(1)[:, 0].abs().clamp(min=TINY)
    scaled = grad.float() * _per_channel(alpha)
    step = (scaled.abs().amax() / 127).clamp(min=TINY)
    chance = (scaled.abs().mean() / step * 1000).frac()  # without it, the same places are rounded up in every step, and weights drift
    levels = torch.floor(scaled / step + _dither(scaled.shape, chance)).clamp(max=127).to(torch.int8)
    of_x, sums = _int8_products(x, weight, levels, step, padding, grad.dtype)
    of_weight = sums * (step / alpha).view(-1, 1, 1, 1)
    return of_x, of_weight.to(weight.dtype), grad.sum((0, 2, 3), dtype=torch.float32).to(weight.dtype)


def _dither(shape, start):
    """Return numbers in [0, 1) spread evenly over the places of a 4-D tensor; `start`, a tensor of one number, sets where they begin."""
    steps = 0.85667488, 0.73389186, 0.62870672, 0.53859726  # 1 / p ... 1 / p^4, p^5 = p + 1: the golden ratio's kin in four dimensions
    for axis, (n, step) in enumerate(zip(shape, steps, strict=True)):
        start = start + (torch.arange(n, device=start.device) * step).view([-1 if i == axis else 1 for i in range(4)])
    return start.frac()


@torch.library.custom_op("xnor::int8_products", mutates_args=())
def _int8_products(
    x: torch.Tensor, weight: torch.Tensor, levels: torch.Tensor, step: torch.Tensor, padding: int, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    outputs, inputs, size, _ = weight.shape
    of_x, of_weight = _both(x, weight, levels, step, padding, dtype)
    towards = (1 - 2 * (weight < 0).to(torch.int8)).flip(2, 3).permute(2, 3, 0, 1).reshape(-1, inputs)
    x, levels, results = (t.permute(0, 2, 3, 1).contiguous() for t in (x, levels, of_x))
    sums = of_weight.permute(0, 2, 3, 1).view(outputs, -1)
    some = max(1, UNFOLDED // (levels[0].numel() * size * size))
    for part, result in zip(levels.split(some), results.split(some), strict=True):
        product = torch._int_mm(_unfolded(part, size, size - 1 - padding), towards)
        torch.mul(product.view(result.shape), step, out=result)
    some = max(1, UNFOLDED // (x[0].numel() * size * size))
    for part, seen in zip(levels.split(some), x.split(some), strict=True):
        sums += torch._int_mm(part.reshape(-1, outputs).t(), _unfolded(seen, size, padding))
    return results.permute(0, 3, 1, 2), of_weight


@_int8_products.register_fake
def _both(x, weight, levels, step, padding, dtype):
    like = {"device": x.device, "memory_format": torch.channels_last}
    return torch.empty(x.shape, dtype=dtype, **like), torch.empty(weight.shape, dtype=torch.int32, **like).zero_()


def _unfolded(x, size, padding):
    """Return, for each of the pixels that a convolution makes, all that it saw: (N H' W', size size C) from x (N, H, W, C)."""
    x = F.pad(x, (0, 0, padding, padding, padding, padding))
    (count, height, width, channels), (image, row, column, _) = x.shape, x.stride()
    shape = count, height - size + 1, width - size + 1, size, size, channels
    return x.as_strided(shape, (image, row, column, row, column, 1)).reshape(-1, size * size * channels)
