"""The made-up clips: is what they say about themselves true?"""
import itertools

import cv2
import numpy as np
import pytest

from util.score.scenes import Mover, Scene, TrueBox, camera_path, digit_sprite, match, texture

WIDTH, HEIGHT = 200, 150
GROUND = texture(480, 400, seed=3)
CARD = np.full((21, 31, 4), 255, np.uint8)


def make_scene(frames=6, movers=(), noise=0.0, **camera):
    camera = {"start": (120, 100), "centre": (WIDTH / 2, HEIGHT / 2), "seed": 5, **camera}
    return Scene(WIDTH, HEIGHT, GROUND, camera_path(frames, **camera), movers, noise)


def difference(a, b, where):
    return np.abs(a.astype(float) - b.astype(float))[where > 0].mean()


def test_homography_takes_each_frame_to_the_one_before():
    mover = Mover(digit_sprite(8, size=40), lambda t: (220 + 4 * t, 180, 1, 10 * t))
    scene = make_scene(8, [mover], pan=(3.3, -1.7), shake=1.5, zoom=1.1, turn=6)
    for before, frame in itertools.pairwise(scene):
        warped = cv2.warpPerspective(frame.image, frame.homography, (WIDTH, HEIGHT), flags=cv2.INTER_CUBIC)
        objects = cv2.warpPerspective(frame.mask, frame.homography, (WIDTH, HEIGHT)) | before.mask
        seen = cv2.warpPerspective(np.full_like(frame.mask, 255), frame.homography, (WIDTH, HEIGHT))
        where = cv2.erode(seen & ~cv2.dilate(objects, np.ones((5, 5))), np.ones((5, 5)), borderValue=0)
        error = difference(warped, before.image, where)
        assert error < 2 and difference(frame.image, before.image, where) > 4 * error


def test_homography_agrees_with_what_opencv_estimates():
    first, second = make_scene(2, pan=(3.3, -1.7), shake=1, zoom=1.05, turn=2)
    grey = [cv2.cvtColor(frame.image, cv2.COLOR_BGR2GRAY) for frame in (second, first)]
    points = cv2.goodFeaturesToTrack(grey[0], 150, 0.01, 8)
    tracked, found, _ = cv2.calcOpticalFlowPyrLK(*grey, points, None)
    estimate, _ = cv2.findHomography(points[found > 0], tracked[found > 0], cv2.RANSAC, 0.5)
    corners = np.float64([[[0, 0], [WIDTH, 0], [WIDTH, HEIGHT], [0, HEIGHT]]])
    assert np.abs(cv2.perspectiveTransform(corners, estimate) - cv2.perspectiveTransform(corners, second.homography)).max() < 0.3


def test_quarter_pixels_are_there():
    ramp = np.uint8(4 * np.arange(60))  # grey levels tell the place
    ground = np.dstack([np.tile(ramp, (60, 1)), np.tile(ramp[:, None], (1, 60)), np.zeros((60, 60), np.uint8)])
    first, second = Scene(20, 20, ground, camera_path(2, start=(10, 10), pan=(0.25, 0.75)), noise=0)
    moved = second.image.astype(float) - first.image
    assert (moved[..., 0] == 1).all() and (moved[..., 1] == 3).all()


def test_box_is_tight_around_the_mask_and_where_the_path_says():
    scene = make_scene(4, [Mover(CARD, lambda t: (200 + 5 * t, 170 - 3 * t), label=7)])
    for t, frame in enumerate(scene):
        (o,) = frame.truth
        assert (o.x, o.y, o.width, o.height) == cv2.boundingRect(frame.mask) and (o.label, o.id, o.visible) == (7, 0, 1)
        assert (o.width, o.height) == (31, 21)
        assert (o.x + (o.width - 1) / 2 + 120, o.y + (o.height - 1) / 2 + 100) == (200 + 5 * t, 170 - 3 * t)
        assert (frame.image[frame.mask > 0] == 255).all()


