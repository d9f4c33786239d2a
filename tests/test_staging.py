"""Results take the place of earlier ones whole or not at all; what no run has recorded is never touched; one run at a time."""
import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.scripts import ROOT, load_script
from tests.test_outputs import disk_full_at
from util.errors import InputError
from util.files import atomic_write
from util.outputs import staging
from util.outputs.manifest import FIRST_LINE, MANIFEST, adopted, recorded
from util.outputs.staging import Staging


def made(out, text="first", names=("a.txt", "crops/1.png", "crops/2.png")):
    with Staging(out) as results:
        results.mkdir("crops")
        results.write({name: text.encode() for name in names})
        results.frames += 1
    return out


def tree(directory):
    """Every name below a directory, with a file's text or where a link leads."""
    def content(path):
        return f"-> {os.readlink(path)}" if path.is_symlink() else None if path.is_dir() else path.read_text()

    return {str(path.relative_to(directory)): content(path) for path in sorted(Path(directory).rglob("*"))}


def test_new_results_take_the_place_of_earlier_ones(tmp_path):
    made(tmp_path / "out")
    with Staging(tmp_path / "out") as results:
        results.write({"b.txt": b"second"})
        assert (tmp_path / "out" / "a.txt").read_text() == "first", "they stay until the end"
        assert results.path == tmp_path / "out.part" and (results.path / "b.txt").exists()
    assert [name for name in tree(tmp_path)] == ["out", "out/b.txt", "out/manifest.txt"]
    assert recorded(tmp_path / "out") == ["b.txt", MANIFEST]


CHANGES = {
    "a file beside": lambda out: (out / "notes.txt").write_text("mine"),
    "a file among ours": lambda out: (out / "crops" / "1_corrected.png").write_text("mine"),
    "an empty directory": lambda out: (out / "mine").mkdir(),
    "a file of ours replaced": lambda out: (out / "a.txt").write_text("mine"),
    "a link in the place of a file": lambda out: (out / "a.txt").unlink() or (out / "a.txt").symlink_to("/etc/hostname"),
    "a link in the place of a directory": lambda out: (out / "crops").symlink_to((out / "crops").rename(out.parent / "moved")),
    "a directory in the place of a file": lambda out: (out / "a.txt").unlink() or (out / "a.txt").mkdir(),
    "a manifest that leads out": lambda out: (out / MANIFEST).write_text(FIRST_LINE + "../precious\n"),
    "a manifest of something else": lambda out: (out / MANIFEST).write_text("name: results\n"),
    "no manifest": lambda out: (out / MANIFEST).unlink(),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("during", [False, True], ids=["before", "during"])
def test_results_that_somebody_has_changed_stay(tmp_path, change, during):
    """Seen before a run, it is refused; made during a run, that run's results stay beside. Nothing is lost."""
    out = made(tmp_path / "out")
    (tmp_path / "precious").write_text("mine")
    for path in out.rglob("*.*"):
        os.utime(path, (1e9, 1e9))  # long ago
    with pytest.raises(InputError) as caught:
        if not during:
            CHANGES[change](out)
            before = tree(tmp_path)
        with Staging(out) as results:
            results.write({"b.txt": b"second"})
            CHANGES[change](out)
            before = tree(tmp_path)
    assert tree(tmp_path) == before and "\n" not in str(caught.value)
    assert ("the results are in" in str(caught.value)) == during


def test_others_directories_are_refused(tmp_path):
    for name in ("annotated.mp4", "detections.csv", "predictions.csv", "masks/000001.png", "frames/0001.png", "manifest.txt/x"):
        out = tmp_path / name.replace("/", "_")
        (out / name).parent.mkdir(parents=True)
        (out / name).write_text("mine")
        before = tree(tmp_path)
        with pytest.raises(InputError, match="choose an empty or a new directory"):
            Staging(out)
        assert tree(tmp_path) == before
    (tmp_path / "new.part").mkdir()
    (tmp_path / "new.part" / "mine").write_text("mine")
    with pytest.raises(InputError, match=r"new.part holds 'mine', which no run has recorded"):
        Staging(tmp_path / "new")


def test_directories_without_a_file_are_as_good_as_none(tmp_path):
    (tmp_path / "out" / "masks" / "deep").mkdir(parents=True)
    made(tmp_path / "out")
    assert "out/masks" not in tree(tmp_path) and "out/a.txt" in tree(tmp_path)


def test_places_that_cannot_be_replaced_are_refused(tmp_path, monkeypatch):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "other.part").symlink_to("real")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "clip").mkdir()
    monkeypatch.chdir(tmp_path / "real")
    for place, says in {
        "link": "is a link", "other": "other.part is a link", "file": "File exists|Not a dir", "file/out": "File exists", "clip": "lies in",
        ".": "current directory", "..": "current directory", "real": "current directory", "/": "mount point", "/proc": "mount point",
    }.items():  # fmt: skip
        before = tree(tmp_path)
        with pytest.raises(InputError, match=says) as caught:
            Staging(place if place[0] in "./" else tmp_path / place, source=tmp_path / "clip")
        assert tree(tmp_path) == before and "\n" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0 and not shutil.which("setpriv"), reason="root may write everywhere")
