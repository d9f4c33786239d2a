import os
import subprocess
import sys
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from tests.scripts import ROOT
from util.errors import InputError
from util.source.images import list_images, read_bgr
from util.source.video import open_video


def made_frames(count=6, width=64, height=48):
    frames = np.random.default_rng(1).integers(0, 256, (count, height, width, 3), np.uint8)
    frames[:, 0, 0] = [(255, 0, 0)]  # blue: the order of the channels shows
    return frames


def write_images(directory, frames, suffix=".png"):
    directory.mkdir(parents=True)
    for i, frame in enumerate(frames):
        cv2.imwrite(str(directory / f"{i:04d}{suffix}"), frame)
    return directory


def write_avi(path, count=60):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 12.5, (64, 48))
    for frame in made_frames(count):
        writer.write(frame)
    writer.release()
    return path


def song_with_a_picture(path):
    with av.open(str(path), "w") as output:
        sound, picture = output.add_stream("libmp3lame", rate=44100), output.add_stream("mjpeg", rate=25)
        picture.width, picture.height, picture.pix_fmt, picture.disposition = 64, 48, "yuvj420p", av.stream.Disposition.attached_pic
        output.mux([*picture.encode(av.VideoFrame.from_ndarray(made_frames(1)[0], "bgr24")), *picture.encode()])
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 44100), np.float32), "fltp", "mono")
        silence.rate = 44100
        output.mux([*sound.encode(silence), *sound.encode()])
    return path


def test_a_directory_gives_its_images_in_order_as_bgr(tmp_path):
    frames = made_frames()
    directory = write_images(tmp_path / "clip", frames)
    (directory / "notes.txt").write_text("not a frame")
    (directory / ".hidden.png").write_bytes(b"")
    video = open_video(directory)
    assert (video.width, video.height, video.frame_count, video.fps) == (64, 48, 6, 25)
    got = list(video)
    assert np.array_equal(got, frames) and all(frame.flags.c_contiguous for frame in got)
    assert video.frames_read == 6
    assert np.array_equal(list(video), frames), "a second iteration starts over"


def test_numbers_in_names_count_as_numbers_whatever_their_padding_and_gaps(tmp_path):
    frames = made_frames()
    for name, frame in zip(["1.png", "02.png", "3.png", "007.png", "10.png", "100.png"], frames, strict=True):
        cv2.imwrite(str(tmp_path / name), frame)
    assert np.array_equal(list(open_video(tmp_path)), frames)
    (tmp_path / "b").mkdir()
    for name in ("cam2_9.png", "cam10_1.png", "cam2_10.png", "cam2_9.jpg"):
        cv2.imwrite(str(tmp_path / "b" / name), frames[0])
    assert [path.name for path in list_images(tmp_path / "b")] == ["cam2_9.jpg", "cam2_9.png", "cam2_10.png", "cam10_1.png"]


@pytest.mark.parametrize(("low", "high"), [(0, 4095), (0, 16383), (7000, 9000)])
def test_what_uses_little_of_16_bits_is_stretched_all_frames_alike(tmp_path, capfd, low, high):
    """Thermal cameras write 12 and 14 bits so; by 256 they would be black, or grey on grey."""
    ramp = np.linspace(0, 1, 64 * 48).reshape(48, 64)
    ramps = [ramp, ramp[::-1] / 2]
    images = [(low + (high - low) * each).astype(np.uint16) for each in ramps]
    images[0][0, 0] = 65535  # a dead pixel
    got = np.array(list(open_video(write_images(tmp_path / "clip", images))), float)[:, 1:, :, 1]
    line = np.polyfit(np.ravel([each[1:] for each in ramps]), got.ravel(), 1)
    assert np.abs(np.polyval(line, [each[1:] for each in ramps]) - got).max() < 2, "one straight line for all frames"
    assert line[0] > 180 and capfd.readouterr().err.count("\n") == 1


def test_16_bits_that_are_used_become_8(tmp_path, capfd):
    frame = made_frames(1)[0]
    assert np.array_equal(list(open_video(write_images(tmp_path / "clip", [frame.astype(np.uint16) * 257])))[0], frame)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", [b"2026-01-01T12:00:00.avi", b"caf\xe9.avi", b"%03d.avi", b"a\nb.avi", b"x" * 251 + b".avi", b"0042"])
