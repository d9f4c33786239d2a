"""From a run to a training set, and the whole way: watch, label, collect, train, export, watch another clip."""
import csv
import json
import os
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest

from tests.scripts import ROOT, load_script
from util import packed
from util.errors import InputError
from util.outputs import dataset
from util.train import head, own
from util.watch.__main__ import main as watch

cifar = load_script("CIFAR_10/main.py")
COLOURS = {"rød": (40, 40, 220), "green": (60, 200, 60), "other": (220, 90, 40)}  # BGR
LANES, GAP, ROUND = 3, 26, 34  # lanes of things that cross the picture; frames from one to the next, more than a second's


def clip(directory, seed, rounds=3, size=(160, 120)):
    """A clip of coloured things that cross a textured ground, in lanes; return [(class, first frame, lane)]."""
    rng = np.random.default_rng(seed)
    ground = cv2.GaussianBlur(rng.integers(60, 190, (size[1], size[0], 3)).astype(np.uint8), (0, 0), 1.5)
    directory.mkdir(parents=True)
    shown = [(list(COLOURS)[(turn + lane) % 3], turn * (ROUND + GAP) + 12, lane) for turn in range(rounds) for lane in range(LANES)]
    for number in range(rounds * (ROUND + GAP) + 12):
        frame = np.clip(ground + rng.normal(0, 2, ground.shape), 0, 255).astype(np.uint8)
        for name, start, lane in shown:
            if 0 <= (age := number - start) < ROUND:
                x, y = 12 + 4 * age, 20 + 40 * lane
                colour = np.clip(np.array(COLOURS[name]) + rng.integers(-15, 16, 3), 0, 255).tolist()
                cv2.ellipse(frame, (x, y), (11, 14), 0, 0, 360, colour, -1)
                cv2.line(frame, (x - 6, y), (x + 6, y), (20, 20, 20), 2)
        cv2.imwrite(str(directory / f"{number + 1:04d}.png"), frame)
    return shown


def tracks_of(run):
    return [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]


def truth_of(track, shown):
    """The class of a track of the made clip, by its lane and time; None for what is nothing of it."""
    lane, frame = (track["box"][1] + track["box"][3] / 2 - 20) / 40, track["best_frame"] - 1
    return next((name for name, start, at in shown if 0 <= frame - start < ROUND and abs(lane - at) < 0.5), None)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """(directory, what was shown) of runs over two clips, named by a network that knows nothing of them."""
    home = tmp_path_factory.mktemp("runs")
    made = []
    for seed, name in enumerate(("first", "second")):
        shown = clip(home / f"{name} clip", seed)
        watch([str(home / f"{name} clip"), "--network", str(ROOT / "CIFAR_10/models/resnet20.xnor"), "--save", str(home / name)])
        made.append((home / name, shown))
    return made


def label(run, shown, path, **changed):
    """Write labels.csv as the page saves it, of every track whose truth is known; return track -> class."""
    names = {str(t["track"]): (truth_of(t, shown), t["first_frame"]) for t in tracks_of(run)}
    names = {track: (changed.get(f"t{track}", name), first) for track, (name, first) in names.items() if name}
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([("track", "class", "first_frame"), *((track, *rest) for track, rest in names.items())])
    return {int(track): name for track, (name, _) in names.items()}


def files_in(directory):
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*.png")}


