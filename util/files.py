"""Files that are whole at any time, or not there."""
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"}


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to; it takes the place of `path` when the block ends without an exception.

    The suffix is kept (writers choose a format by it). If the block raises, the temporary file goes and an earlier `path` stays as it was.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


class GrowingFile:
    """A text file that is whole after every `append`, whatever ends the process then: head, all that was appended, tail.

    An append that fails (a full disk, Ctrl-C) leaves what was there before it. Nothing is buffered: others may read along.
    """

    def __init__(self, path: str | Path, head: str = "", tail: str = ""):
        self._file = open(path, "wb", buffering=0)
        self._tail, self._whole = tail.encode(), 0
        self.append(head)

    def append(self, text: str) -> None:
        """Write `text` before the tail."""
        data = text.encode()
        try:
            self._write(data + self._tail)
            self._whole += len(data)
        except BaseException:
            self._write(self._tail)  # where it was before: a full disk has room for it
            self._file.truncate()
            raise

    def _write(self, data: bytes) -> None:
        self._file.seek(self._whole)
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) :]

    def close(self) -> None:
        """Close the file; it needs nothing more."""
        self._file.close()
