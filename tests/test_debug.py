"""A look inside the detector: background and points against the scene that was drawn, and the picture made of them."""
import cv2
import numpy as np
import pytest

import fastmcd
from util.outputs.debug import AGREES, BOX, CAPTION, DIFFERS, NOTHING, DebugView, with_vectors
from util.score.scenes import Mover, Scene, camera_path, texture

WIDTH, HEIGHT, FRAMES = 242, 178, 24  # the last column and row of cells are cut


def card(side=40):
    """A chequered sprite, so that points are tracked on it."""
    squares = np.kron(np.indices((side // 8, side // 8)).sum(0) % 2, np.ones((8, 8)))
    return np.dstack([np.where(squares, 250, 180)] * 3 + [np.full((side, side), 255)]).astype(np.uint8)


@pytest.fixture(scope="module")
def watched():
    """(detector, its last result, the scene's last frame, the picture of it, the homography of that frame)."""
    path = camera_path(FRAMES, (60, 60), pan=(2.2, 0.7))
    scene = Scene(WIDTH, HEIGHT, texture(600, 400, 3), path, [Mover(card(), lambda t: (150 + 6 * t, 150))])
    detector = fastmcd.Detector(WIDTH, HEIGHT)
    view = DebugView(detector)
    for frame in scene:
        result = detector.detect(frame.image)
        picture = view.frame(frame.image, result)
    return detector, result, frame, picture


def test_background_is_the_ground_without_the_object(watched):
    detector, _, frame, _ = watched
    background = detector.background()
    ground = cv2.cvtColor(Scene(WIDTH, HEIGHT, texture(600, 400, 3), camera_path(FRAMES, (60, 60), (2.2, 0.7)), noise=0)
                          .frame(FRAMES - 1).image, cv2.COLOR_BGR2GRAY)  # fmt: skip
    assert background.mean.shape == background.variance.shape == background.age.shape == (HEIGHT, WIDTH)
    inner = (slice(24, -24), slice(24, -24))
    smooth = cv2.blur(ground, (9, 9))[inner].astype(float)
    assert np.abs(background.mean[inner] - smooth).mean() < 6  # also where the object is now
    assert np.abs(cv2.cvtColor(frame.image, cv2.COLOR_BGR2GRAY)[inner] - smooth)[frame.mask[inner] > 0].mean() > 60
    assert background.variance.min() >= fastmcd.PARAMS["min_variance"][0] - 1e-3
    assert 0 <= background.age.min() and background.age.max() < FRAMES + 0.01


def test_cells_are_those_of_the_pixels(watched):
    detector = watched[0]
    pixels, cells = detector.background(), detector.background(full_size=False)
    assert cells.mean.shape == (-(-HEIGHT // 4), -(-WIDTH // 4))
    for name in ("mean", "variance", "age"):
        assert np.array_equal(getattr(pixels, name)[::4, ::4], getattr(cells, name))


def test_points_tell_object_from_ground(watched):
    detector, result, frame, _ = watched
    points = detector.points()
    assert points.current.shape == points.previous.shape == (result.points, 2) and points.inlier.shape == (result.points,)
    assert points.inlier.sum() == pytest.approx(result.inliers, abs=1)
    expected = cv2.perspectiveTransform(points.current[None].astype(float), frame.homography)[0]
    error = np.linalg.norm(points.previous - expected, axis=1)
    assert error[points.inlier].max() < 1.5 and np.median(error[points.inlier]) < 0.2
    x, y = points.current.round().astype(int).T
    on_object = frame.mask[y, x] > 0
    assert on_object.sum() >= 4 and not points.inlier[on_object].any()


def test_nothing_is_tracked_in_the_first_frame_or_after_reset():
    detector = fastmcd.Detector(64, 64)
    frame = texture(64, 64, 1)
    assert (detector.background().age == 0).all() and len(detector.points().inlier) == 0
    detector.detect(frame)
    assert len(detector.points().inlier) == 0
    detector.detect(frame)
    assert len(detector.points().inlier) > 0
    detector.reset()
    assert (detector.background().age == 0).all() and len(detector.points().inlier) == 0


def test_looking_changes_nothing():
    scene = Scene(96, 80, texture(300, 200, 2), camera_path(10, (40, 40), pan=(1.5, 0)))
    watched, alone = fastmcd.Detector(96, 80), fastmcd.Detector(96, 80)
    view = DebugView(watched)
    for frame in scene:
        a, b, before = watched.detect(frame.image), alone.detect(frame.image), frame.image.copy()
        view.frame(frame.image, a)
        assert np.array_equal(frame.image, before)
        assert (a.mask == b.mask).all() and (a.homography == b.homography).all()


def test_picture_shows_six_views(watched):
    _, result, frame, picture = watched
    assert picture.dtype == np.uint8 and picture.shape == (2 * (HEIGHT + CAPTION), 3 * WIDTH, 3)
    views = [picture[top : top + HEIGHT, left : left + WIDTH]
             for top in (CAPTION, HEIGHT + 2 * CAPTION) for left in (0, WIDTH, 2 * WIDTH)]  # fmt: skip
    x, y, w, h = result.boxes[0]
    assert (views[0][y, x + w // 2] == BOX).all() and (views[0][-5, 5] == frame.image[-5, 5]).all()
    assert ((views[1] == 255).all(2) == (result.mask > 0)).all()
    assert ((views[2] == AGREES).all(2)).sum() > 50 and ((views[2] == DIFFERS).all(2)).sum() > 10
    unknown = watched[0].background().age <= 1
    assert unknown.any() and ((views[3] == NOTHING).all(2) == unknown).mean() > 0.99


def test_vectors_lead_back_to_where_points_were():
    points = fastmcd.Points(np.float32([[50, 40]]), np.float32([[54, 40]]), np.array([True]))
    picture = with_vectors(np.zeros((80, 100, 3), np.uint8), points)
    drawn = picture.any(2)
    assert (picture[40, 50] == AGREES).all() and drawn[40, 50:62].all() and not drawn[:, 66:].any() and not drawn[:, :46].any()


def test_large_frames_are_shown_smaller():
    detector = fastmcd.Detector(1300, 720)
    frame = np.zeros((720, 1300, 3), np.uint8)
    assert DebugView(detector).frame(frame, detector.detect(frame)).shape == (2 * (354 + CAPTION), 3 * 640, 3)
