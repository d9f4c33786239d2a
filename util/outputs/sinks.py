"""The files of a run over a video, all written while it runs: each is a sink (util.outputs.sink), which gets every moment once.

Beside those of util.outputs.results and util.outputs.staging the directory then holds:

    predictions.csv          frame,object,x,y,width,height,label,probability,track; objects as in detections.csv, track empty if none
    events.jsonl             one JSON object per track, when it has ended (docs/event.schema.json)
    events/000007.png        the best crop of track 7
    changes.jsonl            the same at the start of each track, when its name changes and at its end
    coco.json                COCO results, one per object: image_id (the frame), category_id, bbox, score (of the detector), track_id
    coco_categories.json     the names of those category ids: 0 is "unknown" (a kind, too), class i of the network is i + 1
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
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from util.errors import InputError
from util.files import GrowingFile
from util.outputs import sheet
from util.outputs.debug import DebugView
from util.outputs.events import ChangeLines, Events, read_crop
from util.outputs.pictures import VideoFile, draw_tracks, encode_png
from util.outputs.report import SIDE, Longest, Report
from util.outputs.results import DetectionFiles, mask_name
from util.outputs.sink import Sink, Sinks, Timings
from util.outputs.staging import StagedTable, Staging
from util.source.video import Video
from util.track.places import Places
from util.track.tracking import UNKNOWN, Moment, Track


def open_sinks(args, video: Video, classes: Sequence[str], detector, places: Places) -> Sinks:
    """Return the sinks for what `args` asks: all with `--save DIR`, else predictions.csv here.

    debug.mp4, which looks inside the detector, only with `--show-debug`.
    Raises InputError if the directory holds anything but an earlier run, is in use or cannot be written (see util.outputs.staging).
    """
    if not args.save:
        table = StagedTable(Path(PredictionTable.NAME), PredictionTable.HEAD)
        return Sinks([PredictionTable(table.file)], table)
    with ExitStack() as stack:
        sinks = stack.enter_context(Sinks([], Staging(args.save, source=args.video)))
        try:
            for sink in _make(sinks.staged, args, video, classes, detector, places):
                sinks.sinks.append(sink)
        except OSError as error:
            raise InputError(f"{error.filename or args.save}: {error.strerror}; choose another directory") from None
        stack.pop_all()
        return sinks


def _make(staging: Staging, args, video: Video, classes: Sequence[str], detector, places: Places) -> Iterator[Sink]:
    source = Path(str(args.video))
    title = source.resolve().name if source.exists() else Path(video.name).name  # frames may lie in its input/
    yield DetectionFiles(staging)  # first: cdnet/ links to its masks
    yield ChangeMasks(staging)
    yield PredictionTable(GrowingFile(staging.new(PredictionTable.NAME), PredictionTable.HEAD))
    yield Tracks(staging)
    yield Coco(staging, classes)
    yield Events(staging, video)  # before those that show its pictures
    yield ChangeLines(staging, video)
    yield Annotated(staging, video)
    yield Sheet(staging, title)
    yield Report(staging, title, video, Annotated.NAME, classes, places)
    if args.show_debug:
        yield Debug(staging, video, detector)


# Tables that grow

class PredictionTable(Sink):
    """Writes predictions.csv, the name of each object in each frame."""

    NAME = "predictions.csv"
    COLUMNS = ("frame", "object", "x", "y", "width", "height", "label", "probability", "track")
    HEAD = ",".join(COLUMNS) + "\n"

    def __init__(self, file: GrowingFile):
        self._file, self.close = file, file.close

    def add(self, moment: Moment) -> None:
        lines = io.StringIO()
        rows = csv.writer(lines, lineterminator="\n")
        for number, seen in enumerate([*moment.sightings, *moment.expected]):  # the latter are in no other table
            rows.writerow([moment.number, number, *map(int, seen.box), seen.label, f"{seen.probability:.4f}", seen.track or ""])
        self._file.append(lines.getvalue())


class Tracks(Sink):
    """Writes tracks.txt, in the format of MOTChallenge's results, which TrackEval and py-motmetrics read."""

    def __init__(self, staging: Staging):
        self._file = GrowingFile(staging.new("tracks.txt"))
        self.close = self._file.close

    def add(self, moment: Moment) -> None:
        lines = []
        for seen in moment.sightings:
            if seen.track:
                x, y, width, height = map(int, seen.box)
                lines.append(f"{moment.number},{seen.track},{x + 1},{y + 1},{width},{height},{seen.score:.4f},-1,-1,-1\n")
        self._file.append("".join(lines))


