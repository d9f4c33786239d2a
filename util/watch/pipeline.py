"""From a video's frames to moments with named tracks: the detector, the network and the tracker in a row."""
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from operator import itemgetter

import numpy as np

import fastmcd
from util.crops import cut_out, prepare
from util.errors import InputError
from util.source.video import Video
from util.spec import OTHER, Network
from util.track.evidence import is_whole
from util.track.names import Names
from util.track.places import Places
from util.track.tracking import Moment, Sighting, Tracker
from util.track.views import Schedule
from util.track.zones import make_zones

LATE = 0.5  # seconds of a live source that are seen before its first frame is shown


class Clock:
    """Seconds spent per stage, and frames done; str() gives the mean milliseconds per frame, stage by stage.

    A stage within a stage counts as the inner one alone.
    """

    def __init__(self):
        self.seconds, self.frames, self._within = defaultdict(float), 0, 0.0

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start, within, self._within = time.perf_counter(), self._within, 0.0
        yield
        spent = time.perf_counter() - start
        self.seconds[stage] += spent - self._within
        self._within = within + spent

    def each(self, stage: str, items: Iterable) -> Iterator:
        """Yield `items`, counting the time that each took to come as `stage`."""
        iterator = iter(items)
        while True:
            with self(stage):
                item = next(iterator, None)
            if item is None:
                return
            yield item

    def ms(self) -> dict[str, float]:
        """Return stage -> mean milliseconds per frame."""
        return {stage: 1000 * seconds / max(1, self.frames) for stage, seconds in self.seconds.items()}

    def __str__(self):
        stages = self.ms()
        return ", ".join(f"{stage} {ms:.2f}" for stage, ms in stages.items()) + f", all {sum(stages.values()):.2f}"


class Pipeline:
    """Detector, network and tracker in a row: call it with each of `frames`, get its Moment. clock: where the time went."""

    def __init__(self, video: Video, network: Network, settings: dict[str, dict]):
        self.network, spec, self.size = network, network.spec, (video.width, video.height)
        self._video, self.clock, self.places = video, Clock(), Places()
        self.redraw(settings)
        try:
            self.detector = fastmcd.Detector(video.width, video.height, **{**spec.detector, **settings["detector"]})
        except (TypeError, ValueError) as error:
            raise InputError(f"detector: {error}") from None
        given = settings["names"]
        only = {*given["only"], OTHER} if given["only"] else spec.classes
        self.log_prior, self.geometry = spec.log_prior(given["prior"]), given["geometry"]
        self.columns = [i for i, name in enumerate(spec.classes) if name in only]
        self.temperature = given["temperature"] or spec.temperature
        unknown_below = spec.unknown_below if given["unknown_below"] is None else given["unknown_below"]
        classes = [spec.classes[i] for i in self.columns]
        names = Names(classes, self.temperature, unknown_below, given["hold"], spec.kinds, given["kinds"], given["drop_other"])
        schedule = Schedule(budget=given["views_per_frame"])
        self.tracker = Tracker(names, video.fps, **settings["tracks"], schedule=schedule, places=self.places)

    def redraw(self, settings: dict[str, dict]) -> None:
        """Let other zones and lines count from the next frame on; another thread may call it. InputError where they don't fit the frame."""
        self.zones = make_zones(*self.size, **settings["zones"])
        self.places.lines, self.places.zones = settings["lines"], self.zones.named

    def frames(self, limit: int | None) -> Iterator[tuple[int, float, np.ndarray]]:
        """Yield (number from 1, seconds, BGR) of the video's frames, `limit` at most, after the detector was rehearsed with the first."""
        video = self._video
        frames = ((video.seconds, frame) for frame in self.clock.each("decode", video))
        late = (lambda timed: timed[0] >= LATE) if video.live else None
        rehearsed = self.clock.each("detect", self.detector.rehearsed(frames, itemgetter(1), late))
        for number, (seconds, frame) in enumerate(islice(rehearsed, limit), 1):
            yield number, seconds, frame

    def __call__(self, number: int, seconds: float, frame: np.ndarray) -> Moment:
        with self.clock("detect"):
            result = self.detector.detect(frame)
            keep = self.zones.keep(result.boxes)
            if not keep.all():
                result = result.only(keep)
        boxes, crops = (tuple(map(tuple, boxes.tolist())) for boxes in (result.boxes, result.crops))
        sightings = [Sighting(*each) for each in zip(boxes, crops, result.scores.tolist(), strict=True)]
        moment = Moment(number, seconds, frame, result, sightings)
        with self.clock("track"):
            viewed = self.tracker.associate(moment)
        with self.clock("classify"):
            logits = self.classify(moment, viewed) if viewed else np.empty((0, len(self.log_prior)))
        with self.clock("track"):
            self.tracker.name(moment, viewed, logits[:, self.columns])
        self.clock.frames = number
        return moment

    def classify(self, moment: Moment, viewed: Sequence[int]) -> np.ndarray:
        """Return logits, float64 (viewed, classes): with the temperature, softmax(logits / T) says how often each is right in clips."""
        seen = [moment.sightings[i] for i in viewed]
        cut = [cut_out(moment.frame, sighting.crop, sighting.box, moment.result.mask) for sighting in seen]
        log_odds = self.log_prior
        if self.geometry:
            whole = np.array([[is_whole(sighting.box, *self.size)] for sighting in seen])  # a part's aspect and speed tell nothing
            speeds = np.array([sighting.speed for sighting in seen])
            log_odds = log_odds + whole * self.network.spec.log_geometry(moment.result.boxes[viewed], speeds)
        return self.network(prepare(cut, self.network.spec)) + self.temperature * log_odds