@pytest.mark.parametrize("name", ["out", "out.part"])
def test_a_directory_that_is_read_only_is_refused_and_stays(tmp_path, name):
    made(tmp_path / "out")
    made(tmp_path / "out.part", "killed")
    (tmp_path / name).chmod(0o555)
    before = tree(tmp_path)
    plain = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    program = "import sys; from util import cli; from util.outputs.staging import Staging; cli.run(lambda: Staging(sys.argv[1]))"
    run = subprocess.run([*plain, sys.executable, "-c", program, tmp_path / "out"], cwd=ROOT, capture_output=True, text=True)
    assert (run.returncode, run.stderr.count("\n")) == (2, 1)
    assert f"{tmp_path / name} is read-only; make it writable" in run.stderr and tree(tmp_path) == before


def test_a_second_run_into_one_directory_is_refused(tmp_path):
    with Staging(tmp_path / "out") as results:
        results.write({"a.txt": b"first"})
        with pytest.raises(InputError, match="out is being written by another run"):
            Staging(tmp_path / "out")
        assert results.path.exists()
    with Staging(tmp_path / "out") as results, pytest.raises(InputError, match="being written"):
        Staging(tmp_path / "out")
    made(tmp_path / "out")


def killed(out, code):
    """Run `code` with a Staging `results` in a process that then kills itself."""
    program = f"import os\nfrom util.outputs import staging\nresults = staging.Staging({str(out)!r})\n{code}\nos.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == -9


def test_what_a_killed_run_leaves_is_cleared_by_the_next(tmp_path):
    before = tree(made(tmp_path / "out"))
    killed(tmp_path / "out", "results.mkdir('crops'); results.write({'crops/3.png': b'x'}); results.record('never_made.png')")
    assert (tmp_path / "out.part" / "crops" / "3.png").exists() and tree(tmp_path / "out") == before
    (tmp_path / "out.part" / "mine").write_text("mine")
    with pytest.raises(InputError, match="out.part holds 'mine'"):
        made(tmp_path / "out")
    (tmp_path / "out.part" / "mine").unlink()
    made(tmp_path / "out", "second")
    assert tree(tmp_path / "out") == {**before, "a.txt": "second", "crops/1.png": "second", "crops/2.png": "second"}
    assert not (tmp_path / "out.part").exists()


def test_where_names_cannot_be_exchanged_at_once_a_kill_between_is_mended(tmp_path, monkeypatch):
    made(tmp_path / "out")
    killed(tmp_path / "out", "staging.exchange = lambda *paths: os.rename(paths[1], str(paths[1]) + '.old') or os.kill(os.getpid(), 9)\n"
                             "results.__exit__(None, None, None)")  # fmt: skip
    assert not (tmp_path / "out").exists() and (tmp_path / "out.old").exists()
    monkeypatch.setattr(staging, "exchange", lambda *paths: False)
    with Staging(tmp_path / "out") as results:
        assert (tmp_path / "out" / "a.txt").read_text() == "first"
        results.write({"a.txt": b"second"})
    assert list(tree(tmp_path)) == ["out", "out/a.txt", "out/manifest.txt"] and (tmp_path / "out" / "a.txt").read_text() == "second"


