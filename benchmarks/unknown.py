"""Prints how sure a network has to be of a name: its temperature, the threshold of `unknown`, and what passes it falsely.

    python benchmarks/unknown.py [--arch ARCH]... [--keep 0.98] [--empty CLIP]...

Temperature: least negative log-likelihood on held-out training images, those that picked the epoch, prepared as crops are; ECE
(15 bins) before and after.
unknown below: --keep of the rightly named held-out images stay above it. Then the share of images that keep a name though they
show none of the classes: textures, CIFAR-10's or MNIST's images for the other's networks, and windows cut at random out of each
--empty clip (nothing in it may be one of the classes).
"""
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import minimize_scalar

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
import cv2  # noqa: E402

from tests.scripts import load_script  # noqa: E402
from util import checkpoint, data, xnor  # noqa: E402
from util.cli import Parser, run  # noqa: E402
from util.clips import scores  # noqa: E402
from util.clips.evidence import softmax  # noqa: E402
from util.clips.scenes import texture  # noqa: E402
from util.clips.video import open_video  # noqa: E402

BINS = 15
COUNT = 500  # images of each kind that shows none of the classes


# ---- Calibration -----------------------------------------------------------------------------------------------------
def loss(logits: np.ndarray, labels: np.ndarray, temperature: float) -> float:
    """Mean negative log-likelihood of the labels (N,) under softmax(logits / temperature), logits (N, classes)."""
    return -np.log(softmax(logits / temperature)[np.arange(len(labels)), labels] + 1e-300).mean()


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature in 0.05..20 of the least loss."""
    best = minimize_scalar(lambda log: loss(logits, labels, np.exp(log)), bounds=np.log([0.05, 20]), method="bounded")
    return float(np.exp(best.x))


def calibration_error(p: np.ndarray, labels: np.ndarray) -> float:
    """Expected calibration error in 0..1 of probabilities (N, classes): of the sureness of the best one."""
    return scores.calibration_error(p.max(1), p.argmax(1) == labels, bins=BINS)


def threshold(p: np.ndarray, labels: np.ndarray, keep: float) -> float:
    """The probability that `keep` of the rightly named have at least."""
    return float(np.quantile(p.max(1)[p.argmax(1) == labels], 1 - keep))


# ---- Images ----------------------------------------------------------------------------------------------------------
def windows(clip: Path, count: int = COUNT) -> list[np.ndarray]:
    """RGB squares of 32 px up to half the frame, cut at random out of up to 50 frames."""
    numbers, video = np.random.default_rng(0), open_video(str(clip))
    frames = [frame for i, frame in enumerate(islice(video, 500)) if i % 10 == 0]
    out = []
    for i in range(count):
        side = int(numbers.integers(32, max(33, min(video.width, video.height) // 2)))
        x, y = int(numbers.integers(0, video.width - side + 1)), int(numbers.integers(0, video.height - side + 1))
        out.append(np.ascontiguousarray(frames[i % len(frames)][y : y + side, x : x + side, ::-1]))
    return out


def textures(count: int = COUNT) -> list[np.ndarray]:
    """RGB made textures, 64 px."""
    grounds = (texture(64, 64, seed=seed) for seed in range(count))
    return [cv2.cvtColor(g, cv2.COLOR_GRAY2RGB) if g.ndim == 2 else np.ascontiguousarray(g[..., ::-1]) for g in grounds]


def pictures(script, count: int = COUNT) -> list[np.ndarray]:
    """RGB images of another script's test set."""
    return as_crops(script.load_data(script.parse_args(["--limit", str(count)]), train=False)[0])


def as_crops(images: torch.Tensor) -> list[np.ndarray]:
    """RGB (H, W, 3) each of uint8 images (N, C, H, W)."""
    return [np.ascontiguousarray(np.broadcast_to(i.permute(1, 2, 0).numpy(), (*i.shape[1:], 3))) for i in images]


# ---- Networks --------------------------------------------------------------------------------------------------------
def network(script, arch: str):
    """A function from uint8 images (N, C, H, W) to logits, float64 (N, classes): the weights that ship, packed."""
    model = script.MODELS[arch]().eval()
    checkpoint.load_into(model, script.HERE / "models" / f"{arch}.best.pth.tar", arch)
    answer = xnor.freeze(model, script.SHAPE, script.MEAN, script.STD, arch).eval()

    @torch.no_grad()
    def logits(images):
        return torch.cat([answer(part) for part in images.split(128)]).double().numpy()

    return logits


def report(script, arch: str, args, foreign: dict) -> None:
    """Print one network's lines; `foreign`: kind -> crops that show none of the classes."""
    logits = network(script, arch)
    images, labels = script.load_data(script.parse_args([]), train=True)
    _, held_out = data.hold_out(script.HELD_OUT, len(images))
    z, y = logits(script.to_images(as_crops(images[held_out]))), labels[held_out].numpy()
    temperature = fit_temperature(z, y)
    p = softmax(z / temperature)
    below = threshold(p, y, args.keep)
    before, after = calibration_error(softmax(z), y), calibration_error(p, y)
    wrong = (p.max(1) >= below)[p.argmax(1) != y].mean()
    print(f"{arch}: temperature {temperature:.2f}, unknown below {below:.2f}")
    print(f"  held-out: {(p.argmax(1) == y).mean():.1%} right, ECE {before:.3f} before, {after:.3f} after, NLL {loss(z, y, 1):.3f}", end="")
    print(f" -> {loss(z, y, temperature):.3f}; wrong ones that keep their name {wrong:.1%}")
    for kind, crops in foreign.items():
        sure = softmax(logits(script.to_images(crops)) / temperature).max(1)
        print(f"  false names, {kind}: {(sure >= below).mean():.1%} of {len(crops)}", flush=True)


def parse_args(argv, archs):
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", action="append", choices=archs, help="network; may be repeated (default: all)")
    parser.add_argument("--keep", type=float, default=0.98, help="share of rightly named images that keep their name (default: 0.98)")
    parser.add_argument("--empty", action="append", default=[], type=Path, metavar="CLIP", help="clips with none of the classes in view")
    args = parser.parse_args(argv)
    if not 0 < args.keep < 1:
        parser.error(f"--keep is {args.keep}; give a share between 0 and 1")
    args.arch = args.arch or archs
    return args


def main(argv=None):
    cifar, mnist = load_script("CIFAR_10/main.py"), load_script("MNIST/main.py")
    args = parse_args(argv, [*cifar.CALIBRATION, *mnist.CALIBRATION])
    torch.set_num_threads(1)
    common = {"textures": textures(), **{f"windows of {clip}": windows(clip) for clip in args.empty}}
    for script, kind, other in ((cifar, "MNIST's digits", mnist), (mnist, "CIFAR-10's images", cifar)):
        archs = [arch for arch in args.arch if arch in script.MODELS]
        if archs:
            foreign = {kind: pictures(other), **common}
            for arch in archs:
                report(script, arch, args, foreign)


if __name__ == "__main__":
    run(main)
