"""Fetches published weights of the full-precision networks into state_dicts/; nothing that is there already is replaced.

    python3 cifar10_download.py                           from the known addresses, which may be dead
    python3 cifar10_download.py --url URL --sha256 HEX    another copy of that zip
    python3 cifar10_download.py --zip FILE                a copy that a browser has fetched
"""
import argparse
import hashlib
import os
import re
import shutil
import stat
import sys
import urllib.error
import urllib.request
import zipfile
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
if __name__ == "__main__":
    from util.cli import guard

    guard()  # Ctrl-C while the rest loads

import networks  # noqa: E402
import torch  # noqa: E402
from tqdm import tqdm  # noqa: E402

from util.cli import Parser, run  # noqa: E402
from util.errors import InputError  # noqa: E402
from util.files import atomic_write  # noqa: E402

# One zip of 933 MB, by huyvnphan/PyTorch_CIFAR10; no checksum was published (None). The first address has been reported dead.
SOURCES = [
    ("https://rutgers.box.com/shared/static/gkw08ecs797j2et1ksmbg1w5t3idf5r5.zip", None),
    ("https://drive.usercontent.google.com/download?id=17fmN8eQdLpq2jIMQ_X0IXDPXfI9oVWgq&export=download&confirm=t", None),
]
FOLDER = "state_dicts"  # of the files in the zip
MAX_BYTES = 2_000_000_000  # of a zip
TIMEOUT_S = 20
ATTEMPTS = 50  # at going on where a connection broke, as long as each brings something
CHUNK = 1 << 20


class Broken(Exception):
    """A connection that failed or ended early; another attempt may go on from there."""


# ---- Fetching --------------------------------------------------------------------------------------------------------
def web():
    """Return what opens addresses of http and https alone, wherever a server sends it: urllib's own would open ftp too."""
    opener, request = urllib.request.OpenerDirector(), urllib.request
    for handler in (request.ProxyHandler, request.HTTPHandler, request.HTTPSHandler, request.HTTPRedirectHandler,
                    request.HTTPErrorProcessor, request.HTTPDefaultErrorHandler, request.UnknownHandler):  # fmt: skip
        opener.add_handler(handler())
    return opener


def connect(url, start):
    """Return the response for the bytes of `url` from `start` on, also where it is 416: there are none."""
    try:
        return web().open(urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {}), timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == 416 and start:
            return error
        raise InputError(f"HTTP {error.code} {one_line(error.reason)}") from error
    except Exception as error:  # OSError and HTTPException where there is no server, any other for an answer that is none
        raise Broken(one_line(getattr(error, "reason", error))) from error


def one_line(reason):
    return " ".join(str(reason).split())[:200] or type(reason).__name__


def chunks(response):
    try:
        while chunk := response.read(CHUNK):
            yield chunk
    except Exception as error:  # likewise
        raise Broken(one_line(error)) from error


def fetch_rest(url, path):
    """Append to `path` what it lacks of `url`, or write all of it where the server sends all.

    Raises Broken where the connection ends too early, InputError where the server sends something else.
    """
    start = size_of(path)
    with connect(url, start) as response:
        part = response.headers.get("Content-Range", "")
        if response.status == 416 and part == f"bytes */{start}":
            return
        if response.status not in (206, 416):
            start = 0
        elif not part.startswith(f"bytes {start}-"):
            path.unlink(missing_ok=True)
            raise InputError("the server sent another part than the one asked for; run this again to start over")
        length = response.headers.get("Content-Length", "")
        total = start + int(length) if length.isdecimal() and len(length) < 20 else None
        bar = tqdm(total=total, initial=start, desc="downloading", unit="B", unit_scale=True, leave=False, disable=None)
        with bar, open(path, "ab" if start else "wb") as file:
            for chunk in chunks(response):
                if start + len(chunk) > MAX_BYTES:
                    path.unlink()
                    raise InputError(f"more than {MAX_BYTES / 1e6:.0f} MB; that is not the zip of weights")
                start += file.write(chunk)
                bar.update(len(chunk))
    if total is not None and start < total:
        raise Broken(f"the connection closed at {start} of {total} bytes")


def fetch(url, path):
    """Write all of `url` to `path`, going on where an earlier attempt broke off, in this run or another."""
    for _ in range(ATTEMPTS):
        before = size_of(path)
        try:
            return fetch_rest(url, path)
        except Broken as error:
            reason = str(error)
        if size_of(path) <= before:
            break
    if size := size_of(path):
        raise InputError(f"{reason}; {size} bytes are kept, run this again to go on")
    path.unlink(missing_ok=True)
    raise InputError(reason)


def size_of(path):
    return path.stat().st_size if path.exists() else 0


def verify(path, sha256):
    """Print the sha256 of a file; raises InputError if another one is expected."""
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 is None:
        print(f"sha256 {found}, with nothing to compare it to")
    elif found != sha256:
        raise InputError(f"its sha256 is {found}, expected {sha256}; damaged, or not the file meant")


