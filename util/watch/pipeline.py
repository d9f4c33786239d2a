"""From a video to named tracks: what `--video` does. Detect, classify, track; every file of the run is a sink that gets each moment."""
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import islice
from operator import itemgetter
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from tabulate import tabulate
from tqdm import tqdm

import fastmcd
from util.cli import Keep
from util.crops import cut_out, prepare
from util.errors import InputError, printable, say
from util.files import stoppable, uninterrupted
from util.outputs.events import Changes
from util.outputs.report import Report
from util.outputs.sink import Sinks
from util.outputs.sinks import PredictionTable, open_sinks
from util.outputs.staging import lies_in_results
from util.source.video import Video, open_video
from util.spec import OTHER, Network
from util.track.evidence import is_whole
from util.track.names import Names
from util.track.places import Places, Tally
from util.track.tracking import Moment, Sighting, Track, Tracker
from util.track.views import Schedule
from util.track.zones import make_zones
from util.watch.batch import redact_arguments
from util.watch.settings import load_settings

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


class Summary:
    """Counts of a run: tracks and sightings by name, of all tracks and of those that lasted a second."""

    def __init__(self, places: Places):
        self.frames, self.frames_with, self.passed = 0, 0, Tally(places)
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
            self.passed.add(track)

    def table(self) -> str:
        """Return one line per name, most tracks first."""
        rows = []
        for label, _ in (self.tracks + self.sightings).most_common():
            share = self.tracks[label] / max(1, self.tracks.total())
            rows.append([label, self.tracks[label], f"{share:.1%}", self.lasting[label], self.sightings[label]])
        heads = ["label", "tracks", "share", "of 1 s and more", "sightings"]
        return tabulate(rows, heads, "plain", disable_numparse=True, colalign=["left"] + ["right"] * 4)

    def passages(self) -> Iterator[str]:
        """Yield a line of text for each direction of each line, and for each zone."""
        passed = self.passed.summary()
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


def watch_clip(args, network: Network, right: Sequence[str] = ()) -> Summary:
    """Return the counts of a run over `args.video`; prints them and writes its files (see util.outputs.sinks).

    right: the names that --label counts as right, or none.
    The first Ctrl-C or SIGTERM is the normal end of a live source, and breaks off anything else.
    """
    settings = load_settings(args.settings, list(network.spec.classes), args.camera)
    video = open_video(args.video)
    if args.start and video.live:
        raise InputError(f"--start is for files; {video.name} is live, and the machine's clock says when")
    video.started = args.start or video.started
    recordings = _recordings(args) if args.record else None
    pipeline, clock = Pipeline(video, network, settings), Clock()
    summary = Summary(pipeline.places)
    hook = _notifier(args.notify, pipeline, args.camera) if args.notify else None
    stops = stoppable(video.stop) if video.live else nullcontext()
    page = _page(args, video, pipeline, clock, settings, [hook] if hook else []) if args.serve else None
    with stops, page or nullcontext(), open_sinks(args, video, network.spec.classes, pipeline.detector, pipeline.places) as sinks:
        recorder = _recorder(args, recordings, video, settings["record"]) if recordings else None
        changes = Changes(hook.send, video, immediate=True, crops=args.notify_crop) if hook else None
        sinks.sinks += [sink for sink in (page, recorder, changes) if sink]
        try:
            _watch(args, video, pipeline, sinks, summary, clock)
        finally:  # Ctrl-C and a video that is cut off, too: tracks that are still open are written
            rest = pipeline.tracker.finish()
            summary.end(rest)
            try:
                sinks.finish(rest, clock)
            finally:
                if hook:
                    hook.finish()
        if args.save:
            counts, labels = _counts(video, summary, recorder, hook), dict(summary.tracks.most_common())
            passed, ms = summary.passed.summary(), clock.ms()
            sinks.summarize(arguments=redact_arguments(args.command[1]), **counts, labels=labels, **passed, ms_per_frame=ms)
    print(*_lines(video, summary, recorder, hook, clock), sep="\n")
    if right:
        print(summary.share_right(right))
    print(f"written: {printable(Path(args.save) / Report.NAME if args.save else Path(PredictionTable.NAME))}")
    return summary


def _counts(video: Video, summary: Summary, recorder, hook) -> dict:
    """Return what summary.json counts."""
    counts = {"frames": summary.frames, "objects": summary.sightings.total(), "tracks": summary.tracks.total()}
    if video.live:
        counts |= {"dropped": video.dropped, "reconnects": video.reconnects, "stopped": video.stopped}
    if recorder:
        counts["recordings"] = {"files": recorder.files, "deleted": recorder.ledger.deleted, "gaps": recorder.gaps}
    if hook:
        counts["events"] = {"sent": hook.sent, "dropped": hook.dropped}
    return counts


