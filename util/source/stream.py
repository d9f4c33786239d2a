"""Videos as PyAV reads them from start to end: files, URLs and stdin alike."""
import codecs
import re
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from util.errors import InputError, redact, say
from util.source.ahead import spare_cores

SCHEMES = ("rtsp", "rtsps", "http", "https", "rtmp", "tcp", "udp")
TIMEOUT = 10.0  # seconds that a server may take to answer, and to go on
MAX_DAMAGED = 0.5  # share of a video's frames; with more it is refused
ONE_THREAD = 1280 * 720  # pixels of a frame that one thread decodes fast enough, without the delay of several
MAX_PIXELS = 1 << 24  # of a frame to decode: beyond what is looked at, since codecs round up


class Lost(Exception):
    """A source broke off; the message says how."""


def is_url(source: str) -> bool:
    """Whether `source` is a URL; a path may hold a colon, but hardly "://"."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", source) is not None


class Stream:
    """A video that PyAV reads from start to end. Iterating yields (seconds by its own clock, or None where it has none, a progressive
    frame for `Pictures`); a frame that cannot be decoded is left out, as players do.

    source: a URL, a path, or a file object with `read(n)`. fps, frame_count: what it announces, 0 if nothing. finite: whether it
    announces an end. segmented: whether it comes as files of some seconds each (HLS, DASH), faster than it was taken. decoded, damaged:
    how many frames could be decoded, and how many could not after the first that could. tap: what gets each packet before it is decoded,
    or None. InputError if it cannot be opened or holds no video; Lost, while iterating, if it breaks off.
    """

    def __init__(self, name: str, source: str | Path | object):
        import av

        scheme = urlsplit(source).scheme.lower() if isinstance(source, str) else ""
        self.container = _open(name, source, scheme)
        self.video = self.container.streams.best("video")
        decoder = self.video and self.video.codec_context
        picture_of_a_song = self.video and self.video.disposition & av.stream.Disposition.attached_pic
        if not decoder or picture_of_a_song or decoder.name == "ansi":  # FFmpeg would draw a text file as frames
            self.close()
            more = " but a picture that goes with it" if picture_of_a_song else " that can be decoded" if self.video else ""
            raise InputError(f"{name} holds no video{more}")
        self._set_up_decoder(decoder, bool(scheme))
        kind, duration = self.container.format, self.container.duration
        self.fps = float(self.video.average_rate or self.video.guessed_rate or 0)
        # A fragmented mp4 announces the duration of its first part.
        self.frame_count = self.video.frames or (0 if "mp4" in kind.name else (duration or 0) / 1e6 * self.fps)
        self.segmented = kind.name in ("hls", "dash")  # whose size is that of their list
        self.finite = duration is not None or (scheme.startswith("http") and not self.segmented and self.container.size > 0)
        self.has_clock = not kind.flags & av.format.Flags.no_timestamps.value and not kind.name.endswith("_pipe")
        self.source, self._remote = source, bool(scheme)
        self.decoded, self.damaged, self.tap = 0, 0, None
        self._torn = self._undecoded = False  # whether the last of its packets was incomplete, could not be decoded
        self._first, self._read_to = None, 0  # bytes before its first packet, and up to the end of the last one

    @staticmethod
    def _set_up_decoder(decoder, remote: bool) -> None:
        small = decoder.width * decoder.height <= ONE_THREAD
        decoder.thread_type = "SLICE" if remote else "FRAME"  # frames at a time are faster, and late by as many
        decoder.thread_count = 1 if small else 1 + min(3, spare_cores())
        decoder.options = {"max_pixels": str(MAX_PIXELS)}

    def __iter__(self) -> Iterator[tuple[float | None, object]]:
        from util.source.picture import deinterlace

        for frame in deinterlace(self._decode_all()):
            yield frame.time if self.has_clock else None, frame

    def _decode_all(self) -> Iterator:
        came, lost, packets = time.monotonic(), None, self.container.demux()
        while True:
            try:
                packet = next(packets, None)
            except Exception as error:  # whatever a damaged file makes a demuxer raise
                lost = _reason(error, self.source)
            if lost or packet is None:
                break
            if packet.stream_index == self.video.index and packet.size:  # an empty one stands for a frame that was dropped
                if self.tap and not packet.is_corrupt:
                    self.tap(packet)
                for frame in self._decode(packet):
                    yield frame
                    came = time.monotonic()
            if time.monotonic() - came > TIMEOUT and self._remote:
                lost = f"no picture for {TIMEOUT:g} s"
                break
        yield from self._decode(None)  # what the decoder still holds
        if lost:
            raise Lost(lost)

    def _decode(self, packet) -> list:
        """The frames that are ready when a packet, or the end, has gone in."""
        if packet:
            self._first = packet.pos if self._first is None else self._first
            self._torn, self._undecoded, self._read_to = packet.is_corrupt, False, (packet.pos or 0) + packet.size
        try:
            frames = self.video.codec_context.decode(packet)
        except Exception:  # whatever damaged data makes a decoder raise
            self._undecoded, frames = True, []
            self.damaged += self.decoded > 0
        self.decoded += len(frames)
        for frame in frames:
            frame.time_base = self.video.time_base  # PyAV gives those that come after the last packet none, and so no time
        return frames

    def is_cut_off(self) -> bool:
        """Whether what has been read to its end ends early, by what container and decoder say; some formats don't tell."""
        kind = self.container.format.name
        size = self.source.count if isinstance(self.source, Stdin) else self.container.size
        tells = kind.startswith(("mov", "matroska", "avi"))  # where it ends, so that a last frame that can't be decoded is just damaged
        if self._torn or size <= 0 or self._undecoded and not tells:
            return self._torn or self._undecoded
        if kind == "mpegts":
            return all((size - (self._first or 0)) % length for length in (188, 192, 204))  # of its packets
        if kind == "yuv4mpegpipe":
            return size > self._read_to
        if kind.startswith("mov"):
            return any(entry.pos + entry.size > size for entry in self.video.index_entries)
        return kind.startswith("matroska") and size < _end_of_matroska(self._head())

    def _head(self) -> bytes:
        if isinstance(self.source, Stdin):
            return self.source.head
        if isinstance(self.source, Path):
            with self.source.open("rb") as file:
                return file.read(Stdin.HEAD)
        return b""

    def close(self) -> None:
        self.container.close()


