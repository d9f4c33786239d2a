"""Draws the pictures of docs/tuning.md from a rendered scene: all views at once, and what parameters do to them.

    python benchmarks/tuning.py DIR        writes DIR/debug_views.jpg and DIR/tuning.jpg; those of the page are in docs
"""

import sys
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import fastmcd  # noqa: E402
from util.cli import Parser  # noqa: E402
from util.cli import run as run_script  # noqa: E402
from util.files import atomic_write  # noqa: E402
from util.outputs.debug import DebugView, dim, tile, with_boxes  # noqa: E402
from util.score.scenes import Mover, Scene, camera_path, digit_sprite, texture  # noqa: E402

WIDTH, HEIGHT, FRAMES = 320, 240, 78
STOP = 45  # frame in which one of the objects stops


def scene() -> Scene:
    """A panning, trembling camera; two light digits side by side, one nearly as dark as the ground, one that stops."""
    pan = np.array([1.6, 0.4])
    poses = camera_path(FRAMES, (60, 60), tuple(pan), shake=0.6, seed=2)

    def mover(digit, grey, size, x, y, dx, dy=0.0, stop=FRAMES):
        path = [np.add((60 + x, 60 + y), min(t, stop) * np.add(pan, (dx, dy))) for t in range(FRAMES)]
        return Mover(digit_sprite(digit, 1, size, (grey,) * 3, pen=(0.2, 0.24)), lambda t: tuple(path[t]))

    movers = [mover(5, 225, 70, 20, 60, 2.2), mover(8, 235, 70, 78, 62, 2.2), mover(3, 118, 80, 380, 175, -2.6),
              mover(2, 30, 60, 60, 180, 2.4, stop=STOP)]  # fmt: skip
    return Scene(WIDTH, HEIGHT, texture(700, 420, 5), poses, movers, noise=4)


def run(frames: list, until: int, **params) -> tuple[fastmcd.Result, np.ndarray]:
    """Result and debug picture of the last frame before `until`."""
    detector = fastmcd.Detector(WIDTH, HEIGHT, **params)
    results = [detector.detect(frame.image) for frame in frames[:until]]
    view = DebugView(detector)
    view.number = until - 1
    return results[-1], view.frame(frames[until - 1].image, results[-1])


def rows(frames: list) -> list[np.ndarray]:
    """One row of views per parameter: from low to high."""
    out = []
    for name, values, until in (("threshold", (1, 3.5, 30), 46), ("closing", (0, 0.02, 0.1), 46), ("max_age", (10, 30, 250), FRAMES)):
        views = []
        for value in values:
            result = run(frames, until, **{name: value})[0]
            frame = frames[until - 1].image
            picture = with_boxes(frame, result) if name == "closing" else dim(frame, result.mask)
            views.append(tile(f"{name} {value:g}", picture))
        out.append(np.hstack(views))
    return out


def save(path: Path, picture: np.ndarray) -> None:
    with atomic_write(path) as temporary:
        cv2.imwrite(str(temporary), picture, [cv2.IMWRITE_JPEG_QUALITY, 88])
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path, metavar="DIR", help="where debug_views.jpg and tuning.jpg are written")
    directory = parser.parse_args(argv).directory
    directory.mkdir(parents=True, exist_ok=True)
    cv2.setNumThreads(1)
    frames = list(scene())
    save(directory / "debug_views.jpg", run(frames, 46)[1])
    save(directory / "tuning.jpg", np.vstack(rows(frames)))


if __name__ == "__main__":
    run_script(main)
