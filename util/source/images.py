"""Image files, single ones and a directory of them as the frames of a clip."""
import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # read when cv2 opens its first video; -8 is FFmpeg's "quiet"
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(1 << 26))  # a small file may claim to be a huge image
import cv2  # noqa: E402
import numpy as np  # noqa: E402

from util.errors import InputError, quiet, say  # noqa: E402
from util.files import IMAGE_SUFFIXES  # noqa: E402

cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def list_images(directory: Path) -> list[Path]:
    """The image files of a directory by name, in which numbers count as numbers: 1, 2, 10 (hidden files left out)."""
    files = (path for path in Path(directory).iterdir() if not path.name.startswith("."))
    return sorted((path for path in files if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()), key=_natural)


def _natural(path: Path) -> tuple[list[str | int], str]:
    parts = re.split(r"([0-9]+)", path.name)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], path.name


def read_bgr(path: Path) -> np.ndarray:
    """Return an image file as BGR uint8 (H, W, 3); InputError naming it if it is broken or cut off."""
    return _read(path, cv2.IMREAD_COLOR)


def _read(path: Path, flags: int) -> np.ndarray:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    cut_off, image = _is_cut_off(data), None
    if data and not cut_off:
        with quiet(), contextlib.suppress(cv2.error, MemoryError):
            image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if image is None:
        problem = "is empty" if not data else "is cut off" if cut_off else "cannot be read as an image"
        raise InputError(f"{path} {problem}")
    return image


def _is_cut_off(data: bytes) -> bool:
    if data.startswith(b"\x89PNG\r\n\x1a\n"):  # OpenCV makes room for as much as a chunk says that it holds: 2 GiB
        at, last = 8, b""
        while at + 8 <= len(data) and last != b"IEND":
            last = data[at + 4 : at + 8]
            at += 12 + int.from_bytes(data[at : at + 4])
        return at > len(data)
    # OpenCV fills the missing part of a JPEG with grey. Neither marker can occur inside the compressed data.
    return data.startswith(b"\xff\xd8") and data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda")


def write_image(path: Path, image: np.ndarray) -> None:
    """Write BGR or grey uint8 in the format of the suffix; OSError on a full disk, which cv2.imwrite does not notice."""
    path.write_bytes(cv2.imencode(path.suffix, image)[1])


def read_frames(name: str, paths: Sequence[Path]) -> Iterator[tuple[None, np.ndarray]]:
    """Yield (None, BGR uint8) of every image; InputError naming the first that is broken or of another size.

    16-bit images that use a small part of their range, as thermal cameras write 12 and 14 bits, are stretched, all alike; stderr says so.
    """
    levels, size = _levels(paths), None
    if levels:
        say(f"{name}: 16-bit images that use little of their range; shown from black {levels[0]:.0f} to white {levels[1]:.0f}")
    for path in paths:
        image = _stretch(_read(path, ANY_DEPTH), *levels) if levels else read_bgr(path)
        size = size or image.shape
        if image.shape != size:
            found, expected = (f"{shape[1]}x{shape[0]}" for shape in (image.shape, size))
            raise InputError(f"{path} is {found} pixels, but {paths[0].name} is {expected}; all must have one size")
        yield None, image


ANY_DEPTH = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH


def _levels(paths: Sequence[Path], samples: int = 9) -> tuple[float, float] | None:
    """The values to show as black and white for 16-bit images in which no quarter of the range is used, by a sample; else None."""
    if _read(paths[0], ANY_DEPTH).dtype != np.uint16:
        return None
    values = []
    for path in paths[:: -(-len(paths) // samples)]:
        with contextlib.suppress(InputError):  # raised when it is that one's turn
            image = _read(path, ANY_DEPTH)
            values.append(image[:: 1 + len(image) // 512, :: 1 + len(image) // 512].ravel())
    low, high = np.percentile(np.concatenate(values), (0.1, 99.9))  # beyond lie the dead pixels of thermal cameras
    margin = max((high - low) / 8, (256 - (high - low)) / 2)
    return (low - margin, high + margin) if high - low < 1 << 14 else None


def _stretch(image: np.ndarray, black: float, white: float) -> np.ndarray:
    scale = 255 / (white - black)
    if image.dtype == np.uint8:  # one among the 16-bit ones
        return image
    return np.clip(image * np.float32(scale) + np.float32(0.5 - black * scale), 0, 255).astype(np.uint8)
