"""What is done to crops, against numpy's percentiles and what must not change."""
import cv2
import numpy as np

from util.crops import DETAIL, GROWN, clear, cut_out, small_images
from util.score.scenes import texture


def picture(size=32, seed=3):
    grey = texture(size, size, seed=seed)
    return np.ascontiguousarray(np.broadcast_to(grey.reshape(size, size, -1), (size, size, 3)))


def detail(image):
    x = image.astype(np.float32)
    return np.abs(x - cv2.GaussianBlur(x, (0, 0), 1.0)).mean()


def test_contrast_and_brightness_of_a_crop_do_not_matter():
    sharp = np.random.default_rng(1).integers(0, 256, (32, 32, 3), np.uint8)  # too rich in detail to be sharpened
    faint = (sharp * 0.4 + 90).round().astype(np.uint8)
    low, high = np.percentile(sharp, [1, 99])
    expected = ((sharp - low) / (high - low) * 255).clip(0, 255)
    assert np.abs(clear(sharp) - expected).max() <= 4
    assert np.abs(clear(faint).astype(int) - clear(sharp)).max() <= 6


def test_a_soft_crop_gets_more_detail_but_not_without_end():
    soft = cv2.GaussianBlur(picture(), (0, 0), 2)
    assert detail(soft) < detail(clear(soft)) < 1.2 * DETAIL


def test_a_flat_crop_stays_nearly_flat():
    noise = (120 + np.random.default_rng(2).integers(-1, 2, (32, 32, 3))).astype(np.uint8)
    assert np.ptp(clear(np.full((8, 8, 3), 77, np.uint8))) == 0
    assert clear(noise).std() < 40


def test_small_images_take_any_size():
    crops = [picture()[:1, :1], *map(picture, (5, 32, 90)), picture()[:7], np.asfortranarray(picture()[::2, ::-1])]
    images = small_images(crops, 32, (0.5, 0.4, 0.3))
    assert images.shape == (6, 32, 32, 3) and images.dtype == np.uint8
    np.testing.assert_array_equal(images[2], clear(crops[2]))


def test_a_crop_is_cut_out_along_the_hull_of_what_moves_in_its_box():
    frame = np.random.default_rng(5).integers(0, 256, (60, 90, 3), np.uint8)
    mask = np.zeros((60, 90), np.uint8)
    cv2.circle(mask, (40, 30), 20, 255, 2)  # a ring: its middle belongs to it
    mask[:, :5] = 255  # something else
    box, crop = (20, 10, 41, 41), (2, 6, 63, 49)
    rgba = cut_out(frame, crop, box, mask)
    np.testing.assert_array_equal(rgba[..., :3], frame[6:55, 2:65, ::-1])
    rows, columns = np.mgrid[6:55, 2:65]
    distance = np.hypot(columns - 40, rows - 30)
    grown = round(GROWN * 41)
    assert (rgba[distance <= 20, 3] == 255).all() and (rgba[distance > 23 + grown, 3] == 0).all()
    assert set(np.unique(rgba[..., 3])) == {0, 255}
    assert (cut_out(frame, crop, box, np.zeros_like(mask))[..., 3] == 255).all()


def test_what_stands_still_becomes_the_mean_colour():
    mean = (0.5, 0.4, 0.3)
    crop = np.dstack([picture(64), np.full((64, 64), 255, np.uint8)])
    whole = small_images([crop, crop[..., :3]], 32, mean)
    np.testing.assert_array_equal(whole[0], whole[1])
    crop[:, 32:, 3] = 0
    crop[:, 30:32, 3] = 128  # one pixel of the small image
    half, still = small_images([crop, crop * np.array([1, 1, 1, 0], np.uint8)], 32, mean)
    ground = np.array([127.5, 102, 76.5])
    np.testing.assert_array_equal(half[:, :15], whole[0][:, :15])
    assert np.abs(half[:, 15] - (ground + 128 / 255 * (whole[0][:, 15] - ground))).max() <= 0.5 + 1e-3
    assert np.abs(half[:, 16:] - ground).max() <= 0.5 and np.abs(still - ground).max() <= 0.5
