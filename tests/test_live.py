"""Sources that do not wait, against real servers on loopback; the RTSP server is GStreamer's, where it is installed."""
import argparse
import contextlib
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from itertools import count
from types import SimpleNamespace

import av
import cv2
import numpy as np
import pytest

from tests.networks import RedOrGrey
from tests.scripts import ROOT
from tests.servers import (
    copy_into,
    multipart,
    number_of,
    numbered,
    reading_threads,
    serve_directory,
    serve_stream,
    start_program,
    video_bytes,
    wait_until,
)
from util import watch
from util.errors import InputError
from util.source import live
from util.source.video import open_video


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    for name, value in {"FIRST_WAIT": 0.05, "LONGEST_WAIT": 0.2}.items():
        monkeypatch.setattr(live, name, value)


def test_a_live_stream_goes_on_after_its_server_was_away(capfd):
    with serve_stream(lambda: multipart(count(), 0.01)) as port:
        clip = open_video(f"http://127.0.0.1:{port}/")
        frames = iter(clip)
        before = [(number_of(next(frames)), clip.seconds) for _ in range(20)]
    away = time.monotonic()
    threading.Timer(0.6, lambda: restarted.set()).start()
    restarted = threading.Event()
    after = []

    def consume():
        after.extend((number_of(frame), clip.seconds) for frame, _ in zip(frames, range(60), strict=False))

    consumer = threading.Thread(target=consume)
    consumer.start()
    restarted.wait()
    with serve_stream(lambda: multipart(count(100), 0.01), port=port):
        consumer.join(timeout=20)
        gone = time.monotonic() - away
    assert [number for number, _ in before][-1] < 100 <= after[-1][0], "frames of the second server"
    times = [seconds for _, seconds in before + after]
    assert all(np.diff(times) > 0) and 0.5 < times[-1] - before[-1][1] < gone + 0.1, "the time away counts"
    assert clip.reconnects == 1
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 2 and "lost (" in lines[0] and re.search(r"back after [0-9.]+ s", lines[1]), lines
    frames.close()
    assert not reading_threads()


def test_a_slow_consumer_gets_new_frames_and_the_count_of_those_it_missed():
    begin, missed, shown = time.monotonic(), 0, []
    with serve_stream(lambda: multipart(count(), 0.01)) as port:
        clip = open_video(f"http://127.0.0.1:{port}/")
        for taken, frame in zip(range(10), clip, strict=False):
            shown.append(time.monotonic())
            # Before it came those that were taken and those that were missed, and none of those waits any more.
            assert (number_of(frame) - taken - missed) % 256 <= clip.dropped - missed, "what is shown is new, although most was missed"
            wait_until(lambda before=clip.dropped: clip.dropped >= before + 10, 30)
            missed = clip.dropped
    assert missed >= 100 and shown[-2] - shown[0] <= clip.seconds < time.monotonic() - begin


def test_a_stream_that_comes_in_parts_loses_none_of_them(tmp_path):
    """HLS: a part of 0.2 s comes at once, and pushes nothing out. A list without an end is read from its third part before the last."""
    options = {"hls_time": "0.2", "hls_list_size": "0", "hls_flags": "omit_endlist"}
    with av.open(str(tmp_path / "list.m3u8"), "w", options=options) as hls:
        copy_into(hls, video_bytes("matroska", "libx264", [i / 25 for i in range(50)]))
    with serve_directory(tmp_path) as address:
        clip = open_video(f"{address}/list.m3u8")
        numbers = [number_of(frame) for _, frame in zip(range(10), clip, strict=False)]
    assert 30 <= numbers[0] <= 40 and numbers == list(range(numbers[0], numbers[0] + 10))
    assert clip.dropped == 0 and np.isclose(clip.seconds, 9 / 25)


def test_a_source_that_stays_away_is_given_up(monkeypatch, capfd):
    monkeypatch.setattr(live, "PATIENCE", 0.5)
    with serve_stream(lambda: multipart(range(30), 0.01)) as port:
        frames = iter(open_video(f"http://127.0.0.1:{port}/"))
        next(frames)
    with pytest.raises(InputError, match=r"lost, and not back within 0.5 s .*Connection refused"):
        list(frames)
    assert capfd.readouterr().err.count("\n") == 1 and not reading_threads()


def test_a_stream_that_changes_its_size_ends_in_one_line(capfd):
    sizes = iter([(64, 48), (64, 48), (96, 48)])  # opening, then the two connections
    with serve_stream(lambda: multipart(range(20), 0.005, next(sizes, (96, 48)))) as port:
        with pytest.raises(InputError, match="is 96x48, the first 64x48"):
            list(open_video(f"http://127.0.0.1:{port}/"))
    assert not reading_threads()


