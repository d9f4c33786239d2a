"""Prints the memory of `python3 -m util.watch` every 5,000 frames of a source that goes on and on. Linux only.

    python benchmarks/soak.py                          a live source: an MJPEG server on loopback
    python benchmarks/soak.py --source stdin           a pipe, of which no frame is ever dropped
    python benchmarks/soak.py --save OUT --plot P.png  everything the pipeline writes, into OUT; a picture of the table
    python benchmarks/soak.py --size 96x72             smaller frames, more of them in an hour

The clip: 400 synthetic frames, forth and back, in which digits cross a ground that the camera pans over. Memory is what the process
holds (RSS); the part in files it has mapped, such as libraries, is not counted. Printed at the end: the growth per 100,000 frames
after the first 20,000, a least-squares line.
"""
import os
import subprocess
import sys
import tempfile
import threading
import time
from itertools import cycle
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from benchmarks.machine import memory  # noqa: E402
from tests.servers import jpeg_part, serve_stream  # noqa: E402
from util.cli import Parser, run  # noqa: E402
from util.score.scenes import Mover, Scene, camera_path, digit_sprite, texture  # noqa: E402
from util.watch import NETWORK  # noqa: E402

PERIOD = 400  # frames
START = 20000  # frames after which memory should not grow


def clip(size):
    """Return PERIOD frames, BGR uint8, of a moving camera with three objects that come and go; size: (width, height)."""
    poses = camera_path(PERIOD, start=(150, 150), pan=(0.4, 0.1), shake=0.4, seed=1)
    movers = [Mover(digit_sprite(digit, seed=digit, size=24), lambda t, i=i: (100 + 1.3 * t - 90 * i, 150 + size[1] * (2 + i) / 6))
              for i, digit in enumerate((3, 7, 8))]  # fmt: skip
    return [frame.image for frame in Scene(*size, texture(900, 500, seed=2), poses, movers)]


class Feed:
    """Sends frames at most `rate` a second, and counts them."""

    def __init__(self, frames, rate):
        self.frames, self.rate, self.sent, self.stopped = frames, rate, 0, threading.Event()

    def encoded(self, encode):
        start, parts = time.monotonic(), [encode(frame) for frame in self.frames]
        for part in cycle([*parts, *reversed(parts)]):  # forth and back, without a jump
            if self.stopped.wait(max(0.0, start + self.sent / self.rate - time.monotonic())):
                return
            self.sent += 1
            yield part


def as_y4m(frame):
    return b"FRAME\n" + cv2.cvtColor(frame, cv2.COLOR_BGR2YUV_I420).tobytes()


def fill(pipe, feed, count):
    """Write `count` frames as y4m into `pipe`, and close it."""
    try:
        with pipe:
            pipe.write(b"YUV4MPEG2 W%d H%d F25:1 C420jpeg\n" % feed.frames[0].shape[1::-1])
            for part in feed.encoded(as_y4m):
                pipe.write(part)
                if feed.sent == count:
                    return
    except BrokenPipeError:  # the program ended early; its message says why
        pass


def watch(process, feed, every):
    """Print and return rows (frames sent, seconds, MiB), one each `every` frames, until the process ends."""
    rows, start = [], time.monotonic()
    print(f"{'frames sent':>12}{'seconds':>9}{'MiB':>9}", flush=True)
    while process.poll() is None:
        if feed.sent >= every * (len(rows) + 1) and (held := memory(process.pid, "RssAnon")):
            rows.append((feed.sent, time.monotonic() - start, held))
            print(f"{rows[-1][0]:>12}{rows[-1][1]:>9.0f}{held:>9.1f}", flush=True)
        time.sleep(0.02)
    return rows


def measure(args, feed):
    """Return the rows of `watch` for the program over the feed, and its exit code."""
    with tempfile.TemporaryDirectory() as directory, serve_stream(lambda: feed.encoded(jpeg_part)) as port:
        source = "-" if args.source == "stdin" else f"http://127.0.0.1:{port}/"
        command = [sys.executable, "-m", "util.watch", source, "--network", args.network.resolve(), "--limit", str(args.frames)]
        command += [*args.options, *(["--save", args.save.resolve()] if args.save else [])]
        process = subprocess.Popen(command, stdin=subprocess.PIPE if source == "-" else None, cwd=directory,
                                   env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)})  # fmt: skip
        try:
            if source == "-":
                threading.Thread(target=fill, args=(process.stdin, feed, args.frames), daemon=True).start()
            rows = watch(process, feed, args.every)
        finally:
            feed.stopped.set()
            process.terminate()
            code = process.wait()
    return rows, code


def plot(rows, path):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.add_subplot(xlabel="frames sent", ylabel="MiB", title="Memory of python3 -m util.watch")
    axes.plot([row[0] for row in rows], [row[2] for row in rows], marker="o")
    axes.set_ylim(0)
    figure.savefig(path)


def size_of(text):
    """Return (width, height) of a text such as 160x120."""
    width, height = map(int, text.split("x"))
    if width % 2 or height % 2:
        raise ValueError
    return width, height


def main():
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", choices=["live", "stdin"], default="live", help="an HTTP stream, or a pipe")
    parser.add_argument("--frames", type=int, default=50000, help="that the program reads before it ends")
    parser.add_argument("--every", type=int, default=5000, help="frames between two lines")
    parser.add_argument("--rate", type=float, default=200, help="frames per second, at most")
    parser.add_argument("--size", type=size_of, default="160x120", help="of the frames, two even numbers")
    parser.add_argument("--network", type=Path, default=NETWORK, help="packed")
    parser.add_argument("--save", type=Path, help="directory for all that the program writes")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="write a picture")
    parser.add_argument("options", nargs="*", help="further options of the program, after --")
    args = parser.parse_args()
    feed = Feed(clip(args.size), args.rate)
    rows, code = measure(args, feed)
    print(f"{feed.sent} frames sent; the program ended with {code}")
    later = np.array([(sent, held) for sent, _, held in rows if START <= sent < args.frames])  # not the tidying up
    if len(later) > 1:
        print(f"growth after {START} frames: {1e5 * np.polyfit(*later.T, 1)[0]:+.2f} MiB per 100,000 frames")
    if args.plot and rows:
        plot(rows, args.plot)
    sys.exit(code)


if __name__ == "__main__":
    run(main)
