"""Crops of a clip that show a digit, as images like MNIST's."""
import cv2
import numpy as np

LARGEST = 56  # px, twice MNIST's size: larger crops hold nothing more to read


def digits(crops: list[np.ndarray]) -> np.ndarray:
    """Return uint8 (N, 28, 28) that look like MNIST from RGB or RGBA crops uint8 (h, w, 3 or 4) of any size; alpha is not asked."""
    return np.stack([to_mnist(crop[..., :3]) for crop in crops])


def to_mnist(crop: np.ndarray) -> np.ndarray:
    """Return uint8 (28, 28): the digit of an RGB crop white on black, 20 pixels long, its centre of mass in the middle.

    Made as MNIST was (LeCun et al. 1998, section III-A), after the digit has been told from the ground behind it.
    """
    if (scale := LARGEST / max(crop.shape)) < 1:
        crop = resize(crop, scale, cv2.INTER_AREA)
    ink = ink_of(crop)
    strong = (ink > 0.4).astype(np.uint8)
    count, regions, stats, _ = cv2.connectedComponentsWithStats(strong)
    if count < 2:
        return np.zeros((28, 28), np.uint8)
    sizes = stats[1:, cv2.CC_STAT_AREA]
    digit = np.isin(regions, 1 + np.flatnonzero(sizes >= 0.1 * sizes.max())).astype(np.uint8)
    x, y, w, h = cv2.boundingRect(digit)
    near = cv2.dilate(digit, np.ones((3, 3), np.uint8), iterations=max(1, max(w, h) // 20))
    ink = (ink * near)[y : y + h, x : x + w]
    scale = 20 / max(w, h)
    ink = resize(ink, scale, cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    return centre(ink / ink.max())


def resize(image: np.ndarray, scale: float, interpolation: int) -> np.ndarray:
    """Return `image` (H, W, …) times `scale`, at least 1 x 1."""
    height, width = (max(1, round(length * scale)) for length in image.shape[:2])
    return cv2.resize(image, (width, height), interpolation=interpolation)


def ink_of(crop: np.ndarray) -> np.ndarray:
    """Return float32 (H, W) in 0..1: how much each pixel of an RGB crop differs from the ground in the way the digit does.

    The ground's colour is the median of the border. The digit's is where the pixels that differ most lie, so light on dark, dark
    on light and coloured digits all come out bright.
    """
    crop = crop.astype(np.float32)
    h, w = crop.shape[:2]
    margin = max(1, min(h, w) // 12)
    border = np.ones((h, w), bool)
    border[margin : h - margin, margin : w - margin] = False
    away = crop - np.median(crop[border], axis=0)
    direction = (away * (away**2).sum(2, keepdims=True)).sum((0, 1))
    along = away @ (direction / max(np.linalg.norm(direction), 1e-6))
    low, high = np.percentile(along[border], 75), np.percentile(along, 98)
    return ((along - low) / max(high - low, 16)).clip(0, 1)  # 16 grey levels: fainter than that is noise


def centre(ink: np.ndarray) -> np.ndarray:
    """Return uint8 (28, 28) with `ink` (at most 20 x 20, 0..1) placed so that its centre of mass is in the middle."""
    h, w = ink.shape
    mass = max(ink.sum(), 1e-6)
    row, column = (ink.sum(1) @ np.arange(h)) / mass, (ink.sum(0) @ np.arange(w)) / mass
    top, left = np.clip([round(13.5 - row), round(13.5 - column)], 0, [28 - h, 28 - w])
    image = np.zeros((28, 28), np.uint8)
    image[top : top + h, left : left + w] = (255 * ink).round()
    return image
