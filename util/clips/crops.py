"""Crops of a clip as small images like those that a network has learned from."""
import cv2
import numpy as np

TAIL = 0.01  # of the values, left out at both ends when contrast is measured
LEAST_RANGE = 40  # grey levels: less contrast than that is not stretched to the full range, it may be noise
DETAIL = 12  # grey levels, mean difference from the blurred image; CIFAR-10's images: 9.6 (median), 11.9 (third quartile)
MOST_SHARPENING = 1.5


def small_images(crops: list[np.ndarray], size: int) -> np.ndarray:
    """uint8 (N, size, size, 3) from RGB crops uint8 (h, w, 3) of any size: squeezed into the square, with clear contrast and edges.

    Things in a clip are greyer and softer than photographs made for their sake; without this, networks trained on CIFAR-10
    call a grey car on a grey road a ship (benchmarks/unknown.py prints both).
    """
    return np.stack([clear(cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA)) for crop in crops])


def clear(image: np.ndarray) -> np.ndarray:
    """uint8 (h, w, 3): the image stretched to the full range, then, if it is soft, sharpened until its detail is DETAIL."""
    counts = np.cumsum(np.bincount(image.ravel(), minlength=256))
    low, high = np.searchsorted(counts, [TAIL * image.size, (1 - TAIL) * image.size])
    x = (image - np.float32(low)) * np.float32(255 / max(high - low, LEAST_RANGE))
    x = x.clip(0, 255)
    detail = x - cv2.GaussianBlur(x, (0, 0), 1.0)
    amount = DETAIL / max(float(np.abs(detail).mean()), 0.5) - 1
    x += np.float32(np.clip(amount, 0, MOST_SHARPENING)) * detail
    return x.clip(0, 255).round().astype(np.uint8)
