"""Objects with an identity: sightings of one frame joined into tracks, each with one dependable name."""
from dataclasses import dataclass, field

import numpy as np

UNKNOWN = "unknown"  # the name of what none of the classes fits


@dataclass(eq=False)
class Sighting:
    """One object in one frame."""

    box: tuple[int, int, int, int]  # x, y, width, height in pixels, tight
    crop: tuple[int, int, int, int]  # the same with context, as the classifier sees it
    score: float  # of the detector, 0..1
    track: int = 0  # identity, from 1; 0 while in no confirmed track
    label: str = UNKNOWN  # what the track is called so far
    probability: float = 0.0  # of that name, 0..1


@dataclass(eq=False)
class Track:
    """One object over time."""

    number: int  # from 1
    label: str  # or UNKNOWN
    probability: float  # of the label, 0..1
    first: int  # frames, from 1
    last: int
    start: float  # seconds from the start of the source
    end: float
    sightings: int  # frames in which it was seen
    best: np.ndarray  # RGB uint8 (h, w, 3), the crop to show
    best_frame: int
    best_box: tuple[int, int, int, int]


@dataclass(eq=False)
class Moment:
    """One frame and what was seen in it."""

    number: int  # from 1
    seconds: float  # from the start of the source
    frame: np.ndarray  # BGR uint8 (H, W, 3)
    result: object  # fastmcd.Result
    sightings: list[Sighting]
    ended: list[Track] = field(default_factory=list)  # tracks not seen for too long
