"""Prints how often the main object of clips has a correct name, and how often names are implausible.

    python benchmarks/names.py CLIP... [--network FILE] [--sheet FILE.png] [--wild DIR] [--crops DIR] [--empty CLIP]...

CLIP is a directory with input/ (frames) or input.* (a video), with or without truth (see util.score.truth). What its main object may be
called says names.toml, or another file with --objects. Per clip, and as the mean over clips:

    right    share of frames in which some box has a correct name; where there is ground truth, of the frames with a true box
    absurd   implausible names: named boxes per frame whose name is neither correct nor automobile, truck or person
    found    share of true boxes met by a box at IoU >= 0.5 (CDnet: connected regions of at least 300 pixels)
    named    share of true boxes met by a box with a correct name
    tracks   of the tracks that meet true boxes in most of their frames, the share that ends with a correct name
    no box, unknown, wrong
             of the frames that are not right: there is no box (where there is ground truth: none that meets a true box at IoU >= 0.1),
             the box has no name, or a wrong one

--sheet draws boxes of every clip and what they were called. On images: --wild, a directory as CIFAR_10/main.py --wild learns from, of
which what was held out is named, as it is and made to look like crops; the FPR at 95 % TPR is the share of out-of-distribution (OOD)
images that get a name where 95 % of the known ones keep one. --crops DIR/<class>/*: how crops of clips, RGBA, are called. --empty: clips
with no object, windows of which are further OOD images.
"""
import sys
import tomllib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from benchmarks.unknown import calibration_error, textures, windows  # noqa: E402
from tests.scripts import load_script  # noqa: E402
from util import packed  # noqa: E402
from util.cli import Parser, run  # noqa: E402
from util.crops import prepare  # noqa: E402
from util.errors import InputError  # noqa: E402
from util.files import atomic_write  # noqa: E402
from util.outputs.pictures import encode_png  # noqa: E402
from util.outputs.sheet import draw_sheet  # noqa: E402
from util.packed.freeze import freeze  # noqa: E402
from util.score.metrics import MOVING, components, iou, match  # noqa: E402
from util.score.truth import read_truth  # noqa: E402
from util.source.images import list_images  # noqa: E402
from util.spec import OTHER, Network  # noqa: E402
from util.track.evidence import softmax  # noqa: E402
from util.track.tracking import UNKNOWN, Sighting  # noqa: E402
from util.train import augment, checkpoint, wild  # noqa: E402
from util.train.own import fit_temperature, threshold  # noqa: E402
from util.watch import naming, watch  # noqa: E402

COMMON = {"automobile", "truck", "person"}  # their names are never absurd: most clips have one somewhere
MISSED = ("no box", "unknown", "wrong")
NEAR = 0.1  # least IoU of a true box and a box that is about its object
REGION = 300  # pixels of a CDnet mask that make a true object
KEPT = 0.95  # TPR at which the FPR is printed: share of known images that keep a name
SAMPLES = 16  # boxes of a clip on the sheet


class Samples(list):
    """(RGB crop, caption, label) of SAMPLES boxes at most, an even sample of a stream of unknown length: reservoir sampling."""

    def __init__(self):
        super().__init__()
        self._seen, self._rng = 0, np.random.default_rng(0)

    def add(self, frame: np.ndarray, sighting: Sighting) -> None:
        self._seen += 1
        place = len(self) if len(self) < SAMPLES else int(self._rng.integers(0, self._seen))
        if place < SAMPLES:
            x, y, w, h = sighting.crop
            picture = frame[y : y + h, x : x + w, ::-1].copy()
            self[place : place + 1] = [(picture, f"{sighting.label} {sighting.probability:.0%}", sighting.label)]


