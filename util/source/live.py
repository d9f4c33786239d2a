"""The newest frames of a source that does not wait: a thread reads it and connects again when it breaks."""
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from datetime import datetime

import cv2
import numpy as np

from util.errors import InputError, say
from util.source.stream import Lost

NEWEST = 4  # frames that wait at most: 0.16 s at 25 a second, enough for what comes in bursts
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0  # seconds before trying again; doubled each time
PATIENCE = 300.0  # seconds after which a source that is lost is given up
SET_BACK, SET_ON = 1.0, 60.0  # seconds between two frames, by the stream's clock, from which on it has been set


class _Reader(threading.Thread):
    """Reads a live source, connecting again whenever it breaks; holds what has not been taken yet."""

    def __init__(self, name: str, connect: Callable[[], object]):
        super().__init__(name=f"reading {name}", daemon=True)
        self.source, self.connect = name, connect
        self.stream = connect()  # here: what is wrong from the start is no loss
        self.frames, self.notes = deque(), []  # (seconds, frame, when it came); lines for stderr
        self.dropped = self.reconnects = 0
        self.stopped, self.over, self.error = threading.Event(), False, None
        self.changed = threading.Condition()
        self.started = None  # the time of day when the source's first frame came
        self.has_packets, self.take = hasattr(self.stream, "tap"), None  # what gets each packet, see Live.tap
        self._start = self._offset = None  # when the source's first frame came; what to add to the stream's clock
        self._latest = 0.0  # seconds, of the latest frame with a time of its own
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
        if self.has_packets:
            self.stream.tap = self._tap
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

    def _tap(self, packet) -> None:
        if take := self.take:
            passed = 0.0 if self._start is None else time.monotonic() - self._start
            timed = self.stream.has_clock and packet.pts is not None
            seconds = float(packet.pts * packet.time_base) + self._offset if timed and self._offset is not None else passed
            take(packet.stream, packet, seconds if abs(seconds - self._latest) < SET_ON else passed, timed)

    def _put(self, seconds: float | None, frame: object) -> None:
        now = time.monotonic()
        if self._start is None:
            self._start, self.started = now, datetime.now().astimezone()
        passed = now - self._start
        taken = passed if seconds is None else self._by_clock(seconds, passed)
        if self.stream.segmented:  # a part would push out most of itself
            self.stopped.wait(min(1.0, max(0.0, taken - passed)))
        with self.changed:
            if self._lost is not None:
                self.reconnects += 1
                self.notes.append(f"{self.source}: back after {now - self._lost:.1f} s")
                self._lost, self._came = None, now
            if len(self.frames) == NEWEST:
                self.frames.popleft()
                self.dropped += 1
            self.frames.append((taken, frame, time.monotonic()))
            self.changed.notify()

    def _by_clock(self, seconds: float, passed: float) -> float:
        """Return the time from the start at which the stream's clock shows `seconds`.

        The clock of a new connection starts anywhere, and one may be set meanwhile, as by a restarted encoder: time goes on all the same.
        """
        if self._offset is None or not -SET_BACK < seconds + self._offset - self._latest < SET_ON:
            self._offset = max(passed, self._latest) - seconds
        self._latest = seconds + self._offset
        return self._latest

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
            if time.monotonic() - self._lost > PATIENCE:
                raise InputError(f"{self.source}: lost, and not back within {PATIENCE:g} s ({reason})")
            self._wait = min(2 * self._wait, LONGEST_WAIT)
            try:
                return self.connect()
            except InputError as error:
                reason = str(error)
        return None


class Live:
    """Iterator over (seconds, BGR frame) of a source that does not wait: of what is not taken in time, the newest frames stay.

    connect: makes an iterable of (seconds by its own clock or None, frame) with `finite`, `segmented` (see Stream) and `close()`, or
    raises InputError: at once from here, later (tried again, less and less often) only when `PATIENCE` is at its end.
    picture: from such a frame to BGR uint8.
    seconds: since the source's first frame, also across a loss; where the source has no clock, when the frame came.
    started: the machine's time of day, with its zone, at 0 seconds; None before.
    decoded_at: when the latest frame was, by time.monotonic(). dropped: frames nobody took in time. reconnects: how often the source
    came back. A line on stderr for each loss and each return. Reading ends with `close()`, which also comes when nobody holds this any
    longer; `stop()`, which a signal's handler may call, makes the next frame the end of it all.
    """

    WAKE = 0.2  # seconds: a handler may notify nobody, since it may have interrupted who holds the lock

    def __init__(self, name: str, connect: Callable[[], object], picture: Callable[[object], np.ndarray]):
        self._reader, self._picture = _Reader(name, connect), picture
        self.stopped, self.decoded_at = False, None
        self._reader.start()
        self.close = weakref.finalize(self, _end, self._reader)  # the thread holds no reference to this

    dropped = property(lambda self: self._reader.dropped)
    reconnects = property(lambda self: self._reader.reconnects)
    started = property(lambda self: self._reader.started)

    def tap(self, take: Callable[[object, object, float, bool], None] | None) -> bool:
        """Let `take` have each packet that comes, before it is decoded: (stream, packet, seconds, whether its timestamps are the source's).

        False for a camera, which has no packets.
        """
        self._reader.take = take
        return self._reader.has_packets

    def stop(self) -> None:
        """Let iteration end instead of giving another frame."""
        self.stopped = True

    def __iter__(self) -> "Live":
        return self

    def __next__(self) -> tuple[float, np.ndarray]:
        reader = self._reader
        while not self.stopped:
            with reader.changed:
                reader.changed.wait_for(lambda: reader.frames or reader.notes or reader.over, timeout=self.WAKE)
                notes, reader.notes = reader.notes, []
                seconds, frame, came = reader.frames.popleft() if reader.frames else (0, None, 0)
                over = reader.over
            for note in notes:
                say(note)
            if frame is not None:
                self.decoded_at = came
                return seconds, self._picture(frame)
            if over:
                if reader.error:
                    raise reader.error
                break
        raise StopIteration


def _end(reader: _Reader) -> None:
    reader.stopped.set()
    reader.join(timeout=2)  # a server that is silent holds it longer; then it goes with the process


class Camera:
    """A camera on this machine by its number; iterating yields (None, BGR frame) until it is gone. InputError if it cannot be opened."""

    finite = segmented = False

    def __init__(self, number: int):
        try:
            self._capture = cv2.VideoCapture(number)
        except cv2.error:  # a number beyond what a back end can count
            self._capture = None
        if self._capture is None or not self._capture.isOpened():
            raise InputError(f"camera {number} cannot be opened; is it connected, and free?")
        self.fps = self._capture.get(cv2.CAP_PROP_FPS)

    def __iter__(self) -> Iterator[tuple[None, np.ndarray]]:
        while (read := self._capture.read())[0]:
            yield None, read[1]

    def close(self) -> None:
        self._capture.release()
