"""Prints how several cameras do for a while: `python3 -m util.watch --cameras` on RTSP cameras on loopback, with page and events.

    python benchmarks/cameras.py --minutes 30 [--cameras 4] [--mqtt] [--save DIR] [-- FLAG…]

Each camera sends the same drawn clip, H.264, from GStreamer's RTSP server (Debian: gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-bad
python3-gi), at its own pace and over and over. Events go to a webhook here, or with --mqtt by way of a mosquitto (Debian). The time is
divided in sixths: nobody looks; somebody looks at all cameras' pictures; the page's reader is gone and what takes the events is down for a
minute at most; then the same once more. A line each 10 seconds says what /NAME/state tells: age is from a frame's decoding to its naming.
An event's latency is from the time when the camera sent its frame to its arrival here; encoding is not in it. Linux only.
"""
import http.server
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from tabulate import tabulate

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from benchmarks.machine import children, cpu_name, memory  # noqa: E402
from tests.servers import free_port  # noqa: E402
from util.cli import Parser, at_least, run  # noqa: E402
from util.errors import InputError  # noqa: E402
from util.score.scenes import Mover, Scene, camera_path, digit_sprite, texture  # noqa: E402

WIDTH, HEIGHT, RATE, SECONDS = 640, 360, 15, 40  # of the clip
EVERY = 10.0  # seconds between two lines
DOWN = 60.0  # seconds that the receivers are away, at most
PHASES = ["nobody looks", "somebody looks", "receivers down"] * 2
SERVER = """
import struct, sys, time, gi
gi.require_version("Gst", "1.0"); gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer
Gst.init(None)
rate, cameras, data, units = int(sys.argv[2]), int(sys.argv[3]), open(sys.argv[1], "rb").read(), []
while data:
    size = struct.unpack(">I", data[:4])[0]
    units.append(data[4:4 + size]); data = data[4 + size:]

def configure(factory, media, camera):
    source = media.get_element().get_child_by_name("source")
    state = {"number": 0}
    def push():
        number = state["number"]
        state["number"] += 1
        if number % rate == 0:
            print(camera, number // rate, time.time(), flush=True)
        buffer = Gst.Buffer.new_wrapped(units[number % len(units)])
        buffer.duration = Gst.SECOND // rate
        buffer.pts = buffer.dts = number * Gst.SECOND // rate
        if source.emit("push-buffer", buffer) != Gst.FlowReturn.OK:
            return False
        clock = source.get_clock()
        due = source.get_base_time() + (number + 1) * Gst.SECOND // rate if clock else 0
        wait = max(0, due - clock.get_time()) // Gst.MSECOND if clock else 1000 // rate
        GLib.timeout_add(int(wait), push)
        return False
    GLib.idle_add(push)

server = GstRtspServer.RTSPServer()
server.set_address("127.0.0.1"); server.set_service("0")
for camera in range(cameras):
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch("( appsrc name=source is-live=true format=time block=false max-bytes=2000000"
                       " caps=video/x-h264,stream-format=byte-stream,alignment=au,framerate=%d/1"
                       " ! h264parse ! rtph264pay name=pay0 config-interval=-1 )" % rate)
    factory.set_shared(True)
    factory.connect("media-configure", configure, camera + 1)
    server.get_mount_points().add_factory("/%d" % (camera + 1), factory)
server.attach(None)
print(server.get_bound_port(), flush=True)
GLib.MainLoop().run()
"""


# ---- The cameras -----------------------------------------------------------------------------------------------------
def encode(path: Path) -> None:
    """Write the clip's H.264 access units, each after its length: objects that come and go before a camera that shakes."""
    frames = RATE * SECONDS
    poses = camera_path(frames, start=(150, 150), shake=0.4, seed=1)

    def way(i):  # crosses the picture in 8 s, then is away for as long
        return lambda t: (90 + (t + 60 * i) % (16 * RATE) * (WIDTH + 120) / (8 * RATE), 150 + HEIGHT * (i + 0.5) / 4)

    movers = [Mover(digit_sprite(digit, seed=digit, size=56), way(i)) for i, digit in enumerate((3, 7, 8, 5))]
    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt = WIDTH, HEIGHT, "yuv420p"
    encoder.framerate, encoder.time_base = RATE, Fraction(1, RATE)
    encoder.options = {"preset": "fast", "crf": "26", "g": str(2 * RATE), "bf": "0", "x264-params": "annexb=1:repeat-headers=1"}
    with path.open("wb") as file:
        for frame in Scene(WIDTH, HEIGHT, texture(WIDTH + 300, HEIGHT + 300, seed=2), poses, movers, noise=2, seed=3):
            picture = av.VideoFrame.from_ndarray(frame.image, format="bgr24").reformat(format="yuv420p")
            for packet in encoder.encode(picture):
                file.write(struct.pack(">I", packet.size) + bytes(packet))
        for packet in encoder.encode():
            file.write(struct.pack(">I", packet.size) + bytes(packet))


