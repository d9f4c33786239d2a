"""Prints what binarizing costs and saves: accuracy, names of real objects, time and file size, float networks beside 1-bit ones.

    python benchmarks/binarization_cost.py [CLIP...] [--label automobile] [--float NAME...] [--plot FILE.png]

CLIP is a video, a folder of frames, or a results directory that the detector wrote; of each, the share of the detected objects
that get the name --label (or truck, if that is automobile). Networks: the float ones in PyTorch_CIFAR10/state_dicts/, and all
binarized ones in CIFAR_10/models/, packed. Time is from uint8 pixels to class scores, one thread, in one process by turns: each round
times every network once, so that a busy machine hurts all alike; medians. File: as it ships, a packed network as --export writes it.
"""

import copy
import math
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torchvision import datasets
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "PyTorch_CIFAR10")]
import networks  # noqa: E402

from benchmarks.machine import by_turns, cpu_name  # noqa: E402
from tests.scripts import load_script  # noqa: E402
from util import packed  # noqa: E402
from util.binop import BinOp  # noqa: E402
from util.cli import Parser, run  # noqa: E402
from util.crops import cut_out, prepare  # noqa: E402
from util.errors import InputError  # noqa: E402
from util.files import atomic_write  # noqa: E402
from util.outputs.results import TABLE, read_results  # noqa: E402
from util.packed.freeze import freeze  # noqa: E402
from util.source.video import open_video  # noqa: E402
from util.train import checkpoint, data, steps  # noqa: E402

BATCHES = (1, 8)


@dataclass
class Candidate:
    """One way to predict: `logits` maps uint8 images (N, 3, 32, 32) to class scores."""

    name: str
    arithmetic: str  # fp32, bf16, 1 bit or 1-bit weights
    bytes: int  # of its file
    logits: Callable
    ms: dict[int, float] = field(default_factory=dict)  # batch size -> per image
    labels: dict[str, torch.Tensor] = field(default_factory=dict)  # name of a set of images -> (N,)


# ---- Networks --------------------------------------------------------------------------------------------------------
def float_networks(names, main):
    """Return a Candidate per name, and where the processor has fast bfloat16 one more that computes in it."""
    found = []
    for name in names:
        model = networks.load(name).eval().to(memory_format=torch.channels_last)
        size = networks.weights_path(name).stat().st_size

        def logits(x, model=model):
            return model(main.preprocess(x, main.STD))

        def logits_bf16(x, logits=logits):
            with torch.autocast("cpu", torch.bfloat16):
                return logits(x).float()

        found.append(Candidate(name, "fp32", size, logits))
        if steps.fast_bf16(torch.device("cpu")):
            found.append(Candidate(name, "bf16", size, logits_bf16))
    return found


def binary_network(path, main):
    """Return the Candidate of a checkpoint: packed, after a check that it computes what PyTorch does; 1-bit weights alone in PyTorch."""
    name = path.name.removesuffix(".best.pth.tar")
    weights_alone = name.endswith("_bwn")
    if name not in main.MODELS:
        raise InputError(f"{path}: no network {name} in CIFAR_10/main.py; remove the file")
    model = main.MODELS[name]().eval()
    checkpoint.load_into(model, path, name)
    arithmetic = "1-bit weights" if weights_alone else "1 bit"
    network = Candidate(name, arithmetic, path.stat().st_size, lambda x: model(main.preprocess(x)))
    frozen = None if weights_alone else freeze(model, main.SPECS[name])
    BinOp(model).binarization()  # for good: this model is only asked
    if frozen:
        network.bytes, network.logits = as_file(frozen, model, path, main)
    return network


