"""One dependable name from many looks at the same object."""
import math
from collections.abc import Mapping, Sequence

import numpy as np

ENOUGH = 32 * 32  # pixels of a box; a larger one shows a network no more, whose images have so many
AT_EDGE = 0.1  # what a sighting counts that the frame's edge may have cut in two, beside a whole one


class Evidence:
    """What a network's answers to an object's crops say together: `add` each, ask `name` at any time.

    Of answers z_i (logits) with weights w_i > 0, T the temperature that makes softmax(z / T) say how often it is right:

        p = sum_i w_i softmax(z_i / T) / sum_i w_i

    The name is the class of the largest p, or unknown if that is below `unknown_below` or the class is `other`: what none of the names
    fits. Averaging probabilities, not logits, keeps one wild answer from outvoting the others. An answer's weight halves every
    `half_life` sightings, so no wrong start holds for ever. Memory and time per answer do not depend on how many there were.
    Temperature: Guo et al. 2017, arXiv:1706.04599; the largest probability as the sign of a foreign object: Hendrycks and
    Gimpel 2017, arXiv:1610.02136; a class for foreign objects beside it: Zhang and LeCun 2017, arXiv:1703.08774.
    """

    def __init__(self, temperature: float = 1.0, unknown_below: float = 0.0, other: int | None = None, half_life: float = math.inf):
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature is {temperature}; it has to be above 0")
        self.temperature, self.unknown_below, self.other, self.half_life = temperature, unknown_below, other, half_life
        self.weight, self._sum = 0.0, 0.0

    def add(self, logits: np.ndarray, weight: float = 1.0, sightings: int = 1) -> None:
        """Count one answer, floats (classes,), `weight` times (see `weight_of`) for each of the sightings that it stands for.

        Raises ValueError if logits or weight are not finite.
        """
        logits = np.asarray(logits, np.float64)
        if not (np.isfinite(logits).all() and 0 <= weight < math.inf):
            raise ValueError(f"evidence has to be finite, its weight 0 or more; found {logits} at {weight}")
        kept = 0.5 ** (sightings / self.half_life)
        self._sum = kept * self._sum + weight * sightings * softmax(logits / self.temperature)
        self.weight = kept * self.weight + weight * sightings

    def include(self, other: "Evidence", weight: float) -> None:
        """Count what other evidence says by now, which is some, as one answer; nothing fades."""
        self._sum = self._sum + weight * other.probabilities()
        self.weight += weight

    def probabilities(self) -> np.ndarray:
        """p, float64 (classes,), which sums to 1; ValueError before anything of a weight above 0 was added."""
        if self.weight <= 0:
            raise ValueError("no evidence yet")
        return self._sum / self.weight

    def name(self, current: int | None = None, hold: float = 0.0) -> tuple[int | None, float]:
        """(index of the class, its probability in 0..1); the index is None for unknown, also before there is evidence.

        current: the class that it is called so far, which counts as if its probability were `hold` larger (hysteresis).
        """
        if self.weight <= 0:
            return None, 0.0
        p = self.probabilities()
        scores = p.copy()
        if current is not None:
            scores[current] += hold
        best = int(scores.argmax())
        return (best if scores[best] >= self.unknown_below and best != self.other else None), float(p[best])

    def kind(self, kinds: Mapping[str, Sequence[int]], called: int | None = None) -> tuple[str | None, float]:
        """(name of the likeliest kind, the sum of its classes' probabilities), kinds: name -> indices of classes.

        The name is None where that is below unknown_below or `other`'s. called: the class that it is called; its kind goes before others.
        """
        if self.weight <= 0 or not kinds:
            return None, 0.0
        p = self.probabilities()
        sums = {name: float(p[list(members)].sum()) for name, members in kinds.items()}
        for name, members in kinds.items():
            if called in members:
                return name, sums[name]
        name, sure = max(sums.items(), key=lambda kind: kind[1])
        other = 0.0 if self.other is None else p[self.other]
        return (name if sure >= max(self.unknown_below, other) else None), sure

    def margin(self) -> float:
        """Return how far the probability of the name is from the next one's and from unknown_below, 0..1."""
        if self.weight <= 0:
            return 0.0
        p = np.sort(self.probabilities())
        second = p[-2] if len(p) > 1 else 0.0
        return float(min(p[-1] - second if p[-1] >= self.unknown_below else 1.0, abs(p[-1] - self.unknown_below)))


def weight_of(box: tuple[int, int, int, int], width: int, height: int) -> float:
    """How much a sighting counts: the area of its box x, y, w, h, ENOUGH pixels at most, a tenth at the edge of the width x height frame.

    Of a car coming nearer, the last looks show most; of one leaving, the last ones show half a car.
    """
    return min(float(box[2]) * float(box[3]), ENOUGH) * (1.0 if is_whole(box, width, height) else AT_EDGE)


def is_whole(box: tuple[int, int, int, int], width: int, height: int) -> bool:
    """Whether the edge of the width x height frame can't have cut the object in the box x, y, w, h."""
    x, y, w, h = box
    return x > 1 and y > 1 and x + w < width - 1 and y + h < height - 1


def softmax(logits: np.ndarray) -> np.ndarray:
    """exp(logits) over its sum along the last axis, float64, safe for logits of any size."""
    powers = np.exp(np.asarray(logits, np.float64) - np.max(logits, axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)
