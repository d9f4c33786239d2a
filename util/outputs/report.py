"""report.html: what one run over a video has found, on a page that needs neither server nor network.

Everything is in the file: style, pictures, charts. Only the annotated video is linked, as its neighbour. Memory is bounded however
long the run: counts, a chart of at most BINS bins, and the MAX_TRACKS longest tracks, whose pictures lie in events/ until the end.
"""
import base64
import heapq
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

from util.outputs.events import read_crop
from util.outputs.pictures import colour_of, encode_jpeg
from util.outputs.sink import Sink, Timings
from util.outputs.staging import Staging
from util.source.video import Video
from util.spec import OTHER
from util.track.places import Places, Tally
from util.track.tracking import UNKNOWN, Moment, Track

TEMPLATE = Path(__file__).with_name("report_template.html")
MAX_TRACKS = 100  # tracks on the timeline
SIDE = 160  # pixels of a shown crop's longer side
NOT_KEPT = np.empty((0, 0, 3), np.uint8)
CHOICES = 20  # classes beside `other`, at most; others can be typed
BINS = 240  # of the chart over time, at most
STEPS = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400]  # seconds between ticks


class Longest:
    """Keeps the tracks with the most sightings of a stream of any length, without their pictures."""

    def __init__(self, count: int):
        self.count, self.seen, self._heap = count, 0, []

    def add(self, tracks: Sequence[Track]) -> None:
        """Take tracks that have ended; each number comes once."""
        for track in tracks:
            self.seen += 1
            key = track.sightings, track.probability, -self.seen  # the last decides, so tracks need no order
            if len(self._heap) < self.count:
                heapq.heappush(self._heap, (*key, replace(track, best=NOT_KEPT)))
            elif key > self._heap[0][:3]:
                heapq.heapreplace(self._heap, (*key, replace(track, best=NOT_KEPT)))

    def tracks(self) -> list[Track]:
        """Return those kept, by number."""
        return sorted((entry[3] for entry in self._heap), key=lambda track: track.number)


