"""python3 -m util.watch and util.watch.watch: the same from the command line and from Python, as main.py --video names it."""
import json
import subprocess
import sys

import pytest

from tests.clips import squares
from tests.networks import RedOrGrey
from tests.results import rows_of
from tests.scripts import ROOT, load_script
from util import packed
from util.errors import InputError
from util.watch import batch, watch
from util.watch.__main__ import main, parse_args

LENET = ROOT / "MNIST" / "models" / "LeNet_5.xnor"


@pytest.fixture
def clips(tmp_path):
    return squares(tmp_path / "clips", 16)


def test_moments_come_one_by_one_with_their_tracks(clips):
    moments, ended = [], []
    for moment in watch(clips / "c0", RedOrGrey()):
        moments.append(moment)
        ended += moment.ended
    assert [moment.number for moment in moments] == list(range(1, 17)) and moments[3].seconds == pytest.approx(3 / 25)
    seen = [sighting for moment in moments for sighting in moment.tracks]
    assert len(seen) > 5 and {sighting.track for sighting in seen} == {1} and all(0 <= s.probability <= 1 for s in seen)
    x, y, width, height = seen[-1].box
    assert 10 + 4 * 15 == pytest.approx(x, abs=4) and 30 == pytest.approx(y, abs=4) and 24 == pytest.approx(width, abs=6)
    [track] = ended  # still in view at the end
    assert track.number == 1 and track.last == 16 and track.label == seen[-1].label
    assert len(list(watch(str(clips / "c0"), LENET, limit=4))) == 4 and len(list(watch(clips / "c0", packed.load(LENET), limit=1))) == 1
    assert next(watch(clips / "c0", limit=1)).number == 1, "by the default network"
    with pytest.raises(InputError, match="none.xnor"):
        next(watch(clips / "c0", "none.xnor"))


def test_the_command_does_what_the_script_does(clips, tmp_path, capsys):
    main([str(clips / "c1"), "--network", str(LENET), "--save", str(tmp_path / "watch"), "--label", "7"])
    *out, written = capsys.readouterr().out.splitlines()
    load_script("MNIST/main.py").main(["--cpu", "--video", str(clips / "c1"), "--save", str(tmp_path / "script"), "--label", "7"])
    *of_script, written_by_script = capsys.readouterr().out.splitlines()
    assert [line for line in out if "ms per" not in line] == [line for line in of_script if "ms per" not in line]
    assert written == f"written: {tmp_path / 'watch' / 'report.html'}"
    assert written_by_script == f"written: {tmp_path / 'script' / 'report.html'}"
    for name in ("detections.csv", "predictions.csv", "tracks.txt", "masks/000009.png"):
        assert (tmp_path / "watch" / name).read_bytes() == (tmp_path / "script" / name).read_bytes()
    main(["--multi_fastMCD", str(tmp_path / "watch"), "--network", str(LENET), "--save", str(tmp_path / "named")])
    assert len(rows_of(tmp_path / "named" / "predictions.csv")) == len(rows_of(tmp_path / "watch" / "detections.csv")) > 5


def test_many_clips_get_a_directory_each_and_are_kept(clips, tmp_path, capsys):
    arguments = [str(clips), "--network", str(LENET), "--save", str(tmp_path / "out"), "--jobs", "2", "--limit", "8"]
    command = parse_args(arguments).command[1]
    assert batch.common_arguments(command) == [f"--network={LENET}", "--limit=8"]
    # Started from here: the command's own program is this test's.
    import sys

    program = [sys.executable, "-m", "util.watch"]
    args = parse_args(arguments)
    args.command = program, args.command[1]
    found = batch.run_clips(args, batch.find_clips(args.video, args.save))
    assert [row["status"] for row in found] == ["done", "done"]
    assert json.loads((tmp_path / "out/c0/summary.json").read_text())["frames"] == 8
    assert [row["status"] for row in batch.run_clips(args, batch.find_clips(args.video, args.save))] == ["kept", "kept"]


@pytest.mark.parametrize(("arguments", "words"), [
    ([], "no CLIP is given"), (["x.mp4", "--network", "none.xnor"], "none.xnor"), (["x.mp4", "--label", "33"], "33.* is no label"),
    (["x.mp4"], "x.mp4"), (["x.mp4", "--multi_fastMCD", "results"], "not allowed with"),
])  # fmt: skip
def test_what_cannot_be_is_said_in_one_line(arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=words) as error:
        main(arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("closed", ["<&-", "<&- >&- 2>&-"])
def test_what_a_parent_has_closed_of_stdin_stdout_and_stderr_is_not_missed(clips, tmp_path, closed):
    """And no file of the run gets its number, for libraries print to that."""
    command = [sys.executable, "-m", "util.watch", clips / "c0", "--network", LENET, "--save", tmp_path / "out"]
    assert subprocess.run(["sh", "-c", f'"$@" {closed}', "sh", *command], cwd=ROOT, timeout=120).returncode == 0
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["frames"] == 16
