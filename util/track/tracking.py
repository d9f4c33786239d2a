"""Objects with an identity: sightings of one frame joined into tracks, each with one dependable name."""
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from util.track.association import Association
from util.track.evidence import Evidence, weight_of

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


class Life:
    """What is known so far of an object that may become a track."""

    def __init__(self, moment: Moment, calibration: tuple[float, float]):
        self.number = 0  # until it is confirmed
        self.first, self.start, self.sightings = moment.number, moment.seconds, 0
        self.evidence = Evidence(*calibration)
        self.best = {}  # class, or None for unknown -> (worth, crop, frame, box): the name may still change

    def add(self, moment: Moment, sighting: Sighting, logits: np.ndarray) -> None:
        self.last, self.end = moment.number, moment.seconds
        self.sightings += 1
        self.evidence.add(logits, weight_of(sighting.box, *moment.frame.shape[1::-1]))
        self.label, self.probability = self.evidence.name()
        x, y, width, height = sighting.crop
        worth = self.probability * min(width, height)
        if self.label not in self.best or worth > self.best[self.label][0]:
            crop = np.ascontiguousarray(moment.frame[y : y + height, x : x + width, ::-1])
            self.best[self.label] = worth, crop, moment.number, sighting.box

    def track(self, classes: Sequence[str]) -> Track:
        _, crop, frame, box = self.best[self.label]
        ages = self.first, self.last, self.start, self.end
        return Track(self.number, called(self.label, classes), self.probability, *ages, self.sightings, crop, frame, box)


def called(label: int | None, classes: Sequence[str]) -> str:
    """Return the class's name, or UNKNOWN."""
    return UNKNOWN if label is None else classes[label]


class Tracker:
    """Joins sightings into tracks, frame by frame, and asks a network for names only where that can change one.

    classes: names. calibration: (temperature, unknown_below), see util.track.evidence. min_sightings: a track counts, and gets
    its number, from so many on; less is flicker. lost_seconds: an object unseen for longer has ended. fps: frames per second.
    """

    def __init__(self, classes: Sequence[str], calibration=(1.0, 0.0), fps=25.0, min_sightings=5, lost_seconds=1.0, overlap=0.2):
        self.classes, self.calibration, self.min_sightings, self.lost_seconds = classes, calibration, min_sightings, lost_seconds
        self._association = Association(fps, lost_seconds, overlap)
        self._lives: dict[int, Life] = {}
        self._count = 0

    def update(self, moment: Moment, logits: np.ndarray) -> None:
        """Fill in the sightings' tracks and names and the tracks that have ended; logits: float (sightings, classes)."""
        boxes = np.array([sighting.box for sighting in moment.sightings], float)
        ids = self._association.update(boxes, moment.result.homography, moment.seconds).tolist()
        for sighting, row, identity in zip(moment.sightings, logits, ids, strict=True):
            if not identity:  # not seen twice yet
                alone = Evidence(*self.calibration)
                alone.add(row)
                label, sighting.probability = alone.name()
                sighting.label = called(label, self.classes)
                continue
            life = self._lives.get(identity) or self._lives.setdefault(identity, Life(moment, self.calibration))
            life.add(moment, sighting, row)
            if not life.number and life.sightings >= self.min_sightings:
                self._count += 1
                life.number = self._count
            sighting.track = life.number
            sighting.label, sighting.probability = called(life.label, self.classes), life.probability
        ended = [i for i, life in self._lives.items() if moment.seconds - life.end > self.lost_seconds]
        moment.ended = self._end(ended)

    def finish(self) -> list[Track]:
        """Return the tracks that have not ended yet, and forget them."""
        return self._end(list(self._lives))

    def _end(self, identities: list[int]) -> list[Track]:
        lives = [self._lives.pop(i) for i in identities]
        return [life.track(self.classes) for life in lives if life.number]
