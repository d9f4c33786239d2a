"""Where in the picture objects count: zones to watch and zones to ignore, as polygons or as an image; and those that have a name."""
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from util.errors import InputError, reading
from util.source.images import read_bgr

Zone = str | Sequence[Sequence[Sequence[float]]]  # an image file (white: inside), or polygons of x, y in pixels


@dataclass
class Zones:
    """The part of a frame in which objects count; an object is where most of its box is."""

    counts: np.ndarray | None = None  # bool (H, W); None: everywhere
    named: dict[str, np.ndarray] = field(default_factory=dict)  # bool (H, W): what to tell of (util.track.places)

    def keep(self, boxes: np.ndarray) -> np.ndarray:
        """Return bool (N,): whether at least half of each box, int (N, 4) x, y, width, height, lies where objects count."""
        if self.counts is None:
            return np.ones(len(boxes), bool)
        return np.array([self.counts[y : y + height, x : x + width].mean() >= 0.5 for x, y, width, height in boxes], bool)


def make_zones(width: int, height: int, /, watch: Zone, ignore: Zone, **named: Zone) -> Zones:
    """Return the zones of frames of width x height: all of `watch` (all, if that is empty) without `ignore`; raises InputError."""
    areas = {name: _area(zone, name, width, height) for name, zone in named.items()}
    if outside := [name for name, area in areas.items() if not area.any()]:
        raise InputError(f"zones: {outside[0]} has no pixel of the {width}x{height} picture")
    if not len(watch) and not len(ignore):
        return Zones(named=areas)
    counts = _area(watch, "watch", width, height) if len(watch) else np.ones((height, width), bool)
    if len(ignore):
        counts &= ~_area(ignore, "ignore", width, height)
    if not counts.any():
        raise InputError("zones: nothing is left to watch")
    return Zones(counts, areas)


def _area(zone: Zone, name: str, width: int, height: int) -> np.ndarray:
    if isinstance(zone, str):
        with reading(zone, "image of a zone"):
            image = read_bgr(Path(zone))
        if image.shape[:2] != (height, width):
            raise InputError(f"{zone}: is {image.shape[1]}x{image.shape[0]} pixels, the video {width}x{height}; zones must have its size")
        return image.max(2) > 127
    area = np.zeros((height, width), np.uint8)
    try:
        polygons = [np.array(polygon, np.float64) for polygon in zone]
        if any(p.ndim != 2 or p.shape[0] < 3 or p.shape[1] != 2 or not (abs(p) <= 1e5).all() for p in polygons):
            raise ValueError
    except Exception:  # what numpy raises for a list of anything
        raise InputError(f"zones: {name} must be an image file or polygons, [[[x, y], [x, y], [x, y], …], …] in pixels") from None
    for polygon in polygons:
        cv2.fillPoly(area, [polygon.round().astype(np.int32)], 1)
    return area.astype(bool)
