"""Damages good files of every kind that is read, thousands of ways, and sees that each is read, or refused in one line with exit code 2.

    python3 tests/fuzz.py                            200 files of each kind; prints what became of them
    python3 tests/fuzz.py --count 5000 --seed 7 --kind "video, mp4" settings --keep DIR

The damage knows the format: JSON stays JSON with another value in it, a zip stays a zip with another entry, a packed network gets the
checksum that its new head needs. Each file is read as the scripts read it, in a process of its own, so that a crash, a hang (30 s of
CPU) and much memory (over 1 GiB) are seen as well. What was mishandled is kept in --keep; the exit code is 1 then.
"""
import argparse
import faulthandler
import hashlib
import io
import json
import os
import pickle
import re
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable
from functools import cache
from itertools import islice
from pathlib import Path
from random import Random
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import cv2  # noqa: E402
import numpy as np  # noqa: E402
from tabulate import tabulate  # noqa: E402

import fastmcd  # noqa: E402
from tests import servers, test_evaluate  # noqa: E402
from tests.results import ResultsWriter  # noqa: E402
from tests.scripts import load_script  # noqa: E402
from util.cli import Parser, run  # noqa: E402
from util.errors import InputError  # noqa: E402
from util.outputs.results import read_results  # noqa: E402
from util.score import evaluate  # noqa: E402
from util.source.video import open_video  # noqa: E402
from util.track.zones import make_zones  # noqa: E402
from util.watch.settings import load_settings  # noqa: E402

SECONDS, MEBIBYTES, FRAMES = 30, 1024, 40  # of CPU, of memory beyond what the parent has, of a video
NOTE = r": \d+ of \d+ frames are damaged and were left out$"  # what may be said of a file that is read


@cache
def script(path: str):
    """Return the module of a script, loaded where a kind needs it: a process without PyTorch forks in a tenth of the time."""
    module = load_script(path)
    module.torch.set_num_threads(1)  # threads do not live on in a fork
    return module


# ---- Damage ----------------------------------------------------------------------------------------------------------
WORDS = ["", "0", "-1", "1", "0.5", "-0.0", "1e19", "1e309", "-1e308", "nan", "inf", "4294967296", "9223372036854775808",
         "1" + "0" * 400, "1" + "0" * 5000, "true", "null", "[]", "{}", "[" * 5000, "\0", "\ufeff", "\x1b[31m", "é", '"', "'", ",",
         "\n", "\r", "a" * 200_000, "..", "/etc/passwd", "../" * 9, "=", "#", "[x]", '["a"]', "1,1", "\u2028"]  # fmt: skip
VALUES = [None, True, 0, -1, 1, 0.5, 1e19, 1e308, float("nan"), float("inf"), 2**31, 2**63, 10**400, "", "a", "\0", "\ud800",
          "a" * 200_000, [], {}, ["a"], {"a": 1}, [[[]]], [1] * 5000]  # fmt: skip
LENGTHS = [0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]


def bytes_of(data: bytes, rng: Random) -> bytes:
    """Return `data` with bits, lengths and pieces changed."""
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 4, 16])):
        at, size = rng.randrange(len(data) + 1), rng.choice([1, 4, 16, 256, len(data)])
        piece = data[at : at + rng.randint(0, size)]
        match rng.randrange(7):
            case 0:
                data[at : at + 1] = bytes(byte ^ 1 << rng.randrange(8) for byte in data[at : at + 1])
            case 1:
                data[at : at + 4] = struct.pack(rng.choice("<>") + "I", rng.choice(LENGTHS))
            case 2:
                del data[at : at + len(piece)]
            case 3:
                data[at:at] = piece
            case 4:
                data[at : at + len(piece)] = rng.randbytes(len(piece))
            case 5:
                data[rng.randrange(len(data) + 1) :][: len(piece)] = piece
            case 6:
                del data[at:]
    return bytes(data)


def text_of(data: bytes, rng: Random) -> bytes:
    """Return a text with words and lines changed, now and then with bytes changed."""
    if rng.random() < 0.2:
        return bytes_of(data, rng)
    tokens = re.findall(r"[\w.+-]+|\s+|.", data.decode("utf-8", "replace"))
    for _ in range(rng.choice([1, 1, 2, 5])):
        at = rng.randrange(len(tokens) + 1)
        match rng.randrange(4):
            case 0 | 1:
                tokens[at : at + 1] = [rng.choice(WORDS)]
            case 2:
                tokens[at : at + rng.randint(1, 9)] = []
            case 3:
                tokens[at:at] = tokens[at : at + rng.randint(1, 40)]
    return "".join(tokens).encode("utf-8", "surrogatepass")