def test_a_run_becomes_folders_of_views_with_masks_and_nothing_comes_twice(runs, tmp_path, capsys):
    run, shown = runs[0]
    names = label(run, shown, tmp_path / "labels.csv")
    assert len(names) >= 8 and set(names.values()) == set(COLOURS)
    dataset.main([str(run), str(tmp_path / "labels.csv"), str(tmp_path / "set"), "--views", "5"])
    made = files_in(tmp_path / "set")
    assert len(made) == 5 * len(names) and f"--data {tmp_path / 'set'}" in capsys.readouterr().out
    events = {t["track"]: t for t in tracks_of(run)}
    for track, name in names.items():
        frames = [int(file[-10:-4]) for file in made if f"_track{track:06d}_" in file and file.startswith(f"{name}/first-")]
        spread = events[track]["last_frame"] - events[track]["first_frame"]
        assert len(frames) == 5 and max(frames) - min(frames) > spread / 2
    for file in made:
        image = cv2.imread(str(tmp_path / "set" / file), cv2.IMREAD_UNCHANGED)
        assert image.shape[2] == 4 and 0.2 < (image[..., 3] == 255).mean() <= 1
        assert np.abs(image[image[..., 3] == 255][:, :3].mean(0) - COLOURS[file.partition("/")[0]]).max() < 80, file
    dataset.main([str(run), str(tmp_path / "labels.csv"), str(tmp_path / "set"), "--views", "5"])
    assert files_in(tmp_path / "set") == made
    shutil.copytree(run, tmp_path / "renamed")  # the same run under another name
    victim = next(iter(names))
    label(tmp_path / "renamed", shown, tmp_path / "labels.csv", **{f"t{victim}": "grøn"})
    dataset.make(tmp_path / "renamed", tmp_path / "labels.csv", tmp_path / "set", 5)
    again = files_in(tmp_path / "set")
    assert len(again) == len(made) and sum(file.startswith("grøn/") for file in again) == 5
    assert {file.partition("/")[2] for file in again} == {file.partition("/")[2] for file in made}


def test_a_folder_of_crops_becomes_the_same(tmp_path):
    (tmp_path / "crops").mkdir()
    for i in range(3):
        cv2.imwrite(str(tmp_path / "crops" / f"{i} ü.png"), np.full((9, 12, 3), 40 * i, np.uint8))
    (tmp_path / "labels.csv").write_text('crop,class\n0 ü.png,"a, b"\n2 ü.png,狗\n', encoding="utf-8")
    for _ in range(2):
        assert dataset.make(tmp_path / "crops", tmp_path / "labels.csv", tmp_path / "set") == {"a, b": 1, "狗": 1}
    made = files_in(tmp_path / "set")
    assert sorted(file.partition("/")[0] for file in made) == ["a, b", "狗"]
    assert (cv2.imread(str(next((tmp_path / "set" / "a, b").iterdir()))) == 0).all()
    (tmp_path / "labels.csv").write_text("crop,class\nnone.png,cat\n")
    with pytest.raises(InputError, match="'none.png' is no image in"):
        dataset.make(tmp_path / "crops", tmp_path / "labels.csv", tmp_path / "set")


@pytest.mark.parametrize(("table", "words"), [
    ("", "begins with ''"), ("frame,class\n1,cat\n", "begins with 'frame,class'"), ("track,class\n", "names nothing"),
    ("track,class\n1\n", "line 2"), ("track,class\nx,cat\n", "line 2.*whole numbers"), ("track,class\n1,\n", "line 2"),
    ("track,class\n999,cat\n", "999 is no track of .*another run"), ("track,class,first_frame\n1,cat,99999\n", "begins at frame 99999"),
    ("track,class\n1,a/b\n", "line 2: 'a/b' can't be a class"), ("track,class\n1,..\n", "can't be a class"),
    (f"track,class\n1,{'x' * 300}\n", "can't be a class"), ("track,class\n1,unknown\n", "called other"),
    ("track,class\n1,cat\n2,Cat\n", "'cat' and 'Cat' are one folder"),
    ("track,class\n1,cat\n1,dog\n", "line 3: track 1 is 'dog' here and 'cat'"),
    ("track,class\n1,Red\n", "'red' and 'Red' are one folder"), (f"track,class\n1,{'x' * 200_000}\n", "is no table of labels: Error field"),
])  # fmt: skip
def test_bad_labels_are_one_line_and_write_nothing(runs, tmp_path, table, words):
    (tmp_path / "set" / "red").mkdir(parents=True)
    (tmp_path / "labels.csv").write_text(table)
    with pytest.raises(InputError, match=words) as error:
        dataset.make(runs[0][0], tmp_path / "labels.csv", tmp_path / "set")
    assert "\n" not in str(error.value) and not list((tmp_path / "set").rglob("*.*"))


