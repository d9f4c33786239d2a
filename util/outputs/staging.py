"""What a run makes stands beside its place until the run ends, is recorded name by name, and is then put there whole.

    OUT               what an earlier run left; it stays whole until the new results take its place
    OUT.part          where a run writes: tables can be read there as they grow (`tail -f OUT.part/events.jsonl`)
    OUT/manifest.txt  every file and directory (these end in /) that the run made, a line each, written before the thing itself is

OUT and OUT.part are refused in one line if they hold what no manifest names (util.outputs.manifest): a killed run leaves an OUT.part that
the next run recognizes and clears. Locks (flock) keep a second run away meanwhile.
"""
import contextlib
import ctypes
import errno
import os
from pathlib import Path

from util.errors import InputError
from util.files import GrowingFile, create, lock, refuse_special, write_all
from util.outputs.manifest import FIRST_LINE, MANIFEST, refuse_foreign, remove, remove_empty, walk
from util.signals import uninterrupted

SUMMARY = "summary.json"  # written last: without it a run is not finished
AT_FDCWD, RENAME_EXCHANGE = -100, 2  # of Linux: <fcntl.h>, renameat2(2)


class Staged:
    """What is written to `path` and takes its `place` at the end of a `with` block.

    It does so if the block ends well, or by Ctrl-C with a whole frame. After any other exception what was there before stays, and what
    was finished is kept in `path`, or in its place if there was nothing; without a whole frame it is deleted.
    frames: how many whole frames there are, counted by who writes them.
    """

    def __init__(self, place: Path):
        self.place, self.path, self.frames, self._locks = place, Path(f"{place}.part"), 0, []

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace) -> None:
        try:
            with uninterrupted():
                self._end(error)
        finally:
            self._unlock()

    def _end(self, error: BaseException | None) -> None:
        earlier = self._earlier()
        if error is None or (self.frames and (isinstance(error, KeyboardInterrupt) or not earlier)):
            try:
                self._publish(earlier)
            except (OSError, InputError) as problem:
                line = problem.strerror if isinstance(problem, OSError) else problem
                raise InputError(f"{self.place} has changed meanwhile ({line}); the results are in {self.path}") from None
        elif not self.frames:
            self._discard()
        elif isinstance(error, InputError | OSError):
            line = f"{error.filename or self.path}: {error.strerror}" if isinstance(error, OSError) else error
            raise InputError(f"{line}; {self.place} is as it was, and what was finished is in {self.path}") from None

    def _lock(self, path: Path, flags: int) -> int:
        """Return a descriptor of `path`, locked until the end. Raises InputError if another run has it."""
        while True:
            descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
            self._locks.append(descriptor)
            try:
                lock(descriptor, f"{self.place} is being written by another run; wait for it, or write elsewhere")
            except InputError:
                os.close(self._locks.pop())
                raise
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.lstat(path)):
                    return descriptor
            os.close(self._locks.pop())  # it was of a run that has just ended

    def _unlock(self) -> None:
        while self._locks:
            os.close(self._locks.pop())


class StagedTable(Staged):
    """A table that grows by itself beside its place, `predictions.csv.part`: `staged.file.append(lines)`.

    Raises InputError if `place` or the part is there and does not begin with `first_line`, and so is none of ours.
    """

    def __init__(self, place: Path, first_line: str):
        super().__init__(place)
        self._first_line = first_line
        try:
            refuse_other_table(place, first_line)
            part = self._lock(self.path, os.O_RDWR | os.O_CREAT)
            refuse_other_table(self.path, first_line)
            os.ftruncate(part, 0)
            self.file = GrowingFile(self.path, first_line, descriptor=os.dup(part))
        except BaseException:
            self._unlock()
            raise

    def _earlier(self) -> bool:
        return os.path.lexists(self.place)

    def _publish(self, earlier: bool) -> None:
        refuse_other_table(self.place, self._first_line)
        os.replace(self.path, self.place)

    def _discard(self) -> None:
        self.path.unlink(missing_ok=True)


def refuse_other_table(path: Path, first_line: str) -> None:
    """Raise InputError if there is a file at `path` that doesn't begin with `first_line`, so that who wrote it is another."""
    refuse_special(path)
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
        if file.read(len(first_line)) not in (b"", first_line.encode()):
            raise InputError(f"{path} is not of a run like this one; move it, or write elsewhere with --save DIR")


def lies_in_results(path: Path, place: Path) -> bool:
    """Whether a path is in what a run replaces: results at `place`, or where they are built."""
    return any(path.resolve().is_relative_to(mine.resolve()) for mine in (place, Path(f"{place}.part")))


