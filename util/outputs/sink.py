"""What a file of a run is to the run: a sink, which gets every moment once; and all of them as one."""
import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Protocol

from util.files import uninterrupted
from util.outputs.staging import SUMMARY, Staged, Staging
from util.track.tracking import Moment, Track


class Clock(Protocol):
    """Where the time of a run went."""

    def ms(self) -> dict[str, float]:
        """Return stage -> mean milliseconds per frame."""


class Sink:
    """What gets every moment of a run, and at its end, whatever ends it, the tracks that have not ended and the time per stage."""

    def add(self, moment: Moment) -> None:
        """Take what is new in `moment`."""

    def finish(self, tracks: Sequence[Track], clock: Clock) -> None:
        """Take the tracks that no moment had among its ended ones, and the run's clock."""

    def close(self) -> None:
        """Complete the file; called once, whatever happened before."""


class Sinks:
    """The sinks of a run as one: `with Sinks(sinks, staging) as sinks: sinks.add(moment); …; sinks.finish(tracks, clock)`.

    A frame is in all of them or, after an error, the last one: Ctrl-C waits until a moment is written. Each sink is finished and
    closed for itself: an error in one loses no other, and the first error is raised at the end. Then what is staged takes its place (see
    util.outputs.staging).
    """

    def __init__(self, sinks: Sequence[Sink], staging: Staged | None = None):
        self.sinks, self.staging = list(sinks), staging

    def add(self, moment: Moment) -> None:
        """Give every sink a moment."""
        with uninterrupted():
            for sink in self.sinks:
                sink.add(moment)
            if self.staging:
                self.staging.frames += 1

    def finish(self, tracks: Sequence[Track], clock: Clock) -> None:
        """Give every sink the tracks that have not ended, and the run's clock."""
        self._each(lambda sink: sink.finish(tracks, clock))

    def summarize(self, **values: object) -> None:
        """Write summary.json, the mark of a run that has ended well; to be called last, after finish()."""
        if isinstance(self.staging, Staging):
            self.staging.write({SUMMARY: (json.dumps(values, indent=1) + "\n").encode()})

    def _each(self, action: Callable[[Sink], None]) -> None:
        first = None
        with uninterrupted():
            for sink in self.sinks:
                try:
                    action(sink)
                except BaseException as error:
                    first = first or error
        if first is not None:
            raise first

    def __enter__(self) -> "Sinks":
        return self

    def __exit__(self, kind, error, trace) -> None:
        with self.staging or nullcontext():
            try:
                self._each(lambda sink: sink.close())
            finally:
                if error is not None:
                    raise error  # rather than one that followed from it
