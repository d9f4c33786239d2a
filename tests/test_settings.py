"""Settings files, presets and zones: what is read, what is refused, and that the documented file is true."""
import os
import re
import subprocess
import sys
import tomllib

import cv2
import numpy as np
import pytest

import fastmcd
from tests.scripts import ROOT
from util import packed
from util.errors import InputError
from util.track.zones import make_zones
from util.watch.settings import NUMBERS, OTHERS, load_settings, preset_names, save_drawing

CLASSES = ["automobile", "truck", "dog"]


def test_defaults_presets_and_files_are_layers(tmp_path):
    plain = load_settings(None, CLASSES)
    assert plain["detector"] == {} and plain["tracks"]["min_sightings"] == 5 and plain["names"]["unknown_below"] is None
    assert load_settings("traffic", CLASSES)["names"]["only"] == ["automobile", "truck"]
    (tmp_path / "a.toml").write_text('preset = "traffic"\n[tracks]\nmin_sightings = 9\n[detector]\nmin_area = 0.01\n')
    mixed = load_settings(str(tmp_path / "a.toml"), CLASSES)
    assert mixed["tracks"] == {"min_sightings": 9, "lost_seconds": 2.0, "keep_seconds": 1.0, "overlap": 0.2}
    assert mixed["detector"] == {"min_area": 0.01} and mixed["names"]["only"] == ["automobile", "truck"]
    assert load_settings(None, CLASSES) == plain


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tracks = 3", "expected the tables"),
        ("[nonsense]\na = 1", "expected the tables"),
        ("tracks.nonsense = 1", "it has min_sightings"),
        ("tracks.min_sightings = 2.5", "whole number from 1"),
        ("tracks.min_sightings = true", "whole number from 1"),
        ("tracks.lost_seconds = -1", "number from 0"),
        ("tracks.lost_seconds = nan", "number from 0"),
        ('names.only = ["lorry"]', "expected some of automobile"),
        ("names.only = 3", "expected some of automobile"),
        ("names.kinds = 1", "expected true or false"),
        ("names.geometry = 0", "names.geometry is 0; expected true or false"),
        ("names.prior = { lorry = 2 }", "expected a number above 0 for some of automobile"),
        ("names.prior = { dog = 0 }", "expected a number above 0 for some of automobile"),
        ("names.prior = 3", "expected a number above 0 for some of automobile"),
        ("zones.ignore = 3", "image file or polygons"),
        ("zones.gate = 3", "image file or polygons"),
        ('zones."a gate" = []', "is no name"),
        ('lines."" = [[0, 0], [1, 1]]', "is no name"),
        ("lines.stop = [[0, 0]]", "expected two points"),
        ("lines.stop = [[5, 5], [5, 5]]", "expected two points that differ"),
        ("lines.stop = [[0, 0], [1, nan]]", "expected two points"),
        ("lines.stop = [[0, 0], [1, true]]", "expected two points"),
        ("lines.stop = [[0, 0, 0], [1, 1]]", "expected two points"),
        ('lines.stop = "line.png"', "expected two points"),
        ('detector.min_area = "big"', "expected a number"),
        ('preset = "moon"', "expected one of"),
        ("preset = 3", "expected one of"),
        ('preset = ["traffic"]', "expected one of"),
        ("preset = {}", "expected one of"),
        ("tracks = [", "no TOML file"),
        ("x = " + "[" * 30000, "no TOML file: RecursionError"),
        ("detector.points = 1" + "0" * 5000, "no TOML file: ValueError"),
        ("tracks.min_sightings = 1" + "0" * 400, "whole number from 1"),
        ("tracks.min_sightings = inf", "whole number from 1"),
        ("#" * 2_000_000, "no TOML file: it has more than"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path, text, message):
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises(InputError, match=re.escape(message)) as error:
        load_settings(str(tmp_path / "a.toml"), CLASSES)
    assert "a.toml" in str(error.value)


