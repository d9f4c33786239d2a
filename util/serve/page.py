"""The live page of a run: a sink that remembers what is now and lately, and answers browsers that ask.

    /             page.html, which asks for the rest by itself
    /state        what is known, as JSON
    /picture.jpg  the newest frame with boxes, names and trails; ?after=N waits for another than frame N, which X-Frame names
    /crop/7.jpg   track 7, if it is in view or ended lately
    /drawing      PUT: zones and lines, as JSON, to be saved as settings

A frame is drawn and encoded only when somebody asks for one, at most once each INTERVAL, on another thread than the run's.
"""
import asyncio
import json
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from aiohttp import web

from util.errors import InputError, printable
from util.outputs.events import rfc_3339
from util.outputs.pictures import colour_of, draw_tracks, encode_jpeg
from util.outputs.sink import Sink, Timings
from util.serve.server import Html, Refused, Served, Server, token_for
from util.source.video import Video
from util.track.places import Places, Tally
from util.track.tracking import Moment, Sighting, Track

PAGE = Path(__file__).with_name("page.html")
INTERVAL = 0.2  # seconds between two pictures
WAIT = 5.0  # seconds that a request waits for another picture
LOOKING = 10.0  # seconds after a request for a picture in which trails are kept
WIDEST, QUALITY, THUMBNAIL = 960, 75, 160  # pixels; of JPEG; pixels of a crop's longer side
LATELY, AGES, TRAIL = 40, 300, 60  # ended tracks, frames, points of a trail
WINDOW = 50  # frames after which the time per stage is noted; it is told over the last few of these
AGE = {"median": 0.5, "p95": 0.95}

Save = Callable[[dict], dict]  # from a drawing to the one that is in use then; raises InputError


class Page(Served, Sink):
    """The page of a run over `video`: `with Page(address, video, clock) as page:` serves it until the block ends.

    title: what the page is called. clock: the run's, of util.watch.pipeline. drawing: zones and lines as the settings have them, and
    `save` what PUT /drawing does with others, or None where there is no file for them. notifiers: each has name, sent and dropped.
    places: the lines and zones, to count who passes them.
    """

    immediate = True  # add() takes some microseconds

    def __init__(
        self, address, video: Video, clock, title: str, drawing: dict, save: Save | None, notifiers: Sequence, places: Places
    ):
        self._video, self._clock, self.title, self._notifiers = video, clock, title, notifiers
        self._drawing, self._save, self._saving = drawing, save, asyncio.Lock()
        self._lock, self._moment = threading.Lock(), None
        self._open: dict[int, Track] = {}  # as when it began or was renamed
        self._ended, self._counts, self._tally = deque(maxlen=LATELY), Counter(), Tally(places)
        self._ages, self._windows, self._came = deque(maxlen=AGES), deque([(0, {}, time.monotonic())], maxlen=6), time.monotonic()
        self._looked, self._trails = -LOOKING, Trails()
        self._jpeg, self._number, self._drawn, self._turn = b"", 0, 0.0, asyncio.Lock()
        self._page = Html(PAGE)
        self.server = Server(address, self.answer, token_for(address))

    # The run's thread

    def add(self, moment: Moment) -> None:
        now = time.monotonic()
        with self._lock:
            self._moment, self._came = moment, now
            if self._video.decoded_at is not None:
                self._ages.append(now - self._video.decoded_at)
            for track in moment.begun + moment.renamed:
                self._open[track.number] = track
            for track in moment.dropped:
                self._open.pop(track.number, None)
            self._end(moment.ended)
            if now - self._looked < LOOKING:
                self._trails.follow(moment)
            elif self._trails.points:
                self._trails.points.clear()
            if self._clock.frames - self._windows[-1][0] >= WINDOW:
                self._windows.append((self._clock.frames, dict(self._clock.seconds), now))

    def finish(self, tracks: Sequence[Track], clock: Timings) -> None:
        with self._lock:
            self._end(tracks)

    def _end(self, tracks: Sequence[Track]) -> None:
        for track in tracks:
            self._open.pop(track.number, None)
            self._ended.appendleft(track)
            self._counts[track.label] += 1
            self._tally.add(track)

    # The server's thread

    async def answer(self, request: web.BaseRequest) -> web.Response:
        """Answer what a browser asks."""
        if request.method == "PUT" and request.path == "/drawing":
            return await self._draw(request)
        if request.method not in ("GET", "HEAD"):
            raise Refused(405, "this can only be looked at")
        if request.path == "/":
            return self._page.response()
        if request.path == "/state":
            return web.json_response(self.state())
        if request.path == "/picture.jpg":
            return await self._picture(request.query.get("after", ""))
        if (crop := self._crop(request.path)) is not None:
            return web.Response(body=await asyncio.to_thread(encode_jpeg, crop, THUMBNAIL, QUALITY), content_type="image/jpeg")
        raise Refused(404, "there is nothing there")

    async def _picture(self, after: str) -> web.Response:
        began = self._looked = time.monotonic()
        while (now := time.monotonic()) < began + WAIT:
            async with self._turn:  # all who look get the same picture
                if self._moment and self._moment.number != self._number and now - self._drawn >= INTERVAL:
                    with self._lock:
                        moment, trails = self._moment, dict(self._trails.points)
                    self._jpeg = await asyncio.to_thread(draw, moment, trails)
                    self._number, self._drawn = moment.number, now
            if self._number and str(self._number) != after:
                return web.Response(body=self._jpeg, content_type="image/jpeg", headers={"X-Frame": str(self._number)})
            await asyncio.sleep(INTERVAL / 8)
        return web.Response(status=204)

    def _crop(self, path: str) -> np.ndarray | None:
        number = path.removeprefix("/crop/").removesuffix(".jpg")
        with self._lock:
            tracks = [*self._open.values(), *self._ended] if path == f"/crop/{number}.jpg" else []
        return next((track.best[..., ::-1] for track in tracks if str(track.number) == number), None)

    async def _draw(self, request: web.BaseRequest) -> web.Response:
        if self._save is None:
            raise Refused(409, "there is no file of settings to save to; start with --settings FILE")
        if request.content_type != "application/json":
            raise Refused(415, "a drawing is application/json")
        try:
            drawing = json.loads(await request.read())
            async with self._saving:  # two browsers may save at once
                self._drawing = await asyncio.to_thread(self._save, drawing)
        except (ValueError, RecursionError):
            raise Refused(400, "that is no JSON") from None
        except (InputError, OSError) as error:
            raise Refused(400, printable(error)) from None
        return web.json_response(self._drawing)

    def state(self) -> dict:
        """Return what the page shows, for JSON."""
        video, now = self._video, time.monotonic()
        with self._lock:
            moment, ages, known = self._moment, sorted(self._ages), dict(self._open)
            ended, counts, (frames, seconds, since) = list(self._ended), self._counts.most_common(), self._windows[0]
            silent, passed = now - self._came, self._tally.summary()
        count = self._clock.frames - frames
        ms = {stage: 1000 * (total - seconds.get(stage, 0)) / max(1, count) for stage, total in dict(self._clock.seconds).items()}
        at = moment.seconds if moment else 0.0
        time_of_day = video.time_of(at)
        return {
            "title": self.title, "live": video.live, "width": video.width, "height": video.height, "frames": self._clock.frames,
            "seconds": round(at, 3), "time": time_of_day and rfc_3339(time_of_day), "silent_s": round(silent, 1),
            "fps": round(count / max(1e-3, now - since), 2), "ms": {stage: round(value, 2) for stage, value in ms.items()},
            "age_ms": {name: round(1000 * ages[int(share * len(ages))], 1) for name, share in AGE.items()} if ages else None,
            "dropped": video.dropped, "reconnects": video.reconnects,
            "tracks": [self._seen(seen, known, at) for seen in moment.tracks] if moment else [],
            "lately": [self._past(track, at) for track in ended], "counts": dict(counts), "passed": passed,
            "notified": [{"name": each.name, "sent": each.sent, "dropped": each.dropped} for each in self._notifiers],
            "drawing": self._drawing, "editable": self._save is not None,
        }  # fmt: skip

    @staticmethod
    def _seen(seen: Sighting, known: dict[int, Track], at: float) -> dict:
        start = known[seen.track].start if seen.track in known else at
        name = {"track": seen.track, "label": seen.label, "confidence": round(float(seen.probability), 3), "colour": _css(seen.label)}
        return {**name, "box": [int(length) for length in seen.box], "seconds": round(at - start, 1), "expected": seen.expected}

    @staticmethod
    def _past(track: Track, at: float) -> dict:
        name = {"track": track.number, "label": track.label, "confidence": round(float(track.probability), 3), "colour": _css(track.label)}
        return {**name, "seconds": round(track.end - track.start, 1), "ago": round(at - track.end, 1)}


