"""Which files of a results directory are ours: its manifest names each, a line, written before the thing itself is made.

What a manifest names is all that is ever deleted, and only while it is what it was: a regular file, not a link, not changed since the
run ended.
"""
import contextlib
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from util.errors import InputError
from util.files import atomic_write

MANIFEST = "manifest.txt"
FIRST_LINE = "fastMCD results 1: what this run made, and the next one may delete\n"
NAME = re.compile(r"(?!\.+(/|$))[\w.-]+(/([\w.-]*[\w-])?)?", re.ASCII)  # a/b at most; no way up
ELSEWHERE = "choose an empty or a new directory"


def recorded(directory: Path) -> list[str]:
    """Return the names in a directory's manifest and its own; none if there is no manifest. Raises InputError if it is none of ours."""
    path = Path(directory) / MANIFEST
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), encoding="utf-8") as file:
            first, *names = file.read().split("\n")
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError):
        first, names = "none", []
    names = names[:-1]  # the last line is empty, or was cut off before anything of that name was made
    if not FIRST_LINE.startswith(first) or any(NAME.fullmatch(name) is None for name in names):
        raise InputError(f"{path} is not a manifest of this program; {ELSEWHERE}")
    return [*names, MANIFEST]


@contextlib.contextmanager
def adopted(directory: Path, name: str) -> Iterator[Path]:
    """Yield a path to write to, which becomes `name` in a directory: one of its own if that holds finished results and nothing foreign."""
    try:
        names = recorded(directory)
        refuse_foreign(directory, changed=True)
    except (InputError, OSError):
        names = []
    if names and name not in names:
        with open(directory / MANIFEST, "a") as file:
            file.write(f"{name}\n")
    with atomic_write(directory / name, directory.absolute().parent if names else None) as temporary:
        yield temporary
        if names:
            stamp = (directory / MANIFEST).stat().st_mtime_ns
            os.utime(temporary, ns=(stamp, stamp))  # nothing of theirs is younger


def refuse_foreign(directory: Path, changed: bool = False) -> None:
    """Raise InputError if a directory holds what its manifest doesn't name; `changed`: or what is younger than the manifest."""
    names = set(recorded(directory))
    stamp = (directory / MANIFEST).lstat().st_mtime_ns if names else 0
    for entry in walk(directory):
        name = os.path.relpath(entry.path, directory)
        known = f"{name}/" if entry.is_dir(follow_symlinks=False) else name if entry.is_file(follow_symlinks=False) else None
        if known not in names:
            raise InputError(f"{directory} holds {name!r}, which no run has recorded as its own; {ELSEWHERE}")
        if changed and known == name and entry.stat(follow_symlinks=False).st_mtime_ns > stamp:
            raise InputError(f"{entry.path} was changed after the run that made it; {ELSEWHERE}")


def walk(directory: str | Path) -> Iterator[os.DirEntry]:
    """Yield what is in a directory, at any depth; no link is followed."""
    for entry in os.scandir(directory):
        yield entry
        if entry.is_dir(follow_symlinks=False):
            yield from walk(entry.path)


def remove_empty(directory: str | Path) -> None:
    """Delete a directory in which there are only directories; OSError where there is more."""
    for folder, _, _ in os.walk(directory, topdown=False):
        os.rmdir(folder)


def remove(directory: Path, itself: bool = True) -> None:
    """Delete what a directory's manifest names, the manifest last, then the directory if it is empty; nothing through a link."""
    names = recorded(directory)
    with contextlib.ExitStack() as stack:
        folders = {"": _open_folder(stack, directory)}
        for name in names:
            if name.endswith("/"):
                with contextlib.suppress(OSError):  # it was not made, or isn't ours any more
                    folders[name[:-1]] = _open_folder(stack, name[:-1], dir_fd=folders[""])
        for name in names:
            folder, _, leaf = name.rpartition("/")
            if leaf and folder in folders and name != MANIFEST:
                with contextlib.suppress(FileNotFoundError):
                    if stat.S_ISREG(os.stat(leaf, dir_fd=folders[folder], follow_symlinks=False).st_mode):
                        os.unlink(leaf, dir_fd=folders[folder])
        for name in folders.keys() - {""}:
            with contextlib.suppress(OSError):  # it holds something else
                os.rmdir(name, dir_fd=folders[""])
        if os.listdir(folders[""]) == [MANIFEST]:
            os.unlink(MANIFEST, dir_fd=folders[""])
    if itself:
        with contextlib.suppress(OSError):
            os.rmdir(directory)


def _open_folder(stack: contextlib.ExitStack, path: str | Path, **where) -> int:
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, **where)
    stack.callback(os.close, folder)
    return folder
