"""The files for a small machine: systemd finds nothing wrong with the unit; its command and the image's do what the manual says."""
import json
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from tests.scripts import ROOT
from util.watch.__main__ import parse_args

DEPLOY = ROOT / "docs" / "deploy"


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze")
def test_the_unit_is_valid(tmp_path):
    unit = (DEPLOY / "watch.service").read_text()
    assert "/opt/watch/.venv/bin/python3 -m util.watch" in unit
    (tmp_path / "watch.service").write_text(unit.replace("/opt/watch/.venv/bin/python3", sys.executable).replace("/opt/watch", str(ROOT)))
    done = subprocess.run(["systemd-analyze", "verify", tmp_path / "watch.service"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "watch.service" not in done.stderr, done.stderr


def test_what_runs_for_ever_keeps_its_recordings_and_bounds_them():
    unit, image = (DEPLOY / "watch.service").read_text(), (DEPLOY / "Containerfile").read_text()
    (service,) = re.findall(r"^ExecStart=.* -m util\.watch( .*)$", unit, re.MULTILINE)
    (example,) = re.findall(r"podman run .* watch( rtsp:.*)$", image, re.MULTILINE)
    entry = json.loads(re.search(r"^ENTRYPOINT (.*)$", image, re.MULTILINE)[1])
    assert entry[-2:] == ["-m", "util.watch"], "the default network, which knows people"
    for command in (service, example):
        args = parse_args(shlex.split(command))
        assert args.save is None and args.record == "events" and args.keep.size == 20e9 and args.notify.startswith("mqtt://")
        assert args.network.name == "vgg_clips.xnor" and args.network.exists()
    assert "WorkingDirectory=%S/watch\n" in unit and "RuntimeMaxSec=" in unit, "where predictions.csv grows until a run ends"


def test_the_image_takes_nothing_that_this_machine_has_built_or_downloaded():
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert {".git", ".venv", "build", "out", "**/*.so", "CIFAR_10/data", "MNIST/data"} <= set(ignored)
