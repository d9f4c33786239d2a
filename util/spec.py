"""What a clip needs to know of a network: it travels with the weights, in checkpoints and in packed files."""
import json
import math
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Protocol

import numpy as np

OTHER = "other"  # a class of this name is evidence for "unknown"; nothing is ever called so
RESERVED = ("unknown", "train", "test")  # what a track without a name is called, and folders that hold classes
BARRED = frozenset('/\\<>:"|?*')  # in names of folders, on some disks
CROPS = ("object", "dimmed", "digit")  # how a crop of a frame becomes an image of `shape`: see util.crops
TYPICAL = 0.8  # share of boxes with their class's aspect and speed; the others, parts of things and what took in more, have any
ANY_ASPECT, ANY_SPEED = (0.0, 1.0), (0.3, 1.1)  # mean and standard deviation over boxes of anything: see Spec.aspects, Spec.speeds
NORMALS = ("aspects", "speeds")  # fields that hold a mean and a standard deviation for classes
SLOW = 1.0  # heights per second; what is slower tells no more, as everything stands at times


@dataclass(frozen=True)
class Spec:
    """A network's architecture, its classes, and how images are made for it.

    Raises ValueError, in one line, for a value that no network can have.
    """

    arch: str
    classes: tuple[str, ...]
    shape: tuple[int, int, int]  # channels, height, width in pixels
    mean: tuple[float, ...]  # per channel, of pixels in 0..1
    std: tuple[float, ...]
    crop: str = "object"  # one of CROPS
    also_right: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # asked for the class, these are right too
    temperature: float = 1.0  # softmax(logits / temperature) says how often it is right
    unknown_below: float = 0.0  # probability below which a name is "unknown"
    detector: Mapping[str, float] = field(default_factory=dict)  # parameters of fastmcd that the network wants
    prior: Mapping[str, float] = field(default_factory=dict)  # class -> how often it is met in clips, 1 being as often as it was learnt
    # Class -> mean and standard deviation over its boxes of log(height / width), and of log(own heights per second).
    aspects: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    speeds: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    kinds: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # what a thing is where its class is in doubt -> classes

    def __post_init__(self):
        channels, height, width = self.shape
        if not 0 < len(self.classes) == len(set(self.classes)) <= 10_000 or not all(map(_is_name, self.classes)):
            raise ValueError(f"classes are {str(self.classes)[:200]}; expected different names of 1 to 100 printable characters")
        if channels not in (1, 3) or not (4 <= height <= 1024 and 4 <= width <= 1024):
            raise ValueError(f"images are {self.shape}; expected 1 or 3 channels of 4 to 1024 pixels a side")
        if not len(self.mean) == len(self.std) == channels or not all(map(math.isfinite, (*self.mean, *self.std))) or min(self.std) <= 0:
            raise ValueError(f"mean {self.mean} and std {self.std} can't standardise {channels} channels")
        if self.crop not in CROPS:
            raise ValueError(f"crops are prepared as {self.crop!r}; expected one of {' '.join(CROPS)}")
        if tuple(self.shape) != ((1, 28, 28) if self.crop == "digit" else (3, height, height)):
            raise ValueError(f"images are {self.shape}, but crops become 1 x 28 x 28 as a digit, 3 x n x n as an object")
        if not all(name in self.classes and 0 < often < math.inf for name, often in self.prior.items()):
            raise ValueError(f"prior is {dict(self.prior)}; expected some of the classes, each with a number above 0")
        for what in NORMALS:
            found = getattr(self, what)
            if not all(name in self.classes and abs(mean) <= 10 and 0.01 <= sd <= 10 for name, (mean, sd) in found.items()):
                expected = "some of the classes, each with a mean up to 10 and a standard deviation from 0.01 to 10"
                raise ValueError(f"{what} are {dict(found)}; expected {expected}")
        if not (0 < self.temperature < math.inf and 0 <= self.unknown_below <= 1):
            raise ValueError(f"temperature is {self.temperature}, unknown_below {self.unknown_below}; expected above 0, and 0 to 1")

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain dicts, lists, strings and numbers, which JSON and `torch.load(weights_only=True)` take."""
        return json.loads(json.dumps({**asdict(self), "detector": {name: float(value) for name, value in self.detector.items()}}))

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "Spec":
        """Return the Spec that `to_dict` gave; raises ValueError, in one line, for anything else."""
        known = {f.name for f in fields(cls)}
        if not isinstance(plain, Mapping) or not plain.keys() <= known:
            raise ValueError(f"a network's spec is {str(plain)[:200]}; expected {' '.join(sorted(known))}")
        try:
            values = dict(plain)
            for name, kind in (("classes", str), ("shape", int), ("mean", float), ("std", float)):
                values[name] = tuple(map(kind, values[name]))
            for what in ("also_right", "kinds"):
                values[what] = {str(name): tuple(map(str, names)) for name, names in values.get(what, {}).items()}
            for what in ("prior", "detector"):
                values[what] = {str(name): float(number) for name, number in values.get(what, {}).items()}
            for what in NORMALS:
                values[what] = {str(name): (float(mean), float(sd)) for name, (mean, sd) in values.get(what, {}).items()}
            return cls(**values)
        except (KeyError, TypeError, AttributeError, OverflowError) as error:
            raise ValueError(f"a network's spec can't be read ({type(error).__name__}: {error})") from error

    def log_prior(self, more: Mapping[str, float] | None = None) -> np.ndarray:
        """Return the log of `prior`, float64 (classes,), in which `more` goes before the spec's own."""
        return np.log([{**self.prior, **(more or {})}.get(name, 1.0) for name in self.classes])

    def log_geometry(self, boxes: np.ndarray, speeds: np.ndarray) -> np.ndarray:
        """Return the log of how much likelier each box's aspect and speed are for the class than for anything, float64 (N, classes).

        boxes: (N, 4), x, y, width, height. speeds: (N,), of the box's heights per second, against the background; NaN is unknown. Both are
        log-normal for TYPICAL of a class's boxes, and for the rest as for anything; 0 for classes of which nothing is known.
        """
        aspects = np.log(np.maximum(boxes[:, 3], 1) / np.maximum(boxes[:, 2], 1))
        of_speed = self._log_ratio(np.log(np.maximum(speeds, SLOW)), self.speeds, ANY_SPEED)
        return self._log_ratio(aspects, self.aspects, ANY_ASPECT) + np.nan_to_num(of_speed)

    def _log_ratio(self, values: np.ndarray, normals: Mapping[str, tuple[float, float]], anything: tuple[float, float]) -> np.ndarray:
        mean, sd = np.array([normals.get(name, anything) for name in self.classes]).T
        any_mean, any_sd = anything
        values = values[:, None]
        ratio = np.exp((((values - any_mean) / any_sd) ** 2 - ((values - mean) / sd) ** 2) / 2) * any_sd / sd
        return np.log(TYPICAL * ratio + 1 - TYPICAL)

    def right(self, name: str) -> tuple[str, ...]:
        """Return the names that count as right where `name` is asked for, itself first."""
        return (name, *self.also_right.get(name, ()))


