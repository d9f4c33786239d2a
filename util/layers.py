"""Layers with 1-bit weights and activations (XNOR-Net: Rastegari et al. 2016, arXiv:1603.05279).

A block is batch norm -> sign -> convolution or linear -> ReLU or PReLU. The weights it stores are real numbers ("latent"); util.binop.BinOp
puts alpha * sign(w) in their place for the length of a forward and backward pass. Keys, shapes and numbers are those of XNOR-Net-PyTorch.
"""
import torch
from torch import nn
from torch.nn import functional as F

CLAMP_AT = 1.5  # where annealed activations are cut
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


class PositiveBatchNorm2d(nn.BatchNorm2d):
    """Batch norm whose weight acts as max(weight, 0.01); the gradient passes through the maximum.

    XNOR-Net-PyTorch writes the maximum into the parameter in every forward pass, evaluation included; here forward
    changes no weight and BinOp writes it at the start of a training step, which gives the same numbers.
    """

    def effective_weight(self) -> torch.Tensor:
        return self.weight + (self.weight.clamp(min=MIN_BN_WEIGHT) - self.weight).detach()

    def forward(self, x):
        momentum = next_momentum(self) if self.training else 0.0
        return F.batch_norm(x, self.running_mean, self.running_var, self.effective_weight(), self.bias, self.training, momentum, self.eps)


def next_momentum(norm: nn.BatchNorm2d) -> float:
    """Count one more batch of a batch norm and return the weight of its statistics: 1 / count where `momentum` is None (torch's rule)."""
    norm.num_batches_tracked.add_(1)
    return 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum


class _BinBlock(nn.Module):
    def __init__(self, norm_channels: int, dropout: float, estimator: str):
        super().__init__()
        self.bn = PositiveBatchNorm2d(norm_channels, eps=1e-4, momentum=0.1)
        self.dropout, self.estimator = dropout, estimator
        self.annealing = False  # see anneal_sign
        self.register_buffer("clamp_share", torch.zeros(()), persistent=False)

    def _activate(self, x):
        x = self.bn(x)
        if self.estimator != "none":
            signs = ESTIMATORS[self.estimator].apply(x)
            x = signs + self.clamp_share.to(x.dtype) * (x.clamp(-CLAMP_AT, CLAMP_AT) - signs) if self.annealing else signs
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
        return self.activation(self.convolve(self._activate(x)))

    def convolve(self, x):
        return self.conv(x)


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


def anneal_sign(model: nn.Module, clamp_share: float) -> None:
    """Make the activations of all binarized blocks (1 - clamp_share) sign(x) + clamp_share clamp(x, -1.5, 1.5); new blocks have 0.

    Progressive binarization: a training lowers clamp_share from 1 to 0. Gradients are exact at first, and the straight-through
    estimator's share of them grows while the network adapts.
    """
    for module in model.modules():
        if isinstance(module, _BinBlock) and (clamp_share > 0 or module.annealing):
            module.annealing = clamp_share > 0 or module.clamp_share.is_cuda  # there it costs little, and compiling anew would cost more
            module.clamp_share.fill_(clamp_share)


def freeze_batch_norm(model: nn.Module, frozen: bool) -> None:
    """Make the batch norms of a model in training mode use their running statistics and leave them as they are; or those of each batch.

    Binarized activations are sensitive to batch-norm statistics: late in a training, weights adapt to those that they are evaluated with.
    """
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train(not frozen)
