"""Passwords in addresses: no message, no table and no other file of a run holds one."""
import csv
import json
import os
import subprocess
import sys

import cv2
import pytest

from tests.clips import squares
from tests.scripts import ROOT
from tests.servers import serve_directory
from tests.test_webhook import server
from util import cli
from util.errors import redact, redact_url
from util.watch import batch
from util.watch.__main__ import main

LENET = ROOT / "MNIST" / "models" / "LeNet_5.xnor"


@pytest.mark.parametrize(("url", "plain"), [
    ("rtsp://me:secret@cam.local:554/a/b?token=secret#secret", "rtsp://cam.local:554/a/b"),
    ("RTSP://secret@cam/1", "rtsp://cam/1"),
    ("http://[::1]:80/a", "http://[::1]:80/a"),
    ("http://cam/a@2x.mp4", "http://cam/a@2x.mp4"),
    ("rtsp://me:sec/secret@cam/1", "rtsp://cam/1"),  # what should have been percent-encoded
    ("rtsp://me:sec?secret@cam/1", "rtsp://cam/1"),
    ("rtsp://me:sec#secret@cam/1?secret", "rtsp://cam/1"),
    ("rtsp://a@me:sec/secret@cam/1", "rtsp://cam/1"),
    ("http://me:secret@[::1/1", "http://(malformed)"),
    ("http://me:secret@\u2100/1", "http://(malformed)"),  # whose compatible form has a slash
    ("http://cam/\x1b[2J\n", r"http://cam/\x1b[2J"),
])  # fmt: skip
def test_an_address_is_shown_without_what_is_secret_in_it(url, plain):
    assert redact_url(url) == plain
    assert "secret" not in redact(f"argument {url}: no") and redact(plain) == plain


def test_what_is_no_secret_stays():
    text = "expected rtsp://, http://HOST/PATH, or a@b; see https://example.com/page"
    assert redact(text) == text


def test_clips_are_named_without_secrets():
    clips = ["rtsp://me:secret@cam/1?secret", "rtsp://me:secret@cam/2", "rtsp://you:secret@cam/2", "http://me:secret@cam/a.mp4?secret=1"]
    names = batch.name_clips(clips)
    assert sorted(names.values()) == sorted(clips) and "secret" not in " ".join(names) and {"1", "a"} <= names.keys()


def watch(*arguments):
    command = [sys.executable, "-m", "util.watch", "--network", LENET, *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture
def address(tmp_path):
    """The address, with a password and a query, of a server that has clip.avi and text.avi."""
    (tmp_path / "files").mkdir()
    frames = [cv2.imread(str(path)) for path in sorted((squares(tmp_path / "clips", 16) / "c0").iterdir())]
    writer = cv2.VideoWriter(str(tmp_path / "files" / "clip.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 25, frames[0].shape[1::-1])
    for frame in frames:
        writer.write(frame)
    writer.release()
    (tmp_path / "files" / "text.avi").write_text("no video\n" * 99)
    with serve_directory(tmp_path / "files") as plain:
        yield plain.replace("//", "//me:secret@") + "/{}?token=secret"


def assert_no_secret(said, directory):
    assert "secret" not in said
    files = [path for path in directory.rglob("*") if path.is_file()]
    assert files and not [path for path in files if b"secret" in path.read_bytes() or "secret" in str(path.relative_to(directory))]


def test_a_run_writes_sends_and_says_no_password(address, tmp_path, capfd):
    with server() as (port, requests):
        done = watch(address.format("clip.avi"), "--save", tmp_path / "out", "--notify", f"http://me:secret@127.0.0.1:{port}/?secret")
    assert done.returncode == 0, done.stderr
    assert_no_secret(done.stdout + done.stderr, tmp_path / "out")
    assert requests and not any("secret" in json.dumps(event) for *_, event in requests)
    assert requests[0][2]["source"].endswith("/clip.avi") and (tmp_path / "out" / "events.jsonl").read_text()
    for wrong in (address.format("none.avi"), address.format("text.avi"), "http://me:sec/secret@cam/1", "http://me:secret@[::1/1"):
        capfd.readouterr()
        with pytest.raises(SystemExit, match="2"):
            cli.run(lambda wrong=wrong: main([wrong, "--network", str(LENET), "--save", str(tmp_path / "out")]))
        said = "".join(capfd.readouterr())
        assert said.count("\n") == 1, said
        assert_no_secret(said, tmp_path / "out")


def test_a_batch_writes_and_says_no_password(address, tmp_path):
    clips = [address.format(name) for name in ("clip.avi", "text.avi", "none.avi")] + ["http://me:secret@[::1/1"]
    done = watch(*clips, "--save", tmp_path / "many")
    assert done.returncode == 2 and "3 of 4 clips failed" in done.stderr
    assert_no_secret(done.stdout + done.stderr, tmp_path / "many")
    with open(tmp_path / "many" / "summary.csv") as file:
        rows = {row["clip"]: row for row in csv.DictReader(file)}
    plain = address.format("clip.avi").replace("me:secret@", "").partition("?")[0]
    assert (rows["clip"]["status"], rows["clip"]["source"]) == ("done", plain)
    assert watch(*clips[:2], "--save", tmp_path / "many").stdout.count("kept") == 1
