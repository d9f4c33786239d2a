import random
import resource
import signal
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

import fastmcd
from tests.results import ResultsWriter
from util.crops import cut_out
from util.errors import InputError
from util.outputs.results import read_results

HEADER = "frame,object,x,y,width,height,score,crop\n"


def found(*boxes, size=(48, 64)):
    """A result as the detector gives it: crops reach 3 pixels beyond the boxes."""
    boxes = np.array(boxes, np.int32).reshape(-1, 4)
    mask = np.zeros(size, np.uint8)
    for x, y, width, height in boxes:
        mask[y : y + height, x : x + width] = 255
    scores = np.linspace(0.9, 0.3, len(boxes), dtype=np.float32)
    return SimpleNamespace(boxes=boxes, crops=boxes + [-3, -3, 6, 6], scores=scores, mask=mask)


def frame(seed):
    return np.random.default_rng(seed).integers(0, 256, (48, 64, 3), np.uint8)


def written(directory, frames=4, **options):
    with ResultsWriter(directory, **options) as results:
        for number in range(1, frames + 1):
            results.add(number, frame(number), found(*[(5 + 9 * i, 6, 8, 9 + i) for i in range(number % 3)]))
    return directory


def names(directory):
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*.*"))


def test_what_is_written_is_read_back(tmp_path):
    directory = written(tmp_path / "out")
    detections = read_results(directory)
    assert [(d.frame, d.object) for d in detections] == [(1, 0), (2, 0), (2, 1), (4, 0)]
    last = detections[2]
    assert (last.x, last.y, last.width, last.height, last.score) == (14, 6, 8, 10, 0.3)
    assert np.array_equal(last.image[..., :3], frame(2)[3 : 3 + 16, 11 : 11 + 14, ::-1]), "the crop, as RGB"
    alpha = last.image[..., 3]
    assert (alpha[3:-3, 3:-3] == 255).all() and alpha.mean() < 255 * 0.75, "and what moves"
    mask = cv2.imread(str(directory / "masks" / "000002.png"), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(mask, found((5, 6, 8, 9), (14, 6, 8, 10)).mask)


def test_crops_are_read_back_as_a_video_shows_them(tmp_path):
    """The detector's own crops, some of them at the frame's edge: the table does not say where they lie."""
    rng, expected = np.random.default_rng(7), {}
    detector, still = fastmcd.Detector(160, 120), cv2.GaussianBlur(rng.integers(0, 256, (120, 160, 3), np.uint8), (0, 0), 1.5)
    with ResultsWriter(tmp_path) as results:
        for number in range(1, 40):
            image, x = still.copy(), 4 * number
            cv2.circle(image, (x - 10, 25), 11, (255, 255, 255), -1)
            cv2.rectangle(image, (150 - x, 104), (190 - x, 119), (0, 0, 0), -1)
            result = detector.detect(image)
            results.add(number, image, result)
            for i, (crop, box) in enumerate(zip(result.crops.tolist(), result.boxes.tolist(), strict=True)):
                expected[number, i] = cut_out(image, crop, box, result.mask)
    detections = read_results(tmp_path)
    assert len(detections) == len(expected) > 40
    assert all(np.array_equal(d.image, expected[d.frame, d.object]) for d in detections)
    before = [d.image for d in detections]
    cv2.imwrite(str(tmp_path / "masks" / f"{detections[0].frame:06d}.png"), np.zeros((20, 20), np.uint8))
    (tmp_path / "masks" / f"{detections[-1].frame:06d}.png").unlink()
    again = read_results(tmp_path)
    for i in (0, -1):  # a foreign mask, and none
        assert np.array_equal(again[i].image, before[i][..., :3])


def test_files_are_those_of_the_contract(tmp_path):
    directory = written(tmp_path / "out", frames=2, keep_frames=True)
    assert names(directory) == [
        "crops/000001_00.png", "crops/000002_00.png", "crops/000002_01.png", "detections.csv",
        "frames/000001.png", "frames/000002.png", "manifest.txt", "masks/000001.png", "masks/000002.png",
    ]  # fmt: skip
    assert np.array_equal(cv2.imread(str(directory / "frames" / "000002.png")), frame(2))
    lines = (directory / "detections.csv").read_text().splitlines()
    assert lines[0] + "\n" == HEADER and lines[2] == "2,0,5,6,8,9,0.9000,crops/000002_00.png"


def test_best_only_takes_the_highest_score_of_each_frame(tmp_path):
    directory = written(tmp_path / "out")
    table = directory / "detections.csv"
    table.write_text(table.read_text().replace("0.3000", "0.9500"))
    assert [(d.frame, d.object) for d in read_results(directory, best_only=True)] == [(1, 0), (2, 1), (4, 0)]


def test_earlier_results_are_replaced_without_leftovers(tmp_path):
    written(tmp_path / "out", frames=5, keep_frames=True)
    written(tmp_path / "out", frames=1)
    assert names(tmp_path) == [f"out/{name}" for name in ("crops/000001_00.png", "detections.csv", "manifest.txt", "masks/000001.png")]


def test_the_source_is_never_deleted(tmp_path):
    directory = written(tmp_path / "out", keep_frames=True)
    with pytest.raises(InputError, match="would be replaced"):
        ResultsWriter(directory, source=directory / "frames")
    assert len(names(directory / "frames")) == 4
    written(directory, source=0)  # a camera


@pytest.mark.parametrize("end", [KeyboardInterrupt, ValueError])
def test_an_early_end_keeps_the_whole_frames(tmp_path, end):
    with pytest.raises(end), ResultsWriter(tmp_path / "out") as results:
        results.add(1, frame(1), found((5, 6, 8, 9)))
        raise end
    assert len(read_results(tmp_path / "out")) == 1


def test_a_full_disk_keeps_the_whole_frames(tmp_path):
    """A limit on the size of files stands in for the disk: small crops fit, the mask of noise does not."""
    noisy = found((5, 6, 8, 9))
    noisy.mask = frame(1)[..., 0]
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with pytest.raises(OSError), ResultsWriter(tmp_path / "out") as results:
            results.add(1, frame(1), found((5, 6, 8, 9)))
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
            results.add(2, frame(2), noisy)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert names(tmp_path / "out") == ["crops/000001_00.png", "detections.csv", "manifest.txt", "masks/000001.png"]
    assert len(read_results(tmp_path / "out")) == 1


def test_pairs_of_mask_and_frame_are_read(tmp_path):
    picture, mask = frame(3), np.zeros((48, 64), np.uint8)
    mask[5:15, 10:20] = mask[30:45, 20:60] = 255
    mask[0, 0] = 255  # noise
    for name in ("b", "a"):
        cv2.imwrite(str(tmp_path / f"{name}_orig.png"), picture)
        cv2.imwrite(str(tmp_path / f"{name}.png"), mask)
        mask[30:] = 0
    detections = read_results(tmp_path)
    boxes = [(d.frame, d.object, d.x, d.y, d.width, d.height) for d in detections]
    assert boxes == [(1, 0, 10, 5, 10, 10), (2, 0, 20, 30, 40, 15), (2, 1, 10, 5, 10, 10)]
    assert np.array_equal(detections[0].image[..., :3], picture[0:32, 0:32, ::-1]), "at least 32 pixels, inside the frame"
    assert detections[0].image[..., 3].sum() == 255 * 100, "a small square that moves"
    assert [(d.frame, d.object) for d in read_results(tmp_path, best_only=True)] == [(1, 0), (2, 0)]


def test_pairs_that_do_not_fit_are_named(tmp_path):
    cv2.imwrite(str(tmp_path / "a_orig.png"), frame(1))
    with pytest.raises(InputError, match="a_orig.png has no a.png beside it"):
        read_results(tmp_path)
    cv2.imwrite(str(tmp_path / "a.png"), frame(1)[:20, :, 0])
    with pytest.raises(InputError, match="a.png and its frame a_orig.png differ in size: 64x20 and 64x48"):
        read_results(tmp_path)
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((48, 64), np.uint8))
    assert read_results(tmp_path) == []