class Network(Protocol):
    """What names crops: a packed network, or PyTorch's."""

    spec: Spec

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return logits, float32 (N, classes), for uint8 images (N, C, H, W), RGB or grey, of the spec's shape."""


def check_classes(names: Iterable[str]) -> None:
    """Raise ValueError, in one line, unless the names can be classes and, on any disk, folders side by side.

    Refused: what a Spec refuses, BARRED, a dot at an end, RESERVED, and two names that differ in case or in how accents are coded alone.
    """
    seen = {}
    for name in names:
        if not _is_name(name) or "." in (name[0], name[-1]) or BARRED & set(name) or len(name.encode(errors="replace")) > 200:
            expected = f"1 to 100 printable characters, none of {' '.join(sorted(BARRED))}, no dot or blank at an end"
            raise ValueError(f"{name[:60]!r} can't be a class; expected {expected}")
        if name.casefold() in RESERVED:
            raise ValueError(f"{name!r} can't be a class: it has another meaning; what is none of the classes is called {OTHER}")
        same = seen.setdefault(unicodedata.normalize("NFC", name).casefold(), name)
        if same != name:
            raise ValueError(f"the classes {same!r} and {name!r} are one folder on some disks; spell them alike")


def _is_name(text: str) -> bool:
    return isinstance(text, str) and 0 < len(text) <= 100 and text.isprintable() and text == text.strip()
