"""Objects with an identity: sightings of one frame joined into tracks, each with one dependable name."""
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from util.track.association import Association
from util.track.evidence import weight_of
from util.track.names import UNKNOWN, Names
from util.track.places import Crossing, Places, Visit, Whereabouts
from util.track.views import Schedule, Views, chosen

SURE = 0.8  # an object in no track yet is unknown while the detector's score and the name's probability have a smaller sum
SETTLED = 3  # sightings until an object's speed is known


@dataclass(eq=False)
class Sighting:
    """One object in one frame."""

    box: tuple[int, int, int, int]  # x, y, width, height in pixels, tight
    crop: tuple[int, int, int, int]  # the same with context, as the classifier sees it
    score: float  # of the detector, 0..1
    track: int = 0  # identity, from 1; 0 while in no confirmed track
    label: str = UNKNOWN  # what the track is called so far
    probability: float = 0.0  # of that name, 0..1
    speed: float = math.nan  # against the background, in the box's heights per second; NaN: not known yet
    expected: bool = False  # nothing was seen: it is where a lost track should be


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
    kind: str = UNKNOWN  # what the label is one of, such as vehicle; may be known where the label isn't
    kind_probability: float = 0.0
    crossings: tuple[Crossing, ...] = ()  # of lines, so far
    visits: tuple[Visit, ...] = ()  # to zones, so far


@dataclass(eq=False)
class Moment:
    """One frame and what was seen in it."""

    number: int  # from 1
    seconds: float  # from the start of the source
    frame: np.ndarray  # BGR uint8 (H, W, 3)
    result: object  # fastmcd.Result
    sightings: list[Sighting]
    ended: list[Track] = field(default_factory=list)  # tracks not seen for too long
    begun: list[Track] = field(default_factory=list)  # as they are so far: tracks that are new
    renamed: list[Track] = field(default_factory=list)  # and those that are called something else than in the frame before
    dropped: list[Track] = field(default_factory=list)  # those that would have ended, and are left out as none of the classes
    passed: list[tuple[Track, Crossing | Visit]] = field(default_factory=list)  # as they are so far: who crosses, enters or leaves what
    expected: list[Sighting] = field(default_factory=list)  # named tracks that were lost lately, where they should be

    @property
    def tracks(self) -> list[Sighting]:
        """What belongs to a track, seen or expected: each has its box, label, probability and, as `track`, its identity."""
        return [sighting for sighting in self.sightings if sighting.track] + self.expected


class TrackState:
    """What is known so far of an object that may become a track."""

    def __init__(self, moment: Moment, names: Names, identity: int):
        self.identity = identity  # of the association; 0 where it is seen for the first time, which is no part of a track
        self.number = 0  # until it is confirmed
        self.first, self.start, self.sightings = moment.number, moment.seconds, 0
        self._names, self.evidence, self.views = names, names.evidence(), Views()
        self.label, self.probability = UNKNOWN, 0.0
        self.called = None  # the label's class, if it is one
        self.told = None  # what it was called when somebody was told of it
        self.called_so = defaultdict(names.evidence)  # label -> what the evidence said in the sightings that had it
        self.where = Whereabouts()
        self.best = {}  # label -> (worth, crop, frame, box): the name may still change

    def look(self, logits: np.ndarray, weight: float, sightings: int) -> None:
        """Take what the network says of a view that stands for so many sightings."""
        self.evidence.add(logits, weight, sightings)
        self.called, self.label, self.probability = self._names.of(self.evidence, self.called)

    def see(self, moment: Moment, sighting: Sighting, weight: float) -> None:
        """Count the sighting, as evidence `weight` times; its crop is kept where it shows the name better than those before."""
        self.last, self.end = moment.number, moment.seconds
        self.sightings += 1
        if self.evidence.weight > 0:
            self.called_so[self.label].include(self.evidence, weight)
        x, y, width, height = sighting.crop
        worth = self.probability * min(width, height)
        if self.label not in self.best or worth > self.best[self.label][0]:
            crop = np.ascontiguousarray(moment.frame[y : y + height, x : x + width, ::-1])
            self.best[self.label] = worth, crop, moment.number, sighting.box

    def conclude(self) -> Track:
        """Return the track as it was all in all: called what it was called most, by what its sightings count and how probable the name was.

        The last sightings alone, of which the evidence tells most, often show half an object that leaves.
        """
        sure = {label: self._names.probability(label, evidence) for label, evidence in self.called_so.items()}
        if sure:
            self.label = max(sure, key=lambda label: self.called_so[label].weight * sure[label])
            self.evidence, self.probability = self.called_so[self.label], sure[self.label]
            self.called = self._names.index(self.label)
        return self.track()

    def track(self) -> Track:
        """Return the track as it is so far."""
        _, crop, frame, box = self.best[self.label]
        kind, kind_probability = self._names.kind(self.evidence, self.called)
        return Track(
            self.number, self.label, self.probability, first=self.first, last=self.last, start=self.start, end=self.end,
            sightings=self.sightings, best=crop, best_frame=frame, best_box=box, kind=kind, kind_probability=kind_probability,
            crossings=tuple(self.where.crossings), visits=self.where.all_visits(),
        )  # fmt: skip


