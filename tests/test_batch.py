"""Many clips at once: which ones are meant, a directory each, what fails, what is skipped, how it ends; here and on Ray."""
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec

import pytest

from tests.clips import squares
from tests.scripts import ROOT, load_script
from util import cli
from util.errors import InputError
from util.watch import batch, jobs, on_ray

# Stands in for a main.py: what it does with one clip is said by the clip's name.
SCRIPT = """
import json, os, signal, sys, time
sys.path.insert(0, {root!r})
from pathlib import Path
import cv2
from util.watch import batch
from util.cli import Parser, add_video_argument, add_video_options, run
from util.errors import InputError

def main():
    parser = Parser()
    add_video_argument(parser)
    add_video_options(parser)
    parser.add_argument("--save", type=Path)
    parser.add_argument("--limit")
    args = parser.parse_args()
    if clips := batch.find_clips(args.video, args.save):
        return batch.run_clips(args, clips)
    args.save.mkdir(parents=True, exist_ok=True)
    (args.save / batch.SUMMARY).unlink(missing_ok=True)
    with open(args.save / "runs", "a") as file:
        file.write("run\\n")
    name = Path(args.video).stem
    try:
        if name == "bad":
            raise InputError(f"{{args.video}} is empty")
        if name == "crash":
            os.kill(os.getpid(), signal.SIGKILL)
        if name == "bug":
            print("half way")
            1 / 0
        if name.startswith("slow"):
            (args.save / "started").touch()
            time.sleep(60)
    except KeyboardInterrupt:
        (args.save / "ended").touch()
        raise
    threads = cv2.getNumThreads(), os.environ["OMP_NUM_THREADS"]
    counts = dict(frames=5, objects=3, tracks=2, labels={{"cat": 2, "dog": 1}}, ms_per_frame={{"a": 1.5, "b": 2}})
    summary = dict(arguments=batch.redact_arguments(args.command[1]), **counts, threads=threads)
    (args.save / batch.SUMMARY).write_text(json.dumps(summary))

if __name__ == "__main__":
    run(main)
"""


@pytest.fixture
def clips(tmp_path, monkeypatch):
    """A directory to work in, with a script and empty files called clips."""
    (tmp_path / "script.py").write_text(SCRIPT.format(root=str(ROOT)))
    monkeypatch.chdir(tmp_path)

    def make(*names):
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()

    return make


def start(*arguments):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "script.py", *arguments], **pipes)


def run(*arguments):
    process = start(*arguments)
    out, error = process.communicate(timeout=120)
    return process.returncode, out, error


def rows():
    with open("out/summary.csv") as file:
        return {row["clip"]: row for row in csv.DictReader(file)}


# ---- Which clips ----
def test_directories_stand_for_the_clips_in_them(clips):
    clips("c/b.MP4", "c/a.avi", "c/notes.txt", "c/.hidden.avi", "c/deep/er/d.h264", "c/pics/1.png")
    clips("c/cdnet/input/1.jpg", "c/cdnet/ROI.bmp", "c/run/detections.csv", "c/run/annotated.mp4")
    clips("c/cut/manifest.txt", "c/cut/annotated.mp4", "c/out/x/y.mp4")
    there = ["c/a.avi", "c/b.MP4", "c/cdnet", "c/deep/er/d.h264", "c/pics"]
    assert batch.find_clips("c", batch.Path("c/out")) == there
    assert batch.find_clips("c") == sorted([*there, "c/out/x/y.mp4"])
    os.symlink("..", "c/deep/up")
    assert batch.find_clips("c", batch.Path("c/out")) == there, "a link that leads back leads to nothing new"


def test_clips_and_results_in_one_directory_are_refused(clips):
    clips("c/a.mp4")
    with pytest.raises(InputError, match="c/ is given as clips and as --save; choose another"):
        batch.find_clips("c/", batch.Path("c"))


def test_a_clip_whose_name_looks_like_a_flag_is_no_flag(clips):
    clips("-a.avi", "b.avi")
    assert batch.find_clips(".") == batch.find_clips("*.avi") == ["./-a.avi", "b.avi"]
    code, out, error = run("--video", ".", "--save", "out")
    assert code == 0 and {name: row["status"] for name, row in rows().items()} == {"-a": "done", "b": "done"}, error


