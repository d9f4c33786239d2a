"""A directory of recordings that outlives runs: a ledger names every file that is ours, and only those are ever deleted.

    recordings.txt     FIRST_LINE, then a line for each file, written before the file itself is made: its name; and when it is complete
                       again, with its size in bytes and when it was changed (ns)

A file that is not as its last line says has been changed by somebody, so it is theirs.
"""
import contextlib
import errno
import os
import re
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from util.cli import Keep
from util.errors import InputError, read_text
from util.files import GrowingFile, atomic_write, create, lock, refuse_special

NAME = "recordings.txt"
FIRST_LINE = "fastMCD recordings 1: what is recorded here, and --keep may delete\n"
LINE = re.compile(r"([\w+-][\w.+-]{0,99}\.(?:mp4|mkv))(?: (\d{1,18}) (\d{1,19}))?", re.ASCII)
FULL = {errno.ENOSPC, errno.EDQUOT}
FREE = 0.01  # share of the disk that is left to others, at most MAX_FREE
MAX_FREE = 1 << 30  # bytes


@dataclass
class Entry:
    """A complete file of ours, as it was left."""

    name: str
    size: int  # bytes
    changed: int  # ns since 1970


class Ledger:
    """The recordings in a directory; `keep` bounds how many bytes and how old they get. InputError if another run uses the directory."""

    def __init__(self, directory: Path, keep: Keep):
        self.directory, self.keep, self.deleted = directory, keep, 0
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                self._open()
            except BaseException:
                os.close(self._lock)
                raise
        except OSError as error:
            raise InputError(f"{error.filename or directory}: {error.strerror}; choose another directory for recordings") from None

    def _open(self) -> None:
        lock(self._lock, f"{self.directory} is being recorded to by another run; give each its own --recordings")
        self.complete = self._read()
        path = self.directory / NAME
        refuse_special(path)
        text = FIRST_LINE + "".join(f"{entry.name} {entry.size} {entry.changed}\n" for entry in self.complete)

        def write():
            with atomic_write(path) as temporary:
                temporary.write_text(text)

        self._make_room(write)
        self._file = GrowingFile(path, text, descriptor=os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC))

    def _read(self) -> list[Entry]:
        """Return what is ours and still there, the oldest first: what a killed run left counts as it is."""
        path = self.directory / NAME
        if not os.path.lexists(path):
            return []
        text = read_text(path, "list of recordings")
        if text and not text.startswith(FIRST_LINE):
            raise InputError(f"{path} is no list of recordings of this program; choose another directory")
        lines = {}
        for line in text[len(FIRST_LINE) :].split("\n")[:-1]:  # the last one is empty, or was cut off
            if found := LINE.fullmatch(line):
                lines[found[1]] = found[2] and Entry(found[1], int(found[2]), int(found[3]))
        found = [entry or self._stat(name) for name, entry in lines.items()]
        return sorted((entry for entry in found if entry and self._stat(entry.name) == entry), key=lambda entry: entry.changed)

    def _stat(self, name: str) -> Entry | None:
        with contextlib.suppress(OSError):
            status = os.stat(name, dir_fd=self._lock, follow_symlinks=False)
            if stat.S_ISREG(status.st_mode):
                return Entry(name, status.st_size, status.st_mtime_ns)
        return None

    def new(self, stem: str, suffix: str) -> str:
        """Return the name of a file that has been made, empty, after it was recorded: that of `stem`, or one like it that is free."""
        for number in range(1, 1000):
            name = f"{stem}{f'_{number}' if number > 1 else ''}{suffix}"
            if not os.path.lexists(self.directory / name):
                self._append(f"{name}\n")
                os.close(create(self.directory / name))
                return name
        raise FileExistsError(errno.EEXIST, "there are too many of that name", str(self.directory / f"{stem}{suffix}"))

    def done(self, name: str) -> None:
        """Take a file for complete; an empty one is deleted."""
        entry = self._stat(name)
        if entry and not entry.size:
            os.unlink(name, dir_fd=self._lock)
        elif entry:
            self.complete.append(entry)
            self._append(f"{name} {entry.size} {entry.changed}\n")

    def _append(self, line: str) -> None:
        self._make_room(lambda: self._file.append(line))

    def _make_room(self, write: Callable[[], None]) -> None:
        """Call `write`, again and again while the disk is full and there is an oldest file to delete."""
        while True:
            try:
                return write()
            except OSError as error:
                if error.errno not in FULL or not self.drop_oldest():
                    raise

    def drop_oldest(self) -> bool:
        """Delete the oldest complete file that is still ours; False if there is none."""
        while self.complete:
            entry = self.complete.pop(0)
            if self._stat(entry.name) == entry:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(entry.name, dir_fd=self._lock)
                self.deleted += 1
                return True
        return False

    def tidy(self, growing: int = 0) -> None:
        """Delete the oldest until the rest, with a file that has `growing` bytes so far, is within `keep` and the disk has some room."""
        while self.complete and self._is_too_much(growing):
            self.drop_oldest()

    def _is_too_much(self, growing: int) -> bool:
        size = growing + sum(entry.size for entry in self.complete)
        oldest = time.time() - self.complete[0].changed / 1e9
        disk = os.fstatvfs(self._lock)
        room = min(MAX_FREE, FREE * disk.f_blocks * disk.f_frsize)
        return size > self.keep.size or oldest > self.keep.seconds or disk.f_bavail * disk.f_frsize < room

    def close(self) -> None:
        self._file.close()
        os.close(self._lock)
