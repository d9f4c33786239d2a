"""What becomes of each track, as events in JSON: its start, each change of its name, what it passes, its end (docs/event.schema.json).

    events.jsonl         the ends alone, a line for each track, whose best crop is events/000007.png
    changes.jsonl        all of them, as they happen; --notify sends the same ones (util.outputs.webhook)
"""
import base64
import json
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

import cv2
import numpy as np

from util.errors import InputError, printable
from util.files import GrowingFile
from util.outputs.pictures import encode_jpeg, encode_png, shrunk
from util.outputs.sink import Sink, Timings
from util.outputs.staging import Staging
from util.source.images import read_bgr
from util.source.video import Video
from util.track.places import Crossing, Visit
from util.track.tracking import Moment, Track

VERSION = 1  # of the schema; a new field leaves it as it is
CROP = 320  # pixels


def event_of(event: str, track: Track, video: Video, **more: object) -> dict:
    """Return what has happened to a track of `video` as the schema has it; event: its word for that."""
    start, end = video.time_of(track.start), video.time_of(track.end)
    times = {"start_time": rfc_3339(start), "end_time": rfc_3339(end)} if start and end else {}
    return {
        "version": VERSION, "event": event, "source": printable(video.name), "track": track.number, "label": track.label,
        "confidence": round(float(track.probability), 4), "start": round(track.start, 3), "end": round(track.end, 3), **times,
        "first_frame": track.first, "last_frame": track.last, "sightings": track.sightings,
        "box": [int(length) for length in track.best_box], "best_frame": track.best_frame,
        "kind": track.kind, "kind_confidence": round(float(track.kind_probability), 4), **more,
    }  # fmt: skip


def passed(track: Track) -> dict:
    """Return, for the end of a track, what it passed; nothing where it passed nothing."""
    crossings = [{"line": crossing.line, "direction": crossing.direction, "at": round(crossing.seconds, 3)} for crossing in track.crossings]
    visits = [{"zone": visit.zone, "start": round(visit.start, 3), "end": round(visit.end, 3)} for visit in track.visits]
    return {key: value for key, value in (("crossings", crossings), ("visits", visits)) if value}


def rfc_3339(time: datetime) -> str:
    """Return a time to the millisecond, with its zone's offset."""
    return time.isoformat(timespec="milliseconds")


def crop_name(track: Track) -> str:
    """Return where an ended track's best crop is, relative to the directory."""
    return f"events/{track.number:06d}.png"


def read_crop(staging: Staging, track: Track, side: int) -> np.ndarray:
    """Return an ended track's best crop, BGR, at most `side` pixels long; a grey square where it could not be written."""
    try:
        return shrunk(read_bgr(Path(staging.at(crop_name(track)))), side)
    except InputError:
        return np.full((side, side, 3), 128, np.uint8)


class Events(Sink):
    """Writes events.jsonl and events/, what was seen from when to when, a line and a picture when it has ended."""

    def __init__(self, staging: Staging, video: Video):
        self.staging, self.video = staging, video
        staging.mkdir("events")
        self._file = GrowingFile(staging.new("events.jsonl"))
        self.close = self._file.close

    def add(self, moment: Moment) -> None:
        self._end(moment.ended)

    def finish(self, tracks: Sequence[Track], clock: Timings) -> None:
        self._end(tracks)

    def _end(self, tracks: Sequence[Track]) -> None:
        for track in tracks:
            name = crop_name(track)
            self.staging.write({name: encode_png(cv2.cvtColor(track.best, cv2.COLOR_RGB2BGR))})
            try:
                self._file.append(json.dumps(event_of("end", track, self.video, best_crop=name, **passed(track))) + "\n")
            except BaseException:
                self.staging.unlink(name)
                raise


class Changes(Sink):
    """Gives `send` every event as it happens; after a track's start comes, sooner or later, its end or, with names.drop_other, its drop.

    immediate: whether that is at once, which `send` must not hold up, or when the other files of the frames before are written.
    crops: whether each has the track's best picture so far, as `crop`: a JPEG in base64, its longer side at most CROP pixels.
    """

    def __init__(self, send: Callable[[dict], None], video: Video, immediate: bool = False, crops: bool = False):
        self._send, self._video, self.immediate, self._crops = send, video, immediate, crops
        self._open: dict[int, Track] = {}  # started and not ended, as last told

    def add(self, moment: Moment) -> None:
        for track in moment.begun:
            self._tell("start", track)
        for track in moment.renamed:
            self._tell("name", track, previous_label=self._open[track.number].label)
        for track, passage in moment.passed:
            if isinstance(passage, Crossing):
                self._tell("cross", track, line=passage.line, direction=passage.direction)
            elif passage.left:
                self._leave(track, passage)
            else:
                self._tell("enter", track, zone=passage.zone)
        self._end("end", moment.ended)
        self._end("drop", moment.dropped)

    def finish(self, tracks: Sequence[Track], clock: Timings) -> None:
        self._end("end", tracks)
        self._end("drop", list(self._open.values()))

    def _tell(self, event: str, track: Track, **more: object) -> None:
        self._open[track.number] = track
        if self._crops:
            more["crop"] = base64.b64encode(encode_jpeg(track.best[..., ::-1], CROP)).decode()
        self._send(event_of(event, track, self._video, **more))

    def _leave(self, track: Track, visit: Visit) -> None:
        self._tell("leave", track, zone=visit.zone, dwell=round(visit.end - visit.start, 3))

    def _end(self, event: str, tracks: Sequence[Track]) -> None:
        for track in tracks:
            for visit in track.visits:
                if not visit.left:
                    self._leave(track, visit)
            self._tell(event, track, **passed(track))
            del self._open[track.number]


class ChangeLines(Changes):
    """Writes changes.jsonl, a line for each event as it happens."""

    def __init__(self, staging: Staging, video: Video):
        file = GrowingFile(staging.new("changes.jsonl"))
        super().__init__(lambda event: file.append(json.dumps(event) + "\n"), video)
        self.close = file.close
