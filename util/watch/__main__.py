"""Detects, names and follows what moves in clips, with a packed network and without PyTorch.

    python3 -m util.watch CLIP --network CIFAR_10/models/vgg_clips.xnor --save OUT
    python3 -m util.watch CLIP... --save OUT --jobs 4          many clips: several, a 'pattern*', a directory of them
"""
from util.cli import Parser, add_label_argument, add_video_argument, add_video_options, at_least, guard, run

if __name__ == "__main__":
    guard()  # Ctrl-C while the rest loads

import argparse  # noqa: E402
from pathlib import Path  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
# Flags that a single clip's command has as well
PLAIN = ["network", "label", "limit", "settings", "start", "notify", "record", "recordings", "keep"]


def parse_args(argv=None) -> argparse.Namespace:
    parser = Parser(prog="python3 -m util.watch", description="Detects, names and follows what moves, with a packed network.")
    verb = parser.add_mutually_exclusive_group()
    verb.add_argument("clips", nargs="*", default=[], metavar="CLIP", help="video, directory of frames, camera N, URL, - (stdin); or many")
    add_video_argument(verb)
    verb.add_argument("--fastMCD", type=Path, metavar="DIR", help="name the best object of each frame in the detector's results")
    verb.add_argument("--multi_fastMCD", type=Path, metavar="DIR", help="name all objects in the detector's results")
    network = ROOT / "CIFAR_10" / "models" / "vgg_clips.xnor"
    parser.add_argument("--network", type=Path, metavar="FILE", default=network, help="packed network, which main.py --export writes")
    add_label_argument(parser)
    parser.add_argument("--save", type=Path, metavar="DIR", help="write results, annotated video and contact sheet here")
    parser.add_argument("--limit", type=at_least(1), metavar="N", help="at most N frames: a quick try")
    add_video_options(parser)
    args = parser.parse_args(argv)
    if args.clips:
        args.video = args.clips if len(args.clips) > 1 else args.clips[0]
    if not (args.video or args.fastMCD or args.multi_fastMCD):
        parser.error("no CLIP is given")
    flags = [f"--{name}={value}" for name in PLAIN if (value := getattr(args, name)) is not None] + ["--show-debug"] * args.show_debug
    flags += ["--notify-crop"] * args.notify_crop
    clips = [args.video] if isinstance(args.video, str) else args.video or []
    args.command = args.command[0], [*flags, "--video", *clips, *(["--save", str(args.save)] if args.save else [])]
    return args


def main(argv=None):
    args = parse_args(argv)
    from util import packed, watch  # here: --help needs none of it

    return watch.run(args, packed.load(args.network))


if __name__ == "__main__":
    run(main)
