"""Several cameras: `--cameras FILE` watches each of its [cameras.NAME] by a process of its own, and one page shows them all.

A process that ends with an error, be it a crash or a camera that is away for too long, is started again, after FIRST_WAIT seconds and
then ever less often. Each start has its own directory, OUT/NAME/2026-11-26T16-00-00, so that none replaces another's results.
"""
import os
import tempfile
import threading
import time
from collections import deque
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from pathlib import Path

from util.cli import label_of
from util.errors import InputError, printable, say
from util.signals import stoppable
from util.spec import Network
from util.watch.batch import common_arguments, reason_of
from util.watch.jobs import PATIENCE_S, start
from util.watch.settings import load_cameras, load_settings

OWN = ("--cameras", "--camera", "--save", "--serve")  # flags that a camera's command has otherwise
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds before starting again; doubled each time
LASTING = 60.0  # seconds after which a process that ends is started again after FIRST_WAIT
LOOK = 0.1  # seconds between two looks at the processes


class Child:
    """The process of a camera, again and again: poll() starts it when it is time."""

    def __init__(self, name: str, command: list[str], save: Path):
        self.name, self._command, self._save = name, command, save
        self.process, self.done, self.restarts, self.reason, self.out = None, False, -1, "", ""
        self._wait, self._next, self._began, self._said, self._threads = FIRST_WAIT, 0.0, 0.0, deque(maxlen=20), []

    def poll(self) -> None:
        """Start the process if it is time to, and notice if it has ended."""
        now = time.monotonic()
        if self.process is None and not self.done and now >= self._next:
            self._start(now)
        elif self.process and self.process.poll() is not None:
            self._end(now)

    def _start(self, now: float) -> None:
        stamp = datetime.now().strftime("%Y-%m-%dT%H-%M-%S")
        self._began, self.restarts, self.out = now, self.restarts + 1, ""
        self._said.clear()
        try:
            self.process = start([*self._command, "--save", str(self._save / self.name / stamp)], os.getcwd())
        except OSError as error:  # no memory, or no room for another process
            self._wait_after(now, f"cannot start: {error.strerror}")
            return
        self._threads = [threading.Thread(target=target, args=(self.process,), daemon=True) for target in (self._listen, self._keep)]
        for thread in self._threads:
            thread.start()

    def _listen(self, process) -> None:
        for line in process.stderr:
            self._said.append(line)
            say(f"{self.name}: {printable(line.rstrip())}")

    def _keep(self, process) -> None:
        self.out = process.stdout.read()

    def _end(self, now: float) -> None:
        for thread in self._threads:
            thread.join(1)
        code, self.process = self.process.returncode, None
        self.done, self.reason = code == 0, ""
        if not self.done:
            self._wait_after(now, printable(reason_of(code, "".join(self._said))))

    def _wait_after(self, now: float, reason: str) -> None:
        self.reason = reason
        self._wait = FIRST_WAIT if now - self._began > LASTING else self._wait
        self._next = now + self._wait
        say(f"{self.name}: ended ({self.reason}); started again in {self._wait:g} s")
        self._wait = min(2 * self._wait, LONGEST_WAIT)

    def stop(self) -> None:
        """Tell the process to end as Ctrl-C would."""
        if self.process:
            self.process.terminate()

    def join(self, until: float) -> None:
        """Wait for its end until then, and no longer."""
        while self.process and self.process.poll() is None and time.monotonic() < until:
            time.sleep(LOOK)
        if self.process:
            self.process.kill()  # nothing where it has ended
            self.process.wait()
            for thread in self._threads:
                thread.join(1)

    def status(self) -> dict:
        """Return how it is, for JSON."""
        known = {"name": self.name, "running": self.process is not None, "done": self.done}
        return {**known, "restarts": max(0, self.restarts), "reason": self.reason}


def watch_cameras(args, network: Network) -> None:
    """Watch the cameras of the file args.cameras until Ctrl-C or SIGTERM, or until all have ended, and print what each said last."""
    if not args.save:
        raise InputError("--cameras watches for long; give --save DIR, which gets a directory for each camera")
    cameras = load_cameras(args.cameras)
    for name in cameras:
        load_settings(str(args.cameras), list(network.spec.classes), name)
    if args.label is not None:
        label_of(args.label, network.spec.classes)
    with tempfile.TemporaryDirectory(prefix="fastmcd-") as directory:  # which only this user may enter
        sockets = {name: Path(directory) / str(number) for number, name in enumerate(cameras)}
        children = [_child(args, name, path) for name, path in sockets.items()]
        _watch(children, _overview(args.serve, sockets, children) if args.serve else nullcontext())
    for child in children:
        print(f"== {child.name}: {max(0, child.restarts)} times started again")
        print(child.out, end="")


def _child(args, name: str, socket: Path) -> Child:
    """Return the child of one camera: the command of args with what differs from camera to camera."""
    program, given = args.command
    own = [f"--cameras={args.cameras}", f"--camera={name}", *(["--serve", str(socket)] if args.serve else [])]
    return Child(name, [*program, *common_arguments(given, OWN), *own], args.save)


def _watch(children: list[Child], page: AbstractContextManager) -> None:
    """Poll the children until Ctrl-C or SIGTERM, or until all have ended, then end them; `page` is served meanwhile."""
    stopped = []
    with stoppable(lambda: stopped.append(True)), page:
        try:
            while not stopped and not all(child.done for child in children):
                for child in children:
                    child.poll()
                time.sleep(LOOK)
        finally:
            for child in children:
                child.stop()
            until = time.monotonic() + PATIENCE_S
            for child in children:
                child.join(until)


def _overview(address, sockets: dict[str, Path], children: list[Child]):
    from util.serve.overview import Overview  # here: few runs need a server

    page = Overview(address, sockets, lambda: [child.status() for child in children])
    say(f"page: {page.server.url}")
    return page
