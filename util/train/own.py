"""Somebody's own images: folders of any classes, prepared exactly as crops of a clip are.

    DIR/{train,test}/<class>/*     or DIR/<class>/*, of which a part of the tracks is kept to test and a part to stop early

Images have any size and mode; alpha tells what moves, as a crop's mask does. Of files that util.outputs.dataset wrote, those of one
track are never on two sides; any other file counts as a track of its own.
"""
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image, ImageOps
from scipy.optimize import minimize_scalar
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from util import packed
from util.crops import prepare
from util.errors import InputError, printable, reading
from util.files import IMAGE_SUFFIXES
from util.packed.freeze import freeze
from util.spec import OTHER, Network, Spec
from util.train import augment, curve, data
from util.train.batches import Batch
from util.train.head import head_of
from util.train.recipe import Recipe
from util.train.run import Files

OF_TRACK = re.compile(r"(.+_track[0-9]+)_frame[0-9]+")  # as util.outputs.dataset calls files
KINDS = " ".join(sorted(IMAGE_SUFFIXES))
LARGEST = 1 << 26  # pixels of an image
SIDE = 64  # pixels of a kept image's longer side, twice what a network sees
HELD_OUT_BY = 5  # one in so many tracks of a class is held out, and one tests
FINE_TUNED_FROM = 500  # tracks; of a hundred, all weights learnt nothing that helped in other clips (docs/experiments-training.md)
EPOCH = 2048  # images that are drawn for an epoch
MADE = 0.3  # share of images of `other` that are made
VALIDATED = 100  # validation images of a class, at most
TEMPERATURES = (0.1, 10)  # least and most
KEPT_NAMES, MAX_UNSURE = 0.98, 0.5  # share of right names that `unknown_below` keeps; it is no larger than that

# What differs from a network's recipe where it begins with weights that know something: few steps, small ones.
FINE_TUNING = {"epochs": 4, "lr": 0.0002, "batch_size": 64, "anneal_until": 0.0, "freeze_bn_from": 1.0,
               "cutmix": 0.0, "smoothing": 0.05, "ema_decay": 0.98, "patience": 5}  # fmt: skip


@dataclass(frozen=True)
class Part:
    """Images of a set: RGB or RGBA uint8 (h, w, 3 or 4), their classes' numbers (N,), and the tracks that they show (N,)."""

    images: list[np.ndarray]
    labels: np.ndarray
    tracks: np.ndarray

    def take(self, at: np.ndarray) -> "Part":
        """Return the images at these indices."""
        return Part([self.images[i] for i in at], self.labels[at], self.tracks[at])

    def count_tracks(self) -> np.ndarray:
        """Return how many tracks each class has, int (classes,)."""
        return np.bincount([label for label, _ in set(zip(self.labels.tolist(), self.tracks.tolist(), strict=True))])

    def prepared(self, spec: Spec) -> tuple[torch.Tensor, torch.Tensor]:
        """Return uint8 (N, C, H, W), as the crops of a clip become, and int64 (N,)."""
        parts = [prepare(self.images[i : i + 256], spec) for i in range(0, len(self.images), 256)]
        return torch.from_numpy(np.concatenate(parts)), torch.from_numpy(self.labels)


def recipe_for(recipe: Recipe, pretrained: bool) -> Recipe:
    """Return the recipe for own classes: fine-tuning if it begins with weights, else longer and with the recipe's own steps."""
    own = replace(recipe, **FINE_TUNING, sizes=recipe.sizes[-1:])
    return own if pretrained else replace(own, epochs=9 * own.epochs, lr=recipe.lr, patience=2 * own.patience)


