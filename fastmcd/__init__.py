"""fastMCD: finds moving objects before a camera that may move itself.

    detector = fastmcd.Detector(width, height)
    for frame in detector.rehearsed(video):
        result = detector.detect(frame)

The method and every parameter are described in fastmcd.hpp.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TypeVar

import numpy as np

try:
    from fastmcd import _fastmcd
except ImportError as error:
    raise ImportError(
        "fastmcd's native module is missing or does not fit this Python: run 'make native' in the repository's root and use "
        ".venv/bin/python3; for another Python, which needs nanobind, "
        f"'cmake -S . -B build -DPython_EXECUTABLE=$(command -v python3) && cmake --build build'. {error}"
    ) from error

Item = TypeVar("Item")

__all__ = ["CELL", "EVIDENCE", "PARAMS", "Background", "Detector", "Points", "Result", "grey"]

CELL = 4
"""Pixels along the side of a cell of the background model."""

PARAMS: dict[str, tuple[float, str]] = _fastmcd.parameters()
"""Parameter name -> (default, one line of help)."""


EVIDENCE: tuple[str, ...] = _fastmcd.EVIDENCE
"""Names of the numbers that a score is computed from; Evidence in fastmcd.hpp defines them."""


@dataclass(frozen=True)
class Result:
    """What was found in one frame. Boxes are x, y, width, height in pixels, best score first."""

    boxes: np.ndarray  # int32 (N, 4), tight around what moved
    crops: np.ndarray  # int32 (N, 4), the same with context, for a classifier
    scores: np.ndarray  # float32 (N,), 0..1: estimated share of true boxes (IoU >= 0.5) among boxes like it
    mask: np.ndarray  # uint8 (H, W), 0 or 255
    homography: np.ndarray  # float64 (3, 3), maps current pixel coordinates to the reference frame, see Motion in fastmcd.hpp
    motion_known: bool  # False on the first frame, at scene cuts, in blur and without texture: only a fast turn has objects then
    points: int  # tracked for the homography
    inliers: int  # explained by it
    timings: dict[str, float]  # stage -> ms
    evidence: np.ndarray | None = None  # float32 (N, len(EVIDENCE)), what each score is made of

    def only(self, keep: np.ndarray) -> "Result":
        """Return the same with some of the objects: keep is bool (N,)."""
        evidence = None if self.evidence is None else self.evidence[keep]
        return replace(self, boxes=self.boxes[keep], crops=self.crops[keep], scores=self.scores[keep], evidence=evidence)


@dataclass(frozen=True)
class Background:
    """What the detector takes for the background, as of its last frame; each float32 (rows, columns)."""

    mean: np.ndarray  # grey levels
    variance: np.ndarray  # grey levels squared
    age: np.ndarray  # frames; up to 1 where nothing is known yet


@dataclass(frozen=True)
class Points:
    """The points by which the camera's motion was found."""

    current: np.ndarray  # float32 (N, 2), x and y in the last frame
    previous: np.ndarray  # float32 (N, 2), in the reference frame
    inlier: np.ndarray  # bool (N,), whether that motion explains it


class Detector:
    """A detector for frames of width x height (sides of 32 to 4096 px, at most 4096x2160 pixels in all), fed frame by frame.

    Keywords are the names in PARAMS. Raises ValueError for a size or value out of range, TypeError for an unknown name.
    Threads may share a detector: it takes one call at a time. Detectors share nothing.
    """

    def __init__(self, width: int, height: int, **params: float):
        self._size = width, height
        self._detector = _fastmcd.Detector(width, height, params)
        self.rehearsal = int(params.get("rehearsal", PARAMS["rehearsal"][0]))

    def detect(self, frame: np.ndarray) -> Result:
        """The moving objects of the next frame.

        frame: uint8, grey (H, W), or blue, green, red (H, W, 3); grey is colour of equal parts. Rows at any stride,
        each row's bytes adjacent. Raises TypeError for another dtype or number of axes, ValueError for another size or
        layout. The GIL is released meanwhile.
        """
        return Result(**self._detector.detect(frame))

    def rehearse(self, frames: Sequence[np.ndarray]) -> None:
        """Forget everything, then learn the background from a clip's first frames, which are fed backwards; returns None.

        Call `detect` with these frames afterwards, from the first one on, which then has its objects. frames: in their order, all grey or
        all in colour, as `detect` takes them; the same errors.
        """
        self._detector.rehearse(list(frames))

    def rehearsed(
        self, items: Iterable[Item], frame_of: Callable[[Item], np.ndarray] = lambda item: item,
        enough: Callable[[Item], bool] | None = None,
    ) -> Iterator[Item]:  # fmt: skip
        """Yield the items of a new clip unchanged, after `rehearse` with the first of them, as many as the parameter `rehearsal`.

        frame_of: takes the frame out of an item. enough: whether an item is to be the last one that is waited for.
        """
        items, first, failure = iter(items), deque(), None
        try:
            for item in islice(items, self.rehearsal):
                first.append(item)
                if enough and enough(item):
                    break
        except Exception as error:  # in a later item: those before it come first
            failure = error
        self.rehearse([frame_of(item) for item in first])
        while first:
            yield first.popleft()
        if failure:
            raise failure
        yield from items

    def background(self, full_size: bool = True) -> Background:
        """Return the model of the background: a value for each pixel of the frame, or else for each cell of 4x4 pixels.

        A copy, made only when this is called.
        """
        planes = self._detector.background()
        if full_size:
            width, height = self._size
            planes = [plane.repeat(CELL, 0).repeat(CELL, 1)[:height, :width] for plane in planes]
        return Background(*planes)

    def points(self) -> Points:
        """Return the points tracked in the last frame, as many as its result's `points`; none in the first frame. A copy too."""
        current, previous, inlier = self._detector.tracked()
        return Points(current, previous, inlier.astype(bool))

    def reset(self) -> None:
        """Forget all frames so far. Returns None."""
        self._detector.reset()

    def bytes(self) -> int:
        """Return the memory held, in bytes: with default parameters below 30 per pixel from 320x240 up, else 50 per pixel and 256 KiB."""
        return self._detector.bytes()


def grey(bgr: np.ndarray) -> np.ndarray:
    """Return uint8 (H, W), the grey image of uint8 (H, W, 3) blue, green, red: what finds the camera's motion and the background."""
    return _fastmcd.grey(bgr)