def _lines(video: Video, summary: Summary, recorder, hook, clock: Clock) -> Iterator[str]:
    """Yield what stdout tells of a run."""
    yield f"{video.name}: {summary.sightings.total()} objects in {summary.frames_with} of {summary.frames} frames"
    if video.live:
        yield f"dropped: {video.dropped} frames that came while others were looked at; {video.reconnects} times connected again"
    if recorder:
        told = f"{recorder.ledger.deleted} deleted to make room, {recorder.gaps} gaps"
        yield f"recorded: {recorder.files} files in {printable(recorder.ledger.directory)}, {told}"
    if hook:
        yield f"notified: {hook.sent} events sent to {hook.name}, {hook.dropped} dropped"
    yield f"ms per frame: {clock}" + "; decode includes waiting for the frame" * video.live
    if summary.sightings:
        yield summary.table()
    yield from summary.passages()


def _notifier(url: str, pipeline: "Pipeline", camera: str | None):
    if (parts := urlsplit(url)).scheme in ("mqtt", "mqtts"):
        from util.outputs.mqtt import PREFIX, Mqtt  # here: few runs need its client, or that of HTTP

        if camera:  # each has topics of its own
            url = parts._replace(path=f"/{parts.path.strip('/') or PREFIX}/{camera}").geturl()
        return Mqtt(url, [name for name in pipeline.tracker.names.classes if name != OTHER])
    from util.outputs.webhook import Webhook

    return Webhook(url)


def _recordings(args) -> Path:
    """Return where recordings go; InputError if that is in results, which another run replaces."""
    directory = (args.recordings or Path("recordings")) / (args.camera or "")  # of several cameras each has its own
    if args.save and lies_in_results(directory, Path(args.save)):
        raise InputError(f"recordings in {directory} would lie in {args.save}, which is replaced whole; give another directory")
    return directory


def _recorder(args, directory: Path, video: Video, around: dict[str, float]):
    from util.outputs.record import Recorder  # here: few runs record

    return Recorder(directory, video, args.keep or Keep(), args.record == "all", **around)


def _page(args, video: Video, pipeline: "Pipeline", clock: Clock, settings: dict[str, dict], notifiers: Sequence):
    from util.serve.page import Page  # here: few runs need a server
    from util.watch.drawing import Drawing

    drawing = Drawing(args.settings, args.camera, pipeline, settings)
    page = Page(args.serve, video, clock, args.camera or printable(video.name), drawing.shown, drawing.save, notifiers, pipeline.places)
    if args.camera is None:  # else who started this shows it
        say(f"page: {page.server.url}")
    return page


def _watch(args, video: Video, pipeline: "Pipeline", sinks: Sinks, summary: Summary, clock: Clock) -> None:
    total = min(filter(None, [args.limit, video.frame_count]), default=None)
    for timed in tqdm(pipeline.frames(video, args.limit, clock), "naming", total, unit=" frames", leave=False, disable=None):
        with uninterrupted():  # tracks that end in a frame are in the files of that frame, or in none
            moment = pipeline(*timed, clock)
            summary.add(moment)
            with clock("write"):
                sinks.add(moment)


class Pipeline:
    """Detector, network and tracker in a row: call it with each of `frames`, get its Moment."""

    def __init__(self, video: Video, network: Network, settings: dict[str, dict]):
        self.network, spec, self.size = network, network.spec, (video.width, video.height)
        self.places = Places()
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

    def frames(self, video: Video, limit: int | None, clock: Clock) -> Iterator[tuple[int, float, np.ndarray]]:
        """Yield (number from 1, seconds, BGR) of a video's frames, `limit` at most, once the detector has been rehearsed with the first."""
        frames = ((video.seconds, frame) for frame in clock.each("decode", video))
        late = (lambda timed: timed[0] >= LATE) if video.live else None
        rehearsed = clock.each("detect", self.detector.rehearsed(frames, itemgetter(1), late))
        for number, (seconds, frame) in enumerate(islice(rehearsed, limit), 1):
            yield number, seconds, frame

    def __call__(self, number: int, seconds: float, frame: np.ndarray, clock: Clock) -> Moment:
        with clock("detect"):
            result = self.detector.detect(frame)
            keep = self.zones.keep(result.boxes)
            if not keep.all():
                result = result.only(keep)
        boxes, crops = (tuple(map(tuple, boxes.tolist())) for boxes in (result.boxes, result.crops))
        sightings = [Sighting(*each) for each in zip(boxes, crops, result.scores.tolist(), strict=True)]
        moment = Moment(number, seconds, frame, result, sightings)
        with clock("track"):
            viewed = self.tracker.associate(moment)
        with clock("classify"):
            logits = self.classify(moment, viewed) if viewed else np.empty((0, len(self.log_prior)))
        with clock("track"):
            self.tracker.name(moment, viewed, logits[:, self.columns])
        clock.frames = number
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
