"""Photographs made to look like what the detector cuts out of a clip: batch functions on uint8 images, seeded by an explicit generator.

The last step is the product's own: `small_images` makes what a network sees in training as it makes what it sees in a clip.
"""
from collections.abc import Sequence

import cv2
import numpy as np

from util.crops import small_images

PERSON_WINDOW = (1 / 3, 0.1, 2 / 3, 0.9)  # where the person stands in a pedestrian window: x0, y0, x1, y1 as shares of its sides
PHOTOGRAPH, WINDOW, FOREIGN, VEHICLE = "photograph", "window", "foreign", "vehicle"
TURNED = {VEHICLE: 0.4}  # share of crops that are turned far: from above, a vehicle goes any way on the picture
SIZES = (32, 48, 24, 18, 13)  # pixels along a crop's side; a person in a window has few already
CHANCES = ((0.35, 0.15, 0.25, 0.15, 0.1), (0.6, 0.25, 0.15, 0, 0))
OUTSIDE = ((0, 128, 255), (0.1, 0.7, 0.2))  # how much of what is outside a mask's hull is kept, of 255, and how often
SPOILT = 0.7  # share of crops that are spoilt at all
LOOSE = 0.15  # share of crops whose object fills only a part of its box
MOVED = 0.1  # how far an edge of a crop lies off in another one of the same object, as a share of the side
WINDOW_SHAPE = 96 / 160  # width over height of a pedestrian window, which is squeezed into the square


def as_crops(images: np.ndarray, kinds: Sequence[str], size: int, mean: tuple[float, ...], rng: np.random.Generator) -> np.ndarray:
    """Return uint8 (N, size, size, 3): RGB images uint8 (N, H, W, 3) as crops of a clip, spoilt as those are; see `as_crop`.

    kinds: of each image, PHOTOGRAPH, VEHICLE (a photograph of one), WINDOW (of a pedestrian, who is cut out first) or FOREIGN (any part of
    it is as foreign as all).
    """
    return small_images([as_crop(image, kind, rng) for image, kind in zip(images, kinds, strict=True)], size, mean)


def as_cut(images: np.ndarray, kinds: Sequence[str], rng: np.random.Generator) -> np.ndarray:
    """Return the images, uint8 (N, H, W, 3), cut a little tighter or wider, mirrored, people cut out of their windows; else as they are."""
    return np.stack([_cut(image, kind, len(image), rng) for image, kind in zip(images, kinds, strict=True)])


def as_crop(image: np.ndarray, kind: str, rng: np.random.Generator) -> np.ndarray:
    """Return RGBA uint8 (s, s, 4): an image, cut as a detector's boxes are, at a random size s, spoilt; alpha as a mask's hull has it."""
    size = int(rng.choice(SIZES, p=CHANCES[kind == WINDOW]))
    crop = _cut(image, kind, size, rng, tight=True)
    if kind == WINDOW and rng.random() < 0.35:  # clothes have all colours, those in the windows few
        crop = np.ascontiguousarray(crop[..., rng.permutation(3)])
    if kind != FOREIGN and rng.random() < LOOSE:
        crop = _loosely(crop, rng)
    return np.dstack([_spoil(crop, rng) if rng.random() < SPOILT else crop, _hull(size, kind, rng)])