def test_plain_images_are_read_as_one_object_each(tmp_path):
    cv2.imwrite(str(tmp_path / "b.png"), frame(1)[:20])
    cv2.imwrite(str(tmp_path / "a.PNG"), frame(2))
    one, two = read_results(tmp_path, best_only=True)
    assert (one.frame, one.width, one.height, two.frame, two.object, two.height) == (1, 64, 48, 2, 0, 20)
    assert np.array_equal(one.image, frame(2)[..., ::-1]) and one.score == 1
    cv2.imwrite(str(tmp_path / "c.png"), frame(1)[:1, :1])
    with pytest.raises(InputError, match="c.png is 1x1 pixels"):
        read_results(tmp_path)


def test_directories_without_results_are_refused(tmp_path):
    for directory, says in [(tmp_path, "neither detections.csv nor images"), (tmp_path / "none", "is not there")]:
        with pytest.raises(InputError, match=says):
            read_results(directory)
    (tmp_path / "none.part").mkdir()
    with pytest.raises(InputError, match="none.part is: the run that writes it is not finished or was killed"):
        read_results(tmp_path / "none")


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("1,0,5,6,8,9,0.9", "line 2: 7 fields, expected 8"),
        ("one,0,5,6,8,9,0.9,crops/000001_00.png", "frame is 'one'"),
        ("0,0,5,6,8,9,0.9,crops/000001_00.png", "frames count from 1"),
        ("1,0,-5,6,8,9,0.9,crops/000001_00.png", "x is '-5'"),
        ("1,0,5,6,0,9,0.9,crops/000001_00.png", "is empty"),
        ("1,0,5,6,8,4095,0.9,crops/000001_00.png", "leaves any frame"),
        ("1,0,5,6,8,9,nan,crops/000001_00.png", "score is 'nan'"),
        ("1,0,5,6,8,9,1.5,crops/000001_00.png", "score is '1.5'"),
        ("1,0,5,6,8,9,0.9,crops/000009_00.png", "no file inside"),
        ("1,0,5,6,8,9,0.9,../secret.png", "no file inside"),
        ("1,0,5,6,8,9,0.9,crops/../../secret.png", "no file inside"),
        ("1,0,5,6,8,9,0.9,SECRET", "no file inside"),
        ("1,0,5,6,8,9,0.9,crops/link.png", "no file inside"),
        ("1,0,5,6,8,9,0.9,", "no file inside"),
        ("1,0,5,6,8,9,0.9,crops/torn.png", "torn.png is cut off"),
        ("1,0,5,6,8,9,0.9,crops/000001_00.png\n1,0,5,6,8,9,0.8,crops/000001_00.png", "line 3: object 0 of frame 1 is there"),
        ('1,0,5,6,8,9,0.9,"crops', "is damaged"),
    ],
)
def test_a_wrong_row_is_named(tmp_path, row, says):
    directory = written(tmp_path / "out")
    secret = tmp_path / "secret.png"
    cv2.imwrite(str(secret), frame(1))
    (directory / "crops" / "link.png").symlink_to(secret)
    (directory / "crops" / "torn.png").write_bytes(secret.read_bytes()[:100])
    (directory / "detections.csv").write_text(HEADER + row.replace("SECRET", str(secret)) + "\n")
    with pytest.raises(InputError) as caught:
        [detection.image for detection in read_results(directory)]
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_another_header_is_refused(tmp_path):
    for text in ("", "frame,x,y\n", HEADER.replace("score,crop", "crop,score")):
        (tmp_path / "detections.csv").write_text(text)
        with pytest.raises(InputError, match="expected frame,object,x,y,width,height,score,crop"):
            read_results(tmp_path)


def test_damaged_tables_give_detections_or_one_line(tmp_path):
    directory, rng = written(tmp_path / "out"), random.Random(7)
    whole = (directory / "detections.csv").read_bytes()
    pieces = [b",", b"\n", b'"', b"-", b"..", b"/", b"\0", b"\xff", b"9" * 30, b"nan", b"1e-3", b"x" * 400, b"\r", b"\xc3\xa9"]
    read = refused = 0
    for _ in range(600):
        data = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(HEADER) * rng.randint(0, 1), len(data))
            if rng.random() < 0.5:
                data[at] = rng.choice(b"0123456789")
            else:
                data[at : at + rng.randint(0, 12)] = rng.choice(pieces)
        (directory / "detections.csv").write_bytes(data)
        try:
            for detection in read_results(directory, best_only=rng.random() < 0.5):
                assert detection.frame >= 1 and 0 <= detection.score <= 1 and detection.image.size
            read += 1
        except InputError as error:
            assert "\n" not in str(error) and len(str(error)) < 400, error
            refused += 1
    assert read > 10 and refused > 200
