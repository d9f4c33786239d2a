"""What is true of a clip, read from a folder, a gt.txt or a COCO file; and written for a clip that was drawn by code.

    groundtruth/            a mask for each frame. With ROI.bmp or temporalROI.txt beside it in CDnet's levels (0 static, 50 shadow,
                            85 outside, 170 unclear, 255 moving), its objects being the connected regions; else as DAVIS has them:
                            0 is ground, and each other level an object with an identity
    input/                  the pictures; without them, frame 1 is the first mask
    gt/gt.txt               MOTChallenge: frame,id,left,top,width,height,flag,class,visibility, pixels from 1; flag 0: counts neither way
    gt/labels.txt           the names of classes 1, 2, …, a line each (as CVAT and Datumaro write it)
    seqinfo.ini             seqLength: how many frames there are
    annotations.json        COCO: an image's id is its frame, from 1; "track_id" of an annotation is an identity; a crowd counts neither way

A folder may hold several. Masks are for the scores of pixels; boxes come from COCO, else gt.txt, else the masks.
"""
import configparser
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from util.errors import InputError, read_text, reading
from util.score.metrics import MOVING, OUTSIDE, UNCLEAR, Boxes, components
from util.source.images import list_images, read_bgr, write_image

MIN_AREA = 50  # pixels: smaller regions of a CDnet mask are crumbs
AWAY = 25  # frames: what comes back after more is another object
IN_VIEW = 0.9  # share of an object that must be in view for it to count
# What a file may claim: 115 hours at 24 frames per second, numbers that a float64 holds, boxes whose area is one.
MAX_FRAMES, MAX_IDS, MAX_LENGTH, MAX_IN_FRAME = 10_000_000, 2**53, 1_000_000, 2000


@dataclass(eq=False)
class Truth:
    """The truth of one clip; `boxes` is None where only masks are known."""

    name: str
    masks: dict[int, Path] = field(default_factory=dict)  # by frame, from 1, those that count
    cdnet: bool = False  # the masks have CDnet's levels
    region: np.ndarray | None = None  # bool (H, W): where anything counts; None: everywhere
    frames: np.ndarray | None = None  # int (N,): which frames count, ascending; None: all
    boxes: Boxes | None = None

    def levels(self, frame: int) -> np.ndarray | None:
        """The true mask in CDnet's levels, uint8 (H, W); None where nothing of the frame counts."""
        if frame not in self.masks:
            return None
        levels = _read_mask(self.masks[frame], indices=not self.cdnet)
        if not self.cdnet:
            return np.where(levels > 0, np.uint8(MOVING), np.uint8(0))
        return None if np.isin(levels, (OUTSIDE, UNCLEAR)).all() else levels

    def inside(self, shape: tuple[int, int]) -> np.ndarray | None:
        """The region for frames of this shape (CDnet has some that are larger than their frames)."""
        if self.region is None:
            return None
        if self.region.shape[0] < shape[0] or self.region.shape[1] < shape[1]:
            sizes = "{1}x{0}, its masks {3}x{2}".format(*self.region.shape, *shape)
            raise InputError(f"{self.name}: ROI.bmp is {sizes}")
        return self.region[: shape[0], : shape[1]]

    def mask_boxes(self) -> tuple[Boxes, np.ndarray]:
        """The boxes of the masks and the frames that count: connected regions of CDnet's, else objects, whose identity is their level."""
        rows, frames = [], []
        for frame, path in self.masks.items():
            levels = self.levels(frame) if self.cdnet else _read_mask(path, indices=True)
            if levels is None:
                continue
            frames.append(frame)
            if self.cdnet:
                region = self.inside(levels.shape)
                moving = (levels == MOVING) if region is None else (levels == MOVING) & region
                rows += [(frame, *box, 1.0) for box in components(moving.astype(np.uint8), MIN_AREA).tolist()]
            else:
                ids = np.unique(levels[levels > 0]).tolist()
                rows += [(frame, *cv2.boundingRect((levels == i).astype(np.uint8)), 1.0, i) for i in ids]
        return Boxes.of(rows), np.sort(np.array(frames, int))


def read_truth(path: str | Path) -> Truth:
    """The truth in a folder or file laid out as above; InputError if there is none, or part of it is damaged."""
    path = Path(path)
    truth = Truth(path.name or path.resolve().name)
    if path.is_dir():
        _read_folder(path, truth)
    elif path.suffix == ".json":
        truth.boxes, truth.frames = _read_coco(path)
    elif path.suffix == ".txt":
        truth.boxes = _read_mot(path)
    else:
        raise InputError(f"{path} is {'no truth: neither a folder nor .txt nor .json' if path.exists() else 'not there'}")
    return truth


def _read_folder(path: Path, truth: Truth) -> None:
    if (path / "groundtruth").is_dir():
        _read_masks(path, truth)
    if (path / "annotations.json").exists():
        truth.boxes, frames = _read_coco(path / "annotations.json")
        truth.frames = frames if truth.frames is None else truth.frames
    elif (path / "gt" / "gt.txt").exists():
        truth.boxes = _read_mot(path / "gt" / "gt.txt")
        truth.frames = _sequence_frames(path / "seqinfo.ini") if truth.frames is None else truth.frames
    elif not truth.masks:
        raise InputError(f"{path} holds no truth: neither groundtruth/ nor gt/gt.txt nor annotations.json")


# ---- Masks -----------------------------------------------------------------------------------------------------------
def _read_masks(path: Path, truth: Truth) -> None:
    truth.cdnet = (path / "ROI.bmp").exists() or (path / "temporalROI.txt").exists()
    first, last = _temporal_region(path / "temporalROI.txt") if (path / "temporalROI.txt").exists() else (0, float("inf"))
    masks = {_number(p): p for p in list_images(path / "groundtruth") if p.suffix.lower() == ".png"}
    if not masks:
        raise InputError(f"{path / 'groundtruth'} holds no .png")
    pictures = list_images(path / "input") if (path / "input").is_dir() else sorted(masks.values(), key=_number)
    frames = {_number(p): frame for frame, p in enumerate(pictures, 1)}
    for number in sorted(masks):
        if number not in frames:
            raise InputError(f"{masks[number]} has no picture with its number in {path / 'input'}")
        if first <= number <= last:
            truth.masks[frames[number]] = masks[number]
    truth.frames = np.sort(np.array(list(truth.masks), int))
    if not truth.masks:
        raise InputError(f"{path}: none of the masks' numbers is in {path / 'temporalROI.txt'}, {first} to {last}")
    if (path / "ROI.bmp").exists():
        truth.region = _read_mask(path / "ROI.bmp", indices=False) > 127


def _number(path: Path) -> int:
    digits = re.findall(r"[0-9]+", path.stem)
    if not digits:
        raise InputError(f"{path} has no number in its name")
    return int(digits[-1])


def _temporal_region(path: Path) -> tuple[int, int]:
    fields = read_text(path, "temporal region", errors="replace").split()
    if len(fields) < 2 or not all(re.fullmatch(r"[0-9]{1,9}", text) for text in fields[:2]):
        raise InputError(f"{path} holds {' '.join(fields)[:40]!r}, expected the numbers of the first and the last frame that count")
    return int(fields[0]), int(fields[1])


def _read_mask(path: Path, indices: bool) -> np.ndarray:
    """uint8 (H, W): grey levels or, with `indices`, a palette's numbers, which OpenCV turns into colours."""
    if indices:
        with reading(path, "image"), Image.open(path) as image:
            if image.mode == "P":
                return np.array(image)
    return read_bgr(path).max(axis=2)  # Pillow misreads CDnet's ROI.bmp of two colours and 8 bits


# ---- Boxes -----------------------------------------------------------------------------------------------------------
def checked(path: Path, boxes: Boxes) -> Boxes:
    """The boxes of a file; InputError for one that no frame can hold, or more of them in a frame than can be compared."""
    wrong = ~np.isfinite(boxes.score) | (boxes.frame < 1) | (boxes.frame > MAX_FRAMES) | ~(np.abs(boxes.box) <= MAX_LENGTH).all(1)
    wrong |= (boxes.box[:, 2:] <= 0).any(1)
    if wrong.any():
        row = int(wrong.argmax())
        found = f"box {row + 1} is {boxes.box[row].tolist()} in frame {boxes.frame[row]}, score {boxes.score[row]}"
        raise InputError(f"{path}: {found}; frames count from 1 to {MAX_FRAMES}, boxes have a size, and pixels are below {MAX_LENGTH}")
    frames, counts = np.unique(boxes.frame, return_counts=True)
    if len(counts) and counts.max() > MAX_IN_FRAME:
        raise InputError(f"{path}: frame {frames[counts.argmax()]} has {counts.max()} boxes; {MAX_IN_FRAME} can be compared")
    return boxes


def _read_mot(path: Path) -> Boxes:
    labels = path.with_name("labels.txt")
    names = read_text(labels, "list of names", errors="replace").split("\n") if labels.exists() else []
    names = [name.strip() for name in names[: -1 if names[-1:] == [""] else None]]
    rows = []
    for place, (frame, number, *box, flag, kind) in mot_rows(path, flags=True):
        if names and flag and not 1 <= kind <= len(names):
            raise InputError(f"{place}: class is {kind}, but {labels} names 1 to {len(names)}")
        rows.append((frame, *box, 1.0, number, names[kind - 1] if 1 <= kind <= len(names) else "", not flag))
    return checked(path, Boxes.of(rows))


def mot_rows(path: Path, flags: bool = False) -> Iterator[tuple[str, tuple]]:
    """("FILE line N", (frame, id, x, y, width, height, 7th field or 1, 8th or 1)) of a MOTChallenge file; x and y from 0.

    flags: the 7th field is the truth's flag, and a row whose flag is 0 needs no identity (it gets 0). Empty lines are skipped.
    """
    seen = set()
    for line, text in enumerate(read_text(path, "MOTChallenge file", errors="replace").splitlines(), 1):
        if not text.strip():
            continue
        place, found = f"{path} line {line}", repr(text[:60])
        try:
            numbers = [float(value) for value in text.split(",")]
        except ValueError:
            raise InputError(f"{place} is {found}, expected numbers between commas") from None
        if len(numbers) < 6 or not np.isfinite(numbers).all():
            raise InputError(f"{place} is {found}, expected frame,id,left,top,width,height,…")
        frame, number, left, top, width, height, flag, kind = (numbers + [1, 1])[:8] if len(numbers) < 8 else numbers[:8]
        if flags and flag == 0:
            number = 0
        elif not 1 <= number <= MAX_IDS:
            raise InputError(f"{place} is {found}; identities count from 1")
        if not 1 <= frame <= MAX_FRAMES or width <= 0 or height <= 0:
            raise InputError(f"{place} is {found}; frames count from 1 to {MAX_FRAMES}, and boxes have a size")
        if frame % 1 or number % 1:
            raise InputError(f"{place} is {found}; frames and identities are whole numbers")
        if number and (frame, number) in seen:
            raise InputError(f"{place}: identity {number:.0f} is twice in frame {frame:.0f}")
        seen.add((frame, number))
        yield place, (int(frame), int(number), left - 1, top - 1, width, height, flag, int(kind))


def _sequence_frames(path: Path) -> np.ndarray | None:
    if not path.exists():
        return None
    info = configparser.ConfigParser(interpolation=None)
    with reading(path, "seqinfo.ini with a whole number seqLength in its section [Sequence]"):
        info.read_string(read_text(path, "seqinfo.ini"))
        length = info.getint("Sequence", "seqLength")
    if not 1 <= length <= MAX_FRAMES:
        raise InputError(f"{path}: seqLength is {length}; expected 1 to {MAX_FRAMES}")
    return np.arange(1, length + 1)