def augment_crop(crop: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return RGBA uint8 (s, s, 4): a crop of a clip, RGB or RGBA uint8 (h, w, 3 or 4), as another box, moment and camera might show it.

    Its edges lie up to a tenth further in or out; it is mirrored, turned a little, spoilt, and of a random size s. Its mask is kept but
    for its edge; a crop that has none gets one as `as_crop` makes them, mostly.
    """
    size, (height, width) = int(rng.choice(SIZES, p=CHANCES[0])), crop.shape[:2]
    (left, top), (right, bottom) = rng.uniform(-MOVED, MOVED, (2, 2)) + [[0, 0], [1, 1]]
    if rng.random() < 0.5:
        left, right = right, left
    c, s = np.cos(turn := np.deg2rad(rng.normal(0, 5))), np.sin(turn)
    scale = np.diag([(right - left) * width / size, (bottom - top) * height / size])
    middle = (left + right) / 2 * width, (top + bottom) / 2 * height
    across, down = (max(0.3, 0.4 * length) for length in np.abs(np.diag(scale)))
    image = cv2.GaussianBlur(crop, (0, 0), sigmaX=across, sigmaY=down) if max(across, down) > 0.48 else crop  # averaged, not picked
    small = _region(image, middle, scale @ [[c, -s], [s, c]], size, cv2.INTER_LINEAR)
    rgb = np.ascontiguousarray(small[..., :3])
    if small.shape[2] == 4 and rng.random() < 0.9:
        alpha = small[..., 3]
        if grown := int(rng.integers(-1, 3)) * size // 24:
            alpha = (cv2.dilate if grown > 0 else cv2.erode)(alpha, np.ones((3, 3), np.uint8), iterations=abs(grown))
    else:
        alpha = _hull(size, PHOTOGRAPH, rng) if small.shape[2] == 3 else np.full((size, size), 255, np.uint8)
    return np.dstack([_spoil(rgb, rng) if rng.random() < SPOILT else rgb, alpha])


def _cut(image, kind, size, rng, tight=False):
    """A region of the image, resized to size x size; outside it is mirrored."""
    if kind == WINDOW:
        x0, y0, x1, y1 = _person(rng)
    else:
        half = rng.uniform(0.38, 0.52, 2) if tight else rng.uniform(0.44, 0.53, 2)
        if tight and kind == FOREIGN and rng.random() < 0.3:
            half *= rng.uniform(0.35, 0.8)
        elif tight and rng.random() < 0.3:  # low and wide, tall and narrow, or part of an object: boxes are tight, photographs are not
            half[0 if rng.integers(3) == 1 else 1] *= rng.uniform(0.55, 0.9)  # its height in two of three
        slack = (0.5 - half).clip(0.04, 0.1)
        x, y = 0.5 + rng.uniform(-slack, slack)
        x0, y0, x1, y1 = x - half[0], y - half[1], x + half[0], y + half[1]
    side = image.shape[0]
    if rng.random() < 0.5:
        x0, x1 = x1, x0
    scale_x, scale_y = (x1 - x0) * side / size, (y1 - y0) * side / size
    turn = np.deg2rad(rng.normal(0, 25 if rng.random() < TURNED.get(kind, 0.12) else 10 if kind == WINDOW else 5)) if tight else 0.0
    c, s, lean = np.cos(turn), np.sin(turn), rng.normal(0, 0.2) if tight and kind == WINDOW else 0.0
    matrix = np.array([[c * scale_x, -s * scale_y], [s * scale_x, c * scale_y]]) @ [[1, lean], [0, 1]]
    if max(abs(scale_x), abs(scale_y)) > 1.2:  # averaged, not picked
        image = cv2.GaussianBlur(image, (0, 0), sigmaX=max(0.3, 0.4 * abs(scale_x)), sigmaY=max(0.3, 0.4 * abs(scale_y)))
    middle = (x0 + x1) / 2 * side, (y0 + y1) / 2 * side
    return _region(image, middle, matrix, size, cv2.INTER_CUBIC if rng.random() < 0.5 else cv2.INTER_LINEAR)


def _region(image, middle, matrix, size, interpolation):
    """What lies around `middle`, size x size; `matrix` (2, 2) takes steps of its pixels to steps in the image, which goes on mirrored."""
    offset = middle - matrix @ [size / 2, size / 2] + matrix @ [0.5, 0.5] - 0.5  # of pixels' middles
    flags, way = cv2.WARP_INVERSE_MAP | interpolation, np.c_[matrix, offset].astype(np.float32)
    return cv2.warpAffine(image, way, (size, size), flags=flags, borderMode=cv2.BORDER_REFLECT_101)


def _loosely(crop, rng):
    """The middle of the crop somewhere on made ground or its own edge's colours: a box that took in what lies beside its object."""
    size = len(crop)
    ground = _ground(size, rng) if rng.random() < 0.5 else cv2.GaussianBlur(crop, (0, 0), 0.3 * size)
    scale = rng.uniform(0.45, 0.85, 2) if rng.random() < 0.5 else np.full(2, rng.uniform(0.45, 0.85))
    corner = rng.uniform(0, 1 - scale) * size
    matrix = np.c_[np.diag(scale), corner].astype(np.float32)
    around = np.zeros((size, size), np.float32)
    cv2.ellipse(around, (size // 2, size // 2), (int(0.46 * size), int(0.48 * size)), 0, 0, 360, 1.0, -1)
    small = cv2.warpAffine(cv2.GaussianBlur(crop, (0, 0), 0.3 / scale.min()), matrix, (size, size), borderMode=cv2.BORDER_REFLECT_101)
    share = cv2.GaussianBlur(cv2.warpAffine(around, matrix, (size, size)), (0, 0), 0.03 * size + 0.3)[..., None]
    return (share * small + (1 - share) * ground).astype(np.uint8)


def _person(rng):
    """A box around the person in a pedestrian window, whole or a part, its shape no narrower than half, as crops have it."""
    x0, y0, x1, y1 = PERSON_WINDOW
    kind = rng.choice(["whole", "upper", "legs", "head", "window"], p=[0.55, 0.18, 0.1, 0.05, 0.12])
    if kind == "window":
        return rng.uniform(-0.05, 0.08), rng.uniform(-0.03, 0.06), rng.uniform(0.92, 1.05), rng.uniform(0.94, 1.03)
    height = y1 - y0
    if kind == "upper":
        y1 = y0 + height * rng.uniform(0.4, 0.65)
    elif kind == "legs":
        y0 += height * rng.uniform(0.35, 0.55)
    elif kind == "head":
        y1 = y0 + height * rng.uniform(0.25, 0.35)
    grown = (y1 - y0) * rng.uniform(-0.04, 0.14, 2)
    y0, y1 = y0 - grown[0], y1 + grown[1]
    shape = rng.uniform(0.36, 0.72) if rng.random() < 0.7 else rng.uniform(0.24, 0.36)  # in a stride, a person is as wide as that makes it
    width = max((y1 - y0) / WINDOW_SHAPE * shape, 0.3 * rng.uniform(0.7, 1.3))
    x = (x0 + x1) / 2 + rng.normal(0, 0.03)
    return x - width / 2, y0, x + width / 2, y1


def _spoil(image, rng):
    """The crop as a video camera shows it: moved, out of focus, grey, dark, noisy, interlaced, compressed, each now and then."""
    size = len(image)
    if rng.random() < 0.25:
        image = _motion(image, rng.uniform(0.04, 0.25) * size, rng.uniform(0, np.pi))
    if rng.random() < 0.25:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 0.025 * size + 0.2))
    if rng.random() < 0.02:
        image[1::2] = np.roll(image[1::2], int(rng.integers(1, 2 + size // 32)), 1)
    x = image.astype(np.float32)
    if rng.random() < 0.5:
        grey = x @ np.float32([0.299, 0.587, 0.114])
        x += np.float32(rng.uniform(-0.2, 0.9)) * (grey[..., None] - x)
    if rng.random() < 0.5:  # light: its colour and strength, haze
        x *= rng.uniform(0.85, 1.08, 3).astype(np.float32)
        x += np.float32(rng.uniform(0.3, 1.0) - 1) * (x - np.float32(rng.uniform(20, 235)))
    if rng.random() < 0.25:
        x += np.float32(rng.uniform(1, 5)) * rng.standard_normal(x.shape, np.float32)
    image = x.clip(0, 255).astype(np.uint8)
    if rng.random() < 0.3:
        _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 85))])
        image = cv2.imdecode(data, cv2.IMREAD_COLOR)
    return image


