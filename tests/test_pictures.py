import errno
import signal
import subprocess
import sys

import av
import cv2
import numpy as np
import pytest
from PIL import ImageFont

from tests.scripts import ROOT
from util.errors import InputError
from util.outputs import pictures
from util.outputs.pictures import PALETTE, VideoWriter, annotate, colour_of
from util.outputs.sheet import MAX_THUMBNAILS, draw_sheet

CIFAR = "airplane automobile bird cat deer dog frog horse ship truck".split()
GREY = np.full((240, 320, 3), 128, np.uint8)


def has_colour(bgr, text):
    return (bgr == colour_of(text)[::-1]).all(axis=2).any()


def test_each_label_has_its_colour():
    assert len(set(map(colour_of, CIFAR))) == len(set(map(colour_of, "0123456789"))) == 10
    assert colour_of("type 1") != colour_of("type 2")
    assert colour_of("") in PALETTE


def test_boxes_and_texts_are_drawn_on_a_copy():
    before = GREY.copy()
    picture = annotate(before, np.array([[100, 80, 60, 40]], np.int32), ["car 93%"], ["car"])
    assert np.array_equal(before, GREY) and picture.shape == GREY.shape and picture.dtype == np.uint8
    assert tuple(picture[100, 100]) == colour_of("car")[::-1], "the left side of the box"
    assert np.array_equal(picture[85:115, 105:155], GREY[85:115, 105:155]), "the object stays visible"
    assert (picture[66:78, 104:140] != 128).all(axis=2).mean() > 0.9, "the text is above the box"


def test_what_is_expected_has_corners_alone():
    seen, expected = (annotate(GREY, [(100, 80, 60, 40)], [""], ["car"], [flag]) != 128 for flag in (False, True))
    for x, y in ((100, 80), (159, 80), (100, 119), (159, 119)):
        assert expected[y, x].all() and seen[y, x].all()
    assert not expected[100, 98:102].any() and not expected[78:82, 130].any() and seen[100, 98:102].any() and seen[78:82, 130].any()


@pytest.mark.parametrize("size", [(32, 32), (33, 4096), (2160, 3840)])
@pytest.mark.parametrize("place", [(0, 0), (1, 1)])
def test_texts_stay_inside_frames_of_any_size(size, place):
    height, width = size
    x, y = place[0] * (width - 8), place[1] * (height - 8)
    boxes, labels = [(x, y, 8, 8), (0, 0, width, height)], ["automobile", ""]
    picture = annotate(np.zeros((height, width, 3), np.uint8), boxes, ["automobile 100%", ""], labels)
    assert has_colour(picture, "automobile")