# ---- Unpacking -------------------------------------------------------------------------------------------------------
def members(archive):
    """Return {network name: its entry} of a zip; raises InputError if one entry is a link or leads out of the zip's folder."""
    found = {}
    for info in archive.infolist():
        path = PurePosixPath(info.filename)
        kind = stat.S_IFMT(info.external_attr >> 16)  # 0 where the zip was not made on Unix
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR) or path.is_absolute() or ".." in path.parts or re.search(r"\\|^\w:", info.filename):
            raise InputError(f"refused: {info.filename[:80]!r} in it is a link or leads outside")
        if path.parent == PurePosixPath(FOLDER) and path.suffix == ".pt" and path.stem in networks.NETWORKS and not info.is_dir():
            if found.setdefault(path.stem, info) is not info or info.flag_bits & 1:
                raise InputError(f"refused: {info.filename} is in it twice, or needs a password")
    if not found:
        raise InputError(f"no {FOLDER}/NAME.pt of a known network is in it")
    return found


def max_bytes(name):
    """Return how large a file of weights of the network `name` may be."""
    options = [{}, *(options for start, *_, options in networks.VARIANTS if name.startswith(start))]
    with torch.device("meta"):
        states = [networks.NETWORKS[name](**chosen).state_dict() for chosen in options]
    largest = max(sum(tensor.nbytes for tensor in state.values()) for state in states)
    return largest + largest // 20 + 2 * CHUNK  # names, shapes and padding


def unpack(path, target):
    """Write the weights in the zip at `path` as target/NAME.pt, each one after it has been loaded without unpickling code."""
    try:
        with zipfile.ZipFile(path) as archive:
            for name, info in sorted(members(archive).items()):
                unpack_one(archive, info, name, target / f"{name}.pt")
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{error.filename or path}: {error.strerror or error}") from error
    except Exception as error:  # BadZipFile, zlib.error, EOFError, NotImplementedError, UnicodeError, …
        page = " but a web page" if path.read_bytes()[:512].lstrip()[:1] == b"<" else ""
        raise InputError(f"not a readable zip{page} ({error})") from error


def unpack_one(archive, info, name, destination):
    if destination.exists():
        print(f"{destination}: already there, stays")
        return
    if info.file_size > (most := max_bytes(name)):
        raise InputError(f"refused: {info.filename} would become {info.file_size} bytes, {name} has at most {most}")
    with atomic_write(destination) as temporary:
        with archive.open(info) as packed, open(temporary, "wb") as file:  # never more than file_size
            shutil.copyfileobj(packed, file)
        if zipfile.is_zipfile(temporary):  # as torch.save writes it; a bomb may hide in there too
            with zipfile.ZipFile(temporary) as inner:
                if sum(entry.file_size for entry in inner.infolist()) > most:
                    raise InputError(f"refused: {info.filename} would unfold to more than {most} bytes")
        try:
            networks.load(name, temporary)
        except InputError as error:
            raise InputError(str(error).replace(str(temporary), info.filename)) from error
    print(f"written: {destination}")


# ---- The story -------------------------------------------------------------------------------------------------------
def sha256_text(text):
    if not re.fullmatch("[0-9a-fA-F]{64}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no sha256; expected 64 hexadecimal digits")
    return text.lower()


def is_address(url):
    """Return whether `url` is one of http or https with a host, and with no password, which urllib can't send and messages would show."""
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc and parts.port != 0
    except ValueError:
        return False


def parse_args(argv=None):
    parser = Parser(description="Fetch published weights of the full-precision networks into state_dicts/.")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--url", help="of a zip with state_dicts/NAME.pt in it (default: the known addresses, one after the other)")
    source.add_argument("--zip", type=Path, metavar="FILE", help="such a zip, fetched by other means")
    parser.add_argument("--sha256", type=sha256_text, metavar="HEX", help="what the zip's checksum must be")
    args = parser.parse_args(argv)
    if args.url and not is_address(args.url):
        parser.error("argument --url: expected http:// or https://, a host and no password; a file can be given with --zip")
    if args.zip and not args.zip.is_file():
        parser.error(f"{args.zip}: no such file")
    return args


def fetch_and_unpack(url, sha256, target):
    """Put the weights at `url` into the folder `target`; a file that turned out wrong is not kept."""
    part = target / f"{hashlib.sha256(os.fsencode(url)).hexdigest()[:12]}.zip.part"  # one for each address
    fetch(url, part)
    try:
        verify(part, sha256)
        unpack(part, target)
    except InputError:
        part.unlink()
        raise
    part.unlink()


def main(argv=None):
    args = parse_args(argv)
    target = networks.STATE_DICTS
    target.mkdir(exist_ok=True)
    if args.zip:
        try:
            verify(args.zip, args.sha256)
            return unpack(args.zip, target)
        except InputError as error:
            raise InputError(f"{args.zip}: {error}") from error
    failures = []
    for url, sha256 in [(args.url, None)] if args.url else SOURCES:
        try:
            return fetch_and_unpack(url, args.sha256 or sha256, target)
        except InputError as error:
            failures.append(f"{urlsplit(url).netloc}: {error}")
    ways = f"train a network with main.py --classifier NAME, or put NAME.pt into {target} by hand"
    raise InputError(f"no weights fetched ({'; '.join(failures)}); {ways}")


if __name__ == "__main__":
    run(main)
