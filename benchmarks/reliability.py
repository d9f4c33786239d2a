"""Kills, failures and interrupts at each file operation of a run that replaces earlier results: is one whole result there, always?

    python3 benchmarks/reliability.py                       # every operation, each way of ending: some minutes
    python3 benchmarks/reliability.py --every 7             # every seventh
    python3 benchmarks/reliability.py --real CLIP --kills 20    # the command itself, killed at random moments

A run of three frames writes all files of `--video --save` over those of an earlier run. At its n-th file operation it is killed
(SIGKILL), or that operation fails (ENOSPC), or Ctrl-C comes. Then OUT has to hold the earlier results or the new ones, each file whole
and as its manifest says (after Ctrl-C the new ones may be shorter), and the next run has to succeed and to leave nothing beside. The
same is done where OUT is not there before. Prints a line for each way, and exits with 1 if anything was mishandled.
"""
import argparse
import csv
import errno
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import cv2  # noqa: E402

from util.errors import InputError  # noqa: E402
from util.outputs import manifest, staging  # noqa: E402
from util.outputs.sinks import open_sinks  # noqa: E402
from util.track.places import Places  # noqa: E402
from util.track.tracking import Moment, Sighting, Track  # noqa: E402

FRAMES, SIZE = 3, (64, 48)
WATCHED = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.link", "os.utime", "os.truncate", "os.scandir", "fcntl.flock"}


# ---- A run whose every file tells which run it was
def moment(number: int, mark: int) -> Moment:
    frame = np.full((SIZE[1], SIZE[0], 3), mark, np.uint8)
    box = (4 * number, 8, 16, 12)
    mask, boxes = np.full(frame.shape[:2], 255, np.uint8), np.array([box])
    result = SimpleNamespace(boxes=boxes, crops=boxes, scores=np.array([0.5]), mask=mask)
    ended = [Track(number, "cat", 0.9, 1, number, 0.0, 0.1 * number, 5, frame[:20, :20].copy(), 1, box)]
    return Moment(number, number / 25, frame, result, [Sighting(box, box, 0.5, 1, "cat", mark / 1000)], ended)


def run(out: Path, mark: int) -> None:
    video = SimpleNamespace(name="clip", fps=25.0, width=SIZE[0], height=SIZE[1], live=False, time_of=lambda seconds: None)
    with open_sinks(SimpleNamespace(save=out, video="clip", show_debug=False), video, ["cat"], None, Places()) as sinks:
        try:
            for number in range(1, FRAMES + 1):
                sinks.add(moment(number, mark))
        finally:
            sinks.finish([], SimpleNamespace(ms=dict))
        sinks.summarize(mark=mark)


def contents(out: Path) -> tuple[dict[str, int], list[str], set[int]]:
    """Return how much each file of some results holds, the names of the crops, and the marks of the runs in predictions.csv."""
    with open(out / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    with open(out / "detections.csv", newline="") as file:
        crops = [row["crop"] for row in csv.DictReader(file)]
    capture = cv2.VideoCapture(str(out / "annotated.mp4"))
    lengths = {
        "predictions.csv": len(rows),
        "detections.csv": len(crops),
        "coco.json": len(json.loads((out / "coco.json").read_text())),
        "tracks.txt": (out / "tracks.txt").read_text().count("\n"),
        "events.jsonl": (out / "events.jsonl").read_text().count("\n"),
        "annotated.mp4": sum(1 for _ in iter(lambda: capture.read()[0], False)),
    }
    return lengths, crops, {round(1000 * float(row["probability"])) for row in rows}


def check(out: Path, marks: set[int], way: str) -> str:
    """Return what is wrong with the results in `out`, "" if nothing: whole, and of one of the runs `marks` alone.

    After Ctrl-C they may be shorter; after an error the last frame may be missing in some of the files, in the video the last
    fragment, and the report.
    """
    try:
        manifest.refuse_foreign(out, changed=True)
        names, (lengths, crops, found) = set(manifest.recorded(out)), contents(out)
        frames, video = len(crops), lengths["annotated.mp4"]
        lengths["annotated.mp4"] = frames if way == "error" and video <= frames else video
        if len(found | marks) > len(marks) or len(found) > 1:
            return f"holds runs {found}"
        if set(lengths.values()) - {frames, frames - (way == "error")} or (frames != FRAMES and way == "kill") or not frames:
            return f"lengths differ: {lengths}"
        if (out / "summary.json").exists() and {json.loads((out / "summary.json").read_text())["mark"]} != found:
            return "summary.json is of another run"
        masks = [f"masks/{number:06d}.png" for number in range(1, frames + 1)]
        for name in (*crops, *masks, *(f"cdnet/bin{number:06d}.png" for number in range(1, lengths["predictions.csv"] + 1))):
            image = cv2.imread(str(out / name), cv2.IMREAD_UNCHANGED)
            if name not in names or image is None or image.flat[0] not in (marks if name in crops else {255}):
                return f"{name} is not whole"
        if way == "error" and not (out / "report.html").exists():  # the error was the report's own
            return ""
        return "" if (out / "report.html").read_text().rstrip().endswith("</html>") else "report.html is not whole"
    except (OSError, ValueError, KeyError, InputError) as error:
        return f"{type(error).__name__}: {error}"


# ---- Ends at the n-th operation
def end_at(number: int, way: str) -> list[int]:
    """Let this process end at its `number`-th file operation from now on; return a list that gets that number."""
    count, reached = 0, []

    def operation(event: str, arguments=()) -> None:
        nonlocal count
        if event in WATCHED:
            count += 1
            if count == number:
                reached.append(number)
                if way == "error":
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), event)
                os.kill(os.getpid(), signal.SIGKILL if way == "kill" else signal.SIGINT)

    def counted(function):
        def call(*arguments):
            operation("open")
            return function(*arguments)

        return call

    os.write = counted(os.write)
    staging.exchange = counted(staging.exchange)
    sys.addaudithook(operation)
    return reached


