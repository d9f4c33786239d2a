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

from util.cli import Parser, add_video_argument, run  # noqa: E402


def parse_args(argv=None):
    """Return (the flags that main.py calls otherwise, all others, as they were given)."""
    text = "Full-precision networks on CIFAR-10: evaluate (the default), or name what moves."
    parser = Parser(description=text, epilog="All other flags are those of main.py, whose --help lists them: --label, --save, --limit, …")
    verb = parser.add_mutually_exclusive_group()
    verb.add_argument("--evaluate", action="store_true", help="accuracy on all test images")
    verb.add_argument("--fastMCD", action="store_true", help="name all objects in the detector's results, which --data gives")
    add_video_argument(verb)
    parser.add_argument("--classifier", choices=sorted(networks.NETWORKS), required=True, help="network")
    parser.add_argument("--data", metavar="DIR", help="with --fastMCD the detector's results, else the folder of the data set")
    args, others = parser.parse_known_args(argv)
    if args.fastMCD and not args.data:
        parser.error("--fastMCD needs --data DIR, the directory of the detector's results")
    return args, others


def main(argv=None):
    args, options = parse_args(argv)
    options = [f"--arch={args.classifier}", *options]
    if args.data:
        options.append(f"--multi_fastMCD={args.data}" if args.fastMCD else f"--data={args.data}")
    if args.video:
        options += ["--video", *([args.video] if isinstance(args.video, str) else args.video)]
    elif not args.fastMCD:
        options.append("--evaluate")
    return script.main(options)


if __name__ == "__main__":
    run(main)
