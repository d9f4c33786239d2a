"""What the scripts share at their border: the common flags, and an end in one line with exit code 2 for bad input or Ctrl-C."""
import argparse
import contextlib
import errno
import io
import ipaddress
import math
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import NoReturn
from urllib.parse import unquote, urlsplit

from util.errors import OF_THE_SYSTEM, InputError, printable, redact
from util.signals import STOPS

LONGEST_LINE = 2000  # characters: a file may hold a name of any length
SAVE = "write all results here: report.html, annotated video, tables, pictures (default: only predictions.csv)"  # help of --save


# ---- Flags -----------------------------------------------------------------------------------------------------------
class Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Adds a default to a flag's help where there is one that the help doesn't tell."""

    def _get_help_string(self, action):
        if action.default is None or action.default is False or action.default == [] or "(default: " in action.help:
            return action.help
        if isinstance(action.default, list):
            return f"{action.help} (default: {' '.join(map(str, action.default))})"
        return super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser with defaults in its help, whose errors are InputErrors (one line, no usage text).

    script: the program that takes these flags, where it isn't the one that was started.
    """

    def __init__(self, script: str | None = None, **options):
        super().__init__(formatter_class=Formatter, allow_abbrev=False, **options)
        self.needs: list[tuple[str, Sequence[str]]] = []  # a flag's name, and those of others of which it needs one to say anything
        self.program = [sys.executable, script] if script else _program()

    def error(self, message):
        raise InputError(f"{message}; see --help")

    def parse_args(self, args=None, namespace=None):
        """Return the parsed flags; `command` is what would start this program with them again: (program, arguments)."""
        parsed = super().parse_args(args, namespace)
        for flag, others in self.needs:
            if getattr(parsed, flag) and not any(getattr(parsed, other, None) for other in others):
                self.error(f"--{flag.replace('_', '-')} is given, and nothing that it could be about; add --{others[0]}, or leave it out")
        parsed.command = self.program, [str(argument) for argument in (sys.argv[1:] if args is None else args)]
        return parsed


def add_common_arguments(parser: Parser, archs: Sequence[str], default: str = "") -> None:
    """Add the flags that every script has: what to do (train if nothing is asked), with which network, data and budget.

    default: what --help calls the default of --arch, where it is not always the first of `archs`.
    """
    verb = parser.add_mutually_exclusive_group()
    verb.add_argument("--evaluate", action="store_true", help="accuracy on all test images instead of training")
    verb.add_argument("--fastMCD", type=Path, metavar="DIR", help="name the best object of each frame in the detector's results")
    verb.add_argument("--multi_fastMCD", type=Path, metavar="DIR", help="name all objects in the detector's results")
    add_video_argument(verb)
    add_label_argument(parser)
    parser.add_argument("--save", type=Path, metavar="DIR", help=SAVE)
    add_video_options(parser)
    parser.needs += [(flag, ["fastMCD", "multi_fastMCD", "video"]) for flag in ("label", "save")]  # a training would begin
    parser.add_argument("--arch", choices=sorted(archs), default=archs[0], help=f"network (default: {default or archs[0]})")
    text = "weights to use, or to start a training from (default: those beside the script, or random ones for a training)"
    parser.add_argument("--pretrained", type=Path, metavar="FILE", help=text)
    text = "folder of the data set (default: beside the script, downloaded); of MNIST/ and CIFAR_10/ also a folder of your own classes"
    parser.add_argument("--data", type=Path, metavar="DIR", help=text)
    parser.add_argument("--cpu", action="store_true", help="use the CPU even where there is a GPU")
    parser.add_argument("--epochs", type=at_least(1), help="number of epochs (default: the recipe's)")
    parser.add_argument("--lr", type=_positive, help="highest learning rate (default: the recipe's)")
    parser.add_argument("--batch-size", type=at_least(1), help="images per step, of all processes together (default: the recipe's)")
    parser.add_argument("--seed", type=at_least(0), default=1, help="seed of initial weights, order and augmentation")
    parser.add_argument("--limit", type=at_least(1), metavar="N", help="at most N images of each set, evenly over its classes, or N frames")
    parser.add_argument("--name", type=_file_name, metavar="NAME", help="name of the files that a training writes (default: the network's)")
    parser.add_argument("--resume", action="store_true", help="continue the training that was cut off")
    parser.add_argument("--compile", action="store_true", help="torch.compile the training step (needs a C++ compiler)")


