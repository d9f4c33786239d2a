"""A share of tests/fuzz.py: files damaged in ways that a seed fixes; and that it would see a fault."""
import os
import time

import pytest

from tests import fuzz
from tests.scripts import run_script


def test_damaged_files_are_read_or_refused_in_one_line(tmp_path):
    done = run_script("tests/fuzz.py", "--count", "3", "--keep", tmp_path, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    *_, read, refused, mishandled = next(line for line in done.stdout.splitlines() if line.startswith("all")).split()
    assert int(read) + int(refused) == 3 * len(fuzz.KINDS) and mishandled == "0" and int(read) > 9 and int(refused) > 9


def warn_and_refuse():
    os.write(2, b"warning\n")
    raise fuzz.InputError("bad")


@pytest.mark.parametrize(("read", "fault"), [
    (lambda: None, None),
    (lambda: {}["a"], "exit code 1: KeyError: 'a'"),
    (warn_and_refuse, "exit code 2 with 2 lines"),
    (os.abort, "exit code -6"),
    (lambda: os.write(2, b"warning\n"), "exit code 0 with 1 lines"),
    (lambda: bytearray(1 << 30), "MiB"),
])  # fmt: skip
def test_a_fault_is_seen(read, fault, monkeypatch):
    monkeypatch.setattr(fuzz, "MEBIBYTES", 256)  # to fill the true limit takes seconds
    found = fuzz.attempt(read).fault()
    assert found is None if fault is None else fault in found


def test_a_hang_is_seen(monkeypatch):
    monkeypatch.setattr(fuzz, "SECONDS", 1)

    def hang():
        while time.process_time() < 1e9:
            pass

    assert "exit code -" in fuzz.attempt(hang).fault()
