"""Videos that were cut, trimmed or damaged: what can be shown is shown, and one line says what cannot."""
import io
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import av
import cv2
import numpy as np
import pytest

from tests.scripts import ROOT
from tests.servers import number_of, numbered, stdin_of, video_bytes
from util.errors import InputError
from util.source import stream
from util.source.images import read_bgr
from util.source.video import open_video

STEADY = [i / 25 for i in range(60)]


def read(source):
    """The numbers of a video's frames and the line it ends in, if it does."""
    numbers = []
    try:
        for frame in open_video(source):
            numbers.append(number_of(frame))
    except InputError as error:
        return numbers, str(error)
    return numbers, ""


def both_ways(monkeypatch, path, data):
    """The numbers of the frames, and whether it ends in a line; the same of a file and of stdin."""
    path.write_bytes(data)
    numbers, line = read(path)
    with stdin_of(monkeypatch, data):
        piped, line_of_stdin = read("-")
    assert numbers == piped, (len(numbers), len(piped))
    assert bool(line) == bool(line_of_stdin), (line, line_of_stdin)
    return numbers, line


# ---- Whole ones -----------------------------------------------------------------------------------------------------
def trimmed_mp4(path):
    """Return `path` of an mp4 of 60 frames that shows the last 40, trimmed as phones and `ffmpeg -ss … -c copy` do: from the key frame
    before, which an edit list hides, as index and count don't."""
    whole = io.BytesIO(video_bytes("mp4", "libx264", STEADY, seekable=True, g="25"))
    with av.open(whole) as source, av.open(str(path), "w") as output:
        video = source.streams.video[0]
        copy, start = output.add_stream_from_template(video), round(0.8 / video.time_base)
        for packet in source.demux(video):
            if packet.size:
                packet.pts, packet.dts, packet.stream = packet.pts - start, packet.dts - start, copy
                output.mux(packet)
    return path


def test_a_trimmed_mp4_is_whole_and_has_the_frames_that_players_show(tmp_path, capfd):
    cut = trimmed_mp4(tmp_path / "cut.mp4")
    with av.open(str(cut)) as output:
        assert output.streams.video[0].frames == 60, "it announces those before the cut, too"
    clip = open_video(cut)
    assert [number_of(frame) for frame in clip] == list(range(20, 60)) and np.isclose(clip.seconds, 39 / 25)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("start", [0, 77])
