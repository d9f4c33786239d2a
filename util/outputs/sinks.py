"""The files of a run over a video, all written while it runs: each is a sink, which gets every moment once.

Beside those of util.outputs.results the directory then holds:

    predictions.csv          frame,object,x,y,width,height,label,probability,track; objects as in detections.csv, track empty if none
    events.jsonl             one JSON object per track, when it has ended: track, label, confidence 0..1, start and end in seconds,
                             first_frame, last_frame, sightings, box [x, y, width, height] in best_frame, best_crop (a path)
    events/000007.png        the best crop of track 7
    coco.json                COCO results, one per object: image_id (the frame), category_id, bbox, score (of the detector), track_id
    coco_categories.json     the names of those category ids: 0 is "unknown", class i of the network is i + 1
    tracks.txt               MOTChallenge results: frame,id,left,top,width,height,conf,-1,-1,-1; objects with a track alone
    cdnet/bin000123.png      the masks, 0 or 255, as the tools for the data sets of changedetection.net expect them
    annotated.mp4            the video with boxes and names     contact_sheet.png  a picture of each track     report.html  report.py

Frames and tracks count from 1; x and y are pixels from 0 in all of them but tracks.txt, where they count from 1, as MOTChallenge has it.
A label is what the track was called at that frame; the name it ended with is in events.jsonl.
"""
import csv
import io
import json
import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import cv2
import numpy as np

from util.cli import InputError
from util.files import GrowingFile, atomic_write
from util.outputs.debug import DebugView
from util.outputs.pictures import VideoWriter, annotate, contact_sheet
from util.outputs.report import Longest, Report
from util.outputs.results import ResultsWriter
from util.source.images import write_image
from util.track.tracking import UNKNOWN, Moment, Track

PREDICTIONS = ["frame", "object", "x", "y", "width", "height", "label", "probability", "track"]
SHEET = 96  # tracks on a contact sheet, at most


def open_sinks(stack: ExitStack, args, video, classes: Sequence[str], detector) -> list["Sink"]:
    """Return the sinks for what `args` asks, entered into `stack`: all with `--save DIR`, else predictions.csv here.

    debug.mp4, which looks inside the detector, only with `--show-debug`.

    InputError if the directory holds anything but an earlier run, or cannot be written.
    """
    if not args.save:
        return [stack.enter_context(Predictions(Path()))]
    results = Detections(ResultsWriter(args.save, source=args.video))  # first: it makes room, and cdnet/ links to its masks
    stack.enter_context(results)
    source = Path(str(args.video))
    title = source.resolve().name if source.exists() else Path(video.name).name  # frames may lie in its input/
    try:
        sinks = [make(args.save) for make in (Predictions, Events, Tracks, ChangeMasks)]
        sinks += [Coco(args.save, classes), Annotated(args.save, video), Sheet(args.save, title), Report(args.save, title, Annotated.NAME)]
        sinks += [Debug(args.save, video, detector)] * args.show_debug
    except OSError as error:
        raise InputError(f"{error.filename or args.save}: {error.strerror}; choose another directory") from None
    return [results, *map(stack.enter_context, sinks)]


class Sink:
    """What gets every moment of a run, and at its end, whatever ends it, the tracks that have not ended and the seconds per stage."""

    def add(self, moment: Moment) -> None:
        """Nothing; takes what is new in `moment`."""

    def finish(self, tracks: Sequence[Track], clock) -> None:
        """Nothing; takes the tracks that no moment had among its ended ones, and the run's Clock."""

    def __enter__(self):
        return self

    def __exit__(self, *error) -> None:
        pass


# Tables that grow

class _Growing(Sink):
    def __init__(self, path: Path, head: str = "", tail: str = ""):
        self._file = GrowingFile(path, head, tail)

    def __exit__(self, *error) -> None:
        self._file.close()


class Predictions(_Growing):
    """predictions.csv: the name of each object in each frame."""

    def __init__(self, directory: Path):
        super().__init__(directory / "predictions.csv", ",".join(PREDICTIONS) + "\n")

    def add(self, moment: Moment) -> None:
        lines = io.StringIO()
        rows = csv.writer(lines, lineterminator="\n")
        for number, seen in enumerate(moment.sightings):
            rows.writerow([moment.number, number, *map(int, seen.box), seen.label, f"{seen.probability:.4f}", seen.track or ""])
        self._file.append(lines.getvalue())


class Tracks(_Growing):
    """tracks.txt: the format of MOTChallenge's results, which TrackEval and py-motmetrics read."""

    def __init__(self, directory: Path):
        super().__init__(directory / "tracks.txt")

    def add(self, moment: Moment) -> None:
        lines = []
        for seen in moment.sightings:
            if seen.track:
                x, y, width, height = map(int, seen.box)
                lines.append(f"{moment.number},{seen.track},{x + 1},{y + 1},{width},{height},{seen.score:.4f},-1,-1,-1\n")
        self._file.append("".join(lines))