def _open(name: str, source: str | Path | object, scheme: str):
    """Return PyAV's container of a source; scheme: of its URL, if it is one. InputError if it cannot be opened."""
    import av  # here, since directories and cameras need OpenCV alone

    options = {"rtsp_flags": "prefer_tcp"} if scheme.startswith("rtsp") else {}
    if scheme.startswith("http"):  # goes on where it was if the server can, which live ones cannot
        options = {"reconnect": "1"}
    address, timeout = source, (TIMEOUT, TIMEOUT) if scheme else None
    if isinstance(source, Path):  # with its protocol, or a colon in the name would end one; and no playlist leads elsewhere
        address, options = f"file:{source}", {"protocol_whitelist": "file"}
    try:
        try:
            return av.open(address, options=options, timeout=timeout, metadata_errors="replace")
        except av.error.InvalidDataError:
            if not isinstance(source, Path):
                raise
            # A fragmented mp4 that ends inside the head of a part can be read on from its start, but not looked through.
            return av.open(address, options={**options, "seekable": "0"}, metadata_errors="replace")
    except Exception as error:  # whatever a damaged file makes a demuxer raise
        _raise_interrupt(source)
        what = " as a video" * isinstance(source, Path)
        raise InputError(f"{name} cannot be opened{what}: {_reason(error, source)}") from None


def _end_of_matroska(head: bytes) -> int:
    """Where a Matroska file that begins so says that it ends, 0 if it doesn't say: after its Segment (RFC 9559; sizes: RFC 8794, 4)."""
    start = head.find(b"\x18\x53\x80\x67") + 4
    length = 9 - head[start].bit_length() if 4 <= start < len(head) else 9
    size = int.from_bytes(head[start : start + length]) & (1 << 7 * length) - 1
    return start + length + size if length < 9 and size != (1 << 7 * length) - 1 else 0


