"""The results directory: what the detector found in a clip, as files.

    detections.csv           frame,object,x,y,width,height,score,crop; frames count from 1, objects from 0, best first
    crops/000123_00.png      the region with context, cut from the colour frame
    masks/000123.png         0 or 255
    frames/000123.png        with --frames of the fastMCD program
"""
import csv
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import cv2
import numpy as np

from util.crops import cut_out, moving
from util.errors import InputError
from util.files import GrowingFile
from util.outputs import sheet
from util.outputs.pictures import encode_png
from util.outputs.sink import Sink
from util.outputs.staging import Staging
from util.source.images import list_images, read_bgr
from util.source.video import MAX_SIDE
from util.track.tracking import Moment

COLUMNS = ["frame", "object", "x", "y", "width", "height", "score", "crop"]
TABLE = "detections.csv"
SMALLEST_IMAGE = 4  # pixels a side: less shows nothing
SMALLEST_REGION = 25  # pixels of a mask: less is noise
CONTEXT, SMALLEST_CROP = 0.15, 32  # of a pair: margin / longer side of the box; pixels


@dataclass(eq=False)
class Detection:
    """One object in one frame: its box in whole pixels, score 0..1 and crop."""

    frame: int
    object: int
    x: int
    y: int
    width: int
    height: int
    score: float
    read: Callable[[], np.ndarray]

    @property
    def image(self) -> np.ndarray:
        """The crop, RGB uint8 (h, w, 3), where there is a mask with what moves in it as its alpha (h, w, 4), see util.crops.

        That of a results directory is read from there each time, as many are more than memory holds. Raises InputError if it is damaged.
        """
        return self.read()


def read_results(directory: str | Path, best_only: bool = False) -> list[Detection]:
    """The detections of a directory by frame and object number; with best_only the best-scored one of each frame.

    Read are the results directory above, and flat directories of pairs NAME.png (mask) + NAME_orig.png (frame), whose
    objects are the mask's connected regions, largest first, or of plain images, each one an object of its own frame
    (score 1). Raises InputError naming the row or file that is missing, damaged or out of place; a crop is read later.
    """
    directory = Path(directory)
    try:
        if not directory.is_dir():
            part = Path(f"{directory}.part")
            hint = f", but {part} is: the run that writes it is not finished or was killed" * part.exists()
            raise InputError(f"{directory} is {'not a directory' if directory.exists() else 'not there' + hint}")
        if (directory / TABLE).is_file():
            return _best_of_each_frame(read_table(directory)) if best_only else read_table(directory)
        images = [path for path in list_images(directory) if path.name != sheet.NAME]
    except OSError as error:
        raise InputError(f"{error.filename or directory}: {error.strerror}") from None
    if not images:
        raise InputError(f"{directory} holds neither {TABLE} nor images; give a directory that fastMCD has written")
    if any(path.stem.endswith("_orig") for path in images):
        frames = [_read_pair(number, *pair) for number, pair in enumerate(_pairs(images), 1)]
        return [detection for found in frames for detection in found[: 1 if best_only else None]]
    return [_read_plain(number, path) for number, path in enumerate(images, 1)]


# The results directory

def _best_of_each_frame(detections: list[Detection]) -> list[Detection]:
    best = {}
    for detection in detections:
        if detection.frame not in best or detection.score > best[detection.frame].score:
            best[detection.frame] = detection
    return list(best.values())


