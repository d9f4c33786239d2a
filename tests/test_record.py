"""--record: which seconds are in which file, what is deleted and what never, a full disk, a kill; against streams on loopback."""
import argparse
import contextlib
import errno
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import datetime, timedelta
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest

from tests.scripts import ROOT
from tests.servers import multipart, number_of, numbered, serve_stream, video_bytes, wait_until
from tests.test_live import rtsp_server, watching
from util.cli import Keep, keep_of
from util.errors import InputError
from util.outputs import ledger as ledgers
from util.outputs import record
from util.outputs.ledger import NAME, Ledger
from util.outputs.record import Recorder
from util.source.video import open_video
from util.track.tracking import Moment, Sighting, Track
from util.watch.pipeline import Clock

BEGAN = datetime.fromisoformat("2026-11-26T15:59:50+01:00")


class FakeVideo:
    """A source of 25 frames a second without packets; or with those of a file of numbered frames, a key frame every 5."""

    fps, width, height = 25.0, 64, 48

    def __init__(self, began=BEGAN):
        self.began = began

    def time_of(self, seconds):
        return self.began and self.began + timedelta(seconds=seconds)

    def tap(self, take):
        return False


def track(number, start, end):
    return Track(number, "cat", 0.9, 1, 2, start, end, 5, np.zeros((4, 4, 3), np.uint8), 1, (0, 0, 4, 4))


def moment(number, **changes):
    return Moment(number + 1, number / 25, numbered(number % 256), None, [], **changes)


def drain(recorder):
    wait_until(lambda: not recorder._waiting, 20)


def numbers(path):
    """The numbers of a recording's frames, of those that can be read."""
    found = []
    with av.open(str(path)) as file:
        try:
            for frame in file.decode(video=0):
                found.append(int(number_of(frame.to_ndarray(format="bgr24"))))
        except av.FFmpegError:
            pass  # cut off in its last packet
    return found


def files_of(directory):
    return sorted(path for path in Path(directory).iterdir() if path.name != NAME)


def recorded(directory, frames, events=(), everything=False, keep=Keep(), video=None, **around):  # noqa: B008
    """Record numbered frames; events are (start, end) in frames: each is told 10 frames after either."""
    recorder = Recorder(directory, video or FakeVideo(), keep, everything, **around)
    tracks = {i: track(i, start / 25, end / 25) for i, (start, end) in enumerate(events, 1)}
    for number in range(frames):
        begun = [tracks[i] for i, (start, _) in enumerate(events, 1) if number == start + 10]
        ended = [tracks[i] for i, (_, end) in enumerate(events, 1) if number == end + 10]
        recorder.add(moment(number, begun=begun, ended=ended))
        drain(recorder)
    recorder.finish([], Clock())
    recorder.close()
    return recorder


def test_a_recording_goes_from_before_an_event_to_after_it(tmp_path):
    recorder = recorded(tmp_path / "r", 250, [(100, 150)], before=1, after=2)
    [path] = files_of(tmp_path / "r")
    assert path.name == "2026-11-26T15-59-53+0100.mp4", "from frame 75, 3 s after 15:59:50"
    assert numbers(path) == list(range(75, 201)), "a key frame each 25; 150 + 2 s"
    with av.open(str(path)) as file:
        codec = file.streams.video[0].codec_context
        colours = codec.colorspace, codec.color_primaries, codec.color_trc, codec.color_range
    assert colours == (6, 6, 6, 1), "named, so that no player guesses"
    assert (recorder.files, recorder.gaps, recorder.ledger.deleted) == (1, 0, 0)


def test_events_that_overlap_share_a_file_and_others_have_their_own(tmp_path):
    recorded(tmp_path / "r", 600, [(100, 130), (120, 180), (400, 420)], before=1, after=1)
    assert [numbers(path)[:: len(numbers(path)) - 1] for path in files_of(tmp_path / "r")] == [[75, 205], [375 % 256, 445 % 256]]


def test_everything_is_cut_at_the_hour_and_nothing_is_missing(tmp_path):
    recorded(tmp_path / "r", 400, everything=True)
    first, second = files_of(tmp_path / "r")
    assert (first.name, second.name) == ("2026-11-26T15-59-50+0100.mp4", "2026-11-26T16-00-00+0100.mp4")
    assert numbers(first) == list(range(250)) and numbers(second) == [number % 256 for number in range(250, 400)]