def test_any_name_that_a_file_can_have_is_read(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    write_avi(tmp_path / "plain.avi", 3).rename(os.fsdecode(name))
    video = open_video(os.fsdecode(name))
    assert len(list(video)) == 3 and video.name.encode().isascii() and video.name.isprintable()


def test_a_directory_whose_name_is_a_number_is_no_camera(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_images(Path("0001"), made_frames(2))
    assert len(list(open_video("0001"))) == 2


def test_an_upright_4k_video_has_as_many_pixels_as_one_that_lies(tmp_path):
    video = open_video(write_images(tmp_path / "clip", [np.zeros((3840, 2160, 3), np.uint8)]))
    assert (video.width, video.height) == (2160, 3840) and len(list(video)) == 1


def test_a_directory_of_a_clip_stands_for_its_input(tmp_path):
    write_images(tmp_path / "clip" / "input", made_frames())
    cv2.imwrite(str(tmp_path / "clip" / "ROI.bmp"), made_frames()[0])
    assert open_video(tmp_path / "clip").frame_count == 6


@pytest.mark.parametrize("suffix", [".jpg", ".bmp", ".webp", ".tif"])
def test_other_image_formats_and_grey_images_are_read(tmp_path, suffix):
    grey = np.full((48, 64), 90, np.uint8)
    video = open_video(write_images(tmp_path / "clip", [grey, grey], suffix))
    assert [frame.shape for frame in video] == [(48, 64, 3)] * 2


def test_a_video_file_is_read_to_its_end_and_again(tmp_path, capfd):
    video = open_video(str(write_avi(tmp_path / "clip.avi")))
    assert (video.width, video.height, video.fps, video.frame_count) == (64, 48, 12.5, 60)
    first, second = list(video), list(video)
    assert len(first) == 60 and np.array_equal(first, second)
    assert capfd.readouterr().err == ""


def test_a_cut_off_video_is_read_as_far_as_it_goes_and_then_refused_in_one_line(tmp_path, capfd):
    path = write_avi(tmp_path / "clip.avi")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    video = open_video(path)
    frames = []
    with pytest.raises(InputError, match="ends inside a frame after [0-9]+ frames"):
        for frame in video:
            frames.append(frame)
    assert 10 < len(frames) == video.frames_read < 50 and capfd.readouterr().err == ""


def test_taking_only_some_frames_is_no_cut_off_video(tmp_path, capfd):
    for _, _ in zip(range(3), open_video(write_avi(tmp_path / "clip.avi")), strict=False):
        pass
    assert capfd.readouterr().err == ""


def broken_inputs(tmp_path):
    """name -> (source, what the message must say)"""
    frames = made_frames(2)
    odd, torn, cut, gone = (write_images(tmp_path / name, frames, suffix) for name, suffix in
                            [("odd", ".png"), ("torn", ".png"), ("cut", ".jpg"), ("gone", ".png")])  # fmt: skip
    cv2.imwrite(str(odd / "0001.png"), frames[1][:40])
    for path in (torn / "0001.png", cut / "0001.jpg"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    (gone / "0001.png").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.txt").write_text("text")
    (tmp_path / "text.mp4").write_text("not a video\n" * 50)
    (tmp_path / "void.mp4").write_bytes(b"")
    (tmp_path / "junk.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    (tmp_path / "headless.mp4").write_bytes(b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom\0\0\x10\0mdat" + bytes(4000))
    return {
        "missing": (tmp_path / "none.mp4", "No such file"),
        "empty file": (tmp_path / "void.mp4", "is empty"),
        "text": (tmp_path / "text.mp4", "is a text file"),
        "junk": (tmp_path / "junk.mp4", "cannot be opened as a video"),
        "no index": (tmp_path / "headless.mp4", "cannot be opened as a video"),
        "empty directory": (tmp_path / "empty", "has nothing in it"),
        "no image": (tmp_path / "other", "has no image"),
        "single image": (odd / "0000.png", "is a single image"),
        "sizes": (odd, "0001.png is 64x40 pixels, but 0000.png is 64x48"),
        "torn png": (torn, "0001.png is cut off"),
        "cut jpeg": (cut, "0001.jpg is cut off"),
        "empty image": (gone, "0001.png is empty"),
        "1x1": (write_images(tmp_path / "one", [frames[0][:1, :1]]), "frames of 1x1 pixels"),
        "too small": (write_images(tmp_path / "small", [frames[0][:31]]), "frames of 64x31 pixels"),
        "too large": (write_images(tmp_path / "large", [np.zeros((32, 4097, 3), np.uint8)]), "frames of 4097x32 pixels"),
        "too many": (write_images(tmp_path / "many", [np.zeros((2976, 2976, 3), np.uint8)]), "frames of 2976x2976 pixels"),
        "a song": (song_with_a_picture(tmp_path / "song.mp3"), "holds no video but a picture that goes with it"),
        "a device": (Path("/dev/null"), "is no file"),
        "a zero byte": ("a\0b.mp4", "null byte"),
        "camera": (77, "camera 77 cannot be opened"),
        "camera as text": ("77", "camera 77 cannot be opened"),
        "impossible camera": ("99999999999999", "cannot be opened"),
        "number of no camera": ("9" * 5000, "File name too long"),
    }


def test_bad_input_is_one_clear_line(tmp_path, capfd):
    for name, (source, says) in broken_inputs(tmp_path).items():
        with pytest.raises(InputError) as caught:
            list(open_video(source))
        message = str(caught.value)
        assert says in message and "\n" not in message, name
        assert capfd.readouterr().err == "", f"{name}: the libraries must not add lines of their own"


def test_a_program_says_one_line_and_ends_with_2(tmp_path):
    program = "import sys; from util import cli; from util.source import video; cli.run(lambda: list(video.open_video(sys.argv[1])))"
    source, says = broken_inputs(tmp_path)["no index"]
    done = subprocess.run([sys.executable, "-c", program, str(source)], cwd=ROOT, text=True,
                          capture_output=True, env={**os.environ, "PYTHONPATH": str(ROOT)})  # fmt: skip
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and says in done.stderr


def test_a_jpeg_with_bytes_after_its_end_is_whole(tmp_path):
    path = tmp_path / "a.jpg"
    cv2.imwrite(str(path), made_frames()[0])
    path.write_bytes(path.read_bytes() + b"made by some camera")
    assert read_bgr(path).shape == (48, 64, 3)