def read_table(directory: Path) -> list[Detection]:
    """Return what detections.csv holds, by frame and object; raises InputError naming the row that is damaged or out of place."""
    path, mask_of = directory / TABLE, lru_cache(maxsize=1)(partial(_read_mask, directory))  # objects of one frame follow each other
    try:
        rows = list(csv.reader(io.StringIO(path.read_bytes().decode("utf-8"), newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is damaged: {error}") from None
    if not rows or rows[0] != COLUMNS:
        found = ",".join(rows[0])[:80] if rows else "nothing"
        raise InputError(f"{path} starts with {found!r}; expected {','.join(COLUMNS)}")
    found = {}
    for line, row in enumerate(rows[1:], 2):
        try:
            detection = _parse(row, directory, mask_of)
        except ValueError as error:
            raise InputError(f"{path} line {line}: {error}") from None
        if found.setdefault((detection.frame, detection.object), detection) is not detection:
            raise InputError(f"{path} line {line}: object {detection.object} of frame {detection.frame} is there twice")
    return [found[key] for key in sorted(found)]


def _parse(row: list[str], directory: Path, mask_of: Callable[[int], np.ndarray | None]) -> Detection:
    """Return the detection of a row; ValueError saying what is wrong with it."""
    if len(row) != len(COLUMNS):
        raise ValueError(f"{len(row)} fields, expected {len(COLUMNS)}")
    for column, text in zip(COLUMNS[:6], row, strict=False):
        if not re.fullmatch(r"[0-9]{1,9}", text):
            raise ValueError(f"{column} is {text[:40]!r}, expected a whole number")
    frame, number, x, y, width, height = map(int, row[:6])
    if frame < 1:
        raise ValueError("frame is 0; frames count from 1")
    if width < 1 or height < 1 or max(x + width, y + height) > MAX_SIDE:
        raise ValueError(f"the box {x},{y} {width}x{height} is empty or leaves any frame; no side is over {MAX_SIDE}")
    if not re.fullmatch(r"[0-9.]+(e-?[0-9]+)?", row[6]) or not 0 <= float(row[6]) <= 1:
        raise ValueError(f"score is {row[6][:40]!r}, expected a number from 0 to 1")
    if not _is_file_inside(row[7], directory):
        raise ValueError(f"crop {row[7][:80]!r} is no file inside {directory}")
    box, crop = (x, y, width, height), directory / row[7]
    return Detection(frame, number, *box, float(row[6]), lambda: _with_mask(_read_rgb(crop), box, mask_of(frame)))


def _is_file_inside(name: str, directory: Path) -> bool:
    path = Path(name)
    if len(name) > 255 or "\0" in name or path.is_absolute() or ".." in path.parts:
        return False
    path = (directory / path).resolve()  # a link may lead out
    return path.is_relative_to(directory.resolve()) and path.is_file()


def _read_mask(directory: Path, frame: int) -> np.ndarray | None:
    path = directory / mask_name(frame)
    return read_bgr(path)[..., 0] if path.is_file() else None


def _with_mask(image: np.ndarray, box: tuple[int, ...], mask: np.ndarray | None) -> np.ndarray:
    """The crop with what moves in it as its alpha; as it is where there is no mask, or one of another frame.

    The table doesn't say where a crop lies: its middle is the box's, but for a shift into the frame.
    """
    height, width = image.shape[:2]
    if mask is None or any(low + length > limit for low, length, limit in zip(box[:2], box[2:], mask.shape[::-1], strict=True)):
        return image
    if width > mask.shape[1] or height > mask.shape[0]:
        return image
    x, y = _span(box[0], box[2], width, mask.shape[1]), _span(box[1], box[3], height, mask.shape[0])
    return np.dstack([image, moving((x, y, width, height), box, mask)])


def _span(low: int, length: int, cut: int, limit: int) -> int:
    """Where `cut` pixels around a box's `length` begin: in its middle, shifted rather than shrunk where they would leave the frame."""
    return min(max((2 * low + length - cut) // 2, 0), limit - cut)


def _read_rgb(path: Path) -> np.ndarray:
    return cv2.cvtColor(read_bgr(path), cv2.COLOR_BGR2RGB)


# The two older layouts

def _pairs(images: list[Path]) -> Iterator[tuple[Path, Path]]:
    """Masks and their frames, by name."""
    frames = {path.stem.removesuffix("_orig"): path for path in images if path.stem.endswith("_orig")}
    masks = {path.stem: path for path in images if not path.stem.endswith("_orig")}
    for name in sorted(frames.keys() | masks.keys()):
        if name not in frames or name not in masks:
            there, missing = (masks[name], f"{name}_orig.png") if name in masks else (frames[name], f"{name}.png")
            raise InputError(f"{there} has no {missing} beside it; every mask needs its frame")
        yield masks[name], frames[name]


def _read_pair(number: int, mask_path: Path, frame_path: Path) -> list[Detection]:
    mask, frame = (read_bgr(mask_path).max(axis=2) > 127).astype(np.uint8), _read_rgb(frame_path)
    if mask.shape != frame.shape[:2]:
        sizes = "{1}x{0} and {3}x{2}".format(*mask.shape, *frame.shape)
        raise InputError(f"{mask_path} and its frame {frame_path.name} differ in size: {sizes}")
    regions = cv2.connectedComponentsWithStats(mask, connectivity=8)[2][1:].tolist()
    regions = sorted((r for r in regions if r[4] >= SMALLEST_REGION), key=lambda r: (-r[4], r[1], r[0]))
    crops = [_with_context(frame, mask, *r[:4]) for r in regions]
    return [Detection(number, i, *r[:4], 1.0, partial(np.asarray, crop)) for i, (r, crop) in enumerate(zip(regions, crops, strict=True))]


def _with_context(frame: np.ndarray, mask: np.ndarray, x: int, y: int, width: int, height: int) -> np.ndarray:
    """The box cut out of an RGB frame as a square with a margin, shifted rather than shrunk where it would leave the frame."""
    longer = max(width, height)
    side = max(longer + 2 * int(CONTEXT * longer + 0.5), SMALLEST_CROP)
    wide, high = min(side, frame.shape[1]), min(side, frame.shape[0])
    crop = _span(x, width, wide, frame.shape[1]), _span(y, height, high, frame.shape[0]), wide, high
    return cut_out(frame[..., ::-1], crop, (x, y, width, height), mask)


def _read_plain(number: int, path: Path) -> Detection:
    image = _read_rgb(path)
    height, width = image.shape[:2]
    if min(width, height) < SMALLEST_IMAGE:
        raise InputError(f"{path} is {width}x{height} pixels; at least {SMALLEST_IMAGE}x{SMALLEST_IMAGE} are needed")
    return Detection(number, 0, 0, 0, width, height, 1.0, partial(np.asarray, image))


# Writing

def mask_name(frame_number: int) -> str:
    """Return where a frame's mask is, relative to the directory."""
    return f"masks/{frame_number:06d}.png"


class DetectionFiles(Sink):
    """detections.csv, crops/ and masks/: all files of a frame and its rows, or none."""

    def __init__(self, staging: Staging):
        self.staging = staging
        staging.mkdir("crops")
        staging.mkdir("masks")
        self._table = GrowingFile(staging.new(TABLE), ",".join(COLUMNS) + "\n")
        self.close = self._table.close

    def add(self, moment: Moment) -> None:
        number, result, files, rows = moment.number, moment.result, {}, ""
        for i, (box, score, cut) in enumerate(zip(result.boxes, result.scores, result.crops, strict=True)):
            x, y, width, height = cut
            crop = f"crops/{number:06d}_{i:02d}.png"
            files[crop] = encode_png(moment.frame[y : y + height, x : x + width])
            rows += ",".join(map(str, [number, i, *map(int, box), f"{score:.4f}", crop])) + "\n"
        files[mask_name(number)] = encode_png(result.mask)
        self.staging.write(files)
        try:
            self._table.append(rows)
        except BaseException:  # no file of a frame that is not in the table
            self.staging.unlink(*files)
            raise
