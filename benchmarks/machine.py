"""What a measured time depends on, and how benchmarks measure: time by turns, memory of a process."""
import contextlib
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np


def cpu_name() -> str:
    """Return the processor's name as the system gives it, elsewhere than on Linux its architecture."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def by_turns(functions: Sequence[Callable[[], object]], seconds: float, least: int) -> np.ndarray:
    """Return the seconds that each call took, float (rounds, functions), of `least` rounds or more after two that warm up.

    Every function runs once a round, so that a busy machine hurts all alike.
    """
    for function in functions:
        function(), function()
    rounds, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end or len(rounds) < least:
        rounds.append([])
        for function in functions:
            start = time.perf_counter()
            function()
            rounds[-1].append(time.perf_counter() - start)
    return np.array(rounds)


def memory(pid: int, kind: str) -> float:
    """Return MiB of a process, 0 once it has ended; kind: RssAnon is what it holds and does not share with files, VmHWM its highest RSS."""
    with contextlib.suppress(OSError, KeyError):  # a process that has ended holds nothing
        fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        return int(fields[kind].split()[0]) / 1024
    return 0.0


def children(pid: int) -> list[int]:
    """Return the processes that a process has started; none once it has ended."""
    with contextlib.suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []
