"""Turns a run and a person's names for its tracks into folders of images that a network can learn from.

    python3 -m util.outputs.dataset RUN labels.csv DIR      DIR/<class>/<run>-<digest>_track000007_frame000123.png

RUN is what `--video --save` wrote, labels.csv what its report.html saves: track,class. Of a folder of crops, labels.csv is crop,class,
the first being names of files. Images are RGBA, their alpha what moves. DIR may be there; a view that it has isn't written again, and
one whose class has changed moves.
"""
import argparse
import csv
import hashlib
import io
import json
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Set
from pathlib import Path

if __name__ == "__main__":
    from util.cli import guard

    guard()  # Ctrl-C while the rest loads

import cv2  # noqa: E402
import numpy as np  # noqa: E402

from util.cli import Parser, at_least, run  # noqa: E402
from util.errors import InputError, read_text, reading  # noqa: E402
from util.files import atomic_write  # noqa: E402
from util.outputs.pictures import encode_png  # noqa: E402
from util.outputs.results import TABLE, Detection, read_results, read_table  # noqa: E402
from util.outputs.sinks import PredictionTable  # noqa: E402
from util.source.images import list_images  # noqa: E402
from util.spec import check_classes  # noqa: E402

VIEWS = 12  # of a track, spread over its time


def make(directory: Path, labels: Path, target: Path, views: int = VIEWS) -> dict[str, int]:
    """Return class -> number of its images in `target` that are of this run, after adding what wasn't there.

    Raises InputError, before anything is written, for labels that are damaged or of another run, and names that can't be folders.
    """
    given = read_labels(labels)
    with reading(directory, "directory of results"):
        if (directory / TABLE).is_file():
            source = _of_run(directory, labels, given, views)
        else:
            source = _of_folder(directory, labels, given)
    folders = [path.name for path in target.iterdir() if path.is_dir()] if target.is_dir() else []
    if "train" in folders:
        raise InputError(f"{target}: has train/; give the folder where the classes lie, such as {target / 'train'}")
    try:
        check_classes([*(name for name in folders if not name.startswith(".")), *given.values()])
    except ValueError as error:
        raise InputError(f"{labels}: {error}") from error
    there = {_identity(path.name): path for folder in folders for path in (target / folder).glob("*.png")}
    counts = dict.fromkeys(given.values(), 0)
    for name, class_name, view in source:
        path, earlier = target / class_name / name, there.get(_identity(name))
        path.parent.mkdir(parents=True, exist_ok=True)
        if earlier is None:
            order = cv2.COLOR_RGB2BGR if view.image.shape[2] == 3 else cv2.COLOR_RGBA2BGRA
            with atomic_write(path) as temporary:
                temporary.write_bytes(encode_png(cv2.cvtColor(view.image, order)))
        elif earlier.parent != path.parent:
            os.replace(earlier, path.parent / earlier.name)
        counts[class_name] += 1
    return counts


def read_labels(path: Path) -> dict[str, str]:
    """Return track's number or crop's name -> class, by a table with the columns track or crop, class, and perhaps first_frame.

    A track whose first_frame is told is "7@31". Raises InputError, which tells the line, for another table.
    """
    text = read_text(path, "table of labels in UTF-8")
    between = next((mark for mark in ";\t" if mark in text.partition("\n")[0]), ",")  # as spreadsheets write it where , is in numbers
    with reading(path, "table of labels"):
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=between))
    head = [name.strip() for name in rows[0]] if rows else []
    if head[:2] not in (["track", "class"], ["crop", "class"]) or head[2:] not in ([], ["first_frame"]):
        raise InputError(f"{path}: begins with {','.join(head)[:80]!r}; expected track,class (or crop,class)")
    found = {}
    for line, row in enumerate(rows[1:], 2):
        if not any(row):
            continue
        if len(row) != len(head) or not all(row):
            raise InputError(f"{path} line {line}: has {','.join(row)[:80]!r}; expected {','.join(head)}")
        key, name = row[0].strip(), row[1].strip()
        if head[0] == "track" and not all(re.fullmatch(r"[0-9]{1,9}", text.strip()) for text in (key, *row[2:])):
            raise InputError(f"{path} line {line}: has {','.join(row)[:80]!r}; expected whole numbers for {head[0]} and frame")
        key = str(int(key)) if head[0] == "track" else key
        key += f"@{int(row[2])}" if row[2:] else ""
        if found.setdefault(key, name) != name:
            raise InputError(f"{path} line {line}: {head[0]} {key.partition('@')[0]} is {name!r} here and {found[key]!r} above")
        try:
            check_classes([name])
        except ValueError as error:
            raise InputError(f"{path} line {line}: {error}") from error
    if not found:
        raise InputError(f"{path}: names nothing; label some tracks in report.html")
    return found


def _of_run(directory: Path, labels: Path, given: dict[str, str], views: int) -> Iterator[tuple[str, str, Detection]]:
    """Return an iterator of (file's name, class, view) over the labelled tracks of a run."""
    first = _tracks(directory)
    for key in list(given):
        track, _, frame = key.partition("@")
        if not track.isdecimal() or int(track) not in first:
            raise InputError(f"{labels}: {track} is no track of {directory}, which has {len(first)}; are they labels of another run?")
        if frame and int(frame) != first[int(track)]:
            raise InputError(f"{labels}: track {track} begins at frame {frame}, in {directory} at {first[int(track)]}; it's of another run")
    classes = {int(key.partition("@")[0]): name for key, name in given.items()}
    found = {(detection.frame, detection.object): detection for detection in read_table(directory)}
    wanted = _views(directory, set(classes), found.keys(), views)
    prefix = _prefix(directory, (directory / TABLE).read_bytes())
    return (
        (f"{prefix}_track{(track := wanted[view.frame, view.object]):06d}_frame{view.frame:06d}.png", classes[track], view)
        for view in (found[at] for at in sorted(wanted))
    )


def _tracks(directory: Path) -> dict[int, int]:
    """Track -> its first frame."""
    path = directory / "events.jsonl"
    if not path.is_file():
        raise InputError(f"{directory}: has no events.jsonl and so no tracks; give what --video --save wrote, or a folder of crops")
    with reading(path, "table of tracks"):
        events = [json.loads(line) for line in read_text(path, "table of tracks").splitlines()]
        return {int(event["track"]): int(event["first_frame"]) for event in events}


def _views(directory: Path, tracks: set[int], seen_at: Set[tuple[int, int]], views: int) -> dict[tuple[int, int], int]:
    """(frame, object) -> track, of the views to keep: the largest box in each of `views` equal parts of a track's sightings.

    seen_at: (frame, object) that the detector found; where a lost track is expected, there is nothing to look at.
    """
    seen = defaultdict(list)
    path = directory / PredictionTable.NAME
    with reading(path, "table of predictions"):
        rows = csv.DictReader(io.StringIO(read_text(path, "table of predictions"), newline=""))
        for row in rows:
            at = int(row["frame"]), int(row["object"])
            if row["track"] and int(row["track"]) in tracks and at in seen_at:
                seen[int(row["track"])].append((*at, int(row["width"]) * int(row["height"])))
    best = {}
    for track, sightings in seen.items():
        for part in np.array_split(np.array(sightings), min(views, len(sightings))):
            frame, number, _ = part[part[:, 2].argmax()].tolist()
            best[frame, number] = track
    return best


def _of_folder(directory: Path, labels: Path, given: dict[str, str]) -> Iterator[tuple[str, str, Detection]]:
    names = {path.name for path in list_images(directory)}
    if unknown := [name for name in given if name not in names]:
        raise InputError(f"{labels}: {unknown[0]!r} is no image in {directory}; expected crop,class of its files, or a run with tracks")
    prefix = _prefix(directory, "\n".join(sorted(names)).encode())
    views = zip(list_images(directory), read_results(directory), strict=True)
    return ((f"{prefix}_{i:06d}.png", given[path.name], view) for i, (path, view) in enumerate(views) if path.name in given)


def _prefix(directory: Path, content: bytes) -> str:
    """What the files of a run begin with: its name, and a digest that tells runs of one name from another."""
    name = re.sub(r"[^\w.-]", "_", directory.resolve().name)[:60]
    return f"{name}-{hashlib.sha256(content).hexdigest()[:8]}"


def _identity(name: str) -> str:
    """What a view's file is known by: its name without the run's, which may be saved under another."""
    return name.rpartition("-")[2]


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(prog="python3 -m util.outputs.dataset", description="Turns a run and labels.csv into folders of images to learn from.")
    parser.add_argument("run", type=Path, metavar="RUN", help="what --video --save wrote, or a folder of crops")
    parser.add_argument("labels", type=Path, metavar="labels.csv", help="track,class, as report.html saves it; of crops: crop,class")
    parser.add_argument("dir", type=Path, metavar="DIR", help="gets a folder per class; may hold those of other runs")
    parser.add_argument("--views", type=at_least(1), metavar="N", default=VIEWS, help="images of a track, at most")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> dict[str, int]:
    args = parse_args(argv)
    counts = make(args.run, args.labels, args.dir, args.views)
    print(f"{args.dir}: " + ", ".join(f"{name} {count}" for name, count in counts.items()) + f" images of {args.run}")
    print(f"teach a network these classes: python3 CIFAR_10/main.py --data {args.dir}")
    return counts


if __name__ == "__main__":
    run(main)
