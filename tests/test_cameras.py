"""Several cameras of one file: a process each, that is started again; one page; an end that is one. And a run's page, end to end."""
import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from itertools import count, repeat
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.browser import needs_chromium
from tests.scripts import ROOT
from tests.servers import multipart, serve_stream, video_bytes, wait_until
from tests.test_settings import CLASSES
from util.errors import InputError
from util.watch import cameras
from util.watch.__main__ import parse_args
from util.watch.settings import load_cameras, load_settings

SECRET = "hunter2"
LENET = ["--network", "MNIST/models/LeNet_5.xnor"]


def test_settings_of_a_camera_lie_over_those_of_all(tmp_path):
    path = tmp_path / "cameras.toml"
    path.write_text("""
preset = "traffic"
[tracks]
min_sightings = 7
[cameras.yard]
source = "rtsp://user:hunter2@10.0.0.2/"
[cameras.yard.tracks]
lost_seconds = 9
[cameras.yard.lines]
gate = [[0, 0], [9, 9]]
[cameras.gate]
source = 0
preset = "drone"
""")
    assert load_cameras(path) == {"yard": "rtsp://user:hunter2@10.0.0.2/", "gate": "0"}
    yard, gate, none = (load_settings(str(path), CLASSES, camera) for camera in ("yard", "gate", None))
    assert (yard["tracks"]["min_sightings"], yard["tracks"]["lost_seconds"], yard["lines"]) == (7, 9, {"gate": [[0, 0], [9, 9]]})
    assert gate["tracks"]["min_sightings"] == 8, "of its preset"
    assert gate["lines"] == {} and gate["detector"] and none["detector"] == yard["detector"]
    args = parse_args(["--cameras", str(path), "--camera", "yard"])
    assert args.video == "rtsp://user:hunter2@10.0.0.2/" and args.settings == str(path) and args.camera == "yard"
    with pytest.raises(InputError, match="has no camera 'Yard'; it has yard gate"):
        parse_args(["--cameras", str(path), "--camera", "Yard"])


@pytest.mark.parametrize(("text", "message"), [
    ("", "names no camera"), ("cameras = 3", "names no camera"), ("[cameras]", "names no camera"), ("[cameras]\na = 3", "has no source"),
    ("[cameras.a]", "has no source"), ('[cameras.a]\nsource = ""', "has no source"), ('[cameras.a]\nsource = "-"', "has no source"),
    ("[cameras.a]\nsource = true", "has no source"), ('[cameras."../a"]\nsource = "x"', "is no name"),
    ('[cameras.a]\nsource = "x"\n[cameras.A]\nsource = "y"', "the same name"), ("[cameras", "is no TOML file"),
])  # fmt: skip
def test_a_file_of_cameras_that_cannot_be_used(tmp_path, text, message):
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises(InputError, match=message):
        load_cameras(tmp_path / "a.toml")


def test_a_cameras_command_is_of_that_camera_whatever_its_name_begins_with(tmp_path, monkeypatch):
    (tmp_path / "-a.toml").write_text('[cameras.-yard]\nsource = "x"\n')
    monkeypatch.chdir(tmp_path)
    commands = []
    monkeypatch.setattr(cameras, "start", lambda command, _: commands.append(command) or sys.exit())
    args = parse_args(["--cameras=-a.toml", "--save", "out", "--keep=1GB", "--record=all"])
    with pytest.raises(SystemExit):
        cameras.watch_cameras(args, SimpleNamespace(spec=SimpleNamespace(classes=CLASSES)))
    (command,) = commands
    again = parse_args(command[len(args.command[0]) :])
    assert (again.camera, again.video, again.record, again.save.parent) == ("-yard", "x", "all", Path("out/-yard"))


@pytest.mark.parametrize("flags", [["--settings", "traffic"], ["--start", "2026-01-01T00:00:00Z"], ["clip.mp4"]])
def test_flags_that_do_not_go_with_cameras(flags):
    with pytest.raises(InputError, match="--cameras"):
        parse_args(["--cameras", "FILE", *flags])


def test_a_label_that_is_none_is_refused_before_any_camera_is_watched(tmp_path):
    (tmp_path / "a.toml").write_text('[cameras.yard]\nsource = "x"\n')
    args = parse_args([f"--cameras={tmp_path / 'a.toml'}", "--save", str(tmp_path / "out"), "--label", "unicorn"])
    with pytest.raises(InputError, match="'unicorn' is no label"):
        cameras.watch_cameras(args, SimpleNamespace(spec=SimpleNamespace(classes=CLASSES)))


