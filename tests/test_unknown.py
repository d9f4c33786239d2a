"""benchmarks/unknown.py: the temperature, the calibration error and the threshold, against what they must be."""
import numpy as np
import pytest

from tests.scripts import load_script
from util.track.evidence import softmax

bench = load_script("benchmarks/unknown.py")


def drawn(count, classes, temperature, seed=0):
    """Logits whose labels are drawn from softmax(logits / temperature): that temperature is the right one."""
    rng = np.random.default_rng(seed)
    logits = 3 * rng.standard_normal((count, classes))
    sums = softmax(logits / temperature).cumsum(1)
    return logits, (rng.random((count, 1)) > sums).sum(1)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_the_temperature_that_made_the_labels_is_found(temperature):
    logits, labels = drawn(20000, 5, temperature)
    found = bench.fit_temperature(logits, labels)
    assert found == pytest.approx(temperature, rel=0.05)
    assert bench.calibration_error(softmax(logits / found), labels) < 0.015
    losses = [-np.log(softmax(logits / (t * found))[np.arange(20000), labels]).mean() for t in (1, 0.8, 0.95, 1.05, 1.25)]
    assert losses[0] == min(losses)


def test_calibration_error_by_hand():
    p = np.array([[0.9, 0.1], [0.9, 0.1], [0.62, 0.38], [0.62, 0.38]])
    # Two bins of half the images each: all right at 0.9, none at 0.62.
    assert bench.calibration_error(p, np.array([0, 0, 1, 1])) == pytest.approx(0.5 * 0.1 + 0.5 * 0.62)


def test_the_threshold_keeps_its_share_of_right_names():
    logits, labels = drawn(5000, 5, 1.0)
    p = softmax(logits)
    sure = p.max(1)[p.argmax(1) == labels]
    assert (sure >= bench.threshold(p, labels, 0.9)).mean() == pytest.approx(0.9, abs=0.002)


def test_looks_show_the_image_cut_a_tenth_off_at_most():
    rows, columns = np.mgrid[:40, :50].astype(np.uint8)
    image = np.stack([2 * rows + 40, 2 * columns + 40, np.full_like(rows, 7)], 2)  # each pixel says where it is from
    looks = np.stack(bench.looks([image, image[:, ::-1]])).astype(float)
    assert looks.shape == (2 * bench.LOOKS, 40, 50, 3) and np.ptp(looks[..., 2]) == 0
    upright, mirrored = (looks[..., :2] - 40)[: bench.LOOKS] / 2, (looks[..., :2] - 40)[bench.LOOKS :] / 2
    for places, length in ((upright[:, 4:-4, 25, 0], 40), (upright[:, 20, 5:-5, 1], 50), (mirrored[:, 20, 5:-5, 1][:, ::-1], 50)):
        inset = np.arange(places.shape[1]) + (length - places.shape[1]) / 2
        assert np.abs(places - inset).max() <= bench.OFF * length
        slopes = np.diff(places).mean(1)  # pixels of the image per pixel of the look
        assert 1 - 2 * bench.OFF <= slopes.min() < 0.97 and 1.03 < slopes.max() <= 1 + 2 * bench.OFF
    assert not np.array_equal(looks[0], looks[1])