def _motion(image, length, angle):
    """The image smeared along a line of so many pixels."""
    side = 2 * int(np.ceil(length / 2)) + 1
    kernel = np.zeros((side, side), np.float32)
    middle, reach = (side - 1) / 2, length / 2 * np.array([np.cos(angle), np.sin(angle)])
    ends = [tuple(np.round(16 * (middle + way * reach)).astype(int).tolist()) for way in (-1, 1)]
    cv2.line(kernel, *ends, 1.0, 1, cv2.LINE_AA, 4)
    return cv2.filter2D(image, -1, kernel / max(kernel.sum(), 1e-6), borderType=cv2.BORDER_REFLECT_101) if kernel.sum() > 0 else image


def _hull(size, kind, rng):
    """uint8 (size, size): a random convex polygon, 255, around the middle of the crop, 0 or more outside; all of it now and then."""
    low = int(rng.choice(OUTSIDE[0], p=OUTSIDE[1]))
    if rng.random() < 0.08:
        return np.full((size, size), 255, np.uint8)
    angles = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(8, 15))))
    axes = rng.uniform([0.3 if kind == WINDOW else 0.4, 0.42], 0.52)[:, None]
    around = rng.uniform(0.9, 1.15, len(angles)) * axes * np.stack([np.cos(angles), np.sin(angles)])
    points = size * (0.5 + around + rng.uniform(-0.04, 0.04, (2, 1)))
    alpha = np.full((size, size), low, np.uint8)
    return cv2.fillConvexPoly(alpha, cv2.convexHull(points.T.round().astype(np.int32)), 255)


