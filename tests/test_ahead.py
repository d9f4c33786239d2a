"""Decoding on a thread of its own."""
import gc
import threading
import time

import pytest

from tests.servers import video_bytes, wait_until
from util.source import ahead as module
from util.source import video
from util.source.ahead import AHEAD, ahead


def decoding():
    return [thread for thread in threading.enumerate() if thread.name == "decoding"]


def counted(count, made, closed):
    try:
        for number in range(count):
            made.append(number)
            yield number
    finally:
        closed.append(True)


def test_items_come_in_order_and_only_a_few_are_made_ahead():
    made, closed = [], []
    items = ahead(counted(50, made, closed))
    assert next(items) == 0
    wait_until(lambda: len(made) == AHEAD + 2)  # one is taken, one waits to be put
    time.sleep(0.02)
    assert len(made) == AHEAD + 2
    assert list(items) == list(range(1, 50)) and closed and not decoding()


def test_an_error_comes_after_what_was_made_before_it():
    def failing():
        yield from range(5)
        raise ZeroDivisionError("here")

    items = ahead(failing())
    assert [next(items) for _ in range(5)] == list(range(5))
    with pytest.raises(ZeroDivisionError, match="here"):
        next(items)
    assert not decoding()


@pytest.mark.parametrize("taken", [1, 4])
def test_who_stops_early_ends_the_thread(taken):
    made, closed = [], []
    items = ahead(counted(1000, made, closed))
    for _ in range(taken):
        next(items)
    items.close()
    assert closed and not decoding() and len(made) < 20


def test_a_video_that_nobody_holds_is_decoded_no_further(tmp_path, monkeypatch):
    monkeypatch.setattr(video, "spare_cores", lambda: 1)
    (tmp_path / "clip.mp4").write_bytes(video_bytes("mp4", "libx264", [i / 25 for i in range(50)], seekable=True))
    clip = video.open_video(tmp_path / "clip.mp4")
    assert len(decoding()) == 1
    del clip
    gc.collect()
    wait_until(lambda: not decoding())


def test_with_one_core_and_with_many_the_frames_are_the_same(tmp_path, monkeypatch):
    (tmp_path / "clip.mp4").write_bytes(video_bytes("mp4", "libx264", [i / 25 for i in range(50)], seekable=True))
    shown = []
    for cores in (0, 3):
        monkeypatch.setattr(video, "spare_cores", lambda cores=cores: cores)
        clip = video.open_video(tmp_path / "clip.mp4")
        assert len(decoding()) == bool(cores)
        shown.append([(clip.seconds, frame.tobytes()) for frame in clip])
    assert shown[0] == shown[1] and len(shown[0]) == 50 and not decoding()


def test_one_thread_is_one_thread(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert module.spare_cores() == 0
