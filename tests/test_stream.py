"""Videos from stdin and from files on a server, with the times of their frames."""
import functools
import re
import signal
import socket
import struct
import subprocess
import time

import cv2
import numpy as np
import pytest

from tests.servers import number_of, numbered, reading_threads, serve_directory, start_program, stdin_of, video_bytes
from util.errors import InputError
from util.source import stream
from util.source.video import open_video

STEADY = [i / 25 for i in range(50)]
VARYING = [i / 25 for i in range(25)] + [1 + i / 2 for i in range(10)]


def read(source, pause=0.0):
    """Return the video, the numbers of its frames and their times."""
    frames = open_video(source)
    numbers, times = [], []
    for frame in frames:
        numbers.append(number_of(frame))
        times.append(frames.seconds)
        time.sleep(pause)
    return frames, numbers, times



# ---- Times ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("container", ["matroska", "mpegts", "nut", "mp4"])
def test_a_file_of_a_varying_rate_has_the_times_of_its_container_and_is_not_taken_for_cut_off(tmp_path, container):
    """Matroska and MPEG-TS announce a duration, of which OpenCV makes a number of frames by the rate."""
    (tmp_path / "clip").write_bytes(video_bytes(container, "libx264", VARYING, seekable=True))
    _, numbers, times = read(tmp_path / "clip")
    assert numbers == list(range(35)) and np.allclose(times, VARYING, atol=0.002)


def test_frames_that_a_decoder_holds_until_the_end_have_their_times_too(tmp_path):
    (tmp_path / "clip").write_bytes(video_bytes("matroska", "libx264", VARYING, seekable=True, g="50", bf="3"))
    _, numbers, times = read(tmp_path / "clip")
    assert numbers == list(range(35)) and np.allclose(times, VARYING, atol=0.002)


def test_what_has_no_clock_gets_its_times_from_the_rate(tmp_path):
    for i in range(3):
        cv2.imwrite(str(tmp_path / f"{i}.png"), numbered(i))
    assert np.allclose(read(tmp_path)[2], [0, 0.04, 0.08])


# ---- Stdin ----------------------------------------------------------------------------------------------------------
CONTAINERS = {"mpegts": "libx264", "matroska": "libx264", "nut": "ffv1", "mjpeg": "mjpeg", "yuv4mpegpipe": "rawvideo"}


@pytest.mark.parametrize("container", CONTAINERS)
def test_stdin_gives_every_frame_with_its_time(monkeypatch, capfd, container):
    data = video_bytes(container, CONTAINERS[container], STEADY, "yuvj420p" if container == "mjpeg" else "yuv420p")
    with stdin_of(monkeypatch, data):
        clip, numbers, times = read("-")
    assert numbers == list(range(50)) and np.allclose(times, STEADY, atol=0.002)
    assert (clip.width, clip.height, clip.fps, clip.frames_read, clip.dropped, clip.reconnects) == (64, 48, 25, 50, 0, 0)
    assert capfd.readouterr().err == ""


def test_stdin_keeps_the_times_of_a_varying_rate_and_can_be_read_once(monkeypatch):
    with stdin_of(monkeypatch, video_bytes("matroska", "libx264", VARYING)):
        clip, _, times = read("-")
    assert np.allclose(times, VARYING, atol=0.002)
    with pytest.raises(InputError, match="only once"):
        list(clip)


def test_raw_frames_go_through_nut_bit_by_bit_and_frames_equal_those_of_a_file(monkeypatch, tmp_path):
    with stdin_of(monkeypatch, video_bytes("nut", "rawvideo", STEADY, "bgr24")):
        assert all(np.array_equal(frame, numbered(i)) for i, frame in enumerate(open_video("-")))
    data = video_bytes("matroska", "libx264", STEADY)
    (tmp_path / "clip.mkv").write_bytes(data)
    with stdin_of(monkeypatch, data):
        assert np.array_equal(list(open_video("-")), list(open_video(tmp_path / "clip.mkv"))), "PyAV as OpenCV"


@pytest.mark.parametrize("matrix", [(0, 1, 0, -1, 0), (-1, 0, 0, 0, -1), (0, -1, 0, 1, 0), (-1, 0, 0, 0, 1)])
def test_a_video_taken_with_a_turned_camera_is_upright_as_in_a_file(monkeypatch, tmp_path, matrix):
    data = bytearray(video_bytes("mp4", "libx264", STEADY, movflags="frag_keyframe+empty_moov"))
    place = data.index(b"tkhd") + 44  # ISO/IEC 14496-12, 8.3.2
    data[place : place + 20] = struct.pack(">5i", *(65536 * number for number in matrix))
    (tmp_path / "clip.mp4").write_bytes(data)
    with stdin_of(monkeypatch, data):
        piped = list(open_video("-"))
    assert piped[0].shape == ((64, 48, 3) if matrix[1] else (48, 64, 3))
    assert np.array_equal(piped, list(open_video(tmp_path / "clip.mp4")))
    assert not np.array_equal(piped[5], np.rot90(piped[5], 2)), "the test would see a wrong turn"


