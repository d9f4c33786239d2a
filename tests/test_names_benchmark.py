"""benchmarks/names.py: what counts as right, absurd, found and named, on a made clip whose truth is known."""
import functools

import cv2
import numpy as np
import pytest

from tests.networks import RedOrGrey
from tests.scripts import load_script
from util.errors import InputError
from util.score.scenes import Mover, Scene, camera_path, texture
from util.score.truth import write_truth
from util.track.tracking import Sighting

bench = load_script("benchmarks/names.py")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A red square that crosses a grey ground, with its truth."""
    directory = tmp_path_factory.mktemp("clips") / "square"
    sprite = np.full((56, 56, 4), (0, 0, 0, 255), np.uint8)
    sprite[..., 2] = texture(56, 56, seed=2)[..., 0] // 2 + 128
    scene = Scene(320, 240, texture(400, 300, seed=1), camera_path(60), [Mover(sprite, lambda t: (40 + 4 * t, 110))])
    write_truth(scene, directory, ["red"])
    return directory


@pytest.fixture(scope="module")
def measure(clip):
    """A function (right names, unknown_below) -> what the benchmark finds in the clip; the same question is answered once."""
    return functools.cache(lambda *names, **of_network: bench.measure(clip, RedOrGrey(**of_network), list(names), None))


def test_a_rightly_named_clip(measure):
    found = measure("red")
    scores = found.scores()
    assert found.frames == 60 and found.true == found.with_object >= 40
    assert scores["right"] > 0.8 and scores["found"] > 0.8 and scores["named"] == pytest.approx(scores["found"], abs=0.1)
    assert scores["absurd"] < 0.3 and 0 < len(found.samples) <= bench.SAMPLES
    assert found.tracks == found.tracks_right == scores["tracks"] == 1


def test_frames_without_a_right_name_are_told_apart(measure):
    right, none = (measure(name).scores() for name in ("red", "grey"))
    for scores in (right, none):
        assert scores["right"] + scores["no box"] + scores["unknown"] + scores["wrong"] == pytest.approx(1)
    assert right["wrong"] < 0.1 and none["wrong"] > 0.7
    unsure = measure("red", unknown_below=1.0).scores()
    assert unsure["right"] == unsure["wrong"] == 0 and unsure["unknown"] > 0.8


NOT_RIGHT = [
    ([], "no box"),
    ([("red", 200)], "no box"),  # elsewhere
    ([("unknown", 0)], "unknown"),
    ([("unknown", 0), ("red", 200)], "unknown"),
    ([("unknown", 0), ("red", 15)], "wrong"),
]


@pytest.mark.parametrize(("boxes", "why"), NOT_RIGHT)
def test_why_a_frame_has_no_right_name(boxes, why):
    shown = [Sighting((x, 0, 20, 20), (0, 0, 32, 32), 0.5, label=name) for name, x in boxes]
    assert bench.why_missed(shown, np.array([[0.0, 0, 20, 20]])) == why


def test_other_names_are_absurd(measure):
    found = measure("grey")
    scores = found.scores()
    assert scores["right"] < 0.3 and scores["named"] < 0.1 and scores["found"] > 0.8 and scores["absurd"] > 0.7
    assert found.tracks == 1 and scores["tracks"] == 0


def test_where_no_name_is_right_only_absurd_ones_count(measure):
    scores = measure().scores()
    assert np.isnan(scores["right"]) and np.isnan(scores["named"]) and scores["absurd"] > 0.7


def test_samples_are_even_over_the_clip(clip, monkeypatch):
    means = []
    for most in (1000, 8):
        monkeypatch.setattr(bench, "SAMPLES", most)
        means.append([sample[0].mean() for sample in bench.measure(clip, RedOrGrey(), ["red"], None).samples])
    every, some = means
    places = [every.index(mean) for mean in some]
    assert len(places) == 8 and sum(place >= len(every) / 2 for place in places) in (2, 3, 4, 5, 6)


def test_means_and_the_sheet_are_printed(clip, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "load_network", lambda path: RedOrGrey())
    objects = tmp_path / "objects.toml"
    objects.write_text('square = ["red"]\n')
    bench.main([str(clip), "--objects", str(objects), "--sheet", str(tmp_path / "sheet.png")])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["clip", "square", "mean"]
    assert cv2.imread(str(tmp_path / "sheet.png")) is not None


def test_crops_are_called_by_class(tmp_path, capsys):
    for name, colour in (("red", (0, 0, 255)), ("grey", (90, 90, 90))):
        (tmp_path / name).mkdir()
        cv2.imwrite(str(tmp_path / name / "a.png"), np.full((40, 60, 3), colour, np.uint8))
    bench.report_crops(tmp_path, RedOrGrey())
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0][2:] == ["grey", "red", "unknown"]
    assert lines[1][:4] == ["grey", "100%", "0%", "0%"] and lines[2][:4] == ["red", "0%", "100%", "0%"]


def test_a_clip_that_the_list_lacks_is_refused(clip, tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "load_network", lambda path: RedOrGrey())
    objects = tmp_path / "objects.toml"
    objects.write_text("")
    with pytest.raises(InputError, match="does not say what moves in square"):
        bench.main([str(clip), "--objects", str(objects)])


def test_without_clips_and_images_there_is_nothing_to_do():
    with pytest.raises(InputError, match="nothing to do: give a CLIP, --wild or --crops"):
        bench.main([])
