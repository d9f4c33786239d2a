"""Detects, names and tracks moving objects in clips, with a packed network and without PyTorch.

    python3 -m util.watch CLIP --network CIFAR_10/models/vgg_clips.xnor --save OUT
    python3 -m util.watch CLIP... --save OUT --jobs 4          many clips: several, a 'pattern*', a directory of them
    python3 -m util.watch --cameras FILE --save OUT --serve 8000   several cameras, a process for each, and one page for all
"""
from util.cli import SAVE, Parser, add_label_argument, add_video_argument, add_video_options, at_least, guard, run
from util.errors import InputError

if __name__ == "__main__":
    guard()  # Ctrl-C while the rest loads

import argparse  # noqa: E402
from pathlib import Path  # noqa: E402

from util.watch import NETWORK  # noqa: E402

# Flags that a single clip's command has as well
PLAIN = ["network", "label", "limit", "settings", "start", "notify", "record", "recordings", "keep"]


def parse_args(argv=None) -> argparse.Namespace:
    parser = Parser(prog="python3 -m util.watch", description="Detects, names and tracks moving objects, with a packed network.")
    verb = parser.add_mutually_exclusive_group()
    verb.add_argument("clips", nargs="*", default=[], metavar="CLIP", help="video, directory of frames, camera N, URL, - (stdin); or many")
    add_video_argument(verb)
    verb.add_argument("--fastMCD", type=Path, metavar="DIR", help="name the best object of each frame in the detector's results")
    verb.add_argument("--multi_fastMCD", type=Path, metavar="DIR", help="name all objects in the detector's results")
    text = "watch each camera of this TOML file, by a process of its own that is started again if it ends (docs/live.md)"
    verb.add_argument("--cameras", type=Path, metavar="FILE", help=text)
    parser.add_argument("--camera", metavar="NAME", help="with --cameras: this one alone")
    parser.add_argument("--network", type=Path, metavar="FILE", default=NETWORK, help="packed network, which main.py --export writes")
    add_label_argument(parser)
    parser.add_argument("--save", type=Path, metavar="DIR", help=SAVE)
    parser.add_argument("--limit", type=at_least(1), metavar="N", help="at most N frames: a quick try")
    add_video_options(parser)
    args = parser.parse_args(argv)
    if args.clips:
        args.video = args.clips if len(args.clips) > 1 else args.clips[0]
    if not (args.video or args.fastMCD or args.multi_fastMCD or args.cameras):
        parser.error("no CLIP is given")
    if args.camera and not args.cameras:
        parser.error("--camera needs --cameras FILE")
    if args.cameras and (args.settings or args.start):
        parser.error("--cameras FILE takes no --settings, which stand in FILE, and no --start, which is for one clip")
    if args.cameras and not args.camera:
        return args
    if args.cameras:
        _choose_camera(args)
    flags = [f"--{name}={value}" for name in PLAIN if (value := getattr(args, name)) is not None] + ["--show-debug"] * args.show_debug
    flags += ["--notify-crop"] * args.notify_crop
    clips = [args.video] if isinstance(args.video, str) else args.video or []
    args.command = args.command[0], [*flags, "--video", *clips, *(["--save", str(args.save)] if args.save else [])]
    return args


def _choose_camera(args: argparse.Namespace) -> None:
    """Let `args` be those of a run over one camera of the file; its address is on no command line, where others could read it."""
    from util.watch.settings import load_cameras

    cameras = load_cameras(args.cameras)
    if args.camera not in cameras:
        raise InputError(f"{args.cameras} has no camera {args.camera!r}; it has {' '.join(cameras)}")
    args.video, args.settings = cameras[args.camera], str(args.cameras)


def main(argv=None):
    args = parse_args(argv)
    from util import packed, watch  # here: --help needs none of it

    if args.cameras and not args.camera:
        from util.watch.cameras import watch_cameras

        return watch_cameras(args, packed.load(args.network))
    return watch.run(args, packed.load(args.network))


if __name__ == "__main__":
    run(main)
