"""Frames that say their number, in any container, and servers on loopback that send them."""
import functools
import http.server
import io
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from fractions import Fraction

import av
import cv2
import numpy as np

from tests.scripts import ROOT

BITS = 8


def wait_until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    assert condition()


def free_port():
    """Return a port of loopback that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def numbered(number, width=64, height=48):
    """A BGR frame with `number` (0..255) as bars, which survive any codec."""
    bits = [255 * (number >> bit & 1) for bit in range(BITS)]
    return np.ascontiguousarray(np.repeat(np.repeat(np.uint8([bits]), width // BITS, 1), height, 0)[..., None].repeat(3, 2))


def number_of(frame):
    columns = np.array_split(frame.mean(axis=(0, 2)), BITS)
    return sum((column.mean() > 127) << bit for bit, column in enumerate(columns))


def video_bytes(container, codec, times, pixels="yuv420p", size=(64, 48), seekable=False, g="5", bf="0", **options):
    """A video of len(times) numbered frames, shown at `times` in seconds, written as into a pipe or into a file."""
    file = io.BytesIO()
    pipe = type("Pipe", (), {"write": lambda self, data: file.write(data)})()
    with av.open(file if seekable else pipe, "w", format=container, container_options=options) as output:
        stream = output.add_stream(codec, rate=25, options={"g": g, "bf": bf, "sc_threshold": "0"})
        stream.width, stream.height, stream.pix_fmt = *size, pixels
        stream.codec_context.time_base = Fraction(1, 25 if container in ("yuv4mpegpipe", "mjpeg", "avi") else 1000)
        for number, seconds in enumerate(times):
            frame = av.VideoFrame.from_ndarray(numbered(number, *size), format="bgr24").reformat(format=pixels)
            frame.time_base = stream.codec_context.time_base
            frame.pts = round(seconds / frame.time_base)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return file.getvalue()


def copy_into(output, data):
    """Put the video of `data` into an open container as it is."""
    with av.open(io.BytesIO(data)) as video:
        stream = output.add_stream_from_template(video.streams.video[0])
        for packet in video.demux():
            if packet.size:
                packet.stream = stream
                output.mux(packet)


@contextmanager
def stdin_of(monkeypatch, data):
    """Stdin as a pipe through which `data` comes."""
    reading, writing = os.pipe()

    def feed():
        with open(writing, "wb") as file, suppress(BrokenPipeError):
            file.write(data)

    thread = threading.Thread(target=feed)
    thread.start()
    with open(reading) as file:
        monkeypatch.setattr(sys, "stdin", file)
        yield
    thread.join()


def multipart(numbers, pace=0.0, size=(64, 48)):
    """The parts that an MJPEG camera sends, one each `pace` seconds."""
    for number in numbers:
        yield jpeg_part(numbered(number % 256, *size))
        time.sleep(pace)


def jpeg_part(frame):
    """A BGR frame as a part of an MJPEG stream."""
    jpeg = cv2.imencode(".jpg", frame)[1].tobytes()
    return b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n" % (len(jpeg), jpeg)


PROGRAM = """
import sys
from util import cli
from util.source import video

def count():
    frames = iter(video.open_video(sys.argv[1]))
    next(frames)
    print("reading", flush=True)
    print(1 + sum(1 for _ in frames))

cli.run(count)
"""


def start_program(source, **options):
    """Return the process of a program that prints "reading" when it has a frame of `source`, and in the end how many there were."""
    return subprocess.Popen([sys.executable, "-c", PROGRAM, source], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)  # fmt: skip


def reading_threads():
    """The threads in which live sources are being read."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("reading ")]


@contextmanager
def serve_directory(directory):
    """Yield the address of a static file server."""
    handler = functools.partial(type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": _quiet}), directory=directory)
    with running(handler, 0) as server:
        yield f"http://127.0.0.1:{server.server_address[1]}"


@contextmanager
def serve_stream(make_parts, kind="multipart/x-mixed-replace; boundary=frame", port=0):
    """Yield the port of a server that sends `make_parts()` to each client, with no length; at the end it breaks off at once."""
    stopped = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        log_message = _quiet

        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.end_headers()
            try:
                for part in make_parts():
                    if stopped.is_set():
                        return
                    self.wfile.write(part)
            except OSError:  # the client has gone
                pass

    with running(Handler, port) as server:
        yield server.server_address[1]
        stopped.set()


@contextmanager
def running(handler, port):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def _quiet(self, *arguments):
    pass