def json_of(data: bytes, rng: Random) -> bytes:
    """Return JSON with values changed, or a damaged text of it."""
    if rng.random() < 0.2:
        return text_of(data, rng)
    whole = {"": json.loads(data)}
    for _ in range(rng.choice([1, 1, 3])):
        parent, key, node = None, None, whole
        while isinstance(node, dict | list) and node and (parent is None or rng.random() < 0.85):
            parent, key = node, rng.choice(list(node) if isinstance(node, dict) else range(len(node)))
            node = parent[key]
        if parent is not None and rng.random() < 0.2:
            del parent[key]
        elif parent is not None:
            parent[key] = rng.choice(VALUES)
    return json.dumps(whole.get("")).encode("utf-8", "surrogatepass")


def zip_of(data: bytes, rng: Random) -> bytes:
    """Return a zip in which one entry is another, or a damaged zip."""
    if rng.random() < 0.3:
        return bytes_of(data, rng)
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        names = old.namelist()
        chosen = rng.choice([names[0], rng.choice(names)])  # the pickle of a checkpoint comes first
        for name in names:
            new.writestr(name, bytes_of(old.read(name), rng) if name == chosen else old.read(name))
    return out.getvalue()


def packed_of(data: bytes, rng: Random) -> bytes:
    """Return a safetensors file in which the head, or the description of a packed network in it, is another; its checksum is right."""
    if rng.random() < 0.2:
        return bytes_of(data, rng)
    size = int.from_bytes(data[:8], "little")
    head, body = json.loads(data[8 : 8 + size]), data[8 + size :]
    if rng.random() < 0.3:
        text = json_of(json.dumps(head).encode(), rng)
    else:
        description = json_of(head["__metadata__"]["network"].partition(" ")[2].encode(), rng).decode("utf-8", "replace")
        digest = hashlib.sha256(description.encode())
        for name in sorted(head.keys() - {"__metadata__"}):
            kind = np.dtype({"U8": "uint8", "F32": "float32", "I32": "int32", "F16": "float16", "I16": "int16"}[head[name]["dtype"]])
            first, last = head[name]["data_offsets"]
            digest.update(f"{name} {kind} {tuple(head[name]['shape'])}".encode() + body[first:last])
        head["__metadata__"]["network"] = f"{digest.hexdigest()} {description}"
        text = json.dumps(head).encode()
    return len(text).to_bytes(8, "little") + text + body


# ---- Kinds of files --------------------------------------------------------------------------------------------------
class Kind(NamedTuple):
    make: Callable[[Path], object]  # writes good files into an empty directory
    damage: dict[str, Callable[[bytes, Random], bytes]]  # pattern of files -> how they are changed
    read: Callable[[Path], object]  # reads that directory; returns, or raises InputError


def make_settings(directory):
    text = (ROOT / "docs" / "settings.toml").read_text()
    text = text.replace("watch = []", 'watch = "z.png"').replace("ignore = []", "ignore = [[[0, 0], [9, 0], [9, 9]]]")
    (directory / "s.toml").write_text('preset = "drone"\n' + text)
    cv2.imwrite(str(directory / "z.png"), np.full((48, 64), 255, np.uint8))


def read_settings(directory):
    settings = load_settings(str(directory / "s.toml"), test_evaluate.NAMES)
    make_zones(64, 48, **settings["zones"])
    try:
        fastmcd.Detector(64, 48, **settings["detector"])
    except (TypeError, ValueError) as error:  # as util.watch.pipeline does
        raise InputError(f"detector: {error}") from None


def make_score(write):
    def make(directory):
        write(directory / "truth")
        test_evaluate.write_results(directory / "run")

    return make


def read_score(directory):
    evaluate.score(directory / "run", directory / "truth")


def make_results(directory):
    frame = servers.numbered(37, 160, 120)
    boxes = np.array([[10, 10, 30, 20], [60, 50, 40, 40]], np.int32)
    result = fastmcd.Result(boxes, boxes, np.float32([0.9, 0.5]), np.full((120, 160), 255, np.uint8), np.eye(3), True, 9, 9, {})
    with ResultsWriter(directory / "run") as writer:
        for number in (1, 2, 3):
            writer.add(number, frame, result)


def read_run(directory):
    [detection.image for detection in read_results(directory / "run")]


def make_video(container, codec, pixels="yuv420p"):
    def make(directory):
        times = [number / 25 for number in range(12)]
        (directory / f"v.{container}").write_bytes(servers.video_bytes(container, codec, times, pixels, seekable=container != "mpegts"))

    return make


def read_video(directory):
    (path,) = directory.iterdir()
    for _ in islice(open_video(path), FRAMES):
        pass


