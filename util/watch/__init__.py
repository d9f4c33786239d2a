"""Watching: what moves in clips gets tracks and names, without PyTorch.

    from util.watch import watch
    for moment in watch("clip.mp4"):
        print(moment.seconds, [(seen.track, seen.box, seen.label, seen.probability) for seen in moment.tracks])

python3 -m util.watch is the command. run() is what --video, --fastMCD and --multi_fastMCD of the scripts do.
"""
from collections.abc import Iterator
from pathlib import Path

from util.cli import label_of
from util.errors import InputError
from util.spec import Network
from util.track.tracking import Moment

# The rest is imported where it is used: a run loads what it needs.

NETWORK = Path(__file__).resolve().parents[2] / "CIFAR_10" / "models" / "vgg_clips.xnor"  # if no other is given


def watch(
    source: str | Path, network: str | Path | Network = NETWORK, settings: str | Path | None = None, limit: int | None = None
) -> Iterator[Moment]:
    """Yield a Moment for each frame of a clip, with the tracks in view and those that begin, are renamed and end.

    source: a video, a directory of frames, a camera's number, a URL or "-" (stdin). network: a packed file (.xnor), or what a script
    has loaded. settings: a preset's name or a TOML file (docs/settings.toml). limit: frames at most.
    Tracks that are still open after the last frame are among that moment's `ended`. A file's moments come a frame late for that; a live
    source's come at once, so there the tracks join the last one's after it was yielded.
    Raises InputError for a source, a network or settings that can't be used.
    """
    from util import packed
    from util.source.video import open_video
    from util.watch.pipeline import Pipeline
    from util.watch.settings import load_settings

    if isinstance(network, str | Path):
        network = packed.load(network)
    video, moment = open_video(str(source)), None
    pipeline = Pipeline(video, network, load_settings(settings and str(settings), list(network.spec.classes)))
    for timed in pipeline.frames(limit):
        if moment and not video.live:
            yield moment
        moment = pipeline(*timed)
        if video.live:
            yield moment
    if moment:
        moment.ended += pipeline.tracker.finish()
        if not video.live:
            yield moment


def run(args, network: Network):
    """Return what was named for `args` (see util.cli), once it is printed and written.

    The rows of predictions.csv for a directory of the detector's results, a summary.Summary for a clip, a table's rows for many clips.
    """
    from util.watch import batch

    right = network.spec.right(label_of(args.label, network.spec.classes)) if args.label is not None else ()
    if args.video and (clips := batch.find_clips(args.video, args.save)):
        meant = f"--video means {len(clips)}" if len(clips) > 1 else f"--video means as many as there are; give {clips[0]} itself"
        if args.start:
            raise InputError(f"--start is for one clip, and {meant}")
        if args.record:
            raise InputError(f"--record is for one source, and {meant}")
        if args.serve:
            raise InputError(f"--serve is for one clip or camera, and {meant}; for many cameras there is --cameras FILE")
        return batch.run_clips(args, clips)
    if args.video:
        from util.watch.clip import watch_clip

        return watch_clip(args, network, right)
    from util.watch.naming import name_directory

    return name_directory(args, network, right)