def as_file(frozen, model, path, main):
    """Return (bytes of the file, function from uint8 images to class scores) of a packed network that stands in for `model`."""
    with tempfile.TemporaryDirectory() as directory:
        size = packed.save(frozen, Path(directory) / "packed")

    def logits(x):
        return torch.from_numpy(frozen(x.numpy()))

    x = torch.randint(0, 256, (16, *main.SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    # In float64, since in float32 a bit turns in a tenth of such images, where a sum lies within rounding of a threshold.
    exact = copy.deepcopy(model).double()(main.preprocess(x).double())
    same = ((logits(x) - exact).abs().amax(1) < 1e-3).float().mean()
    if same < 0.9:
        raise InputError(f"{path}: packed, it computes something else than in PyTorch on {1 - same:.0%} of random images")
    return size, logits


# ---- Images ----------------------------------------------------------------------------------------------------------
def even_sample(items, most):
    """Return all items, or every 2nd, every 4th, …: the first of these lists that has at most `most`."""
    while len(items) > most:
        items = items[::2]
    return items


def crops_of(clip, most):
    """Return an even sample of what the detector finds in a clip, or found in a results directory: RGBA crops, or RGB ones."""
    if (Path(clip) / TABLE).is_file():
        return [detection.image for detection in even_sample(read_results(clip), most)]
    import fastmcd  # here, since only a clip needs it

    video, found = open_video(clip), []
    detector = fastmcd.Detector(video.width, video.height)
    frames = detector.rehearsed(video)
    for frame in tqdm(frames, f"detecting in {video.name}", video.frame_count, unit=" frames", leave=False, disable=None):
        result = detector.detect(frame)
        found += [cut_out(frame, crop, box, result.mask) for crop, box in zip(result.crops.tolist(), result.boxes.tolist(), strict=True)]
    return even_sample(found, most)


def image_sets(args, main):
    """Return name -> uint8 images (N, 3, 32, 32), the test set first, and the test set's labels."""
    images, labels = data.load(datasets.CIFAR10, args.data, False, main.CLASSES, "RGB", 32)
    sets = {"test set": images[:: args.every]}
    for clip in args.clips:
        crops = crops_of(clip, args.most)
        if not crops:
            raise InputError(f"{clip}: the detector finds nothing in it; give another clip")
        path = Path(clip).resolve()
        sets[path.parent.name if path.stem == "input" else path.stem] = torch.from_numpy(prepare(crops, main.SPECS["vgg"]))
    return sets, labels[:: args.every]


# ---- Measuring -------------------------------------------------------------------------------------------------------
def time_all(found, images, seconds):
    """Set the ms per image of each network: medians over rounds in which each one runs once on the same images."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    for batch in BATCHES:
        x = images[torch.randint(len(images), (batch,), generator=generator)]
        times = by_turns([partial(network.logits, x) for network in found], seconds, least=6)
        for network, ms in zip(found, 1000 * np.median(times, axis=0) / batch, strict=True):
            network.ms[batch] = float(ms)


def share(mask):
    return 100 * mask.float().mean().item()


def agreement(one, other, sets):
    """Return the percentage of images that two networks give the same label, over `sets`, each image counting the same."""
    return share(torch.cat([one.labels[name] == other.labels[name] for name in sets])) if sets else math.nan


def scores(network, truth, right):
    """Return name of an image set -> percent: right on the test set, named `right` elsewhere."""
    return {
        name: share(labels == truth if name == "test set" else torch.isin(labels, torch.tensor(sorted(right))))
        for name, labels in network.labels.items()
    }


# ---- Reporting -------------------------------------------------------------------------------------------------------
def table(found, sets, truth, right):
    """Return the lines of a table in Markdown. Agreement: below the diagonal on the test set, above it on the clips' objects."""
    clips = [name for name in sets if name != "test set"]
    numbers = [str(i + 1) for i in range(len(found))]
    sizes = [f"{name} ({len(images)})" for name, images in sets.items()]
    times = [f"ms per image, batch {batch}" for batch in BATCHES]
    head = ["", "network", "arithmetic", "file, kB", *times, *sizes, *(f"as {i}" for i in numbers)]
    lines = [head, ["---"] * len(head)]
    for i, network in enumerate(found):
        accuracy, *shares = scores(network, truth, right).values()
        same = [agreement(network, other, clips if j > i else ["test set"]) if j != i else math.nan for j, other in enumerate(found)]
        lines.append([
            numbers[i], network.name, network.arithmetic, f"{network.bytes / 1e3:.0f}", *(f"{network.ms[batch]:.2f}" for batch in BATCHES),
            f"{accuracy:.2f}", *(f"{value:.1f}" for value in shares), *("" if math.isnan(value) else f"{value:.1f}" for value in same),
        ])  # fmt: skip
    return ["| " + " | ".join(cells) + " |" for cells in lines]


def plot(found, truth, right, label, path):
    """Write a picture: accuracy over time with the file's size as the mark's, and the share of objects named right per clip."""
    from matplotlib.figure import Figure

    clips = len(found[0].labels) > 1
    figure = Figure(figsize=(11 if clips else 6, 4.2), layout="constrained")
    axes = figure.subplots(1, 2 if clips else 1, squeeze=False)[0]
    plot_accuracy(axes[0], found, truth, right)
    if clips:
        plot_clips(axes[1], found, truth, right)
        axes[1].set_xlabel(f"objects named {label}, %")
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


def colours(found):
    """Return a colour for each network: blues for float ones, oranges for 1-bit ones."""
    from matplotlib import colormaps

    maps = ["Oranges" if network.arithmetic.startswith("1") else "Blues" for network in found]
    return [colormaps[name](0.8 - 0.5 * maps[:i].count(name) / len(found)) for i, name in enumerate(maps)]


def plot_accuracy(axes, found, truth, right):
    from matplotlib.ticker import LogLocator

    for i, (network, colour) in enumerate(zip(found, colours(found), strict=True)):
        place = network.ms[8], scores(network, truth, right)["test set"]
        axes.scatter(*place, network.bytes / 1e4, color=colour)
        text, small = [f"{network.name}, {network.arithmetic}", f"{network.bytes / 1e3:.0f} kB"], network.bytes < 1e6
        offset = (10, -3) if small else (0, -38 if i % 2 else 14)  # above and below by turns: neighbours in the list often are here, too
        style = {"ha": "left" if small else "center", "fontsize": "small", "textcoords": "offset points"}
        axes.annotate((", " if small else "\n").join(text), place, offset, **style)
    axes.set(xscale="log", xlabel="ms per image (1 thread, batch 8)", ylabel="right on the CIFAR-10 test set, %")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.set_title("area: size of the file", fontsize="medium")
    axes.margins(0.25)
    axes.grid(alpha=0.3)


def plot_clips(axes, found, truth, right):
    """Draw a row per network and a mark per clip."""
    shares = np.array([list(scores(network, truth, right).values())[1:] for network in found])
    for clip, of_clip, mark in zip(list(found[0].labels)[1:], shares.T, "osD^vP*X", strict=False):
        axes.scatter(of_clip, range(len(found)), marker=mark, label=clip)
    axes.set_yticks(range(len(found)), [f"{network.name}, {network.arithmetic}" for network in found])
    axes.invert_yaxis()
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", loc="lower center", bbox_to_anchor=(0.5, 1), ncols=4)


def parse_args(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("clips", nargs="*", metavar="CLIP", help="video, folder of frames or results directory; none: the test set only")
    parser.add_argument("--label", default="automobile", metavar="NAME", help="what moves in the clips; truck counts as automobile too")
    names = {"choices": sorted(networks.NETWORKS), "metavar": "NAME"}
    parser.add_argument("--float", nargs="+", help="float networks (default: all with weights)", **names)
    parser.add_argument("--most", type=int, default=400, help="objects of a clip, an even sample")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="take every N-th test image: a quick try")
    parser.add_argument("--seconds", type=float, default=20, help="to time each batch size")
    parser.add_argument("--data", type=Path, default=ROOT / "CIFAR_10" / "data", help="folder of CIFAR-10")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="write a picture")
    return parser.parse_args(argv)


@torch.inference_mode()
def main(argv=None):
    args = parse_args(argv)
    one_bit, full = load_script("CIFAR_10/main.py"), load_script("PyTorch_CIFAR10/main.py")
    if min(args.most, args.every) < 1:
        raise InputError(f"--most {args.most} --every {args.every}: both are at least 1")
    if args.label not in one_bit.CLASSES:
        raise InputError(f"--label {args.label}: no class; expected one of {' '.join(one_bit.CLASSES)}")
    right = {one_bit.CLASSES.index(name) for name in one_bit.SPECS["vgg"].right(args.label)}
    names = args.float or [name for name in networks.NETWORKS if networks.weights_path(name).is_file()]
    found = float_networks(names, full)
    sets, truth = image_sets(args, one_bit)  # first: it refuses what can't be read, and each packed network is checked for seconds
    paths = sorted((ROOT / "CIFAR_10" / "models").glob("*.best.pth.tar"))
    found += [binary_network(path, one_bit) for path in paths if one_bit.CLIPS not in path.name]  # those have other classes
    for network in tqdm(found, "naming", unit="network", leave=False, disable=None):
        network.labels = {name: torch.cat([network.logits(x).argmax(1) for x in images.split(250)]) for name, images in sets.items()}
    time_all(found, sets["test set"], args.seconds)
    print(f"{cpu_name()}, 1 thread, torch {torch.__version__}, packed: {packed.kernels()[0]} kernels")
    print("\n".join(table(found, sets, truth, right)))
    if args.plot:
        plot(found, truth, right, " or ".join(one_bit.CLASSES[i] for i in sorted(right)), args.plot)
        print(f"written: {args.plot}")
    return found


if __name__ == "__main__":
    run(main)
