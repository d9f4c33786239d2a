"""What CIFAR-10 lacks: images of the same classes from another source, people, and what is none of the classes.

    DIR/<class>/<source>_NNNNN.png    32x32; <class> is one of a network's names, or `other`
"""
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from util.errors import InputError
from util.spec import Spec
from util.train import augment, data
from util.train.batches import Batch
from util.train.steps import distillation_losses

# Sources of `other` in Tiny ImageNet that mostly show people, which are learnt as such, and those that often do, which are not learnt.
PEOPLE = "academic_gown basketball bikini bow_tie fur_coat kimono military_uniform neck_brace swimming_trunks volleyball".split()
UNSURE = (
    "apron backpack barbershop brass broom drumstick flagpole maypole oboe plunger pole poncho punching_bag rugby_ball snorkel sombrero "
    "sunglasses umbrella vestment"
).split()
VEHICLES = ("automobile", "ship", "truck")  # seen from above, too, where photographs show none
WINDOWS = "people"  # the source of `person` whose images are pedestrian windows, of which the person is a part
KEPT_OUT = 6  # one in so many sources of `other` is held out, to tell how much of what is foreign gets a name
HELD_OUT = 10  # one in so many images of what has a name is held out, too


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
            images.append(data.read_image(path, "RGB", size))
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


def kinds_of(labels: np.ndarray, sources: np.ndarray, other: int) -> np.ndarray:
    """Return how each image is cut, str (N,): see util.train.augment."""
    return np.where(sources == WINDOWS, augment.WINDOW, np.where(labels == other, augment.FOREIGN, augment.PHOTOGRAPH))


