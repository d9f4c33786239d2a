"""What a file of a run is to the run: a sink, which gets every moment once; and all of them as one."""
import json
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from util.outputs.staging import SUMMARY, Staged, Staging
from util.signals import uninterrupted
from util.track.tracking import Moment, Track

BEHIND = 2  # moments that may wait to be written


class Timings(Protocol):
    """Where the time of a run went."""

    def ms(self) -> dict[str, float]:
        """Return stage -> mean milliseconds per frame."""


class Sink:
    """What gets every moment of a run, and at its end, whatever ends it, the tracks that have not ended and the time per stage."""

    immediate = False  # whether add() has to be called before the next frame is detected; else another thread does it a little later

    def add(self, moment: Moment) -> None:
        """Take what is new in `moment`."""

    def finish(self, tracks: Sequence[Track], clock: Timings) -> None:
        """Take the tracks that no moment had among its ended ones, and the run's clock."""

    def close(self) -> None:
        """Complete the file; called once, whatever happened before."""


class Sinks:
    """The sinks of a run as one: `with Sinks(sinks, staged) as sinks: sinks.add(moment); …; sinks.finish(tracks, clock)`.

    They write on a thread of their own, at most BEHIND moments late; nobody may change a moment or its frame after add(). A frame is in
    all of them, but for the last one after an error; Ctrl-C waits until it is. Each sink is finished and closed for itself, so that an
    error in one loses no other; the first error is raised at the next call. Then what is staged takes its place (util.outputs.staging).
    """

    def __init__(self, sinks: Sequence[Sink], staged: Staged):
        self.sinks, self.staged = list(sinks), staged
        self._moments, self._thread, self._errors = queue.Queue(BEHIND), None, []
        self._summary = None

    def add(self, moment: Moment) -> None:
        """Give every sink a moment. Raises what one of them has raised meanwhile."""
        with uninterrupted():
            if self._thread is None:
                self._thread = threading.Thread(target=self._write, daemon=True)
                self._thread.start()
            for sink in self.sinks:
                if sink.immediate:
                    sink.add(moment)
            self._moments.put(moment)
        if self._errors:
            raise self._errors[0]

    def _write(self) -> None:
        while (moment := self._moments.get()) is not None:
            if self._errors:
                continue
            try:
                for sink in self.sinks:
                    if not sink.immediate:
                        sink.add(moment)
                self.staged.frames += 1
            except BaseException as error:
                self._errors.append(error)

    def finish(self, tracks: Sequence[Track], clock: Timings) -> None:
        """Give every sink the tracks that have not ended, and the run's clock, after all moments have been written."""
        self._each(lambda sink: sink.finish(tracks, clock))

    def summarize(self, **values: object) -> None:
        """Let summary.json be written, the mark of a run that has ended well: once every file is complete."""
        self._summary = (json.dumps(values, indent=1) + "\n").encode()

    def _each(self, action: Callable[[Sink], None]) -> None:
        with uninterrupted():
            if self._thread:
                self._moments.put(None)
                self._thread.join()
                self._thread = None
            for sink in self.sinks:
                try:
                    action(sink)
                except BaseException as error:
                    self._errors.append(error)
        if self._errors:
            raise self._errors[0]

    def __enter__(self) -> "Sinks":
        return self

    def __exit__(self, kind, error, trace) -> None:
        with self.staged:
            try:
                self._each(lambda sink: sink.close())
                if self._summary and error is None and isinstance(self.staged, Staging):
                    self.staged.write({SUMMARY: self._summary})
            finally:
                if error is not None:
                    raise error  # rather than one that followed from it
