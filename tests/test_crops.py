"""What is done to crops, against numpy's percentiles and what must not change."""
import cv2
import numpy as np

from util.clips.crops import DETAIL, clear, small_images
from util.clips.scenes import texture


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
    images = small_images(crops, 32)
    assert images.shape == (6, 32, 32, 3) and images.dtype == np.uint8
    np.testing.assert_array_equal(images[2], clear(crops[2]))
