"""Files that are whole whatever ends the process, or not there; nothing that somebody else made is written over or through.

Nothing is forced to the disk (fsync takes 5 ms a file, of which a run writes thousands): after a power cut the newest files may be empty.
"""
import fcntl
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from util.errors import OF_THE_SYSTEM, InputError

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"}


@contextmanager
def atomic_write(path: str | Path, folder: Path | None = None) -> Iterator[Path]:
    """Yield a path in `folder`, or beside `path`, to write to; it takes the place of `path` when the block ends without an exception.

    The suffix is kept (writers choose a format by it). If the block raises, the temporary file goes and an earlier `path` stays as it was;
    what a killed process left there goes, too.
    Raises InputError where `path` is no regular file: a device, a link or a directory is not replaced.
    """
    path = Path(path)
    refuse_special(path)
    folder = folder or path.parent
    _clear_leftovers(path, folder)
    temporary = folder / temporary_name(path)
    descriptor = create(temporary)
    try:
        with suppress(OSError):  # where there are no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield temporary
        refuse_special(path)
        os.replace(temporary, path)
    except OSError as error:
        if error.errno in OF_THE_SYSTEM and error.filename is None:
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)
        os.close(descriptor)


def lock(descriptor: int, why: str) -> None:
    """Lock an open file until it is closed, where its file system has locks; raises InputError(why) if another process has it locked."""
    with suppress(OSError):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(why) from None


@contextmanager
def locked(path: Path, why: str) -> Iterator[None]:
    """Keep all other processes out of blocks with this `path`, a file that is there meanwhile; raises InputError(why) if one is in one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        lock(descriptor, why)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def temporary_name(path: Path) -> str:
    """Return a name, another each time, for what is to become `path`."""
    return f".{path.stem[:40]}.{secrets.token_hex(4)}.part{path.suffix}"


def _clear_leftovers(path: Path, folder: Path) -> None:
    """Delete the temporary files of `path` that no process holds locked."""
    form = re.compile(re.escape(f".{path.stem[:40]}.") + "[0-9a-f]{8}" + re.escape(f".part{path.suffix}"))
    with suppress(OSError):  # there is no such folder, or no list of it to be had
        for name in os.listdir(folder):
            if form.fullmatch(name):
                with suppress(OSError), open(os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)) as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    (folder / name).unlink()


def create(path: str | Path) -> int:
    """Return a file descriptor of a new, empty file; FileExistsError if anything has its name, be it a link that leads nowhere."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)


def write_all(descriptor: int, data: bytes) -> None:
    """Write bytes, all of them, or raise the OSError that stopped it."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def refuse_special(path: Path) -> None:
    """Raise InputError if `path` is there and no regular file."""
    try:
        mode = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    if not stat.S_ISREG(mode):
        kind = "a link" if stat.S_ISLNK(mode) else "a directory" if stat.S_ISDIR(mode) else "a device, a pipe or a socket"
        raise InputError(f"{path} is {kind}, which is not replaced; give the name of a file")


class GrowingFile:
    """A new text file that is whole after every `append`, whatever ends the process then: head, all that was appended, tail.

    An append that fails (a full disk, Ctrl-C) leaves what was there before it. Nothing is buffered: others may read along.
    """

    def __init__(self, path: str | Path, head: str = "", tail: str = "", descriptor: int | None = None):
        """descriptor: of the file where it is open already, and empty."""
        self.path, self._file = path, open(create(path) if descriptor is None else descriptor, "wb", buffering=0)
        self._tail, self._whole = tail.encode(), 0
        self.append(head)

    def append(self, text: str) -> None:
        """Write `text` before the tail."""
        data = text.encode()
        try:
            self._write(data + self._tail)
            self._whole += len(data)
        except BaseException as error:
            self._write(self._tail)  # where it was before: a full disk has room for it
            self._file.truncate()
            if isinstance(error, OSError):
                error.filename = str(self.path)
            raise

    def _write(self, data: bytes) -> None:
        self._file.seek(self._whole)
        write_all(self._file.fileno(), data)

    def close(self) -> None:
        """Close the file; it needs nothing more."""
        self._file.close()
