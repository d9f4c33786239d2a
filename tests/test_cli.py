"""The border of every script: flags, one line for an error, exit code 2."""
import subprocess
import sys

import pytest

from tests.scripts import ROOT
from util.cli import InputError, Parser, add_common_arguments


@pytest.fixture
def parser():
    parser = Parser()
    add_common_arguments(parser, ["nin"], ["airplane", "automobile"], epochs=3, lr=0.1)
    return parser


def test_labels_are_numbers_or_names(parser):
    assert parser.parse_args(["--label", "1"]).label == 1
    assert parser.parse_args(["--label", "airplane"]).label == 0


@pytest.mark.parametrize(("arguments", "words"), [
    (["--label", "2"], "'2' is no label"),
    (["--label", "-1"], "label"),
    (["--label", "boat"], "airplane automobile"),
    (["--epochs", "0"], "from 1 up"),
    (["--epochs", "many"], "many"),
    (["--arch", "vgg99"], "vgg99"),
    (["--evaluate", "--video", "0"], "not allowed with"),
    (["--unknown"], "--unknown"),
    (["--eval"], "--eval"),
])  # fmt: skip
def test_bad_flags_end_in_one_line(parser, arguments, words):
    with pytest.raises(InputError, match=words) as error:
        parser.parse_args(arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("body", "code", "words"), [
    ("raise InputError('clip.mp4 is empty')", 2, "clip.mp4 is empty"),
    ("raise KeyboardInterrupt", 2, "interrupted"),
    ("import os, signal; os.kill(os.getpid(), signal.SIGTERM); import time; time.sleep(5)", 2, "interrupted"),
    ("open('/dev/full', 'w').write('x' * 100000)", 2, "No space left"),
    ("raise ZeroDivisionError", 1, "Traceback"),
    ("pass", 0, ""),
])  # fmt: skip
def test_exit_codes(body, code, words):
    program = f"from util.cli import InputError, run\ndef main():\n    {body}\nrun(main)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert done.returncode == code and words in done.stderr
    if code == 2:
        assert done.stderr.count("\n") == 1