def test_ctrl_c_ends_a_live_source_at_once(capfd):
    with serve_stream(lambda: multipart(count(), 0.02)) as port:
        process = start_program(f"http://127.0.0.1:{port}/")
        assert process.stdout.readline() == b"reading\n"
        process.send_signal(signal.SIGINT)
        error = process.communicate(timeout=60)[1]
    assert process.returncode == 2 and error.count(b"\n") == 1 and b"interrupted" in error, error


def watching(source, directory, *flags):
    """Return the process of a run over `source`, once it has written some frames."""
    command = [sys.executable, "-m", "util.watch", source, "--network", "MNIST/models/LeNet_5.xnor", "--save", str(directory), *flags]
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)  # fmt: skip
    wait_until(lambda: len(list(directory.with_suffix(".part").glob("masks/*"))) > 5 or process.poll() is not None, 60)
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_is_the_normal_end_of_a_live_source(number, tmp_path):
    with serve_stream(lambda: multipart(count(), 0.02)) as port:
        process = watching(f"http://127.0.0.1:{port}/", tmp_path / "out")
        process.send_signal(number)
        out, error = process.communicate(timeout=60)
    assert process.returncode == 0 and not error, error
    assert re.search(r"dropped: \d+ frames .*; 0 times connected again", out) and "; decode includes waiting" in out
    assert out.endswith(f"\nwritten: {tmp_path / 'out' / 'report.html'}\n")
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["stopped"] and summary["reconnects"] == 0 <= summary["dropped"] and summary["frames"] > 5
    assert summary["frames"] == len(list((tmp_path / "out" / "masks").iterdir()))
    report = (tmp_path / "out" / "report.html").read_text()
    assert f"<dt>dropped</dt><dd>{summary['dropped']}</dd>" in report and "<dt>reconnects</dt><dd>0</dd>" in report


def test_start_is_refused_for_what_has_a_clock(monkeypatch):
    monkeypatch.setattr(live.cv2, "VideoCapture", FakeCapture)
    monkeypatch.setattr(FakeCapture, "opened", 10)  # and stays plugged in
    nothing = dict.fromkeys(("save", "label", "settings", "notify", "record", "camera", "serve"))
    args = argparse.Namespace(video="0", **nothing, start=datetime.now(UTC))
    with pytest.raises(InputError, match="--start is for files; camera 0 is live"):
        watch.run(args, RedOrGrey())


def test_a_stop_ends_a_live_source_that_is_away(tmp_path):
    with serve_stream(lambda: multipart(count(), 0.02)) as port:
        process = watching(f"http://127.0.0.1:{port}/", tmp_path / "out")
    assert "lost (" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    assert "dropped: " in process.communicate(timeout=60)[0] and process.returncode == 0
    assert (tmp_path / "out" / "summary.json").exists()


def test_a_stop_breaks_off_what_is_not_live(tmp_path):
    for number in range(300):
        cv2.imwrite(str(tmp_path / f"{number}.bmp"), numbered(number % 256, 640, 480))
    process = watching(str(tmp_path), tmp_path / "out")
    process.send_signal(signal.SIGTERM)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 2 and "interrupted; what was finished has been kept" in error and error.count("\n") == 1
    assert (tmp_path / "out" / "report.html").exists() and not (tmp_path / "out" / "summary.json").exists()


# ---- The thread, by a source under control ----------------------------------------------------------------------------
class Scripted:
    """A live source that does what a queue says: a frame, an exception, or None for its end."""

    finite = segmented = False

    def __init__(self):
        self.script, self.closed = queue.Queue(), False

    def __iter__(self):
        while (step := self.script.get(timeout=10)) is not None:
            if isinstance(step, Exception):
                raise step
            yield step

    def close(self):
        self.closed = True


def test_only_the_newest_frames_wait():
    source = Scripted()
    frames = live.Live("it", lambda: source, lambda frame: frame)
    for number in range(10):
        source.script.put((10 + number / 25, number))
    wait_until(lambda: source.script.empty() and frames.dropped == 10 - live.NEWEST)
    taken = [next(frames) for _ in range(live.NEWEST)]
    assert [frame for _, frame in taken] == [6, 7, 8, 9]
    assert np.allclose([seconds for seconds, _ in taken], [6 / 25, 7 / 25, 8 / 25, 9 / 25]), "by the source's clock, from its first frame"
    source.script.put(None)
    frames.close()