def _reason(error: Exception, source) -> str:
    """What FFmpeg's error says to somebody who does not know FFmpeg."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    if "Immediate exit" in text:
        return f"no answer for {TIMEOUT:g} s"
    if ("Invalid data" in text or "End of file" in text) and isinstance(source, Path):
        return "it may be cut off, damaged or of an unknown format"
    if "Invalid data" in text:
        more = ", ends too early, or is a container that needs seeking, as most .mp4 and .mov files are: give the file itself"
        return "what comes is no video of a known format" + more * (not isinstance(source, str))
    if "Input/output error" in text and isinstance(source, str):
        try:
            socket.getaddrinfo(urlsplit(source).hostname, None)
        except OSError:
            return "there is no such host"
    return redact(text)


class Stdin:
    """Stdin as PyAV reads it: without seeking, as soon as something is there. InputError if that is nothing, text, or a terminal."""

    HEAD = 512

    def __init__(self):
        if sys.stdin is None or sys.stdin.isatty():
            raise InputError("stdin is not a stream; give a video, as in: ffmpeg … -f matroska - | main.py --video -")
        self._file = open(sys.stdin.fileno(), "rb", buffering=0, closefd=False)
        self.head = b""
        while len(self.head) < self.HEAD and (part := self._file.read(self.HEAD - len(self.head))):
            self.head += part
        self.count, self.interrupt = 0, None  # bytes read; Ctrl-C meanwhile
        if not self.head:
            raise InputError("stdin is empty; did the program before the | fail?")
        if is_text(self.head):
            raise InputError("stdin is text, not a video")

    def read(self, size: int) -> bytes:
        try:
            data = self.head[self.count : self.count + size] or self._file.read(size)
        except KeyboardInterrupt as interrupt:  # would be lost in PyAV, which calls this from C
            self.interrupt, data = interrupt, b""
        self.count += len(data)
        return data


def _raise_interrupt(source) -> None:
    if getattr(source, "interrupt", None):
        raise source.interrupt


def is_text(head: bytes) -> bool:
    """Whether a file that starts so is text, which FFmpeg might draw as frames or follow as a playlist."""
    if b"\0" in head or head.startswith(b"YUV4MPEG2 "):
        return False
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)  # whose last character may be cut
    except UnicodeDecodeError:
        return False
    return True


def read_all(name: str, stream: Stream) -> Iterator[tuple[float | None, np.ndarray]]:
    """Yield (seconds, BGR frame) of every frame that can be decoded, once; stderr says how many could not.

    InputError, after the last one, if the stream breaks off, is cut off, or is damaged beyond MAX_DAMAGED.
    """
    from util.source.picture import Pictures

    picture = Pictures()
    try:
        for seconds, frame in stream:
            try:
                bgr = picture(frame)
            except Exception as error:  # whatever damaged data makes it raise
                raise Lost(f"a frame cannot be shown: {_reason(error, name)}") from None
            yield seconds, bgr
        cut_off = stream.is_cut_off()
    except Lost as error:
        _raise_interrupt(stream.source)
        if stream.container.format.name != "mpjpeg":  # whose end is an error in FFmpeg's eyes
            what = f"broke off after {stream.decoded} frames, which were kept" if stream.decoded else "not one frame can be read"
            raise InputError(f"{name}: {what} ({error})") from None
        cut_off = False
    finally:
        stream.close()
    _raise_interrupt(stream.source)
    what = f"{name}: {stream.damaged} of {stream.damaged + stream.decoded} frames are damaged"
    if stream.damaged > MAX_DAMAGED * (stream.damaged + stream.decoded):
        raise InputError(f"{what}; the others were kept")
    if cut_off and stream.decoded:
        raise InputError(f"{name}: ends inside a frame after {stream.decoded} frames, which were kept; was it cut off?")
    if stream.damaged:
        say(f"{what} and were left out")
