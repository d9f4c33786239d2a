"""The fastMCD program against the Python module on the same frames."""
import os
import signal
import subprocess
import time
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

import fastmcd
from tests.results import ResultsWriter
from tests.servers import number_of, numbered, video_bytes
from tests.test_damaged import CONTAINERS, STEADY, damaged_mjpeg, trimmed_mp4
from tests.test_source_picture import interlaced, moments, write
from util.outputs.results import read_results
from util.source.images import list_images

PROGRAM = Path(os.environ.get("FASTMCD_PROGRAM", Path(__file__).resolve().parent.parent / "build" / "fastMCD"))
pytestmark = pytest.mark.skipif(not PROGRAM.exists(), reason=f"{PROGRAM} is not built (it needs libopencv-dev)")


def run(*arguments, **options):
    return subprocess.run([PROGRAM, *map(str, arguments)], capture_output=True, text=True, timeout=120, **options)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A directory of frames of an odd size: two squares in front of a texture that drifts by a pixel per frame."""
    directory, rng = tmp_path_factory.mktemp("clip") / "frames", np.random.default_rng(5)
    directory.mkdir()
    ground = cv2.resize(rng.integers(60, 190, (40, 60, 3), np.uint8), (301, 201), interpolation=cv2.INTER_CUBIC)
    for t in range(24):
        frame = ground[20:157, t : t + 211].copy()
        frame[40:64, 10 + 4 * t : 34 + 4 * t] = (20, 40, 250)
        frame[90:120, 150 - 3 * t : 176 - 3 * t] = (250, 240, 230)
        cv2.imwrite(str(directory / f"{t:03d}.png"), frame)
    return directory


@pytest.fixture(scope="module")
def output(clip, tmp_path_factory):
    directory = tmp_path_factory.mktemp("program") / "new" / "out"
    done = run(clip, directory, "--frames")
    assert done.returncode == 0, done.stderr
    return directory


def with_python(clip, directory, flags=cv2.IMREAD_COLOR, **params):
    frames = [cv2.imread(str(path), flags) for path in sorted(clip.iterdir())]
    detector = fastmcd.Detector(frames[0].shape[1], frames[0].shape[0], **params)
    with ResultsWriter(directory, keep_frames=True) as results:
        for number, frame in enumerate(detector.rehearsed(frames), 1):
            results.add(number, frame, detector.detect(frame))
    return directory


def assert_same(one, other):
    assert (one / "detections.csv").read_text() == (other / "detections.csv").read_text()
    files = [sorted(str(path.relative_to(d)) for path in d.rglob("*.png")) for d in (one, other)]
    assert files[0] == files[1]
    for name in files[0]:
        images = [cv2.imread(str(d / name), cv2.IMREAD_UNCHANGED) for d in (one, other)]
        assert np.array_equal(*images), name


def test_program_and_module_write_the_same(clip, output, tmp_path):
    assert len(read_results(output)) >= 12, "the squares move"
    assert_same(output, with_python(clip, tmp_path))


@pytest.mark.parametrize(("suffix", "depth"), [("png", np.uint8), ("png", np.uint16), ("jpg", np.uint8)])
def test_grey_images_are_seen_as_the_module_sees_grey_frames(clip, output, tmp_path, suffix, depth):
    """Those of 16 bits by their upper 8; and grey tells less than colour does."""
    (tmp_path / "grey").mkdir()
    for path in clip.iterdir():
        grey = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE).astype(depth)
        cv2.imwrite(str(tmp_path / "grey" / f"{path.stem}.{suffix}"), grey if depth == np.uint8 else grey * 256 + 100)
    done = run(tmp_path / "grey", tmp_path / "program")
    assert (done.returncode, done.stderr) == (0, "")
    with_python(tmp_path / "grey", tmp_path / "python", cv2.IMREAD_GRAYSCALE)
    for name in [f"masks/{number:06d}.png" for number in range(1, 25)]:
        assert np.array_equal(*(cv2.imread(str(tmp_path / by / name), cv2.IMREAD_UNCHANGED) for by in ("program", "python")))
    tables = [(directory / "detections.csv").read_text() for directory in (tmp_path / "program", tmp_path / "python", output)]
    assert tables[0] == tables[1] != tables[2]


def test_parameters_reach_the_detector(clip, output, tmp_path):
    changed = {"min_area": 0.03, "crop_context": 0.5, "max_objects": 1}
    options = [text for name, value in changed.items() for text in (f"--{name.replace('_', '-')}", value)]
    done = run(clip, tmp_path / "program", "--frames", *options[:-2], "--max-objects=1")
    assert done.returncode == 0, done.stderr
    assert_same(tmp_path / "program", with_python(clip, tmp_path / "python", **changed))
    assert (tmp_path / "program" / "detections.csv").read_text() != (output / "detections.csv").read_text()


def test_help_lists_every_parameter_with_its_default():
    done = run("--help")
    assert done.returncode == 0 and done.stderr == ""
    for name, (default, text) in fastmcd.PARAMS.items():
        line = next(line for line in done.stdout.splitlines() if line.split()[:1] == [f"--{name.replace('_', '-')}"])
        assert f" {default:g} " in line and text in line
    for option in ("--frames", "--limit", "--quiet"):
        assert option in done.stdout


def test_limit_quiet_and_replacing(clip, output, tmp_path):
    first = run(clip, tmp_path, "--frames")
    assert " objects in 24 frames" in first.stdout
    done = run(clip, tmp_path, "--limit", 7, "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert len(list((tmp_path / "masks").iterdir())) == 7 and not (tmp_path / "frames").exists()
    kept = [line for line in (output / "detections.csv").read_text().splitlines()[1:] if int(line.split(",")[0]) <= 7]
    assert (tmp_path / "detections.csv").read_text().splitlines()[1:] == kept
    assert len(list((tmp_path / "crops").iterdir())) == len(kept)


def test_a_video_file_is_read(clip, tmp_path):
    writer = cv2.VideoWriter(str(tmp_path / "clip.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 25, (210, 136))
    for path in sorted(clip.iterdir()) * 4:
        writer.write(cv2.imread(str(path))[:136, :210].copy())
    writer.release()
    done = run(tmp_path / "clip.avi", tmp_path / "out")
    assert done.returncode == 0 and " in 96 frames" in done.stdout and done.stderr == ""
    data = (tmp_path / "clip.avi").read_bytes()
    (tmp_path / "cut.avi").write_bytes(data[: len(data) // 2])
    done = run(tmp_path / "cut.avi", tmp_path / "out")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "ends before its container does, after 4" in done.stderr
    assert done.stderr.endswith("/out is as it was, and what was finished is in " + f"{tmp_path / 'out.part'}\n")
    assert read_results(tmp_path / "out.part")  # what could be read
    assert len(list((tmp_path / "out" / "masks").iterdir())) == 96


@pytest.mark.parametrize(("width", "height", "fits"), [(32, 32, True), (31, 32, False), (32, 31, False), (1, 1, False),
                                                       (4096, 33, True), (33, 4096, True), (4097, 33, False), (33, 4097, False),
                                                       (2160, 3840, True), (2976, 2976, False)])  # fmt: skip
def test_frame_sizes(tmp_path, width, height, fits):
    (tmp_path / "in").mkdir()
    cv2.imwrite(str(tmp_path / "in" / "1.png"), np.zeros((height, width, 3), np.uint8))
    done = run(tmp_path / "in", tmp_path / "out")
    assert done.returncode == (0 if fits else 2)
    assert fits or (f"{width}x{height}" in done.stderr and "32 to 4096 px, and 4096x2160 pixels in all" in done.stderr)
    assert fits or not (tmp_path / "out").exists(), "nothing is made or replaced for a clip that cannot be used"


def bad_calls(clip, tmp_path):
    """(arguments, what the one line must say)"""
    out = tmp_path / "out"
    for name, content in {"text.mp4": b"no video\n" * 99, "void.mp4": b"", "junk.mp4": bytes(range(256)) * 9}.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "empty").mkdir()
    for name, suffix in (("torn", "png"), ("cut", "jpg")):
        (tmp_path / name).mkdir()
        data = cv2.imencode(f".{suffix}", cv2.imread(str(clip / "000.png")))[1].tobytes()
        (tmp_path / name / f"1.{suffix}").write_bytes(data[: len(data) // 2])
    (tmp_path / "sizes").mkdir()
    for i, height in enumerate((40, 41)):
        cv2.imwrite(str(tmp_path / "sizes" / f"{i}.png"), np.zeros((height, 50, 3), np.uint8))
    return [
        ([], "INPUT and OUT_DIR are needed, 0 given"),
        ([clip], "1 given"),
        ([clip, out, out], "3 given"),
        ([clip, out, "--speed", 3], "unknown option --speed"),
        ([clip, out, "--limit"], "--limit needs a value"),
        ([clip, out, "--limit", 0], "--limit must be"),
        ([clip, out, "--limit", "2x"], "--limit is '2x'"),
        ([clip, out, "--min-area", 0.7], "min_area is 0.7, must be a number from 0 to 0.5"),
        ([clip, out, "--min-area", "nan"], "min_area is nan"),
        ([clip, out, "--points=40.5"], "points is 40.5, must be a whole number"),
        ([tmp_path / "none", out], "none: No such file"),
        ([tmp_path / "text.mp4", out], "is a text file"),
        ([tmp_path / "void.mp4", out], "is empty"),
        ([tmp_path / "junk.mp4", out], "cannot be opened as a video"),
        ([tmp_path / "empty", out], "holds no image"),
        ([tmp_path / "torn", out], "1.png cannot be read as an image"),
        ([tmp_path / "cut", out], "1.jpg is cut off"),
        ([tmp_path / "sizes", out], "1.png is 50x41 pixels, the first 50x40"),
        ([clip / "000.png", out], "is a single image"),
        ([77, out], "camera 77 cannot be opened"),
        ([clip, clip], "would be replaced"),
        ([clip, clip.parent], "would be replaced"),
        ([clip, tmp_path], "which no run has recorded as its own"),
        ([clip, clip / "000.png"], "Not a directory"),
    ]


def test_bad_calls_are_one_line_and_exit_code_2(clip, tmp_path):
    before = sorted(path.name for path in clip.iterdir())
    for arguments, says in bad_calls(clip, tmp_path):
        done = run(*arguments)
        assert done.returncode == 2 and done.stdout == "", (arguments, done)
        assert says in done.stderr and done.stderr.count("\n") == 1, (says, done.stderr)
    assert sorted(path.name for path in clip.iterdir()) == before


def test_a_broken_frame_keeps_what_came_before(clip, tmp_path):
    for name, count in (("torn", 12), ("short", 10)):
        (tmp_path / name).mkdir()
        for path in sorted(clip.iterdir())[:count]:
            data = path.read_bytes()
            (tmp_path / name / path.name).write_bytes(data[:500] if path.name == "010.png" else data)
    done = run(tmp_path / "torn", tmp_path / "out")
    assert done.returncode == 2 and "010.png cannot be read" in done.stderr
    assert run(tmp_path / "short", tmp_path / "other").returncode == 0 and read_results(tmp_path / "out")
    assert_same(tmp_path / "out", tmp_path / "other")


def test_a_full_disk_ends_with_one_line_and_whole_frames(clip, tmp_path):
    """A limit on the size of files, in blocks of 1 KiB, stands in for the disk: frames of 80 KB do not fit."""
    limited = ["bash", "-c", 'trap "" XFSZ; ulimit -f 40; exec "$@"', "_", PROGRAM, clip, tmp_path, "--frames"]
    done = subprocess.run(limited, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "frames/000001.png: File too large" in done.stderr
    assert not list(tmp_path.iterdir()), "without a whole frame nothing is kept"


# ---- What is shown is what counts ----
def frames_of(directory):
    """Return the numbers that the frames kept in a results directory say."""
    return [number_of(cv2.imread(str(path))) for path in sorted((directory / "frames").iterdir())]


def test_frames_are_in_the_order_of_their_numbers(tmp_path):
    """Numbers count as numbers, however they are padded, also those beyond 64 bits; names that are equal but for padding by the text."""
    names = ["1", "2", "03", "4", "10", "011", "100", "1000", "9" * 25, "1" + "0" * 25, "a1b2", "a1b10", "a2b1", "a-1", "a",
             "aa1", "b01", "b1"]  # fmt: skip
    (tmp_path / "in").mkdir()
    for name in names:
        (tmp_path / "in" / f"{name}.png").touch()
    assert [path.stem for path in list_images(tmp_path / "in")] == names
    for number, name in enumerate(names):
        cv2.imwrite(str(tmp_path / "in" / f"{name}.png"), numbered(number))
    assert run(tmp_path / "in", tmp_path / "out", "--frames").returncode == 0
    assert frames_of(tmp_path / "out") == list(range(len(names)))


def test_a_trimmed_video_is_whole(tmp_path):
    trimmed_mp4(tmp_path / "cut.mp4")
    done = run(tmp_path / "cut.mp4", tmp_path / "out", "--frames")
    assert (done.returncode, done.stderr) == (0, "") and frames_of(tmp_path / "out") == list(range(20, 60))


def test_damaged_frames_are_left_out_and_counted(tmp_path):
    (tmp_path / "clip.avi").write_bytes(damaged_mjpeg([20, 21, 22]))
    done = run(tmp_path / "clip.avi", tmp_path / "out", "--frames")
    assert done.returncode == 0 and frames_of(tmp_path / "out") == [*range(20), *range(23, 60)]
    assert done.stderr == f"{tmp_path}/clip.avi: 3 of 60 frames are damaged and were left out\n"
    (tmp_path / "clip.avi").write_bytes(damaged_mjpeg(range(20, 58)))
    done = run(tmp_path / "clip.avi", tmp_path / "most")
    assert done.returncode == 2 and "38 of 60 frames are damaged; the others were kept" in done.stderr


def test_a_header_that_announces_hundreds_of_millions_of_frames_is_not_believed(tmp_path):
    data = damaged_mjpeg([])
    for field in (data.find(b"avih") + 24, data.find(b"strh") + 40):
        data[field : field + 4] = (900_000_000).to_bytes(4, "little")
    (tmp_path / "clip.avi").write_bytes(data)
    done = run(tmp_path / "clip.avi", tmp_path / "out", "--frames")
    assert (done.returncode, done.stderr) == (0, "") and frames_of(tmp_path / "out") == list(range(60))


@pytest.mark.parametrize("name", ["mp4", "mp4 in fragments", "matroska", "mpegts", "avi"])
def test_what_is_cut_off_is_said_by_its_container_alone(tmp_path, name):
    codec, options = CONTAINERS[name]
    data = video_bytes(name.split()[0], codec, STEADY, "yuvj420p" if codec == "mjpeg" else "yuv420p", seekable=True, **options)
    (tmp_path / "whole").write_bytes(data)
    (tmp_path / "cut").write_bytes(data[: int(len(data) * 0.8)])
    done = run(tmp_path / "whole", tmp_path / "a")
    assert done.returncode == 0 and " in 60 frames" in done.stdout and done.stderr == ""
    done = run(tmp_path / "cut", tmp_path / "b")
    assert done.returncode == 2 and "frames, which were kept; was it cut off?" in done.stderr and done.stderr.count("\n") == 1
    assert 20 < len(list((tmp_path / "b" / "masks").iterdir())) < 60


def test_a_name_is_a_name(tmp_path):
    """One with a colon, as ISO times have; digits that name a directory, which are no camera; one that is not UTF-8."""
    data = video_bytes("mp4", "libx264", STEADY, seekable=True)
    for name in (b"2026-01-01T12:00:00.mp4", b"caf\xe9.mp4"):
        Path(os.fsdecode(bytes(tmp_path) + b"/" + name)).write_bytes(data)
        done = subprocess.run([PROGRAM, name, "out"], capture_output=True, cwd=tmp_path, timeout=60)
        assert done.returncode == 0 and b" in 60 frames" in done.stdout, done.stderr
    (tmp_path / "0001").mkdir()
    cv2.imwrite(str(tmp_path / "0001" / "1.png"), numbered(1))
    assert " in 1 frames" in run("0001", "out", cwd=tmp_path).stdout


def test_interlaced_frames_are_shown(tmp_path):
    clip = write(tmp_path / "clip.mkv", list(interlaced(moments(20))))
    assert run(clip, tmp_path / "out", "--frames").returncode == 0
    assert cv2.imread(str(tmp_path / "out" / "frames" / "000009.png")).mean() > 40


def test_dark_16_bit_images_are_told_of(tmp_path):
    for name, level in (("dark", 4000), ("bright", 60000)):
        (tmp_path / name).mkdir()
        cv2.imwrite(str(tmp_path / name / "1.png"), np.full((48, 64), level, np.uint16))
        assert ("use little of their range" in run(tmp_path / name, tmp_path / "out").stderr) == (name == "dark")


def test_ctrl_c_finishes_the_files(clip, tmp_path):
    (tmp_path / "in").mkdir()
    for i in range(1200):
        (tmp_path / "in" / f"{i:04d}.png").symlink_to(clip / f"{i % 24:03d}.png")
    running = subprocess.Popen([PROGRAM, tmp_path / "in", tmp_path / "out"], stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    deadline = time.monotonic() + 30
    while not (tmp_path / "out.part" / "masks" / "000030.png").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    running.send_signal(signal.SIGINT)
    _, error = running.communicate(timeout=30)
    assert running.returncode == 2 and error == b"fastMCD: error: interrupted; what was finished has been kept\n"
    detections = read_results(tmp_path / "out")
    masks = sorted(int(path.stem) for path in (tmp_path / "out" / "masks").iterdir())
    assert 30 <= len(masks) < 1200 and masks == list(range(1, len(masks) + 1))
    assert len(detections) == len(list((tmp_path / "out" / "crops").iterdir())) >= 12
    assert all(a.frame <= b.frame for a, b in pairwise(detections)) and detections[-1].frame <= masks[-1]