@dataclass
class Clip:
    """Counts of one clip."""

    name: str
    right_names: list[str]
    frames: int = 0
    with_object: int = 0
    right: int = 0
    missed: Counter = field(default_factory=Counter)  # of MISSED, in frames with an object and no right name
    absurd: int = 0
    true: int = 0
    found: int = 0
    named: int = 0
    tracks: int = 0
    tracks_right: int = 0
    samples: Samples = field(default_factory=Samples)

    def add(self, shown: list[Sighting], true: np.ndarray | None) -> list[int]:
        """Count a frame, and return the tracks of the boxes that meet a true one; true: float (N, 4), None for a clip without truth."""
        self.frames += 1
        self.absurd += sum(s.label not in self.right_names and s.label not in COMMON and s.label != UNKNOWN for s in shown)
        if true is None or len(true):
            is_right = any(sighting.label in self.right_names for sighting in shown)
            self.with_object += 1
            self.right += is_right
            self.missed[why_missed(shown, true)] += not is_right
        if true is None:
            return []
        met = [shown[j] for _, j in match(true, np.array([sighting.box for sighting in shown]))]
        self.true += len(true)
        self.found += len(met)
        self.named += sum(sighting.label in self.right_names for sighting in met)
        return [sighting.track for sighting in met]

    def scores(self) -> dict[str, float]:
        """right, absurd, found, named, tracks and MISSED; NaN where there is nothing to divide by."""
        share = lambda a, b: a / b if b else float("nan")  # noqa: E731
        of_name = lambda a, b: share(a, b if self.right_names else 0)  # noqa: E731
        found = {"absurd": share(self.absurd, self.frames), "found": share(self.found, self.true)}
        named = {"named": of_name(self.named, self.true), "tracks": of_name(self.tracks_right, self.tracks)}
        missed = {why: of_name(self.missed[why], self.with_object) for why in MISSED}
        return {"right": of_name(self.right, self.with_object), **found, **named, **missed}


# ---- Clips -----------------------------------------------------------------------------------------------------------
def source_of(directory: Path) -> Path:
    """The frames or the video of a clip."""
    videos = [directory / "input"] if (directory / "input").is_dir() else sorted(directory.glob("input.*"))
    if not videos:
        raise InputError(f"{directory}: holds neither input/ nor input.*")
    return videos[0]


def true_boxes(directory: Path) -> dict[int, np.ndarray] | None:
    """Frame -> true boxes, float (N, 4), of the frames that count; None for a clip without truth."""
    if not any((directory / part).exists() for part in ("groundtruth", "gt", "annotations.json")):
        return None
    truth = read_truth(directory)
    if truth.cdnet:
        levels = {frame: truth.levels(frame) for frame in truth.masks}
        return {frame: _regions(mask, truth.inside(mask.shape)) for frame, mask in levels.items() if mask is not None}
    boxes, frames = (truth.boxes, truth.frames) if truth.boxes is not None else truth.mask_boxes()
    frames = set(boxes.frame.tolist()) if frames is None else frames
    return {frame: boxes.box[(boxes.frame == frame) & ~boxes.ignored] for frame in frames}


def _regions(levels: np.ndarray, inside: np.ndarray | None) -> np.ndarray:
    moving = levels == MOVING if inside is None else (levels == MOVING) & inside
    return components(moving.astype(np.uint8), REGION).astype(float)


def measure(directory: Path, network: Network, right_names: list[str], settings: str | None) -> Clip:
    """Run on one clip and count."""
    truth, clip, meets, ended = true_boxes(directory), Clip(directory.name, right_names), Counter(), []
    for moment in watch(source_of(directory), network, settings):
        shown = [*moment.sightings, *moment.expected]
        meets.update(clip.add(shown, None if truth is None else truth.get(moment.number, np.empty((0, 4)))))
        for sighting in shown:
            clip.samples.add(moment.frame, sighting)
        ended += moment.ended
    with_truth = 0 if truth is None else len(truth) / clip.frames
    of_object = [track for track in ended if meets[track.number] > with_truth * track.sightings / 2]
    clip.tracks, clip.tracks_right = len(of_object), sum(track.label in right_names for track in of_object)
    return clip


def why_missed(shown: list[Sighting], true: np.ndarray | None) -> str:
    """One of MISSED: what kept a frame from a right name. true: its true boxes, None where they aren't known."""
    if true is not None:
        near = iou([sighting.box for sighting in shown], true).max(1, initial=0) >= NEAR
        shown = [sighting for sighting, meets in zip(shown, near, strict=True) if meets]
    if not shown:
        return "no box"
    return "unknown" if all(sighting.label == UNKNOWN for sighting in shown) else "wrong"


def report_clips(clips: list[Clip]) -> None:
    """Print a line per clip and their means."""
    rows = [clip.scores() for clip in clips]
    print(f"{'clip':<28}" + "".join(f"{key:>9}" for key in rows[0]))
    for clip, row in zip(clips, rows, strict=True):
        print(_line(clip.name, row))
    print(_line(f"mean of {len(clips)}", {key: np.nanmean([row[key] for row in rows]) for key in rows[0]}), flush=True)


def _line(name, row):
    cell = lambda key, value: "-" if np.isnan(value) else f"{value:.2f}" if key == "absurd" else f"{value:.1%}"  # noqa: E731
    return f"{name:<28}" + "".join(f"{cell(key, value):>9}" for key, value in row.items())


