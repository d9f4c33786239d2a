"""Frames from a file, a directory of images, a camera, a URL or stdin, and one clear line when something is wrong with them."""
import itertools
import os
import re
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from util.errors import InputError, printable, redact_url
from util.files import IMAGE_SUFFIXES
from util.source import stream
from util.source.ahead import ahead, spare_cores
from util.source.images import list_images, read_frames
from util.source.live import Camera, Live

LONGEST = 1e9  # seconds, some thirty years: a timestamp beyond is damaged
Timed = tuple[float | None, np.ndarray]  # seconds by the source's clock if it has one, BGR uint8 (H, W, 3)
MIN_SIDE, MAX_SIDE, MAX_AREA = 32, 4096, 4096 * 2160  # pixels of a frame: what the detector takes


class Video:
    """Frames as BGR uint8 (H, W, 3), contiguous, by iterating; a second iteration starts over.

    name: what messages call it. width, height: pixels, the same for every frame. fps: frames per second (25 where the
    source has none). frame_count: frames announced by the source, None if unknown. Of the latest iteration: frames_read, how
    many it has yielded; seconds, the time of the latest one from the start of the source, always growing (by the source's own
    clock, so it is right at a variable frame rate; where it has none, by fps); and of a live source (live: see open_video) dropped,
    the frames that nobody took in time, reconnects, how often it came back after a loss, and decoded_at, when the latest frame was
    decoded, by time.monotonic(), else None.
    `stop()` ends the iteration over a live source before its next frame; a signal's handler may call it.
    started: the time of day, with its zone, at 0 seconds: of a live source by the machine's clock, of others what somebody has set, or
    None. time_of() gives that of any second.
    InputError, also while iterating, if a frame is of another size or an image is broken, and after the last frame if a video is cut
    off, or more than half of it is damaged; single frames that are damaged are left out, and stderr says how many.
    """

    def __init__(self, name: str, start: Callable[[], Iterator[Timed]], fps: float = 0, frame_count: float = 0):
        self.name = name
        self.fps = fps if 0 < fps < 1000 else 25.0
        self.frame_count = int(frame_count) if 0 < frame_count < 1e9 else None
        self.frames_read, self.seconds = 0, 0.0
        self._start = start
        self._frames = start()
        first = next(self._frames, None)
        if first is None:
            raise InputError(f"{name} holds no frame that can be read; it may be encrypted, damaged or cut off")
        self.height, self.width = first[1].shape[:2]
        try:
            _check_size(name, self.width, self.height)
        except InputError:
            self._frames.close()
            raise
        self.started: datetime | None = getattr(self._frames, "started", None)
        self._first = [first]  # read already, and not yet yielded

    live = property(lambda self: isinstance(self._frames, Live))
    stopped = property(lambda self: getattr(self._frames, "stopped", False))
    dropped = property(lambda self: getattr(self._frames, "dropped", 0))
    decoded_at = property(lambda self: getattr(self._frames, "decoded_at", None))
    reconnects = property(lambda self: getattr(self._frames, "reconnects", 0))

    def time_of(self, seconds: float) -> datetime | None:
        """Return the time of day at `seconds` from the start, with its zone, or None where the start's is unknown."""
        return self.started and self.started + timedelta(seconds=seconds)

    def tap(self, take: Callable[[object, object, float, bool], None] | None) -> bool:
        """Let `take` have the packets of a live stream (see Live.tap); False if the source is none, and nothing will come."""
        return self.live and self._frames.tap(take)

    def stop(self) -> None:
        if self.live:
            self._frames.stop()

    def __iter__(self) -> Iterator[np.ndarray]:
        first, self._first = self._first, []
        if not first:
            self._frames.close()
            self._frames = self._start()
        self.frames_read, origin = 0, None
        try:
            for stamp, frame in itertools.chain(first, self._frames):
                if frame.shape != (self.height, self.width, 3):
                    size = f"{frame.shape[1]}x{frame.shape[0]}, the first {self.width}x{self.height}"
                    raise InputError(f"{self.name}: frame {self.frames_read + 1} is {size}; all must have one size")
                origin = stamp if origin is None else origin
                self.seconds = self._time(None if stamp is None else stamp - origin)
                self.frames_read += 1
                yield np.ascontiguousarray(frame)
        finally:
            self._frames.close()

    def _time(self, seconds: float | None) -> float:
        if not self.frames_read:
            return 0.0
        return seconds if seconds is not None and self.seconds < seconds < LONGEST else self.seconds + 1 / self.fps


def _check_size(name: str, width: int, height: int) -> None:
    if min(width, height) < MIN_SIDE or max(width, height) > MAX_SIDE or width * height > MAX_AREA:
        limits = f"{MIN_SIDE} to {MAX_SIDE} px, and {MAX_SIDE}x{MAX_AREA // MAX_SIDE} pixels in all at most"
        raise InputError(f"{name} has frames of {width}x{height} pixels; sides must be {limits}")


