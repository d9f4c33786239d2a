"""Prints what watching a clip costs on one core: frames per second, start-up, memory, and the time per stage.

    python benchmarks/watch.py [CLIP] [--network FILE] [--runs 5] [--serve]

Without CLIP one is drawn: 640x360, 600 frames, four objects before a camera that pans and shakes. Each row is the command
`python3 -m util.watch` as a person calls it, pinned to one core; by turns with it, in the same process, OpenCV's MOG2 on the same
frames, which finds what moves before a still camera and names nothing. Medians, lowest and highest of the runs. --serve: also with a
live page, at which nobody looks, and at which one does, from another core where there is one.
"""
import contextlib
import http.client
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import cv2
from tabulate import tabulate

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from benchmarks.machine import cpu_name, memory  # noqa: E402
from tests.servers import free_port  # noqa: E402
from util.cli import Parser, at_least, run  # noqa: E402
from util.errors import InputError  # noqa: E402
from util.outputs.pictures import VideoWriter  # noqa: E402
from util.score.scenes import Mover, Scene, camera_path, digit_sprite, texture  # noqa: E402
from util.source.video import open_video  # noqa: E402
from util.watch import NETWORK  # noqa: E402

WIDTH, HEIGHT, FRAMES = 640, 360, 600
FIRST, PLAIN, SAVED, RIVAL = "first frame", "watch", "watch --save, all files", "MOG2 alone"


def draw(path: Path) -> None:
    """Write the clip: four objects that cross the picture, forth and back, before a camera that pans and shakes."""
    poses = camera_path(FRAMES, start=(150, 150), pan=(0.8, 0.2), shake=0.5, seed=1)

    def way(i):
        return lambda t: (260 + 0.8 * t + 180 * (((t / 100 + i / 2) % 2) - 1) * (1 if (t // 200 + i) % 2 else -1), 200 + 0.2 * t + 80 * i)

    movers = [Mover(digit_sprite(digit, seed=digit, size=56), way(i)) for i, digit in enumerate((3, 7, 8, 5))]
    with VideoWriter(path, 25, (WIDTH, HEIGHT)) as writer:
        for frame in Scene(WIDTH, HEIGHT, texture(WIDTH + 800, HEIGHT + 500, seed=2), poses, movers, noise=2, seed=3):
            writer.write(frame.image)


def command(clip: Path, network: Path, directory: Path, *more: str) -> tuple[float, float, str]:
    """Return (seconds, peak MiB, what it printed) of one call of the command, in a directory of its own."""
    with tempfile.TemporaryDirectory(dir=directory) as here:
        arguments = [sys.executable, "-m", "util.watch", str(clip), "--network", str(network), *more]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        start = time.perf_counter()
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        process, peak = subprocess.Popen(arguments, cwd=here, env=environment, **pipes), 0.0
        while process.poll() is None:
            peak = max(peak, memory(process.pid, "VmHWM"))  # not rusage, which begins with what this process held when it forked
            time.sleep(0.02)
        seconds = time.perf_counter() - start
    if process.returncode:
        raise InputError(f"{clip}: {process.stderr.read().strip()}")
    return seconds, peak, process.stdout.read()


def with_page(clip: Path, network: Path, directory: Path, looking: bool) -> tuple[float, float, str]:
    """Return what command() does with a live page, of which a thread asks for one picture after the other if somebody is looking."""
    port, done = free_port(), threading.Event()

    def look():
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, range(os.cpu_count()))
        after = ""
        while not done.is_set():
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/picture.jpg?after={after}", timeout=10) as answer:
                    after = answer.headers.get("X-Frame", after)
            except (OSError, http.client.HTTPException):  # before its start and at its end
                done.wait(0.05)

    thread = threading.Thread(target=look, daemon=True)
    if looking:
        thread.start()
    try:
        return command(clip, network, directory, "--serve", str(port))
    finally:
        done.set()


@contextlib.contextmanager
def one_core() -> Iterator[None]:
    """Keep this process, and those it starts, on one core."""
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_setaffinity") else None
    try:
        if cores:
            os.sched_setaffinity(0, {max(cores)})
        yield
    finally:
        if cores:
            os.sched_setaffinity(0, cores)


def mog2(clip: Path) -> float:
    """Return seconds to decode the clip and subtract its background with OpenCV's MOG2."""
    subtractor = cv2.createBackgroundSubtractorMOG2()
    start = time.perf_counter()
    for frame in open_video(clip):
        subtractor.apply(frame)
    return time.perf_counter() - start


def measure(clip: Path, args, directory: Path) -> dict[str, list[tuple[float, float, str]]]:
    """Return row -> what command() returned for each of the runs, which are done by turns; of MOG2 the seconds alone are known."""
    watch = partial(command, clip, args.network, directory)
    kinds = {FIRST: partial(watch, "--limit", "1"), PLAIN: watch, SAVED: partial(watch, "--save", "out")}
    if args.serve:
        page = partial(with_page, clip, args.network, directory)
        kinds |= {"watch --serve, nobody looks": partial(page, False), "watch --serve, one looks": partial(page, True)}
    kinds[RIVAL] = lambda: (mog2(clip), 0.0, "")
    found = {name: [] for name in kinds}
    for _ in range(args.runs):
        for name, run_once in kinds.items():
            found[name].append(run_once())
    return found


def main(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("clip", nargs="?", type=Path, help="a video (default: one is drawn)")
    parser.add_argument("--network", type=Path, default=NETWORK, help="packed network")
    parser.add_argument("--runs", type=at_least(1), default=5, help="of everything")
    parser.add_argument("--serve", action="store_true", help="also with a live page")
    args = parser.parse_args(argv)
    with one_core(), tempfile.TemporaryDirectory() as directory:
        clip = args.clip and args.clip.resolve() or Path(directory) / "clip.mp4"
        if not args.clip:
            draw(clip)
        frames = sum(1 for _ in open_video(clip))
        found = measure(clip, args, Path(directory))
    first = found.pop(FIRST)
    start, rows = statistics.median(seconds for seconds, *_ in first), []
    rival = statistics.median(seconds for seconds, *_ in found[RIVAL])
    for name, runs in found.items():
        ms = sorted(1000 * (seconds - start * (name != RIVAL)) / frames for seconds, *_ in runs)
        median = statistics.median(ms)
        rows.append([name, f"{median:.2f}", f"{ms[0]:.2f}-{ms[-1]:.2f}", f"{1000 / median:.0f}", f"{median * frames / rival / 1000:.2f}"])
    print(f"{clip.name}: {frames} frames, {args.network.name}, one core of {cpu_name()}, {args.runs} runs")
    heads = ["", "ms per frame", "lowest-highest", "frames/s", "times MOG2's"]
    print(tabulate(rows, heads, disable_numparse=True, colalign=["left"] + ["right"] * 4))
    print(f"first frame done {start:.2f} s after the command started ({min(first)[0]:.2f}-{max(first)[0]:.2f})")
    plain, saved = (max(peak for _, peak, _ in found[name]) for name in (PLAIN, SAVED))
    print(f"memory at its highest: {plain:.0f} MiB, with all files {saved:.0f} MiB")
    for name in (PLAIN, SAVED):
        print(next(line for line in found[name][-1][2].splitlines() if line.startswith("ms per frame")))


if __name__ == "__main__":
    run(main)
