"""Layers with 1-bit weights and activations (XNOR-Net: Rastegari et al. 2016, arXiv:1603.05279).

A block is batch norm -> sign -> convolution or linear -> ReLU. The weights it stores are real numbers ("latent"); util.binop.BinOp
puts alpha * sign(w) in their place for the length of a forward and backward pass. Keys, shapes and numbers are those of XNOR-Net-PyTorch.
"""
import torch
from torch import nn
from torch.nn import functional as F

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


ESTIMATORS = {"clip": BinActive, "polynomial": BinActivePolynomial}


class PositiveBatchNorm2d(nn.BatchNorm2d):
    """Batch norm whose weight acts as max(weight, 0.01); the gradient passes through the maximum.

    XNOR-Net-PyTorch writes the maximum into the parameter in every forward pass, evaluation included; here forward
    changes nothing and BinOp writes it at the start of a training step, which gives the same numbers.
    """

    def forward(self, x):
        weight = self.weight + (self.weight.clamp(min=MIN_BN_WEIGHT) - self.weight).detach()
        if self.training:
            self.num_batches_tracked.add_(1)
        return F.batch_norm(x, self.running_mean, self.running_var, weight, self.bias, self.training, self.momentum, self.eps)


class _BinBlock(nn.Module):
    def __init__(self, norm_channels: int, dropout: float, estimator: str):
        super().__init__()
        self.bn = PositiveBatchNorm2d(norm_channels, eps=1e-4, momentum=0.1)
        self.dropout, self.estimator = dropout, estimator

    def _activate(self, x):
        x = ESTIMATORS[self.estimator].apply(self.bn(x))
        return F.dropout(x, self.dropout, self.training) if self.dropout else x

    def extra_repr(self):
        return f"dropout={self.dropout}, estimator={self.estimator}"


class BinConv2d(_BinBlock):
    """(N, in_channels, H, W) -> (N, out_channels, H', W'): relu(conv(sign(bn(x))) + bias) with binarized weights.

    Zero padding comes after the sign, so taps outside the image add nothing to a sum.
    """

    def __init__(self, in_channels, out_channels, kernel_size, stride=1, padding=0, dropout=0.0, estimator="clip"):
        super().__init__(in_channels, dropout, estimator)
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding)

    @property
    def latent_weight(self) -> nn.Parameter:
        return self.conv.weight

    def forward(self, x):
        return F.relu(self.conv(self._activate(x)))


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
