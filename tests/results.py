"""Results directories for tests, as the detector's program writes them."""
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from util.outputs.pictures import encode_png
from util.outputs.results import DetectionFiles
from util.outputs.staging import Staging
from util.signals import uninterrupted


class ResultsWriter:
    """Writes a results directory frame by frame: `with ResultsWriter(path) as results: results.add(1, bgr, result)`.

    It takes its place at the end of the block, see util.outputs.staging, also for what is raised.
    source: what the frames are read from, if it may not lie in the directory.
    """

    def __init__(self, directory: str | Path, keep_frames: bool = False, source: str | Path | int | None = None):
        self._staging = Staging(directory, source)
        try:
            self._files, self._keep_frames = DetectionFiles(self._staging), keep_frames
            if keep_frames:
                self._staging.mkdir("frames")
        except BaseException:
            self._staging.__exit__(*sys.exc_info())
            raise

    def add(self, frame_number: int, bgr: np.ndarray, result) -> None:
        """Write one frame's files; frame_number counts from 1, bgr is uint8 (H, W, 3), result as fastmcd.Result."""
        with uninterrupted():
            self._files.add(SimpleNamespace(number=frame_number, frame=bgr, result=result))
            if self._keep_frames:
                self._staging.write({f"frames/{frame_number:06d}.png": encode_png(bgr)})
            self._staging.frames += 1

    def __enter__(self) -> "ResultsWriter":
        return self

    def __exit__(self, *error) -> None:
        try:
            self._files.close()
        finally:
            self._staging.__exit__(*error)