class Trails:
    """Where tracks have been, in pixels of the newest frame: its points move along as the camera does."""

    def __init__(self):
        self.points: dict[int, np.ndarray] = {}  # track -> float (n, 2), the newest last

    def follow(self, moment: Moment) -> None:
        """Take the next moment."""
        new = {seen.track: (seen.box[0] + seen.box[2] / 2, seen.box[1] + seen.box[3]) for seen in moment.tracks}
        old = {track: points for track, points in self.points.items() if track in new}
        if old:
            motion = np.linalg.inv(moment.result.homography)
            moved = cv2.perspectiveTransform(np.concatenate(list(old.values()))[None], motion)[0]
            old = dict(zip(old, np.split(moved, np.cumsum([len(points) for points in old.values()])[:-1]), strict=True))
        self.points = {track: np.vstack([old.get(track, np.empty((0, 2))), point])[-TRAIL:] for track, point in new.items()}


def draw(moment: Moment, trails: dict[int, np.ndarray]) -> bytes:
    """Return a JPEG of the moment's frame, at most WIDEST wide, with boxes, names and trails."""
    height, width = moment.frame.shape[:2]
    factor = min(1.0, WIDEST / width)
    frame = cv2.resize(moment.frame, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA) if factor < 1 else moment.frame.copy()
    for seen in moment.tracks:
        if (points := trails.get(seen.track)) is not None:
            line = (points * factor * 16).clip(-(2**20), 2**20).round().astype(np.int32)  # 4 bits below the pixel
            cv2.polylines(frame, [line], False, colour_of(seen.label)[::-1], 2, cv2.LINE_AA, 4)
    return encode_jpeg(draw_tracks(frame, moment.tracks, factor), quality=QUALITY)


def _css(label: str) -> str:
    return "#" + bytes(colour_of(label)).hex()