class Tracker:
    """Joins sightings into tracks, frame by frame, and asks for a view of an object only where that can change its name.

    For each moment first `associate`, then `name`. names: those that tracks may have. fps: frames per second.
    min_sightings: a track counts, and gets its number, from so many on; less is flicker. lost_seconds, overlap: see Association; what it
    forgets has ended. keep_seconds: so long, but no longer than it was seen, a lost track with a name is expected where it should be.
    schedule: which sightings are looked at; None: all. places: lines and zones to tell of.
    """

    def __init__(
        self, names: Names, fps=25.0, min_sightings=5, lost_seconds=1.0, keep_seconds=1.0, overlap=0.2, schedule: Schedule | None = None,
        places: Places | None = None,
    ):  # fmt: skip
        self.names, self.min_sightings, self.keep_seconds = names, min_sightings, keep_seconds
        self.places = places or Places()
        self.schedule = schedule or Schedule(longest=1, budget=10**9)
        self._association = Association(fps, lost_seconds, overlap)
        self._states: dict[int, TrackState] = {}
        self._seen: list[tuple[TrackState, float]] = []  # of this moment's sightings, and what each counts
        self._count = 0

    def associate(self, moment: Moment) -> list[int]:
        """Return the indices of the sightings to look at; fill in speeds that are known."""
        boxes = np.array([sighting.box for sighting in moment.sightings], float)
        identities, speeds = self._association.update(boxes, moment.result.homography, moment.seconds)
        self._seen, overdue = [], []
        for sighting, identity, speed in zip(moment.sightings, identities.tolist(), speeds.tolist(), strict=True):
            state = self._states.get(identity) if identity else None
            if state is None:
                state = TrackState(moment, self.names, identity)
                if identity:
                    self._states[identity] = state
            if state.sightings >= SETTLED:
                sighting.speed = speed
            weight = weight_of(sighting.box, *moment.frame.shape[1::-1])
            overdue.append(state.views.overdue(self.schedule, weight, state.evidence.margin()))
            self._seen.append((state, weight))
        return chosen(overdue, self.schedule.budget)

    def name(self, moment: Moment, viewed: Sequence[int], logits: np.ndarray) -> None:
        """Fill in the sightings' tracks and names, and which tracks begin, are renamed, pass lines or zones, and end.

        logits: float (viewed, classes), what `viewed` shows.
        """
        for i, row in zip(viewed, logits, strict=True):
            state, weight = self._seen[i]
            state.look(row, weight, state.views.add(self.schedule, weight))
        for sighting, (state, weight) in zip(moment.sightings, self._seen, strict=True):
            state.see(moment, sighting, weight)
            if state.identity and not state.number and state.sightings >= self.min_sightings:
                self._count += 1
                state.number = self._count
            if state.number and state.label != state.told:
                (moment.renamed if state.told else moment.begun).append(state.track())
                state.told = state.label
            sure = state.number or sighting.score + state.probability >= SURE
            sighting.track, sighting.probability, sighting.label = state.number, state.probability, state.label if sure else UNKNOWN
            self.places.look(state.where, sighting.box, moment.seconds)
            if state.number and state.where.news:
                moment.passed += [(state.track(), passage) for passage in state.where.news]
                state.where.news = []
        moment.expected = self._expected(moment)
        known = self._association.identities()
        moment.ended, moment.dropped = self._end([i for i in self._states if i not in known])

    def _expected(self, moment: Moment) -> list[Sighting]:
        """Return the named tracks lost lately where they should be, if that is inside the frame and nothing else is seen there.

        What was lost at the frame's edge has left.
        """
        height, width = moment.frame.shape[:2]
        seen = np.array([sighting.box for sighting in moment.sightings], float).reshape(-1, 4)
        found = []
        for identity, box in self._association.unseen().items():
            state, low, high = self._states[identity], box[:2], box[:2] + box[2:]
            kept = min(self.keep_seconds, state.end - state.start)
            if not state.number or state.label == UNKNOWN or moment.seconds - state.end > kept:
                continue
            overlaps = (np.minimum(high, seen[:, :2] + seen[:, 2:]) - np.maximum(low, seen[:, :2])).clip(0).prod(1)
            if (overlaps > np.minimum(box[2:].prod(), seen[:, 2:].prod(1)) / 2).any():
                continue
            x, y, right, bottom = (int(value) for value in (*low.round(), *high.round()))
            if 0 < x < right < width and 0 < y < bottom < height:
                place = x, y, right - x, bottom - y
                found.append(Sighting(place, place, 0.0, state.number, state.label, state.probability, expected=True))
        return found

    def finish(self) -> list[Track]:
        """Return the tracks that have not ended yet, and forget them."""
        return self._end(list(self._states))[0]

    def _end(self, identities: list[int]) -> tuple[list[Track], list[Track]]:
        """Forget tracks; return those that count and those that are dropped."""
        ended, dropped = [], []
        for state in [self._states.pop(i) for i in identities]:
            if state.number:
                track = state.conclude()
                (dropped if self.names.drop(state.evidence) else ended).append(track)
        return ended, dropped
