"""Binarization of weights (XNOR-Net, arXiv:1603.05279, section 3.1) with the verbs of XNOR-Net-PyTorch.

A filter w of n weights acts as alpha * sign(w), alpha = mean |w|, which is the nearest such product to w in the least-squares sense.
"""
import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from torch import nn

from util.layers import MIN_BN_WEIGHT, PositiveBatchNorm2d, sign


def centre_and_clamp(weight: torch.Tensor) -> torch.Tensor:
    """Return weight minus its mean over dim 1 (input channels; a linear layer's inputs), clamped to [-1, 1]; same shape (out, in, …)."""
    return (weight - weight.mean(1, keepdim=True)).clamp(-1, 1)


def binarize(weight: torch.Tensor) -> torch.Tensor:
    """Return alpha * sign(weight), alpha = mean |weight| of each filter weight[i]; same shape (out, in, …). sign(0) is +1."""
    alpha = weight.abs().flatten(1).mean(1)  # per output channel
    return alpha.view(-1, *[1] * (weight.dim() - 1)) * sign(weight)


def to_bits(weight: torch.Tensor) -> dict:
    """Return what is left of a latent weight (out, in, …) when only predicting counts: its signs, 8 in a byte, and each filter's alpha.

    {"shape": list of int, "negative": uint8 (numel / 8), "alpha": float32 (out,)}; from_bits makes a latent weight of it again.
    """
    centred = centre_and_clamp(weight.detach().cpu())
    negative = np.packbits((centred < 0).numpy())
    return {"shape": list(weight.shape), "negative": torch.from_numpy(negative), "alpha": centred.abs().flatten(1).mean(1)}


def from_bits(bits: dict) -> torch.Tensor:
    """Return a latent weight whose binarized form is that of the one that to_bits was given.

    Centring takes its mean m over dim 1 from a weight of signs s, and mean |s - m| = 1 - m^2; so alpha s / (1 - mean m^2), m by place
    in the filter, ends up as alpha s. Raises ValueError for a dict that to_bits did not make.
    """
    shape, negative, alpha = bits["shape"], bits["negative"], bits["alpha"]
    count = math.prod(shape)
    if len(shape) < 2 or negative.dtype != torch.uint8 or negative.numel() != (count + 7) // 8 or alpha.shape != (shape[0],):
        raise ValueError(f"{negative.numel()} bytes of signs and {tuple(alpha.shape)} scales do not make a weight of {shape}")
    signs = 1 - 2 * torch.from_numpy(np.unpackbits(negative.numpy(), count=count)).view(shape).float()
    share = 1 - signs.mean(1).square().reshape(shape[0], -1).mean(1)
    return signs * (alpha / share).view(-1, *[1] * (len(shape) - 1))


def latent_names(model: nn.Module) -> list[str]:
    """Return the state dict's keys of the weights that BinOp owns, in its order."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [names[id(module.latent_weight)] for module in model.modules() if hasattr(module, "latent_weight")]


def _centre_and_binarize(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    centred = centre_and_clamp(weight)
    return centred, binarize(centred)


def binarize_backward(weight: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
    """Return dC/dw from grad = dC/dw~, w~ = binarize(w); same shape.

    With s_j = sign(w_j), w~_j = alpha s_j and alpha = (1/n) sum_i |w_i|:

        dC/dw_i = sum_j dC/dw~_j (s_j dalpha/dw_i + alpha ds_j/dw_i),   dalpha/dw_i = s_i / n,
        ds_j/dw_i = 1 where i = j and |w_i| <= 1, else 0                (straight-through)
                = (s_i / n) sum_j dC/dw~_j s_j  +  alpha 1(|w_i| <= 1) dC/dw~_i

    The paper (section 3.1) keeps only j = i of the first sum, grad_i (1/n + alpha 1(|w_i| <= 1)); but alpha feels every weight
    of the filter, so the sum belongs there.
    """
    shape = (-1, *[1] * (weight.dim() - 1))
    s = sign(weight)
    alpha = weight.abs().flatten(1).mean(1).view(shape)
    through_alpha = s * (grad * s).flatten(1).mean(1).view(shape)
    return through_alpha + alpha * (weight.abs() <= 1) * grad


class BinOp:
    """Puts binarized weights in the place of a model's latent ones, and takes them out again.

    It owns the weights of the model's BinConv2d and BinLinear blocks (every module with a `latent_weight`), in modules() order:

        with bin_op.binarized():            # or binarization() … restore()
            loss = criterion(model(x), y)
            loss.backward()
        bin_op.updateBinaryGradWeight()
        optimizer.step()

    In training mode `binarization` first writes the centred and clamped weights (and the minimum of batch norm's weights) into the
    model, as XNOR-Net-PyTorch does. In evaluation mode the same numbers are computed on a copy and `restore` brings back every bit.
    `compiled`: the arithmetic goes through torch.compile, three times as fast for large models (up to 8 shapes of weights).
    """

    def __init__(self, model: nn.Module, compiled: bool = False):
        self.model = model
        wrap = partial(torch.compile, dynamic=False) if compiled else lambda function: function
        self._binarize, self._backward = wrap(_centre_and_binarize), wrap(binarize_backward)
        self.weights = [m.latent_weight for m in model.modules() if hasattr(m, "latent_weight")]
        self._norms = [m for m in model.modules() if isinstance(m, PositiveBatchNorm2d)]
        self._saved: list[torch.Tensor] | None = None

    @torch.no_grad()
    def binarization(self) -> None:
        if self._saved is not None:
            raise RuntimeError("the weights are binarized already: call restore() first")
        both = [self._binarize(weight) for weight in self.weights]
        self._saved = [centred if self.model.training else weight.clone() for weight, (centred, _) in zip(self.weights, both, strict=True)]
        for weight, (_, binarized) in zip(self.weights, both, strict=True):
            weight.copy_(binarized)
        if self.model.training:
            for norm in self._norms:
                norm.weight.clamp_(min=MIN_BN_WEIGHT)

    @torch.no_grad()
    def restore(self) -> None:
        if self._saved is None:
            raise RuntimeError("nothing to restore: binarization() was not called")
        for weight, saved in zip(self.weights, self._saved, strict=True):
            weight.copy_(saved)
        self._saved = None

    @contextmanager
    def binarized(self) -> Iterator[None]:
        self.binarization()
        try:
            yield
        finally:
            self.restore()

    @torch.no_grad()
    def updateBinaryGradWeight(self) -> None:  # noqa: N802 (the name users of XNOR-Net-PyTorch know)
        """Turn the gradients with respect to the binarized weights into those of the latent ones; call it after restore().

        The result is binarize_backward times (1 - 1/c) n, c = weight.shape[1]: the diagonal of the centring's Jacobian, and a factor that
        Adam cancels but for weight decay and epsilon, which it weakens (the reason XNOR-Net-PyTorch has it).
        """
        if self._saved is not None:
            raise RuntimeError("restore() first: the rule needs the latent weights")
        for weight in self.weights:
            if weight.grad is not None:
                factor = (1 - 1 / weight.shape[1]) * weight[0].numel()
                weight.grad.copy_(self._backward(weight, weight.grad)).mul_(factor)