# ---- Reading ---------------------------------------------------------------------------------------------------------
def load(root: Path, classes: Sequence[str], limit: int | None = None) -> tuple[Part, Part, Part]:
    """Return what is learnt from, what is held out to stop early, and what tests, of a folder with these classes.

    limit: images of each at most, drawn evenly over the classes. Where a class has two tracks, one of them is both held out and test.
    Raises InputError, which names the thing, for an image that can't be read, and a class that is empty or can't be divided.
    """
    split = (root / "train").is_dir()
    if not split and (root / "test").is_dir():
        raise InputError(f"{root}: has test/ to test with, but no train/ to learn from; add it")
    beside = [path.name for path in sorted(root.iterdir()) if path.is_dir() and path.name not in ("train", "test") and path.name[0] != "."]
    if split and beside:
        print(f"{root}: {printable(' '.join(beside))} left out; what stands beside train is read if it is called test", flush=True)
    learnt = _read(root / "train" if split else root, classes)
    test = _read(root / "test", _test_classes(root / "test", classes), classes) if split and (root / "test").is_dir() else None
    at = {"train": [], "held out": [], "test": []}
    for label, name in enumerate(classes):
        of = np.flatnonzero(learnt.labels == label)
        tracks = sorted(set(learnt.tracks[of].tolist()), key=lambda track: hashlib.sha256(track.encode(errors="replace")).digest())
        if len(tracks) < 2:
            raise InputError(f"{root}: all images of {name} are one, or of one track; give two or more: one is held out")
        count = max(1, len(tracks) // HELD_OUT_BY)
        held = tracks[:count]
        tests = [] if test else tracks[count : 2 * count] if len(tracks) > 2 else held
        for which, some in ("held out", held), ("test", tests), ("train", [t for t in tracks if t not in held and t not in tests]):
            at[which].append(of[np.isin(learnt.tracks[of], some)])
    parts = {which: learnt.take(np.concatenate(indices)) for which, indices in at.items()}
    parts["test"] = test or parts["test"]
    return tuple(_limited(parts[which], limit) for which in at)


def load_test(root: Path, classes: Sequence[str], limit: int | None = None) -> Part:
    """Return what tests a network with these classes, which may have more than the folder: test/, or, without it, a part of each class."""
    found = data.own_classes(root, []) or []
    if foreign := [name for name in found if name not in classes]:
        raise InputError(f"{root}: has the class {foreign[0]}, which the network lacks; it has {' '.join(classes)}")
    split = root / "test"
    test = _limited(_read(split, _test_classes(split, found), found), limit) if split.is_dir() else load(root, found, limit)[2]
    return replace(test, labels=np.array([classes.index(name) for name in found])[test.labels])


def _limited(part: Part, limit: int | None) -> Part:
    return part if limit is None else part.take(data.balanced(part.labels, limit))


def _test_classes(root: Path, classes: Sequence[str]) -> list[str]:
    found = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if foreign := [name for name in found if name not in classes]:
        raise InputError(f"{root / foreign[0]}: no class of train/, which has {' '.join(classes)}")
    return found


def _read(root: Path, found: Sequence[str], classes: Sequence[str] | None = None) -> Part:
    images, labels, tracks, classes = [], [], [], list(classes or found)
    for name in found:
        files = sorted(path for path in (root / name).iterdir() if not path.name.startswith("."))
        paths = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
        foreign = [path.name for path in files if path not in paths]
        if not paths:
            found_instead = f" but {foreign[0]}" if foreign else ""
            raise InputError(f"{root / name}: holds no images{found_instead}; add some ({KINDS}), or remove the folder")
        if foreign:
            print(f"{root / name}: {len(foreign)} left out, such as {printable(foreign[0])}; images are {KINDS}", flush=True)
        for path in tqdm(paths, f"reading {name}", unit=" images", leave=False, disable=None):
            images.append(read_rgba(path))
            labels.append(classes.index(name))
            of_track = OF_TRACK.fullmatch(path.stem)
            tracks.append(of_track[1] if of_track else path.name)
    if not images:
        raise InputError(f"{root}: holds no folders of images")
    return Part(images, np.array(labels), np.array(tracks))


def read_rgba(path: Path) -> np.ndarray:
    """Return RGB or, where there is alpha, RGBA uint8 (h, w, 3 or 4), upright (EXIF), no side over SIDE pixels; raises InputError."""
    if not path.is_file():  # a pipe would never end
        raise InputError(f"{path}: is no regular file; remove it")
    with reading(path, "image that can be read"), Image.open(path) as image:
        if image.width * image.height > LARGEST:  # before it is decoded: a small file may claim to be a huge image
            raise InputError(f"{path}: {image.width}x{image.height} pixels are too many; make it smaller")
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):  # 16 bits of grey, or fewer in as many (thermal cameras)
            grey = np.asarray(image).clip(0, 65535)
            image = Image.fromarray((grey * (255 / (65535 if grey.max() >= 1 << 14 else max(grey.max(), 1)))).round().astype(np.uint8))
        elif image.mode == "F":
            raise InputError(f"{path}: holds floats; give 8 or 16 bits")
        pixels = np.asarray(image.convert("RGBA" if image.has_transparency_data else "RGB"))
    scale = SIDE / max(pixels.shape[:2])
    if scale < 1:
        size = [max(1, round(scale * length)) for length in pixels.shape[1::-1]]
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return pixels


# ---- Training --------------------------------------------------------------------------------------------------------
class OwnImages:
    """Batches in which every class is as frequent as any other, of images made to look like other crops of a clip (util.train.augment).

    Of the class `other` a share of MADE are pictures made for it, of lit grounds, edges, captions: a few clips show too few of them.

    An epoch is EPOCH of them; of the validation images each class has as many, too, so that the share that is right is
    the mean over the classes.
    """

    def __init__(self, root: Path, spec: Spec, batch_size: int, smoothing: float, limit: int | None = None):
        self.spec, self.batch_size, self.smoothing = spec, batch_size, smoothing
        self.learnt, self.held_out, self.test = load(root, spec.classes, limit)
        self.other = spec.classes.index(OTHER) if OTHER in spec.classes else -1
        counts = np.bincount(self.learnt.labels, minlength=len(spec.classes))
        chances = 1 / counts[self.learnt.labels]
        self.chances = chances / chances.sum()

    def __str__(self):
        parts = (("learnt", self.learnt), ("held out", self.held_out), ("test", self.test))
        counts = ", ".join(f"{len(part.images)} of {part.count_tracks().sum()} tracks {name}" for name, part in parts)
        return f"{len(self.spec.classes)} classes ({' '.join(self.spec.classes)}); images: {counts}"

    def batch(self, *numbers: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return (images, labels, indices), uint8 (N, C, H, W), (N,), (N,); `numbers` (such as seed, epoch and step) fix them."""
        rng = np.random.default_rng(numbers)
        at = rng.choice(len(self.chances), self.batch_size, p=self.chances)
        crops = [augment.augment_crop(self.learnt.images[i], rng) for i in at]
        others = np.flatnonzero(self.learnt.labels[at] == self.other)
        made = others[rng.random(len(others)) < MADE]
        for place, ground in zip(made, augment.grounds(len(made), SIDE, rng) if len(made) else (), strict=True):
            crops[place] = augment.as_crop(ground, augment.FOREIGN, rng)
        return torch.from_numpy(prepare(crops, self.spec)), torch.from_numpy(self.learnt.labels[at]), torch.from_numpy(at)

    def balanced_sample(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return about `count` images and labels, prepared and otherwise unchanged, as many of each class."""
        indices = [np.flatnonzero(self.learnt.labels == label) for label in range(len(self.spec.classes))]
        images, labels = self.learnt.prepared(self.spec)
        at = torch.from_numpy(np.concatenate([np.resize(of, max(len(of), count // len(indices))) for of in indices]))
        return images[at], labels[at]

    def batch_of(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the images, labels and indices of a step."""
        return self.batch(batch.seed, batch.epoch, batch.step)

    def sample(self, count: int) -> torch.Tensor:
        """Return the images of as many batches as make `count`, always the same."""
        return torch.cat([self.batch(0, i)[0] for i in range(-(-count // self.batch_size))])

    def loss(self, logits: torch.Tensor, labels: torch.Tensor, _) -> torch.Tensor:
        """Return the mean cross-entropy of float logits (N, C)."""
        return F.cross_entropy(logits, labels, label_smoothing=self.smoothing)

    def validation(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the held-out images and labels; those of a class that has fewer than others are there several times."""
        labels = self.held_out.labels
        most = min(VALIDATED, np.bincount(labels).max())
        of = (np.flatnonzero(labels == label) for label in np.unique(labels))
        at = [np.resize(some, most) if len(some) < most else some[np.linspace(0, len(some) - 1, most).astype(int)] for some in of]
        return self.held_out.take(np.concatenate(at)).prepared(self.spec)


def for_tracks(recipe: Recipe, own_images: OwnImages, model: nn.Module) -> Recipe:
    """Return the recipe for a `model` that begins with weights: without epochs where there are few tracks, and the head is enough."""
    few = own_images.learnt.count_tracks().sum() < FINE_TUNED_FROM
    return replace(recipe, epochs=0) if few and head_of(model) else recipe


def name_of(arch: str, root: Path) -> str:
    """Return what a run on a folder's images is called: with a dot, so it never bears the name of weights that ship."""
    folder = re.sub(r"[^\w.+-]", "_", root.resolve().name)[:60]
    return f"{arch}.{folder}"


# ---- What comes of it ------------------------------------------------------------------------------------------------
def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the temperature of the least cross-entropy of softmax(logits / temperature), of logits (N, C) and labels (N,)."""
    z, y = torch.from_numpy(logits).double(), torch.from_numpy(labels)
    best = minimize_scalar(lambda log: F.cross_entropy(z / np.exp(log), y).item(), bounds=np.log(TEMPERATURES), method="bounded")
    return float(np.exp(best.x))


def threshold(p: np.ndarray, labels: np.ndarray, keep: float) -> float:
    """Return the probability that a share `keep` of the rightly named have at least, of probabilities (N, C); NaN if none is."""
    right = p.max(1)[p.argmax(1) == labels]
    return float(np.quantile(right, 1 - keep)) if len(right) else np.nan


def calibrated(spec: Spec, logits: np.ndarray, labels: np.ndarray) -> Spec:
    """Return the spec with the temperature of the least loss on held-out images (logits (N, C), labels (N,)), and `unknown_below`.

    That is the probability that KEPT_NAMES of those that are named rightly have at least, no more than MAX_UNSURE; 0 where there is a
    class `other`, which decides by itself.
    """
    temperature = fit_temperature(logits, labels)
    kept = threshold(torch.from_numpy(logits / temperature).softmax(1).numpy(), labels, KEPT_NAMES)
    below = 0.0 if OTHER in spec.classes or np.isnan(kept) else min(MAX_UNSURE, kept)
    return replace(spec, temperature=round(temperature, 3), unknown_below=round(below, 3))


def test_and_calibrate(own_images: OwnImages, network: Network) -> tuple[Spec, np.ndarray]:
    """Return the network's spec, calibrated, and the confusion matrix of the test images (see `confusion`), which is printed."""
    images, labels = own_images.test.prepared(own_images.spec)
    counts = confusion(_logits(network, images), labels.numpy())
    print(curve.confusion_table(counts, own_images.spec.classes))
    images, labels = own_images.validation()
    return calibrated(own_images.spec, _logits(network, images), labels.numpy()), counts


def write_results(model: nn.Module, spec: Spec, counts: np.ndarray, files: Files) -> None:
    """Write the confusion matrix and the packed network beside its weights; print the command that names what moves in a clip."""
    title = f"{files.name}: {counts.trace() / counts.sum():.1%} of {counts.sum()} test images"
    curve.plot_confusion(files.confusion, counts, spec.classes, title)
    if not packed.built():
        print("run make native, then this script with --pretrained and --export to pack the network for util.watch")
        return
    print(f"written: {files.packed} ({packed.save(freeze(model, spec), files.packed) // 1000} kB)")
    print(f"name what moves in a clip with it: python3 -m util.watch CLIP --network {files.packed} --save OUT")


def _logits(network: Network, images: torch.Tensor) -> np.ndarray:
    return np.concatenate([network(some.numpy()) for some in images.split(250)])


def confusion(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return int (C, C): how many images of each class (row) got each name (column)."""
    classes = logits.shape[1]
    return np.bincount(classes * labels + logits.argmax(1), minlength=classes**2).reshape(classes, classes)