class Activity:
    """How many tracks of each label there were at once, over time, in bins that double their width when time outgrows them."""

    def __init__(self):
        self.width = 0.1  # seconds
        self.counts: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(BINS))

    def add(self, track: Track, frame: float = 0.0) -> None:
        """Count a track in every bin, by the share of the bin in which it was there; its last frame lasts `frame` seconds."""
        end = track.end + frame
        while end > self.width * BINS:
            self.width *= 2
            for label, counts in self.counts.items():
                self.counts[label] = np.r_[counts.reshape(-1, 2).mean(1), np.zeros(BINS // 2)]
        edges = np.arange(BINS + 1) * self.width
        self.counts[track.label] += np.clip(np.minimum(end, edges[1:]) - np.maximum(track.start, edges[:-1]), 0, None) / self.width

    def areas(self, labels: Sequence[str], seconds: float) -> tuple[float, list[tuple[str, str]]]:
        """Return the highest sum and (label, SVG path) of each label, stacked from the first; x 0..1 is 0..seconds, y 0..1 from the top."""
        used = max(1, min(BINS, int(np.ceil(seconds / self.width - 1e-9))))
        run = np.clip(seconds / self.width - np.arange(used), 1e-9, 1)  # the share of each bin that the run reached
        sums = np.cumsum([np.zeros(used), *(self.counts[label][:used] / run for label in labels)], axis=0)
        top = float(max(sums[-1].max(), 1e-9))
        edges = np.minimum(np.arange(used + 1) * self.width / seconds, 1)
        x = np.repeat(edges, 2)[1:-1]  # two ends of each bin
        areas = []
        for label, low, high in zip(labels, sums, sums[1:], strict=False):
            low, high = (1 - np.repeat(heights / top, 2) for heights in (low, high))
            points = [*zip(x, high, strict=True), *zip(x[::-1], low[::-1], strict=True)]
            areas.append((label, "M" + "L".join(f"{a:.4f} {b:.4f}" for a, b in points) + "Z"))
        return top, areas


class Report(Sink):
    """report.html, written at the end of the run.

    title: what the page is about, such as the source's name; may hold any text. video: the annotated video's name, relative.
    source: the util.source.video.Video that is watched: the page has its time of day, if known, and of a live one what was lost.
    classes: the network's. A person can correct names on the page and save them as labels.csv (util.outputs.dataset). places: the lines
    and zones to tell of.
    """

    NAME = "report.html"

    def __init__(
        self, staging: Staging, title: str, video: str | None = None, source: Video | None = None, classes: Sequence[str] = (),
        places: Places | None = None,
    ):  # fmt: skip
        self.staging, self.title, self.video, self.source, self.classes = staging, title, video, source, classes
        self.frames, self.sightings, self.last = 0, 0, 0.0
        self.labels, self.longest, self.activity, self.tally = Counter(), Longest(MAX_TRACKS), Activity(), Tally(places or Places())

    def add(self, moment: Moment) -> None:
        self.frames, self.last = self.frames + 1, moment.seconds
        self.sightings += len(moment.sightings)
        self._end(moment.ended)

    def _end(self, tracks: Sequence[Track]) -> None:
        self.longest.add(tracks)
        for track in tracks:
            self.labels[track.label] += 1
            self.activity.add(track, self._frame)
            self.tally.add(track)

    def finish(self, tracks: Sequence[Track], clock: Timings) -> None:
        self._end(tracks)
        self.staging.write({self.NAME: self.page(clock).encode(errors="replace")})

    def page(self, clock: Timings) -> str:
        """Return the page as HTML."""
        shown, seconds = self.longest.tracks(), self._seconds()
        labels = sorted(self.labels, key=lambda label: (label == UNKNOWN, -self.labels[label], label))
        peak, areas = self.activity.areas(labels, seconds)
        stages = list(clock.ms().items())
        return _template().render(
            day=self._day,
            clock=self._clock,
            title=self.title,
            facts=self._facts(seconds, stages),
            choices=self._choices(labels),
            labels=[(label, self.labels[label]) for label in labels],
            stages=stages,
            live=bool(self.source and self.source.live),
            places=self.tally.summary(),
            peak=peak,
            areas=areas,
            bin=self.activity.width,
            seconds=seconds,
            ticks=_ticks(seconds),
            tracks=[(track, _data_uri(read_crop(self.staging, track, SIDE))) for track in shown],
            video=self.video if self.frames else None,
        )

    @property
    def _frame(self) -> float:
        """Seconds from one frame to the next, on average."""
        return self.last / max(1, self.frames - 1)

    def _choices(self, labels: Sequence[str]) -> list[str]:
        """Return classes to correct names with: those that were seen, then the network's others as far as there is room, then `other`."""
        known = dict.fromkeys(label for label in [*labels, *self.classes] if label not in (UNKNOWN, OTHER))
        return [*list(known)[:CHOICES], OTHER]

    def _seconds(self) -> float:
        """The length of the run: frames are seen at their start, and the last one lasts as long as those before it."""
        ends = [track.end for track in self.longest.tracks()]
        return max(self.last + self._frame, *ends, 1e-9)

    def _day(self, seconds: float) -> str:
        """Return "2026-11-26 16:00:00 +01:00", or "" where that is unknown."""
        time = self.source and self.source.time_of(seconds)
        return f"{time:%Y-%m-%d %H:%M:%S} {time.isoformat()[-6:]}" if time else ""

    def _clock(self, seconds: float) -> str:
        """Return " · 16:00:00", or "" where that is unknown."""
        return f" · {day.split()[1]}" if (day := self._day(seconds)) else ""

    def _facts(self, seconds: float, stages: list[tuple[str, float]]) -> list[tuple[str, str]]:
        tracks, unknown = self.labels.total(), self.labels[UNKNOWN]
        live = self.source if self.source and self.source.live else None
        return [
            ("frames", f"{self.frames:,}"),
            ("long", _time(seconds)),
            ("tracks", f"{tracks:,}"),
            ("named", f"{tracks - unknown:,}"),
            ("unknown", f"{unknown:,}"),
            ("sightings", f"{self.sightings:,}"),
            ("ms per frame", f"{sum(ms for _, ms in stages):.1f}"),
            *([("dropped", f"{live.dropped:,}"), ("reconnects", f"{live.reconnects:,}")] if live else []),
        ]


@cache  # compiled once for all cameras, and for the pages of many hours
def _template():
    import jinja2  # here: a run that writes no report does without

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    environment.globals.update(colour=_colour, time=_time)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8"))


def _colour(label: str) -> str:
    return "rgb({} {} {})".format(*colour_of(label))


def _data_uri(bgr: np.ndarray) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(encode_jpeg(bgr)).decode()


def _time(seconds: float, decimals: int = 1) -> str:
    """Return "7.5 s", or from a minute on "1:07" and "1:00:07"."""
    if seconds < 59.95:
        return f"{seconds:.{decimals}f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def _ticks(seconds: float) -> list[tuple[float, str]]:
    """Return (place 0..1, text) of at most 9 round times on an axis of so many seconds."""
    step = next((step for step in STEPS if seconds / step <= 8), STEPS[-1] * (1 + int(seconds / STEPS[-1] / 8)))
    decimals = 0 if step >= 1 else 1
    return [(i * step / seconds, _time(i * step, decimals)) for i in range(int(seconds / step + 1e-9) + 1)]