class Coco(Sink):
    """Writes coco.json in COCO's results format: one list, closed after every frame; pycocotools' loadRes reads it."""

    def __init__(self, staging: Staging, classes: Sequence[str]):
        self.ids = {UNKNOWN: 0, **{name: i for i, name in enumerate(classes, 1)}}
        categories = json.dumps([{"id": i, "name": name} for name, i in self.ids.items()], indent=1) + "\n"
        staging.write({"coco_categories.json": categories.encode()})
        self._file, self._comma = GrowingFile(staging.new("coco.json"), "[", "\n]\n"), ""
        self.close = self._file.close

    def add(self, moment: Moment) -> None:
        text = ""
        for seen in moment.sightings:
            place = {"image_id": moment.number, "category_id": self.ids.get(seen.label, 0), "bbox": [float(length) for length in seen.box]}
            comma = "," if text else self._comma
            text += comma + "\n" + json.dumps({**place, "score": round(float(seen.score), 4), "track_id": seen.track})
        if text:
            self._file.append(text)
            self._comma = ","


# Pictures

class ChangeMasks(Sink):
    """Writes cdnet/, the masks again under CDnet's names; a second name for the same file where the disk's format has that."""

    def __init__(self, staging: Staging):
        self.staging = staging
        staging.mkdir("cdnet")

    def add(self, moment: Moment) -> None:
        name = f"cdnet/bin{moment.number:06d}.png"
        self.staging.record(name)
        try:
            os.link(self.staging.at(mask_name(moment.number)), self.staging.at(name))
        except OSError:
            self.staging.write({name: encode_png(moment.result.mask)})


class Annotated(Sink):
    """Writes annotated.mp4, the video with each track's box, number, name and confidence."""

    NAME = "annotated.mp4"

    def __init__(self, staging: Staging, video: Video):
        self._file = VideoFile(staging.new(self.NAME), video.fps, (video.width, video.height))
        self.close = self._file.close

    def add(self, moment: Moment) -> None:
        self._file.write(draw_tracks(moment.frame, moment.tracks), moment.seconds)


class Debug(Sink):
    """Writes debug.mp4, what the detector saw, took for background and measured, side by side (util.outputs.debug)."""

    immediate = True  # it asks the detector

    def __init__(self, staging: Staging, video: Video, detector):
        self._path, self.fps, self.view, self._file = staging.new("debug.mp4"), video.fps, DebugView(detector), None

    def add(self, moment: Moment) -> None:
        picture = self.view.frame(moment.frame, moment.result)
        self._file = self._file or VideoFile(self._path, self.fps, picture.shape[1::-1])
        self._file.write(picture, moment.seconds)

    def close(self) -> None:
        if self._file:
            self._file.close()


class Sheet(Sink):
    """Writes contact_sheet.png, the best crop and the final name of each track, of the longest ones if there are many."""

    def __init__(self, staging: Staging, title: str):
        self.staging, self.title, self.longest = staging, title, Longest(sheet.MAX_THUMBNAILS)

    def add(self, moment: Moment) -> None:
        self.longest.add(moment.ended)

    def finish(self, tracks: Sequence[Track], clock: Timings) -> None:
        self.longest.add(tracks)
        shown, seen = self.longest.tracks(), self.longest.seen
        if shown:
            count = f"the {len(shown)} longest of {seen} tracks" if seen > len(shown) else f"{seen} track{'s' * (seen > 1)}"
            captions = [f"#{track.number} {track.label}" for track in shown]
            crops = [read_crop(self.staging, track, SIDE)[..., ::-1] for track in shown]
            picture = sheet.draw_sheet(crops, captions, [track.label for track in shown], f"{self.title}: {count}")
            self.staging.write({sheet.NAME: encode_png(picture)})
