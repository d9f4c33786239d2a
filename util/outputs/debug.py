"""A look inside the detector: what it saw, took for background and measured, side by side in one picture."""
import cv2
import numpy as np

TILE = 640  # px: widest that one view gets
CAPTION = 24  # px: height of the line above each view
INK, GROUND, NOTHING = (235, 235, 235), (31, 26, 24), (90, 40, 30)  # BGR; NOTHING: cells that have no background yet
BOX, AGREES, DIFFERS = (80, 220, 80), (230, 200, 60), (40, 90, 255)
DEVIATION = 60  # grey levels: end of the scale
AGE = 60  # frames: end of the scale until something is older
LENGTH = 3  # vectors are drawn so many times longer than they are


class DebugView:
    """Pictures of a detector at work: `view = DebugView(detector)`, then `view.frame(bgr, result)` after each detect().

    The detector is asked for its background and its points here, and only here: without a view they cost nothing.
    """

    def __init__(self, detector):
        self.detector, self.number, self.oldest = detector, 0, AGE

    def frame(self, bgr: np.ndarray, result) -> np.ndarray:
        """Return six views of the frame just detected, BGR uint8: frame, mask and motion above mean, deviation and age.

        bgr: uint8 (H, W, 3); result: what detect() returned for it. Each view is as large as the frame, but at most 640
        px wide, so the picture is at most 1920 px wide. All pictures of a clip have one size.
        """
        self.number += 1
        background, points = self.detector.background(), self.detector.points()
        self.oldest = max(self.oldest, int(background.age.max()))
        unknown = background.age <= 1  # just begun: nothing is foreground there yet
        deviation = np.sqrt(background.variance)
        motion = f"{result.inliers} of {result.points} points agree" if result.motion_known else "unknown"
        above = [
            (f"frame {self.number}: objects {len(result.boxes)}", with_boxes(bgr, result)),
            (f"mask: {(result.mask > 0).mean():.1%} moves", dim(bgr, result.mask)),
            (f"motion: {motion} (x{LENGTH})", with_vectors(bgr, points)),
        ]
        below = [
            ("background: mean", plain(background.mean, unknown)),
            ("background: deviation, grey levels", scaled(deviation, DEVIATION, unknown)),
            ("background: age, frames", scaled(background.age, self.oldest, unknown)),
        ]
        return np.vstack([np.hstack([tile(*view) for view in row]) for row in (above, below)])


def with_boxes(bgr: np.ndarray, result) -> np.ndarray:
    """Return a copy of the frame with each box and its score."""
    out, line = bgr.copy(), max(1, bgr.shape[1] // 300)
    for (x, y, w, h), score in zip(result.boxes.tolist(), result.scores.tolist(), strict=True):
        cv2.rectangle(out, (x, y), (x + w - 1, y + h - 1), BOX, line)
        _write(out, f"{score:.2f}", (x + 1, y - 4 if y > 20 else y + 16), BOX, max(0.4, bgr.shape[1] / 1400))
    return out


def dim(bgr: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """Return the frame grey and dark, uint8 (H, W, 3), white where the mask is on."""
    grey = cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY) // 3
    return cv2.cvtColor(grey if mask is None else np.maximum(grey, mask), cv2.COLOR_GRAY2BGR)


def with_vectors(bgr: np.ndarray, points) -> np.ndarray:
    """Return the frame dimmed, with a dot on each tracked point and a line back to where it came from.

    Points that the camera's motion explains are blue, the others red and on top.
    """
    out, radius = dim(bgr), max(1, bgr.shape[1] // 250)
    for agrees in (True, False):
        colour = AGREES if agrees else DIFFERS
        for now, then in zip(points.current[points.inlier == agrees], points.previous[points.inlier == agrees], strict=True):
            tail = now + LENGTH * (then - now)
            cv2.line(out, _pixel(now), _pixel(tail), colour, max(1, radius // 2), cv2.LINE_AA)
            cv2.circle(out, _pixel(now), radius, colour, -1, cv2.LINE_AA)
    return out


def plain(levels: np.ndarray, unknown: np.ndarray) -> np.ndarray:
    """Return grey levels, float (H, W), as a picture; blue where they are unknown."""
    out = cv2.cvtColor(levels.round().clip(0, 255).astype(np.uint8), cv2.COLOR_GRAY2BGR)
    out[unknown] = NOTHING
    return out


def scaled(values: np.ndarray, top: float, unknown: np.ndarray) -> np.ndarray:
    """Return values from 0 to `top`, float (H, W), as colours from dark to bright with a scale; blue where unknown."""
    height, width = values.shape
    out = cv2.applyColorMap((values * (255 / top)).clip(0, 255).astype(np.uint8), cv2.COLORMAP_INFERNO)
    out[unknown] = NOTHING
    bar, size = max(4, height // 40), max(0.4, width / 1400)
    ramp = np.tile(np.linspace(0, 255, width // 3).astype(np.uint8), (bar, 1))
    left, up = width // 30, height - 2 * bar
    out[up : up + bar, left : left + width // 3] = cv2.applyColorMap(ramp, cv2.COLORMAP_INFERNO)
    cv2.rectangle(out, (left - 1, up - 1), (left + width // 3, up + bar), INK, 1)
    for part in (0, 0.5, 1):
        _write(out, f"{part * top:.0f}", (left + int(part * width / 3) - 4, up - 4), INK, size)
    return out


def tile(caption: str, view: np.ndarray) -> np.ndarray:
    height, width = view.shape[:2]
    if width > TILE:
        view = cv2.resize(view, (TILE, round(height * TILE / width)), interpolation=cv2.INTER_AREA)
    head = np.full((CAPTION, view.shape[1], 3), GROUND, np.uint8)
    _write(head, caption, (6, CAPTION - 7), INK, min(0.5, view.shape[1] / 720))
    return np.vstack([head, view])


def _write(image: np.ndarray, text: str, where: tuple[int, int], colour, size: float) -> None:
    (width, height), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, 1)
    x, y = where
    cv2.rectangle(image, (x - 1, y - height - 1), (x + width, y + below), GROUND, -1)  # readable on any ground
    cv2.putText(image, text, where, cv2.FONT_HERSHEY_SIMPLEX, size, colour, 1, cv2.LINE_AA)


def _pixel(point: np.ndarray) -> tuple[int, int]:
    return round(float(point[0])), round(float(point[1]))