def in_child(out: Path, mark: int, number: int = 0, way: str = "") -> int:
    """Return how a run in a process of its own ended: 0 well, 3 well before that operation, 2 with one line, 1 with another exception."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        reached = end_at(number, way) if way else [0]
        run(out, mark)
        code = 0 if reached else 3
    except (OSError, InputError, KeyboardInterrupt):
        code = 2
    finally:
        os._exit(code)


def attack(folder: Path, way: str, earlier: bool, first: int, every: int) -> tuple[int, list[str]]:
    """Return how often a run was ended, and what was mishandled."""
    out, count, wrong, marks = folder / "out", 0, [], itertools.cycle(range(1, 250))
    there = next(marks)
    for number in range(first, 10**6, every):
        if earlier and not out.exists():
            in_child(out, there)
        mark, following = next(marks), next(marks)
        code = in_child(out, mark, number, way)
        if code == 3:
            return count, wrong
        count += 1
        problem = check(out, {mark, there} if earlier else {mark}, way) if out.exists() else "nothing is there" * earlier
        if code == 1:
            problem = problem or "another exception than that"
        if not earlier:
            shutil.rmtree(out, ignore_errors=True)
        if in_child(out, following) != 0:
            problem = problem or "the next run did not succeed"
        if beside := sorted(path.name for path in folder.iterdir() if path != out):
            problem = problem or f"the next run left {beside}"
        if problem:
            wrong.append(f"{way} at operation {number}, {'over earlier results' if earlier else 'nothing there before'}: {problem}")
        if problem or not earlier:
            shutil.rmtree(out, ignore_errors=True)
        there = following


def attack_command(clip: str, kills: int, seed: int) -> tuple[int, list[str]]:
    """The same for the command itself, killed at random moments, over its own earlier results; of these, files and sizes are compared."""
    rng, wrong = random.Random(seed), []
    root = Path(__file__).resolve().parent.parent
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "out")
        command = [sys.executable, str(root / "MNIST/main.py"), "--cpu", "--video", clip, "--save", str(out)]
        start = time.monotonic()
        subprocess.run(command, check=True, capture_output=True)
        lasts = time.monotonic() - start
        for number in range(kills):
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(rng.uniform(0.3, 1.1) * lasts)
            process.send_signal(rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT]))
            code = process.wait()
            try:
                manifest.refuse_foreign(out, changed=True)
                missing = [name for name in manifest.recorded(out) if not name.endswith("/") and not (out / name).exists()]
                problem = f"{missing[:3]} missing" * bool(missing) or "no summary" * (code == -9 and not (out / "summary.json").exists())
            except InputError as error:
                problem = str(error)
            if problem:
                wrong.append(f"kill {number}: {problem}")
        if subprocess.run(command, capture_output=True).returncode or [path.name for path in Path(folder).iterdir()] != ["out"]:
            wrong.append("the last run did not succeed, or left something beside")
    return kills, wrong


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--every", type=int, default=1, help="end at every N-th operation")
    parser.add_argument("--first", type=int, default=1, help="begin with this operation")
    parser.add_argument("--real", metavar="CLIP", help="kill the command on a clip instead")
    parser.add_argument("--kills", type=int, default=20, help="how often")
    parser.add_argument("--seed", type=int, default=1, help="of the random moments")
    args = parser.parse_args(argv)
    total, mishandled = 0, []
    if args.real:
        total, mishandled = attack_command(args.real, args.kills, args.seed)
    else:
        for way in ("kill", "error", "interrupt"):
            for earlier in (True, False):
                with tempfile.TemporaryDirectory() as folder:
                    start = time.monotonic()
                    count, wrong = attack(Path(folder), way, earlier, args.first, args.every)
                seconds = time.monotonic() - start
                where = "over earlier results" if earlier else "nothing before"
                print(f"{way:10} {where:22} {count:4} ends, {len(wrong)} mishandled, {seconds:.0f} s", flush=True)
                total, mishandled = total + count, mishandled + wrong
    print(*mishandled, f"{total} ends, {len(mishandled)} mishandled", sep="\n")
    return int(bool(mishandled))


if __name__ == "__main__":
    sys.exit(main())
