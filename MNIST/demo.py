"""The whole way on a clip drawn by code: render handwritten-style digits that move before a moving camera, find them, read them.

    python3 demo.py                 writes demo.mp4 and demo.png, and prints how much of the truth was found
    python3 demo.py --truth DIR     only writes the clip's frames and truth, to score another program or other settings:
                                    main.py --video DIR --save OUT, then python3 -m util.score.evaluate OUT DIR

No data set and no network is needed, only the native build and the weights in models/.
"""
import math
import sys
import time
from collections import defaultdict, deque
from operator import attrgetter
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]
if __name__ == "__main__":
    from util.cli import guard

    guard()  # Ctrl-C while the rest loads

import cv2  # noqa: E402
import numpy as np  # noqa: E402
from PIL import Image, ImageDraw, ImageFont  # noqa: E402
from tqdm import tqdm  # noqa: E402

import fastmcd  # noqa: E402
from util import packed  # noqa: E402
from util.cli import Parser, add_engine_arguments, run  # noqa: E402
from util.crops import prepare  # noqa: E402
from util.digits import to_mnist  # noqa: E402
from util.files import atomic_write  # noqa: E402
from util.outputs.pictures import VideoWriter, annotate, colour_of  # noqa: E402
from util.score.scenes import Mover, Scene, camera_path, digit_sprite, match, texture  # noqa: E402
from util.score.truth import IN_VIEW, write_truth  # noqa: E402
from util.track.evidence import softmax  # noqa: E402

WIDTH, HEIGHT, FPS = 480, 360, 25
DIGITS = "0123456789"
LANES = 3  # rows of digits, by turns to the right and to the left
INKS = [(255, 255, 255), (70, 230, 255), (255, 215, 110), (25, 20, 20), (130, 255, 160), (190, 170, 255)]  # BGR


def parse_args(argv=None):
    parser = Parser(description="Draws a clip, finds what moves in it, reads it, and compares with the truth.")
    parser.add_argument("--save", type=Path, metavar="DIR", default=HERE.parent / "out" / "demo", help="where the video and the picture go")
    parser.add_argument("--truth", type=Path, metavar="DIR", help="only write the frames and what is true of them there, and stop")
    parser.add_argument("--frames", type=int, default=9 * FPS, help="length of the clip")
    parser.add_argument("--seed", type=int, default=1, help="of everything drawn")
    parser.add_argument("--pretrained", type=Path, metavar="FILE", default=HERE / "models" / "LeNet_5.xnor", help="network")
    add_engine_arguments(parser)
    parser.set_defaults(arch="LeNet_5")
    args = parser.parse_args(argv)
    if args.frames < 1 or args.seed < 0:
        parser.error(f"--frames is {args.frames} and --seed {args.seed}; expected at least 1 and 0")
    return args


# ---- The clip --------------------------------------------------------------------------------------------------------
def make_scene(seed, frames):
    """Return the clip: ten digits on wavy ways through the picture, the camera pans, shakes, zooms and turns."""
    camera = {"start": (150, 120), "pan": (1.2, 0.4), "zoom": 1.12, "turn": 5, "centre": (WIDTH / 2, HEIGHT / 2)}
    ground = texture(300 + WIDTH + int(1.2 * frames), 240 + HEIGHT + int(0.4 * frames), seed)
    steady = camera_path(frames, **camera)
    rng = np.random.default_rng(seed)
    movers = []
    for place, digit in enumerate(rng.permutation(10).tolist()):
        sprite = digit_sprite(digit, seed, int(rng.uniform(62, 74)), INKS[(place + seed) % len(INKS)], pen=(0.13, 0.17))
        movers.append(Mover(sprite, way(place, steady, rng), digit))
    poses = camera_path(frames, **camera, shake=1.2, seed=seed)
    return Scene(WIDTH, HEIGHT, ground, poses, movers, noise=3, light=lambda t: 1 + 0.08 * np.sin(t / 40), seed=seed)


