"""Layers with 1-bit weights and activations (XNOR-Net: Rastegari et al. 2016, arXiv:1603.05279).

A block is batch norm -> sign -> convolution or linear -> ReLU or PReLU. The weights it stores are real numbers ("latent"); util.binop.BinOp
puts alpha * sign(w) in their place for the length of a forward and backward pass. Keys, shapes and numbers are those of XNOR-Net-PyTorch.
"""
import torch
from torch import nn
from torch.nn import functional as F

SMALL_MAP = 16  # pixels: up to there _SmallMapConv is the faster one
MIN_BN_WEIGHT = 0.01  # > 0, so that batch norm + sign is one comparison with one direction per channel


def sign(x: torch.Tensor) -> torch.Tensor:
    """Return +1 where x >= 0 (zero, minus zero and NaN count as +1) and -1 elsewhere; shape and dtype of x."""
    return torch.where(x < 0, -1.0, 1.0).to(x.dtype)


class BinActive(torch.autograd.Function):
    """sign(x) with a straight-through gradient: y' = 1 where |x| < 1, else 0 (Courbariaux et al. 2016, arXiv:1602.02830)."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return sign(x)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * (x.abs() < 1)


class BinActivePolynomial(BinActive):
    """sign(x) with the gradient of a piecewise quadratic: y' = max(0, 2 - 2|x|) (Bi-Real Net, Liu et al. 2018, arXiv:1808.00278)."""

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * (2 - 2 * x.abs()).clamp(min=0)


ESTIMATORS = {"clip": BinActive, "polynomial": BinActivePolynomial}  # or "none": activations stay floats (BWN)


def _in_compiled_step(module, x):
    """Return whether a training step is being compiled for the CPU: there some of what torch.compile would write is slow."""
    return module.training and torch.compiler.is_compiling() and x.device.type == "cpu"


class _BatchNormRows(torch.autograd.Function):
    """Batch norm in training whose sums go image by image: (x, weight, bias, eps) -> (y, mean, var), x (N, C, H, W), the others (C,).

    The same numbers as torch's (var is the biased one), but what torch.compile makes of it walks through memory in order:
    five times faster on a CPU than its code for torch's own batch norm of channels-last images.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, eps):
        values = x.float()
        mean = _sum_per_channel(values) / (x.numel() / x.shape[1])
        centred = values - _per_channel(mean)
        var = _sum_per_channel(centred * centred) / (x.numel() / x.shape[1])
        scale = (var + eps).rsqrt()
        ctx.save_for_backward(x, weight, mean, scale)
        ctx.mark_non_differentiable(mean, var)
        return (centred * _per_channel(scale * weight) + _per_channel(bias)).to(x.dtype), mean, var

    @staticmethod
    def backward(ctx, grad, *_):
        x, weight, mean, scale = ctx.saved_tensors
        count, normed, upstream = x.numel() / x.shape[1], (x.float() - _per_channel(mean)) * _per_channel(scale), grad.float()
        of_bias, of_weight = _sum_per_channel(upstream), _sum_per_channel(upstream * normed)
        inner = upstream - _per_channel(of_bias / count) - normed * _per_channel(of_weight / count)
        return (inner * _per_channel(scale * weight)).to(x.dtype), of_weight, of_bias, None


def _sum_per_channel(x):
    return x.permute(0, 2, 3, 1).flatten(0, 1).sum(1).sum(0)


def _per_channel(values):
    return values.view(1, -1, 1, 1)


class BatchNorm2d(nn.BatchNorm2d):
    """torch's batch norm, computed by rows where a training step is compiled for the CPU."""

    def forward(self, x):
        if _in_compiled_step(self, x):
            return self.by_rows(x)
        momentum = self._next_momentum() if self.training else 0.0
        return F.batch_norm(x, self.running_mean, self.running_var, self._weight(), self.bias, self.training, momentum, self.eps)

    def by_rows(self, x):
        """Return what forward does in training, by _BatchNormRows."""
        momentum, count = self._next_momentum(), x.numel() / x.shape[1]
        weight = torch.ones(self.num_features, device=x.device) if self.weight is None else self._weight()
        bias = torch.zeros(self.num_features, device=x.device) if self.bias is None else self.bias
        y, mean, var = _BatchNormRows.apply(x, weight, bias, self.eps)
        with torch.no_grad():
            self.running_mean.lerp_(mean, momentum)
            self.running_var.lerp_(var * (count / (count - 1)), momentum)
        return y

    def _next_momentum(self):
        self.num_batches_tracked.add_(1)
        return 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum

    def _weight(self):
        return self.weight


@torch.library.custom_op("xnor::max_pool", mutates_args=())
def _max_pool(x: torch.Tensor, kernel: int, stride: int, padding: int) -> tuple[torch.Tensor, torch.Tensor]:
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


