"""Frames made ahead of their time, by a thread of their own where there is a core for it."""
import contextlib
import os
import queue
import threading
from collections.abc import Iterator
from typing import TypeVar

Item = TypeVar("Item")
AHEAD = 3  # frames that wait at most: enough to bridge a slow one, little memory


def usable_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def spare_cores() -> int:
    """Return how many cores there are beside the one at work; 0 where one thread is asked for, as in a batch."""
    return 0 if os.environ.get("OMP_NUM_THREADS") == "1" else usable_cores() - 1


def ahead(items: Iterator[Item]) -> Iterator[Item]:
    """Yield the items in their order; a thread makes up to `AHEAD` of them before they are asked for.

    What the items' iterator raises is raised here, after what came before it. Closing this ends the thread, which closes the iterator.
    """
    waiting, stopped = queue.Queue(AHEAD), threading.Event()
    thread = threading.Thread(target=_make, args=(items, waiting, stopped), name="decoding", daemon=True)
    thread.start()
    try:
        while (made := waiting.get()) is not None:
            if isinstance(made, BaseException):
                raise made
            yield made[0]
    finally:
        stopped.set()
        with contextlib.suppress(queue.Empty):  # makes room for what it is putting
            while True:
                waiting.get_nowait()
        thread.join(timeout=2)  # a pipe that is silent holds it longer; then it goes with the process


def _make(items: Iterator[Item], waiting: queue.Queue, stopped: threading.Event) -> None:
    end = None
    try:
        for item in items:
            waiting.put((item,))
            if stopped.is_set():
                break
    except BaseException as error:  # the consumer raises it
        end = error
    finally:
        items.close()
    if not stopped.is_set():
        waiting.put(end)
