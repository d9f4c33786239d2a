"""Specs: they go through a file unchanged, and one that no network can have is refused in one line."""
import json

import numpy as np
import pytest

from util.spec import Spec

GOOD = {"arch": "vgg", "classes": ["car", "truck"], "shape": [3, 32, 32], "mean": [0.5] * 3, "std": [0.25] * 3,
        "also_right": {"car": ["truck"]}, "temperature": 0.5, "unknown_below": 0.4, "detector": {"crop_aspect": 1.0},
        "kinds": {"vehicle": ["car", "truck"]}, "prior": {"car": 3.0},
        "aspects": {"car": [-0.4, 0.5]}, "speeds": {"truck": [0.5, 0.9]}}  # fmt: skip
BAD = {
    "classes": [[], ["a", "a"], ["a", ""], ["a", "b\n"], ["a", "x" * 101], 7, None],
    "shape": [[3, 32], [2, 32, 32], [3, 0, 32], [3, 32, 10**9]],
    "mean": [[0.5], [float("nan")] * 3], "std": [[0.25, 0.25, 0.0], ["x"] * 3], "crop": ["whole"], "temperature": [0, float("inf")],
    "unknown_below": [-0.1, 1.1], "also_right": [["truck"]], "detector": [{"crop_aspect": "wide"}], "extra": [1],
    "prior": [{"van": 2.0}, {"car": 0.0}, {"car": "often"}, 7],
    "aspects": [{"van": [0.0, 1.0]}, {"car": [0.0, 1e-9]}, {"car": [11.0, 1.0]}, {"car": [0.0]}, {"car": 1.0}, 7],
    "speeds": [{"van": [0.0, 1.0]}, {"car": [float("nan"), 1.0]}, {"car": []}],
    "kinds": [["car"], 7],
}  # fmt: skip


def test_a_spec_goes_through_json_unchanged():
    spec = Spec.from_dict(GOOD)
    assert Spec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    assert spec.right("car") == ("car", "truck") and spec.right("truck") == ("truck",)


def normal(x, mean, sd):
    return np.exp(-(((x - mean) / sd) ** 2) / 2) / sd


def test_a_boxs_aspect_speaks_for_the_classes_that_have_it():
    spec = Spec.from_dict(GOOD)
    boxes = np.array([[5, 5, 100, 67], [0, 0, 30, 60], [9, 9, 1, 4000], [9, 9, 0, 0]])
    found = spec.log_geometry(boxes, np.full(4, np.nan))
    tall = np.log([67 / 100, 2, 4000, 1])
    assert np.allclose(found[:, 0], np.log(0.8 * normal(tall, -0.4, 0.5) / normal(tall, 0, 1) + 0.2)) and not found[:, 1].any()
    assert found[0, 0] > 0.5 and found[1, 0] < -0.7 and np.isclose(found[2, 0], np.log(0.2))  # no box is impossible
    none = Spec.from_dict({**GOOD, "aspects": {}, "speeds": {}})
    assert not none.log_geometry(boxes, np.arange(4.0)).any() and spec.log_geometry(boxes[:0], np.empty(0)).shape == (0, 2)


def test_a_boxs_speed_speaks_for_the_classes_that_have_one():
    spec, speeds = Spec.from_dict(GOOD), np.array([0.0, 0.4, 1.0, 3.0, 1000.0, np.nan])
    found = spec.log_geometry(np.full((6, 4), 10), speeds) - spec.log_geometry(np.full((6, 4), 10), np.full(6, np.nan))
    fast = np.log([1, 1, 1, 3, 1000])  # what is slow tells no more than one height per second does
    assert np.allclose(found[:5, 1], np.log(0.8 * normal(fast, 0.5, 0.9) / normal(fast, 0.3, 1.1) + 0.2))
    assert not found[:, 0].any() and found[5, 1] == 0 and found[3, 1] > found[0, 1] and found[4, 1] < found[3, 1]


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in BAD.items() for value in values])
def test_what_no_network_can_have_is_refused_in_one_line(key, value):
    with pytest.raises(ValueError) as error:
        Spec.from_dict({**GOOD, key: value})
    assert "\n" not in str(error.value)


def test_a_spec_without_its_classes_is_refused():
    with pytest.raises(ValueError, match="classes"):
        Spec.from_dict({key: value for key, value in GOOD.items() if key != "classes"})
