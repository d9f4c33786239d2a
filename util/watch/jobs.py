"""One clip's process, and many of them at a time on this machine."""
import contextlib
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed, wait

ONE_THREAD = dict.fromkeys(["OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENCV_FOR_THREADS_NUM"], "1")
# glibc's allocator: else the bound grows with what is freed, frames come to lie in the heap, and that falls in pieces and grows.
MEMORY = {"MALLOC_MMAP_THRESHOLD_": "262144"}  # bytes from which on memory goes back to the system at once
PATIENCE_S = 30  # for a process that was told to end, which then completes its files
Outcome = tuple[int, str, str]  # of a process: exit code, stdout, stderr


def start(command: list[str], directory: str) -> subprocess.Popen:
    """Return the process of a command, on one thread, with pipes for what it prints.

    Its process group is its own, so that Ctrl-C reaches it by way of this program alone, once. Where util-linux is there, it is told to
    end when the thread that called this does, and so when this program is killed.
    """
    leash = ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []
    return subprocess.Popen(
        [*leash, *command], cwd=directory, env={**os.environ, **MEMORY, **ONE_THREAD}, text=True, errors="replace", process_group=0,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def work(command: list[str], directory: str, started: Callable = lambda process: None) -> Outcome:
    """Return (exit code, stdout, stderr) of a command run in a directory, on one thread; ends it if interrupted. Ray calls this."""
    process = start(command, directory)
    started(process)
    try:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                out, error = process.communicate(timeout=1)  # between two of these Ray can cancel
                return process.returncode, out, error
    except BaseException:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=PATIENCE_S)
        process.kill()  # nothing where it has ended
        raise


def run_here(commands: dict[str, list[str]], jobs: int) -> Iterator[tuple[str, Outcome]]:
    """Yield (name, what `work` returned) as the commands end, `jobs` at a time; ends them if closed, within PATIENCE_S."""
    running, stopping = [], threading.Event()

    def started(process: subprocess.Popen) -> None:
        running.append(process)
        if stopping.is_set():
            process.terminate()

    with ThreadPoolExecutor(jobs) as pool:
        futures = {pool.submit(work, command, os.getcwd(), started): name for name, command in commands.items()}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            stopping.set()
            for future in futures:
                future.cancel()
            for process in running:
                process.terminate()  # nothing where it has ended
            try:
                wait(futures, PATIENCE_S)
            finally:  # another Ctrl-C, too
                for process in running:
                    process.kill()
