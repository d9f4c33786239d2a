"""Made-up clips with exact truth: a textured ground under a moving camera, objects with their own motion, noise.

    scene = Scene(640, 480, texture(1200, 900, seed=1), camera_path(100, pan=(2, 0.5), shake=1), [Mover(digit_sprite(7), path)])
    for frame in scene: frame.image, frame.truth, frame.mask, frame.homography

Everything is drawn by code and fixed by its seeds. A scene cut is one scene after another: itertools.chain(a, b).
"""
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from util.score import metrics

OVERSAMPLING = 4  # digits are drawn this much larger and averaged down


@dataclass(frozen=True)
class TrueBox:
    """One object in one frame: the smallest box around its visible pixels, clipped to the frame."""

    x: int
    y: int
    width: int
    height: int
    label: int
    id: int  # index into Scene.movers
    visible: float  # share of its pixels inside the frame and not covered by another object, 0..1


@dataclass(frozen=True)
class Frame:
    image: np.ndarray  # BGR, uint8 (H, W, 3)
    truth: list[TrueBox]
    mask: np.ndarray  # 255 on objects, else 0; uint8 (H, W)
    homography: np.ndarray | None  # current -> previous pixel coordinates of the ground, float64 (3, 3); None for the first frame


@dataclass(frozen=True)
class Mover:
    """A sprite and where its centre is: `path(t)` returns (x, y) on the ground, or (x, y, scale, degrees), at frame t."""

    sprite: np.ndarray  # BGR and alpha, uint8 (h, w, 4); alpha is not premultiplied
    path: Callable[[int], tuple]
    label: int = 0


@dataclass
class Scene:
    """Frames of `width` x `height` seen through `poses` (frame -> ground coordinates, (T, 3, 3)), later movers in front.

    The ground goes on mirrored beyond its edges. Iterating again gives the same frames. Warps are exact to 1/32 of a pixel.
    """

    width: int
    height: int
    ground: np.ndarray  # BGR, uint8
    poses: np.ndarray
    movers: Sequence[Mover] = ()
    noise: float = 2.0  # standard deviation of the sensor's noise, grey levels
    light: Callable[[int], float] = field(default=lambda t: 1.0)  # brightness of frame t as a factor
    seed: int = 0  # of the noise

    def __len__(self) -> int:
        return len(self.poses)

    def __iter__(self) -> Iterator[Frame]:
        return map(self.frame, range(len(self)))

    def frame(self, t: int) -> Frame:
        """Return frame `t` alone; costs no more than iterating."""
        size = (self.width, self.height)
        flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
        image = cv2.warpPerspective(self.ground, self.poses[t], size, flags=flags, borderMode=cv2.BORDER_REFLECT_101).astype(np.float32)
        owner = np.full((self.height, self.width), -1, np.int16)
        whole = []
        for number, mover in enumerate(self.movers):
            whole.append(self._paste(image, owner, number, mover, t))
        image *= self.light(t)
        if self.noise:
            image += self.noise * np.random.default_rng([self.seed, t]).standard_normal(image.shape, np.float32)
        homography = np.linalg.inv(self.poses[t - 1]) @ self.poses[t] if t else None
        mask = np.where(owner >= 0, 255, 0).astype(np.uint8)
        return Frame(image.round().clip(0, 255).astype(np.uint8), self._truth(owner, whole), mask, homography)

    def _paste(self, image: np.ndarray, owner: np.ndarray, number: int, mover: Mover, t: int) -> int:
        """Draw one sprite where it is at frame t; return how many pixels it would have in an endless frame."""
        to_frame = np.linalg.inv(self.poses[t]) @ sprite_to_ground(mover.sprite, *mover.path(t))
        h, w = mover.sprite.shape[:2]
        corners = cv2.perspectiveTransform(np.float64([[[0, 0], [w, 0], [w, h], [0, h]]]) - 0.5, to_frame)[0]
        left, top = np.floor(corners.min(0)).astype(int) - 1
        right, bottom = np.ceil(corners.max(0)).astype(int) + 2
        local = np.float64([[1, 0, -left], [0, 1, -top], [0, 0, 1]]) @ to_frame
        sprite = mover.sprite.astype(np.float32)
        sprite[..., :3] *= sprite[..., 3:] / 255  # premultiplied, or the colour of clear pixels would bleed in
        drawn = cv2.warpPerspective(sprite, local, (int(right - left), int(bottom - top)), flags=cv2.INTER_LINEAR)
        pixels = int((drawn[..., 3] > 127).sum())
        x0, y0, x1, y1 = max(left, 0), max(top, 0), min(right, self.width), min(bottom, self.height)
        if x0 < x1 and y0 < y1:
            part = drawn[y0 - top : y1 - top, x0 - left : x1 - left]
            image[y0:y1, x0:x1] = image[y0:y1, x0:x1] * (1 - part[..., 3:] / 255) + part[..., :3]
            owner[y0:y1, x0:x1][part[..., 3] > 127] = number
        return pixels

    def _truth(self, owner: np.ndarray, whole: list[int]) -> list[TrueBox]:
        truth = []
        for number, mover in enumerate(self.movers):
            own = (owner == number).astype(np.uint8)
            if seen := int(own.sum()):
                truth.append(TrueBox(*cv2.boundingRect(own), mover.label, number, seen / whole[number]))
        return truth


