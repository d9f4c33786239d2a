"""Kills what writes files at random moments: are earlier files whole, does --resume go on, does the next one clear what is left?

    python3 benchmarks/kills.py                                    60 kills each of a run, a batch, a training and an export
    python3 benchmarks/kills.py --kinds export --kills 500 --seed 7

A run writes over the results of the one before, which has another length; a batch does so for two clips; a training goes on from where
the one before was killed, and in the end has to have the numbers of one that never was; an export writes one of two networks over the
other. All are done by the scripts' own code in a forked process, since loading takes longer than the rest. A moment is a share of the
processor time that the same takes when it is left alone. benchmarks/reliability.py ends runs at each of their file operations instead.
Prints a line for each kind, and exits with 1 if anything was mishandled.
"""
import argparse
import contextlib
import csv
import io
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import cv2  # noqa: E402
import numpy as np  # noqa: E402

from benchmarks.machine import children  # noqa: E402
from tests.clips import squares  # noqa: E402
from tests.scripts import load_script  # noqa: E402
from util import cli  # noqa: E402
from util.errors import InputError  # noqa: E402
from util.outputs import manifest  # noqa: E402
from util.watch.__main__ import main as watch  # noqa: E402

NETWORK = ROOT / "MNIST" / "models" / "LeNet_5.xnor"
FRAMES = (8, 12)  # of the two lengths of a run
PATIENCE = 60  # seconds for the clips of a batch that was killed


class Kind(NamedTuple):
    prepare: Callable[[Path], None]
    work: Callable[[Path, int], None]  # the program, called in a process of its own; the number of the attempt says what it has to do
    check: Callable[[Path, bool], str]  # what is wrong in the folder afterwards, "" if nothing; whether it was left alone
    left: set[str]  # what there is in the folder at the end


# ---- A run, a batch --------------------------------------------------------------------------------------------------
def prepare_batch(folder: Path) -> None:
    squares(folder / "clips", max(FRAMES))


def prepare_run(folder: Path) -> None:
    prepare_batch(folder)
    run(folder, 0)  # what it imports is there for the forks


def run(folder: Path, number: int) -> None:
    save = ["--save", str(folder / "out"), "--limit", str(FRAMES[number % 2])]
    watch([str(folder / "clips" / "c0"), "--network", str(NETWORK), *save])


def check_run(folder: Path, alone: bool) -> str:
    return whole(folder / "out", FRAMES)


def whole(out: Path, lengths: tuple[int, ...]) -> str:
    """Return what is wrong with a results directory: foreign or missing files, or another length than the run that it is of."""
    try:
        manifest.refuse_foreign(out, changed=True)
    except (InputError, OSError) as error:
        return str(error)
    if missing := [name for name in manifest.recorded(out) if not name.endswith("/") and not (out / name).exists()]:
        return f"{missing[:3]} of {len(missing)} files are missing"
    frames, summary = len(list((out / "masks").iterdir())), out / "summary.json"
    if summary.exists() and json.loads(summary.read_text())["frames"] != frames:
        return "summary.json is of another run"
    return "" if frames in lengths else f"{frames} frames"


def batch(folder: Path, number: int) -> None:
    sys.argv = [str(ROOT / "util" / "watch" / "__main__.py")]  # what the clips' processes start
    os.environ["PYTHONPATH"] = str(ROOT)
    save = ["--save", str(folder / "out"), "--limit", str(FRAMES[number % 2])]
    watch([str(folder / "clips"), "--network", str(NETWORK), "--jobs", "2", *save])


