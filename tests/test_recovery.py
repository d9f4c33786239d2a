"""The detector on made scenes in which all changes at once: cuts, lamps, a covered lens; and how well it registers."""
from functools import cache

import cv2
import numpy as np
import pytest

import fastmcd
from util.score.scenes import Mover, Scene, camera_path, match, texture

WIDTH, HEIGHT, CHANGE = 320, 240, 20  # the change comes with that frame


def scene(frames, seed=3, start=(200, 150), pan=(2, 0.5), **camera):
    """A chequered square of 44 px that moves before a camera that moves too, over noisy ground."""
    squares = np.kron(np.indices((4, 4)).sum(0) % 2, np.ones((11, 11)))
    card = np.dstack([np.where(squares, 250, 170)] * 3 + [np.full(squares.shape, 255)]).astype(np.uint8)
    speed = np.add(pan, (4, 1))
    path = camera_path(frames, start, pan, centre=(WIDTH / 2, HEIGHT / 2), **camera)
    return Scene(WIDTH, HEIGHT, texture(900, 700, seed), path, [Mover(card, lambda t: tuple(np.add(start, (60, 90)) + speed * t))])


@cache
def rendered(frames, pan):
    return list(scene(frames, pan=pan))


def outcomes(images, truths):
    """Per frame: whether the object was found and nothing else was."""
    detector, out = fastmcd.Detector(WIDTH, HEIGHT), []
    for image, truth in zip(images, truths, strict=True):
        boxes = detector.detect(image).boxes
        out.append(len(boxes) == 1 and len(match(truth, boxes)) == 1)
    return out


def frames_until(good):
    """Number of frames until three in a row are good."""
    return next((t for t in range(len(good) - 2) if all(good[t : t + 3])), len(good))


def test_a_scene_cut_is_over_after_a_dozen_frames():
    frames = [*scene(CHANGE), *scene(30, seed=8, start=(300, 250))]
    good = outcomes([f.image for f in frames], [f.truth for f in frames])
    assert good[CHANGE - 1] and not any(good[CHANGE : CHANGE + 5])
    assert frames_until(good[CHANGE:]) <= 12 and np.mean(good[CHANGE + 12 :]) > 0.9


@pytest.mark.parametrize(("gain", "offset"), [(1.5, 0), (0.75, 25), (1.2, -25)])
@pytest.mark.parametrize("pan", [(0, 0), (2, 0.5)], ids=["still", "panning"])
def test_a_lamp_costs_no_frame(gain, offset, pan):
    frames = rendered(45, pan)
    lit = [f.image if t < CHANGE else np.clip(gain * f.image.astype(float) + offset, 0, 255).round().astype(np.uint8)
           for t, f in enumerate(frames)]  # fmt: skip
    truths = [f.truth for f in frames]
    before, after = outcomes([f.image for f in frames], truths), outcomes(lit, truths)
    assert before[CHANGE:].count(True) >= (18 if pan == (0, 0) else 25)  # under the still one, a ghost joins it at first
    assert sum(a < b for a, b in zip(after, before, strict=True)) <= 2


def covered(image, rng, bright):
    """What a lens sees that is covered: next to nothing, or a hand's blurred brightness."""
    level = 5
    if bright:
        hand = np.random.default_rng(4).uniform(60, 120, (6, 8, 3)).astype(np.float32)
        level = cv2.resize(hand, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    return np.clip(level + rng.normal(0, 2, image.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(("length", "most", "bright"), [(2, 1, False), (4, 10, True), (15, 16, False), (15, 16, True)])
def test_a_covered_lens_is_got_over(length, most, bright):
    frames, rng = rendered(62, (2, 0.5)), np.random.default_rng(0)
    end = CHANGE + length
    images = [covered(f.image, rng, bright) if CHANGE <= t < end else f.image for t, f in enumerate(frames)]
    detector, boxes = fastmcd.Detector(WIDTH, HEIGHT), []
    for image in images:
        boxes.append(detector.detect(image).boxes)
    assert all(len(b) == 0 for b in boxes[CHANGE:end])  # nothing is made up meanwhile
    good = [len(b) == 1 and len(match(f.truth, b)) == 1 for f, b in zip(frames, boxes, strict=True)]
    assert good[CHANGE - 1] and frames_until(good[end:]) <= most


CAMERAS = [
    {"pan": (0, 0), "zoom": 2.0},
    {"pan": (0, 0), "zoom": 0.5},
    {"pan": (0, 0), "turn": 60},
    {"pan": (0, 0), "turn": -90},
    {"pan": (3, 1), "zoom": 1.5, "turn": 30, "shake": 1},
    {"pan": (2, 1), "shake": 3},
]


@pytest.mark.parametrize("camera", CAMERAS, ids=["closer", "wider", "turning", "turning fast", "all", "shaking"])
def test_frames_are_registered_to_a_quarter_of_a_pixel(camera):
    corners = np.float64([[[0, 0], [WIDTH, 0], [WIDTH, HEIGHT], [0, HEIGHT]]])
    detector, errors, found = fastmcd.Detector(WIDTH, HEIGHT), [], 0
    for frame in scene(40, **camera):
        result = detector.detect(frame.image)
        if frame.homography is not None:
            assert result.motion_known
            there, truth = (cv2.perspectiveTransform(corners, h) for h in (result.homography, frame.homography))
            errors.append(np.linalg.norm(there - truth, axis=2).max())
            found += len(match(frame.truth, result.boxes))
    assert np.median(errors) < 0.15 and max(errors) < 0.25  # px, at the worst corner
    assert found >= 28