def make_frames(directory):
    for number in range(6):
        suffix = ("png", "jpg", "bmp", "tiff", "webp")[number % 5]
        cv2.imwrite(str(directory / f"{number:03d}.{suffix}"), servers.numbered(number))


def read_frames(directory):
    for _ in islice(open_video(directory), FRAMES):
        pass


def make_weights(directory):
    shutil.copy(ROOT / "MNIST" / "models" / "LeNet_5.best.pth.tar", directory / "w.pth.tar")
    make_images(directory / "data")


def make_packed(directory):
    script("MNIST/main.py").main(["--cpu", "--export", str(directory / "w.xnor")])
    make_images(directory / "data")


def make_images(directory):
    for split in ("train", "test"):
        for digit in range(10):
            (directory / split / str(digit)).mkdir(parents=True)
            suffix = ("png", "jpg", "bmp", "webp", "tiff")[digit % 5]
            cv2.imwrite(str(directory / split / str(digit) / f"a.{suffix}"), np.full((28, 28), 25 * digit, np.uint8))


def read_weights(name):
    arguments = ["--cpu", "--evaluate", "--pretrained"]
    return lambda directory: script("MNIST/main.py").main([*arguments, str(directory / name), "--data", str(directory / "data")])


def read_images(directory):
    script("MNIST/main.py").main(["--cpu", "--evaluate", "--data", str(directory)])


def make_zip(directory):
    download, weights = script("PyTorch_CIFAR10/cifar10_download.py"), io.BytesIO()
    state = download.networks.NETWORKS["mobilenet_v2"]().state_dict()
    download.torch.save({key: value.half() if value.is_floating_point() else value for key, value in state.items()}, weights)
    with zipfile.ZipFile(directory / "w.zip", "w") as archive:
        archive.writestr("state_dicts/readme.txt", "hello")
        archive.writestr("state_dicts/mobilenet_v2.pt", weights.getvalue())


def read_zip(directory):
    (directory / "out").mkdir()
    script("PyTorch_CIFAR10/cifar10_download.py").unpack(directory / "w.zip", directory / "out")


SCORE = {"truth/gt/*.txt": text_of, "truth/seqinfo.ini": text_of, "truth/*.json": json_of, "truth/temporalROI.txt": text_of,
         "truth/ROI.bmp": bytes_of, "truth/groundtruth/*": bytes_of, "run/*.csv": text_of, "run/tracks.txt": text_of,
         "run/coco.json": json_of, "run/masks/*": bytes_of}  # fmt: skip
VIDEOS = {"mp4": "libx264", "mov": "mpeg4", "matroska": "libx264", "webm": "libvpx", "avi": "mpeg4", "mpegts": "libx264", "nut": "rawvideo",
          "flv": "libx264", "yuv4mpegpipe": "rawvideo", "mjpeg": "mjpeg"}  # fmt: skip
KINDS = {
    "settings": Kind(make_settings, {"s.toml": text_of, "z.png": bytes_of}, read_settings),
    **{f"truth, {name}": Kind(make_score(getattr(test_evaluate, f"write_{name}")), SCORE, read_score)
       for name in ("mot", "coco", "cdnet", "davis")},
    "results": Kind(make_results, {"run/*.csv": text_of, "run/crops/*": bytes_of, "run/masks/*": bytes_of}, read_run),
    "checkpoint": Kind(make_weights, {"w.pth.tar": zip_of}, read_weights("w.pth.tar")),
    "packed network": Kind(make_packed, {"w.xnor": packed_of}, read_weights("w.xnor")),
    "data set": Kind(make_images, {"test/*/*": bytes_of}, read_images),
    "weights to unpack": Kind(make_zip, {"w.zip": zip_of}, read_zip),
    "frames": Kind(make_frames, {"*": bytes_of}, read_frames),
    **{f"video, {name}": Kind(make_video(name, codec, "yuvj420p" if codec == "mjpeg" else "yuv420p"), {"*": bytes_of}, read_video)
       for name, codec in VIDEOS.items()},
}  # fmt: skip


# ---- Trying ----------------------------------------------------------------------------------------------------------
class Outcome(NamedTuple):
    code: int  # as subprocess has it: negative for a signal
    text: str  # what it said on stderr
    mebibytes: float  # that it took beyond what this process has

    def fault(self) -> str | None:
        """Return what is wrong with it; None if all is well."""
        lines = self.text.splitlines()
        if self.code not in (0, 2):
            return f"exit code {self.code}: {lines[-1][:200] if lines else ''}"
        wrong = len(lines) != 1 or ": error: " not in self.text if self.code else not all(re.search(NOTE, line) for line in lines)
        if wrong:
            return f"exit code {self.code} with {len(lines)} lines: {self.text[:200]!r}"
        return f"took {self.mebibytes:.0f} MiB" if self.mebibytes > MEBIBYTES else None


