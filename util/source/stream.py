"""Videos that PyAV reads from start to end without seeking: from a URL, or from stdin."""
import re
import socket
import sys
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import numpy as np

from util.cli import InputError

SCHEMES = ("rtsp", "rtsps", "http", "https", "rtmp", "tcp", "udp")
TIMEOUT = 10.0  # seconds that a server may take to answer, and to go on


class Lost(Exception):
    """A source broke off; the message says how."""


def is_url(source: str) -> bool:
    """Whether `source` is a URL; a path may hold a colon, but hardly "://"."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", source) is not None


def shown(url: str) -> str:
    """The URL without the user, password and query it may hold: fit for messages and files. InputError if it is malformed."""
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise InputError(f"the address of the video is malformed: {error}") from None
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


class Stream:
    """A video that PyAV reads from start to end. Iterating yields (seconds by its own clock, or None where it has none, a frame
    for `picture`); a frame that cannot be decoded is left out, as FFmpeg does.

    source: a URL, or a file object with `read(n)`. fps, frame_count: what it announces, 0 if nothing. finite: whether it announces
    an end. in_parts: whether it comes as files of some seconds each (HLS, DASH), faster than it was taken. InputError if it cannot
    be opened; Lost, while iterating, if it breaks off.
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
            _raise_interrupt(source)
            raise InputError(f"{name} cannot be opened: {_reason(error, source)}") from None
        self.video = self.container.streams.best("video")
        if self.video is None or self.video.codec_context.name == "ansi":  # FFmpeg would draw a text file as frames
            self.close()
            raise InputError(f"{name} holds no video")
        kind, duration = self.container.format, self.container.duration
        self.fps = float(self.video.average_rate or self.video.guessed_rate or 0)
        # A fragmented mp4 announces the duration of its first part.
        self.frame_count = self.video.frames or (0 if "mp4" in kind.name else (duration or 0) / 1e6 * self.fps)
        self.in_parts = kind.name in ("hls", "dash")  # whose size is that of their list
        self.finite = duration is not None or (scheme.startswith("http") and not self.in_parts and self.container.size > 0)
        self.has_clock = not kind.flags & av.format.Flags.no_timestamps.value and not kind.name.endswith("_pipe")
        self._torn, self._read_to = False, 0  # whether the last of its packets could not be decoded; its end in bytes
        self._failure = av.error.FFmpegError

    def __iter__(self) -> Iterator[tuple[float | None, object]]:
        came = time.monotonic()
        try:
            for packet in self.container.demux():
                if packet.stream_index == self.video.index:
                    for frame in self._decode(packet):
                        yield frame.time if self.has_clock else None, frame
                        came = time.monotonic()
                if time.monotonic() - came > TIMEOUT and self.container.file is None:
                    raise Lost(f"no picture for {TIMEOUT:g} s")
        except (self._failure, OSError) as error:
            raise Lost(_reason(error, self.container.name)) from None

    def _decode(self, packet) -> list:
        if packet.size:  # at the end, the decoder is asked for its last frames without a packet
            self._torn, self._read_to = False, (packet.pos or 0) + packet.size
        try:
            return packet.decode()
        except self._failure:
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
        self.count, self.interrupt = 0, None  # bytes read; Ctrl-C meanwhile
        if not self._head:
            raise InputError("stdin is empty; did the program before the | fail?")
        if is_text(self._head):
            raise InputError("stdin is text, not a video")

    def read(self, size: int) -> bytes:
        try:
            data, self._head = self._head[:size], self._head[size:]
            data = data or self._file.read(size)
        except KeyboardInterrupt as interrupt:  # would be lost in PyAV, which calls this from C
            self.interrupt, data = interrupt, b""
        self.count += len(data)
        return data


def _raise_interrupt(source) -> None:
    if getattr(source, "interrupt", None):
        raise source.interrupt


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
        _raise_interrupt(stdin)
        torn = stdin is not None and stream.ends_inside_a_frame(stdin.count)
    except Lost as error:
        _raise_interrupt(stdin)
        if stream.container.format.name != "mpjpeg":  # whose end is an error in FFmpeg's eyes
            raise InputError(f"{name}: broke off after {number} frames, which were kept ({error})") from None
    finally:
        stream.close()
    if torn:
        raise InputError(f"{name}: ends inside a frame after {number} whole ones, which were kept; was it cut off?")