def test_neither_file_nor_preset(tmp_path):
    with pytest.raises(InputError, match="presets are drone hand-held static traffic"):
        load_settings(str(tmp_path / "none.toml"), CLASSES)
    (tmp_path / "binary.toml").write_bytes(bytes(range(256)))
    with pytest.raises(InputError, match="no TOML file"):
        load_settings(str(tmp_path / "binary.toml"), CLASSES)


@pytest.mark.parametrize("source", ["/dev/zero", "/dev", "a\0b", "a" * 5000, "\udcff"])
def test_what_is_no_file_of_settings_at_all(source):
    with pytest.raises(InputError):
        load_settings(source, CLASSES)


def test_the_documented_settings_are_all_and_their_defaults_true():
    text = (ROOT / "docs" / "settings.toml").read_text()
    given = tomllib.loads(text)
    clips = packed.load(ROOT / "CIFAR_10" / "models" / "vgg_clips.xnor").spec.detector
    defaults = {name: default for name, (default, _) in fastmcd.PARAMS.items()}
    apart = {name: value for name, value in clips.items() if value != defaults[name]}
    head = text.partition("[tracks]")[0].replace("\n# ", " ")
    assert all(f"{name} {value:g}" in head for name, value in apart.items()), "which networks for clips bring"
    assert not apart.keys() & given["detector"].keys(), "the file would win over them"
    lines = re.sub(rf"^# ({'|'.join(apart)}) = ", r"\1 = ", text, flags=re.MULTILINE)
    assert tomllib.loads(lines)["detector"] == defaults
    assert all(f"# {help}" in text for _, help in fastmcd.PARAMS.values())
    for table, keys in NUMBERS.items():
        assert {key: value for key, (value, _, _) in keys.items() if value is not None}.items() <= given[table].items()
        assert all(re.search(rf"^(# )?{key} = ", text, re.MULTILINE) for key in keys)
    assert all(keys.items() <= given[table].items() for table, keys in OTHERS.items())
    load_settings(str(ROOT / "docs" / "settings.toml"), CLASSES)


def test_presets_fit_the_detector():
    for name in preset_names():
        fastmcd.Detector(64, 48, **load_settings(name, CLASSES)["detector"])


def test_zones_keep_boxes_that_lie_mostly_inside(tmp_path):
    boxes = np.array([[0, 0, 10, 10], [45, 0, 10, 10], [46, 0, 10, 10], [80, 80, 20, 20]])
    left = [[[0, 0], [49, 0], [49, 99], [0, 99]]]
    assert make_zones(100, 100, [], []).keep(boxes).all()
    assert make_zones(100, 100, left, []).keep(boxes).tolist() == [True, True, False, False]
    assert make_zones(100, 100, [], left).keep(boxes).tolist() == [False, True, True, True]
    image = np.zeros((100, 100), np.uint8)
    image[:, :50] = 255
    cv2.imwrite(str(tmp_path / "zone.png"), image)
    (tmp_path / "a.toml").write_text('zones.watch = "zone.png"')
    zones = load_settings(str(tmp_path / "a.toml"), CLASSES)["zones"]
    assert make_zones(100, 100, **zones).keep(boxes).tolist() == [True, True, False, False]
    with pytest.raises(InputError, match="100x100 pixels, the video 64x48"):
        make_zones(64, 48, **zones)
    with pytest.raises(InputError, match="nothing is left"):
        make_zones(100, 100, left, left)


def test_zones_and_lines_have_names(tmp_path):
    text = "[zones]\nwidth = [[[0, 0], [9, 0], [9, 9]]]\nyard = 'yard.png'\n[lines]\nstop = [[0, 5], [9.5, 5]]\n"
    (tmp_path / "a.toml").write_text(text)
    cv2.imwrite(str(tmp_path / "yard.png"), np.full((50, 60), 255, np.uint8))
    settings = load_settings(str(tmp_path / "a.toml"), CLASSES)
    assert settings["lines"] == {"stop": [[0, 5], [9.5, 5]]} and load_settings(None, CLASSES)["lines"] == {}
    zones = make_zones(60, 50, **settings["zones"])
    assert zones.counts is None and {name: int(area.sum()) for name, area in zones.named.items()} == {"width": 55, "yard": 3000}
    with pytest.raises(InputError, match="zones: gate has no pixel of the 60x50 picture"):
        make_zones(60, 50, [], [], gate=[[[70, 0], [90, 0], [90, 9]]])


