"""Bad input: one clear line for whatever a reader trips over, and names, addresses and texts of others in a form that can be shown."""
import contextlib
import errno
import os
import re
import sys
import threading
import warnings
from collections.abc import Iterator
from urllib.parse import urlsplit

MAX_TEXT = 1 << 26  # bytes of a text file that is read whole
# What a disk or a limit of the system raises in the middle of writing, without a file's name.
OF_THE_SYSTEM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES, errno.EMFILE, errno.ENFILE}


class InputError(Exception):
    """Something a user gave can't be used; the message is one line: the thing, what was found, what to do."""


# ---- Showing what others wrote ---------------------------------------------------------------------------------------
def printable(text: object) -> str:
    """Return `text` in one line with all spelled out that no terminal or font can show: control characters, bytes that are not UTF-8."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))


def redact_url(url: str) -> str:
    """Return a URL without the user, password and query it may hold: fit for messages and files."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return f"{url.partition(':')[0]}://(malformed)"
    host = parts.netloc.rpartition("@")[2]
    if ":" in host and "@" in url.partition(parts.netloc)[2]:  # a / ? or # in the password has ended the host
        return printable(f"{parts.scheme}://{url.rpartition('@')[2].partition('?')[0]}")
    return printable(parts._replace(netloc=host, query="", fragment="").geturl())


def redact(text: str) -> str:
    """Return a text with each URL in it as `redact_url` has it."""
    return re.sub(r"\b[a-zA-Z][\w+.-]*://\S*[@?#]\S*", lambda found: redact_url(found[0]), text)


def say(line: object) -> None:
    """Write a line to stderr, above a progress bar. That its reader is gone, or the disk where it goes is full, ends nothing."""
    from tqdm import tqdm  # here: what has nothing to say does without

    with contextlib.suppress(OSError, ValueError):
        tqdm.write(str(line), file=sys.stderr)


# ---- Reading what others wrote ---------------------------------------------------------------------------------------
@contextlib.contextmanager
def reading(path: str | os.PathLike, kind: str) -> Iterator[None]:
    """A reader's one guard: whatever a parser raises on the file `path`, be it RecursionError, is the InputError that it is no `kind`.

    What a parser says on stderr, warnings too, is not shown: it would stand there as a second line.
    """
    try:
        with warnings.catch_warnings(action="ignore"), quiet():
            yield
    except InputError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno:  # the system's, not a parser's
            raise InputError(f"{error.filename or path}: {error.strerror}") from error
        reason = f"{type(error).__name__} {error}".strip().partition("\n")[0]
        raise InputError(f"{path} is no {kind}: {reason[:200]}") from error


_quiet = threading.Lock()
_stderr: list[int] = []  # what stderr was, once for each `quiet` that goes on


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drop what is written to the process's stderr meanwhile, by any thread, as libtiff, libjpeg and FFmpeg do by themselves."""
    with _quiet:
        _stderr.append(_stderr[0] if _stderr else _mute())
    try:
        yield
    finally:
        with _quiet:
            saved = _stderr.pop()
            if not _stderr and saved >= 0:  # the last one of several threads'
                os.dup2(saved, 2)
                os.close(saved)


def _mute() -> int:
    """Let stderr lead nowhere; return what it was, -1 if there is none."""
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        saved = os.dup(2)
        os.dup2(null, 2)
        return saved
    except OSError:
        return -1
    finally:
        os.close(null)


def read_text(path: str | os.PathLike, kind: str, most: int = MAX_TEXT, errors: str = "strict") -> str:
    """Return the text of a file, without a byte order mark; InputError if it is not UTF-8, or holds over `most` bytes (or never ends).

    errors: what to do with bytes that are not UTF-8, as for bytes.decode.
    """
    with reading(path, kind), open(path, "rb") as file:
        data = file.read(most + 1)
        if len(data) > most:
            raise InputError(f"{path} is no {kind}: it has more than {most} bytes")
        return data.decode("utf-8-sig", errors)