class Staging(Staged):
    """Makes a results directory: `with Staging(OUT) as staging: staging.write("masks/000001.png", data); staging.frames += 1`.

    Everything is written in `staging.path`, OUT.part, which takes the place of OUT in one step where the file system has one.
    Raises InputError if OUT or OUT.part holds what no run has recorded, or is in use, a link, a mount point, above the current directory,
    or above `source`, what is read meanwhile.
    """

    def __init__(self, directory: str | Path, source: str | Path | int | None = None):
        place = Path(os.path.abspath(directory))
        super().__init__(place if Path(directory).name in ("", "..") else Path(directory))
        self._aside = Path(f"{self.place}.old")  # for a moment, where _exchange needs two steps
        try:
            self._refuse_place(place, source)
            self._prepare()
        except BaseException as error:
            if self._locks:
                with contextlib.suppress(OSError):
                    self.path.rmdir()  # if it is empty
            self._unlock()
            if isinstance(error, OSError):
                raise InputError(f"{error.filename or directory}: {error.strerror}; choose another directory") from None
            raise

    def _refuse_place(self, place: Path, source: str | Path | int | None) -> None:
        for path in (self.place, self.path):
            if path.is_symlink():
                raise InputError(f"{path} is a link, which is not followed; give the directory that it leads to")
            if path.exists() and not os.access(path, os.W_OK):  # else it could be replaced all the same, but not deleted
                raise InputError(f"{path} is read-only; make it writable, or choose another directory")
        if os.path.ismount(place) or Path.cwd().is_relative_to(place.resolve()):
            what = "a mount point" if os.path.ismount(place) else "the current directory or above it"
            raise InputError(f"{self.place} is {what} and cannot be replaced; give a directory in it, such as {place / 'run'}")
        if source is not None and (path := Path(str(source))).exists():  # a camera's number is no path
            if lies_in_results(path, self.place):
                raise InputError(f"{source} lies in {self.place}, which would be replaced; choose another directory")

    def _prepare(self) -> None:
        self.place.parent.mkdir(parents=True, exist_ok=True)
        while not self._locks:
            self.path.mkdir(exist_ok=True)
            with contextlib.suppress(FileNotFoundError):  # removed since, by a run that has just ended
                self._lock(self.path, os.O_DIRECTORY)
        if os.path.lexists(self._aside) and not os.path.lexists(self.place):
            os.rename(self._aside, self.place)  # a run was killed in the middle of _exchange
        if os.path.lexists(self.place):
            self._lock(self.place, os.O_DIRECTORY)
        if self._earlier():
            refuse_foreign(self.place, changed=True)
        for leftover in (self.path, self._aside):
            if os.path.lexists(leftover):
                refuse_foreign(leftover)
                remove(leftover, itself=leftover != self.path)
        self._manifest = GrowingFile(self.path / MANIFEST, FIRST_LINE)

    # Writing

    def record(self, *names: str) -> None:
        """Record what is going to be made in `path`: files, and directories with a slash at the end."""
        self._manifest.append("".join(f"{name}\n" for name in names))

    def mkdir(self, name: str) -> None:
        """Make a directory."""
        self.record(f"{name}/")
        (self.path / name).mkdir()

    def new(self, name: str) -> Path:
        """Return the path of a file that is going to be made, recorded."""
        self.record(name)
        return self.path / name

    def at(self, name: str) -> str:
        """Return the path of a name, as text: a Path interns its parts, and Python's table of these grows in a run of many frames."""
        return f"{self.path}/{name}"

    def write(self, files: dict[str, bytes]) -> None:
        """Make files of these names that hold these bytes: all, or none if it fails."""
        self.record(*files)
        made = []
        try:
            for name, data in files.items():
                _write(self.at(name), data)
                made.append(name)
        except BaseException:
            self.unlink(*made)
            raise

    def unlink(self, *names: str) -> None:
        """Delete files that were recorded, if they are there."""
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.at(name))

    # The end

    def _earlier(self) -> bool:
        return os.path.lexists(self.place) and not all(entry.is_dir(follow_symlinks=False) for entry in walk(self.place))

    def _publish(self, earlier: bool) -> None:
        os.utime(self.path / MANIFEST)  # nothing of ours is younger
        if not earlier:
            if os.path.lexists(self.place):
                remove_empty(self.place)
            os.rename(self.path, self.place)
            return
        refuse_foreign(self.place, changed=True)
        if not exchange(self.path, self.place):
            os.rename(self.place, self._aside)
            os.rename(self.path, self.place)
            os.rename(self._aside, self.path)
        with contextlib.suppress(OSError):  # what stays is the next run's to clear
            remove(self.path)  # the earlier results

    def _discard(self) -> None:
        remove(self.path)

    def _unlock(self) -> None:
        if manifest := getattr(self, "_manifest", None):
            manifest.close()
        super()._unlock()


def _write(path: str, data: bytes) -> None:
    descriptor = create(path)
    try:
        write_all(descriptor, data)
    except BaseException as error:
        os.unlink(path)
        if isinstance(error, OSError):
            error.filename = path
        raise
    finally:
        os.close(descriptor)


def exchange(one: Path, other: Path) -> bool:
    """Return whether two paths have changed places in one step; False where system or file system has no such step."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)  # Linux
    if call is None:
        return False
    if call(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EXDEV):
        raise OSError(code, os.strerror(code), str(other))
    return False
