"""Results directories for tests: written as the detector's program does, and read."""
import csv
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from util.outputs.pictures import encode_png
from util.outputs.results import DetectionFiles
from util.outputs.sink import Sink, Sinks
from util.outputs.staging import Staging


class Frames(Sink):
    """Writes frames/, which of all only the program does."""

    def __init__(self, staging: Staging):
        self._staging = staging
        staging.mkdir("frames")

    def add(self, moment) -> None:
        self._staging.write({f"frames/{moment.number:06d}.png": encode_png(moment.frame)})


class ResultsWriter(Sinks):
    """Writes a results directory frame by frame, as a run does: `with ResultsWriter(path) as results: results.add(1, bgr, result)`."""

    def __init__(self, directory: str | Path, keep_frames: bool = False, source: str | Path | int | None = None):
        """source: what the frames are read from, if it may not lie in the directory."""
        super().__init__([], Staging(directory, source))
        self.sinks = [make(self.staged) for make in (DetectionFiles, *[Frames] * keep_frames)]

    def add(self, frame_number: int, bgr: np.ndarray, result) -> None:
        """Write one frame's files; frame_number counts from 1, bgr is uint8 (H, W, 3), result as fastmcd.Result."""
        super().add(SimpleNamespace(number=frame_number, frame=bgr, result=result))


def rows_of(path: str | Path) -> list[dict[str, str]]:
    """Return the rows of a table."""
    with open(path) as file:
        return list(csv.DictReader(file))
