"""The command that scores a run: every layout of truth, every file of results, the demo end to end, and one line for what is wrong."""
import json
import os
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.scripts import ROOT, run_script
from util.errors import InputError
from util.score import evaluate
from util.score.scenes import Frame, Mover, Scene, TrueBox, camera_path, digit_sprite, texture
from util.score.truth import read_truth, write_truth

HEIGHT, WIDTH, FRAMES = 60, 80, 5
NAMES = ["cat", "dog"]
CSV = "frame,x,y,width,height,label,probability\n"


def boxes_of(frame):
    """Two objects that walk, from frame 1 on: (identity, x, y, width, height, name)."""
    return [(1, 5 + 3 * frame, 10, 20, 12, "cat"), (2, 50 - 2 * frame, 35, 16, 16, "dog")]


def mask_of(frame, levels=(255, 255)):
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    for level, (_, x, y, w, h, _) in zip(levels, boxes_of(frame), strict=True):
        mask[y : y + h, x : x + w] = level
    return mask


def write_results(directory, frames=FRAMES, shift=0):
    """What a run over the walking objects writes; `shift` moves all boxes to the right."""
    (directory / "masks").mkdir(parents=True)
    coco, tracks, names = [], "", "frame,object,x,y,width,height,label,probability,track\n"
    for frame in range(1, frames + 1):
        cv2.imwrite(str(directory / "masks" / f"{frame:06d}.png"), mask_of(frame))
        for number, x, y, w, h, name in boxes_of(frame):
            box = f"{x + shift},{y},{w},{h}"
            coco.append({"image_id": frame, "category_id": number, "bbox": [x + shift, y, w, h], "score": 0.9, "track_id": number})
            tracks += f"{frame},{number},{x + shift + 1},{y + 1},{w},{h},0.9,-1,-1,-1\n"
            names += f"{frame},{number - 1},{box},{name},0.8,{number}\n"
    (directory / "coco.json").write_text(json.dumps(coco))
    (directory / "tracks.txt").write_text(tracks)
    (directory / "predictions.csv").write_text(names)
    return directory