def check_batch(folder: Path, alone: bool) -> str:
    with open(folder / "out" / "summary.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    if [row["clip"] for row in rows] != ["c0", "c1"] or (alone and {row["status"] for row in rows} - {"done", "kept"}):
        return f"summary.csv has {rows}"
    # A clip is interrupted when its program is killed: what it has then takes the place.
    lengths = FRAMES if alone else tuple(range(1, max(FRAMES) + 1))
    return next(filter(None, (whole(folder / "out" / name, lengths) for name in ("c0", "c1"))), "")


# ---- A training, an export -------------------------------------------------------------------------------------------
def script():
    module = load_script("MNIST/main.py")
    module.torch.set_num_threads(1)  # threads do not live on in a fork
    return module


def prepare_training(folder: Path) -> None:
    from util.train import run as training

    training.SAVE_EVERY = -1  # each epoch, however short
    for split in ("train", "test"):
        for digit in range(10):
            (folder / "data" / split / str(digit)).mkdir(parents=True)
            for i in range(3):
                image = cv2.putText(np.zeros((28, 28), np.uint8), str(digit), (6 + i, 21), cv2.FONT_HERSHEY_SIMPLEX, 0.7, 255, 2)
                cv2.imwrite(str(folder / "data" / split / str(digit) / f"{i}.png"), image)


def train(folder: Path, number: int) -> None:
    module = script()
    module.HERE = folder
    resume = ["--resume"] if (folder / "models" / "LeNet_5.last.pth.tar").exists() else []
    module.main(["--cpu", "--data", str(folder / "data"), "--epochs", "6", "--batch-size", "4", *resume])


def check_training(folder: Path, alone: bool) -> str:
    from util.train import checkpoint

    models, reference = folder / "models", folder / "data" / "rows.json"
    checkpoint.load(models / "LeNet_5.best.pth.tar")
    last = models / "LeNet_5.last.pth.tar"
    if not last.exists():
        return "no training to resume" * alone
    rows = [[*row[:2], *row[3:]] for row in checkpoint.load(last)["rows"]]  # without the seconds
    if not reference.exists():
        reference.write_text(json.dumps(rows))
    if rows != json.loads(reference.read_text())[: len(rows)] or (alone and len(rows) != 6):
        return f"other numbers than without a kill: {rows}"
    if alone:
        last.unlink()  # the next one begins anew
        if left := [path.name for path in models.iterdir() if ".part" in path.name]:
            return f"{left} left"
    return ""


def prepare_export(folder: Path) -> None:
    from util.train import checkpoint

    weights = checkpoint.load(ROOT / "MNIST" / "models" / "LeNet_5.best.pth.tar")
    for number in range(2):
        weights["state_dict"]["ip2.bias"][0] += number
        checkpoint.save(folder / "weights" / f"{number}.pth.tar", weights)
        export(folder, number, f"weights/{number}.xnor")


def export(folder: Path, number: int, name: str = "network.xnor") -> None:
    script().main(["--cpu", "--pretrained", str(folder / "weights" / f"{number % 2}.pth.tar"), "--export", str(folder / name)])


def check_export(folder: Path, alone: bool) -> str:
    data = (folder / "network.xnor").read_bytes()
    either = [(folder / "weights" / f"{number}.xnor").read_bytes() for number in range(2)]
    return "" if data in either else "network.xnor is none of the two"


KINDS = {
    "run": Kind(prepare_run, run, check_run, {"clips", "out"}),
    "batch": Kind(prepare_batch, batch, check_batch, {"clips", "out"}),
    "training": Kind(prepare_training, train, check_training, {"data", "models"}),
    "export": Kind(prepare_export, export, check_export, {"weights", "network.xnor"}),
}


# ---- Killing ---------------------------------------------------------------------------------------------------------
def seconds(process: int) -> float:
    """Return the processor time of a process and its children."""
    try:
        own = time.clock_gettime((~process << 3) | 2)  # as clock_getcpuclockid makes it
        reaped = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[13:15]
    except OSError:
        return 0.0
    return own + sum(map(int, reaped)) / os.sysconf("SC_CLK_TCK") + sum(map(seconds, children(process)))


def attempt(work: Callable[[], None], limit: float = float("inf")) -> tuple[int, float, str]:
    """Return how `work()` ended in a process of its own, its processor time and what went wrong; killed at `limit` seconds of that."""
    with tempfile.TemporaryFile("w+") as said:
        process = os.fork()
        if not process:
            os.dup2(said.fileno(), 1), os.dup2(said.fileno(), 2)
            sys.stdout, sys.stderr = (open(number, "w", 1, closefd=False) for number in (1, 2))
            code = 1
            try:
                cli.run(work)
                code = 0
            except SystemExit as end:
                code = int(end.code or 0)
            finally:
                os._exit(code)
        took = 0.0
        while os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            if (took := max(took, seconds(process))) >= limit:
                clips = children(process)
                os.kill(process, signal.SIGKILL)
                os.waitpid(process, 0)
                end = time.monotonic() + PATIENCE
                while any(map(seconds, clips)) and time.monotonic() < end:
                    time.sleep(0.05)
                return -signal.SIGKILL, took, "its clips go on without it" * any(map(seconds, clips))
            time.sleep(0.001)
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        said.seek(0)
        return code, took, f"exit code {code}: {said.read()[-500:]}" * bool(code)


def attack(name: str, kills: int, rng: random.Random) -> list[str]:
    """Return what was mishandled in `kills` kills of a kind."""
    kind, wrong = KINDS[name], []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        with contextlib.redirect_stdout(io.StringIO()):
            kind.prepare(folder)
        _, whole_time, problem = attempt(lambda: kind.work(folder, 0))
        if problem := problem or kind.check(folder, True):
            return [f"{name}, left alone: {problem}"]
        number, killed = 0, 0
        while killed < kills:
            number += 1
            code, _, problem = attempt(lambda: kind.work(folder, number), rng.uniform(0, 1) * whole_time)  # noqa: B023
            killed += code == -signal.SIGKILL
            try:
                problem = problem or kind.check(folder, code == 0)
            except Exception as error:  # whatever a damaged file makes the check raise
                problem = f"{type(error).__name__}: {error}"
            if problem:
                wrong.append(f"{name}, attempt {number}: {problem}")
        _, _, problem = attempt(lambda: kind.work(folder, number + 1))
        problem = problem or kind.check(folder, True)
        if problem or {path.name for path in folder.iterdir()} != kind.left:
            wrong.append(f"{name}, the last one, left alone: {problem or sorted(path.name for path in folder.iterdir())}")
    return wrong


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS), help="what to kill")
    parser.add_argument("--kills", type=int, default=60, help="of each")
    parser.add_argument("--seed", type=int, default=1, help="of the random moments")
    args = parser.parse_args(argv)
    cv2.setNumThreads(0)
    os.environ["OMP_NUM_THREADS"] = "1"
    mishandled = []
    for name in args.kinds:
        start = time.monotonic()
        wrong = attack(name, args.kills, random.Random(f"{args.seed} {name}"))
        print(f"{name:10} {args.kills:4} kills, {len(wrong)} mishandled, {time.monotonic() - start:.0f} s", *wrong, sep="\n  ", flush=True)
        mishandled += wrong
    return int(bool(mishandled))


if __name__ == "__main__":
    sys.exit(main())