def test_visible_share_at_the_edge_and_behind_others():
    def still(x, y):
        return Mover(CARD, lambda t: (x, y))

    scene = make_scene(1, [still(120, 170), still(220, 180), still(230, 180), still(900, 900)])
    edge, covered, front = scene.frame(0).truth  # the fourth is outside
    assert edge.x == 0 and edge.visible == pytest.approx(0.5, abs=0.04)
    assert covered.visible == pytest.approx(1 / 3, abs=0.04) and front.visible == 1


def test_same_seed_same_frames():
    movers = [Mover(digit_sprite(3), lambda t: (200 + t, 180))]
    scene, other = (make_scene(3, movers, noise=3, shake=1, seed=seed) for seed in (5, 6))
    frames = list(scene)
    for t, (a, b) in enumerate(zip(frames, scene, strict=True)):
        alone = scene.frame(t)
        assert np.array_equal(a.image, b.image) and np.array_equal(a.image, alone.image) and a.truth == b.truth == alone.truth
    assert not np.array_equal(frames[0].image, other.frame(0).image)
    assert np.array_equal(texture(90, 70, 4), texture(90, 70, 4)) and not np.array_equal(texture(90, 70, 4), texture(90, 70, 5))


def test_noise_and_light():
    clean, noisy = make_scene(1), make_scene(1, noise=4.0)
    assert (noisy.frame(0).image - clean.frame(0).image.astype(float)).std() == pytest.approx(4, rel=0.1)
    dim = make_scene(2)
    dim.light = lambda t: 1 - 0.5 * t
    first, second = dim
    assert second.image.mean() == pytest.approx(first.image.mean() / 2, rel=0.02)


def test_a_cut_is_one_scene_after_another():
    frames = list(itertools.chain(make_scene(3), make_scene(2, start=(250, 220))))
    assert [frame.homography is None for frame in frames] == [True, False, False, True, False]


def test_ground_has_corners_to_track():
    grey = cv2.cvtColor(texture(480, 360, 0), cv2.COLOR_BGR2GRAY)
    assert len(cv2.goodFeaturesToTrack(grey, 1000, 0.05, 5)) > 150 and 60 < grey.mean() < 140


@pytest.mark.parametrize("digit", range(10))
def test_digit_sprites(digit):
    sprites = [digit_sprite(digit, seed, 50, (10, 20, 30)) for seed in range(8)]
    for sprite in sprites:
        _, _, width, height = cv2.boundingRect((sprite[..., 3] > 127).astype(np.uint8))
        assert sprite.dtype == np.uint8 and abs(height - 50) <= 3 and 4 <= width <= 70
        assert not sprite[[0, -1], :, 3].any() and not sprite[:, [0, -1], 3].any()  # a clear rim, so edges are smooth
        assert (sprite[..., :3] == (10, 20, 30)).all()
    assert np.array_equal(sprites[0], digit_sprite(digit, 0, 50, (10, 20, 30)))
    assert len({sprite[..., 3].tobytes() for sprite in sprites}) == 8


def test_there_are_ten_digits():
    with pytest.raises(ValueError, match="digit is 10"):
        digit_sprite(10)


def test_match_pairs_the_best_overlaps_once():
    truth = [TrueBox(*box, 0, i, 1.0) for i, box in enumerate([(0, 0, 10, 10), (20, 0, 10, 10), (50, 50, 4, 4)])]
    boxes = np.int32([[21, 0, 10, 10], [20, 0, 10, 11], [0, 0, 10, 5], [80, 80, 9, 9]])
    assert match(truth, boxes) == [(1, 1), (0, 2)]  # (1, 0) overlaps well too, but object 1 is taken
    assert match(truth, boxes, 0.6) == [(1, 1)]
    assert match([], boxes) == [] and match(truth, np.empty((0, 4), np.int32)) == []
