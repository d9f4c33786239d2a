"""The detector through Python: the same bits as in C++, refused input, and its parts against OpenCV and plain numpy."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest

import fastmcd
from fastmcd import _fastmcd

ROOT = Path(__file__).resolve().parents[1]
WIDTH, HEIGHT = 200, 150


def world(seed=0, side=500):
    """float32 (side, side): blobs of several sizes, like a natural picture's."""
    rng, out = np.random.default_rng(seed), np.zeros((side, side), np.float32)
    for size in (6, 18, 60):
        grid = rng.uniform(0, 80, (side // size + 2, side // size + 2)).astype(np.float32)
        out += cv2.resize(grid, (side, side), interpolation=cv2.INTER_CUBIC)
    return np.clip(out, 0, 255)


def seen(scene, h, width=WIDTH, height=HEIGHT):
    """uint8 (height, width) whose pixel p shows the scene at h p, 100 pixels further right and down."""
    inward = np.array([[1, 0, 100], [0, 1, 100], [0, 0, 1]]) @ h
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.rint(cv2.warpPerspective(scene, inward, (width, height), flags=flags)).astype(np.uint8)


def turned(degrees, zoom, x, y):
    h = np.eye(3)
    h[:2] = cv2.getRotationMatrix2D((WIDTH / 2, HEIGHT / 2), degrees, zoom)
    h[:2, 2] += x, y
    return h


def square_scene(frames):
    """(frame, box of the moving square) of a panning camera."""
    scene = world()
    for t in range(frames):
        frame = seen(scene, turned(0.2 * t, 1, 2.5 * t, t))
        x, y = 20 + 4 * t, 50 + t
        frame[y : y + 30, x : x + 30] = np.kron([[255, 205], [205, 255]], np.ones((15, 15)))
        yield frame, (x, y, 30, 30)


def corner_error(a, b):
    corners = np.array([[[0, 0], [WIDTH - 1, 0], [0, HEIGHT - 1], [WIDTH - 1, HEIGHT - 1]]], np.float64)
    return np.abs(cv2.perspectiveTransform(corners, a) - cv2.perspectiveTransform(corners, b)).max()


def test_moving_square_is_one_box_with_context():
    detector = fastmcd.Detector(WIDTH, HEIGHT)
    for t, (frame, (x, y, w, h)) in enumerate(square_scene(30)):
        result = detector.detect(frame)
        assert result.motion_known == (t > 0)
        if t < 16:
            continue
        assert result.boxes.dtype == np.int32 and result.boxes.shape == result.crops.shape == (1, 4)
        assert np.abs(result.boxes[0] - (x, y, w, h)).max() <= 4
        cx, cy, cw, ch = result.crops[0]
        left, _, wide, _ = result.boxes[0]
        assert cx <= left - wide // 10 or cx == 0 or cx + cw == WIDTH
        assert max(cw, ch) <= 2 * min(cw, ch) and min(cw, ch) >= 32 and cx >= 0 and cy >= 0 and cx + cw <= WIDTH and cy + ch <= HEIGHT
        assert result.scores.dtype == np.float32 and 0.3 < result.scores[0] <= 1
        assert result.mask.shape == (HEIGHT, WIDTH) and set(np.unique(result.mask)) == {0, 255}
        assert set(result.timings) == {"smooth", "motion", "model", "boxes"} and min(result.timings.values()) >= 0


def test_rehearsed_frames_come_in_order_and_the_first_has_its_objects():
    detector = fastmcd.Detector(WIDTH, HEIGHT, rehearsal=10)
    moments = [(t, *moment) for t, moment in enumerate(square_scene(20))]
    taken = []

    def items():
        for moment in moments:
            taken.append(moment[0])
            yield moment

    for number, (t, frame, box) in enumerate(detector.rehearsed(items(), lambda moment: moment[1])):
        assert t == number and len(taken) == max(10, t + 1)
        result = detector.detect(frame)
        assert result.motion_known == (t > 0) and len(detector.points().current) == result.points
        assert len(result.boxes) == 1 and np.abs(result.boxes[0] - box).max() <= 12, t
    assert t == 19


@pytest.mark.parametrize("rehearsal", [0, 1])
def test_without_rehearsal_nothing_is_read_ahead(rehearsal):
    plain, other = fastmcd.Detector(WIDTH, HEIGHT), fastmcd.Detector(WIDTH, HEIGHT, rehearsal=rehearsal)
    for frame in other.rehearsed(frame for frame, _ in square_scene(4)):
        assert np.array_equal(plain.detect(frame).mask, other.detect(frame).mask)


def test_rehearsal_ends_with_what_is_enough_or_with_the_clip():
    frames = [frame for frame, _ in square_scene(5)]
    taken = []
    items = (taken.append(t) or (t, frame) for t, frame in enumerate(frames))
    rehearsed = fastmcd.Detector(WIDTH, HEIGHT).rehearsed(items, lambda item: item[1], lambda item: item[0] >= 2)
    assert next(rehearsed)[0] == 0 and taken == [0, 1, 2]
    assert [t for t, _ in rehearsed] == [1, 2, 3, 4]
    assert len(list(fastmcd.Detector(WIDTH, HEIGHT).rehearsed(frames))) == 5
    assert not list(fastmcd.Detector(WIDTH, HEIGHT).rehearsed([]))


def test_what_is_rehearsed_is_all_grey_or_all_in_colours():
    frames = [frame for frame, _ in square_scene(6)]
    colours = [np.dstack([frame] * 3) for frame in frames]
    grey, colour = fastmcd.Detector(WIDTH, HEIGHT), fastmcd.Detector(WIDTH, HEIGHT)
    grey.rehearse(frames), colour.rehearse(tuple(colours))
    assert np.array_equal(grey.detect(frames[0]).mask, colour.detect(colours[0]).mask) and grey.detect(frames[1]).motion_known
    with pytest.raises(TypeError):
        grey.rehearse([frames[0], colours[1]])
    with pytest.raises(TypeError):
        grey.rehearse([frame.astype(np.float32) for frame in frames])
    with pytest.raises(ValueError, match="detector was made for"):
        grey.rehearse([frames[0], frames[1][1:]])


def test_an_error_while_rehearsing_comes_after_the_frames_before_it():
    def items():
        yield from (frame for frame, _ in square_scene(3))
        raise OSError("torn off")

    came, detector = [], fastmcd.Detector(WIDTH, HEIGHT)
    with pytest.raises(OSError, match="torn off"):
        for frame in detector.rehearsed(items()):
            came.append(detector.detect(frame))
    assert len(came) == 3


def test_any_row_stride_gives_the_same_bits():
    a, b = fastmcd.Detector(WIDTH, HEIGHT), fastmcd.Detector(WIDTH, HEIGHT)
    for frame, _ in square_scene(15):
        wide = np.full((2 * HEIGHT, WIDTH + 13), 99, np.uint8)
        strided = wide[::2, 5 : 5 + WIDTH]
        strided[:] = frame
        left, right = a.detect(frame), b.detect(strided)
        assert (left.mask == right.mask).all() and (left.homography == right.homography).all()
        assert (left.boxes == right.boxes).all() and (left.scores == right.scores).all()


def test_grey_is_colour_of_equal_parts():
    a, b = fastmcd.Detector(WIDTH, HEIGHT), fastmcd.Detector(WIDTH, HEIGHT)
    for frame, _ in square_scene(8):
        bgr = np.dstack([frame, 255 - frame, frame // 2])
        left, right = a.detect(np.dstack([frame] * 3)), b.detect(frame)
        assert (left.mask == right.mask).all() and (left.homography == right.homography).all()
    with pytest.raises(ValueError, match="not adjacent"):
        a.detect(bgr[:, :, ::-1])
    with pytest.raises(ValueError, match="frame is 200x149"):
        a.detect(bgr[1:])


def test_reset_forgets():
    frames = [frame for frame, _ in square_scene(6)]
    detector = fastmcd.Detector(WIDTH, HEIGHT)
    first = [detector.detect(frame).mask for frame in frames]
    detector.reset()
    assert all((detector.detect(frame).mask == mask).all() for frame, mask in zip(frames, first, strict=True))


@pytest.mark.parametrize(
    ("frame", "error"),
    [
        (np.zeros((HEIGHT, WIDTH), np.float32), TypeError),
        (np.zeros((HEIGHT, WIDTH), np.int8), TypeError),
        (np.zeros((HEIGHT, WIDTH, 1), np.uint8), TypeError),
        (np.zeros((HEIGHT, WIDTH), np.uint8, order="F"), ValueError),
        (np.zeros((HEIGHT, 2 * WIDTH), np.uint8)[:, ::2], ValueError),
        (np.zeros((WIDTH, HEIGHT), np.uint8), ValueError),
        (np.lib.stride_tricks.as_strided(np.zeros(WIDTH, np.uint8), (2**32 + HEIGHT, WIDTH), (0, 1)), ValueError),
        (None, TypeError),
    ],
    ids=["float", "int8", "three axes", "columns first", "column stride", "size", "size beyond 32 bits", "none"],
)
def test_other_frames_are_refused(frame, error):
    with pytest.raises(error):
        fastmcd.Detector(WIDTH, HEIGHT).detect(frame)


def test_parameters():
    assert {"threshold", "min_area", "max_objects"} <= set(fastmcd.PARAMS)
    defaults = {name: default for name, (default, help_text) in fastmcd.PARAMS.items() if help_text}
    fastmcd.Detector(64, 64, **defaults)
    with pytest.raises(ValueError, match="min_area is 2, must be a number from 0 to 0.5"):
        fastmcd.Detector(64, 64, min_area=2)
    with pytest.raises(ValueError, match="points is 99.5, must be a whole number"):
        fastmcd.Detector(64, 64, points=99.5)
    with pytest.raises(TypeError, match="no parameter colour"):
        fastmcd.Detector(64, 64, colour=1)
    with pytest.raises(ValueError, match="31x64"):
        fastmcd.Detector(31, 64)


def test_memory_is_bounded():
    for width, height in [(32, 32), (320, 240), (1921, 1081)]:
        assert fastmcd.Detector(width, height).bytes() < 30 * width * height + 262144


def test_detectors_in_threads_do_not_disturb_each_other():
    frames, masks = [frame for frame, _ in square_scene(15)], [[], []]

    def work(out):
        detector = fastmcd.Detector(WIDTH, HEIGHT)
        out += [detector.detect(frame).mask for frame in frames]

    threads = [threading.Thread(target=work, args=(out,)) for out in masks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(masks[0]) == 15 and np.array_equal(masks[0], masks[1])


def test_grey_is_within_a_level_of_the_standard_weights():
    bgr = np.random.default_rng(0).integers(0, 256, (41, 67, 3), dtype=np.uint8)
    exact = bgr.astype(np.float64) @ [0.114, 0.587, 0.299]
    assert np.abs(fastmcd.grey(bgr) - exact).max() < 1
    assert (fastmcd.grey(bgr[3:, 5:50]) == fastmcd.grey(bgr)[3:, 5:50]).all()
    assert (fastmcd.grey(np.full((9, 9, 3), 255, np.uint8)) == 255).all()
    for width in range(1, 70):  # whole vectors and what is left over
        cut = np.ascontiguousarray(bgr.reshape(-1, 3)[: 39 * width].reshape(39, width, 3))
        assert (fastmcd.grey(cut) == (cut.astype(int) @ [29, 150, 77] + 128) // 256).all()
    for bad, error in [(bgr[:, :, ::-1], ValueError), (bgr[..., :2], TypeError), (bgr.astype(float), TypeError)]:
        with pytest.raises(error):
            fastmcd.grey(bad)


@pytest.mark.parametrize("shape", [(32, 32), (33, 47), (64, 35), (101, 203)])
def test_smoothing_is_the_median_of_the_sorted_neighbourhoods_diagonal(shape):
    rng = np.random.default_rng(1)
    for top in (2, 7, 256):
        frame = rng.integers(0, top, shape, dtype=np.uint8)
        around = np.lib.stride_tricks.sliding_window_view(np.pad(frame, 2, mode="edge"), (5, 5))
        both = np.sort(np.sort(around, axis=2), axis=3)  # each column, then each row
        expected = np.median([both[..., k, 4 - k] for k in range(5)], axis=0)
        assert (_fastmcd.smooth(frame) == expected).all()


def test_smoothing_is_nearly_opencvs_median():
    frame = seen(world(8), np.eye(3))
    frame[::7, ::5] = 255
    error = np.abs(_fastmcd.smooth(frame).astype(int) - cv2.medianBlur(frame, 5))
    assert error.mean() < 1 and error.max() < 40


def test_every_level_gives_the_same_bits(monkeypatch):
    frames, bits = [frame for frame, _ in square_scene(20)], set()
    for level in _fastmcd.levels():
        monkeypatch.setenv("FASTMCD_LEVEL", level)  # which a detector asks for when it is made
        detector = fastmcd.Detector(WIDTH, HEIGHT)
        results = [detector.detect(frame) for frame in frames]
        bits.add(b"".join(r.mask.tobytes() + r.homography.tobytes() + r.scores.tobytes() for r in results))
    assert len(bits) == 1 and any(len(result.boxes) for result in results)


def test_unknown_level_is_refused(monkeypatch):
    monkeypatch.setenv("FASTMCD_LEVEL", "mmx")
    with pytest.raises(ValueError, match="FASTMCD_LEVEL is 'mmx'.*use one of: .*baseline"):
        fastmcd.Detector(64, 64)


MOTIONS = [(0, 1, 6.3, -3.6), (0, 1, -13, 8), (2.5, 1, 1, 2), (-1, 1.05, 0, 4), (0, 0.95, -2, 0)]


@pytest.mark.parametrize("truth", MOTIONS)
def test_motion_is_as_good_as_opencvs(truth):
    scene, truth = world(3), turned(*truth)
    previous, current = seen(scene, np.eye(3)), seen(scene, truth)
    homography, known, points, inliers = _fastmcd.estimate_motion(current, previous)
    corners = cv2.goodFeaturesToTrack(current, 200, 0.01, 8)
    tracked, status, _ = cv2.calcOpticalFlowPyrLK(current, previous, corners, None, winSize=(11, 11))
    theirs, _ = cv2.findHomography(corners[status == 1], tracked[status == 1], cv2.RANSAC, 1)
    assert known and inliers > 0.6 * points
    assert corner_error(homography, truth) < 0.3
    assert corner_error(homography, truth) < corner_error(theirs, truth) + 0.2


def test_boxes_are_those_of_the_masks_components():
    scene, detector = world(4), fastmcd.Detector(WIDTH, HEIGHT, persistence=1)
    for t in range(20):
        frame = seen(scene, np.eye(3))
        if t >= 10:  # two squares, well apart
            frame[30:54, 5 * t - 40 : 5 * t - 16] = 255
            frame[100:124, 5 * t - 40 : 5 * t - 16] = 255
        result = detector.detect(frame)
        count, _, stats, _ = cv2.connectedComponentsWithStats(result.mask, connectivity=8)
        assert count - 1 == len(result.boxes) == (2 if t >= 10 else 0)
        ours, theirs = sorted(map(tuple, result.boxes)), sorted(map(tuple, stats[1:, :4]))
        assert np.abs(np.array(ours) - np.array(theirs)).max(initial=0) <= 2


class PlainModel:
    """The model in float64, cell by cell, after its description: warp, light, swap, match, update, mask."""

    MATCH, THRESHOLD, FRESH, FLOOR, OLDEST, DECAY_FROM, DECAY, SPREAD = 1, 3.5, 400, 36, 250, 2500, 0.001, 0.5

    def __init__(self, width, height):
        self.cols, self.rows = -(-width // 4), -(-height // 4)
        self.modes = np.zeros((2, 3, self.rows, self.cols))  # mode, (mean, variance, age)

    def warp(self, h):
        out = self.modes.copy()
        for j, i in np.ndindex(self.rows, self.cols):
            x, y, w = h @ (4 * i + 1.5, 4 * j + 1.5, 1)
            u, v = (x / w - 1.5) / 4, (y / w - 1.5) / 4
            if not (0 <= u <= self.cols - 1 and 0 <= v <= self.rows - 1):
                out[:, 2, j, i] = 0
                continue
            a, b = int(u), int(v)
            js, ks = np.minimum([b, b, b + 1, b + 1], self.rows - 1), np.minimum([a, a + 1, a, a + 1], self.cols - 1)
            wu, wv = u - a, v - b
            weights = np.array([(1 - wu) * (1 - wv), wu * (1 - wv), (1 - wu) * wv, wu * wv])
            for m in range(2):
                means, variances, ages = self.modes[m][:, js, ks]
                mean = weights @ means
                variance = max(weights @ (variances + self.SPREAD * (mean - means) ** 2), self.FLOOR)
                age = weights @ ages * np.exp(-self.DECAY * max(0, variance - self.DECAY_FROM))
                out[m, :, j, i] = mean, variance, min(age, self.OLDEST) * (age >= 1e-3)
        self.modes = out

    def follow_light(self, mean):
        j, i = np.mgrid[: self.rows, : self.cols]
        x, y = 2 * i / self.cols - 1, 2 * j / self.rows - 1
        level = self.modes[0, 0]
        step = max(1, self.rows // 16)
        use = (self.modes[0, 2] > 1) & (j % step == step // 2)
        features = np.stack([np.ones_like(level), level / 128 - 1, x, y], -1)
        line = np.zeros(4)
        for spread in (32, 16, 8) if use.any() else ():
            f, change = features[use], (mean - level)[use]
            w = (1 + ((change - f @ line) / spread) ** 2) ** -2
            normal = (f * w[:, None]).T @ f
            normal += np.eye(4) * 1e-3 * normal[0, 0]
            line = np.linalg.solve(normal, (f * w[:, None]).T @ change)
        for mode in self.modes:
            mode[0] = np.clip(mode[0] + line[0] + line[1] * (mode[0] / 128 - 1) + line[2] * x + line[3] * y, 0, 255)

    def blend(self, m, j, i, block):
        mean, variance, age = self.modes[m, :, j, i]
        keep = age / (age + 1)
        mean = block.mean() if age < 1 else keep * mean + (1 - keep) * block.mean()
        worst = ((block - mean) ** 2).max()
        if age == 0:
            variance = max(worst, self.FRESH)
        else:
            variance = max(keep * variance + (1 - keep) * min(worst, 2 * variance), self.FLOOR)
        self.modes[m, :, j, i] = mean, variance, min(age + 1, self.OLDEST + m)

    def update(self, frame):
        height, width = frame.shape
        frame = np.pad(frame.astype(float), ((0, -height % 4), (0, -width % 4)), mode="edge")
        blocks = {(j, i): frame[4 * j : 4 * j + 4, 4 * i : 4 * i + 4] for j, i in np.ndindex(self.rows, self.cols)}
        self.follow_light(np.array([b.mean() for b in blocks.values()]).reshape(self.rows, self.cols))
        mask = np.zeros(frame.shape, np.uint8)
        for (j, i), block in blocks.items():
            cell = self.modes[:, :, j, i]  # a view
            if cell[0, 2] == cell[1, 2] == 0:
                self.blend(0, j, i, block)
                cell[1, :2] = block.mean(), self.FRESH
                continue
            if cell[1, 2] > cell[0, 2]:
                cell[:] = cell[::-1].copy()
                cell[1, 2] = min(cell[1, 2], self.OLDEST / 2)
            _, variance, age = cell[0]
            near = [(block.mean() - c[0]) ** 2 < self.MATCH * c[1] for c in cell]
            if not any(near):
                cell[1, 2] = 0
            self.blend(0 if near[0] else 1, j, i, block)
            far = (block - cell[0, 0]) ** 2 > self.THRESHOLD * variance
            mask[4 * j : 4 * j + 4, 4 * i : 4 * i + 4] = 255 * (far & (age > 1))
        return mask[:height, :width]


def test_model_follows_its_description():
    width, height = 75, 54  # the last column and row of cells are cut
    scene, ours, plain = world(5), _fastmcd.Model(width, height), PlainModel(width, height)
    h = np.array([[1.001, -0.002, 1.7], [0.003, 0.999, -0.8], [0, 1e-6, 1]])
    for t in range(12):
        frame = seen(scene, np.linalg.matrix_power(h, t), width, height)
        frame[10 + t : 28 + t, 4 * t : 4 * t + 20] = 250
        if t:
            plain.warp(h)
        mask = ours.update(frame, (h if t else np.eye(3)).ravel().tolist())
        assert (mask != plain.update(frame)).mean() < 0.003  # single decisions fall either way
        for m in range(2):
            for mine, theirs in zip(ours.mode(m), plain.modes[m], strict=True):
                wrong = np.abs(mine - theirs) > 0.01 + 0.002 * np.abs(theirs)
                assert wrong.mean() <= (0.03 if t else 0)  # and spread to neighbours
    assert mask.any()


@pytest.mark.parametrize("begun", [True, False], ids=["stops", "was there from the start"])
def test_what_stops_or_leaves_is_background_in_the_end(begun):
    """Also when the background has reached its full age, here 30 frames. A ghost ends within 20, what has stopped does not."""
    detector, shares, rng = fastmcd.Detector(WIDTH, HEIGHT, max_age=30), [], np.random.default_rng(3)
    for t in range(120):
        frame = seen(world(4), np.eye(3)) + rng.integers(0, 4, (HEIGHT, WIDTH), np.uint8)
        if (t >= 60) == begun:
            frame[40:80, 60:100] = 240
        shares.append((detector.detect(frame).mask[44:76, 64:96] > 0).mean())
    assert min(shares[62:65]) > 0.8 and max(shares[95:]) == 0
    assert min(shares[65:85]) > 0.9 if begun else max(shares[80:]) == 0


def test_missing_extension_is_explained(tmp_path):
    package = tmp_path / "fastmcd"
    package.mkdir()
    (package / "__init__.py").write_text((ROOT / "fastmcd/__init__.py").read_text())
    done = subprocess.run(
        [sys.executable, "-c", "import fastmcd"], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1 and "cmake --build build" in done.stderr


def test_a_result_with_some_of_its_objects_has_all_that_belongs_to_them():
    detector = fastmcd.Detector(WIDTH, HEIGHT, persistence=1)
    result = next(r for frame, _ in square_scene(30) if len((r := detector.detect(frame)).boxes))
    none, every = result.only(np.zeros(len(result.boxes), bool)), result.only(np.ones(len(result.boxes), bool))
    assert [len(getattr(none, name)) for name in ("boxes", "crops", "scores", "evidence")] == [0] * 4 and none.mask is result.mask
    assert all((getattr(every, name) == getattr(result, name)).all() for name in ("boxes", "crops", "scores", "evidence"))


# ---- Used otherwise than meant ----
def test_threads_that_share_a_detector_feed_it_one_frame_after_another():
    frames = [seen(world(3), np.eye(3), 160, 120)] * 60  # all the same, since the order is chance
    shared, alone = fastmcd.Detector(160, 120), fastmcd.Detector(160, 120)

    def feed():
        for frame in frames:
            result = shared.detect(frame)
            assert result.mask.shape == (120, 160) and len(result.boxes) == len(result.scores)
            shared.points(), shared.background(), shared.bytes()

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(feed) for _ in range(4)]:
            done.result()
    for frame in 4 * frames:
        alone.detect(frame)
    for ours, theirs in zip(vars(shared.background()).values(), vars(alone.background()).values(), strict=True):
        assert np.array_equal(ours, theirs)


BLACK = np.zeros((480, 640), np.uint8)
STRIP = np.zeros((40000, 32), np.uint8)  # nothing is left of its width where its height is tracked


@pytest.mark.parametrize("misuse", [
    lambda: _fastmcd.Model(80, 64).mode(7),
    lambda: _fastmcd.Model(80, 64).mode(-1),
    lambda: _fastmcd.Model(-5, 64),
    lambda: _fastmcd.Model(64, 4097),
    lambda: _fastmcd.Model(80, 64).update(BLACK, [1, 0, 0, 0, 1, 0, 0, 0, 1]),
    lambda: _fastmcd.Model(640, 480).update(BLACK, [np.nan] * 9),
    lambda: _fastmcd.estimate_motion(BLACK[:1, :1], BLACK[:1, :1]),
    lambda: _fastmcd.estimate_motion(BLACK, BLACK[:40, :40]),
    lambda: _fastmcd.estimate_motion(STRIP, STRIP),
    lambda: _fastmcd.smooth(BLACK[:0]),
    lambda: _fastmcd.smooth(BLACK[:, :5]),
])  # fmt: skip
def test_private_parts_refuse_what_they_cannot_take(misuse):
    with pytest.raises((ValueError, IndexError)):
        misuse()


def test_without_the_native_module_the_error_says_how_to_build_it():
    code = "import sys; sys.modules['fastmcd._fastmcd'] = None; import fastmcd"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert "ImportError: fastmcd's native module is missing" in done.stderr and "run 'make native'" in done.stderr
