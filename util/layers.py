"""Layers with 1-bit weights and activations (XNOR-Net: Rastegari et al. 2016, arXiv:1603.05279).

A block is batch norm -> sign -> convolution or linear -> ReLU or PReLU. The weights it stores are real numbers ("latent"); util.binop.BinOp
puts alpha * sign(w) in their place for the length of a forward and backward pass. Keys, shapes and numbers are those of XNOR-Net-PyTorch.
"""
import torch
from torch import nn
from torch.nn import functional as F

from util.train import cpu_ops

SOFT_RANGE = 1.5  # where activations that are not signs yet end
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


class BinActiveWide(BinActive):
    """sign(x) with a gradient that reaches further: y' = max(0, 1 - |x| / 3)."""

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * (1 - x.abs() / 3).clamp(min=0)


ESTIMATORS = {"clip": BinActive, "polynomial": BinActivePolynomial, "wide": BinActiveWide}  # or "none": activations stay floats (BWN)


class BatchNorm2d(nn.BatchNorm2d):
    """torch's batch norm, computed by rows where a training step is compiled for the CPU."""

    held = False  # see hold_statistics

    def forward(self, x):
        if cpu_ops.in_compiled_step(self, x):
            return self.by_rows(x)
        learns = self.training and not self.held
        momentum = self._next_momentum() if learns else 0.0
        return F.batch_norm(x, self.running_mean, self.running_var, self._weight(), self.bias, learns, momentum, self.eps)

    def by_rows(self, x):
        """Return what forward does in training, by cpu_ops.BatchNormRows."""
        weight = torch.ones(self.num_features, device=x.device) if self.weight is None else self._weight()
        bias = torch.zeros(self.num_features, device=x.device) if self.bias is None else self.bias
        held = (self.running_mean.clone(), self.running_var.clone()) if self.held else None
        y, mean, var = cpu_ops.BatchNormRows.apply(x, weight, bias, self.eps, held)
        if not self.held:
            momentum, count = self._next_momentum(), x.numel() / x.shape[1]
            with torch.no_grad():
                self.running_mean.lerp_(mean, momentum)
                self.running_var.lerp_(var * (count / (count - 1)), momentum)
        return y

    def _next_momentum(self):
        self.num_batches_tracked.add_(1)
        return 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum

    def _weight(self):
        return self.weight


class MaxPool2d(nn.MaxPool2d):
    """torch's max pooling, which stays torch's where a training step is compiled for the CPU: ten times as fast as compiled."""

    def forward(self, x):
        if cpu_ops.in_compiled_step(self, x):
            return cpu_ops.max_pool(x, self.kernel_size, self.stride, self.padding)[0]
        return super().forward(x)


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
        self.soft = False  # early in a training (see soften): softness of an activation is clamp(x), the rest its sign
        self.register_buffer("softness", torch.zeros(()), persistent=False)

    def _activate(self, x):
        x = self.bn(x)
        if self.estimator != "none":
            signs = ESTIMATORS[self.estimator].apply(x)
            x = signs + self.softness.to(x.dtype) * (x.clamp(-SOFT_RANGE, SOFT_RANGE) - signs) if self.soft else signs
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
        conv, stride, padding = self.conv, self.conv.stride[0], self.conv.padding[0]
        if cpu_ops.in_compiled_step(self, x):
            count = cpu_ops.COUNT and self.estimator != "none" and not self.dropout and not self.soft
            if count or cpu_ops.is_small(x, conv.weight, stride, padding):
                return cpu_ops.BinaryConv.apply(x, conv.weight, conv.bias, stride, padding, count)
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


def soften(model: nn.Module, softness: float) -> None:
    """Make all activations of binarized blocks (1 - softness) sign(x) + softness clamp(x, -1.5, 1.5); new blocks have softness 0.

    A training that lowers it from 1 to 0 finds better weights: gradients are true at first, and wrong by more and more.
    """
    for module in model.modules():
        if isinstance(module, _BinBlock) and (softness > 0 or module.soft):
            module.soft = softness > 0 or module.softness.is_cuda  # there it costs nothing, and compiling anew would
            module.softness.fill_(softness)


def hold_statistics(model: nn.Module, held: bool) -> None:
    """Make batch norms use their running statistics in training, too, and leave them as they are; or, not held, those of each batch.

    A sign feels where a mean lies: late in a training, weights that learn with the means they will be judged with learn to live with them.
    """
    for module in model.modules():
        if isinstance(module, BatchNorm2d):
            module.held = held