_max_pool.register_fake(lambda x, *window: torch.ops.aten.max_pool2d_with_indices(x, *([length] * 2 for length in window)))
_max_pool_backward.register_fake(lambda grad, x, *_: torch.empty_like(x))
_max_pool.register_autograd(_max_pool_gradient, setup_context=_max_pool_context)


class MaxPool2d(nn.MaxPool2d):
    """torch's max pooling, which stays torch's where a training step is compiled for the CPU: ten times as fast as compiled."""

    def forward(self, x):
        if _in_compiled_step(self, x):
            return _max_pool(x, self.kernel_size, self.stride, self.padding)[0]
        return super().forward(x)


class _SmallMapConv(torch.autograd.Function):
    """A 3x3 convolution, padded by 1, whose weight gradient is one product of matrices: (x, weight, bias) -> y, as F.conv2d.

    On maps of a few pixels oneDNN's takes up to eight times as long.
    """

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, bias, padding=1)

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        (_, channels, height, width), outputs, grad = x.shape, len(weight), grad.to(x.dtype)
        same = [1, 1], [1, 1], [1, 1], False, [0, 0], 1
        of_x, *_ = torch.ops.aten.convolution_backward(grad, x, weight.to(x.dtype), [outputs], *same, [True, False, False])
        around = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))  # pixel by pixel, what each of the nine weights saw
        seen = torch.stack([around[:, i : i + height, j : j + width] for i in range(3) for j in range(3)], 3).flatten(0, 2).flatten(1)
        pixels = grad.permute(0, 2, 3, 1).reshape(-1, outputs)
        of_weight = (pixels.t() @ seen).view(outputs, 3, 3, channels).permute(0, 3, 1, 2)
        return of_x, of_weight.to(weight.dtype), pixels.float().sum(0)


class PositiveBatchNorm2d(BatchNorm2d):
    """Batch norm whose weight acts as max(weight, 0.01); the gradient passes through the maximum.

    XNOR-Net-PyTorch writes the maximum into the parameter in every forward pass, evaluation included; here forward
    changes nothing and BinOp writes it at the start of a training step, which gives the same numbers.
    """

    def _weight(self):
        return self.weight + (self.weight.clamp(min=MIN_BN_WEIGHT) - self.weight).detach()


class _BinBlock(nn.Module):
    def __init__(self, norm_channels: int, dropout: float, estimator: str):
        super().__init__()
        self.bn = PositiveBatchNorm2d(norm_channels, eps=1e-4, momentum=0.1)
        self.dropout, self.estimator = dropout, estimator

    def _activate(self, x):
        x = self.bn(x)
        if self.estimator != "none":
            x = ESTIMATORS[self.estimator].apply(x)
        return F.dropout(x, self.dropout, self.training) if self.dropout else x

    def extra_repr(self):
        return f"dropout={self.dropout}, estimator={self.estimator}"


class BinConv2d(_BinBlock):
    """(N, in_channels, H, W) -> (N, out_channels, H', W'): activation(conv(sign(bn(x))) + bias) with binarized weights.

    Zero padding comes after the sign, so taps outside the image add nothing to a sum. The activation is a module; None is ReLU.
    """

    def __init__(self, in_channels, out_channels, kernel_size, stride=1, padding=0, dropout=0.0, estimator="clip", activation=None):
        super().__init__(in_channels, dropout, estimator)
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding)
        self.activation = activation or nn.ReLU()

    @property
    def latent_weight(self) -> nn.Parameter:
        return self.conv.weight

    def forward(self, x):
        return self.activation(self._convolve(self._activate(x)))

    def _convolve(self, x):
        conv = self.conv
        small = x.shape[2] * x.shape[3] <= SMALL_MAP and (conv.kernel_size, conv.stride, conv.padding) == ((3, 3), (1, 1), (1, 1))
        if small and _in_compiled_step(self, x):
            return _SmallMapConv.apply(x, conv.weight, conv.bias)
        return conv(x)


class BinLinear(_BinBlock):
    """(N, C, H, W) with C*H*W = in_features -> (N, out_features): relu(linear(sign(bn(x)).flatten(1)) + bias), weights binarized.

    The batch norm works on the C = norm_channels maps, before they are flattened.
    """

    def __init__(self, in_features, out_features, norm_channels, dropout=0.0, estimator="clip"):
        super().__init__(norm_channels, dropout, estimator)
        self.linear = nn.Linear(in_features, out_features)

    @property
    def latent_weight(self) -> nn.Parameter:
        return self.linear.weight

    def forward(self, x):
        return F.relu(self.linear(self._activate(x).flatten(1)))
