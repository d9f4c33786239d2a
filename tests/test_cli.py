"""The border of every script: flags, one line for an error, exit code 2."""
import os
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.scripts import ROOT
from util.cli import Parser, add_common_arguments, label_of
from util.errors import InputError, printable, quiet, read_text, reading


@pytest.fixture
def parser():
    parser = Parser()
    add_common_arguments(parser, ["nin"])
    return parser


def test_labels_are_numbers_or_names_of_the_networks_classes():
    classes = ("airplane", "automobile", "0")
    assert [label_of(text, classes) for text in ("1", "airplane", "0")] == ["automobile", "airplane", "0"]
    no_labels = (("3", "'3' is no label; expected 0-2"), ("-1", "label"), ("boat", "airplane"), ("\u00b2", "no"), ("1" * 5000, "no"))
    for text, words in no_labels:
        with pytest.raises(InputError, match=words):
            label_of(text, classes)


def test_a_start_is_a_time_with_a_zone(parser):
    start = datetime(2026, 11, 26, 15, 0, 0, 250_000, UTC)
    for text in ("2026-11-26T16:00:00.25+01:00", "2026-11-26t15:00:00.25z", "2026-11-26 15:00:00.25Z"):
        assert parser.parse_args(["--video", "0", "--start", text]).start == start


def test_help_tells_a_default_once_and_none_where_there_is_none():
    parser = Parser()
    parser.add_argument("clips", nargs="*", default=[], help="clips")
    parser.add_argument("--plot", help="a picture")
    parser.add_argument("--first", type=int, default=0, help="number")
    parser.add_argument("--batch", nargs="+", default=[1, 8], help="sizes")
    parser.add_argument("--most", type=int, default=4, help="at a time (default: cores)")
    add_common_arguments(parser, ["nin", "vgg_clips"], "nin; vgg_clips with --video")
    text = " ".join(parser.format_help().split())
    assert "number (default: 0)" in text and "sizes (default: 1 8)" in text and "network (default: nin; vgg_clips with --video" in text
    assert not any(noise in text for noise in ("default: []", "default: None", "default: 4", ") (default"))


@pytest.mark.parametrize(("arguments", "words"), [
    (["--epochs", "0"], "from 1 up"),
    (["--epochs", "many"], "many"),
    (["--seed", "-1"], "from 0 up"),
    (["--seed", "9" * 30], "from 0 up to 2147483647"),
    (["--batch-size", "9" * 5000], "from 1 up to 2147483647"),
    (["--lr", "nan"], "above 0"),
    (["--lr", "0"], "above 0"),
    (["--name", "a/b"], "no name of a file"),
    (["--arch", "vgg99"], "vgg99"),
    (["--evaluate", "--video", "0"], "not allowed with"),
    (["--start", "2026-11-26T16:00:00"], "is no RFC 3339 time"),
    (["--start", "2026-02-30T16:00:00Z"], "is no RFC 3339 time"),
    (["--start", "\x1b[2J"], r"'\\x1b\[2J' is no RFC 3339 time"),
    (["--video", "0", "--keep", "1GB"], "--keep is given.*add --record"),
    (["--video", "0", "--recordings", "r"], "--recordings is given.*add --record"),
    (["--video", "0", "--notify-crop"], "--notify-crop is given.*add --notify"),
    (["--serve", "8000"], "--serve is given.*add --video"),
    (["--fastMCD", "r", "--notify", "http://localhost/"], "--notify is given.*add --video"),
    (["--settings", "static"], "--settings is given.*add --video"),
    (["--evaluate", "--jobs", "2"], "--jobs is given.*add --video"),
    (["--video", "0", "--show-debug"], "--show-debug is given.*add --save"),
    (["--label", "1"], "--label is given.*add --fastMCD"),
    (["--evaluate", "--save", "out"], "--save is given.*add --fastMCD"),
    (["--unknown"], "--unknown"),
    (["--eval"], "--eval"),
])  # fmt: skip
def test_bad_flags_end_in_one_line(parser, arguments, words):
    with pytest.raises(InputError, match=words) as error:
        parser.parse_args(arguments)
    assert "\n" not in str(error.value)


def run_program(body, **options):
    imports = "import errno, os, signal, sys, time\nfrom util.cli import run\nfrom util.errors import InputError"
    program = f"{imports}\ndef main():\n    {body}\nrun(main)"
    return subprocess.run([sys.executable, "-c", program], cwd=ROOT, stderr=subprocess.PIPE, text=True, timeout=30, **options)