def attempt(read: Callable[[], object]) -> Outcome:
    """Return what becomes of `read()` in a process like a script's."""
    with tempfile.TemporaryFile() as said:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        child = os.fork()
        if not child:
            os._exit(_child(read, said.fileno()))
        _, status, used = os.wait4(child, 0)
        said.seek(0)
        return Outcome(os.waitstatus_to_exitcode(status), said.read().decode(errors="replace"), (used.ru_maxrss - before) / 1024)


def _child(read: Callable[[], object], said: int) -> int:
    faulthandler.disable()  # pytest's writes past what is caught
    os.dup2(said, 2)
    os.dup2(os.open(os.devnull, os.O_RDWR), 1)
    sys.stderr = open(2, "w", 1, errors="backslashreplace", closefd=False)  # a test's may be another
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    signal.alarm(20 * SECONDS)
    try:
        run(read)
        return 0
    except SystemExit as end:
        return int(end.code or 0)
    except BaseException:
        traceback.print_exc()
        return 1


def damaged(kind: Kind, good: Path, directory: Path, rng: Random) -> Path:
    """Return the file of `directory`, a copy of the good one, that was changed."""
    files = sorted((path, damage) for pattern, damage in kind.damage.items() for path in good.glob(pattern) if path.is_file())
    path, damage = rng.choice(files)
    target = directory / path.relative_to(good)
    target.write_bytes(damage(path.read_bytes(), rng))
    return target


WITH_TORCH = "checkpoint", "packed network", "data set", "weights to unpack"  # kinds; loading PyTorch takes seconds, so they share it


def apart(work: Callable[[], object]) -> object:
    """Return what `work()` returned in a process of its own: what a kind loads, such as PyTorch, makes no later fork slow."""
    source, sink = os.pipe()
    if not os.fork():
        with open(sink, "wb") as file:
            pickle.dump(work(), file)
        os._exit(0)
    os.close(sink)
    with open(source, "rb") as file:
        result = pickle.load(file)
    os.wait()
    return result


def try_kind(name: str, args: argparse.Namespace) -> tuple[Counter, list[str]]:
    """Return how often each outcome was seen in `args.count` damaged files of a kind, and a line for each that was mishandled."""
    kind, outcomes, faults = KINDS[name], Counter(), []
    with tempfile.TemporaryDirectory() as place:
        good = Path(place, "good")
        good.mkdir()
        kind.make(good)
        kind.read(good)  # once here: what it imports is there for the forks
        for number in range(args.count):
            directory, rng = Path(place, str(number)), Random(f"{args.seed} {name} {number}")
            shutil.copytree(good, directory, ignore=shutil.ignore_patterns("out"))
            target = damaged(kind, good, directory, rng)
            outcome = attempt(lambda directory=directory: kind.read(directory))
            if fault := outcome.fault():
                outcomes["mishandled"] += 1
                faults.append(f"{name} {number}, {target.relative_to(directory)}: {fault}")
                shutil.copytree(directory, args.keep / f"{name} {number}", dirs_exist_ok=True)
            else:
                outcomes["refused" if outcome.code else "read"] += 1
            shutil.rmtree(directory)
    return outcomes, faults


def main(argv: list[str] | None = None) -> int:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=200, metavar="N", help="files of each kind")
    parser.add_argument("--seed", type=int, default=1, help="of the damage")
    parser.add_argument("--kind", nargs="+", choices=list(KINDS), default=list(KINDS), metavar="KIND", help="of: " + "; ".join(KINDS))
    parser.add_argument("--keep", type=Path, default=Path("out/fuzz"), metavar="DIR", help="for what was mishandled")
    args = parser.parse_args(argv)
    cv2.setNumThreads(0)
    rows, all_faults, start = [], [], time.monotonic()
    with_torch = [name for name in args.kind if name in WITH_TORCH]
    for names in (*([name] for name in args.kind if name not in WITH_TORCH), with_torch):
        for name, outcomes, faults in apart(lambda names=names: [(each, *try_kind(each, args)) for each in names]):
            rows.append([name, *(outcomes[key] for key in ("read", "refused", "mishandled"))])
            all_faults += faults
            print(name, dict(outcomes), *faults, sep="\n  ", flush=True)
    rows.append(["all", *map(sum, zip(*(row[1:] for row in rows), strict=True))])
    print(tabulate(rows, ["kind", "read", "refused", "mishandled"]))
    print(f"seed {args.seed}, {time.monotonic() - start:.0f} s")
    return int(bool(all_faults))


if __name__ == "__main__":
    run(lambda: sys.exit(main()))