@functools.cache
def broken_streams():
    y4m, ts, nut = (video_bytes(name, CONTAINERS[name], STEADY) for name in ("yuv4mpegpipe", "mpegts", "nut"))
    late = video_bytes("mp4", "mjpeg", STEADY, "yuvj420p", size=(640, 480), seekable=True)
    return {
        "nothing": (b"", "stdin is empty"),
        "text": (b"ffmpeg: no such file\n" * 40, "stdin is text"),
        "noise": (np.random.default_rng(0).bytes(50000), "stdin cannot be opened: what comes is no video"),
        "header only": (y4m[:60], "cannot be opened|holds no frame|inside a frame after 0"),
        "half a y4m": (y4m[: len(y4m) // 2], "stdin: ends inside a frame after 2[45] frames"),
        "half a transport stream": (ts[: len(ts) // 2 // 188 * 188 + 100], "stdin: ends inside a frame"),
        "half a nut": (nut[: len(nut) // 2], "stdin: ends inside a frame"),
        "an mp4 with its index at the end": (late, "stdin: not one frame .* needs seeking"),
    }


@pytest.mark.parametrize("name", broken_streams())
def test_bad_stdin_is_one_line_and_exit_code_2(name):
    data, says = broken_streams()[name]
    process = start_program("-", stdin=subprocess.PIPE)
    _, error = process.communicate(data, timeout=60)
    assert process.returncode == 2 and error.count(b"\n") == 1 and re.search(says, error.decode()), error


def test_a_stream_starts_before_its_end_and_can_be_interrupted(monkeypatch):
    """What is in the pipe is shown although it stays open; then Ctrl-C while nothing comes."""
    process = start_program("-", stdin=subprocess.PIPE)
    process.stdin.write(video_bytes("matroska", "mjpeg", STEADY, "yuvj420p"))
    process.stdin.flush()
    assert process.stdout.readline() == b"reading\n"
    process.send_signal(signal.SIGINT)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 2 and error.count(b"\n") == 1 and b"interrupted" in error, error


# ---- URLs -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("container", ["matroska", "mpegts", "mp4"])
def test_a_file_on_a_server_is_read_to_its_end_without_a_loss(tmp_path, capfd, container):
    options = {"movflags": "frag_keyframe+empty_moov"} if container == "mp4" else {}
    (tmp_path / "clip").write_bytes(video_bytes(container, "libx264", STEADY, **options))
    with serve_directory(tmp_path) as address:
        clip, numbers, times = read(f"{address}/clip", pause=0.005)
        assert numbers == list(range(50)) and np.allclose(times, STEADY, atol=0.002) and clip.dropped == 0
        assert len(list(clip)) == 50, "a second iteration starts over"
    assert capfd.readouterr().err == "" and not reading_threads()


def test_a_wrong_address_is_one_clear_line(tmp_path, capfd, monkeypatch):
    (tmp_path / "page.html").write_text("<html><body>Please log in</body></html>\n" * 100)
    (tmp_path / "page.txt").write_text("Please log in\n" * 100)
    silent = socket.create_server(("127.0.0.1", 0))
    monkeypatch.setattr(stream, "TIMEOUT", 0.5)
    with serve_directory(tmp_path) as address:
        port = int(address.rpartition(":")[2])
        cases = {
            f"{address}/none.mp4": "404 Not Found",
            f"{address}/page.html": "no video of a known format",
            f"{address}/page.txt": "holds no video",
            f"http://127.0.0.1:{silent.getsockname()[1]}/": "no answer for 0.5 s",
            f"tcp://127.0.0.1:{silent.getsockname()[1]}": "no answer for 0.5 s",
            f"rtsp://127.0.0.1:{port}/cam": "cannot be opened",
            "http://no-such-host.invalid/clip": "there is no such host",
            "gopher://127.0.0.1/clip": "expected rtsp://",
            "http://": "cannot be opened",
            "http://[::1/clip": "http://(malformed) is no address of a video",
        }
        for url, says in cases.items():
            with pytest.raises(InputError) as caught:
                open_video(url)
            assert says in str(caught.value) and "\n" not in str(caught.value), (url, caught.value)
    with pytest.raises(InputError, match="Connection refused"):
        open_video(f"{address}/clip.mp4")
    silent.close()
    assert capfd.readouterr().err == ""


def test_messages_hold_no_password(tmp_path):
    with pytest.raises(InputError) as caught, serve_directory(tmp_path) as address:
        open_video(address.replace("//", "//me:pass@") + "/none.mp4?token=secret")
    assert "pass" not in str(caught.value) and "secret" not in str(caught.value)