def way(place, steady, rng):
    """Return the path of digit number `place`: along its lane of the picture, in again on the other side after leaving."""
    lane, turn = place % LANES, place // LANES
    length = WIDTH + 240
    speed = rng.uniform(2.5, 2.7) if lane % 2 else -rng.uniform(3.0, 3.2)  # too alike to catch up with the next in the lane
    start = turn * length / -(-10 // LANES) + 60 * lane
    phase, period = rng.uniform(0, 2 * np.pi), rng.uniform(30, 60)

    def path(t):
        x = (start + speed * t) % length - 120
        y = (lane + 0.5) * HEIGHT / LANES + 5 * np.sin(phase + t / period * 2 * np.pi)
        x, y, w = steady[t] @ (x, y, 1)
        return x / w, y / w, 1.0, 6 * np.sin(phase + t / 15)

    return path


# ---- Find, read, compare ---------------------------------------------------------------------------------------------
class Counts:
    """Counts of what was found. Digits partly out of view, and boxes on them, count neither way."""

    def __init__(self):
        self.objects = self.found = self.boxes = self.right = 0

    def add(self, truth, boxes, labels):
        """Count one frame; return box index -> digit for the boxes on digits in full view."""
        pairs = match(truth, boxes)
        outside = {i for i, o in enumerate(truth) if o.visible < IN_VIEW}
        pairs = [(i, j) for i, j in pairs if i not in outside]
        matched = {j: truth[i].label for i, j in pairs}
        on_edge = {j for _, j in match([truth[i] for i in outside], boxes, 0.1)} - matched.keys()
        self.objects += len(truth) - len(outside)
        self.boxes += len(boxes) - len(on_edge)
        self.found += len(pairs)
        self.right += sum(truth[i].label == labels[j] for i, j in pairs)
        return matched

    def __str__(self):
        recall, precision = self.found / max(1, self.objects), self.found / max(1, self.boxes)
        return (
            f"found     {self.found} of {self.objects} digits, recall {recall:.1%} (IoU 0.5)\n"
            f"          {self.boxes} boxes, precision {precision:.1%}\n"
            f"read      {self.right} of {self.found} right, {self.right / max(1, self.found):.1%}"
        )


class Dots:
    """Dots where objects have been, carried along with the ground under the camera's motion."""

    def __init__(self):
        self.dots = deque(maxlen=2 * FPS)  # per frame: centres (n, 2) in the latest frame's pixels, and digits

    def add(self, result, digits):
        to_current = np.linalg.inv(result.homography)
        for i, (centres, old) in enumerate(self.dots):
            self.dots[i] = cv2.perspectiveTransform(centres[None], to_current)[0] if len(centres) else centres, old
        self.dots.append((result.boxes[:, :2] + result.boxes[:, 2:] / 2, digits))

    def draw(self, picture, boxes):
        """Draw the dots on `picture`, the older the smaller, but none inside `boxes`; return it."""
        for age, (centres, digits) in enumerate(reversed(self.dots)):
            for centre, digit in zip(centres, digits, strict=True):
                if not ((boxes[:, :2] <= centre) & (centre < boxes[:, :2] + boxes[:, 2:])).all(1).any():
                    x, y, radius = (round(16 * value) for value in (*centre, 3 * (1 - age / self.dots.maxlen)))
                    cv2.circle(picture, (x, y), radius, colour_of(digit)[::-1], -1, cv2.LINE_AA, 4)
        return picture


def find_and_read(scene, network, writer):
    """Return (Counts, stage -> ms per frame, Poster) after running detector and network over the scene."""
    detector = fastmcd.Detector(scene.width, scene.height, **network.spec.detector)
    score, dots, poster, spent = Counts(), Dots(), Poster(), defaultdict(list)
    frames = detector.rehearsed(scene, attrgetter("image"))
    for frame in tqdm(frames, "demo", len(scene), unit=" frames", leave=False, disable=None):
        result = detector.detect(frame.image)
        start = time.perf_counter()
        crops = [frame.image[y : y + h, x : x + w, ::-1] for x, y, w, h in result.crops]
        given = softmax(network(prepare(crops, network.spec))) if crops else np.empty((0, 10))
        labels, probabilities = given.argmax(1).tolist(), given.max(1).tolist()
        for stage, ms in {**result.timings, "classify": 1000 * (time.perf_counter() - start)}.items():
            spent[stage].append(ms)
        matched = score.add(frame.truth, result.boxes, labels)
        digits = [DIGITS[label] for label in labels]
        texts = [f"{digit} {probability:.0%}" for digit, probability in zip(digits, probabilities, strict=True)]
        dots.add(result, digits)
        annotated = annotate(dots.draw(frame.image.copy(), result.boxes), result.boxes, texts, digits)
        writer.write(annotated)
        whole = len(matched) == len(crops) == len(frame.truth)  # no digit cut off by the edge, none missed, no other box
        worth = len(match(frame.truth, result.boxes, 0.8)) - len(DIGITS) * (not whole)
        poster.offer((frame.image, result.mask, annotated), worth)
        for j, digit in matched.items():
            poster.samples[digit].append((crops[j].copy(), texts[j], digits[j]))
    return score, {stage: float(np.mean(ms)) for stage, ms in spent.items()}, poster


# ---- The picture -----------------------------------------------------------------------------------------------------
class Poster:
    """One frame in three steps (picture, mask, names), and below how a crop of each digit is read."""

    GAP, THUMB, HEADER = 14, 64, 28  # pixels
    PAPER, TEXT = (24, 26, 31), (250, 250, 250)
    CAPTIONS = ["1  a moving camera's picture", "2  what moves by itself (fastMCD)", "3  found and read (binarized LeNet-5)"]

    def __init__(self):
        self.best, self.steps = -math.inf, None
        self.samples = defaultdict(list)  # digit -> [(crop, text, digit as it was read)]

    def offer(self, steps, worth):
        """Keep `steps` (picture, mask, names) if no earlier frame was worth more: the latest of the best has the longest trails."""
        if worth >= self.best:
            self.best, self.steps = worth, steps

    def save(self, path):
        image, mask, annotated = self.steps
        page = Image.new("RGB", (3 * WIDTH + 4 * self.GAP, HEIGHT + self.THUMB + 3 * self.GAP + self.HEADER + 18), self.PAPER)
        draw = ImageDraw.Draw(page)
        for column, step in enumerate((image[..., ::-1], np.dstack([mask] * 3), annotated[..., ::-1])):
            x = self.GAP + column * (WIDTH + self.GAP)
            page.paste(Image.fromarray(np.ascontiguousarray(step)), (x, self.GAP + self.HEADER))
            draw.text((x, self.GAP - 2), self.CAPTIONS[column], self.TEXT, ImageFont.load_default(18))
        y = self.HEADER + HEIGHT + 2 * self.GAP
        for digit, found in sorted(self.samples.items()):
            x = self.GAP + digit * (page.width - self.GAP) // len(DIGITS)
            crop, text, read = found[len(found) // 2]
            for i, tile in enumerate((crop, np.dstack([to_mnist(crop)] * 3))):
                tile = Image.fromarray(np.ascontiguousarray(tile)).resize((self.THUMB, self.THUMB), Image.Resampling.BICUBIC)
                page.paste(tile, (x + i * (self.THUMB + 2), y))
            draw.text((x, y + self.THUMB + 2), text, colour_of(read), ImageFont.load_default(15))
        with atomic_write(path) as temporary:
            page.save(temporary, "PNG")


def load_network(args):
    """Return what reads the digits: the packed network, or main.py's where PyTorch is asked for."""
    if packed.is_packed(args.pretrained) and args.engine != "torch" and not args.export:
        return packed.load(args.pretrained)
    import main as lenet  # here: nothing else needs PyTorch

    from util.train import predict

    return predict.load_network(args, lenet.LeNet5, lenet.SPEC, args.pretrained)


# ---- The story -------------------------------------------------------------------------------------------------------
def main(argv=None):
    args = parse_args(argv)
    if args.truth:
        write_truth(tqdm(make_scene(args.seed, args.frames), "drawing", leave=False, disable=None), args.truth, DIGITS)
        return print(f"written   {args.truth}: input/, groundtruth/, gt/, ROI.bmp, temporalROI.txt")
    network = load_network(args)
    scene = make_scene(args.seed, args.frames)
    args.save.mkdir(parents=True, exist_ok=True)
    with VideoWriter(args.save / "demo.mp4", FPS, (WIDTH, HEIGHT)) as writer:
        score, stages, poster = find_and_read(scene, network, writer)
    poster.save(args.save / "demo.png")
    print(f"{len(scene)} frames of {WIDTH}x{HEIGHT}, ten digits drawn by code, camera panning and shaking (seed {args.seed})")
    print(score)
    times = ", ".join(f"{stage} {ms:.2f}" for stage, ms in stages.items())
    print(f"ms/frame  {times}, all {sum(stages.values()):.2f}")
    print(f"written   {args.save / 'demo.mp4'}, {args.save / 'demo.png'}")
    return score


if __name__ == "__main__":
    run(main)
