"""Zones and lines that are drawn on the page: saved as settings, and in use at once."""
import stat
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from tests.test_settings import CLASSES
from util.errors import InputError
from util.watch.drawing import Drawing
from util.watch.pipeline import Pipeline
from util.watch.settings import load_settings

TOML = """# my camera
preset = "traffic"   # by the road

[tracks]
min_sightings = 7  # mine

[zones]
watch = [[[0, 0], [90, 0], [90, 60]]]   # the road
mask = "mask.png"
"""
AREAS = {"watch": [[[1, 2], [50, 2], [50, 40.4]]], "ignore": [], "gate": [[[5, 5], [20, 5], [20, 20]]]}
DRAWN = {"zones": AREAS, "lines": {"stop": [[0, 30], [96, 30]]}}


@pytest.fixture
def drawn(tmp_path):
    """A drawing over settings in a file, and its pipeline."""
    def make(text=TOML, camera=None):
        path = tmp_path / "settings.toml"
        path.write_text(text)
        path.chmod(0o600)
        cv2.imwrite(str(tmp_path / "mask.png"), np.full((64, 96), 255, np.uint8))
        settings = load_settings(str(path), CLASSES, camera)
        network = SimpleNamespace(spec=SimpleNamespace(classes=CLASSES))
        pipeline = SimpleNamespace(size=(96, 64), network=network, places=SimpleNamespace(), redrawn=[])
        pipeline.redraw = lambda new: (pipeline.redrawn.append(new), Pipeline.redraw(pipeline, new))
        return path, Drawing(str(path), camera, pipeline, settings), pipeline

    return make


def test_a_drawing_is_saved_as_settings_and_counts_at_once(drawn):
    path, drawing, pipeline = drawn()
    assert drawing.shown == {"zones": {"watch": [[[0, 0], [90, 0], [90, 60]]], "ignore": []}, "lines": {}}
    answer = drawing.save(DRAWN)
    assert answer["zones"]["watch"] == [[[1, 2], [50, 2], [50, 40]]] and answer["lines"] == DRAWN["lines"]
    loaded = load_settings(str(path), CLASSES)
    assert loaded["zones"]["gate"] == [[[5, 5], [20, 5], [20, 20]]] and loaded["zones"]["mask"].endswith("mask.png")
    assert loaded["tracks"]["min_sightings"] == 7 and loaded["lines"] == {"stop": [[0, 30], [96, 30]]}
    text = path.read_text()
    assert all(comment in text for comment in ("# my camera", "# by the road", "# mine"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600, "it may hold passwords"
    assert pipeline.zones.named.keys() == {"gate", "mask"} and pipeline.places.lines == {"stop": [[0, 30], [96, 30]]}
    drawing.save({"zones": {"watch": [], "ignore": []}, "lines": {}})
    assert load_settings(str(path), CLASSES)["zones"].keys() == {"watch", "ignore", "mask"} and pipeline.zones.counts is None
    assert len(list(path.parent.iterdir())) == 2


def test_a_drawing_of_one_camera_leaves_the_others(drawn):
    text = '[zones]\nignore = [[[0, 0], [9, 0], [9, 9]]]\n'
    text += '[cameras.yard]\nsource = "rtsp://u:p@h/1"\n[cameras.gate] # the gate\nsource = "rtsp://h/2"\n'
    path, drawing, _ = drawn(text, "yard")
    drawing.save(DRAWN)
    assert load_settings(str(path), CLASSES, "yard")["lines"] == DRAWN["lines"]
    other = load_settings(str(path), CLASSES, "gate")
    assert other["lines"] == {} and other["zones"] == {"watch": [], "ignore": [[[0, 0], [9, 0], [9, 9]]]}
    assert "rtsp://u:p@h/1" in path.read_text() and "# the gate" in path.read_text()


@pytest.mark.parametrize(("bad", "message"), [
    (None, "a drawing is"), ([], "a drawing is"), ({"zones": {}}, "a drawing is"), ({"zones": {}, "lines": []}, "a drawing is"),
    ({"zones": {}, "lines": {}, "tracks": {}}, "a drawing is"),
    ({"zones": {"a b": []}, "lines": {}}, "is no name"), ({"zones": {"": []}, "lines": {}}, "is no name"),
    ({"zones": {}, "lines": {"../x": [[0, 0], [1, 1]]}}, "is no name"),
    ({"zones": {"watch": "/etc/passwd"}, "lines": {}}, "no list of polygons"), ({"zones": {"watch": [3]}, "lines": {}}, "needs 3 points"),
    ({"zones": {"watch": [[[0, 0], [1, 1]]]}, "lines": {}}, "needs 3 points"),
    ({"zones": {"watch": [[[0, 0], [1, 1], "x"]]}, "lines": {}}, "not \\[x, y\\]"),
    ({"zones": {"watch": [[[0, 0], [1, 1], [True, 1]]]}, "lines": {}}, "not \\[x, y\\]"),
    ({"zones": {"watch": [[[0, 0], [1, 1], [97, 1]]]}, "lines": {}}, "outside the picture"),
    ({"zones": {"watch": [[[0, 0], [1, 1], [float("nan"), 1]]]}, "lines": {}}, "outside the picture"),
    ({"zones": {}, "lines": {"a": [[0, 0], [0, 0]]}}, "two points that differ"),
    ({"zones": {}, "lines": {"a": [[0, 0], [1, 1], [2, 2]]}}, "two points"),
    ({"zones": {"ignore": [[[0, 0], [96, 0], [96, 64], [0, 64]]]}, "lines": {}}, "nothing is left to watch"),
])  # fmt: skip
def test_a_drawing_that_cannot_be_used_changes_nothing(drawn, bad, message):
    path, drawing, pipeline = drawn()
    with pytest.raises(InputError, match=message) as error:
        drawing.save(bad)
    assert path.read_text() == TOML and ".part" not in str(error.value) and len(list(path.parent.iterdir())) == 2
    assert not pipeline.redrawn or pipeline.redrawn[-1]["zones"]["watch"] == [[[0, 0], [90, 0], [90, 60]]]


def test_without_a_file_nothing_is_saved():
    settings = load_settings("traffic", CLASSES)
    assert Drawing("traffic", None, None, settings).save is None and Drawing(None, None, None, settings).save is None