def sprite_to_ground(sprite: np.ndarray, x: float, y: float, scale: float = 1.0, degrees: float = 0.0) -> np.ndarray:
    """Return the float64 (3, 3) map from sprite pixels to the ground that puts the sprite's centre at (x, y)."""
    h, w = sprite.shape[:2]
    c, s = scale * np.cos(np.radians(degrees)), scale * np.sin(np.radians(degrees))
    return np.float64([[c, -s, x], [s, c, y], [0, 0, 1]]) @ np.float64([[1, 0, (1 - w) / 2], [0, 1, (1 - h) / 2], [0, 0, 1]])


def camera_path(frames, start=(100.0, 100.0), pan=(0.0, 0.0), shake=0.0, zoom=1.0, turn=0.0, centre=(0.0, 0.0), seed=0) -> np.ndarray:
    """Return poses (frames, 3, 3), float64: frame pixel -> ground pixel.

    start: ground position of the frame's top left corner, px. pan: px per frame. shake: standard deviation of a smooth tremble, px
    (and as many tenths of a degree). zoom: of the last frame against the first (above 1: closer). turn: degrees in all.
    centre: the frame pixel about which zoom, turn and tremble rotate.
    """
    rng = np.random.default_rng(seed)
    tremble = cv2.GaussianBlur(rng.standard_normal((frames + 8, 3)), (1, 9), 0, sigmaY=1.2)[4 : frames + 4]
    tremble *= shake / max(tremble.std(), 1e-9)
    poses = np.empty((frames, 3, 3))
    for t in range(frames):
        progress = t / max(frames - 1, 1)
        scale = zoom**-progress
        angle = np.radians(turn * progress + tremble[t, 2] / 10)
        c, s = scale * np.cos(angle), scale * np.sin(angle)
        x, y = np.add(start, centre) + np.multiply(pan, t) + tremble[t, :2]
        poses[t] = np.float64([[c, -s, x], [s, c, y], [0, 0, 1]]) @ np.float64([[1, 0, -centre[0]], [0, 1, -centre[1]], [0, 0, 1]])
    return poses


def match(truth: Sequence[TrueBox], boxes: np.ndarray, min_iou: float = 0.5) -> list[tuple[int, int]]:
    """Return pairs (index into truth, index into boxes), best overlap first, each index once, with intersection over union >= `min_iou`.

    boxes: (N, 4) x, y, width, height.
    """
    return metrics.match(np.float64([(o.x, o.y, o.width, o.height) for o in truth]).reshape(-1, 4), boxes, min_iou)


