"""Recordings: the source's own packets, or encoded frames, in files of at most an hour, around what happens or without end.

Only what a file needs passes through memory: a ring holds the last seconds, at most MAX_BYTES, from a key frame on. A thread of its own
writes. Files are fragmented .mp4, or .mkv for codecs that .mp4 has not: playable to their last key frame whatever ends the run.
"""
import contextlib
import io
import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from util.cli import Keep
from util.errors import say
from util.outputs.ledger import FULL, Ledger
from util.outputs.pictures import H264, Unseekable
from util.outputs.sink import Sink, Timings
from util.source.video import Video
from util.track.tracking import Moment, Track

MAX_BYTES = 64 << 20  # bytes of packets in memory
IN_MP4 = {"h264", "hevc", "av1", "vp9", "mpeg4"}  # others go to .mkv
FRAGMENTS = {"movflags": "frag_keyframe+empty_moov+default_base_moof", "flush_packets": "1"}
PAUSE = 60.0  # seconds without recording after an error
PARTS = 8  # of what --keep has room for: a file is no larger
TICKS = H264.TICKS  # per second
JUMP = 60.0  # seconds between two packets that no camera pauses


@dataclass(slots=True)
class Piece:
    """A packet: of an open connection, or of an encoder."""

    seconds: float  # from the start of the source
    data: bytes
    pts: int  # when it is shown and decoded, how long: in units of `base`, from anywhere
    dts: int
    duration: int
    base: Fraction
    key: bool
    form: object  # a stream with its parameters; another one needs another file