def write_cdnet(directory, first=1):
    """CDnet's layout, with numbers from `first`: 50 beside an object, nothing known of the first frame, the last out of time."""
    for name in ("input", "groundtruth"):
        (directory / name).mkdir(parents=True)
    for frame in range(1, FRAMES + 1):
        truth = mask_of(frame)
        truth[50:, :4] = 50
        truth[:] = truth if frame > 1 else 85
        cv2.imwrite(str(directory / "input" / f"in{frame + first - 1:06d}.jpg"), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
        cv2.imwrite(str(directory / "groundtruth" / f"gt{frame + first - 1:06d}.png"), truth)
    cv2.imwrite(str(directory / "ROI.bmp"), np.full((HEIGHT, WIDTH + 10), 255, np.uint8))
    (directory / "temporalROI.txt").write_text(f"{first} {first + FRAMES - 2}")
    return directory


def write_davis(directory):
    """DAVIS's layout: palette images whose numbers are the objects."""
    (directory / "groundtruth").mkdir(parents=True)
    for frame in range(1, FRAMES + 1):
        image = Image.fromarray(mask_of(frame, (1, 2)), mode="P")
        image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
        image.save(directory / "groundtruth" / f"{frame - 1:05d}.png")
    return directory


def write_mot(directory):
    (directory / "gt").mkdir(parents=True)
    rows = [(f, i, x + 1, y + 1, w, h, 1, NAMES.index(name) + 1, 1.0) for f in range(1, FRAMES + 1) for i, x, y, w, h, name in boxes_of(f)]
    (directory / "gt" / "gt.txt").write_text("".join(",".join(map(str, row)) + "\n" for row in rows))
    (directory / "gt" / "labels.txt").write_text("\n".join(NAMES))
    (directory / "seqinfo.ini").write_text(f"[Sequence]\nname=clip\nseqLength={FRAMES}\n")
    return directory


def write_coco(directory):
    directory.mkdir(parents=True)
    annotations = [
        {"id": 9 * f + i, "image_id": f, "category_id": 7 + NAMES.index(name), "bbox": [x, y, w, h], "track_id": i}
        for f in range(1, FRAMES + 1)
        for i, x, y, w, h, name in boxes_of(f)
    ]
    categories = [{"id": 7 + k, "name": name} for k, name in enumerate(NAMES)]
    images = [{"id": f, "file_name": f"{f:06d}.jpg"} for f in range(1, FRAMES + 1)]
    whole = {"images": images, "annotations": annotations, "categories": categories}
    (directory / "annotations.json").write_text(json.dumps(whole))
    return directory


PIXELS, BOXES = ["precision", "recall", "f_measure"], ["box_precision", "box_recall", "AR10", "AR100", "AP50"]
TRACKS, LABELS = ["MOTA", "IDF1", "HOTA"], ["label_accuracy", "mAP50"]


@pytest.mark.parametrize(
    ("write", "known"),
    [
        (write_cdnet, PIXELS + BOXES),
        (write_davis, PIXELS + BOXES + TRACKS),
        (write_mot, BOXES + TRACKS + LABELS),
        (write_coco, BOXES + TRACKS + LABELS),
    ],
)
def test_perfect_results_score_one_in_every_layout(tmp_path, write, known):
    score = evaluate.score(write_results(tmp_path / "run"), write(tmp_path / "truth"))
    assert {key: score[key] for key in known} == pytest.approx(dict.fromkeys(known, 1.0))
    assert all(score[key] is None for key in {*PIXELS, *BOXES, *TRACKS, *LABELS} - set(known))
    assert score["switches"] in (0, None) and score["AR1"] == pytest.approx(0.5)


@pytest.mark.parametrize("first", [1, 470])
def test_frames_of_cdnet_are_found_by_their_pictures_and_counted_in_their_time(tmp_path, first):
    truth = read_truth(write_cdnet(tmp_path / "truth", first))
    assert sorted(truth.masks) == [1, 2, 3, 4] and truth.masks[2].stem == f"gt{first + 1:06d}"
    boxes, frames = truth.mask_boxes()
    assert frames.tolist() == [2, 3, 4] and len(boxes) == 6 and truth.levels(1) is None
    score = evaluate.score(write_results(tmp_path / "run"), tmp_path / "truth")
    assert score["tp"] == 3 * (20 * 12 + 16 * 16) and score["shadow"] == 3 * 10 * 4 and score["boxes_true"] == 6 and score["frames"] == 3


def test_a_shift_lowers_scores_by_what_it_takes_away(tmp_path):
    truth = write_mot(tmp_path / "truth")
    score = evaluate.score(write_results(tmp_path / "run", shift=6), truth)  # IoU 14/26 and 10/22
    assert score["box_recall"] == score["box_precision"] == 0.5 and score["MOTA"] == 0 and score["IDF1"] == 0.5
    assert score["label_accuracy"] == 1 and score["mAP50"] == pytest.approx(0.5) and 0 < score["AR100"] < 0.2


def test_what_a_run_did_not_write_is_not_scored(tmp_path, capsys):
    run, truth = write_results(tmp_path / "run"), write_cdnet(tmp_path / "truth")
    for name in ("coco.json", "tracks.txt", "predictions.csv"):
        (run / name).unlink()
    evaluate.main([str(run), str(truth)])
    heading, row = (line.split() for line in capsys.readouterr().out.splitlines())
    assert dict(zip(heading, row, strict=True))["F"] == "1.000" and row.count("-") == len(evaluate.TABLE) - 4
    (run / "detections.csv").write_text("frame,object,x,y,width,height,score,crop\n2,0,11,10,20,12,0.9,crops/000002_00.png\n")
    assert evaluate.score(run, truth)["box_recall"] == pytest.approx(1 / 6)


@pytest.mark.parametrize(("folder", "name"), [("cdnet", "bin{:06d}.png"), ("", "bin{:06d}.png")])
def test_masks_under_cdnets_names_do_as_well(tmp_path, folder, name):
    run = write_results(tmp_path / "run")
    (run / folder).mkdir(exist_ok=True)
    for path in sorted((run / "masks").iterdir()):
        shutil.move(path, run / folder / name.format(int(path.stem)))
    assert evaluate.score(run, write_cdnet(tmp_path / "truth"))["f_measure"] == 1


def test_folders_of_clips_give_a_row_each_a_mean_and_a_file(tmp_path, capsys):
    for name, shift in (("a", 0), ("b", 6)):
        write_results(tmp_path / "runs" / name, shift=shift)
        write_mot(tmp_path / "truths" / name)
    arguments = [tmp_path / "runs", tmp_path / "truths", write_results(tmp_path / "c"), write_cdnet(tmp_path / "street")]
    evaluate.main([*map(str, arguments), "--json", str(tmp_path / "new" / "scores.json")])
    heading, *rows = (line.split() for line in capsys.readouterr().out.splitlines())
    assert [row[0] for row in rows] == ["a", "b", "street", "mean"]
    whole = json.loads((tmp_path / "new" / "scores.json").read_text())
    assert whole["clips"]["b"]["box_recall"] == 0.5 and whole["mean"]["box_recall"] == pytest.approx(2.5 / 3)
    assert whole["mean"]["MOTA"] == 0.5 and whole["mean"]["f_measure"] == 1  # of the clips that have them
    assert dict(zip(heading, rows[-1], strict=True))["MOTA"] == "0.500"


def test_rows_of_a_truth_that_do_not_count_and_empty_lines_need_nothing(tmp_path):
    path = write_mot(tmp_path / "truth") / "gt" / "gt.txt"
    text = path.read_text()
    plain = evaluate.score(write_results(tmp_path / "run"), tmp_path / "truth")
    for more in (text + "\n", "\ufeff" + text, text.replace("\n", "\r\n"), text + "5,-1,70,50,5,5,0,-1,1\n5,-1,60,50,5,5,0,99,1\n"):
        path.write_text(more)
        assert evaluate.score(tmp_path / "run", tmp_path / "truth") == plain
    assert read_truth(tmp_path / "truth").boxes.ignored.sum() == 2


def test_a_folder_of_any_name_has_its_row(tmp_path, capsys):
    name = os.fsdecode(b"caf\xe9\x1b[2J")
    for write, folder in ((write_results, "runs"), (write_mot, "truths")):
        write(tmp_path / folder / "clip").rename(tmp_path / folder / name)  # cv2.imwrite can't write there
    evaluate.main([str(tmp_path / "runs"), str(tmp_path / "truths")])
    assert r"caf\udce9\x1b[2J" in capsys.readouterr().out


def test_objects_get_one_name_where_the_truth_has_none(tmp_path, capsys):
    score = evaluate.score(write_results(tmp_path / "run"), write_davis(tmp_path / "truth"), label="cat")
    assert score["label_accuracy"] == 0.5 and score["labels"] == 2 * FRAMES
    (tmp_path / "run" / "coco_categories.json").write_text('[{"id": 0, "name": "unknown"}, {"id": 1, "name": "cat"}]')
    for label, said in (("cat", ""), ("Cat", f"{tmp_path / 'run'}: its network has no class 'Cat'; it has unknown cat\n")):
        evaluate.score(tmp_path / "run", tmp_path / "truth", label=label)
        assert capsys.readouterr().err == said


def test_runs_that_were_not_finished_are_left_out_of_a_folder(tmp_path, capsys):
    for name in ("a", "a.part", "b.part"):
        write_results(tmp_path / "runs" / name)
    write_mot(tmp_path / "truths" / "a")
    assert list(evaluate.main([str(tmp_path / "runs"), str(tmp_path / "truths")])) == ["a"]
    left_out = [f"{tmp_path / 'runs' / name}.part is left out: a run that was not finished" for name in "ab"]
    assert capsys.readouterr().err.splitlines() == left_out


def test_a_part_is_scored_if_asked_for(tmp_path):
    run, truth = write_results(tmp_path / "run", frames=3), write_davis(tmp_path / "truth")
    with pytest.raises(InputError, match="ends at frame 3, but the truth goes on to 5; --limit 3"):
        evaluate.score(run, truth)
    score = evaluate.score(run, truth, limit=3)
    assert score["frames"] == 3 and score["boxes_true"] == 6 and score["f_measure"] == score["IDF1"] == 1
    run = write_results(tmp_path / "whole")
    assert evaluate.score(run, truth, limit=100) == evaluate.score(run, truth), "one of several clips may have fewer frames than that"


def test_coco_without_identities_for_all_has_none(tmp_path):
    path = write_coco(tmp_path / "truth") / "annotations.json"
    whole = json.loads(path.read_text())
    whole["annotations"][0] |= {"iscrowd": 1}
    del whole["annotations"][0]["track_id"]
    path.write_text(json.dumps(whole))
    assert read_truth(path).boxes.id.tolist() == [0, 1, 2, 1, 2, 1, 2, 1, 2, 1]  # numbered as they come
    del whole["annotations"][1]["track_id"]
    path.write_text(json.dumps(whole))
    assert not read_truth(path).boxes.id.any() and evaluate.score(write_results(tmp_path / "run"), path)["MOTA"] is None


# ---- Clips drawn by code ----
def test_a_clip_drawn_by_code_is_scored_end_to_end(tmp_path):
    """Results made of the truth itself score 1 wherever they can, though one object leaves the frame and one covers another."""
    ways = [lambda t: (130 - 3 * t, 80), lambda t: (60 + 4 * t, 130), lambda t: (190 - 4 * t, 135)]
    movers = [Mover(digit_sprite(d, size=30), way, d) for d, way in zip((3, 8, 5), ways, strict=True)]
    frames = list(Scene(160, 120, texture(300, 300, 1), camera_path(30, (40, 40), pan=(0.5, 0.2)), movers))
    assert min(o.visible for frame in frames for o in frame.truth) < 0.5
    write_truth(frames, tmp_path / "truth", list("0123456789"))
    (tmp_path / "run" / "masks").mkdir(parents=True)
    tracks, names = "", "frame,object,x,y,width,height,label,probability\n"
    for number, frame in enumerate(frames, 1):
        cv2.imwrite(str(tmp_path / "run" / "masks" / f"{number:06d}.png"), frame.mask)
        for o in frame.truth:
            tracks += f"{number},{o.id + 40},{o.x + 1},{o.y + 1},{o.width},{o.height},1,-1,-1,-1\n"
            names += f"{number},{o.id},{o.x},{o.y},{o.width},{o.height},{o.label},0.9\n"
    (tmp_path / "run" / "tracks.txt").write_text(tracks)
    (tmp_path / "run" / "predictions.csv").write_text(names)
    score = evaluate.score(tmp_path / "run", tmp_path / "truth")
    keys = PIXELS + BOXES + TRACKS + LABELS
    assert {key: score[key] for key in keys} == pytest.approx(dict.fromkeys(keys, 1.0))
    assert score["boxes_true"] == sum(o.visible >= 0.9 for frame in frames for o in frame.truth) < 3 * 30
    with pytest.raises(InputError, match="is not empty"):
        write_truth(frames, tmp_path / "truth", [])


def test_the_demo_writes_its_clip_and_its_truth(tmp_path):
    done = run_script("MNIST/demo.py", "--truth", tmp_path / "truth", "--frames", "8")
    assert done.returncode == 0, done.stderr
    truth = read_truth(tmp_path / "truth")
    assert len(list((tmp_path / "truth" / "input").iterdir())) == 8 and truth.frames.tolist() == list(range(1, 9))
    assert set(truth.boxes.label) <= set("0123456789") and len(truth.boxes) > 40 and truth.boxes.ignored.any()
    for frame in truth.frames:  # boxes and masks tell the same
        left, top = truth.boxes.box[truth.boxes.frame == frame, :2].min(0)
        moving = np.argwhere(truth.levels(frame) == 255).min(0)
        assert moving.tolist() == [top, left]


def test_who_comes_back_after_a_while_is_another(tmp_path):
    def frame(there):
        return Frame(np.zeros((40, 40, 3), np.uint8), [TrueBox(1, 2, 9, 9, 0, 3, 1.0)] * there, np.zeros((40, 40), np.uint8), None)

    write_truth([frame(there) for there in [1] * 2 + [0] * 10 + [1] + [0] * 30 + [1]], tmp_path / "truth", ["card"])
    assert read_truth(tmp_path / "truth").boxes.id.tolist() == [1, 1, 1, 2]


# ---- What is wrong ----
def spoil(path, text):
    if text is None:
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes(text.encode() if isinstance(text, str) else text)


@pytest.mark.parametrize(
    ("write", "name", "text", "words"),
    [
        (write_cdnet, "temporalROI.txt", "one two", "temporalROI.txt holds 'one two', expected"),
        (write_cdnet, "temporalROI.txt", f"1 {'9' * 5000}", "temporalROI.txt holds '1 999"),
        (write_cdnet, "temporalROI.txt", "900 950", "none of the masks' numbers"),
        (write_cdnet, "groundtruth/gt000003.png", b"\x89PNG", "gt000003.png cannot be read as an image"),
        (write_cdnet, "groundtruth/mask.png", b"", "mask.png has no number in its name"),
        (write_cdnet, "groundtruth/gt000077.png", b"", "has no picture with its number"),
        (write_cdnet, "ROI.bmp", cv2.imencode(".bmp", np.zeros((9, 9), np.uint8))[1].tobytes(), "ROI.bmp is 9x9, its masks 80x60"),
        (write_davis, "groundtruth/00002.png", b"\x89PNG", "00002.png is no image"),
        (write_mot, "gt/gt.txt", "1,1,5,5,9,9\nx,1,2,3,4,5\n", "gt.txt line 2 is 'x,1,2,3,4,5'"),
        (write_mot, "gt/gt.txt", "1,1,5,5,9\n", "line 1 is '1,1,5,5,9', expected frame,id"),
        (write_mot, "gt/gt.txt", "1,1,5,5,0,9\n", "boxes have a size"),
        (write_mot, "gt/gt.txt", "0,1,5,5,9,9\n", "frames count from 1"),
        (write_mot, "gt/gt.txt", "1,1,5,5,9,9\n1,1,8,8,9,9\n", "line 2: identity 1 is twice in frame 1"),
        (write_mot, "gt/gt.txt", "1,1,5,5,9,9,1,3,1\n", "class is 3, but"),
        (write_mot, "seqinfo.ini", "[Sequence]\n", "is no seqinfo.ini with a whole number seqLength"),
        (write_mot, "seqinfo.ini", "[Sequence]\nseqLength=1000000000\n", "seqLength is 1000000000; expected 1 to 10000000"),
        (write_mot, "seqinfo.ini", "[Sequence]\nseqLength=0\n", "expected 1 to"),
        (write_mot, "seqinfo.ini", b"\xff\xfe\0", "seqinfo.ini: UnicodeDecodeError"),
        (write_mot, "gt/gt.txt", "1,1,5,5,9,9\n1e19,1,1,1,5,5,1,1,1\n", "line 2 is '1e19,1,1,1,5,5,1,1,1'; frames count from 1 to"),
        (write_mot, "gt/gt.txt", "1,1e19,1,1,5,5\n", "identities count from 1"),
        (write_mot, "gt/gt.txt", "1,1,5,5,9,9\n1.4,1,8,8,9,9\n", "line 2 is '1.4,1,8,8,9,9'; frames and identities are whole numbers"),
        (write_mot, "gt/gt.txt", "1,1,5,5,9,9\n1,1.5,8,8,9,9\n", "line 2 is '1,1.5,8,8,9,9'; frames and identities are whole numbers"),
        (write_mot, "gt/gt.txt", "1,1,1e300,1,5,5\n", "pixels are below"),
        (write_mot, "gt/gt.txt", "".join(f"1,{i},1,1,5,5\n" for i in range(1, 2002)), "frame 1 has 2001 boxes"),
        (write_coco, "annotations.json", "[" * 200000, "is no COCO file of boxes: RecursionError"),
        (write_coco, "annotations.json", "1" * 5000, "is no COCO file of boxes: ValueError"),
        (
            write_coco,
            "annotations.json",
            '{"images": [{"id": 1}], "categories": [{"id": 1, "name": ["a"]}], "annotations": []}',
            "names of the categories must be text",
        ),
        (write_coco, "annotations.json", '{"images": [{"id": 100000000000000000000}], "categories": [], "annotations": []}', "from 1 to"),
        (write_coco, "annotations.json", "{", "is no COCO file of boxes: JSONDecodeError"),
        (write_coco, "annotations.json", "[]", "is no COCO file of boxes: TypeError"),
        (
            write_coco,
            "annotations.json",
            json.dumps(
                {
                    "categories": [{"id": 1, "name": "cat"}],
                    "images": [{"id": 1}],
                    "annotations": [{"image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5], "track_id": "a"}] * 2,
                }
            ),
            "track_id a is twice in image 1",
        ),
        (write_coco, "annotations.json", '{"categories": [], "images": [{"id": 0}], "annotations": []}', "ids must be frame numbers"),
    ],
)
def test_a_damaged_truth_is_named(tmp_path, write, name, text, words):
    spoil(write(tmp_path / "truth") / name, text)
    with pytest.raises(InputError) as error:
        evaluate.score(write_results(tmp_path / "run"), tmp_path / "truth")
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("coco.json", "[{]", "is no COCO file of results: JSONDecodeError"),
        ("coco.json", '[{"image_id": 1}]', "is no COCO file of results: KeyError 'bbox'"),
        ("coco.json", '[{"image_id": 1, "bbox": [1, 2, 0, 4], "score": 1}]', "boxes have a size"),
        ("predictions.csv", "frame,x,y,width,height,label,probability\n1,2,3,4,five,cat,1\n", "predictions.csv line 2: ValueError"),
        ("predictions.csv", "frame,label\n1,cat\n", "predictions.csv line 2: KeyError 'x'"),
        ("coco.json", None, "coco.json: Is a directory"),
        ("coco.json", "[" * 200000, "is no COCO file of results: RecursionError"),
        ("coco.json", '[{"image_id": 1e400, "bbox": [1, 2, 3, 4], "score": 1}]', "OverflowError"),
        ("coco.json", '[{"image_id": 1, "bbox": [1, 2, 3, 4, 5], "score": 1}]', "ValueError too many values"),
        ("coco.json", '[{"image_id": 1, "bbox": [1, 2, 3, 4], "score": NaN}]', "score nan"),
        ("predictions.csv", CSV + "1,1,1,9,9," + "c" * 200000 + ",1\n", "field larger than field limit"),
        ("predictions.csv", CSV + "9" * 30 + ",1,1,9,9,c,1\n", "OverflowError"),
        ("tracks.txt", "1,-1,5,5,9,9,1,-1,-1,-1\n", "identities count from 1"),
        ("masks/000002.png", b"broken", "000002.png cannot be read as an image"),
        ("masks/000002.png", cv2.imencode(".png", np.zeros((9, 9), np.uint8))[1].tobytes(), "000002.png is 9x9, the true one 80x60"),
    ],
)
def test_damaged_results_are_named(tmp_path, name, text, words):
    write_mot(write_cdnet(tmp_path / "truth"))
    spoil(write_results(tmp_path / "run") / name, text)
    with pytest.raises(InputError) as error:
        evaluate.score(tmp_path / "run", tmp_path / "truth")
    assert words in str(error.value) and "\n" not in str(error.value)


def test_a_mask_missing_in_the_middle_is_named(tmp_path):
    (write_results(tmp_path / "run") / "masks" / "000003.png").unlink()
    with pytest.raises(InputError, match="has no mask of frame 3"):
        evaluate.score(tmp_path / "run", write_cdnet(tmp_path / "truth"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run"], "1 paths are given; expected RESULTS TRUTH"),
        (["run", "nowhere"], "nowhere is not there"),
        (["nowhere", "truth"], "nowhere is no folder of results"),
        (["empty", "truth"], "empty holds neither masks nor one of"),
        (["run", "empty"], "empty holds no truth"),
        (["run", "run/masks/000001.png"], "000001.png is no truth"),
        (["run", "truth", "--limit", "0"], "--limit is 0"),
    ],
)
def test_wrong_paths_end_in_one_line(tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    write_results(tmp_path / "run"), write_mot(tmp_path / "truth"), (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=words):
        evaluate.main(arguments)


def test_the_command_ends_with_code_2(tmp_path):
    command = [sys.executable, "-m", "util.score.evaluate", tmp_path, tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "holds" in done.stderr and done.stdout == ""