def test_a_file_that_is_added_later_can_be_recorded(tmp_path):
    out = made(tmp_path / "out")
    with adopted(out, "predictions.csv") as path:
        path.write_text("ours")
        assert path.parent == tmp_path, "what a kill leaves is nothing foreign in there"
    assert (out / "predictions.csv").read_text() == "ours" and sorted(os.listdir(tmp_path)) == ["out"]
    made(out)
    assert "predictions.csv" not in recorded(out)
    (out / "notes").write_text("mine")
    with adopted(out, "notes") as path:  # somebody's: it does not become ours
        path.write_text("more")
    with pytest.raises(InputError, match="notes"):
        made(out)


def test_a_full_disk_leaves_a_manifest_that_can_be_read(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "write", lambda descriptor, data, write=os.write: write(descriptor, data[:5]) if len(data) < 20 else full())

    def full():
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(InputError, match="manifest.txt: No space left"):
        Staging(tmp_path / "out")
    monkeypatch.undo()
    made(tmp_path / "out")


# ---- Files by themselves
def test_only_regular_files_are_replaced(tmp_path):
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "nowhere").symlink_to("gone")
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name, says in {"link": "is a link", "nowhere": "is a link", "directory": "is a directory", "pipe": "a pipe"}.items():
        with pytest.raises(InputError, match=f"{name} {says}" if says[0] == "i" else says), atomic_write(tmp_path / name) as path:
            path.write_text("new")
    with pytest.raises(InputError, match="/dev/full is a device"), atomic_write("/dev/full"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["directory", "file", "link", "nowhere", "pipe"]
    for name in ("file", "n" * 251 + ".csv"):  # the longest that there is
        with atomic_write(tmp_path / name) as path:
            path.write_text("new")
        assert (tmp_path / name).read_text() == "new"
    assert len(list(tmp_path.iterdir())) == 6


def test_what_a_killed_process_left_of_a_file_is_cleared_and_nothing_else(tmp_path):
    foreign = {".file.part.csv", ".file.12345.part.csv", ".file.0123456z.part.csv", ".other.01234567.part.csv", "file.01234567.part.csv"}
    for name in foreign:
        (tmp_path / name).touch()
    child = os.fork()
    if not child:
        try:
            with atomic_write(tmp_path / "file.csv") as path:
                path.write_text("half")
                os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    os.waitpid(child, 0)
    left = {path.name for path in tmp_path.iterdir()} - foreign
    assert len(left) == 1 and not (tmp_path / "file.csv").exists()
    with atomic_write(tmp_path / "file.csv") as first:  # another run writes it meanwhile
        first.write_text("first")
        with atomic_write(tmp_path / "file.csv") as second:
            second.write_text("second")
        assert (tmp_path / "file.csv").read_text() == "second" and first.exists()
    assert (tmp_path / "file.csv").read_text() == "first"
    assert {path.name for path in tmp_path.iterdir()} == foreign | {"file.csv"}


def test_a_full_disk_is_told_with_the_name_of_the_file(tmp_path):
    with pytest.raises(OSError) as caught, disk_full_at(1000), atomic_write(tmp_path / "table.csv") as temporary:
        temporary.write_bytes(bytes(2000))
    assert caught.value.filename == str(tmp_path / "table.csv") and not list(tmp_path.iterdir())


# ---- All of it
def test_ends_at_any_file_operation_leave_whole_results(capsys):
    """A share of what benchmarks/reliability.py does."""
    assert load_script("benchmarks/reliability.py").main(["--every", "89", "--first", "19"]) == 0
    assert int(capsys.readouterr().out.split()[-4]) >= 12