@pytest.mark.parametrize("source", ["one.avi", "c/pics", "c/pics/", "c/cdnet", "missing.mp4", "0", 0, "-", "rtsp://host/a?b=[1]", "c/text"])
def test_one_clip_is_no_batch(clips, source):
    clips("one.avi", "c/pics/1.png", "c/cdnet/input/1.jpg", "c/text/notes.txt")
    assert batch.find_clips(source) is None


def test_patterns_and_several_sources(clips):
    clips("c/b.mp4", "c/a.mp4", "c/notes.txt", "c/pics/1.png", "[odd].mp4", "text/a.csv")
    assert batch.find_clips("c/*.mp4") == ["c/a.mp4", "c/b.mp4"] and batch.find_clips("c/*") == ["c/a.mp4", "c/b.mp4", "c/pics"]
    assert batch.find_clips(["c/b.mp4", "gone.mp4", "c/*.mp4"]) == ["c/b.mp4", "gone.mp4", "c/a.mp4"]
    assert batch.find_clips("[odd].mp4") is None and batch.find_clips("text/*") == ["text/a.csv"]
    assert batch.find_clips("c/a*.mp4") == ["c/a.mp4"]  # a pattern asks for a directory per clip, though it may match one
    with pytest.raises(InputError, match=r"c/\*.avi matches no file"):
        batch.find_clips("c/*.avi")


def test_names_tell_clips_apart(clips):
    clips("v.2/1.png")
    names = batch.name_clips(["a/one.avi", "a/two.avi", "b/two.avi", "/x/y z/three.mp4", "three.avi", "TWO.avi", "v.2", "../up/one.mp4"])
    assert names == {
        "one.avi": "a/one.avi", "a_two.avi": "a/two.avi", "b_two.avi": "b/two.avi", "three.mp4": "/x/y z/three.mp4",
        "three.avi": "three.avi", "TWO.avi": "TWO.avi", "v.2": "v.2", "one.mp4": "../up/one.mp4",
    }  # fmt: skip
    assert len(batch.name_clips(["rtsp://cam/1?user=me", "0", "-", "a_b/c.avi", "a/b_c.avi", "x/c.avi", "x/b_c.avi"])) == 7
    long = batch.name_clips([f"{'x' * 252}.ts", f"y/{'é' * 126}.ts", f"http://host/{'z' * 900}/a", f"http://host/{'z' * 901}/a"])
    assert len(long) == 4 and all(len(f"{name}.part".encode()) <= 255 for name in long)
    assert all("/" not in name and not name.startswith(".") for name in batch.name_clips(["../a", "./b", "/"]))
    assert list(batch.name_clips(["a.mp4", "a.part.mp4", "a.LOG.avi", "summary.csv.mkv"])) == ["a", "a_part", "a_LOG", "summary_csv"]


def test_what_is_common_to_all_clips():
    given = ["--cpu", "--video", "a", "b", "-", "--save", "out", "--limit", "3", "--jobs=2", "--ray", "local", "--arch=nin"]
    assert batch.common_arguments(given) == ["--cpu", "--limit", "3", "--arch=nin"]


def test_reasons_are_one_line():
    assert batch.reason_of(0, "warning\n") == "" and batch.reason_of(3, "") == "ended with code 3"
    assert batch.reason_of(2, "noise\nmain.py: error: x.avi: cannot be opened\n") == "x.avi: cannot be opened"
    assert batch.reason_of(1, "Traceback\n  line\nValueError: bad\n\n") == "ValueError: bad"
    assert batch.reason_of(-9, "") == "ended by SIGKILL (out of memory?)" and batch.reason_of(-11, "") == "ended by SIGSEGV"


# ---- Runs ----
def test_a_clip_that_fails_stops_no_other(clips):
    clips("c/bad.mp4", "c/bug.mp4", "c/crash.mp4", "c/good.mp4", "c/fine.mp4", "out/bad.log/in the way", "out/good.log/in the way")
    code, out, error = run("--video", "c", "--save", "out", "--jobs", "2")
    assert code == 2 and error == "script.py: error: 3 of 5 clips failed: bad, bug, crash\n"
    assert {name: (row["status"], row["reason"]) for name, row in rows().items()} == {
        "bad": ("failed", "c/bad.mp4 is empty"),
        "bug": ("failed", "ZeroDivisionError: division by zero"),
        "crash": ("failed", "ended by SIGKILL (out of memory?)"),
        "good": ("done", ""),
        "fine": ("done", ""),
    }
    wanted = {"frames": "5", "objects": "3", "tracks": "2", "ms_per_frame": "3.50", "labels": "cat 2 dog 1", "source": "c/good.mp4"}
    assert rows()["good"].items() >= wanted.items()
    assert "half way" in open("out/bug.log").read() and "Traceback" in open("out/bug.log").read() and not os.path.exists("out/fine.log")
    assert "fine done 5 3 2 3.50 cat 2 dog 1" in " ".join(out.split()) and "ZeroDivisionError" in out
    assert json.load(open("out/good/summary.json"))["threads"] == [1, "1"]