# ---- Images ----------------------------------------------------------------------------------------------------------
def ask(network: Network, images: np.ndarray) -> np.ndarray:
    """Logits (N, classes) for uint8 images (N, 3, H, W)."""
    return np.concatenate([network(images[i : i + 128]) for i in range(0, len(images), 128)])


def probabilities(network: Network, crops: list[np.ndarray]) -> np.ndarray:
    """(N, classes) for RGB or RGBA crops, prepared as the network wants them."""
    return softmax(ask(network, prepare(crops, network.spec)) / network.spec.temperature)


def as_in_clips(network: Network, crops: list[np.ndarray]) -> np.ndarray:
    """The same with the network's prior and the aspect of what moves, as a run over a clip has them; its speed a crop doesn't tell."""
    boxes = np.array([cv2.boundingRect(crop[..., 3]) if crop.shape[2] == 4 else (0, 0, *crop.shape[1::-1]) for crop in crops])
    return softmax(naming.classify(network, crops, boxes) / network.spec.temperature)


def confidence(p: np.ndarray, network: Network) -> np.ndarray:
    """(N,) the largest probability of a class that can be a name."""
    return p[:, [name != OTHER for name in network.spec.classes]].max(1)


def report_wild(root: Path, network: Network, empty: list[Path]) -> None:
    """Print how held-out images are named, and how many out-of-distribution ones get a name."""
    classes = list(network.spec.classes)
    more = [name for name in ("person", OTHER) if name not in classes]
    images, labels, sources = wild.load(root, classes + more, network.spec.shape[1])
    labels, person, other = labels.numpy(), (classes + more).index("person"), (classes + more).index(OTHER)
    _, held = wild.split(torch.from_numpy(labels), sources, other)
    held = held.numpy()
    kinds = wild.kinds_of(labels, sources, other)[held]
    pixels, labels, is_window = images.permute(0, 2, 3, 1).numpy()[held], labels[held], kinds == augment.WINDOW
    is_known, temperature = (labels != other) & ((labels != person) | ("person" in classes)), network.spec.temperature
    p = softmax(ask(network, np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))) / temperature)  # photographs are not cleared
    report_images("as they are", network, p, labels, person, other, is_window)
    report_ood(confidence(p[is_known], network), {"OOD images, as they are": confidence(p[labels == other], network)})
    rng = np.random.default_rng(0)
    crops = [augment.as_crop(image, kind, rng) for image, kind in zip(pixels, kinds, strict=True)]
    logits = ask(network, prepare(crops, network.spec))
    report_calibration(network, logits, labels, other)
    p = softmax(logits / temperature)
    report_images("as crops", network, p, labels, person, other, is_window)
    likely = softmax((logits + network.spec.log_prior()) / temperature)
    report_images("as crops, with the prior", network, likely, labels, person, other, is_window)
    ood = {"OOD images, as crops": confidence(p[labels == other], network)}
    for name, others in (("synthetic textures", textures()), *((f"windows of {clip.name}", windows(source_of(clip))) for clip in empty)):
        ood[name] = confidence(probabilities(network, others), network)
    report_ood(confidence(p[is_known], network), ood)


def report_ood(known: np.ndarray, ood: dict[str, np.ndarray]) -> None:
    """Print the share of each kind of images that keeps a name where KEPT of the known ones do, by their confidence."""
    least = np.quantile(known, 1 - KEPT)
    for kind, sure in ood.items():
        print(f"  FPR at {KEPT:.0%} TPR (threshold {least:.2f}): {(sure >= least).mean():.1%} of {len(sure)} {kind}")


def report_calibration(network: Network, logits: np.ndarray, labels: np.ndarray, other: int) -> None:
    """Print the temperature of the least loss, all kinds of images counting alike, and the threshold that keeps KEPT of the right names."""
    if OTHER not in network.spec.classes:
        return
    rng, named = np.random.default_rng(0), labels != other
    some = rng.choice(np.flatnonzero(~named), min(named.sum(), (~named).sum()), replace=False)
    drawn = np.concatenate([np.flatnonzero(named), some])
    temperature = fit_temperature(logits[drawn], labels[drawn])
    p = softmax(logits[named] / temperature)
    below = threshold(p, labels[named], KEPT)
    error = calibration_error(softmax(logits[drawn] / temperature), labels[drawn])
    print(f"temperature {temperature:.2f} (calibration error {error:.3f}), unknown below {below:.2f}")