def test_what_a_recorder_counts_is_known_when_it_is_finished(tmp_path, monkeypatch):
    step = Recorder._step
    monkeypatch.setattr(Recorder, "_step", lambda *given: time.sleep(0.01) or step(*given))
    recorder = Recorder(tmp_path / "r", FakeVideo(BEGAN + timedelta(seconds=9)), Keep(), everything=True)
    for number in range(50):
        recorder.add(moment(number))
    recorder.finish([], Clock())
    assert recorder.files == 2, "the second from the hour on, after 25 frames"
    recorder.close()


def test_without_a_time_of_day_the_name_is_the_time_from_the_start(tmp_path):
    recorded(tmp_path / "r", 130, [(100, 110)], video=FakeVideo(None), before=1, after=1)
    assert [path.name for path in files_of(tmp_path / "r")] == ["00-00-03.mp4"]


# ---- Streams, whose packets are copied --------------------------------------------------------------------------------
@pytest.mark.parametrize(("codec", "suffix"), [("libx264", ".mp4"), ("libvpx", ".mkv")])
def test_packets_of_a_stream_are_copied_as_they_are(codec, suffix, tmp_path):
    data = video_bytes("matroska", codec, [i / 25 for i in range(200)])
    given = {bytes(packet) for packet in av.open(io.BytesIO(data)).demux(video=0) if packet.size}

    def parts():
        for place in range(0, len(data), 400):
            yield data[place : place + 400]
            time.sleep(0.005)
        time.sleep(1)

    with serve_stream(parts, "video/x-matroska") as port:
        video = open_video(f"http://127.0.0.1:{port}/")
        recorder = Recorder(tmp_path / "r", video, Keep(), everything=True)
        seen = 0
        for frame in video:
            seen = number_of(frame)
            if seen >= 190:
                break
        recorder.close()
    [path] = files_of(tmp_path / "r")
    assert path.suffix == suffix and datetime.strptime(path.stem, "%Y-%m-%dT%H-%M-%S%z")
    with av.open(str(path)) as file:
        packets = [bytes(packet) for packet in file.demux(video=0) if packet.size]
    assert set(packets) <= given and len(packets) >= 100
    got = numbers(path)
    assert got[0] % 5 == 0 and got == list(range(got[0], got[-1] + 1)) and got[-1] >= seen, "from a key frame on, all"


def test_a_camera_of_pictures_is_recorded_too_and_a_lost_connection_gets_another_file(tmp_path):
    sent = []

    def parts():
        for part in multipart(range(255), 0.01):
            sent.append(time.monotonic())
            yield part

    with serve_stream(parts) as port:
        video = open_video(f"http://127.0.0.1:{port}/")
        recorder = Recorder(tmp_path / "r", video, Keep(), everything=True)
        frames = iter(video)
        for _ in range(30):
            next(frames)
    with serve_stream(lambda: multipart(count(100), 0.01), port=port):
        while number_of(next(frames)) < 130:
            pass
        recorder.close()
    frames.close()
    paths = files_of(tmp_path / "r")
    before, *_, after = sorted(numbers(path) for path in paths)
    with av.open(str(paths[0])) as file:
        times = [(frame.time, int(number_of(frame.to_ndarray(format="bgr24")))) for frame in file.decode(video=0)]
    (start, first), (end, last) = times[0], times[-1]
    assert abs(end - start - (sent[last] - sent[first])) < 0.3, "as they came: this container has no times, FFmpeg would make them 0.04 s"
    assert {path.suffix for path in paths} == {".mkv"} and len(before) >= 20 and 100 <= after[0] and after[-1] >= 125


