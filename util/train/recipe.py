"""How a network is trained: one frozen value, whose defaults a command line may change."""
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import nn


def linear_decay(progress: float) -> float:
    """Return the share of the highest learning rate after a share `progress` of all steps: 2 % warm-up, then straight down to 0."""
    return min(1, progress * 50) * (1 - progress)


def adam(model: nn.Module, lr: float) -> torch.optim.Optimizer:
    """Return Adam with torch's defaults; one kernel for all parameters."""
    return torch.optim.Adam(model.parameters(), lr=lr, fused=True)


@dataclass(frozen=True)
class Recipe:
    """How a network is trained. Shares are of the whole training, 0..1."""

    epochs: int
    lr: float  # the highest learning rate
    batch_size: int  # images a step, of all processes together
    schedule: Callable[[float], float] = linear_decay  # share of the training done -> share of `lr`
    optimizer: Callable[[nn.Module, float], torch.optim.Optimizer] = adam  # of a model and `lr`
    sizes: tuple[tuple[float, int], ...] = ((1, 32),)  # (until this share, side of the training images in pixels)
    shift: int = 2  # pixels by which an image is moved at most, across and down
    augment: Callable | None = None  # (images, indices, epoch, generator) -> images; None: shifts and mirror images
    cutmix: float = 0.0  # share of the images that CutMix mixes; needs a teacher that is asked in each step
    smoothing: float = 0.0  # of the labels
    anneal_until: float = 0.0  # until this share activations go from clamp to sign (util.layers.anneal_sign)
    freeze_bn_from: float = 1.0  # from this share on batch norms keep their statistics (util.layers.freeze_batch_norm)
    ema_decay: float = 0.998  # of the weights that are evaluated and kept, per step: 0.998 is the mean of the last 500 steps or so
    patience: int = 0  # epochs without better held-out accuracy after which the training ends (early stopping); 0: never
    lookahead: int = 0  # steps from one Lookahead update to the next; 0: none

    def with_flags(self, args) -> "Recipe":
        """Return the recipe with the --epochs, --lr and --batch-size that were given."""
        given = {name: getattr(args, name) for name in ("epochs", "lr", "batch_size")}
        return replace(self, **{name: value for name, value in given.items() if value is not None})

    def size(self, epoch: int) -> int:
        """Return the side of the training images, in pixels, in `epoch` (from 1).

        Small images first: a network learns most at a quarter of the cost. The last epochs are at full size.
        """
        return next(size for until, size in self.sizes if epoch / self.epochs <= until)

    def lr_at(self, progress: float) -> float:
        """Return the learning rate after a share `progress` of all steps."""
        return self.lr * self.schedule(progress)

    def clamp_share(self, progress: float) -> float:
        """Return the share of clamp in annealed activations after a share `progress` of all steps: from 1 straight down to 0."""
        return max(0.0, 1 - progress / self.anneal_until) if self.anneal_until else 0.0
