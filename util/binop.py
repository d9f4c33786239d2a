"""Binarization of weights (XNOR-Net, arXiv:1603.05279, section 3.1) with the verbs of XNOR-Net-PyTorch.

A filter w of n weights acts as alpha * sign(w), alpha = mean |w|, which is the nearest such product to w in the least-squares sense.
"""
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn

from util.layers import MIN_BN_WEIGHT, PositiveBatchNorm2d, sign


def centre_and_clamp(weight: torch.Tensor) -> torch.Tensor:
    """Return weight minus its mean over dim 1 (input channels; a linear layer's inputs), clamped to [-1, 1]; same shape (out, in, …)."""
    return (weight - weight.mean(1, keepdim=True)).clamp(-1, 1)


def binarize(weight: torch.Tensor) -> torch.Tensor:
    """Return alpha * sign(weight), alpha = mean |weight| of each filter weight[i]; same shape (out, in, …). sign(0) is +1."""
    return _per_filter(weight.abs().flatten(1).mean(1), weight) * sign(weight)


def quantize(weight: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return a latent weight (out, in, …) in 8 bits each: binarized it stays what it is, and training can go on from it.

    {"codes": int8, the weight's shape, "step": float32 (out,)}, the weight being (code + 1/2) step, filter by filter. Of a filter w,
    centred over dim 1, code = floor(w / s), s = max |w| / 127.5, so code + 1/2 is w / s + e, -1/2 < e <= 1/2, never 0 and of w's sign; that
    stays when the next centring takes the mean of e away. `step` is s, turned until alpha, the mean magnitude after clamping, is that of w.
    """
    weight = weight.detach().cpu()
    alpha, centred = _scales(weight), weight - weight.mean(1, keepdim=True)
    step = centred.abs().flatten(1).amax(1).clamp(min=1e-30) / 127.5
    codes = (centred / _per_filter(step, weight)).floor().clamp(-128, 127).to(torch.int8)
    for _ in range(10):  # once, but for the clamping
        step = step * alpha / _scales(dequantize({"codes": codes, "step": step})).clamp(min=1e-30)
    return {"codes": codes, "step": step}


def dequantize(kept: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the latent weight, float32, that quantize made `kept` of; raises ValueError for what it can't have made."""
    codes, step = kept["codes"], kept["step"]
    if codes.dim() < 2 or codes.dtype != torch.int8 or step.shape != codes.shape[:1] or not step.is_floating_point():
        raise ValueError(f"codes {codes.dtype} {tuple(codes.shape)} and steps {step.dtype} {tuple(step.shape)} do not make a weight")
    weight = (codes + 0.5) * _per_filter(step, codes)
    if not weight.isfinite().all():
        raise ValueError("it is NaN or infinite")
    return weight


def _scales(weight: torch.Tensor) -> torch.Tensor:
    """Return alpha of each filter of a latent weight, (out,)."""
    return centre_and_clamp(weight).abs().flatten(1).mean(1)


def _per_filter(values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return values.view(-1, *[1] * (weight.dim() - 1))


def latent_names(model: nn.Module) -> list[str]:
    """Return the state dict's keys of the weights that BinOp owns, in its order."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [names[id(module.latent_weight)] for module in model.modules() if hasattr(module, "latent_weight")]


def _centre_and_binarize(weights: list[torch.Tensor]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(centred, binarize(centred)) for centred in map(centre_and_clamp, weights)]


def binarize_backward(weight: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
    """Return dC/dw from grad = dC/dw~, w~ = binarize(w); same shape.

    With s_j = sign(w_j), w~_j = alpha s_j and alpha = (1/n) sum_i |w_i|:

        dC/dw_i = sum_j dC/dw~_j (s_j dalpha/dw_i + alpha ds_j/dw_i),   dalpha/dw_i = s_i / n,
        ds_j/dw_i = 1 where i = j and |w_i| <= 1, else 0                (straight-through)
                = (s_i / n) sum_j dC/dw~_j s_j  +  alpha 1(|w_i| <= 1) dC/dw~_i

    The paper (section 3.1) keeps only j = i of the first sum, grad_i (1/n + alpha 1(|w_i| <= 1)); but alpha depends on every
    weight of the filter, so the sum belongs there.
    """
    s = sign(weight)
    alpha = _per_filter(weight.abs().flatten(1).mean(1), weight)
    through_alpha = s * _per_filter((grad * s).flatten(1).mean(1), weight)
    return through_alpha + alpha * (weight.abs() <= 1) * grad


def _backward(weights: list[torch.Tensor], grads: list[torch.Tensor]) -> list[torch.Tensor]:
    factors = [(1 - 1 / weight.shape[1]) * weight[0].numel() for weight in weights]
    return [factor * binarize_backward(*both) for factor, *both in zip(factors, weights, grads, strict=True)]


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
    `compiled`: the arithmetic goes through torch.compile, three times as fast for large models.
    """

    def __init__(self, model: nn.Module, compiled: bool = False):
        self.model = model
        wrap = partial(torch.compile, dynamic=False) if compiled else lambda function: function
        self._binarize, self._backward = wrap(_centre_and_binarize), wrap(_backward)
        self.weights = [m.latent_weight for m in model.modules() if hasattr(m, "latent_weight")]
        self._norms = [m for m in model.modules() if isinstance(m, PositiveBatchNorm2d)]
        self._saved: list[torch.Tensor] | None = None

    @torch.no_grad()
    def binarization(self) -> None:
        """Replace the latent weights by binarized ones, until `restore`. Raises RuntimeError if they are binarized already."""
        if self._saved is not None:
            raise RuntimeError("the weights are binarized already: call restore() first")
        both = self._binarize(self.weights)
        self._saved = [centred if self.model.training else weight.clone() for weight, (centred, _) in zip(self.weights, both, strict=True)]
        for weight, (_, binarized) in zip(self.weights, both, strict=True):
            weight.copy_(binarized)
        if self.model.training:
            for norm in self._norms:
                norm.weight.clamp_(min=MIN_BN_WEIGHT)

    @torch.no_grad()
    def restore(self) -> None:
        """Bring the latent weights back. Raises RuntimeError if they are not binarized."""
        if self._saved is None:
            raise RuntimeError("nothing to restore: binarization() was not called")
        for weight, saved in zip(self.weights, self._saved, strict=True):
            weight.copy_(saved)
        self._saved = None

    @contextmanager
    def binarized(self) -> Iterator[None]:
        """Keep the weights binarized for the block, also if it raises. Raises RuntimeError if they are binarized already."""
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
        learning = [weight for weight in self.weights if weight.grad is not None]
        grads = [weight.grad for weight in learning]
        for grad, latent in zip(grads, self._backward(learning, grads), strict=True):
            grad.copy_(latent)