class _OneOrMany(argparse.Action):
    """One value as it is, several as a list."""

    def __call__(self, parser, namespace, values, option_string=None):
        setattr(namespace, self.dest, values[0] if len(values) == 1 else values)


def add_video_argument(verb) -> None:
    """Add --video to a parser or a group of one; args.video is a str, or a list of several."""
    text = "detect, name and track moving objects in a video, a directory of frames, camera N, a URL, - (stdin); or in many clips: "
    text += "several, a 'pattern*', a directory of clips"
    verb.add_argument("--video", nargs="+", action=_OneOrMany, metavar="FILE|DIR|N|URL|-", help=text)


def add_video_options(parser: Parser) -> None:
    """Add the flags that go with --video: settings, a look inside, many clips at once (util.watch.batch)."""
    parser.add_argument("--settings", metavar="NAME|FILE", help="of --video: a preset (static hand-held drone traffic) or a TOML file")
    text = "of --video: when its first frame was taken, RFC 3339 (default: of a live source now, of others unknown)"
    parser.add_argument("--start", type=time_of, metavar="TIME", help=text)
    text = "with --video: send each event (starts, names, ends of tracks) as JSON to a web server or an MQTT broker (docs/live.md)"
    parser.add_argument("--notify", type=web_address, metavar="URL", help=text)
    parser.add_argument("--notify-crop", action="store_true", help="with --notify: send the track's picture as well")
    text = "with --video: record around events, or everything, in files of an hour at most; streams are copied (docs/live.md)"
    parser.add_argument("--record", choices=["events", "all"], help=text)
    parser.add_argument("--recordings", type=Path, metavar="DIR", help="with --record: where (default: recordings)")
    text = "with --record: delete the oldest beyond this size or age, such as 20GB, 14d or 20GB,14d (default: when the disk is full)"
    parser.add_argument("--keep", type=keep_of, metavar="SIZE|AGE", help=text)
    text = "with --video: serve a live page for browsers (docs/live.md), on a loopback address unless HOST is given; or on a Unix socket"
    parser.add_argument("--serve", type=serve_address, metavar="[HOST:]PORT|SOCKET", help=text)
    parser.needs += [("recordings", ["record"]), ("keep", ["record"]), ("notify_crop", ["notify"]), ("show_debug", ["save"])]
    of_video = ("settings", "start", "notify", "record", "serve", "show_debug", "jobs", "ray")
    parser.needs += [(flag, ["video", "clips", "cameras"]) for flag in of_video]  # the last two of util.watch
    parser.set_defaults(camera=None)  # of util.watch --cameras: which one
    parser.add_argument("--show-debug", action="store_true", help="with --video and --save: debug.mp4, the detector's state")
    parser.add_argument("--jobs", type=at_least(1), metavar="N", help="clips at a time if there are many, a thread each (default: cores)")
    parser.add_argument("--ray", metavar="ADDRESS|local", help="run many clips on a Ray cluster (pip install ray)")


def add_engine_arguments(parser: Parser) -> None:
    """Add the flags of scripts with binarized networks: what predicts, and writing it packed."""
    parser.add_argument("--engine", choices=["auto", "torch", "xnor"], default="auto", help="by PyTorch, or by packed bits on the CPU")
    text = "write the network packed, 1 bit per weight, which --pretrained reads; or as FILE.onnx"
    parser.add_argument("--export", type=Path, metavar="FILE", help=text)


def add_precision_argument(parser: Parser) -> None:
    """Add --bf16 and --no-bf16; args.bf16 is None where neither is given."""
    text = "train in bfloat16 (default: where the processor has fast instructions for it)"
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=None, help=text)


