"""Tries a full-precision network, by default on the test images of CIFAR-10; all the work is done by main.py.

    python3 cifar10_test.py --classifier vgg11_bn                                       accuracy
    python3 cifar10_test.py --classifier vgg11_bn --fastMCD --data RESULTS --label 1    name the regions that the detector wrote
"""
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
if __name__ == "__main__":
    from util.cli import guard

    guard()  # Ctrl-C while the rest loads

import main as script  # noqa: E402
import networks  # noqa: E402

from util.cli import Parser, add_video_argument, add_video_options, run  # noqa: E402

PASSED_ON = ["settings", "label", "save", "pretrained", "limit", "jobs", "ray"]


def parse_args(argv=None):
    parser = Parser(description="Full-precision networks on CIFAR-10: evaluate (the default), or name what moves.")
    verb = parser.add_mutually_exclusive_group()
    verb.add_argument("--evaluate", action="store_true", help="accuracy on all test images")
    verb.add_argument("--fastMCD", action="store_true", help="name all objects in the detector's results, which --data gives")
    add_video_argument(verb)
    parser.add_argument("--classifier", choices=sorted(networks.NETWORKS), required=True, help="network")
    parser.add_argument("--data", metavar="DIR", help="with --fastMCD the detector's results, else the folder of the data set")
    parser.add_argument("--label", metavar="0-9|NAME", help="what the objects are: report the share named so; 1 takes 9 (truck) too")
    parser.add_argument("--save", metavar="DIR", help="write predictions.csv, contact sheet and (of a video) results here")
    add_video_options(parser)
    parser.add_argument("--pretrained", metavar="FILE", help="weights (default: state_dicts/CLASSIFIER.pt)")
    parser.add_argument("--limit", metavar="N", help="at most N images, objects or frames: a quick try")
    parser.add_argument("--old-std", action="store_true", help=f"standardise by {script.OLD_STD}, as some older weights expect it")
    parser.add_argument("--cpu", action="store_true", help="use the CPU even where there is a GPU")
    args = parser.parse_args(argv)
    if args.fastMCD and not args.data:
        parser.error("--fastMCD needs --data DIR, the directory of the detector's results")
    return args


def main(argv=None):
    args = parse_args(argv)
    options = [f"--arch={args.classifier}"]
    options += [f"--{name}={value}" for name in PASSED_ON if (value := getattr(args, name)) is not None]
    if args.video:
        options += ["--video", *([args.video] if isinstance(args.video, str) else args.video)]
    options += [flag for flag, given in (("--cpu", args.cpu), ("--old-std", args.old_std), ("--show-debug", args.show_debug)) if given]
    if args.data:
        options.append(f"--multi_fastMCD={args.data}" if args.fastMCD else f"--data={args.data}")
    if not args.fastMCD and not args.video:
        options.append("--evaluate")
    return script.main(options)


if __name__ == "__main__":
    run(main)