# ---- The ground ------------------------------------------------------------------------------------------------------
def fractal(width: int, height: int, seed: int, coarsest: int = 128, roughness: float = 0.6) -> np.ndarray:
    """Return smooth noise of all scales from `coarsest` px to 1 px, zero mean and unit deviation, float32 (height, width)."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width), np.float32)
    step = coarsest
    while step >= 1:
        coarse = rng.standard_normal((height // step + 3, width // step + 3), np.float32)
        total += step**roughness * cv2.resize(coarse, None, fx=step, fy=step, interpolation=cv2.INTER_CUBIC)[:height, :width]
        step //= 2
    return (total - total.mean()) / total.std()


def texture(width: int, height: int, seed: int = 0) -> np.ndarray:
    """Return a piece of ground seen from above, BGR uint8 (height, width, 3): earth, grass, moss and pebbles, mean level about 100."""
    earth, grass, moss = np.float32([[62, 88, 112], [58, 104, 92], [70, 96, 72]])
    meadow = _step(fractal(width, height, 7 * seed + 1, 256, 1.0), 0.0, 0.35)
    patches = _step(fractal(width, height, 7 * seed + 2, 64, 0.9), 0.6, 0.3)
    ground = earth + meadow * (grass - earth) + patches * (moss - grass) * meadow
    relief = fractal(width, height, 7 * seed + 3, 64, 0.45)
    slope = cv2.Sobel(relief, cv2.CV_32F, 1, 0, ksize=3) + cv2.Sobel(relief, cv2.CV_32F, 0, 1, ksize=3)
    ground *= 1 + 0.10 * relief[..., None] + 0.035 * slope[..., None]
    _pebbles(ground, np.random.default_rng(7 * seed + 4))
    return ground.clip(0, 255).astype(np.uint8)


def _step(x: np.ndarray, middle: float, softness: float) -> np.ndarray:
    return 1 / (1 + np.exp((middle - x[..., None]) / softness * 2))


def _pebbles(ground: np.ndarray, rng: np.random.Generator) -> None:
    height, width = ground.shape[:2]
    for _ in range(width * height // 2500):
        x, y = rng.uniform(0, [width, height])
        radius = min(rng.pareto(2.0) * 2.5 + 2, 22)
        axes = tuple(int(16 * radius * a) for a in (1, rng.uniform(0.6, 0.95)))
        angle, tone = rng.uniform(0, 180), rng.uniform(95, 150)
        for dx, dy, shrink, colour in ((0.18, 0.22, 1.0, 0.45), (0, 0, 1.0, 0.8), (-0.1, -0.12, 0.72, 1.0)):  # shadow, stone, lit side
            centre = (int(16 * (x + dx * radius)), int(16 * (y + dy * radius)))
            size = tuple(int(a * shrink) for a in axes)
            cv2.ellipse(ground, centre, size, angle, 0, 360, [tone * colour * c for c in (0.88, 0.95, 1.0)], -1, cv2.LINE_AA, 4)


# ---- Digits ----------------------------------------------------------------------------------------------------------
# Strokes of each digit, in one or more ways of writing it: points in a box of 1 x 1 (x right, y down). A stroke is a smooth
# curve through its points; a point given twice in a row is a corner.
DIGITS = {
    0: [
        "50,2 28,12 15,45 22,82 48,99 74,84 84,48 72,14 50,2 44,4",
        "62,6 40,4 18,30 16,68 40,98 68,88 84,52 76,18 55,3",
    ],
    1: [
        "54,1 52,50 49,99",
        "32,26 54,3 54,3 53,50 52,99",
        "34,24 54,2 54,2 53,50 52,97; 30,97 52,98 74,97",
    ],
    2: [
        "14,24 26,6 52,1 76,14 76,38 54,66 12,97 12,97 50,96 90,95",
        "16,22 32,4 60,3 78,22 68,50 40,82 16,94 16,80 32,80 58,95 90,92",
    ],
    3: [
        "16,12 40,1 70,7 76,26 62,43 38,48 38,48 68,52 84,72 70,93 40,99 12,89",
        "18,6 50,3 78,4 78,4 60,24 44,42 44,42 72,48 84,70 68,94 38,99 12,88",
    ],
    4: [
        "22,3 18,30 14,56 14,56 50,56 88,53; 70,22 68,60 64,99",
        "66,2 40,34 10,68 10,68 50,67 92,65; 66,2 65,50 62,99",
    ],
    5: [
        "80,3 50,4 28,4 28,4 24,24 20,44 20,44 46,37 74,48 80,70 66,92 40,99 12,90",
        "30,6 26,24 22,44 22,44 50,38 78,54 76,82 50,99 14,91; 30,6 56,5 84,2",
    ],
    6: [
        "70,2 46,16 24,44 16,72 30,95 56,98 78,82 74,60 52,53 30,62 18,80",
        "58,1 36,26 20,58 22,86 46,99 72,90 78,70 60,56 36,62 22,78",
    ],
    7: [
        "12,7 50,6 86,5 86,5 64,40 48,70 40,99",
        "12,7 50,6 86,5 86,5 64,40 48,70 40,99; 34,51 56,50 78,49",
        "14,18 14,5 14,5 50,5 84,4 84,4 62,48 50,99",
    ],
    8: [
        "76,14 52,1 26,10 26,30 50,46 76,66 76,88 50,99 22,88 24,66 50,46 74,28 76,14",
        "50,47 26,32 28,10 52,1 76,12 74,32 50,47 22,68 24,90 50,99 78,88 76,66 50,47",
    ],
    9: [
        "76,16 52,2 26,14 20,36 40,50 64,42 78,16 78,16 75,56 70,99",
        "76,18 54,2 28,12 20,34 38,49 62,42 78,20 79,44 72,76 52,98 26,92",
    ],
}


def digit_sprite(digit: int, seed: int = 0, size: int = 64, colour=(255, 255, 255), pen=(0.085, 0.15)) -> np.ndarray:
    """Return a handwritten-style `digit` 0..9: BGR and alpha, uint8 (h, w, 4), the digit `size` px high in a small clear margin.

    The seed picks the way of writing and a random slant, tilt, width, thickness and unsteadiness of the hand.
    pen: least and greatest thickness as a share of the height; MNIST's digits have about 0.12.
    """
    if digit not in DIGITS:
        raise ValueError(f"digit is {digit}, expected 0 to 9")
    rng = np.random.default_rng([seed, digit])
    slant, tilt, width = rng.uniform(-0.1, 0.35), np.radians(rng.uniform(-7, 7)), rng.uniform(0.6, 0.95)
    c, s = np.cos(tilt), np.sin(tilt)
    hand = np.float64([[c, -s], [s, c]]) @ np.float64([[width, -slant], [0, 1]])
    strokes = []
    for stroke in rng.choice(DIGITS[digit]).split(";"):
        points = np.float64([point.split(",") for point in stroke.split()]) / 100
        corner = np.r_[False, (points[1:] == points[:-1]).all(1)]
        jitter = rng.normal(0, 0.022, points.shape)
        jitter[corner] = jitter[np.flatnonzero(corner) - 1]  # both copies of a corner move together
        pieces = np.split((points + jitter) @ hand.T, np.flatnonzero(corner))
        strokes.append(np.concatenate([_curve(piece) for piece in pieces]))
    return _ink(strokes, size, colour, pen=rng.uniform(*pen), pressure=rng.normal(0, 0.12, 3))


def _curve(points: np.ndarray, steps: int = 12) -> np.ndarray:
    """Return points (m, 2) along the Catmull-Rom spline through `points` (n, 2)."""
    p = np.concatenate([[2 * points[0] - points[1]], points, [2 * points[-1] - points[-2]]])[:, None]
    t = np.linspace(0, 1, steps)[None, :, None]
    a, b, c, d = p[:-3], p[1:-2], p[2:-1], p[3:]
    curve = b + t * ((c - a) + t * ((2 * a - 5 * b + 4 * c - d) + t * (3 * b - a - 3 * c + d))) / 2
    return curve.reshape(-1, 2)


def _ink(strokes: list[np.ndarray], size: int, colour, pen: float, pressure: np.ndarray) -> np.ndarray:
    """Return the sprite of lines along `strokes`, `pen` thick (share of the height) times 1 + a slow wave of amplitudes `pressure`."""
    points = np.concatenate(strokes)
    low, high = points.min(0), points.max(0)
    scale = OVERSAMPLING * size * (1 - pen) / (high[1] - low[1])
    margin = OVERSAMPLING * (0.75 * size * pen + 2)
    width, height = np.ceil(((high - low) * scale + 2 * margin) / OVERSAMPLING).astype(int)
    alpha = np.zeros((height * OVERSAMPLING, width * OVERSAMPLING), np.uint8)
    for stroke in strokes:
        along = np.linspace(0, 2 * np.pi, len(stroke))
        waves = sum(a * np.sin((k + 1) * along / 2) for k, a in enumerate(pressure))
        thickness = (OVERSAMPLING * size * pen * (1 + waves).clip(0.6, 1.4)).round().astype(int)
        pixels = ((stroke - low) * scale + margin).round().astype(int).tolist()
        for start, end, thick in zip(pixels, pixels[1:], thickness.tolist(), strict=False):
            cv2.line(alpha, start, end, 255, thick)
    alpha = cv2.resize(alpha, (width, height), interpolation=cv2.INTER_AREA)
    return np.dstack([np.full((height, width, 3), colour, np.uint8), alpha])