@pytest.mark.parametrize(("lost", "files"), [(250, 1), (15, 2)])
def test_a_track_is_recorded_after_a_loss_only_if_it_is_seen_again(tmp_path, lost, files):
    recorder = Recorder(tmp_path / "r", FakeVideo(), Keep(), everything=False, before=1, after=1)
    connections, recorder._encoder = [recorder._encoder, record._Encoder(FakeVideo())], None

    def receive(pieces):
        for piece in pieces:
            recorder.take(piece)
        drain(recorder)

    def look(number, seen, **changes):
        found = moment(number, **changes)
        found.sightings += [Sighting((0, 0, 4, 4), (0, 0, 4, 4), 0.9, track=1)] * seen
        recorder.add(found)

    for number in range(100):
        receive(connections[0](numbered(number), number / 25))
        look(number, seen=40 <= number, begun=[track(1, 1.6, 1.6)] if number == 40 else [])
    receive(connections[0].rest())
    back, again = 100 + lost, files == 2
    for number in range(back, back + 100):
        receive(connections[1](numbered(number % 256), number / 25))
        if number >= back + 4:  # a frame is looked at some time after it has come
            over = number == back + 7 and not again
            look(number, seen=again, ended=[track(1, 1.6, 4)] if over else [])
    receive(connections[1].rest())
    recorder.finish([track(1, 1.6, number / 25)] if again else [], Clock())
    recorder.close()
    first, *rest = [numbers(path) for path in files_of(tmp_path / "r")]
    assert first == list(range(100)) and len(rest) == files - 1
    assert not rest or rest[0] == [number % 256 for number in range(back, back + 100)], "from the new connection's first key frame on"


def test_timestamps_that_go_back_or_jump_are_mended(tmp_path):
    recorder = Recorder(tmp_path / "r", FakeVideo(), Keep(), everything=True)
    for number in range(200):
        for piece in recorder._encoder(numbered(number), number / 25):
            late = -5 if piece.seconds >= 6 else 3600 if piece.seconds >= 4 else -0.2 if piece.seconds >= 2 else 0
            piece.pts, piece.dts = (stamp + round(late * record.TICKS) for stamp in (piece.pts, piece.dts))
            recorder.take(piece)
    recorder.close()
    [path] = files_of(tmp_path / "r")
    with av.open(str(path)) as file:
        frames = [(int(number_of(frame.to_ndarray(format="bgr24"))), frame.time) for frame in file.decode(video=0)]
    assert recorder.gaps == 0 and [number for number, _ in frames] == list(range(len(frames))) and len(frames) > 180
    assert 0 < min(np.diff([time for _, time in frames])) and frames[-1][1] < 9


def test_rtsp_is_recorded(tmp_path):
    with rtsp_server() as port:
        video = open_video(f"rtsp://127.0.0.1:{port}/cam")
        recorder = Recorder(tmp_path / "r", video, Keep(), everything=True)
        for _, _ in zip(video, range(60), strict=False):
            pass
        recorder.close()
    [path] = files_of(tmp_path / "r")
    with av.open(str(path)) as file:
        times = [frame.time for frame in file.decode(video=0)]
    assert len(times) >= 40 and np.allclose(np.diff(times), 0.04, atol=0.002)


# ---- What is deleted --------------------------------------------------------------------------------------------------
def small_files(directory, keep, names=("a", "b", "c", "d"), size=1000):
    ledger = Ledger(directory, keep)
    for stem in names:
        name = ledger.new(stem, ".mp4")
        (directory / name).write_bytes(bytes(size))
        ledger.done(name)
        time.sleep(0.002)
    return ledger


def names_in(directory):
    return sorted(path.name for path in files_of(directory))


def test_only_the_oldest_of_ours_are_deleted(tmp_path):
    tmp_path.joinpath("e.mp4").write_bytes(bytes(5000))
    tmp_path.joinpath("2026-11-26T15-59-50+0100.mp4").write_bytes(bytes(5000))  # somebody else's, though it looks like ours
    ledger = small_files(tmp_path, Keep(size=2500))
    ledger.tidy(growing=400)
    assert names_in(tmp_path) == ["2026-11-26T15-59-50+0100.mp4", "c.mp4", "d.mp4", "e.mp4"] and ledger.deleted == 2
    ledger.tidy(growing=10**9)
    ledger.close()
    assert names_in(tmp_path) == ["2026-11-26T15-59-50+0100.mp4", "e.mp4"]


def test_age_counts_across_runs(tmp_path):
    small_files(tmp_path, Keep()).close()
    ledger = Ledger(tmp_path, Keep(seconds=3600))
    for name in ("a.mp4", "b.mp4"):
        entry = next(entry for entry in ledger.complete if entry.name == name)
        entry.changed -= int(7200e9)
        os.utime(tmp_path / name, ns=(entry.changed, entry.changed))
    ledger.tidy()
    assert names_in(tmp_path) == ["c.mp4", "d.mp4"]
    ledger.close()


