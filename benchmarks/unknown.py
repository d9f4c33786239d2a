"""Prints how sure a network has to be of a name: its temperature, the threshold of `unknown`, and what passes it falsely.

    python benchmarks/unknown.py [--arch ARCH]... [--keep 0.98] [--empty CLIP]...

A track is named by the mean of many views, so each image is classified as a track is: in 8 crops, each edge of which lies up to a
tenth of the image off, prepared as a clip's crops are.

Temperature: least negative log-likelihood of single views of held-out training images, those that picked the epoch; ECE (15 bins)
before and after. unknown below: --keep of the correctly named held-out images stay above it with their mean. Then the share of images
that keep a name though they show none of the classes: textures, CIFAR-10's or MNIST's images for the other's networks, and windows
cut at random out of each --empty clip (nothing in it may be one of the classes).
"""
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
import cv2  # noqa: E402

from tests.scripts import load_script  # noqa: E402
from util.cli import Parser, run  # noqa: E402
from util.crops import prepare  # noqa: E402
from util.packed.freeze import freeze  # noqa: E402
from util.score import metrics  # noqa: E402
from util.score.scenes import texture  # noqa: E402
from util.source.video import open_video  # noqa: E402
from util.spec import Network, Spec  # noqa: E402
from util.track.evidence import softmax  # noqa: E402
from util.train import checkpoint, data  # noqa: E402
from util.train.own import fit_temperature, threshold  # noqa: E402
from util.train.predict import TorchNetwork  # noqa: E402

BINS = 15
COUNT = 500  # images of each kind that shows none of the classes
LOOKS = 8  # at each image
OFF = 0.1  # how far an edge of a look may lie from the image's own, as a share of the side


# ---- Calibration -----------------------------------------------------------------------------------------------------
def calibration_error(p: np.ndarray, labels: np.ndarray) -> float:
    """Expected calibration error in 0..1 of probabilities (N, classes): of the sureness of the best one."""
    return metrics.calibration_error(p.max(1), p.argmax(1) == labels, bins=BINS)


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
    """Return RGB synthetic textures, 64 px."""
    return [np.ascontiguousarray(texture(64, 64, seed=seed)[..., ::-1]) for seed in range(count)]


def pictures(script, count: int = COUNT) -> list[np.ndarray]:
    """RGB images of another script's test set."""
    return as_crops(script.load_data(script.parse_args(["--limit", str(count)]), train=False)[0])


def as_crops(images: torch.Tensor) -> list[np.ndarray]:
    """RGB (H, W, 3) each of uint8 images (N, C, H, W)."""
    return [np.ascontiguousarray(np.broadcast_to(i.permute(1, 2, 0).numpy(), (*i.shape[1:], 3))) for i in images]


def looks(images: list[np.ndarray]) -> list[np.ndarray]:
    """LOOKS crops of each RGB image, one after the other, of its size; what lies outside the image is mirrored from inside."""
    numbers, out = np.random.default_rng(0), []
    for image in images:
        height, width = image.shape[:2]
        for left, top, right, bottom in numbers.uniform(-OFF, OFF, (LOOKS, 4)):
            back = np.array([[1 - left - right, 0, left * width], [0, 1 - top - bottom, top * height]], np.float32)
            out.append(cv2.warpAffine(image, back, (width, height), flags=cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REFLECT_101))
    return out


# ---- Networks --------------------------------------------------------------------------------------------------------
def specs_of(script) -> dict[str, Spec]:
    """The networks of a script whose weights ship."""
    if hasattr(script, "networks"):
        return {arch: script.spec_of(arch, script.STD) for arch in script.CALIBRATION}
    return {arch: script.SPECS[arch] for arch in script.CALIBRATION} if hasattr(script, "SPECS") else {script.SPEC.arch: script.SPEC}