def test_lines_grow_with_the_frame():
    drawn = [(annotate(np.full((n, n, 3), 128, np.uint8), [(n // 4, n // 4, n // 2, n // 2)], [""], [""]) != 128)[n // 2].sum()
             for n in (200, 1600)]  # fmt: skip
    assert drawn[1] > drawn[0] * 1.5


def write_video(path, frames=12, size=(64, 48)):
    with VideoWriter(path, 20, size) as video:
        for i in range(frames):
            video.write(np.full((size[1], size[0], 3), 10 * i, np.uint8))


@pytest.mark.parametrize("size", [(64, 48), (65, 49)])
def test_a_written_video_is_read_back(tmp_path, capfd, size):
    path = tmp_path / "new" / "clip.mp4"
    write_video(path, size=size)
    capture = cv2.VideoCapture(str(path))
    frames = []
    while (read := capture.read())[0]:
        frames.append(read[1])
    assert len(frames) == 12 and frames[0].shape == (48, 64, 3) and abs(capture.get(cv2.CAP_PROP_FPS) - 20) < 0.1
    assert np.allclose([frame.mean() for frame in frames], 10 * np.arange(12), atol=4)
    assert [path.name for path in path.parent.iterdir()] == [path.name] and capfd.readouterr().err == ""


def test_an_mp4_plays_in_browsers(tmp_path):
    """H.264 in 4:2:0, as every browser has it, its index before its pictures; colours named, so that none is guessed."""
    write_video(tmp_path / "clip.mp4", size=(65, 49))
    data = (tmp_path / "clip.mp4").read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")
    with av.open(str(tmp_path / "clip.mp4")) as video:
        codec = video.streams.video[0].codec_context
        assert (codec.name, codec.pix_fmt, codec.width, codec.height, codec.colorspace) == ("h264", "yuv420p", 64, 48, 6)


def test_colours_survive_an_mp4(tmp_path):
    colours = np.uint8([(200, 40, 30), (30, 180, 60), (40, 50, 210), (240, 240, 240)])
    frame = np.repeat(np.repeat(colours[None], 16, 1), 48, 0)
    with VideoWriter(tmp_path / "clip.mp4", 25, (64, 48)) as video:
        video.write(frame)
    read = cv2.VideoCapture(str(tmp_path / "clip.mp4")).read()[1]
    assert np.abs(read[24, 8::16].astype(int) - colours).max() <= 6


def test_an_mp4_shows_frames_when_they_were_seen(tmp_path):
    with VideoWriter(tmp_path / "steady.mp4", 7.7, (64, 48)) as video:
        for _ in range(300):
            video.write(GREY[:48, :64])
    with av.open(str(tmp_path / "steady.mp4")) as video:
        assert np.allclose([frame.time for frame in video.decode(video=0)], np.arange(300) / 7.7, atol=0.001)
    times = [5.0, 5.1, 5.2, 8.0, 8.0, 8.5]  # from any start; two at once are shown one after the other
    with VideoWriter(tmp_path / "clip.mp4", 10, (64, 48)) as video:
        for seconds in times:
            video.write(GREY[:48, :64], seconds)
    with av.open(str(tmp_path / "clip.mp4")) as video:
        got = [frame.time for frame in video.decode(video=0)]
    assert np.allclose(got, np.subtract(times, 5.0), atol=0.001) and all(np.diff(got) > 0)


def test_an_early_end_leaves_a_whole_video_or_none(tmp_path):
    for error, left in ((KeyboardInterrupt, ["clip.mp4"]), (ValueError, [])):
        directory = tmp_path / error.__name__
        with pytest.raises(error), VideoWriter(directory / "clip.mp4", 25, (64, 48)) as video:
            video.write(GREY[:48, :64])
            raise error
        assert [path.name for path in directory.iterdir()] == left
    write_video(tmp_path / "none.mp4", frames=0)
    assert not (tmp_path / "none.mp4").exists()


def test_a_video_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written: File exists"):
        VideoWriter(tmp_path / "file" / "clip.mp4", 25, (64, 48))
    with pytest.raises(InputError, match="cannot be written: no room"):
        VideoWriter(tmp_path / "clip.mp4", 25, (1, 1))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    with pytest.raises(ValueError, match="frame is 320x240"), VideoWriter(tmp_path / "a.mp4", 25, (64, 48)) as video:
        video.write(GREY)
    monkeypatch.setattr(pictures.H264, "ENCODER", "none_such")
    with pytest.raises(InputError, match="no H.264 encoder"):
        VideoWriter(tmp_path / "clip.mp4", 25, (64, 48))


def test_letters_beyond_ascii_are_drawn_where_the_system_has_a_font():
    try:
        ImageFont.truetype("DejaVuSans.ttf", 20)
    except OSError:
        pytest.skip("DejaVu Sans is not installed")
    plates = [pictures._plate(text, 20, PALETTE[0]) for text in ("Tür", "Tör", "Tжr", "Tßr")]
    assert len({plate.tobytes() for plate in plates}) == 4, "not the same box for each of them"


def test_a_full_disk_is_noticed(tmp_path):
    """A limit on the size of files stands in for the disk; in a process of its own, for it cannot be raised again."""
    program = f"""
import resource, signal, sys
import numpy as np
from util import cli
from util.outputs.pictures import VideoWriter
signal.signal(signal.{signal.SIGXFSZ.name}, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
def main():
    with VideoWriter(sys.argv[1], 25, (320, 240)) as video:
        for i in range(60):
            video.write(np.random.default_rng(i).integers(0, 256, (240, 320, 3), np.uint8))
cli.run(main)
"""
    done = subprocess.run([sys.executable, "-c", program, tmp_path / "clip.mp4"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "cannot be written: File too large; make room" in done.stderr, done.stderr
    assert done.stderr.count("\n") == 1 and not list(tmp_path.iterdir())


def test_a_full_disk_loses_no_more_than_the_last_fragment(tmp_path, monkeypatch):
    written, write = [], pictures.write_all

    def full(descriptor, data):
        if sum(written) + len(data) > 400_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(len(data))
        write(descriptor, data)

    monkeypatch.setattr(pictures, "write_all", full)
    video = pictures.VideoFile(tmp_path / "clip.mp4", 25, (64, 48))
    with pytest.raises(InputError, match="No space left"):
        for i in range(400):
            video.write(np.random.default_rng(i).integers(0, 256, (48, 64, 3), np.uint8))
    with pytest.raises(InputError, match="No space left"):
        video.close()
    with av.open(str(tmp_path / "clip.mp4")) as clip:  # to its end without an error
        assert video.frames - 60 <= sum(1 for _ in clip.decode(video=0)) <= video.frames


def test_a_contact_sheet_shows_every_image_with_its_colour():
    images = [np.full((20 + i, 30, 3), (200, 10 * i, 0), np.uint8) for i in range(7)]
    sheet = draw_sheet(images, [f"{name} 50%" for name in CIFAR[:7]], CIFAR[:7])[..., ::-1]
    for image, name in zip(images, CIFAR, strict=False):
        assert (sheet == image[0, 0]).all(axis=2).any(), "the image, as RGB"
        assert (sheet == colour_of(name)).all(axis=2).any()


def test_a_long_contact_sheet_is_an_even_sample():
    images = [np.full((8, 8, 3), (i // 4, 255 - i // 4, 255), np.uint8) for i in range(1000)]
    sheet = draw_sheet(images, ["an unusually long caption 99%"] * 1000, ["cat"] * 1000)[..., ::-1]
    seen = np.unique(sheet[(sheet[..., 2] == 255) & (sheet[..., 0].astype(int) + sheet[..., 1] == 255)][:, 0]).astype(int)
    assert len(seen) == MAX_THUMBNAILS and np.diff(seen).max() <= 3 and seen[0] == 0 and seen[-1] >= 246
    assert sheet.shape[0] < 1600 and sheet.shape[1] < 1600


def test_a_contact_sheet_takes_views_and_extreme_shapes():
    frame = np.zeros((50, 400, 3), np.uint8)
    draw_sheet([frame[:, :, ::-1], frame[:1], frame[:, :1]], ["a", "", "c"], ["a", "", "c"])
    with pytest.raises(ValueError, match="0 images"):
        draw_sheet([], [], [])
