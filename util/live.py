"""Frames that come on their own: from a URL, from stdin, and the newest ones of what is live.

`Stream` reads whatever PyAV can read from its start to its end, every frame. `Live` follows a source that does not wait: a
thread reads it, keeps the newest frames, and connects again when it breaks.
"""
import re
import socket
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import numpy as np
from tqdm import tqdm

from util.cli import InputError

SCHEMES = ("rtsp", "rtsps", "http", "https", "rtmp", "tcp", "udp")
TIMEOUT = 10.0  # seconds that a server may take to answer, and to go on
NEWEST = 4  # frames that wait at most: 0.16 s at 25 a second, enough for what comes in bursts
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0  # seconds before trying again; doubled each time
PATIENCE = 300.0  # seconds after which a source that is lost is given up


class Lost(Exception):
    """A source broke off; the message says how."""


def is_url(source: str) -> bool:
    """Whether `source` is a URL; a path may hold a colon, but hardly "://"."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", source) is not None


def shown(url: str) -> str:
    """The URL without the user, password and query it may hold: fit for messages and files."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


class Stream:
    """A video that PyAV reads from start to end. Iterating yields (seconds by its own clock, or None where it has none, a frame
    for `picture`); a frame that cannot be decoded is left out, as FFmpeg does.

    source: a URL, or a file object with `read(n)`. fps, frame_count: what it announces, 0 if nothing. finite: whether it announces
    an end. InputError if it cannot be opened; Lost, while iterating, if it breaks off.
    """

    def __init__(self, name: str, source):
        av = _import_av(name)
        scheme = urlsplit(source).scheme.lower() if isinstance(source, str) else ""
        options = {"rtsp_flags": "prefer_tcp"} if scheme.startswith("rtsp") else {}
        if scheme.startswith("http"):  # goes on where it was if the server can, which live ones cannot
            options = {"reconnect": "1"}
        try:
            self.container = av.open(source, options=options, timeout=(TIMEOUT, TIMEOUT) if scheme else None)
        except (av.error.FFmpegError, OSError) as error:
            raise InputError(f"{name} cannot be opened: {_reason(error, source)}") from None
        self.video = self.container.streams.best("video")
        if self.video is None or self.video.codec_context.name == "ansi":  # FFmpeg would draw a text file as frames
            self.close()
            raise InputError(f"{name} holds no video")
        kind, duration = self.container.format, self.container.duration
        self.fps = float(self.video.average_rate or self.video.guessed_rate or 0)
        # A fragmented mp4 announces the duration of its first part.
        self.frame_count = self.video.frames or (0 if "mp4" in kind.name else (duration or 0) / 1e6 * self.fps)
        listed = kind.name in ("hls", "dash")  # the size is the playlist's
        self.finite = duration is not None or (scheme.startswith("http") and not listed and self.container.size > 0)
        self.has_clock = not kind.flags & av.format.Flags.no_timestamps.value and not kind.name.endswith("_pipe")
        self._torn, self._read_to = False, 0  # whether the last of its packets could not be decoded; its end in bytes
        self._errors, self._corrupt = (av.error.FFmpegError, OSError), av.error.FFmpegError

    def __iter__(self) -> Iterator[tuple[float | None, object]]:
        came = time.monotonic()
        try:
            for packet in self.container.demux():
                if packet.stream_index == self.video.index:
                    for frame in self._decode(packet):
                        yield (frame.time, frame)
                        came = time.monotonic()
                if time.monotonic() - came > TIMEOUT and self.container.file is None:
                    raise Lost(f"no picture for {TIMEOUT:g} s")
        except self._errors as error:
            raise Lost(_reason(error, self.container.name)) from None

    def _decode(self, packet) -> list:
        if packet.size:  # at the end, the decoder is asked for its last frames without a packet
            self._torn, self._read_to = False, (packet.pos or 0) + packet.size
        try:
            return packet.decode()
        except self._corrupt:
            self._torn = True
            return []

    def ends_inside_a_frame(self, count: int) -> bool:
        """Whether a stream of `count` bytes, read to its end, seems cut off; formats without marks of their own don't tell."""
        kind = self.container.format.name
        return self._torn or (kind == "mpegts" and count % 188) or (kind == "yuv4mpegpipe" and count > self._read_to)

    def close(self) -> None:
        self.container.close()