def open_video(source: str | os.PathLike | int) -> Video:
    """The frames of a video file, a directory of images, a camera number (an int or digits), a URL or "-", stdin, as players show them.

    A directory's images are sorted by name, in which numbers count as numbers. One that holds another named `input`, as the clips of
    CDnet do, stands for that one. Digits that name something on the disk are no camera.
    stdin: any container that can be read without seeking, such as Matroska, MPEG-TS, MJPEG, y4m, or NUT for raw frames of any
    pixel format; readable once. A URL (rtsp, http, rtmp, tcp, udp): a file on an http server is read like one on the disk. What has
    no end, and a camera, is live: it does not wait, so that what is not taken in time is dropped and only the newest frames stay;
    when it breaks it is looked for again, ever less often, for up to 5 minutes (util/source/live.py); a change of size ends it.
    The certificate of an https server is not checked: cameras sign their own.
    Raises InputError if there is nothing there, it cannot be decoded, or its frames are too small or too large.
    """
    if isinstance(source, int) or (re.fullmatch(r"[0-9]{1,18}", str(source)) and not os.path.exists(source)):
        return _open_camera(int(source))
    if source == "-":
        return _from_start_to_end("stdin", stream.Stdin())
    if stream.is_url(str(source)):
        return _open_url(str(source))
    path = Path(source)
    try:
        return _open_images(path) if path.is_dir() else _open_file(path)
    except (OSError, ValueError) as error:  # ValueError: a zero byte
        raise InputError(f"{printable(path)}: {getattr(error, 'strerror', None) or error}") from None


def _open_images(directory: Path) -> Video:
    directory = directory / "input" if (directory / "input").is_dir() else directory
    paths, name = list_images(directory), printable(directory)
    if not paths:
        found = "no image among its files" if any(directory.iterdir()) else "nothing in it"
        raise InputError(f"{name} has {found}; expected frames as {' '.join(sorted(IMAGE_SUFFIXES))}")
    return Video(name, lambda: read_frames(name, paths), frame_count=len(paths))


def _open_file(path: Path) -> Video:
    name = printable(path)
    if path.exists() and not path.is_file():
        raise InputError(f"{name} is no file; a pipe is read as stdin (--video - < PATH), a camera by its number")
    with path.open("rb") as file:
        head = file.read(4096)
    if not head:
        raise InputError(f"{name} is empty")
    if path.suffix.lower() in IMAGE_SUFFIXES:  # FFmpeg would take 001.png for the start of a numbered sequence
        raise InputError(f"{name} is a single image; give a video file or the directory of the frames")
    if stream.is_text(head):
        raise InputError(f"{name} is a text file, not a video")
    return _from_start_to_end(name, path)


def _open_url(url: str) -> Video:
    name = redact_url(url)
    try:
        urlsplit(url)
    except ValueError:
        raise InputError(f"{name} is no address of a video") from None
    if url.partition(":")[0].lower() not in stream.SCHEMES:
        raise InputError(f"{name} is no address of a video; expected {'://, '.join(stream.SCHEMES)}://")
    first = stream.Stream(name, url)
    if first.finite and url.lower().startswith("http"):
        return _from_start_to_end(name, url, first)
    from util.source.picture import Pictures

    connect = _first_then(first, lambda: stream.Stream(name, url))
    return Video(name, lambda: Live(name, connect, Pictures()), first.fps)


def _from_start_to_end(name: str, source: str | Path | stream.Stdin, first: stream.Stream | None = None) -> Video:
    """A video of which no frame is left out, decoded ahead where there is a core for it."""
    first = first or stream.Stream(name, source)
    decoder = first.video.codec_context
    if decoder.width and decoder.height:  # before anything of a wrong size is decoded
        _check_size(name, decoder.width, decoder.height)
    opened = [first]

    def start():
        if not opened and isinstance(source, stream.Stdin):
            raise InputError("stdin can be read only once")
        frames = stream.read_all(name, opened.pop() if opened else stream.Stream(name, source))
        return ahead(frames) if spare_cores() else frames

    return Video(name, start, first.fps, first.frame_count)


def _open_camera(number: int) -> Video:
    first = Camera(number)
    name, connect = f"camera {number}", _first_then(first, lambda: Camera(number))
    return Video(name, lambda: Live(name, connect, lambda frame: frame), first.fps)


def _first_then(first: object, connect: Callable[[], object]) -> Callable[[], object]:
    """Return what gives `first`, and then a new connection each time."""
    opened = [first]
    return lambda: opened.pop() if opened else connect()