def _read_coco(path: Path) -> tuple[Boxes, np.ndarray]:
    with reading(path, "COCO file of boxes"):
        whole = json.loads(read_text(path, "COCO file of boxes"))
        names = {kind["id"]: kind["name"] for kind in whole["categories"]}
        frames = {image["id"] for image in whole["images"]}
        if not all(type(frame) is int and 1 <= frame <= MAX_FRAMES for frame in frames):
            raise InputError(f"{path}: the images' ids must be frame numbers, from 1 to {MAX_FRAMES}")
        if not all(isinstance(name, str) for name in names.values()):
            raise InputError(f"{path}: the names of the categories must be text")
        rows, ids = [], _identities(path, whole["annotations"])
        for a, number in zip(whole["annotations"], ids, strict=True):
            if a["image_id"] not in frames or len(a["bbox"]) != 4:
                raise InputError(f"{path}: annotation {a.get('id')} has no image or no box")
            rows.append((a["image_id"], *map(float, a["bbox"]), 1.0, number, names[a["category_id"]], bool(a.get("iscrowd", 0))))
        return checked(path, Boxes.of(rows)), np.array(sorted(frames), int)


def _identities(path: Path, annotations: list[dict]) -> list[int]:
    """Numbers from 1 for COCO's track_id, 0 for crowds; all 0 where an annotation has none."""
    objects = [(a["image_id"], a.get("track_id")) for a in annotations if not a.get("iscrowd", 0)]
    if any(track is None for _, track in objects):
        return [0] * len(annotations)
    if twice := [pair for pair, count in Counter(objects).items() if count > 1]:
        raise InputError(f"{path}: track_id {twice[0][1]} is twice in image {twice[0][0]}")
    numbers = {track: number for number, track in enumerate(dict.fromkeys(track for _, track in objects), 1)}
    return [0 if a.get("iscrowd", 0) else numbers[a["track_id"]] for a in annotations]


# ---- Writing ---------------------------------------------------------------------------------------------------------
def write_truth(frames: Iterable, directory: Path, names: Sequence[str]) -> None:
    """Write a clip drawn by code (util.score.scenes.Frame) as input/ with its truth: groundtruth/ as in CDnet, gt/ as in MOTChallenge.

    names: of the objects' labels 0, 1, …. InputError if `directory` holds anything.
    """
    if directory.is_dir() and any(directory.iterdir()) or directory.is_file():
        raise InputError(f"{directory} is not empty; choose an empty or a new directory")
    for folder in ("input", "groundtruth", "gt"):
        (directory / folder).mkdir(parents=True)
    rows, last, ids, unused = [], {}, {}, itertools.count(1)  # last: mover -> the latest frame with it
    for number, frame in enumerate(frames, 1):
        write_image(directory / "input" / f"in{number:06d}.png", frame.image)
        write_image(directory / "groundtruth" / f"gt{number:06d}.png", frame.mask)
        for o in frame.truth:
            if number - last.get(o.id, -AWAY) > AWAY:
                ids[o.id] = next(unused)
            last[o.id] = number
            box = o.x + 1, o.y + 1, o.width, o.height  # MOTChallenge counts pixels from 1
            rows.append((number, ids[o.id], *box, int(o.visible >= IN_VIEW), o.label + 1, f"{o.visible:.3f}"))
    write_image(directory / "ROI.bmp", np.full(frame.mask.shape, 255, np.uint8))
    (directory / "temporalROI.txt").write_text(f"1 {number}\n")
    (directory / "gt" / "labels.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    (directory / "gt" / "gt.txt").write_text("".join(",".join(map(str, row)) + "\n" for row in rows))
