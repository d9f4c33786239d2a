"""Specs: they go through a file unchanged, and one that no network can have is refused in one line."""
import json

import pytest

from util.spec import Spec

GOOD = {"arch": "vgg", "classes": ["car", "truck"], "shape": [3, 32, 32], "mean": [0.5] * 3, "std": [0.25] * 3,
        "also_right": {"car": ["truck"]}, "temperature": 0.5, "unknown_below": 0.4, "detector": {"crop_aspect": 1.0},
        "kinds": {"vehicle": ["car", "truck"]}, "prior": {"car": 3.0}}  # fmt: skip
BAD = {
    "classes": [[], ["a", "a"], ["a", ""], ["a", "b\n"], ["a", "x" * 101], 7, None],
    "shape": [[3, 32], [2, 32, 32], [3, 0, 32], [3, 32, 10**9]],
    "mean": [[0.5], [float("nan")] * 3], "std": [[0.25, 0.25, 0.0], ["x"] * 3], "crop": ["whole"], "temperature": [0, float("inf")],
    "unknown_below": [-0.1, 1.1], "also_right": [["truck"]], "detector": [{"crop_aspect": "wide"}], "extra": [1],
    "prior": [{"van": 2.0}, {"car": 0.0}, {"car": "often"}, 7], "kinds": [["car"], 7],
}  # fmt: skip


def test_a_spec_goes_through_json_unchanged():
    spec = Spec.from_dict(GOOD)
    assert Spec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    assert spec.right("car") == ("car", "truck") and spec.right("truck") == ("truck",)


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in BAD.items() for value in values])
def test_what_no_network_can_have_is_refused_in_one_line(key, value):
    with pytest.raises(ValueError) as error:
        Spec.from_dict({**GOOD, key: value})
    assert "\n" not in str(error.value)


def test_a_spec_without_its_classes_is_refused():
    with pytest.raises(ValueError, match="classes"):
        Spec.from_dict({key: value for key, value in GOOD.items() if key != "classes"})