def network(script, spec: Spec) -> Network:
    """The network with the weights that ship; binarized ones packed, full-precision ones in torch."""
    if hasattr(script, "networks"):
        return TorchNetwork(script.networks.load(spec.arch), spec)
    model = script.MODELS[spec.arch]().eval()
    checkpoint.load_into(model, script.HERE / "models" / f"{spec.arch}.best.pth.tar", spec.arch)
    return freeze(model, spec)


def logits_of(network: Network, prepared: np.ndarray) -> np.ndarray:
    """Logits, float64 (N, LOOKS, classes), for what `looks` made, prepared as crops are."""
    parts = [network(prepared[i : i + 128]) for i in range(0, len(prepared), 128)]
    return np.concatenate(parts).astype(np.float64).reshape(-1, LOOKS, len(network.spec.classes))


def held_out(script, spec: Spec) -> tuple[np.ndarray, np.ndarray]:
    """Looks at the images that picked the epoch, prepared as crops are, and the images' labels (N,)."""
    images, labels = script.load_data(script.parse_args([]), train=True)
    _, held = data.hold_out(script.HELD_OUT, len(images))
    return prepare(looks(as_crops(images[held])), spec), labels[held].numpy()


def report(network: Network, keep: float, seen: np.ndarray, labels: np.ndarray, foreign: dict[str, np.ndarray]) -> None:
    """Print one network's lines; `seen`: looks at held-out images, `foreign`: kind -> looks at what shows none of the classes."""
    z, repeated = logits_of(network, seen), labels.repeat(LOOKS)
    single = z.reshape(-1, z.shape[-1])
    temperature = fit_temperature(single, repeated)
    before, after = (calibration_error(softmax(single / t), repeated) for t in (1, temperature))
    p = softmax(z / temperature).mean(1)
    below = threshold(p, labels, keep)
    wrong = (p.max(1) >= below)[p.argmax(1) != labels].mean()
    print(f"{network.spec.arch}: temperature {temperature:.2f}, unknown below {below:.2f}")
    print(f"  held-out: single looks {(single.argmax(1) == repeated).mean():.1%} right, ECE {before:.3f} before, {after:.3f} after", end="")
    print(f"; {LOOKS} looks {(p.argmax(1) == labels).mean():.1%} right, wrong ones that keep their name {wrong:.1%}")
    for kind, prepared in foreign.items():
        sure = softmax(logits_of(network, prepared) / temperature).mean(1).max(1)
        print(f"  false names, {kind}: {(sure >= below).mean():.1%} of {len(sure)}", flush=True)


def parse_args(argv, archs):
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", action="append", choices=archs, help="network; may be repeated (default: all)")
    parser.add_argument("--keep", type=float, default=0.98, help="share of rightly named images that keep their name")
    parser.add_argument("--empty", action="append", default=[], type=Path, metavar="CLIP", help="clips with none of the classes in view")
    args = parser.parse_args(argv)
    if not 0 < args.keep < 1:
        parser.error(f"--keep is {args.keep}; give a share between 0 and 1")
    args.arch = args.arch or archs
    return args


def main(argv=None):
    cifar, full, mnist = (load_script(f"{folder}/main.py") for folder in ("CIFAR_10", "PyTorch_CIFAR10", "MNIST"))
    specs = {script: specs_of(script) for script in (cifar, full, mnist)}
    args = parse_args(argv, [arch for known in specs.values() for arch in known])
    torch.set_num_threads(1)
    common = {"textures": textures(), **{f"windows of {clip}": windows(clip) for clip in args.empty}}
    for scripts, kind, other in (((cifar, full), "MNIST's digits", mnist), ((mnist,), "CIFAR-10's images", cifar)):
        networks = [(script, specs[script][arch]) for script in scripts for arch in args.arch if arch in specs[script]]
        if networks:
            spec = networks[0][1]  # the others are shown the same images
            seen = held_out(scripts[0], spec)
            foreign = {name: prepare(looks(crops), spec) for name, crops in {kind: pictures(other), **common}.items()}
            for script, own in networks:
                report(network(script, own), args.keep, *seen, foreign)


if __name__ == "__main__":
    run(main)
