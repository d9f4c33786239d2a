"""Clips drawn for tests."""
import cv2
import numpy as np


def squares(directory, frames):
    """Return `directory` with two clips in it, c0 and c1: a bright square on its way over a textured ground that the camera pans over."""
    ground = cv2.GaussianBlur(np.random.default_rng(1).integers(0, 256, (160, 260, 3), np.uint8), (0, 0), 2)
    for k in range(2):
        (directory / f"c{k}").mkdir(parents=True)
        for t in range(frames):
            frame = ground[20:116, 20 + t : 148 + t].copy()
            frame[30 + 20 * k : 54 + 20 * k, 10 + 4 * t : 34 + 4 * t] = (250, 240, 60)
            cv2.imwrite(str(directory / f"c{k}/{t:02d}.png"), frame)
    return directory