@pytest.mark.parametrize(("body", "code", "words"), [
    ("raise InputError('clip.mp4 is empty')", 2, "clip.mp4 is empty"),
    (r"raise InputError('a\x1b[31m\x00\udcff\nb')", 2, r"error: a\x1b[31m\x00\udcff b"),
    ("raise KeyboardInterrupt", 2, "interrupted"),
    ("os.kill(os.getpid(), signal.SIGTERM); time.sleep(5)", 2, "interrupted"),
    ("os.kill(os.getpid(), signal.SIGHUP); time.sleep(5)", 2, "interrupted"),
    ("open('/dev/full', 'w').write('x' * 100000)", 2, "No space left"),
    ("open('/dev/null/a')", 2, "/dev/null/a: Not a directory"),
    ("open('a' * 300)", 2, "File name too long"),
    ("raise OSError(errno.EFBIG, 'File too large')", 2, "writing: File too large"),
    ("bytearray(1 << 60)", 2, "out of memory"),
    (r"print('caf\udce9'); raise InputError('after')", 2, "after"),
    ("raise ZeroDivisionError", 1, "Traceback"),
    ("raise OSError('a bug')", 1, "Traceback"),
    ("os.write(99, b'')", 1, "Traceback"),
    ("raise RecursionError", 1, "Traceback"),
    ("pass", 0, ""),
])  # fmt: skip
def test_exit_codes(body, code, words):
    done = run_program(body, stdout=subprocess.DEVNULL)
    assert done.returncode == code and words in done.stderr
    if code == 2:
        assert done.stderr.count("\n") == 1


def test_output_that_nobody_takes():
    with open("/dev/full", "w") as full:
        done = run_program("print('a table')", stdout=full)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "No space left" in done.stderr
    read, write = os.pipe()
    os.close(read)
    done = run_program("print('a table')", stdout=write)  # as before | head
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_a_caller_ignores_stays_ignored():
    body = "signal.getsignal(signal.SIGHUP) is signal.SIG_IGN or sys.exit(3)"
    done = run_program(body, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))  # as nohup does
    assert done.returncode == 0


@pytest.mark.parametrize("script", ["MNIST/main.py", "MNIST/demo.py", "CIFAR_10/main.py", "PyTorch_CIFAR10/main.py",
                                    "PyTorch_CIFAR10/cifar10_download.py", "util/score/evaluate.py"])  # fmt: skip
def test_an_interrupt_while_modules_load_is_one_line(tmp_path, script):
    """numpy, which all of them load, is another here, which asks for Ctrl-C as soon as it is looked at."""
    (tmp_path / "numpy.py").write_text("import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(30)\n")
    program = ["-m", script.removesuffix(".py").replace("/", ".")] if script.startswith("util/") else [script]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, *program], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"{Path(script).name}: error: interrupted\n")


# ---- What others wrote ----
@pytest.mark.parametrize("error", [RecursionError, OverflowError, MemoryError, UnicodeError, KeyError, type("Odd", (Exception,), {})])
def test_whatever_a_parser_raises_is_one_line_that_names_the_file(error):
    with pytest.raises(InputError, match=r"a\.json is no COCO file: \w+") as caught, reading("a.json", "COCO file"):
        raise error("first\nsecond" * 1000)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_a_guard_lets_interrupts_and_input_errors_through():
    for error in (KeyboardInterrupt, InputError("x")):
        with pytest.raises(type(error) if isinstance(error, Exception) else error), reading("a", "b"):
            raise error


def test_text_is_read_within_bounds(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfone")
    assert read_text(path, "list") == "one"
    for data, words in ((b"caf\xe9", "no list: UnicodeDecodeError"), (b"12345678901", "more than 10 bytes")):
        path.write_bytes(data)
        with pytest.raises(InputError, match=words):
            read_text(path, "list", most=10)
    for path, words in (("/dev/zero", "more than 10 bytes"), (tmp_path, "Is a directory"), ("a\0b", "no list: ValueError")):
        with pytest.raises(InputError, match=words):
            read_text(path, "list", most=10)


def test_names_are_shown_in_one_line_of_what_can_be_shown():
    assert printable("clip 1 – Ä.mp4") == "clip 1 – Ä.mp4"
    assert printable(Path(os.fsdecode(b"caf\xe9\x1b[2J\n.mp4"))) == r"caf\udce9\x1b[2J\n.mp4"


def test_stderr_comes_back_whichever_thread_is_quiet_last():
    def work():
        for _ in range(500):
            with quiet():
                pass

    before, threads = os.fstat(2), [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert os.path.samestat(before, os.fstat(2))