class Pictures:
    """Makes BGR uint8 (H, W, 3) of PyAV's frames, turned upright, exactly as OpenCV does; for one thread."""

    def __init__(self):
        self._reformatter = None

    def __call__(self, frame) -> np.ndarray:
        if self._reformatter is None:
            from av.video.reformatter import VideoReformatter

            self._reformatter = VideoReformatter()  # keeps what it has set up for this size
        bgr = self._reformatter.reformat(frame, format="bgr24", interpolation="BICUBIC").to_ndarray()
        return np.rot90(bgr, round(frame.rotation / 90) % 4) if frame.rotation else bgr


def _import_av(name: str):
    try:
        import av  # here, since files, directories and cameras need OpenCV alone
    except ImportError:
        raise InputError(f"{name}: reading this needs PyAV; install it with: pip install av") from None
    return av


def _reason(error: Exception, source) -> str:
    """What FFmpeg's error says to somebody who does not know FFmpeg."""
    text = getattr(error, "strerror", None) or str(error)
    if "Immediate exit" in text:
        return f"no answer for {TIMEOUT:g} s"
    if "Invalid data" in text:
        return "what comes is no video of a known format" + " or ends too early" * (not isinstance(source, str))
    if "Input/output error" in text and isinstance(source, str):
        try:
            socket.getaddrinfo(urlsplit(source).hostname, None)
        except OSError:
            return "there is no such host"
    return text


class _Reader(threading.Thread):
    """Reads a live source, connecting again whenever it breaks; holds what has not been taken yet."""

    def __init__(self, name: str, connect: Callable[[], object]):
        super().__init__(name=f"reading {name}", daemon=True)
        self.source, self.connect = name, connect
        self.stream = connect()  # here: what is wrong from the start is no loss
        self.frames, self.notes = deque(), []  # (seconds, frame); lines for stderr
        self.dropped = self.reconnects = 0
        self.stopped, self.over, self.error = threading.Event(), False, None
        self.changed = threading.Condition()
        self._start = self._offset = None  # when the source's first frame came; what to add to the stream's clock
        self._lost, self._came, self._wait = None, 0.0, FIRST_WAIT

    def run(self) -> None:
        try:
            while self.stream and not self.stopped.is_set():
                self._read()
        except Exception as error:  # the consumer raises it
            self.error = error
        with self.changed:
            self.over = True
            self.changed.notify()

    def _read(self) -> None:
        """Follow one connection to its end, then make the next."""
        reason, self._offset = "it ended", None
        try:
            for seconds, frame in self.stream:
                if self.stopped.is_set():
                    break
                self._put(seconds, frame)
        except Lost as error:
            reason = str(error)
        finally:
            self.stream.close()
        at_end = self.stream.finite and reason == "it ended"
        self.stream = None if at_end or self.stopped.is_set() else self._connect_again(reason)

    def _put(self, seconds: float | None, frame: object) -> None:
        now = time.monotonic()
        self._start = self._start or now
        if seconds is None:
            seconds, self._offset = now - self._start, 0.0
        elif self._offset is None:  # the clock of a new connection starts anywhere
            self._offset = now - self._start - seconds
        with self.changed:
            if self._lost is not None:
                self.reconnects += 1
                self.notes.append(f"{self.source}: back after {now - self._lost:.1f} s")
                self._lost, self._came = None, now
            if len(self.frames) == NEWEST:
                self.frames.popleft()
                self.dropped += 1
            self.frames.append((seconds + self._offset, frame))
            self.changed.notify()

    def _connect_again(self, reason: str):
        """Return a new connection, or None if nobody wants it any more; InputError when patience is at its end."""
        now = time.monotonic()
        if self._lost is None:
            self._lost = now
            if now - self._came > LONGEST_WAIT:  # one that breaks again and again is asked less and less often
                self._wait = FIRST_WAIT
            with self.changed:
                self.notes.append(f"{self.source}: lost ({reason}); trying again for {PATIENCE:g} s")
                self.changed.notify()
        while not self.stopped.wait(self._wait):
            self._wait = min(2 * self._wait, LONGEST_WAIT)
            try:
                return self.connect()
            except InputError as error:
                if time.monotonic() - self._lost > PATIENCE:
                    raise InputError(f"{error}; given up after {PATIENCE:g} s") from None
        return None