def serve_cameras(clip: Path, count: int) -> tuple[subprocess.Popen, int, dict[str, list[list[float]]]]:
    """Return the process of an RTSP server, its port, and for each camera's path the times of day of its streams' seconds."""
    command = ["/usr/bin/python3", "-c", SERVER, str(clip), str(RATE), str(count)]  # the system's Python has GStreamer
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    port = process.stdout.readline()
    if not port:
        raise InputError("no RTSP server; Debian: gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-bad python3-gi")
    sent = {str(number): [] for number in range(1, count + 1)}

    def listen():
        for line in process.stdout:
            camera, second, at = line.split()
            if second == "0":
                sent[camera].append([])
            sent[camera][-1].append(float(at))

    threading.Thread(target=listen, daemon=True).start()
    return process, int(port), sent


# ---- What takes the events -------------------------------------------------------------------------------------------
class Receiver:
    """A webhook's server that can go down and come up again: `arrived` has (time of day, event)."""

    name = "webhook"

    def __init__(self):
        self.arrived, self._server, self.port = [], None, 0

    def up(self) -> None:
        if self._server is None:
            arrived = self.arrived

            class Handler(http.server.BaseHTTPRequestHandler):
                def log_message(self, *arguments):
                    pass

                def do_POST(self):
                    arrived.append((time.time(), json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
                    self.send_response(204)
                    self.end_headers()

            self._server = http.server.ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
            self.port = self._server.server_address[1]
            threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def down(self) -> None:
        if self._server:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    @property
    def flags(self) -> list[str]:
        return ["--notify", f"http://127.0.0.1:{self.port}/"]


class Broker:
    """An MQTT broker that can go down and come up again, what it holds kept; `arrived` as of Receiver."""

    name = "broker"

    def __init__(self, directory: Path):
        from paho.mqtt import client as paho

        self.arrived, self.port, self._directory, self._process = [], free_port(), directory, None
        directory.mkdir()
        (directory / "conf").write_text(f"listener {self.port} 127.0.0.1\nallow_anonymous true\npersistence true\n"
                                        f"persistence_location {directory}/\nuser root\nmax_queued_messages 0\n")  # fmt: skip
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2, client_id="benchmark", clean_session=False)
        self._client.on_connect = lambda client, *_: client.subscribe("fastmcd/+/events", qos=1)
        self._client.on_message = lambda client, data, message: self.arrived.append((time.time(), json.loads(message.payload)))
        self._client.reconnect_delay_set(0.5, 1)
        self.up()
        self._client.connect_async("127.0.0.1", self.port)
        self._client.loop_start()

    def up(self) -> None:
        if self._process is None:
            command = [shutil.which("mosquitto") or "/usr/sbin/mosquitto", "-c", str(self._directory / "conf")]
            self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def down(self) -> None:
        if self._process:
            self._process.terminate()
            self._process.wait()
            self._process = None

    @property
    def flags(self) -> list[str]:
        return ["--notify", f"mqtt://127.0.0.1:{self.port}?discovery=off"]


# ---- The page --------------------------------------------------------------------------------------------------------
class Browser:
    """What looks at the page."""

    def __init__(self, port: int):
        self.port, self._base, self.looking, self.pictures = str(port), f"http://127.0.0.1:{port}/", threading.Event(), 0

    def state(self, camera: str) -> dict | None:
        try:
            with urllib.request.urlopen(f"{self._base}{camera}/state", timeout=5) as answer:
                return json.load(answer)
        except (OSError, ValueError):
            return None

    def look(self, camera: str) -> None:
        """Ask for one picture after the other, whenever somebody looks."""
        after = ""
        while self.looking.wait():
            try:
                with urllib.request.urlopen(f"{self._base}{camera}/picture.jpg?after={after}", timeout=10) as answer:
                    self.pictures += len(answer.read()) > 0
                    after = answer.headers.get("X-Frame", after)
            except OSError:
                time.sleep(1)


# ---- The processes ---------------------------------------------------------------------------------------------------
def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# ---- The table -------------------------------------------------------------------------------------------------------
def watch(process: subprocess.Popen, page: Browser, names: list[str], receiver: Receiver | Broker, minutes: float) -> list[dict]:
    """Print and return a row each EVERY seconds, until the time is over or the process has ended."""
    rows, start = [], time.monotonic()
    length = 60 * minutes / len(PHASES)
    before = {"time": start, "cpu": 0.0, "dropped": dict.fromkeys(names, 0), "pictures": 0, "frames": 0}
    while process.poll() is None and (passed := time.monotonic() - start) < 60 * minutes:
        number, into = divmod(passed, length)
        phase = PHASES[int(number)]
        (page.looking.set if phase == "somebody looks" else page.looking.clear)()
        away = phase == "receivers down" and into < min(DOWN, length / 3)
        (receiver.down if away else receiver.up)()
        if time.monotonic() - before["time"] >= EVERY:
            rows.append(row(process, page, names, phase, passed, before))
            print("  ".join(f"{name} {value}" for name, value in rows[-1].items()), flush=True)
        time.sleep(0.1)
    page.looking.clear()
    receiver.up()
    return rows


def row(process: subprocess.Popen, page: Browser, names: list[str], phase: str, passed: float, before: dict) -> dict:
    """Return what is so now; `before`: what was at the last row, which is brought up to date."""
    states = {name: state for name in names if (state := page.state(name))}
    ages = [state["age_ms"] for state in states.values() if state["age_ms"]]
    dropped = {name: states[name]["dropped"] if name in states else count for name, count in before["dropped"].items()}
    pids, now = [process.pid, *children(process.pid)], time.monotonic()
    used, held, frames = sum(map(cpu_seconds, pids)), sum(memory(p, "RssAnon") for p in pids), sum(s["frames"] for s in states.values())
    made = {
        "s": round(passed), "phase": phase, "running": len(states), "age_ms": max((age["median"] for age in ages), default=0),
        "p95_ms": max((age["p95"] for age in ages), default=0), "dropped": sum(dropped.values()) - sum(before["dropped"].values()),
        "frames_s": round((frames - before["frames"]) / (now - before["time"]), 1), "MiB": round(held, 1),
        "cores": round((used - before["cpu"]) / (now - before["time"]), 2), "pictures": page.pictures - before["pictures"],
    }  # fmt: skip
    before.update(time=now, cpu=used, dropped=dropped, pictures=page.pictures, frames=frames)
    return made


def report_rows(rows: list[dict]) -> None:
    """Print what the rows say by phase, and how memory grew."""
    table = []
    for phase in dict.fromkeys(PHASES):
        some = [each for each in rows[1:] if each["phase"] == phase]  # the first 10 s are the start
        if some:
            values = {key: [each[key] for each in some] for key in ("age_ms", "p95_ms", "dropped", "cores", "frames_s")}
            ages = np.median(values["age_ms"]), max(values["age_ms"]), max(values["p95_ms"])
            table.append([phase, *ages, sum(values["dropped"]), np.median(values["cores"]), np.median(values["frames_s"])])
    heads = ["phase", "age ms (median)", "its highest", "highest p95", "dropped", "cores", "frames/s"]
    print(tabulate(table, heads, "plain", floatfmt=".1f"))
    if len(rows) > 3:
        half = np.array([(each["s"] / 60, each["MiB"]) for each in rows[len(rows) // 2 :]])
        print(f"memory of all processes: {rows[1]['MiB']} MiB at {rows[1]['s']} s, {rows[-1]['MiB']} MiB at {rows[-1]['s']} s; "
              f"over the second half {np.polyfit(*half.T, 1)[0]:+.2f} MiB a minute")  # fmt: skip


def report_events(receiver: Receiver | Broker, written: set[tuple], windows: list, sent: dict[str, list[list[float]]]) -> None:
    """Print how many of the events `written` (key_of) arrived, and how late by phase; windows: times of day of each phase."""
    keys = {key_of(event) for _, event in receiver.arrived}
    twice = len(receiver.arrived) - len(keys)
    print(f"{receiver.name}: {len(keys)} of {len(written)} written events arrived, {twice} twice, {len(written - keys)} did not")
    late = {phase: [] for phase in PHASES}
    for came, event in receiver.arrived:
        left = frame_time(event, came, sent)
        phase = next((name for start, end, name in windows if left and start <= left < end), None)
        if event["event"] in ("start", "name") and phase:
            late[phase].append(1000 * (came - left))
    for phase, each in late.items():
        if each:
            print(f"  {phase}: {len(each)} starts and changes of name came after {np.median(each):.0f} ms (median), "
                  f"{np.percentile(each, 95):.0f} ms (p95), {max(each):.0f} ms at most")  # fmt: skip


def frame_time(event: dict, came: float, sent: dict[str, list[list[float]]]) -> float | None:
    """Return when the camera sent the frame of an event: its first frame is the run's, so `end` counts the stream's seconds."""
    streams = [seconds for seconds in sent[event["source"].rpartition("/")[2]] if seconds[0] <= came]
    second, part = divmod(event["end"], 1)
    return streams[-1][int(second)] + part if streams and second < len(streams[-1]) else None


def key_of(event: dict) -> tuple:
    return event["source"], event["event"], event["track"], event["label"], event["end"]


def main(argv=None) -> None:
    parser = Parser(description="Several RTSP cameras at once: age of frames, dropped ones, memory, latency of events, events lost.")
    parser.add_argument("--minutes", type=float, default=2, help="that it lasts")
    parser.add_argument("--cameras", type=at_least(1), default=4, help="how many")
    parser.add_argument("--mqtt", action="store_true", help="send the events to an MQTT broker, not to a webhook")
    parser.add_argument("--save", type=Path, help="keep what the runs write here (default: a directory that is deleted)")
    parser.add_argument("options", nargs="*", help="further flags of util.watch, after --")
    args = parser.parse_args(argv)
    print(f"{cpu_name()}, {len(os.sched_getaffinity(0))} cores; {args.cameras} cameras, {WIDTH}x{HEIGHT}, {RATE} frames/s, "
          f"{args.minutes:g} minutes")  # fmt: skip
    with tempfile.TemporaryDirectory() as directory:
        measure(args, Path(directory))


def measure(args, directory: Path) -> None:
    """Run it all and print what comes."""
    encode(directory / "clip")
    server, port, sent = serve_cameras(directory / "clip", args.cameras)
    receiver = Broker(directory / "broker") if args.mqtt else Receiver()
    names = [f"camera-{number}" for number in range(1, args.cameras + 1)]
    (directory / "cameras.toml").write_text("".join(f'[cameras.{name}]\nsource = "rtsp://127.0.0.1:{port}/{number}"\n'
                                                    for number, name in enumerate(names, 1)))  # fmt: skip
    receiver.up()
    page, out = Browser(free_port()), args.save or directory / "out"
    command = [sys.executable, "-m", "util.watch", "--cameras", str(directory / "cameras.toml"), "--save", str(out), "--serve", page.port]
    process = subprocess.Popen([*command, *receiver.flags, *args.options], cwd=ROOT)
    for name in names:
        threading.Thread(target=page.look, args=(name,), daemon=True).start()
    try:
        start = time.time()
        rows = watch(process, page, names, receiver, args.minutes)
        length = 10 * args.minutes
        windows = [(start + number * length, start + (number + 1) * length, phase) for number, phase in enumerate(PHASES)]
        time.sleep(min(40, 20 * args.minutes))  # what waits longest for the receivers is tried again after 30 s
    finally:
        process.send_signal(signal.SIGTERM)  # a shell lets what runs in the background ignore SIGINT
        code = process.wait(60)
        server.kill()
        time.sleep(1)
        receiver.down()
    print(f"ended with {code}")
    written = {key_of(json.loads(line)) for path in out.glob("*/*/changes.jsonl") for line in path.read_text().splitlines()}
    report_rows(rows)
    report_events(receiver, written, windows, sent)
    print("summary.json:", *(json.dumps(json.loads(path.read_text()).get("events")) for path in sorted(out.glob("*/*/summary.json"))))


if __name__ == "__main__":
    run(main)
