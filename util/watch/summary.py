"""What a run counted: for the terminal and for summary.json."""
from collections import Counter
from collections.abc import Iterator, Sequence

from tabulate import tabulate

from util.errors import printable
from util.source.video import Video
from util.track.places import Places, Tally
from util.track.tracking import Moment, Track
from util.watch.pipeline import Clock


class Summary:
    """Counts of a run: tracks and sightings by name, of all tracks and of those that lasted a second."""

    def __init__(self, places: Places):
        self.frames, self.frames_with, self.tally = 0, 0, Tally(places)
        self.sightings, self.tracks, self.lasting = Counter(), Counter(), Counter()

    def add(self, moment: Moment) -> None:
        self.frames += 1
        self.frames_with += bool(moment.sightings)
        self.sightings.update(sighting.label for sighting in moment.sightings)
        self.end(moment.ended)

    def end(self, tracks: Sequence[Track]) -> None:
        self.tracks.update(track.label for track in tracks)
        self.lasting.update(track.label for track in tracks if track.end - track.start >= 1)
        for track in tracks:
            self.tally.add(track)

    def counts(self, video: Video, recorder, hook) -> dict:
        """Return what summary.json counts."""
        counts = {"frames": self.frames, "objects": self.sightings.total(), "tracks": self.tracks.total()}
        if video.live:
            counts |= {"dropped": video.dropped, "reconnects": video.reconnects, "stopped": video.stopped}
        if recorder:
            counts["recordings"] = {"files": recorder.files, "deleted": recorder.ledger.deleted, "gaps": recorder.gaps}
        if hook:
            counts["events"] = {"sent": hook.sent, "dropped": hook.dropped}
        return {**counts, "labels": dict(self.tracks.most_common()), **self.tally.summary()}

    def lines(self, video: Video, recorder, hook, clock: Clock) -> Iterator[str]:
        """Yield what stdout tells of a run."""
        yield f"{video.name}: {self.sightings.total()} objects in {self.frames_with} of {self.frames} frames"
        if video.live:
            yield f"dropped: {video.dropped} frames that came while others were looked at; {video.reconnects} times connected again"
        if recorder:
            told = f"{recorder.ledger.deleted} deleted to make room, {recorder.gaps} gaps"
            yield f"recorded: {recorder.files} files in {printable(recorder.ledger.directory)}, {told}"
        if hook:
            yield f"notified: {hook.sent} events sent to {hook.name}, {hook.dropped} dropped"
        yield f"ms per frame: {clock}" + "; decode includes waiting for the frame" * video.live
        if self.sightings:
            yield self._table()
        yield from self._passages()

    def _table(self) -> str:
        """Return one line per name, most tracks first."""
        rows = []
        for label, _ in (self.tracks + self.sightings).most_common():
            share = self.tracks[label] / max(1, self.tracks.total())
            rows.append([label, self.tracks[label], f"{share:.1%}", self.lasting[label], self.sightings[label]])
        heads = ["label", "tracks", "share", "of 1 s and more", "sightings"]
        return tabulate(rows, heads, "plain", disable_numparse=True, colalign=["left"] + ["right"] * 4)

    def _passages(self) -> Iterator[str]:
        """Yield a line of text for each direction of each line, and for each zone."""
        passed = self.tally.summary()
        for line, sides in passed.get("lines", {}).items():
            for side, names in sides.items():
                counts = [f", {name} {count}" for name, count in names.items()]
                yield f"{line}, to the {side}: {sum(names.values())} crossed" + "".join(counts)
        for zone, names in passed.get("zones", {}).items():
            counts = [f", {name} {each['visits']} for {each['mean_seconds']:.1f} s on average" for name, each in names.items()]
            yield f"{zone}: {sum(each['visits'] for each in names.values())} visits" + "".join(counts)

    def share_right(self, names: Sequence[str]) -> str:
        """Return a line that says how much was named one of `names`."""
        parts = []
        for what, counts in (("objects", self.sightings), ("tracks", self.tracks), ("tracks of a second or more", self.lasting)):
            right = sum(counts[name] for name in names)
            parts.append(f"{right} of {counts.total()} {what}, {right / max(1, counts.total()):.1%}")
        return f"{' or '.join(names)}: {'; '.join(parts)}"
