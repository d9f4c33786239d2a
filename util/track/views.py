"""When another view of an object is worth its cost: a network is asked only where its answer can change a name."""
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """Which sightings a network looks at; sightings are counted per object.

    An object's first sightings are all looked at, later ones at intervals that double. An object whose name is in doubt is looked at
    more often, and one whose crop is clearly better than any that was looked at, at once.
    """

    first: int = 4  # sightings that are all looked at
    longest: int = 32  # sightings from one view to the next, at most
    doubtful: int = 1  # the same while the name is in doubt
    doubt: float = 0.3  # a name is in doubt while its probability leads the next one's, or differs from unknown_below, by less
    better: float = 1.5  # a crop of so many times the weight of the best one so far is looked at at once
    budget: int = 16  # views per frame, at most; the longest overdue first


class Views:
    """What has been looked at of one object."""

    def __init__(self):
        self.since, self.interval, self.count, self.best = 0, 1, 0, 0.0

    def overdue(self, schedule: Schedule, weight: float, margin: float) -> float:
        """Return how urgent a view of this sighting is: 1 and more is due. Call it once per sighting.

        weight: what the sighting counts as evidence (util.track.evidence.weight_of). margin: of the name's probability, 0..1.
        """
        self.since += 1
        if self.count < schedule.first or weight > schedule.better * self.best:
            return float("inf")
        interval = min(self.interval, schedule.doubtful) if margin < schedule.doubt else self.interval
        return self.since / interval

    def add(self, schedule: Schedule, weight: float) -> int:
        """Return how many sightings this view stands for: those since the view before."""
        since, self.since = self.since, 0
        self.count, self.best = self.count + 1, max(self.best, weight)
        if self.count >= schedule.first:
            self.interval = min(2 * self.interval, schedule.longest)
        return since


def chosen(overdue: Sequence[float], budget: int) -> list[int]:
    """Return the indices of the sightings to look at, in order: those that are due, of too many the most overdue."""
    due = sorted((i for i, urgency in enumerate(overdue) if urgency >= 1), key=lambda i: -overdue[i])
    return sorted(due[:budget])