class WildMixture:
    """Batches for a network that names what moves: photographs as they are, and they and `wild` images as crops of a clip look.

    images, labels: the photographs, uint8 (N, 3, size, size), int64 (N,). root: see `load`. spec: the network's; its last two classes
    are person and other. batch_size: of this process. device: of what `loss` gets. Raises InputError, in one line, if there is too
    little to learn from.
    """

    SMALLEST = 15  # images of a batch: each share has one or more, and so has what is made to look like crops and what isn't
    # Shares of a batch, in this order; of the last three some are not made to look like crops.
    SHARES = {"photographs": 0.25, "photographs as crops": 0.12, "known": 0.24, "people": 0.17, "other": 0.17, "grounds": 0.05}
    PLAIN = {"known": 0.45, "people": 0.25, "other": 0.4}
    LEAST = {  # what each of them needs, so that something is left to learn when some is held out
        "known": "two images or more of a class that has a name, such as truck/",
        "people": "two images or more in person/", "other": "two sources or more in other/",
    }  # fmt: skip
    # What a teacher of the photographs counts beside their labels: (cross-entropy, distance), as they are and as crops.
    TAUGHT = {"photographs": (0.3, 0.9), "photographs as crops": (0.6, 0.5)}
    TAUGHT_ALL = (0.2, 0.8)  # the same of every image, where the teacher knows all classes
    # Classes that there are few of in the wild, or that are mixed up in clips, are drawn more often than others.
    OFTEN = {"automobile": 2.0, "bird": 1.2, "dog": 1.2, "horse": 1.5, "truck": 1.6, "frog": 0.7}

    def __init__(self, images: torch.Tensor, labels: torch.Tensor, root: Path, spec: Spec, batch_size: int, device: torch.device):
        self.classes, self.mean, self.size = list(spec.classes), spec.mean, images.shape[-1]
        self.photographs, self.names = _last_channel(images), labels.cpu().numpy()
        found, self.labels, self.sources = load(root, self.classes, self.size)
        self.images, person, other = _last_channel(found), self.classes.index("person"), self.classes.index("other")
        self.kept, self.held_out = (part.numpy() for part in split(self.labels, self.sources, other))
        self.labels = self.labels.numpy()
        self.kinds = kinds_of(self.labels, self.sources, other)
        self.vehicles = [self.classes.index(name) for name in VEHICLES if name in self.classes]
        kept = self.labels[self.kept]
        self.indices = {
            "photographs": np.arange(len(self.names)), "photographs as crops": np.arange(len(self.names)),
            "known": self.kept[(kept != person) & (kept != other)], "people": self.kept[kept == person], "other": self.kept[kept == other],
        }  # fmt: skip
        for kind, least in self.LEAST.items():
            if not len(self.indices[kind]):
                raise InputError(f"{root}: too little to learn from; it needs {least}")
        if batch_size < self.SMALLEST:
            raise InputError(f"a batch of {batch_size} images (of each process) is too small for its mixture; give {self.SMALLEST} or more")
        self.counts = {kind: round(share * batch_size) for kind, share in self.SHARES.items()}
        self.counts["photographs"] += batch_size - sum(self.counts.values())
        weights = [self.TAUGHT[kind] for kind in self.TAUGHT for _ in range(self.counts[kind])]
        self.weights = torch.tensor(weights, device=device).T  # of a photograph's losses
        self.chances = {"photographs as crops": self._chances(self.names), "known": self._chances(self.labels[self.indices["known"]])}
        windows = self.sources[self.indices["people"]] == WINDOWS
        self.chances["people"] = np.where(windows, 0.55 / max(1, windows.sum()), 0.45 / max(1, (~windows).sum()))
        self.chances["people"] /= self.chances["people"].sum()

    def _chances(self, labels: np.ndarray) -> np.ndarray:
        """Each image's chance to be drawn: every class as often as OFTEN says."""
        often = np.array([self.OFTEN.get(name, 1.0) for name in self.classes])
        chances = often[labels] / np.bincount(labels)[labels]
        return chances / chances.sum()

    def batch(self, *numbers: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return (images, labels, indices): uint8 (N, 3, size, size), (N,), and the indices of the photographs, which come first.

        `numbers` (such as seed, epoch and step) fix the batch.
        """
        rng = np.random.default_rng(numbers)
        drawn = {kind: rng.choice(at, self.counts[kind], p=self.chances.get(kind)) for kind, at in self.indices.items()}
        plain, crops = drawn["photographs"], drawn["photographs as crops"]
        images = [augment.as_cut(self.photographs[plain], [augment.PHOTOGRAPH] * len(plain), rng)]
        images.append(self._crops(self.photographs[crops], self._turned(augment.PHOTOGRAPH, self.names[crops]), rng))
        for kind in self.PLAIN:
            at = drawn[kind]
            kinds = self._turned(self.kinds[at], self.labels[at])
            some = round(self.PLAIN[kind] * len(at))
            images.append(augment.as_cut(self.images[at[:some]], kinds[:some], rng))
            images.append(self._crops(self.images[at[some:]], kinds[some:], rng))
        count = self.counts["grounds"]
        images.append(self._crops(augment.grounds(count, self.size, rng), [augment.FOREIGN] * count, rng))
        labels = [self.names[plain], self.names[crops], *(self.labels[drawn[kind]] for kind in self.PLAIN), [len(self.classes) - 1] * count]
        return _first_channel(np.concatenate(images)), torch.from_numpy(np.concatenate(labels)), torch.from_numpy(np.r_[plain, crops])

    def _turned(self, kinds, labels):
        """The kinds of images with these labels, vehicles told apart from other photographs."""
        return np.where(np.isin(labels, self.vehicles), augment.VEHICLE, kinds)

    def _crops(self, images, kinds, rng):
        return augment.as_crops(images, kinds, self.size, self.mean, rng)

    def loss(self, logits: torch.Tensor, labels: torch.Tensor, taught: torch.Tensor | None) -> torch.Tensor:
        """Return the mean loss of a batch's float logits (N, C): cross-entropy, and the distance to a teacher.

        taught: logits (N, C) of a teacher that knows all classes; or (n, fewer than C), of the photographs' classes alone, for the
        photographs, which come first, and maybe for more; or None.
        """
        losses = F.cross_entropy(logits, labels, reduction="none")
        if taught is None:
            return losses.mean()
        if taught.shape == logits.shape:
            vehicles = sum(labels == k for k in self.vehicles) > 0  # no new tensor: a CUDA graph can't record its copy
            unheard = vehicles & (taught.argmax(1) != labels)  # turned as from above, teachers take some for persons
            alone, beside = (torch.where(unheard, *pair) for pair in zip((1.0, 0.0), self.TAUGHT_ALL, strict=True))
            return (alone * losses + beside * distillation_losses(logits, taught)).mean()
        alone, beside = self.weights
        count, known = len(alone), taught.shape[1]
        away = distillation_losses(logits[:count, :known], taught[:count])
        return torch.cat([alone * losses[:count] + beside * away, losses[count:]]).mean()

    def batch_of(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the images, labels and indices of a step, others in each of several processes."""
        more = [batch.rank] if batch.rank else []  # the first draws what one process alone draws
        return self.batch(batch.seed, batch.epoch, batch.step, *more)

    def sample(self, seed: int, count: int) -> torch.Tensor:
        """Return the images of as many batches as make `count`, always the same."""
        return torch.cat([self.batch(seed, i)[0] for i in range(-(-count // sum(self.counts.values())))])

    def validation(self, images: torch.Tensor, labels: torch.Tensor, most: int = 300) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (images, labels), always the same: photographs, and up to `most` held-out images of what is known, people, and other.

        images, labels: the photographs that were not learnt. The others are made to look like crops.
        """
        rng, at, of = np.random.default_rng(0), [], self.labels[self.held_out]
        person, other = (self.classes.index(name) for name in ("person", "other"))
        for some in ((of != person) & (of != other), of == person, of == other):
            some = self.held_out[some]
            at.append(some[np.linspace(0, len(some) - 1, min(most, len(some))).astype(int)])
        at = np.concatenate(at)
        crops = _first_channel(self._crops(self.images[at], self.kinds[at], rng))
        some = torch.linspace(0, len(images) - 1, min(most, len(images))).long()  # a folder's images come class by class
        return torch.cat([images[some].cpu(), crops]), torch.cat([labels[some].cpu(), torch.from_numpy(self.labels[at])])


def _last_channel(images: torch.Tensor) -> np.ndarray:
    return images.permute(0, 2, 3, 1).contiguous().cpu().numpy()


def _first_channel(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2)
