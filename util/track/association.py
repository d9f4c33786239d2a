"""Which box of this frame is which object of the frames before: BoT-SORT's association, all objects at once."""
import lap
import numpy as np

SIGMA_POSITION, SIGMA_SPEED = 0.05, 0.00625  # of the motion per frame, and of a measurement, in widths and heights (BoT-SORT)
SMALLEST = 1e-3  # px, of a predicted width or height
LOST_FRAMES = 3  # frames may lie further apart than lost_seconds: in a time lapse, or where a video pauses


class Association:
    """Gives boxes identities, frame by frame (BoT-SORT: Aharon et al. 2022, arXiv:2206.14651).

    A Kalman filter of constant speed predicts each object's centre and size; the detector's homography then moves the prediction as the
    camera moved; boxes and predictions are matched so that the sum of their IoUs is largest. Its covariances are kept per coordinate
    (position, speed), without those between coordinates: all objects are a few operations on arrays.

    fps: frames per second, the unit of time of the filter. lost_seconds: an object unseen for longer, and in LOST_FRAMES frames,
    is forgotten. overlap: least IoU of a box and its prediction, 0..1.
    """

    def __init__(self, fps: float, lost_seconds: float, overlap: float):
        self.fps, self.lost_seconds, self.overlap = fps, lost_seconds, overlap
        self._position, self._speed = np.empty((0, 4)), np.empty((0, 4))  # of centre x, y, width, height
        self._variance = np.empty((0, 3, 4))  # of the position, of both together, of the speed
        self._identity, self._seen = np.empty(0, int), np.empty(0)  # 0 while seen once; seconds
        self._missed = np.empty(0, int)  # frames since it was seen
        self._count, self._seconds = 0, None

    def __len__(self) -> int:
        return len(self._identity)

    def update(self, boxes: np.ndarray, homography: np.ndarray, seconds: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the identities of this frame's boxes, int (n,), from 1, and their speeds against the background, float (n,).

        A box that is seen for the first time has identity 0 and speed NaN, but in the first frame of all it has an identity. Speeds are in
        the box's heights per second. boxes: float (n, 4), x, y, width, height in pixels. homography: (3, 3), takes pixels of this frame
        to the previous one's. seconds: the frame's time, growing.
        """
        first = self._seconds is None
        frames = 1.0 if first else (seconds - self._seconds) * self.fps
        self._speed[self._missed > 0, 2:] = 0  # what is lost keeps its size (BoT-SORT, too)
        self._seconds = seconds
        measured = np.asarray(boxes, float).reshape(-1, 4).copy()
        measured[:, :2] += measured[:, 2:] / 2
        self._keep((seconds - self._seen <= self.lost_seconds) | (self._missed < LOST_FRAMES))
        self._predict(frames)
        self._move(homography)
        rows, columns = self._match(measured)
        self._correct(rows, measured[columns])
        self._missed += 1
        self._seen[rows], self._missed[rows] = seconds, 0
        new = rows[self._identity[rows] == 0]
        self._identity[new] = self._count + 1 + np.arange(len(new))
        self._count += len(new)
        identities, speeds = np.zeros(len(measured), int), np.full(len(measured), np.nan)
        identities[columns] = self._identity[rows]
        speeds[columns] = np.hypot(*self._speed[rows, :2].T) * self.fps / self._position[rows, 3]
        others = np.setdiff1d(np.arange(len(measured)), columns)
        if first:
            identities[others] = self._count + 1 + np.arange(len(others))
            self._count += len(others)
        self._add(measured[others], identities[others], seconds)
        return identities, speeds

    def identities(self) -> set[int]:
        """Return the identities of the objects that are not forgotten."""
        return set(self._identity[self._identity > 0].tolist())

    def unseen(self) -> dict[int, np.ndarray]:
        """Return identity -> box x, y, width, height (float) where an object that the latest frame did not show is expected in it."""
        lost = (self._missed > 0) & (self._identity > 0)
        boxes = self._position[lost].copy()
        boxes[:, :2] -= boxes[:, 2:] / 2
        return dict(zip(self._identity[lost].tolist(), boxes, strict=True))

    def _keep(self, kept: np.ndarray) -> None:
        if not kept.all():
            for name in ("_position", "_speed", "_variance", "_identity", "_seen", "_missed"):
                setattr(self, name, getattr(self, name)[kept])

    def _add(self, measured: np.ndarray, identities: np.ndarray, seconds: float) -> None:
        size = np.tile(measured[:, 2:], 2)
        variance = np.stack([(2 * SIGMA_POSITION * size) ** 2, np.zeros_like(size), (10 * SIGMA_SPEED * size) ** 2], 1)
        self._position = np.concatenate([self._position, measured])
        self._speed = np.concatenate([self._speed, np.zeros_like(measured)])
        self._variance = np.concatenate([self._variance, variance])
        self._identity = np.concatenate([self._identity, identities])
        self._seen = np.concatenate([self._seen, np.full(len(measured), seconds)])
        self._missed = np.concatenate([self._missed, np.zeros(len(measured), int)])

    def _predict(self, frames: float) -> None:
        size = np.tile(self._position[:, 2:], 2)
        position, both, speed = self._variance.swapaxes(0, 1)
        self._position = self._position + frames * self._speed
        self._position[:, 2:] = self._position[:, 2:].clip(SMALLEST)
        position = position + frames * (2 * both + frames * speed) + frames * (SIGMA_POSITION * size) ** 2
        self._variance = np.stack([position, both + frames * speed, speed + frames * (SIGMA_SPEED * size) ** 2], 1)

    def _move(self, homography: np.ndarray) -> None:
        linear, shift = camera_motion(homography)
        self._position[:, :2] = self._position[:, :2] @ linear.T + shift
        self._speed[:, :2] = self._speed[:, :2] @ linear.T
        self._variance[..., :2] = self._variance[..., :2] @ (linear**2).T

    def _match(self, measured: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (objects, boxes), int arrays of one length."""
        if not (len(self._position) and len(measured)):
            return np.empty(0, int), np.empty(0, int)
        iou = _iou(self._position, measured)
        _, rows, columns = lap.lapjvx(1 - iou, extend_cost=True)
        good = iou[rows, columns] >= self.overlap
        return rows[good], columns[good]

    def _correct(self, rows: np.ndarray, measured: np.ndarray) -> None:
        noise = (SIGMA_POSITION * np.tile(self._position[rows, 2:], 2)) ** 2
        position, both, speed = self._variance[rows].swapaxes(0, 1)
        gain, gain_of_speed = position / (position + noise), both / (position + noise)
        away = measured - self._position[rows]
        self._position[rows] += gain * away
        self._position[rows, 2:] = self._position[rows, 2:].clip(SMALLEST)
        self._speed[rows] += gain_of_speed * away
        self._variance[rows] = np.stack([(1 - gain) * position, (1 - gain) * both, speed - gain_of_speed * both], 1)


def camera_motion(homography: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (2x2 matrix, shift in pixels): the affine map nearest to the way from the previous frame to this one at (0, 0)."""
    forward = np.linalg.inv(homography)
    forward /= forward[2, 2]
    return forward[:2, :2] - np.outer(forward[:2, 2], forward[2, :2]), forward[:2, 2]  # d((Ax + t) / (px + 1)) / dx at 0 = A - t p


def _iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return IoUs, float (n, m), of boxes (n, 4) and (m, 4) given as centre x, y, width, height."""
    low = np.maximum((a[:, :2] - a[:, 2:] / 2)[:, None], b[:, :2] - b[:, 2:] / 2)
    high = np.minimum((a[:, :2] + a[:, 2:] / 2)[:, None], b[:, :2] + b[:, 2:] / 2)
    shared = (high - low).clip(0).prod(2)
    return shared / (a[:, 2:].prod(1)[:, None] + b[:, 2:].prod(1) - shared)