@pytest.mark.parametrize("text", [
    "\ufefftrack;class;first_frame\r\n1;rød;7\r\n;;\r\n2;\"a; b, c\";9\r\n", "track\tclass\tfirst_frame\n1\trød\t7\n2\ta; b, c\t9\n",
])  # fmt: skip
def test_labels_that_a_spreadsheet_saved_are_read(tmp_path, text):
    (tmp_path / "labels.csv").write_bytes(text.encode())
    assert dataset.read_labels(tmp_path / "labels.csv") == {"1@7": "rød", "2@9": "a; b, c"}


def test_what_is_no_run_is_named(runs, tmp_path):
    (tmp_path / "labels.csv").write_text("track,class\n1,cat\n")
    with pytest.raises(InputError, match="none"):
        dataset.make(tmp_path / "none", tmp_path / "labels.csv", tmp_path / "set")
    shutil.copytree(runs[0][0], tmp_path / "run")
    (tmp_path / "run" / "events.jsonl").unlink()
    with pytest.raises(InputError, match=r"has no events\.jsonl and so no tracks"):
        dataset.make(tmp_path / "run", tmp_path / "labels.csv", tmp_path / "set")
    (tmp_path / "run" / "events.jsonl").write_text('{"track": 1}\n')
    with pytest.raises(InputError, match="is no table of tracks"):
        dataset.make(tmp_path / "run", tmp_path / "labels.csv", tmp_path / "set")
    (tmp_path / "set" / "train").mkdir(parents=True)
    with pytest.raises(InputError, match="has train/"):
        dataset.make(runs[0][0], tmp_path / "labels.csv", tmp_path / "set")


def test_the_whole_way_from_a_run_to_a_network_that_names_another_clip(runs, tmp_path, monkeypatch, capsys):
    (run, shown), (_, shown_then) = runs
    label(run, shown, tmp_path / "labels.csv")
    dataset.main([str(run), str(tmp_path / "labels.csv"), str(tmp_path / "set")])
    monkeypatch.setattr(cifar, "HERE", tmp_path)
    monkeypatch.setattr(own, "EPOCH", 192)
    monkeypatch.setattr(head, "IMAGES", 384)
    start = ["--cpu", "--arch", "resnet20", "--pretrained", str(ROOT / "CIFAR_10/models/resnet20.best.pth.tar")]
    accuracy = cifar.main([*start, "--data", str(tmp_path / "set"), "--name", "colours", "--epochs", "1"])
    assert accuracy >= 0.9
    best, exported = tmp_path / "models" / "colours.best.pth.tar", tmp_path / "colours.xnor"
    arguments = ["--cpu", "--arch", "resnet20", "--evaluate", "--data", str(tmp_path / "set"), "--pretrained", str(best)]
    cifar.main([*arguments, "--export", str(exported)])
    assert packed.load(exported).spec.classes == ("green", "other", "rød")

    code = "import sys; from util.watch.__main__ import main; main(sys.argv[1:]); assert 'torch' not in sys.modules"
    (tmp_path / "only.toml").write_text('[names]\nonly = ["green", "rød"]\n', encoding="utf-8")
    arguments = ["--network", exported, "--settings", tmp_path / "only.toml", "--label", "green", "--save", tmp_path / "out"]
    done = subprocess.run([sys.executable, "-c", code, str(runs[1][0].parent / "second clip"), *map(str, arguments)], cwd=ROOT,
                          env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=120)  # fmt: skip
    assert done.returncode == 0 and "green: " in done.stdout, done.stderr
    found = [(t["label"], truth_of(t, shown_then)) for t in tracks_of(tmp_path / "out")]
    found = [(label, "unknown" if truth == "other" else truth) for label, truth in found if truth]
    assert len(found) >= 8 and sum(label == truth for label, truth in found) >= 0.9 * len(found), found
    assert '<button type="button" data-class="rød">' in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "rød" in [kind["name"] for kind in json.loads((tmp_path / "out" / "coco_categories.json").read_text())]