def test_a_process_that_cannot_be_started_is_tried_again(tmp_path, monkeypatch, capsys):
    def refuse(*_):
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    monkeypatch.setattr(cameras, "FIRST_WAIT", 0.05)
    child, go = cameras.Child("yard", [sys.executable, "-c", ""], tmp_path), cameras.start
    monkeypatch.setattr(cameras, "start", refuse)
    child.poll()
    assert child.status()["reason"] == "cannot start: Cannot allocate memory" and "started again in" in capsys.readouterr().err
    monkeypatch.setattr(cameras, "start", go)
    wait_until(lambda: child.poll() or child.done)
    assert child.status() == {"name": "yard", "running": False, "done": True, "restarts": 1, "reason": ""}


def get(url, data=None, **headers):
    request = urllib.request.Request(url, data, headers, method="PUT" if data else "GET")
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.read()


def state(url, camera=None):
    """What the page says of itself or a camera; None where that is not running."""
    try:
        return json.loads(get(f"{url}{camera}/state" if camera else f"{url}state"))
    except urllib.error.HTTPError as error:
        assert error.code == 503
        return None


@contextmanager
def started(*arguments):
    """Yield (process, the page's address, the file of its stderr) of a command; it is killed where it has not ended by itself."""
    command = [sys.executable, "-m", "util.watch", *LENET, *map(str, arguments), "--serve", "0"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        line = process.stderr.readline()
        assert line.startswith("page: http://127.0.0.1:"), line + process.stderr.read()
        yield process, line.split()[1]
    finally:
        process.kill()
        process.communicate()


def test_a_run_has_a_page_from_its_start_to_its_end(tmp_path):
    settings = tmp_path / "settings.toml"
    settings.write_text("# mine\n")
    with serve_stream(lambda: multipart(count(), 0.02)) as port:
        source = f"http://user:{SECRET}@127.0.0.1:{port}/?key={SECRET}"
        with started(source, "--save", tmp_path / "out", "--settings", settings) as (process, url):
            wait_until(lambda: state(url)["frames"] > 10, 60)
            now = state(url)
            assert now["live"] and now["width"] == 64 and now["time"] and now["age_ms"]["median"] >= 0 and SECRET not in json.dumps(now)
            assert get(f"{url}picture.jpg").startswith(b"\xff\xd8")
            drawing = {"zones": {"watch": [[[0, 0], [30, 0], [30, 30]]], "ignore": []}, "lines": {"gate": [[5, 5], [50, 40]]}}
            answer = get(f"{url}drawing", json.dumps(drawing).encode(), Origin=url.rstrip("/"), **{"Content-Type": "application/json"})
            assert json.loads(answer) == drawing == state(url)["drawing"]
            assert load_settings(str(settings), [])["lines"] == drawing["lines"] and "# mine" in settings.read_text()
            second = subprocess.run([sys.executable, "-m", "util.watch", *LENET, source, "--serve", url.split(":")[2].strip("/")],
                                    cwd=ROOT, capture_output=True, text=True, timeout=60)  # fmt: skip
            assert second.returncode == 2 and "is in use; choose another port" in second.stderr and second.stderr.count("\n") == 1
            process.send_signal(signal.SIGTERM)
            out, error = process.communicate(timeout=60)
    assert process.returncode == 0 and not error and "ms per frame" in out and SECRET not in out
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["stopped"]


def family(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def command_of(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:  # it has ended, as that of a camera which is away does again and again
        return []


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_a_camera_ends_when_its_program_is_killed(tmp_path):
    with serve_stream(lambda: multipart(count(), 0.05)) as port:
        (tmp_path / "cameras.toml").write_text(f'[cameras.a]\nsource = "http://127.0.0.1:{port}/"\n')
        with started("--cameras", tmp_path / "cameras.toml", "--save", tmp_path / "out") as (process, url):
            wait_until(lambda: (now := state(url, "a")) and now["frames"] > 3, 90)
            [child] = family(process.pid)
            process.kill()
            wait_until(lambda: not is_running(child), 60)


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_cameras_are_watched_started_again_and_ended_together(tmp_path):
    with serve_stream(lambda: multipart(count(), 0.05)) as port, serve_stream(lambda: multipart(count(), 0.05)) as other:
        ports = {"yard": port, "gate": other, "away": 1}
        text = "".join(f'[cameras.{name}]\nsource = "http://user:{SECRET}@127.0.0.1:{at}/"\n' for name, at in ports.items())
        text += "[cameras.yard.lines]\nstop = [[0, 9], [60, 9]]\n"
        (tmp_path / "cameras.toml").write_text(text)
        with started("--cameras", tmp_path / "cameras.toml", "--save", tmp_path / "out") as (process, url):
            wait_until(lambda: all((now := state(url, name)) and now["frames"] > 3 for name in ("yard", "gate")), 90)
            assert state(url, "yard")["title"] == "yard" and state(url, "yard")["drawing"]["lines"] == {"stop": [[0, 9], [60, 9]]}
            assert get(f"{url}gate/picture.jpg").startswith(b"\xff\xd8") and get(f"{url}gate/") == get(url)
            for path in ("nobody/state", "yard/../state/x", "yard/nothing"):
                with pytest.raises(urllib.error.HTTPError, match="404"):
                    get(url + path)
            away = {camera["name"]: camera for camera in state(url)["cameras"]}["away"]
            assert away["restarts"] or away["reason"], "it is tried again"
            children = family(process.pid)
            lines = [command_of(pid) for pid in children]
            assert not any(SECRET.encode() in argument for line in lines for argument in line), "which others could read"
            yard = next(pid for pid, line in zip(children, lines, strict=True) if b"--camera=yard" in line)
            os.kill(yard, signal.SIGKILL)
            wait_until(lambda: {each["name"]: each for each in state(url)["cameras"]}["yard"]["restarts"] == 1, 60)
            wait_until(lambda: state(url, "yard"), 60)
            wait_until(lambda: state(url, "yard")["frames"] > 3, 60)
            children = family(process.pid)
            process.send_signal(signal.SIGINT)
            out, error = process.communicate(timeout=60)
    assert process.returncode == 0 and not any(map(is_running, children))
    assert "== yard: 1 times started again" in out and out.count("ms per frame") == 2
    assert re.search(r"yard: ended \(ended by SIGKILL.*\); started again in 1 s", error) and "away: ended (" in error
    assert SECRET not in out + error and "Traceback" not in error
    starts = sorted(path.parent.name for path in tmp_path.glob("out/yard/*/manifest.txt"))
    assert len(starts) == 2 and starts[0].endswith(".part"), "what the killed one wrote is there still"
    assert (tmp_path / "out" / "yard" / starts[1] / "summary.json").exists()
    assert not [path for path in (tmp_path / "out").rglob("*.json*") if SECRET in path.read_text()]


def test_cameras_that_end_end_it(tmp_path):
    with serve_stream(lambda: multipart(repeat(5), 0.01)) as port:  # nothing moves, whichever frames come while one is looked at
        (tmp_path / "cameras.toml").write_text(f'[cameras.a]\nsource = "http://127.0.0.1:{port}/"\n')
        command = [sys.executable, "-m", "util.watch", *LENET, "--cameras", str(tmp_path / "cameras.toml"), "--limit", "5"]
        done = subprocess.run([*command, "--save", str(tmp_path / "out")], cwd=ROOT, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0 and not done.stderr and "in 0 of 5 frames" in done.stdout
        none = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
        assert none.returncode == 2 and "give --save DIR" in none.stderr


@needs_chromium
def test_one_page_shows_all_cameras(chrome, tmp_path):
    with serve_stream(lambda: multipart(count(), 0.05)) as port:
        (tmp_path / "clip.mkv").write_bytes(video_bytes("matroska", "libx264", [i / 25 for i in range(5)]))
        sources = {name: f"http://127.0.0.1:{at}/" for name, at in (("yard", port), ("gate", port), ("away", 1))}
        sources["short"] = tmp_path / "clip.mkv"
        (tmp_path / "cameras.toml").write_text("".join(f'[cameras.{name}]\nsource = "{at}"\n' for name, at in sources.items()))
        with started("--cameras", tmp_path / "cameras.toml", "--save", tmp_path / "out") as (process, url):
            for width in (1200, 390):
                chrome.open(url, width, touch=width < 600)
                chrome.wait("[...document.querySelectorAll('.cameras img')].filter(image => image.naturalWidth === 64).length === 2")
                chrome.wait("document.querySelector('.cameras').innerText.includes('not running')")
                chrome.wait("document.getElementById('how').textContent === '2 of 3 run'")  # short has ended, as it should
                assert chrome.see("document.documentElement.scrollWidth") <= width
            chrome.open(f"{url}away/")
            chrome.wait("document.getElementById('how').textContent === 'away is not running'")
            chrome.click("#back:not([hidden]) a")
            chrome.wait("document.querySelectorAll('.cameras li').length === 4")
            chrome.click("a[href='gate/']")
            chrome.wait("document.title === 'gate' && document.getElementById('picture').naturalWidth === 64")
            assert not chrome.see("document.getElementById('edit').disabled") and not chrome.see("document.getElementById('back').hidden")
            process.send_signal(signal.SIGTERM)
            end = time.monotonic() + 60
            while process.poll() is None and time.monotonic() < end:
                time.sleep(0.05)
            assert process.returncode == 0, "also while somebody looks"
