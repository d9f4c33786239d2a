"""One clip or camera from its start to its end: what `--video` does. Every file of the run is a sink that gets each moment."""
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from urllib.parse import urlsplit

from tqdm import tqdm

from util.cli import Keep
from util.errors import InputError, printable, say
from util.outputs.events import Changes
from util.outputs.report import Report
from util.outputs.sink import Sinks
from util.outputs.sinks import PredictionTable, open_sinks
from util.outputs.staging import lies_in_results
from util.signals import stoppable, uninterrupted
from util.source.video import Video, open_video
from util.spec import OTHER, Network
from util.watch.batch import redact_arguments
from util.watch.pipeline import Pipeline
from util.watch.settings import load_settings
from util.watch.summary import Summary


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
    pipeline = Pipeline(video, network, settings)
    summary = Summary(pipeline.places)
    hook = _notifier(args.notify, pipeline, args.camera) if args.notify else None
    stops = stoppable(video.stop) if video.live else nullcontext()
    page = _page(args, video, pipeline, settings, [hook] if hook else []) if args.serve else None
    with stops, page or nullcontext(), open_sinks(args, video, network.spec.classes, pipeline.detector, pipeline.places) as sinks:
        recorder = _recorder(args, recordings, video, settings["record"]) if recordings else None
        changes = Changes(hook.send, video, immediate=True, crops=args.notify_crop) if hook else None
        sinks.sinks += [sink for sink in (page, recorder, changes) if sink]
        try:
            _watch(args, video, pipeline, sinks, summary)
        finally:  # Ctrl-C and a video that is cut off, too: tracks that are still open are written
            rest = pipeline.tracker.finish()
            summary.end(rest)
            try:
                sinks.finish(rest, pipeline.clock)
            finally:
                if hook:
                    hook.finish()
        if args.save:
            counts = summary.counts(video, recorder, hook)
            sinks.summarize(arguments=redact_arguments(args.command[1]), **counts, ms_per_frame=pipeline.clock.ms())
    print(*summary.lines(video, recorder, hook, pipeline.clock), sep="\n")
    if right:
        print(summary.share_right(right))
    print(f"written: {printable(Path(args.save) / Report.NAME if args.save else Path(PredictionTable.NAME))}")
    return summary


def _notifier(url: str, pipeline: Pipeline, camera: str | None):
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


def _page(args, video: Video, pipeline: Pipeline, settings: dict[str, dict], notifiers: Sequence):
    from util.serve.page import Page  # here: few runs need a server
    from util.watch.drawing import Drawing

    drawing = Drawing(args.settings, args.camera, pipeline, settings)
    title = args.camera or printable(video.name)
    page = Page(args.serve, video, pipeline.clock, title, drawing.shown, drawing.save, notifiers, pipeline.places)
    if args.camera is None:  # else who started this shows it
        say(f"page: {page.server.url}")
    return page


def _watch(args, video: Video, pipeline: Pipeline, sinks: Sinks, summary: Summary) -> None:
    total = min(filter(None, [args.limit, video.frame_count]), default=None)
    for timed in tqdm(pipeline.frames(args.limit), "naming", total, unit=" frames", leave=False, disable=None):
        with uninterrupted():  # tracks that end in a frame are in the files of that frame, or in none
            moment = pipeline(*timed)
            summary.add(moment)
            with pipeline.clock("write"):
                sinks.add(moment)