def test_a_second_run_does_what_is_left(clips):
    clips("c/a.mp4", "c/bad.mp4")
    assert run("--video", "c", "--save", "out")[0] == 2
    os.rename("c/bad.mp4", "c/b.mp4")
    code, _, error = run("--video", "c", "--save", "out", "--jobs", "1")
    assert code == 0, error
    assert {name: row["status"] for name, row in rows().items()} == {"a": "kept", "b": "done"} and rows()["a"]["labels"] == "cat 2 dog 1"
    assert run("--video", "c/*.mp4", "--save", "out")[0] == 0 and open("out/a/runs").read() == "run\n"
    run("--video", "c", "--save", "out", "--limit", "3")  # asks for other results
    assert rows()["a"]["status"] == "done" and open("out/a/runs").read() == "run\nrun\n"


def test_a_clip_is_run_again_after_it_or_its_settings_have_changed(clips):
    clips("c/a.mp4", "c/b.mp4", "my.toml")
    hour_ago, again = time.time() - 3600, ["--video", "c", "--save", "out", "--settings", "my.toml"]

    def statuses_after(changed, at):
        os.utime(changed, (at, at))
        assert run(*again)[0] == 0
        return {name: row["status"] for name, row in rows().items()}

    assert run(*again)[0] == 0
    for name in ("a", "b"):
        os.utime(f"out/{name}/summary.json", (hour_ago, hour_ago))
    for path in ("c/a.mp4", "c/b.mp4", "my.toml"):
        os.utime(path, (hour_ago - 1, hour_ago - 1))
    assert statuses_after("c/b.mp4", time.time() + 3600) == {"a": "kept", "b": "kept"}, "by a clock that was wrong"
    assert statuses_after("c/b.mp4", hour_ago + 1) == {"a": "kept", "b": "done"}
    assert statuses_after("my.toml", hour_ago + 1) == {"a": "done", "b": "kept"}, "b was run later than that"


def test_a_marker_that_is_damaged_is_none(tmp_path):
    for text in ("", "{", "[]", '{"arguments": ["--other"]}'):
        (tmp_path / "summary.json").write_text(text)
        assert batch.read_summary(tmp_path, ["--video", "a"]) is None
    (tmp_path / "summary.json").write_text('{"arguments": ["--video", "a"]}')
    assert batch.read_summary(tmp_path, ["--video", "a"])
    (tmp_path / batch.SUMMARY).unlink()
    assert batch.read_summary(tmp_path, ["--video", "a"]) is None


needs_ray = pytest.mark.skipif(not find_spec("ray"), reason="ray is not installed")
ON_RAY = ["--ray", "local"]


WAYS = [(signal.SIGINT, []), (signal.SIGTERM, []), pytest.param(signal.SIGTERM, ON_RAY, marks=needs_ray)]


@pytest.mark.parametrize(("sign", "where"), WAYS)
def test_an_interruption_ends_the_clips_and_keeps_what_was_done(clips, sign, where):
    clips("c/a.mp4", "c/slow.mp4", "c/slower.mp4", "c/z.mp4")
    process = start("--video", "c", "--save", "out", "--jobs", "2", *where)
    deadline = time.time() + 60
    while not (os.path.exists("out/slow/started") and os.path.exists("out/slower/started")) and time.time() < deadline:
        time.sleep(0.05)
    process.send_signal(sign)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 2 and error.count("\n") == 1 and "interrupted" in error
    assert os.path.exists("out/slow/ended") and os.path.exists("out/slower/ended") and not os.path.exists("out/z")
    assert {name: row["status"] for name, row in rows().items()} == {"a": "done", "slow": "waiting", "slower": "waiting", "z": "waiting"}


