"""The images of a training, batch by batch: in which order, and how they are made."""
import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch

from util.errors import InputError
from util.train import data
from util.train.recipe import Recipe
from util.train.steps import Machine, Teacher


def generator(*numbers: int) -> torch.Generator:
    """Return a generator of random numbers that `numbers` (such as seed, epoch and step) fix."""
    text = " ".join(map(str, numbers)).encode()
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(text).digest()[:7]))


@dataclass(frozen=True)
class Batch:
    """The images of one step, and which step of the training that is."""

    seed: int
    epoch: int  # from 1
    epochs: int
    step: int  # of the epoch, from 0
    steps: int  # of an epoch
    rank: int  # of this process
    indices: torch.Tensor  # of this process's images among the training images
    size: int  # images of all processes

    @property
    def progress(self) -> float:
        """The share of all steps that is behind it."""
        return (self.epoch - 1 + self.step / self.steps) / self.epochs

    def generator(self) -> torch.Generator:
        """Return the generator of this process's random numbers: another for each step, always the same."""
        return generator(self.seed, self.epoch, self.step + 1, self.rank)


def batches_of(count: int, seed: int, epoch: int, recipe: Recipe, machine: Machine) -> list[Batch]:
    """Return an epoch's batches of `count` images, in an order that seed and epoch fix; each has an image or more per process.

    A last batch that is too small for that is left out; raises InputError if all are.
    """
    order = torch.randperm(count, generator=generator(seed, epoch))
    parts = [part for part in order.split(recipe.batch_size) if len(part) >= machine.processes]
    if not parts:
        found = min(count, recipe.batch_size)
        raise InputError(f"batches of {found} images are too small for {machine.processes} processes; give a larger --batch-size")
    return [
        Batch(seed, epoch, recipe.epochs, i, len(parts), machine.rank, part[machine.rank :: machine.processes], len(part))
        for i, part in enumerate(parts)
    ]


@dataclass(frozen=True)
class Material:
    """What a training learns from, and what picks its best epoch. A teacher knows images by the indices that `batch_of` returns."""

    batch_of: Callable[[Batch], tuple[torch.Tensor, torch.Tensor, torch.Tensor]]  # -> uint8 images, labels, indices
    count: int  # images of an epoch
    loss: Callable[..., torch.Tensor]  # of float logits, labels, and a teacher's logits or None
    validation: tuple[torch.Tensor, torch.Tensor]  # images and labels, held out
    sample: torch.Tensor  # training images that statistics are measured on
    teacher: Teacher | None = None


def augmented_batches(images: torch.Tensor, labels: torch.Tensor, recipe: Recipe) -> Callable:
    """Return the `batch_of` of a data set's images: augmented as the recipe says, at random but always the same."""

    def batch_of(batch):
        generator, indices = batch.generator(), batch.indices.to(images.device, non_blocking=True)
        if recipe.augment:
            x = recipe.augment(images[indices], indices, batch.epoch, generator)
        else:
            x = data.random_mirror(data.random_shift(images[indices], recipe.shift, generator), generator)
        return data.cutmix(x, recipe.cutmix, generator) if recipe.cutmix else x, labels[indices], indices

    return batch_of