class Live:
    """Iterator over (seconds, BGR frame) of a source that does not wait: of what is not taken in time, the newest frames stay.

    connect: makes an iterable of (seconds by its own clock or None, frame) with `finite` and `close()`, or raises InputError: at once
    from here, later (tried again, less and less often) only when `PATIENCE` is at its end. picture: from such a frame to BGR uint8.
    seconds: since the source's first frame, also across a loss; where the source has no clock, when the frame came.
    dropped: frames nobody took in time. reconnects: how often the source came back. A line on stderr for each loss and each return.
    Reading ends with `close()`, which also comes when nobody holds this any longer.
    """

    def __init__(self, name: str, connect: Callable[[], object], picture: Callable[[object], np.ndarray]):
        self._reader, self._picture = _Reader(name, connect), picture
        self.fps = self._reader.stream.fps
        self._reader.start()
        self.close = weakref.finalize(self, _end, self._reader)  # the thread holds no reference to this

    dropped = property(lambda self: self._reader.dropped)
    reconnects = property(lambda self: self._reader.reconnects)

    def __iter__(self) -> "Live":
        return self

    def __next__(self) -> tuple[float, np.ndarray]:
        reader = self._reader
        while True:
            with reader.changed:
                reader.changed.wait_for(lambda: reader.frames or reader.notes or reader.over, timeout=1)
                notes, reader.notes = reader.notes, []
                seconds, frame = reader.frames.popleft() if reader.frames else (0, None)
                over = reader.over
            for note in notes:
                tqdm.write(note, file=sys.stderr)
            if frame is not None:
                return seconds, self._picture(frame)
            if over:
                if reader.error:
                    raise reader.error
                raise StopIteration


def _end(reader: _Reader) -> None:
    reader.stopped.set()
    reader.join(timeout=2)  # a server that is silent holds it longer; then it goes with the process


class Stdin:
    """Stdin as PyAV reads it: without seeking, as soon as something is there. InputError if that is nothing, text, or a terminal."""

    HEAD = 512

    def __init__(self):
        if sys.stdin is None or sys.stdin.isatty():
            raise InputError("stdin is not a stream; give a video, as in: ffmpeg … -f matroska - | main.py --video -")
        self._file = open(sys.stdin.fileno(), "rb", buffering=0, closefd=False)
        self._head = b""
        while len(self._head) < self.HEAD and (part := self._file.read(self.HEAD - len(self._head))):
            self._head += part
        self.count = 0  # bytes read
        if not self._head:
            raise InputError("stdin is empty; did the program before the | fail?")
        if is_text(self._head):
            raise InputError("stdin is text, not a video")

    def read(self, size: int) -> bytes:
        data, self._head = self._head[:size], self._head[size:]
        data = data or self._file.read(size)
        self.count += len(data)
        return data


def is_text(head: bytes) -> bool:
    """Whether a file that starts so is text, which FFmpeg might draw as frames or follow as a playlist."""
    return head.isascii() and b"\0" not in head and not head.startswith(b"YUV4MPEG2 ")


def read_all(name: str, stream: Stream, stdin: Stdin | None = None) -> Iterator[tuple[float | None, np.ndarray]]:
    """Yield (seconds, BGR frame) of every frame, once; InputError if it breaks off or (on stdin) ends inside a frame."""
    picture, number, torn = Pictures(), 0, False
    try:
        for seconds, frame in stream:
            number += 1
            yield seconds, picture(frame)
        torn = stdin is not None and stream.ends_inside_a_frame(stdin.count)
    except Lost as error:
        if stream.container.format.name != "mpjpeg":  # whose end is an error in FFmpeg's eyes
            raise InputError(f"{name}: broke off after {number} frames, which were kept ({error})") from None
    finally:
        stream.close()
    if torn:
        raise InputError(f"{name}: ends inside a frame after {number} whole ones, which were kept; was it cut off?")
