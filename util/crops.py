"""Crops of a clip as small images like those that a network has learned from."""
import math

import cv2
import numpy as np

from util.digits import digits
from util.spec import Spec

TAIL = 0.01  # of the values, left out at both ends when contrast is measured
MIN_RANGE = 40  # grey levels: less contrast than that is not stretched to the full range, it may be noise
DETAIL = 12  # grey levels, mean difference from the blurred image; CIFAR-10's images: 9.6 (median), 11.9 (third quartile)
MAX_SHARPENING = 1.5
DIMMED = 0.5  # of what lies around the object, where a network wants it dimmed instead of blank
GROWN = 0.03  # of the square root of a box's area: how far around what moves a crop shows its ground


def prepare(crops: list[np.ndarray], spec: Spec) -> np.ndarray:
    """uint8 (N, C, H, W) of the spec's shape, made as its `crop` says of RGB or RGBA crops uint8 (h, w, 3 or 4) of any size."""
    if spec.crop == "digit":
        return digits(crops)[:, None]
    around = DIMMED if spec.crop == "dimmed" else 0.0
    return np.ascontiguousarray(small_images(crops, spec.shape[1], spec.mean, around).transpose(0, 3, 1, 2))


def cut_out(frame: np.ndarray, crop: tuple[int, ...], box: tuple[int, ...], mask: np.ndarray) -> np.ndarray:
    """RGBA uint8 (h, w, 4): the region `crop` (x, y, w, h in pixels) of a BGR frame, its alpha by `moving`."""
    x, y, width, height = crop
    rgba = cv2.cvtColor(frame[y : y + height, x : x + width], cv2.COLOR_BGR2RGBA)
    rgba[..., 3] = moving(crop, box, mask)
    return rgba


def moving(crop: tuple[int, ...], box: tuple[int, ...], mask: np.ndarray) -> np.ndarray:
    """uint8 (h, w): 255 where something moves in the region `crop` of a frame, else 0; crop and box are x, y, w, h in pixels.

    What moves: the convex hull, a little grown, of the pixels that `mask` (uint8 (H, W)) has in `box`; all of the crop if it has none.
    """
    (x, y, width, height), (left, top, box_width, box_height) = crop, box
    inside = mask[top : top + box_height, left : left + box_width]
    outlines, _ = cv2.findContours(inside, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)  # far fewer pixels, the same hull
    if not outlines:
        return np.full((height, width), 255, np.uint8)
    hull = cv2.convexHull(np.concatenate(outlines)) + np.array([left - x, top - y], np.int32)
    alpha = np.zeros((height, width), np.uint8)
    cv2.fillConvexPoly(alpha, hull, 255)
    return cv2.polylines(alpha, [hull], True, 255, 1 + 2 * round(GROWN * math.sqrt(box_width * box_height)))


def small_images(crops: list[np.ndarray], size: int, mean: tuple[float, ...], around: float = 0.0) -> np.ndarray:
    """uint8 (N, size, size, 3) from RGB or RGBA crops uint8 (h, w, 3 or 4) of any size: squeezed into the square, cleared, alone.

    Things in a clip are greyer and softer than photographs made for their sake; without clearing, networks trained on CIFAR-10
    call a grey car on a grey road a ship. Alone: where alpha is 0 all is `mean` (RGB, 0..1), which a network standardises to 0; but
    for a share `around` (0..1) of what lies there.
    """
    return np.stack([_small_image(crop, size, 255 * np.array(mean, np.float32), around) for crop in crops])


def _small_image(crop: np.ndarray, size: int, ground: np.ndarray, around: float) -> np.ndarray:
    way = cv2.INTER_AREA if max(crop.shape[:2]) > size else cv2.INTER_LINEAR
    small = cv2.resize(crop, (size, size), interpolation=way)
    image = clear(small[..., :3])
    if small.shape[2] == 3:
        return image
    shown = np.maximum(small[..., 3:] / np.float32(255), np.float32(around))
    return (ground + shown * (image - ground)).round().astype(np.uint8)


def clear(image: np.ndarray) -> np.ndarray:
    """uint8 (h, w, 3): the image stretched to the full range, then, if it is soft, sharpened until its detail is DETAIL."""
    counts = np.cumsum(np.bincount(image.ravel(), minlength=256))
    low, high = np.searchsorted(counts, [TAIL * image.size, (1 - TAIL) * image.size])
    x = (image - np.float32(low)) * np.float32(255 / max(high - low, MIN_RANGE))
    x = x.clip(0, 255)
    detail = x - cv2.GaussianBlur(x, (0, 0), 1.0)
    amount = DETAIL / max(float(np.abs(detail).mean()), 0.5) - 1
    x += np.float32(np.clip(amount, 0, MAX_SHARPENING)) * detail
    return x.clip(0, 255).round().astype(np.uint8)
