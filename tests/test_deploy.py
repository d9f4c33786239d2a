"""The files for a small machine: systemd finds nothing wrong with the unit."""
import shutil
import subprocess
import sys

import pytest

from tests.scripts import ROOT


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze")
def test_the_unit_is_valid(tmp_path):
    unit = (ROOT / "docs" / "deploy" / "watch.service").read_text()
    assert "/opt/watch/.venv/bin/python3 -m util.watch" in unit
    (tmp_path / "watch.service").write_text(unit.replace("/opt/watch/.venv/bin/python3", sys.executable).replace("/opt/watch", str(ROOT)))
    done = subprocess.run(["systemd-analyze", "verify", tmp_path / "watch.service"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "watch.service" not in done.stderr, done.stderr