@pytest.mark.parametrize("set_to", [0, 5000])
def test_time_goes_on_where_the_clock_of_a_stream_is_set(set_to):
    source, packets = Scripted(), []
    source.tap, source.has_clock = None, True
    frames = live.Live("it", lambda: source, lambda frame: frame)
    assert frames.tap(lambda stream, packet, seconds, timed: packets.append(seconds))
    for stamp in (1000, 1000.04, set_to, set_to + 0.04):
        wait_until(lambda: source.tap is not None)
        source.tap(SimpleNamespace(stream=None, pts=round(100 * stamp), time_base=Fraction(1, 100)))
        source.script.put((stamp, stamp))
        wait_until(lambda stamp=stamp: source.script.empty() and stamp in [frame for _, frame, _ in frames._reader.frames])
    taken = [next(frames)[0] for _ in range(4)]
    assert taken == sorted(taken) and taken[3] - taken[2] == pytest.approx(0.04) and taken[3] < 3
    assert max(abs(packet - frame) for packet, frame in zip(packets, taken, strict=True)) < 3, "what is recorded has the same time"
    source.script.put(None)
    frames.close()


def test_a_bug_in_a_source_is_no_loss():
    source = Scripted()
    frames = live.Live("it", lambda: source, lambda frame: frame)
    source.script.put(ZeroDivisionError("a bug"))
    with pytest.raises(ZeroDivisionError):
        next(frames)


def test_reading_ends_when_nobody_holds_the_video(monkeypatch):
    with serve_stream(lambda: multipart(count(), 0.01)) as port:
        clip = open_video(f"http://127.0.0.1:{port}/")
        assert len(reading_threads()) == 1
        del clip
        wait_until(lambda: not reading_threads())


class FakeCapture:
    """Stands in for cv2.VideoCapture of a camera: 5 frames, then unplugged; plugged in again after two tries."""

    opened = 0

    def __init__(self, number):
        FakeCapture.opened += 1
        self.there, self.left = FakeCapture.opened not in (2, 3), 5

    def isOpened(self):
        return self.there

    def get(self, what):
        return 30.0

    def read(self):
        time.sleep(0.005)
        self.left -= 1
        return self.left >= 0, numbered(self.left)

    def release(self):
        pass


def test_a_camera_is_live_and_comes_back(monkeypatch, capfd):
    monkeypatch.setattr(live.cv2, "VideoCapture", FakeCapture)
    clip = open_video("0")
    assert clip.fps == 30 and len([frame for frame, _ in zip(clip, range(8), strict=False)]) == 8
    assert clip.reconnects == 1 and FakeCapture.opened == 4 and 0.1 < clip.seconds < 5
    now = datetime.now(UTC)
    assert clip.live and clip.started.tzinfo and timedelta() <= now - clip.time_of(clip.seconds) < timedelta(seconds=5)
    assert re.fullmatch(r"camera 0: lost \(it ended\).*\ncamera 0: back after .* s\n", capfd.readouterr().err)


# ---- RTSP -----------------------------------------------------------------------------------------------------------
RTSP_SERVER = """
import sys, gi
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer
Gst.init(None)
needed = ("videotestsrc", "vp8enc", "rtpvp8pay")
if not all(map(Gst.ElementFactory.find, needed)): sys.exit(1)
server = GstRtspServer.RTSPServer()
server.set_address("127.0.0.1"); server.set_service(sys.argv[1])
factory = GstRtspServer.RTSPMediaFactory()
factory.set_launch("( videotestsrc is-live=true ! video/x-raw,width=64,height=48,framerate=25/1"
                   " ! vp8enc deadline=1 keyframe-max-dist=5 ! rtpvp8pay name=pay0 )")
factory.set_shared(True)
server.get_mount_points().add_factory("/cam", factory)
server.attach(None)
print("ready", server.get_bound_port(), flush=True)
GLib.MainLoop().run()
"""


@contextlib.contextmanager
def rtsp_server(port=0):
    """Yield the port of a real RTSP server; skip the test where GStreamer's is not installed."""
    python = "/usr/bin/python3"  # the system's, for which distributions package GStreamer
    if not os.path.exists(python):
        pytest.skip("no system Python")
    process = subprocess.Popen([python, "-c", RTSP_SERVER, str(port)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        ready = process.stdout.readline()
        if not ready:
            pytest.skip("no RTSP server (Debian: gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-good python3-gi)")
        yield int(ready.split()[1])
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_rtsp_goes_on_after_its_server_was_away(capfd):
    with rtsp_server() as port:
        with pytest.raises(InputError, match="404"):
            open_video(f"rtsp://127.0.0.1:{port}/none")
        clip = open_video(f"rtsp://127.0.0.1:{port}/cam")
        frames = iter(clip)
        times = [clip.seconds for _ in zip(range(40), frames, strict=False)]
    assert np.allclose(np.median(np.diff(times)), 0.04, atol=0.002), "by the stream's clock"
    with rtsp_server(port):
        times += [clip.seconds for _ in zip(range(20), frames, strict=False)]
    assert clip.reconnects == 1 and all(np.diff(times) > 0) and len(times) == 60
    assert [re.search("lost|back", line).group() for line in capfd.readouterr().err.splitlines()] == ["lost", "back"]
    frames.close()
    assert not reading_threads()
