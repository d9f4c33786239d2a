"""Which names tracks may have, and which one the evidence for a track gives it."""
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from util.spec import OTHER
from util.track.evidence import Evidence

UNKNOWN = "unknown"  # the name of what none of the classes fits
HALF_LIFE = 25  # sightings until a view counts half


@dataclass
class Names:
    """The names that tracks may have: classes, of which `other` is unknown, and kinds of them.

    temperature, unknown_below: see util.track.evidence. hold: by how much another name must be more probable to take a name's place.
    kinds: kind -> names of its classes; with `name_kinds` a track is called by its kind where its own name is in doubt. drop_other: what
    looks most like none of the classes is left out of the tracks that end.
    """

    classes: Sequence[str]
    temperature: float = 1.0
    unknown_below: float = 0.0
    hold: float = 0.0
    kinds: Mapping[str, Sequence[str]] = field(default_factory=dict)
    name_kinds: bool = False
    drop_other: bool = False

    def __post_init__(self):
        self._other = self.classes.index(OTHER) if OTHER in self.classes else None
        members = {kind: [self.classes.index(name) for name in names if name in self.classes] for kind, names in self.kinds.items()}
        self._members = {kind: indices for kind, indices in members.items() if indices}

    def evidence(self) -> Evidence:
        """Return what collects the evidence for one track."""
        return Evidence(self.temperature, self.unknown_below, self._other, HALF_LIFE)

    def of(self, evidence: Evidence, current: int | None = None) -> tuple[int | None, str, float]:
        """Return (index of the class or None, name, its probability); current: the class that it is called so far."""
        called, probability = evidence.name(current, self.hold)
        if called is not None:
            return called, self.classes[called], probability
        kind, of_kind = evidence.kind(self._members) if self.name_kinds else (None, 0.0)
        return (None, kind, of_kind) if kind else (None, UNKNOWN, probability)

    def probability(self, name: str, evidence: Evidence) -> float:
        """Return how probable a name is: that of the class or kind; of UNKNOWN, that of the likeliest class."""
        p, index = evidence.probabilities(), self.index(name)
        if index is not None:
            return float(p[index])
        return float(p[self._members[name]].sum() if name in self._members else p.max())

    def index(self, name: str) -> int | None:
        """Return the index of the class of this name, None for kinds and UNKNOWN."""
        return self.classes.index(name) if name in self.classes else None

    def kind(self, evidence: Evidence, called: int | None) -> tuple[str, float]:
        """Return (kind or UNKNOWN, its probability) of what is called by the class of this index, or by none."""
        kind, probability = evidence.kind(self._members, called)
        return kind or UNKNOWN, probability

    def drop(self, evidence: Evidence) -> bool:
        """Whether a track is left out, as it looks most like none of the classes."""
        return self.drop_other and self._other is not None and evidence.weight > 0 and evidence.probabilities().argmax() == self._other