@pytest.mark.parametrize("polygon", [[1, 2, 3], [[0, 0], [1, 1]], [["a", 0], [1, 1], [2, 2]], [[0, 0], [1e9, 0], [5, 5]], [[0, 0], [1]],
                                     [[0, 0], [10**400, 0], [5, 5]], [[0, 0], [float("nan"), 0], [5, 5]], 3, {}])
def test_odd_polygons_are_refused(polygon):
    with pytest.raises(InputError, match="polygons"):
        make_zones(100, 100, [polygon], [])


def test_a_missing_zone_image_is_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.png"):
        make_zones(100, 100, str(tmp_path / "none.png"), [])
    with pytest.raises(InputError, match="no image of a zone: ValueError"):
        make_zones(100, 100, "a\0b.png", [])


@pytest.mark.parametrize(("text", "camera", "kept"), [
    ("# mine\n[zones]\nwatch = [[[0, 0], [9, 0], [9, 9]]]\n[names]\nhold = 0.2\n", None, True),
    ("zones = {watch = [[[0, 0], [9, 0], [9, 9]]]}\n", None, True),
    ('[cameras.a]\nsource = "x"\n[names]\nhold = 0.2\n[cameras.a.lines]\nstop = [[0, 0], [9, 9]]\n', "a", True),
    ("lines.stop = [[0, 0], [9, 9]]\nzones.watch = [[[0, 0], [9, 0], [9, 9]]]\n", None, True),
    ('cameras.a.source = "x"\ncameras.a.lines.stop = [[0, 0], [9, 9]]\ncameras.b.source = "y"\n', "a", False),
    ('cameras = {a = {source = "x"}}\n', "a", False), ("zones = 3\n", None, False), ("[[lines]]\nx = 1\n", None, False),
    ('[cameras.b]\nsource = "removed meanwhile"\n', "a", False), ("[lines", None, False),
])  # fmt: skip
def test_a_drawing_is_saved_into_any_layout_or_nothing_is_changed(tmp_path, text, camera, kept):
    path = tmp_path / "s.toml"
    path.write_text(text)
    drawing = {"zones": {"gate": [[[1, 1], [5, 1], [5, 5]]]}, "lines": {"go": [[0, 0], [5, 5]], "come": [[0, 1], [5, 6]]}}
    if not kept:
        with pytest.raises(InputError, match="cannot be saved into it as it is laid out|is no TOML file"):
            save_drawing(path, camera, drawing, lambda path: None)
        assert path.read_text() == text
        return
    save_drawing(path, camera, drawing, lambda path: load_settings(str(path), CLASSES, camera))
    before, after = tomllib.loads(text), tomllib.loads(path.read_text())
    for whole in (before, after):
        place = whole["cameras"][camera] if camera else whole
        assert whole is before or {table: place[table] for table in drawing} == drawing
        place.pop("zones", None), place.pop("lines", None)
    assert after == before and ("# mine" in path.read_text()) == ("# mine" in text)


def test_a_drawing_is_saved_in_utf_8_whatever_the_locale_says(tmp_path):
    (tmp_path / "s.toml").write_text("# Grüße\n", encoding="utf-8")
    code = "from util.watch.settings import *; save_drawing(Path('s.toml'), None, {'lines': {'go': [[0, 0], [5, 5]]}}, repr)"
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, **ascii_only}, check=True, timeout=60)
    assert (tmp_path / "s.toml").read_text(encoding="utf-8").startswith("# Grüße\n")
