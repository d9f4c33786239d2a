"""What CIFAR-10 lacks: images of the same classes from another source, people, and what is none of the classes.

    DIR/<class>/<source>_NNNNN.png    32x32; <class> is one of a network's names, or `other`
"""
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from util.cli import InputError

# Sources of `other` in Tiny ImageNet that mostly show people, which are learnt as such, and those that do often, which are not learnt at all.
PEOPLE = "academic_gown basketball bikini bow_tie fur_coat kimono military_uniform neck_brace swimming_trunks volleyball".split()
UNSURE = """apron backpack barbershop brass broom drumstick flagpole maypole oboe plunger pole poncho punching_bag rugby_ball snorkel sombrero
    sunglasses umbrella vestment""".split()
KEPT_OUT = 6  # one in so many sources of `other` judges how much of what is foreign gets a name
HELD_OUT = 10  # one in so many images of what has a name judges, too


def load(root: Path, classes: list[str], size: int) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """Return (images, labels, sources): uint8 (N, 3, size, size), int64 (N,) indices into `classes`, str (N,).

    Raises InputError where a folder has another name, or an image another size.
    """
    images, labels, sources = [], [], []
    for folder in sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []:
        if folder.name not in classes:
            raise InputError(f"{folder}: no class of this network; expected folders named {' '.join(classes)}")
        for path in sorted(folder.glob("*.png")):
            source = path.stem.rpartition("_")[0]
            name = "person" if folder.name == "other" and source in PEOPLE else folder.name
            if name == "other" and source in UNSURE:
                continue
            with Image.open(path) as image:
                pixels = np.asarray(image.convert("RGB"))
            if pixels.shape[:2] != (size, size):
                raise InputError(f"{path}: {pixels.shape[1]}x{pixels.shape[0]} pixels, expected {size}x{size}")
            images.append(pixels)
            labels.append(classes.index(name))
            sources.append(source)
    if not images:
        raise InputError(f"{root}: holds no <class>/*.png")
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(), torch.tensor(labels), np.array(sources)


def split(labels: torch.Tensor, sources: np.ndarray, other: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (train, held-out) index tensors: of what has a name every tenth image is held out, of `other` every sixth source."""
    foreign = np.unique(sources[labels.numpy() == other])
    apart = np.isin(sources, foreign[::KEPT_OUT]) & (labels.numpy() == other)
    place = np.zeros(len(labels), int)
    for label in labels.unique().tolist():
        of = np.flatnonzero(labels.numpy() == label)
        place[of] = np.arange(len(of))
    held = torch.from_numpy(np.where(labels.numpy() == other, apart, place % HELD_OUT == 0))
    return (~held).nonzero().flatten(), held.nonzero().flatten()