def test_a_clip_that_will_not_end_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "PATIENCE_S", 0.5)
    ready = tmp_path / "ready"  # so that it is deaf before the other ends
    deaf = f"import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); open({str(ready)!r}, 'w').close(); time.sleep(600)"
    quick = f"import os, time\nwhile not os.path.exists({str(ready)!r}): time.sleep(0.01)"
    outcomes = jobs.run_here({"deaf": [sys.executable, "-c", deaf], "quick": [sys.executable, "-c", quick]}, 2)
    assert next(outcomes)[0] == "quick"
    began = time.monotonic()
    outcomes.close()
    assert 0.5 <= time.monotonic() - began < 60


@pytest.mark.skipif(not shutil.which("setpriv"), reason="no setpriv (util-linux)")
def test_clips_end_when_their_program_is_killed(clips):
    clips("c/slow.mp4", "c/z.mp4")
    process = start("--video", "c", "--save", "out", "--jobs", "1")
    deadline = time.time() + 60
    while not os.path.exists("out/slow/started") and time.time() < deadline:
        time.sleep(0.05)
    process.kill()
    process.communicate(timeout=30)
    while not os.path.exists("out/slow/ended") and time.time() < deadline:
        time.sleep(0.05)
    assert os.path.exists("out/slow/ended") and not os.path.exists("out/z")


def test_the_table_holds_names_that_are_not_utf8(tmp_path):
    name = os.fsdecode(b"clips/caf\xe9.mp4")
    batch._write_table(tmp_path / "summary.csv", [batch._row("caf_", name, "done")])
    assert (tmp_path / "summary.csv").read_bytes().endswith(b"clips/caf\xe9.mp4\r\n")


def test_many_clips_need_a_directory(clips):
    clips("c/a.mp4", "c/b.mp4")
    code, _, error = run("--video", "c/a.mp4", "c/b.mp4")
    assert code == 2 and "--video means 2 clips; give --save DIR" in error and error.count("\n") == 1
    clips("file", "results/detections.csv")
    for save, words in (("file", "file is a file"), ("results", "results is where the results of one clip are")):
        code, _, error = run("--video", "c", "--save", save)
        assert code == 2 and words in error and error.count("\n") == 1


def test_without_ray_one_line_says_so(clips, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match="pip install ray"):
        next(on_ray.run_on_ray({"a": ["true"]}, "local", 1))


@needs_ray
def test_ray_runs_them_as_well(clips):
    clips("c/a.mp4", "c/b.mp4", "c/bad.mp4")
    code, out, error = run("--video", "c", "--save", "out", "--jobs", "2", *ON_RAY)
    assert code == 2 and error == "script.py: error: 1 of 3 clips failed: bad\n", error
    assert {name: row["status"] for name, row in rows().items()} == {"a": "done", "b": "done", "bad": "failed"}
    code, _, error = run("--video", "c", "--save", "out", "--ray", "127.0.0.1:1")
    assert code == 2 and error.count("\n") == 1 and "--ray 127.0.0.1:1: [Errno 111] Connection refused; expected local" in error
    os.remove("c/bad.mp4")
    assert run("--video", "c", "--save", "out", "--ray", "127.0.0.1:1")[0] == 0  # nothing is left to do


# ---- The real thing ----
def test_the_script_gives_each_clip_what_it_would_get_alone(tmp_path, monkeypatch):
    """One clip, since each loads PyTorch here; several in one process each are in test_watch_command."""
    squares(tmp_path / "clips", 20)
    monkeypatch.setattr(cli, "_program", lambda: [sys.executable, str(ROOT / "MNIST/main.py")])  # not pytest
    main = load_script("MNIST/main.py").main
    main(["--cpu", "--video", str(tmp_path / "clips/c1*"), "--save", str(tmp_path / "many"), "--jobs", "2"])
    main(["--cpu", "--video", str(tmp_path / "clips/c1"), "--save", str(tmp_path / "one")])
    for name in ("detections.csv", "predictions.csv", "masks/000009.png"):
        assert (tmp_path / "many/c1" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    summary = json.loads((tmp_path / "many/c1/summary.json").read_text())
    assert summary["frames"] == 20 and summary["tracks"] == sum(summary["labels"].values()) > 0 and summary["ms_per_frame"]["detect"] > 0