class Recorder(Sink):
    """Records `video` into a directory. everything: without end; else from `before` seconds before a track begins to `after` its end.

    Events that overlap share a file. files: how many were made. gaps: how often something was left out, since the disk was full, or
    too slow. No error of the disk ends a run.
    """

    def __init__(self, directory: Path, video: Video, keep: Keep, everything: bool, before: float = 5.0, after: float = 5.0):
        self.video, self.everything, self.before, self.after = video, everything, before, after
        self.ledger = Ledger(Path(directory), keep)
        self.files = self.gaps = 0
        self._open: set[int] = set()  # tracks
        self._since, self._until = 0.0, -1.0  # seconds: of what is wanted, while tracks are open and afterwards
        self._seen = self._connected = 0.0  # seconds: when a track was seen last, and when this connection began
        self._ring, self._size = deque(), 0
        self._waiting, self._waiting_size, self._skipping = deque(), 0, False
        self._file, self._hour, self._paused, self._tidied, self._complaint = None, None, 0.0, 0.0, ""
        self._changed, self._over = threading.Condition(), False
        self._encoder = None if video.tap(self._packet) else _Encoder(video)
        self._template = None  # of the connection whose packets come
        self._thread = threading.Thread(target=self._run, name="recording", daemon=True)
        self._thread.start()

    # ---- What happens ------------------------------------------------------------------------------------------------
    def add(self, moment: Moment) -> None:
        for track in moment.begun:
            if not self._open:
                self._since = track.start - self.before
            self._open.add(track.number)
        if moment.begun or any(sighting.track for sighting in moment.sightings):
            self._seen = moment.seconds
        self._end([*moment.ended, *moment.dropped])
        if self._encoder:
            for piece in self._encoder(moment.frame, moment.seconds):
                self.take(piece)

    def _end(self, tracks: Sequence[Track]) -> None:
        for track in tracks:
            self._until = max(self._until, track.end + self.after)
            self._open.discard(track.number)

    def finish(self, tracks: Sequence[Track], clock: Timings) -> None:
        if self._encoder:
            for piece in self._encoder.rest():
                self.take(piece)
        self._write_rest()  # here: the counts are told before close()

    def close(self) -> None:
        self._write_rest()
        self.ledger.close()

    def _write_rest(self) -> None:
        self.video.tap(None)
        with self._changed:
            self._over = True
            self._changed.notify()
        self._thread.join()

    # ---- What comes --------------------------------------------------------------------------------------------------
    def _packet(self, stream, packet, seconds: float, timed: bool) -> None:
        """Take a packet of an open stream, from the thread that reads it."""
        if self._template is None or self._template[0] is not stream:
            if not packet.is_keyframe:
                return
            self._template = stream, self._form(stream, packet)
        form = self._template[1]
        if form is None:
            return
        stamps = packet.pts, packet.pts if packet.dts is None else packet.dts, packet.duration or 0, packet.time_base
        if not timed:  # when it came, as its frame is shown
            stamps = round(seconds * TICKS), round(seconds * TICKS), 0, Fraction(1, TICKS)
        self.take(Piece(seconds, bytes(packet), *stamps, packet.is_keyframe, form))

    def _form(self, stream, packet):
        try:
            return _template_of(stream, packet)
        except Exception as error:  # a codec that no file can hold
            self.gaps += 1
            self._complain(f"nothing can be recorded ({getattr(error, 'strerror', None) or error})")
            return None

    def take(self, piece: Piece) -> None:
        """Let a piece wait to be written; where writing is too slow, everything up to a key frame is left out."""
        with self._changed:
            if self._waiting_size > MAX_BYTES or (self._skipping and not piece.key):
                self.gaps += not self._skipping
                self._skipping = True
                return
            self._skipping = False
            self._waiting.append(piece)
            self._waiting_size += len(piece.data)
            self._changed.notify()

    # ---- The thread that writes --------------------------------------------------------------------------------------
    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._over)
                if not self._waiting:
                    break
                piece = self._waiting.popleft()
                self._waiting_size -= len(piece.data)
            try:
                self._step(piece)
            except Exception as error:  # of the disk, or of a muxer that a camera's timestamps confuse
                self._fail(error)
        try:
            self._finish_file()
        except Exception as error:
            self._fail(error)

    def _step(self, piece: Piece) -> None:
        if not self._ring or self._ring[-1].form is not piece.form:
            self._connected = piece.seconds
        self._remember(piece)
        seen = bool(self._open) and self._seen >= self._connected  # tracks of before a loss may be over
        wanted = self.everything or seen or piece.seconds <= self._until
        if self._file and (not wanted or piece.form is not self._file.form or (piece.key and self._is_long(piece))):
            cut = wanted and piece.form is self._file.form
            self._finish_file()
            if cut:
                self._start([piece])
        elif self._file:
            self._file.write(piece)
        elif wanted and time.monotonic() >= self._paused:
            since = piece.seconds if self.everything else self._since
            keys = [i for i, old in enumerate(self._ring) if old.key and old.form is piece.form]
            if keys:
                first = max((i for i in keys if self._ring[i].seconds <= since), default=keys[0])
                self._start([old for old in list(self._ring)[first:] if old.form is piece.form])
        if time.monotonic() - self._tidied > 1:
            self._tidied = time.monotonic()
            self.ledger.tidy(self._file.size if self._file else 0)

    def _remember(self, piece: Piece) -> None:
        """Keep the piece in the ring, and of those before what goes back to a key frame `before` seconds ago."""
        self._ring.append(piece)
        self._size += len(piece.data)
        while len(self._ring) > 1:
            second = next((i for i, old in enumerate(self._ring) if i and old.key), None)
            reach = 0 if self.everything else self.before + 2  # a track is a little older when it begins
            early = second is not None and self._ring[second].seconds <= piece.seconds - reach
            if not early and self._size <= MAX_BYTES:
                break
            for _ in range(second or 1):
                self._size -= len(self._ring.popleft().data)

    def _is_long(self, piece: Piece) -> bool:
        return self._hour_of(piece) != self._hour or self._file.size > self.ledger.keep.size / PARTS

    def _hour_of(self, piece: Piece) -> object:
        at = self.video.time_of(piece.seconds)
        return (at.date(), at.hour, at.utcoffset()) if at else int(piece.seconds // 3600)

    def _start(self, pieces: Sequence[Piece]) -> None:
        self._hour = self._hour_of(pieces[-1])
        mp4 = pieces[0].form.codec_context.codec.canonical_name in IN_MP4
        name = self.ledger.new(self._stem(pieces[0].seconds), ".mp4" if mp4 else ".mkv")
        try:
            self._file = _File(self.ledger, name, pieces[0].form, mp4)
        except BaseException:
            self.ledger.done(name)
            raise
        self.files += 1
        for piece in pieces:
            self._file.write(piece)
        self._complaint = ""

    def _stem(self, seconds: float) -> str:
        at = self.video.time_of(max(0.0, seconds))
        if at:
            return f"{at:%Y-%m-%dT%H-%M-%S%z}"
        minutes, rest = divmod(int(max(0.0, seconds)), 60)
        return f"{minutes // 60:02}-{minutes % 60:02}-{rest:02}"

    def _finish_file(self) -> None:
        if self._file:
            file, self._file = self._file, None
            try:
                file.close()
            finally:
                self.ledger.done(file.name)
                self.ledger.tidy()

    def _fail(self, error: Exception) -> None:
        self._paused, self.gaps = time.monotonic() + PAUSE, self.gaps + 1
        self._complain(f"recording stops for {PAUSE:g} s ({getattr(error, 'strerror', None) or error})")
        with contextlib.suppress(Exception):  # it is known what is wrong
            self._finish_file()

    def _complain(self, line: str) -> None:
        if line != self._complaint:
            say(f"{self.ledger.directory}: {line}")
        self._complaint = line


class _File:
    """A recording that is being written; where the disk is full, the oldest ones make room."""

    def __init__(self, ledger: Ledger, name: str, form, mp4: bool):
        import av

        self.name, self.form, self.size, self._ledger, self._av = name, form, 0, ledger, av
        self._start, self._last = None, -1  # the first dts, and the last one from there
        self._error: OSError | None = None
        self._descriptor = os.open(ledger.directory / name, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            options = FRAGMENTS if mp4 else {"flush_packets": "1"}
            self._output = av.open(Unseekable(self._put), "w", format="mp4" if mp4 else "matroska", options=options)
            self._stream = self._output.add_stream_from_template(form)
        except BaseException:
            os.close(self._descriptor)
            raise

    def write(self, piece: Piece) -> None:
        """Append a piece; OSError if there is no room."""
        packet = self._av.Packet(piece.data)
        if self._start is None or abs(piece.dts - self._start - self._last) * piece.base > JUMP:
            self._start = piece.dts - self._last - 1  # a clock that was set goes on where it was
        packet.dts = self._last = max(piece.dts - self._start, self._last + 1)
        packet.pts = max(piece.pts - self._start, packet.dts)
        packet.duration, packet.time_base, packet.is_keyframe, packet.stream = piece.duration, piece.base, piece.key, self._stream
        self._output.mux(packet)
        if self._error:
            raise self._error

    def _put(self, data: bytes) -> int:
        rest = memoryview(data)
        while rest and not self._error:
            try:
                written = os.write(self._descriptor, rest)
                self.size += written
                rest = rest[written:]
            except OSError as error:
                if error.errno not in FULL or not self._ledger.drop_oldest():
                    self._error = error
        return len(data)

    def close(self) -> None:
        try:
            with contextlib.suppress(self._av.FFmpegError):  # follows from the output's, or is about a file without a packet
                self._output.close()
        finally:
            os.close(self._descriptor)
        if self._error:
            raise self._error


class _Encoder:
    """Frames as pieces, where the source has no packets to copy: H.264, a key frame each second."""

    def __init__(self, video: Video):
        import av

        self._output = av.open(io.BytesIO(), "w", format="nut")  # it gets a header alone
        self._encoder = H264(self._output, video.fps, (video.width, video.height), every=1)
        self._output.start_encoding()

    def __call__(self, bgr, seconds: float) -> list[Piece]:
        return self._pieces(self._encoder.encode(bgr, seconds * TICKS))

    def rest(self) -> list[Piece]:
        return self._pieces(self._encoder.rest())

    def _pieces(self, packets) -> list[Piece]:
        return [Piece(float(packet.pts * packet.time_base), bytes(packet), packet.pts, packet.dts, packet.duration or 0,
                      packet.time_base, packet.is_keyframe, self._encoder.stream) for packet in packets]  # fmt: skip


def _template_of(stream, packet):
    """Return a stream like an open one, which stays when that is closed: read back from a file in memory."""
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="nut") as output:
        copy, first = output.add_stream_from_template(stream), av.Packet(bytes(packet))
        first.pts = first.dts = 0
        first.time_base, first.is_keyframe, first.stream = packet.time_base, True, copy
        output.mux(first)
    return av.open(io.BytesIO(file.getvalue())).streams.video[0]