# ---- What is no object -----------------------------------------------------------------------------------------------
def grounds(count: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """Return uint8 (count, size, size, 3), synthetic pictures of what moves and is no object: lit grounds, edges, lines, captions."""
    return np.stack([_ground(size, rng) for _ in range(count)])


def _ground(size, rng):
    image = _rough(size, rng)
    for _ in range(int(rng.integers(0, 4))):  # walls, kerbs, shadows
        other, mask = _rough(size, rng), np.zeros((size, size), np.uint8)
        corner, angle = rng.uniform(0, size, 2), rng.uniform(0, 2 * np.pi)
        along, across = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
        width = rng.choice([0.06, 0.12, 0.3, 2]) * size
        end, begin = corner + 2 * size * along, corner - 2 * size * along
        points = [begin, end, end + width * across, begin + width * across]
        cv2.fillPoly(mask, [np.round(points).astype(np.int32)], 255)
        image = np.where(mask[..., None] > 0, other, image)
    if rng.random() < 0.15:
        text = "".join(rng.choice(list("ABCDEFGHKLMNPRSTUVWXYZ0123456789:.-"), int(rng.integers(2, 8))))
        colour = tuple(int(v) for v in (rng.choice([0, 255]) + rng.integers(-20, 20, 3)).clip(0, 255))
        place, font = (int(rng.integers(-8, 6)), int(rng.integers(size // 2, size))), int(rng.integers(0, 4))
        cv2.putText(image, text, place, font, rng.uniform(0.3, 0.9), colour, int(rng.integers(1, 3)), cv2.LINE_AA)
    return image


def _rough(size, rng):
    """A colour with a texture of some coarseness, direction and strength."""
    colour = rng.uniform(30, 225) + rng.normal(0, 22 if rng.random() < 0.5 else 6, 3)  # soil and walls; asphalt and smoke
    cells = (int(rng.integers(1, size + 1)), int(rng.integers(1, size + 1)))
    noise = cv2.resize(rng.standard_normal((cells[1], cells[0]), np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
    fine = rng.standard_normal((size, size), np.float32)
    x = colour + (rng.uniform(0, 35) * noise + rng.uniform(0, 12) * fine)[..., None]
    x += rng.uniform(0, 6) * rng.standard_normal((size, size, 3), np.float32)
    return x.clip(0, 255).astype(np.uint8)