def test_what_somebody_changed_replaced_or_linked_is_theirs(tmp_path):
    small_files(tmp_path, Keep()).close()
    (tmp_path / "a.mp4").write_bytes(b"edited")
    (tmp_path / "b.mp4").unlink()
    (tmp_path / "b.mp4").symlink_to(tmp_path / "c.mp4")
    ledger = Ledger(tmp_path, Keep(size=1))
    (tmp_path / "c.mp4").write_bytes(b"edited while we run")
    ledger.tidy(growing=10)
    ledger.close()
    assert names_in(tmp_path) == ["a.mp4", "b.mp4", "c.mp4"] and ledger.deleted == 1


def test_what_a_killed_run_left_is_ours_and_a_torn_line_is_nothing(tmp_path):
    small_files(tmp_path, Keep(), names="ab").close()
    (tmp_path / "c.mp4").write_bytes(bytes(1000))
    (tmp_path / "d.mp4").write_bytes(bytes(1000))
    with open(tmp_path / NAME, "a") as file:
        file.write("c.mp4\n../x.mp4\n.hidden.mp4\nd.mp4 1 " + "1" * 5000 + "\nd.m")
    ledger = Ledger(tmp_path, Keep(size=1))
    assert [entry.name for entry in ledger.complete] == ["a.mp4", "b.mp4", "c.mp4"]
    ledger.tidy(growing=1)
    ledger.close()
    assert names_in(tmp_path) == ["d.mp4"]


def test_a_directory_is_for_one_run_and_a_foreign_list_is_refused(tmp_path):
    ledger = Ledger(tmp_path / "r", Keep())
    with pytest.raises(InputError, match="being recorded to by another run"):
        Ledger(tmp_path / "r", Keep())
    ledger.close()
    Ledger(tmp_path / "r", Keep()).close()
    (tmp_path / "r" / NAME).write_text("my songs\n")
    with pytest.raises(InputError, match="no list of recordings"):
        Ledger(tmp_path / "r", Keep())
    assert (tmp_path / "r" / NAME).read_text() == "my songs\n"
    (tmp_path / "f").write_text("")
    with pytest.raises(InputError, match="choose another directory"):
        Ledger(tmp_path / "f", Keep())


def test_keep_bounds_a_recording_that_goes_on(tmp_path):
    recorder = recorded(tmp_path / "r", 900, everything=True, keep=Keep(size=16_000))
    paths = files_of(tmp_path / "r")
    assert recorder.ledger.deleted == recorder.files - len(paths) > 0 and recorder.gaps == 0
    assert 8_000 < sum(path.stat().st_size for path in paths) <= 16_000
    assert sum((numbers(path) for path in paths), [])[-1] == 899 % 256, "the newest are there"


def test_some_of_the_disk_is_left_to_others(tmp_path, monkeypatch):
    """A disk of 2 MB with 18,500 bytes left, where a hundredth is 20,000: two files of 1000 make room."""
    ledger = small_files(tmp_path, Keep())
    disk = {"f_blocks": 2000, "f_frsize": 1000}
    monkeypatch.setattr(ledgers.os, "fstatvfs", lambda _: SimpleNamespace(**disk, f_bavail=22.5 - len(files_of(tmp_path))))
    ledger.tidy()
    ledger.close()
    assert names_in(tmp_path) == ["c.mp4", "d.mp4"]


# ---- A disk that is full ----------------------------------------------------------------------------------------------
class Disk:
    """os.write as on a disk with room for so many bytes of recordings; deleting makes room."""

    def __init__(self, monkeypatch, directory, room):
        self.directory, self.room, self.write = directory, room, os.write
        monkeypatch.setattr(record.os, "write", self)

    def __call__(self, descriptor, data):
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        if path.endswith((".mp4", ".mkv")):
            left = self.room - sum(path.stat().st_size for path in files_of(self.directory))
            if left <= 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            data = data[:left]  # as a real one does
        return self.write(descriptor, data)


def test_a_full_disk_loses_the_oldest_and_no_frame(tmp_path, monkeypatch):
    small_files(tmp_path / "r", Keep(), size=20_000).close()
    Disk(monkeypatch, tmp_path / "r", 81_000)
    recorder = recorded(tmp_path / "r", 250, everything=True)
    assert 1 <= recorder.ledger.deleted < 4 and recorder.gaps == 0
    *recordings, _ = paths = files_of(tmp_path / "r")
    assert [path.name for path in paths][-1] == "d.mp4" and "a.mp4" not in names_in(tmp_path / "r")
    assert sum(path.stat().st_size for path in paths) <= 81_000 and numbers(recordings[0]) == list(range(250))