def add_cpu_training_arguments(parser: Parser) -> None:
    """Add the flags that change what a compiled training step of binarized layers computes on a CPU (util.train.cpu_ops.accelerate)."""
    counted = "with --compile on a CPU: convolutions of signs count bits; sums are exact, rounded once"
    parser.add_argument("--popcount-forward", action="store_true", help=counted)
    rounded = "with --compile on a CPU: gradients of large binarized layers in 8 bits, by stochastic rounding"
    parser.add_argument("--int8-gradients", action="store_true", help=rounded)


def add_teacher_argument(parser: Parser, more: str = "", **options) -> None:
    """Add --teacher; `more` ends its help, `options` are of its argument."""
    text = "teacher to distill from in training: cached logits that PyTorch_CIFAR10/main.py --logits wrote" + more
    parser.add_argument("--teacher", type=Path, metavar="FILE", help=text, **options)


def _program() -> list[str]:
    module = getattr(sys.modules["__main__"], "__spec__", None)  # of python -m
    return [sys.executable, *(["-m", module.name.removesuffix(".__main__")] if module else [os.path.abspath(sys.argv[0])])]


def add_label_argument(parser: Parser) -> None:
    """Add --label; args.label is a str: only the network says which classes there are (see `label_of`)."""
    parser.add_argument("--label", metavar="NUMBER|NAME", help="the true class of all objects: report the share that is named so")


def label_of(text: str, classes: Sequence[str]) -> str:
    """Return the class that --label means by its name or number; raises InputError if there is none."""
    if text in classes:
        return text
    if re.fullmatch(r"[0-9]{1,9}", text) and int(text) < len(classes):
        return classes[int(text)]
    raise InputError(f"--label: {text!r} is no label; expected 0-{len(classes) - 1} or one of {' '.join(classes)}")


def at_least(low: int) -> Callable[[str], int]:
    """Return what turns a flag's text into a whole number from `low` up to what libraries take for one (2^31 - 1)."""

    def number(text: str) -> int:
        if not re.fullmatch("-?[0-9]{1,10}", text) or not low <= int(text) < 2**31:
            raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a whole number from {low} up to {2**31 - 1}")
        return int(text)

    return number


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


@dataclass(frozen=True)
class Keep:
    """How much of the recordings is kept; str() gives the flag's text."""

    size: float = math.inf  # bytes
    seconds: float = math.inf
    text: str = ""

    def __str__(self):
        return self.text


UNITS = {"MB": 10**6, "GB": 10**9, "TB": 10**12, "h": 3600, "d": 86400}


def keep_of(text: str) -> Keep:
    """Return what a flag such as 20GB, 14d or 20GB,14d means."""
    given = {}
    for part in text.split(","):
        found = re.fullmatch(r"(\d{1,6}(?:\.\d{1,6})?)(MB|GB|TB|h|d)", part, re.ASCII)
        field = found and ("size" if found[2].endswith("B") else "seconds")
        if not found or field in given or float(found[1]) == 0:
            raise argparse.ArgumentTypeError(f"{text!r} is no size or age; give one such as 500MB, 20GB, 1TB, 12h, 14d, or both: 20GB,14d")
        given[field] = float(found[1]) * UNITS[found[2]]
    return Keep(**given, text=text)


RFC_3339 = re.compile(r"[12]\d{3}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)", re.ASCII)


def time_of(text: str) -> datetime:
    """Return a flag's RFC 3339 time, which has a zone."""
    with contextlib.suppress(ValueError):  # such as the 30th of February
        if RFC_3339.fullmatch(text.upper().replace(" ", "T")):
            return datetime.fromisoformat(text.upper())
    raise argparse.ArgumentTypeError(f"{text!r} is no RFC 3339 time; give one such as 2026-11-26T16:00:00+01:00 or 2026-11-26T15:00:00Z")


def web_address(text: str) -> str:
    """Return a flag's address of a web server or an MQTT broker. The message doesn't repeat it: it may hold a password."""
    with contextlib.suppress(ValueError):  # such as a port of 99999
        parts = urlsplit(text)
        topic = unquote(parts.path + parts.query) if parts.scheme in ("mqtt", "mqtts") else ""  # ?discovery= is one, too
        known = parts.scheme in ("http", "https", "mqtt", "mqtts") and not re.search("[+#\0]", topic)  # wildcards
        if re.fullmatch(r"[!-~]+", text) and known and parts.hostname and parts.port != 0:
            return text
    addresses = "http://HOST/PATH, https://HOST/PATH, mqtt://HOST/TOPIC or mqtts://HOST/TOPIC, other characters percent-encoded"
    raise argparse.ArgumentTypeError(f"that is no address; give {addresses}")