class Coco(_Growing):
    """coco.json: COCO's results format, one list, closed after every frame; pycocotools' loadRes reads it."""

    def __init__(self, directory: Path, classes: Sequence[str]):
        self.ids = {UNKNOWN: 0, **{name: i for i, name in enumerate(classes, 1)}}
        with atomic_write(directory / "coco_categories.json") as temporary:
            temporary.write_text(json.dumps([{"id": i, "name": name} for name, i in self.ids.items()], indent=1) + "\n")
        super().__init__(directory / "coco.json", "[", "\n]\n")
        self._comma = ""

    def add(self, moment: Moment) -> None:
        text = ""
        for seen in moment.sightings:
            place = {"image_id": moment.number, "category_id": self.ids[seen.label], "bbox": [float(length) for length in seen.box]}
            comma = "," if text else self._comma
            text += comma + "\n" + json.dumps({**place, "score": round(float(seen.score), 4), "track_id": seen.track})
        if text:
            self._file.append(text)
            self._comma = ","


class Events(_Growing):
    """events.jsonl and events/: what was seen from when to when, a line and a picture when it has ended."""

    def __init__(self, directory: Path):
        self.directory = directory
        (directory / "events").mkdir(exist_ok=True)
        super().__init__(directory / "events.jsonl")

    def add(self, moment: Moment) -> None:
        self._end(moment.ended)

    def finish(self, tracks: Sequence[Track], clock) -> None:
        self._end(tracks)

    def _end(self, tracks: Sequence[Track]) -> None:
        for track in tracks:
            name = f"events/{track.number:06d}.png"
            _write_png(self.directory / name, cv2.cvtColor(track.best, cv2.COLOR_RGB2BGR))
            event = {
                "track": track.number, "label": track.label, "confidence": round(float(track.probability), 4),
                "start": round(track.start, 3), "end": round(track.end, 3), "first_frame": track.first, "last_frame": track.last,
                "sightings": track.sightings, "box": [int(length) for length in track.best_box], "best_frame": track.best_frame,
                "best_crop": name,
            }  # fmt: skip
            try:
                self._file.append(json.dumps(event) + "\n")
            except BaseException:
                (self.directory / name).unlink(missing_ok=True)
                raise


# Pictures

class Detections(Sink):
    """detections.csv, crops/ and masks/ (see util.outputs.results)."""

    def __init__(self, writer: ResultsWriter):
        self.writer = writer

    def add(self, moment: Moment) -> None:
        self.writer.add(moment.number, moment.frame, moment.result)

    def __exit__(self, *error) -> None:
        self.writer.close()


class ChangeMasks(Sink):
    """cdnet/: the masks again, under CDnet's names; a second name for the same file where the disk's format has that."""

    def __init__(self, directory: Path):
        self.directory = directory
        (directory / "cdnet").mkdir(exist_ok=True)

    def add(self, moment: Moment) -> None:
        path = self.directory / f"cdnet/bin{moment.number:06d}.png"
        try:
            os.link(self.directory / f"masks/{moment.number:06d}.png", path)
        except OSError:
            _write_png(path, moment.result.mask)


class Annotated(Sink):
    """annotated.mp4: the video with each track's box, number, name and confidence."""

    NAME = "annotated.mp4"

    def __init__(self, directory: Path, video):
        self.writer = VideoWriter(directory / self.NAME, video.fps, (video.width, video.height))

    def add(self, moment: Moment) -> None:
        shown = [seen for seen in moment.sightings if seen.track]
        texts = [f"#{seen.track} {seen.label} {seen.probability:.0%}" for seen in shown]
        self.writer.write(annotate(moment.frame, [seen.box for seen in shown], texts), moment.seconds)

    def __exit__(self, *error) -> None:
        self.writer.__exit__(*error)


class Debug(Sink):
    """debug.mp4: what the detector saw, took for background and measured, side by side (util.outputs.debug)."""

    def __init__(self, directory: Path, video, detector):
        self.path, self.fps, self.view, self.writer = directory / "debug.mp4", video.fps, DebugView(detector), None

    def add(self, moment: Moment) -> None:
        picture = self.view.frame(moment.frame, moment.result)
        self.writer = self.writer or VideoWriter(self.path, self.fps, picture.shape[1::-1])
        self.writer.write(picture, moment.seconds)

    def __exit__(self, *error) -> None:
        if self.writer:
            self.writer.__exit__(*error)


class Sheet(Sink):
    """contact_sheet.png: the best crop and the final name of each track, of the longest ones if there are many."""

    def __init__(self, directory: Path, title: str):
        self.path, self.title, self.longest = directory / "contact_sheet.png", title, Longest(SHEET)

    def add(self, moment: Moment) -> None:
        self.longest.add(moment.ended)

    def finish(self, tracks: Sequence[Track], clock) -> None:
        self.longest.add(tracks)
        shown, seen = self.longest.tracks(), self.longest.seen
        if shown:
            count = f"the {len(shown)} longest of {seen} tracks" if seen > len(shown) else f"{seen} track{'s' * (seen > 1)}"
            captions = [f"#{track.number} {track.label}" for track in shown]
            contact_sheet([track.best for track in shown], captions, self.path, f"{self.title}: {count}")


def _write_png(path: Path, image: np.ndarray) -> None:
    with atomic_write(path) as temporary:
        write_image(temporary, image)