def report_images(look: str, network: Network, p: np.ndarray, labels: np.ndarray, person: int, other: int, is_window: np.ndarray) -> None:
    """Print the share of right answers, per class."""
    called, classes = p.argmax(1), list(network.spec.classes)
    right = called == labels
    known = (labels != person) & (labels != other)
    each = ", ".join(f"{classes[k]} {right[labels == k].mean():.0%}" for k in np.unique(labels[known]))
    print(f"held-out wild images, {look}: {right[known].mean():.1%} of {known.sum()} correct ({each})")
    if "person" in classes:
        print(f"  people {right[labels == person].mean():.1%}, of them pedestrians {right[is_window].mean():.1%}")
    if OTHER in classes:
        print(f"  OOD images called other {right[labels == other].mean():.1%}")


def report_crops(root: Path, network: Network) -> None:
    """Print how the crops in root/<class>/ are called: a row per true class."""
    folders = sorted(path for path in root.iterdir() if path.is_dir())
    print(f"{'crops called':<14}" + "".join(f"{name[:8]:>9}" for name in (*network.spec.classes, UNKNOWN)))
    for folder in folders:
        paths = list_images(folder)
        p = as_in_clips(network, [_rgba(path) for path in paths])
        sure, called = confidence(p, network) >= network.spec.unknown_below, p.argmax(1)
        shares = [((called == k) & sure).mean() for k in range(len(network.spec.classes))]
        print(f"{folder.name:<14}" + "".join(f"{share:>9.0%}" for share in (*shares, (~sure).mean())) + f"   of {len(paths)}")


def _rgba(path: Path) -> np.ndarray:
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if image is None or image.ndim != 3:
        raise InputError(f"{path}: not a readable colour image")
    return cv2.cvtColor(image, cv2.COLOR_BGRA2RGBA if image.shape[2] == 4 else cv2.COLOR_BGR2RGB)


# ---- The story -------------------------------------------------------------------------------------------------------
def load_network(path: Path) -> Network:
    """A packed network, or a checkpoint of CIFAR_10/main.py, packed."""
    if packed.is_packed(path):
        return packed.load(path)
    script, saved = load_script("CIFAR_10/main.py"), checkpoint.load(path)
    if (arch := saved.get("arch")) not in script.MODELS:
        raise InputError(f"{path}: holds {arch}, expected one of {' '.join(script.MODELS)}")
    model = script.MODELS[arch]().eval()
    checkpoint.load_into(model, path, arch)
    return freeze(model, checkpoint.spec_of(saved, path, script.SPECS[arch]))


def parse_args(argv):
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("clips", nargs="*", type=Path, metavar="CLIP", help="directories with input/ or input.*")
    default = ROOT / "CIFAR_10" / "models" / "vgg_clips.best.pth.tar"
    parser.add_argument("--network", type=Path, default=default, metavar="FILE", help=f"packed, or a checkpoint (default: {default.name})")
    parser.add_argument("--objects", type=Path, default=ROOT / "benchmarks" / "names.toml", metavar="FILE", help="clip -> right names")
    parser.add_argument("--settings", metavar="NAME|FILE", help="as --settings of --video")
    parser.add_argument("--sheet", type=Path, metavar="FILE.png", help="draw boxes and their names")
    parser.add_argument("--wild", type=Path, metavar="DIR", help="images as CIFAR_10/main.py --wild takes; held-out ones are named")
    parser.add_argument("--crops", type=Path, metavar="DIR", help="DIR/<class>/: labelled crops of other clips")
    parser.add_argument("--empty", action="append", default=[], type=Path, metavar="CLIP", help="with --wild: clips with no object in view")
    args = parser.parse_args(argv)
    if not (args.clips or args.wild or args.crops):
        parser.error("nothing to do: give a CLIP, --wild or --crops")
    return args


def main(argv=None) -> list[Clip]:
    args = parse_args(argv)
    torch.set_num_threads(1)
    network, objects = load_network(args.network), tomllib.loads(args.objects.read_text())
    clips = []
    for directory in args.clips:
        if directory.name not in objects:
            missing = f"{args.objects} does not say what moves in {directory.name}"
            raise InputError(f"{directory}: {missing}; add it, or give another file with --objects")
        clips.append(measure(directory, network, objects[directory.name], args.settings))
    if clips:
        report_clips(clips)
    if args.sheet and (samples := [sample for clip in clips for sample in clip.samples]):
        sheet = draw_sheet(*zip(*samples, strict=True), f"{args.network.name}: {len(clips)} clips")
        with atomic_write(args.sheet) as temporary:
            temporary.write_bytes(encode_png(sheet))
    if args.wild:
        report_wild(args.wild, network, args.empty)
    if args.crops:
        report_crops(args.crops, network)
    return clips


if __name__ == "__main__":
    run(main)