def test_a_recording_that_starts_anywhere_is_shown_from_its_first_key_frame(tmp_path, monkeypatch, capfd, start):
    data = video_bytes("mpegts", "libx264", STEADY, g="20")
    numbers, line = both_ways(monkeypatch, tmp_path / "clip.ts", data[len(data) // 4 // 188 * 188 + start :])
    assert numbers == list(range(20, 60)) and line == "" and capfd.readouterr().err == ""


CONTAINERS = {
    "mp4": ("libx264", {"moov_size": "3000"}), "mp4 in fragments": ("libx264", {"movflags": "frag_keyframe+empty_moov"}),
    "matroska": ("libx264", {}), "mpegts": ("libx264", {}), "avi": ("mjpeg", {}), "nut": ("ffv1", {}), "yuv4mpegpipe": ("rawvideo", {}),
    "flv": ("flv", {}),
}  # fmt: skip


@pytest.mark.parametrize("name", CONTAINERS)
def test_what_is_cut_off_ends_in_one_line_and_what_is_whole_does_not(tmp_path, monkeypatch, capfd, name):
    codec, options = CONTAINERS[name]
    data = video_bytes(name.split()[0], codec, STEADY, "yuvj420p" if codec == "mjpeg" else "yuv420p", seekable=True, **options)
    numbers, line = both_ways(monkeypatch, tmp_path / "whole", data)
    assert numbers == list(range(60)) and line == ""
    numbers, line = both_ways(monkeypatch, tmp_path / "cut", data[: int(len(data) * 0.8)])
    assert 20 < len(numbers) < 55 and numbers[:-1] == list(range(len(numbers) - 1)), "half of the last may be shown"
    assert f" after {len(numbers)} frames, which were kept" in line and "\n" not in line
    assert capfd.readouterr().err == ""


# ---- Damaged ones ---------------------------------------------------------------------------------------------------
def damaged_mjpeg(damaged):
    data = bytearray(video_bytes("avi", "mjpeg", STEADY, "yuvj420p", seekable=True))
    places = [at for at in range(len(data) - 10) if data[at : at + 4] == b"00dc" and data[at + 8 : at + 10] == b"\xff\xd8"]
    assert len(places) == 60
    for number in damaged:
        start, size = places[number] + 8, int.from_bytes(data[places[number] + 4 : places[number] + 8], "little")
        data[start : start + size] = bytes(size)
    return data


def test_damaged_frames_are_left_out_and_counted_in_one_line(tmp_path, monkeypatch, capfd):
    numbers, line = both_ways(monkeypatch, tmp_path / "clip.avi", damaged_mjpeg([20, 21, 22]))
    assert numbers == [*range(20), *range(23, 60)] and line == ""
    said = "3 of 60 frames are damaged and were left out"
    assert capfd.readouterr().err.splitlines() == [f"{tmp_path}/clip.avi: {said}", f"stdin: {said}"]
    clip = open_video(tmp_path / "clip.avi")
    times = [clip.seconds for frame in clip if number_of(frame) in (19, 23)]
    assert np.allclose(times, [19 / 25, 23 / 25]), "by the container's clock"


def test_a_last_frame_that_is_damaged_is_no_end_of_the_file(tmp_path, monkeypatch, capfd):
    numbers, line = both_ways(monkeypatch, tmp_path / "clip.avi", damaged_mjpeg([58, 59]))
    assert numbers == list(range(58)) and line == ""
    assert "2 of 60 frames are damaged and were left out" in capfd.readouterr().err


def test_a_video_of_which_nothing_can_be_decoded_is_not_called_cut_off(tmp_path, monkeypatch):
    """As an encrypted one."""
    numbers, line = both_ways(monkeypatch, tmp_path / "clip.avi", damaged_mjpeg(range(60)))
    assert numbers == [] and "holds no frame that can be read; it may be encrypted" in line


def test_a_video_most_of_which_is_damaged_is_refused_when_the_rest_has_been_shown(tmp_path, monkeypatch):
    numbers, line = both_ways(monkeypatch, tmp_path / "clip.avi", damaged_mjpeg(range(20, 60)))
    assert numbers == list(range(20)) and "40 of 60 frames are damaged" in line


@pytest.mark.parametrize("jump", [1e12, 9e15])
def test_a_timestamp_that_no_clock_shows_is_none(tmp_path, jump):
    (tmp_path / "v.mkv").write_bytes(video_bytes("matroska", "libx264", [*STEADY[:10], *(time + jump for time in STEADY[10:20])]))
    video = open_video(tmp_path / "v.mkv")
    video.started = datetime(2026, 11, 26, tzinfo=UTC)
    times = [video.time_of(video.seconds) for _ in video]
    assert len(times) == 20 and times == sorted(set(times)) and times[-1] - times[0] < timedelta(seconds=1)


def test_frames_that_a_recorder_dropped_are_no_end(tmp_path):
    """AVI marks them by empty chunks, which would tell a decoder that this was all."""
    data = damaged_mjpeg([])
    at = data.index(b"00dc", data.index(b"00dc") + 1000)
    (tmp_path / "clip.avi").write_bytes(data[:at] + b"00dc\0\0\0\0" + data[at:])
    assert read(tmp_path / "clip.avi")[0][-1] == 59


# ---- Fuzzing --------------------------------------------------------------------------------------------------------
SEEDS = [("mp4", "libx264", True), ("mp4", "libx264", False), ("matroska", "libx264", True), ("mpegts", "libx264", False),
         ("avi", "mpeg4", True), ("nut", "ffv1", False), ("mov", "prores_ks", True), ("webm", "libvpx", True),
         ("flv", "flv", True)]  # fmt: skip
PROGRAM = """
import collections, pathlib, sys
from util.errors import InputError
from util.source.video import open_video

ends = collections.Counter()
for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    print(path.name, flush=True)
    try:
        assert sum(1 for _ in open_video(path)) < 1000
        ends["frames"] += 1
    except InputError as error:
        assert "\\n" not in str(error)
        ends["line"] += 1
print(ends["frames"], ends["line"])
"""


def mutated(data, rng):
    """`data` with one to three faults: cut off, bytes changed, a part lost, blanked or doubled, a length made huge."""
    data = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        at, other = (int(rng.integers(0, max(1, len(data) - 8))) for _ in range(2))
        match rng.integers(0, 7):
            case 0:
                del data[at:]
            case 1:
                data[at : at + 1] = rng.bytes(1)
            case 2:
                data[at % 600 : at % 600 + 1] = rng.bytes(1)  # in the header
            case 3:
                del data[at : at + int(rng.integers(1, 1000))]
            case 4:
                data[at : at + 200] = bytes(200)
            case 5:
                data[at:at] = data[other : other + 300]
            case 6:
                data[at : at + 4] = bytes.fromhex(str(rng.choice(["00000000", "7fffffff", "ffffffff", "80000000"])))
    return data


def test_whatever_is_damaged_gives_frames_or_one_line(tmp_path):
    """In a process of its own, since a decoder that crashes or hangs would take this one along."""
    rng, count = np.random.default_rng(5), 0
    (tmp_path / "clips").mkdir()
    for container, codec, seekable in SEEDS:
        options = {} if seekable or container != "mp4" else {"movflags": "frag_keyframe+empty_moov"}
        pixels = "yuv422p10le" if codec == "prores_ks" else "yuv420p"
        data = video_bytes(container, codec, STEADY[:20], pixels, seekable=seekable, **options)
        for _ in range(24):
            count += 1
            (tmp_path / "clips" / f"{count:04d}.{container}").write_bytes(mutated(data, rng))
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path / "clips")], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-200:] + done.stderr[-2000:]
    frames, lines = map(int, done.stdout.splitlines()[-1].split())
    assert frames + lines == count == 216 and frames > 50 and lines > 50


def test_a_file_names_no_other_files(tmp_path):
    """A playlist would; that it isn't plain text does not help it."""
    (tmp_path / "part.ts").write_bytes(video_bytes("mpegts", "libx264", STEADY))
    (tmp_path / "list.mp4").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:2.4,café\npart.ts\n#EXT-X-ENDLIST\n", encoding="utf-8")
    assert "is a text file" in read(tmp_path / "list.mp4")[1]
    assert stream.is_text("é".encode() * 300) and not stream.is_text(b"\xff\xd8\xff\xe0abc") and not stream.is_text(b"abc\0")


def test_a_picture_that_claims_to_hold_more_than_there_is_gets_no_room_for_it(tmp_path):
    data = bytearray(cv2.imencode(".png", numbered(5))[1].tobytes())
    path = tmp_path / "a.png"
    path.write_bytes(data + b"more after its end")
    assert number_of(read_bgr(path)) == 5
    for chunk in (b"IEND", b"IDAT"):
        data[data.index(chunk) - 4 : data.index(chunk)] = b"\x7f\xff\xff\xff"
        path.write_bytes(data)
        with pytest.raises(InputError, match=r"a\.png is cut off"):
            read_bgr(path)
