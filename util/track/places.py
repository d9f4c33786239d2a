"""Lines and zones of a picture: which tracks cross the ones, to which side, and are in the others, from when to when."""
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

Line = Sequence[Sequence[float]]  # two points x, y in pixels
REACH = 0.25  # of its box: so far beyond a line an object has crossed it; with so much left in a zone it has left that
INSIDE = 0.5  # of its box: with so much in a zone it has entered that, as with zones.watch


@dataclass(frozen=True)
class Crossing:
    """A track went over a line."""

    line: str
    direction: str  # "left" or "right": where it went, seen from the line's first point towards its second
    seconds: float  # from the start of the source


@dataclass(frozen=True)
class Visit:
    """A track was in a zone."""

    zone: str
    start: float  # seconds from the start of the source
    end: float  # when it was last seen there, so far
    left: bool = False  # whether it has been seen outside since


@dataclass
class Whereabouts:
    """Where one object has been; `news` is what nobody has been told yet."""

    crossings: list[Crossing] = field(default_factory=list)
    visits: list[Visit] = field(default_factory=list)  # that have ended
    inside: dict[str, Visit] = field(default_factory=dict)
    news: list[Crossing | Visit] = field(default_factory=list)
    sides: dict[tuple, float] = field(default_factory=dict)  # of each line: the side on which it is for sure, -1 or 1
    over: dict[tuple, float] = field(default_factory=dict)  # where it was last over the endless line; 0..1 is the line itself
    centre: np.ndarray | None = None

    def all_visits(self) -> tuple[Visit, ...]:
        return *self.visits, *self.inside.values()


class Places:
    """The lines and zones that are drawn, by name; `look` tells an object's whereabouts in each frame.

    lines: two points each. zones: bool (H, W). Both stay where they are in the picture, also where the camera moves. Both may be
    replaced at any time. A straight line halves a box where it goes through its centre, so for lines and zones alike an object is where
    most of its box is, and boxes that tremble on the border change nothing.
    """

    def __init__(self, lines: Mapping[str, Line] | None = None, zones: Mapping[str, np.ndarray] | None = None):
        self.lines, self.zones = dict(lines or {}), dict(zones or {})

    def look(self, where: Whereabouts, box: Sequence[int], seconds: float) -> None:
        """Take note of where an object is seen: box x, y, width, height in pixels."""
        x, y, width, height = box
        centre = np.array([x + width / 2, y + height / 2])
        for name, line in self.lines.items():
            self._look_at_line(where, name, line, centre, (width, height), seconds)
        where.centre = centre
        zones = self.zones
        for name in where.inside.keys() - zones.keys():  # it was erased
            self._leave(where, name)
        for name, zone in zones.items():
            self._look_at_zone(where, name, zone[y : y + height, x : x + width].mean(), seconds)

    def _look_at_line(self, where: Whereabouts, name: str, line: Line, centre: np.ndarray, size: Sequence[int], seconds: float) -> None:
        start, end = np.array(line, float)
        along = end - start
        length = np.hypot(*along)
        key = name, *start, *end  # a line that was moved is another one
        distance = _cross(along, centre - start) / length  # above 0: to the right, since y goes down
        reach = REACH * (abs(along[1]) * size[0] + abs(along[0]) * size[1]) / length  # of the box's extent across the line
        if where.centre is not None:
            before = _cross(along, where.centre - start) / length
            if before * distance <= 0 and before != distance:
                passed = where.centre + (centre - where.centre) * before / (before - distance)
                where.over[key] = float(along @ (passed - start)) / length**2
        if abs(distance) < reach:
            return
        side = float(np.sign(distance))
        if where.sides.get(key, side) != side and 0 <= where.over.get(key, -1) <= 1:
            where.crossings.append(Crossing(name, "right" if side > 0 else "left", seconds))
            where.news.append(where.crossings[-1])
        where.sides[key] = side

    def _look_at_zone(self, where: Whereabouts, name: str, share: float, seconds: float) -> None:
        visit = where.inside.get(name)
        if visit and share > REACH:
            where.inside[name] = Visit(name, visit.start, seconds)
        elif visit:
            self._leave(where, name)
        elif share >= INSIDE:
            where.inside[name] = Visit(name, seconds, seconds)
            where.news.append(where.inside[name])

    @staticmethod
    def _leave(where: Whereabouts, name: str) -> None:
        visit = where.inside.pop(name)
        where.visits.append(Visit(name, visit.start, visit.end, left=True))
        where.news.append(where.visits[-1])


class Tally:
    """How many tracks crossed each line, by direction and name, and were in each zone, by name and for how long."""

    def __init__(self, places: Places):
        """places: those that are drawn are listed also where nobody came."""
        self.lines: dict[str, dict[str, Counter]] = defaultdict(lambda: {"left": Counter(), "right": Counter()})
        self.zones: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))  # name -> [visits, seconds, the longest]
        self._places = places

    def add(self, track) -> None:
        """Count what a track (util.track.tracking.Track) passed by the name that it ended with."""
        for crossing in track.crossings:
            self.lines[crossing.line][crossing.direction][track.label] += 1
        for visit in track.visits:
            count, seconds, longest = self.zones[visit.zone][track.label] or (0, 0.0, 0.0)
            dwell = visit.end - visit.start
            self.zones[visit.zone][track.label] = [count + 1, seconds + dwell, max(longest, dwell)]

    def summary(self) -> dict[str, dict]:
        """Return {"lines": line -> direction -> name -> crossings, "zones": zone -> name -> {visits, mean_seconds, longest_seconds}}.

        Where no line, or no zone, is drawn or was passed, its key is missing.
        """
        for line in self._places.lines:
            self.lines[line]  # noqa: B018
        for zone in self._places.zones:
            self.zones[zone]  # noqa: B018
        lines = {line: {side: dict(names.most_common()) for side, names in sides.items()} for line, sides in self.lines.items()}
        zones = {
            zone: {
                name: {"visits": count, "mean_seconds": round(seconds / count, 3), "longest_seconds": round(longest, 3)}
                for name, (count, seconds, longest) in sorted(names.items(), key=lambda item: -item[1][0])
            }
            for zone, names in self.zones.items()
        }
        return {key: value for key, value in (("lines", lines), ("zones", zones)) if value}


def _cross(one: np.ndarray, other: np.ndarray) -> float:
    return float(one[0] * other[1] - one[1] * other[0])