def serve_address(text: str) -> tuple[str, int] | Path:
    """Return a flag's (host, port), the host 127.0.0.1 if none is given; or, if a slash is in it, the path of a Unix socket."""
    if "/" in text:
        return Path(text)
    found = re.fullmatch(r"(?:([\w.-]+|\[[0-9A-Fa-f:.]+\]):)?(\d{1,5})", text, re.ASCII)
    if not found or int(found[2]) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no address; give PORT, HOST:PORT, [IPv6]:PORT or a Unix socket, as ./page")
    return (found[1] or "127.0.0.1").strip("[]"), int(found[2])


def is_loopback(host: str) -> bool:
    """Whether a host's name or address means this machine, to itself alone."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host.lower() in ("localhost", "localhost.")


def _file_name(text: str) -> str:
    if not re.fullmatch(r"[\w+-][\w.+-]{0,99}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no name of a file; give up to 100 letters, digits, or any of . _ + -")
    return text


# ---- The end of a program --------------------------------------------------------------------------------------------
def guard() -> None:
    """Let Ctrl-C, and what else ends a program, end this one with one line, at once, until `run`: while modules load nothing is lost."""
    for number in STOPS:
        _handle(number, lambda *_: os._exit(_say("interrupted")))


def run(main: Callable[[], object]) -> None:
    """Return after `main()` has, or end the process with one line on stderr and exit code 2.

    Caught: InputError, any error of the system that names a file, a full disk, no memory, and Ctrl-C, SIGTERM and a closed terminal
    (treated alike, as KeyboardInterrupt). Anything else is a bug and keeps its traceback.
    """
    _open_closed()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name that can't be encoded is no reason to end
    for number in STOPS:
        _handle(number, _interrupt)
    try:
        main()
        print(end="", flush=True)
    except InputError as error:
        _end(error)
    except KeyboardInterrupt:
        _end("interrupted; what was finished has been kept")
    except BrokenPipeError:  # `main.py … | head`: the reader has seen enough
        _drop_output()
    except MemoryError as error:
        _end(f"out of memory ({error or 'there is no more'}); give it more, or less to do at once")
    except OSError as error:
        if error.filename is None and error.errno not in OF_THE_SYSTEM:
            raise
        advice = "make room, raise the limit or " * (error.errno not in (errno.EACCES, errno.EROFS)) + "choose another directory"
        _end(f"{error.filename or 'writing'}: {error.strerror or error}" + f"; {advice}" * (error.errno in OF_THE_SYSTEM))


def _open_closed() -> None:
    """Let those of stdin, stdout and stderr that are closed lead nowhere, before a file gets their number and what libraries print."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
    sys.stdout, sys.stderr = (stream or open(os.devnull, "w") for stream in (sys.stdout, sys.stderr))


def _handle(number: int, handler: Callable) -> None:
    if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup does, and a shell with what runs in the background
        signal.signal(number, handler)


def _interrupt(number, frame):
    if number != signal.SIGINT:  # a shell that ends says so more than once
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _end(line: object) -> NoReturn:
    _drop_output()
    sys.exit(_say(line))


def _drop_output() -> None:
    """Write what is left to stdout; if that is what failed, Python must not try again at its end."""
    with contextlib.suppress(ValueError, AttributeError):  # closed, or none
        try:
            sys.stdout.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say(line: object) -> int:
    with contextlib.suppress(OSError, ValueError, AttributeError):  # the terminal may be gone
        text = redact(" ".join(str(line)[:LONGEST_LINE].split()))
        program = Path(sys.argv[0])
        name = program.parent.name if program.name == "__main__.py" else program.name  # of python3 -m util.watch: watch
        print(f"{name}: error: {printable(text)}", file=sys.stderr, flush=True)
    return 2
