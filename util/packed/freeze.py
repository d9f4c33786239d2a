"""From a trained PyTorch model to a packed network."""
from copy import deepcopy

import torch
from torch import nn

from util.layers import BinConv2d, BinLinear
from util.packed.fold import fold
from util.packed.run import Engine, PackedNetwork, Shape, need_native
from util.packed.trace import NotAChainError, chain
from util.spec import Spec

__all__ = ["FrozenLayer", "NotAChainError", "freeze", "freeze_layers"]


def freeze(model: nn.Module, spec: Spec, kernel: str = "", threads: int = 1) -> PackedNetwork:
    """Return a packed network that computes what `model`, which holds latent weights (not binarized), does in evaluation mode.

    Raises NotAChainError for a model that is more than a chain of known layers with shortcuts, ValueError for weights that are not finite.
    """
    need_native()
    for name, value in model.state_dict().items():
        if not value.isfinite().all():
            raise ValueError(f"{name} holds NaN or infinite numbers")
    return PackedNetwork(fold(chain(model), spec.shape), spec, kernel, threads)


def freeze_layers(model: nn.Module, threads: int = 1) -> nn.Module:
    """Return a copy of `model`, of any form, each of whose binarized layers is packed by itself; the rest goes on in PyTorch."""
    need_native()
    return _freeze_layers(deepcopy(model).eval(), threads)


def _freeze_layers(module: nn.Module, threads: int) -> nn.Module:
    for name, child in module.named_children():
        if isinstance(child, BinConv2d | BinLinear):
            setattr(module, name, FrozenLayer(child, threads))
        else:
            _freeze_layers(child, threads)
    return module


class FrozenLayer(nn.Module):
    """One packed BinConv2d or BinLinear: floats in, float32 out, as the layer in evaluation mode. Maps of any size."""

    def __init__(self, layer: BinConv2d | BinLinear, threads: int):
        super().__init__()
        self.layer, self.threads = [layer], threads  # in a list: its weights are no parameters of this one
        self.engines: dict[Shape, Engine] = {}

    def forward(self, x):
        layer, shape = self.layer[0], tuple(x.shape[1:])
        if shape not in self.engines:
            self.engines[shape] = Engine(fold([layer], shape), shape, threads=self.threads)
        y = torch.from_numpy(self.engines[shape](x.detach().float().cpu().numpy()))
        return y if isinstance(layer, BinConv2d) else y.flatten(1)
