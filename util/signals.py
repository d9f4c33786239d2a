"""Ctrl-C and the other signals that end a program: held back for a while, or taken as the wish to stop."""
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

STOPS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]  # SIGHUP: a terminal was closed


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C and what else interrupts (STOPS) back until the block ends, then let the first that came act.

    Those that have no handler in Python act as ever, and so do all outside the main thread.
    """
    came, before = [], _handlers()
    try:
        for number in before:
            signal.signal(number, lambda number, frame: came.append(number))
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if came:
        before[came[0]](came[0], None)


@contextmanager
def stoppable(stop: Callable[[], None]) -> Iterator[None]:
    """Let the first of STOPS that comes before the block ends call `stop`, and interrupt nothing; the next one acts as ever.

    Outside the main thread, and where they have no handler in Python, they act as ever from the start.
    """
    before = _handlers()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def first(number, frame) -> None:
        restore()
        if number != signal.SIGINT:  # a shell that ends says so more than once
            signal.signal(number, signal.SIG_IGN)
        stop()

    try:
        for number in before:
            signal.signal(number, first)
        yield
    finally:
        restore()


def _handlers() -> dict[int, Callable]:
    """Return which of STOPS have a handler in Python, and it; none outside the main thread, which could not change them."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {number: handler for number in STOPS if callable(handler := signal.getsignal(number))}
