"""MNIST and CIFAR-10 as two tensors each: downloaded through torchvision, or read from a local folder."""
import hashlib
from argparse import Namespace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F
from tqdm import tqdm

from util.errors import InputError, reading
from util.files import IMAGE_SUFFIXES
from util.spec import OTHER, check_classes

OF_TORCHVISION = {"MNIST", "cifar-10-batches-py"}  # folders that a data set has been downloaded into


def load(dataset: type, root: Path, train: bool, classes: list[str], mode: str, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (images, labels): uint8 (N, C, size, size) with C = 3 for mode "RGB", 1 for "L"; int64 (N,) indices into `classes`.

    `root` holds either DIR/{train,test}/<class name>/* images, or the files of torchvision's `dataset`, which are downloaded
    into it if it has neither. Raises InputError when there is nothing to read and nothing to download from, and for files of another set.
    """
    split = root / ("train" if train else "test")
    if split.is_dir():
        return _load_folder(split, classes, mode, size)
    try:
        data = dataset(root, train=train, download=True)
    except Exception as error:  # torchvision raises what urllib, tarfile, gzip or its own checks raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{root}: {dataset.__name__} is not there and could not be downloaded ({reason}); "
            f"give a folder that has it, or train/<class>/ and test/<class>/ images, with --data"
        ) from error
    images = torch.as_tensor(np.asarray(data.data))
    images = images.permute(0, 3, 1, 2) if images.dim() == 4 else images.unsqueeze(1)
    labels, shape = torch.as_tensor(data.targets), (3 if mode == "RGB" else 1, size, size)
    if len(images) != len(labels) or images.shape[1:] != shape or labels.max() >= len(classes):  # EMNIST's files have MNIST's names
        found = f"{len(images)} images of {tuple(images.shape[1:])}, {len(labels)} labels up to {labels.max()}"
        expected = f"as many labels as images, those of {shape}, up to {len(classes) - 1}"
        raise InputError(f"{root}: its {dataset.__name__} has {found}; expected {expected}; give another folder with --data")
    return images.contiguous(), labels


def _load_folder(split: Path, classes: list[str], mode: str, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    paths, labels = [], []
    for label, name in enumerate(classes):
        found = sorted(p for p in (split / name).glob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
        if not found and (split / name).is_dir():
            raise InputError(f"{split / name}: holds no images; add some, or remove the folder")
        paths += found
        labels += [label] * len(found)
    if not paths:
        raise InputError(f"{split}: no images in {classes[0]}/ … {classes[-1]}/; expected one folder per class")
    images = np.empty((len(paths), size, size, 3 if mode == "RGB" else 1), np.uint8)
    for i, path in enumerate(tqdm(paths, f"reading {split}", unit=" images", leave=False, disable=None)):
        images[i] = read_image(path, mode, size)
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.tensor(labels)


def read_image(path: Path, mode: str, size: int) -> np.ndarray:
    """Return uint8 (size, size, C) of the file at `path`, C = 3 for mode "RGB", 1 for "L"; raises InputError for another size."""
    with reading(path, "image that can be read"), Image.open(path) as image:
        if image.size != (size, size):  # before it is decoded: a small file may claim to be a huge image
            raise InputError(f"{path}: {image.width}x{image.height} pixels, expected {size}x{size}")
        return np.asarray(image.convert(mode)).reshape(size, size, -1)


def initial_weights(args: Namespace, shipped: Path) -> Path | None:
    """Return the weights that a training begins with: --pretrained; for own classes else those that ship, if there are any; or None."""
    return args.pretrained or (shipped if args.classes and shipped.is_file() else None)


def own_classes(root: Path | None, known: list[str]) -> list[str] | None:
    """Return the classes of a folder of somebody's own images (see util.train.own); None if it is the data set that has `known`."""
    if root is None or not root.is_dir():
        return None
    split = next((root / name for name in ("train", "test") if (root / name).is_dir()), None)  # who evaluates needs no train/
    try:
        folders = (path for path in (split or root).iterdir() if path.is_dir())
        found = sorted(path.name for path in folders if not path.name.startswith("."))
        if not found and any(path.suffix.lower() in IMAGE_SUFFIXES for path in root.iterdir()):
            raise InputError(f"{root}: holds images, but no folder per class")
    except OSError as error:
        raise InputError(f"{error.filename or root}: {error.strerror}") from error
    if not found or split and set(found) == set(known) or not split and OF_TORCHVISION & set(found):
        return None
    try:
        check_classes(found)
    except ValueError as error:
        raise InputError(f"{root}: {error}") from error
    if len(found) == 1:
        raise InputError(f"{root}: holds one class alone, {found[0]}; expected a folder per class, two or more ({OTHER} may be one)")
    return found


def subset(images: torch.Tensor, labels: torch.Tensor, most: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Return `most` of the images with their labels, always the same ones: as many of each class as there are, in their order."""
    if most is None or most >= len(labels):
        return images, labels
    at = balanced(labels.numpy(), most)
    return images[at], labels[at]


def balanced(labels: np.ndarray, most: int) -> np.ndarray:
    """Return the indices, in order, of `most` labels drawn by a fixed seed, evenly over the classes as far as each has so many."""
    order = np.random.default_rng(0).permutation(len(labels))
    turn = np.empty(len(labels), int)  # how many of its class are drawn before it
    for label in np.unique(labels):
        of = order[labels[order] == label]
        turn[of] = np.arange(len(of))
    return np.sort(order[np.argsort(turn[order], kind="stable")][:most])


def hold_out(count: int, total: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (train, held-out) index tensors: `count` of `total` drawn at random, always the same ones.

    Raises InputError if there is none to hold out.
    """
    if count < 1:
        raise InputError(f"{total} training images are too few: one in five is held out to pick the epoch; give 5 or more")
    order = torch.randperm(total, generator=torch.Generator().manual_seed(0))
    return order[count:].sort().values, order[:count].sort().values


def fingerprint(images: torch.Tensor, labels: torch.Tensor) -> str:
    """Return 16 hexadecimal digits (of SHA-256) that stand for these images and labels: scores of the same ones can be compared."""
    digest = hashlib.sha256(str(tuple(images.shape)).encode())
    for tensor in (images, labels):
        digest.update(tensor.cpu().contiguous().numpy())
    return digest.hexdigest()[:16]


def normalize(images: torch.Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
    """Return (images / 255 - mean) / std per channel as float32; images uint8 (N, C, H, W)."""
    mean = torch.tensor(mean, device=images.device).view(1, -1, 1, 1)
    std = torch.tensor(std, device=images.device).view(1, -1, 1, 1)
    return (images.float() / 255 - mean) / std


def resized(x: torch.Tensor, size: int) -> torch.Tensor:
    """Return float images (N, C, H, W) averaged down to (N, C, size, size), channels last; those of that size as they are."""
    if x.shape[-1] == size:
        return x
    return F.interpolate(x, size, mode="bilinear", antialias=True).contiguous(memory_format=torch.channels_last)


def random_shift(images: torch.Tensor, pixels: int, generator: torch.Generator) -> torch.Tensor:
    """Return images (N, C, H, W) each moved by up to `pixels` in x and y; what enters is mirrored from inside.

    images: of any dtype, on any device; generator: of the CPU, so that all devices move alike.
    """
    n, channels, height, width = images.shape
    dy, dx = _to(images.device, torch.randint(0, 2 * pixels + 1, (2, n, 1), generator=generator)) - pixels
    rows, columns = (_mirrored(d + torch.arange(size, device=images.device), size) for d, size in ((dy, height), (dx, width)))
    n, channels = (torch.arange(count, device=images.device) for count in (n, channels))
    return images[n.view(-1, 1, 1, 1), channels.view(1, -1, 1, 1), rows[:, None, :, None], columns[:, None, None]]


def _mirrored(i, size):
    """Return indices in [0, size) for those up to size - 1 outside, as in F.pad's mode "reflect"."""
    return size - 1 - (size - 1 - i.abs()).abs()


def random_mirror(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return images (N, C, H, W), about half of them mirrored left to right."""
    flip = _to(images.device, torch.rand(len(images), generator=generator) < 0.5)
    return torch.where(flip.view(-1, 1, 1, 1), images.flip(3), images)


def cutmix(images: torch.Tensor, share: float, generator: torch.Generator) -> torch.Tensor:
    """Return images (N, C, H, W), about `share` of them covered in part by the same part of the image before (CutMix, arXiv:1905.04899).

    images: of any dtype, on any device; generator: of the CPU, so that all devices mix alike.
    The part is as wide in relation to the image as it is high; its size, in pixels, is uniform between none and all, its middle anywhere.
    """
    n, _, height, width = images.shape
    side, y, x, chosen = _to(images.device, torch.rand(4, n, 1, generator=generator))
    side = side.sqrt() * (chosen < share)
    pixels = [(torch.arange(size, device=images.device) + 0.5) / size for size in (height, width)]
    rows, columns = (2 * (middle - p).abs() < side for middle, p in zip((y, x), pixels, strict=True))
    return torch.where(rows[:, None, :, None] & columns[:, None, None], images.roll(1, 0), images)


def _to(device, x):
    return x.to(device, non_blocking=True)  # a GPU need not have caught up