def test_a_disk_without_any_room_ends_no_run(tmp_path, monkeypatch, capfd):
    (tmp_path / "r").mkdir()
    monkeypatch.setattr(record, "PAUSE", 0.0)
    Disk(monkeypatch, tmp_path / "r", 0)
    recorder = recorded(tmp_path / "r", 60, everything=True)
    assert recorder.gaps > 0 and not files_of(tmp_path / "r")
    assert capfd.readouterr().err.count("\n") == 1, "said once"


def test_a_log_on_a_full_disk_ends_no_recording(tmp_path, monkeypatch):
    (tmp_path / "r").mkdir()
    monkeypatch.setattr(record, "PAUSE", 0.0)
    disk = Disk(monkeypatch, tmp_path / "r", 0)
    with contextlib.suppress(OSError), open("/dev/full", "w", buffering=1) as log:  # of its close
        monkeypatch.setattr(sys, "stderr", log)
        recorder = Recorder(tmp_path / "r", FakeVideo(), Keep(), everything=True)
        for number in range(100):
            disk.room = 0 if number < 50 else 10**9
            recorder.add(moment(number))
            wait_until(lambda: not recorder._waiting)
        recorder.finish([], Clock())
        recorder.close()
        monkeypatch.undo()
    assert recorder.gaps > 0 and numbers(files_of(tmp_path / "r")[0])[-1] > 80


def test_keep_is_read_and_refused():
    assert keep_of("20GB") == Keep(size=20e9, text="20GB") and keep_of("1.5d,500MB") == Keep(5e8, 1.5 * 86400, "1.5d,500MB")
    for text in ("", "20", "GB", "-1d", "0GB", "20GB,30GB", "1e9d", "20 GB", "14D"):
        with pytest.raises(argparse.ArgumentTypeError, match="no size or age"):
            keep_of(text)


# ---- Ends -------------------------------------------------------------------------------------------------------------
PROGRAM = """
import sys, time
from itertools import count
from tests.test_record import FakeVideo, moment
from util.cli import Keep
from util.outputs.record import Recorder
recorder = Recorder(sys.argv[1], FakeVideo(), Keep(), everything=True)
for number in count():
    recorder.add(moment(number))
    time.sleep(0.002)
    print(number, flush=True)
"""


def test_a_killed_run_leaves_a_recording_that_can_be_played(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(tmp_path / "r")], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    while int(process.stdout.readline()) < 120:
        pass
    process.kill()
    process.communicate()
    [path] = files_of(tmp_path / "r")
    got = numbers(path)
    assert got == list(range(len(got))) and len(got) >= 75, "up to a key frame; some wait for the encoder"
    ledger = Ledger(tmp_path / "r", Keep())
    assert [entry.name for entry in ledger.complete] == [path.name]
    ledger.close()


def test_the_command_records_a_live_source_until_it_is_stopped(tmp_path):
    with serve_stream(lambda: multipart(count(), 0.02)) as port:
        flags = "--record", "all", "--recordings", str(tmp_path / "r"), "--keep", "1GB"
        process = watching(f"http://127.0.0.1:{port}/", tmp_path / "out", *flags)
        time.sleep(0.5)  # 25 frames
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=60)
    assert process.returncode == 0 and not error, error
    assert f"recorded: 1 files in {tmp_path / 'r'}, 0 deleted to make room, 0 gaps" in out
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["recordings"] == {"files": 1, "deleted": 0, "gaps": 0}
    [path] = files_of(tmp_path / "r")
    found = numbers(path)
    assert len(found) > 5 and found == list(range(found[0], found[0] + len(found)))


def test_memory_is_bounded_where_writing_is_too_slow(tmp_path, monkeypatch):
    """The disk stands still: what does not fit is left out up to a key frame, and counted once for each time."""
    monkeypatch.setattr(record, "MAX_BYTES", 2000)
    stands, gone_on = threading.Event(), threading.Event()
    monkeypatch.setattr(Recorder, "_step", lambda self, piece: stands.set() or gone_on.wait(10))
    recorder = Recorder(tmp_path / "r", FakeVideo(), Keep(), everything=True)
    for number in range(500):
        recorder.add(moment(number))
        assert not recorder._waiting_size or stands.wait(10)  # else what the writer takes later makes room once more
        assert recorder._waiting_size <= 2000 + 1500
    assert recorder.gaps == 1
    gone_on.set()
    recorder.close()
