"""Frames from a file, a directory of images, a camera, a URL or stdin, and one clear line when something is wrong with them."""
import contextlib
import itertools
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # read when cv2 opens its first video; -8 is FFmpeg's "quiet"
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(1 << 26))  # a small file may claim to be a huge image
import cv2  # noqa: E402
import numpy as np  # noqa: E402

from util.cli import InputError  # noqa: E402
from util.files import IMAGE_SUFFIXES  # noqa: E402
from util.source import stream  # noqa: E402
from util.source.live import Live  # noqa: E402

cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

Timed = tuple[float | None, np.ndarray]  # seconds by the source's clock if it has one, BGR uint8 (H, W, 3)
MIN_SIZE, MAX_SIZE = (32, 32), (4096, 2160)  # width, height: what the detector takes


class Video:
    """Frames as BGR uint8 (H, W, 3), contiguous, by iterating; a second iteration starts over.

    name: what messages call it. width, height: pixels, the same for every frame. fps: frames per second (25 where the
    source has none). frame_count: frames announced by the source, None if unknown. Of the latest iteration: frames_read, how
    many it has yielded; seconds, the time of the latest one from the start of the source, always growing (by the source's own
    clock, so it is right at a variable frame rate; where it has none, by fps); and of a live source (see open_video) dropped,
    the frames that nobody took in time, and reconnects, how often it came back after a loss.
    InputError, also while iterating, if a frame is broken or of another size, and at the end if the source has fewer frames
    than it announced.
    """

    def __init__(self, name: str, start: Callable[[], Iterator[Timed]], fps: float = 0, frame_count: float = 0):
        self.name = name
        self.fps = fps if 0 < fps < 1000 else 25.0
        self.frame_count = int(frame_count) if 0 < frame_count < 1e9 else None
        self.frames_read, self.seconds = 0, 0.0
        self._start = start
        self._frames = start()
        first = next(self._frames, None)
        if first is None:
            raise InputError(f"{name} holds no frame that can be read")
        self.height, self.width = first[1].shape[:2]
        if not (MIN_SIZE[0] <= self.width <= MAX_SIZE[0] and MIN_SIZE[1] <= self.height <= MAX_SIZE[1]):
            limits = "{}x{} to {}x{}".format(*MIN_SIZE, *MAX_SIZE)
            raise InputError(f"{name} has frames of {self.width}x{self.height} pixels; {limits} can be used")
        self._first = [first]  # read already, and not yet yielded

    dropped = property(lambda self: getattr(self._frames, "dropped", 0))
    reconnects = property(lambda self: getattr(self._frames, "reconnects", 0))

    def __iter__(self) -> Iterator[np.ndarray]:
        first, self._first = self._first, []
        if not first:
            self._frames.close()
            self._frames = self._start()
        self.frames_read, origin = 0, None
        try:
            for stamp, frame in itertools.chain(first, self._frames):
                if frame.shape != (self.height, self.width, 3):
                    size = f"{frame.shape[1]}x{frame.shape[0]}, the first {self.width}x{self.height}"
                    raise InputError(f"{self.name}: frame {self.frames_read + 1} is {size}; all must have one size")
                origin = stamp if origin is None else origin
                self.seconds = self._time(None if stamp is None else stamp - origin)
                self.frames_read += 1
                yield np.ascontiguousarray(frame)
        finally:
            self._frames.close()
        self._check_count()

    def _time(self, seconds: float | None) -> float:
        if not self.frames_read:
            return 0.0
        return seconds if seconds is not None and seconds > self.seconds else self.seconds + 1 / self.fps

    def _check_count(self) -> None:
        """Intact AVI files announce up to a few frames too many; Matroska and MPEG-TS only a duration, which is no count of
        frames where the rate varies."""
        reached = max(self.frames_read, round(self.seconds * self.fps) + 1)
        if self.frame_count and self.frame_count - reached > max(2, self.frame_count // 100):
            counts = f"{self.frames_read} of the {self.frame_count} announced frames"
            raise InputError(f"{self.name}: only {counts} could be read (and were kept); is the file cut off?")


def open_video(source: str | os.PathLike | int) -> Video:
    """The frames of a video file, a directory of images (sorted by name), a camera number (an int or digits), a URL or "-", stdin.

    A directory that holds another one named `input`, as the clips of CDnet do, stands for that one.
    stdin: any container that can be read without seeking, such as Matroska, MPEG-TS, MJPEG, y4m, or NUT for raw frames of any
    pixel format; readable once. A URL (rtsp, http, rtmp, tcp, udp): a file on an http server is read like one on the disk. What has
    no end, and a camera, is live: it does not wait, so that what is not taken in time is dropped and only the newest frames stay;
    when it breaks it is looked for again, ever less often, for up to 5 minutes (util/source/live.py); a change of size ends it.
    The certificate of an https server is not checked: cameras sign their own.
    Raises InputError if there is nothing there, it cannot be decoded, or its frames are not 32x32 to 4096x2160.
    """
    if isinstance(source, int) or str(source).isdecimal():
        return _open_camera(int(source))
    if source == "-":
        return _open_stdin()
    if stream.is_url(str(source)):
        return _open_url(str(source))
    path = Path(source)
    try:
        if path.is_dir():
            return _open_images(path)
        return _open_file(path)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None


def list_images(directory: Path) -> list[Path]:
    """The image files of a directory, sorted by name (hidden ones left out)."""
    files = (path for path in Path(directory).iterdir() if not path.name.startswith("."))
    return sorted(path for path in files if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())


def _open_images(directory: Path) -> Video:
    directory = directory / "input" if (directory / "input").is_dir() else directory
    paths = list_images(directory)
    if not paths:
        found = "no image among its files" if any(directory.iterdir()) else "nothing in it"
        raise InputError(f"{directory} has {found}; expected frames as {' '.join(sorted(IMAGE_SUFFIXES))}")
    return Video(str(directory), lambda: _read_images(paths), frame_count=len(paths))


def _read_images(paths: list[Path]) -> Iterator[Timed]:
    size = None
    for path in paths:
        image = read_image(path)
        size = size or image.shape
        if image.shape != size:
            found, expected = (f"{shape[1]}x{shape[0]}" for shape in (image.shape, size))
            raise InputError(f"{path} is {found} pixels, but {paths[0].name} is {expected}; all must have one size")
        yield None, image


def read_image(path: Path) -> np.ndarray:
    """One image file as BGR uint8 (H, W, 3); InputError naming it if it is broken or cut off."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    # OpenCV fills the missing part of a JPEG with grey. Neither marker can occur inside the compressed data.
    cut_off = data.startswith(b"\xff\xd8") and data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda")
    image = None
    if data and not cut_off:
        with quiet(), contextlib.suppress(cv2.error):
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        problem = "is empty" if not data else "is cut off" if cut_off else "cannot be read as an image"
        raise InputError(f"{path} {problem}")
    return image


def write_image(path: Path, image: np.ndarray) -> None:
    """Write BGR or grey uint8 in the format of the suffix; OSError on a full disk, which cv2.imwrite does not notice."""
    path.write_bytes(cv2.imencode(path.suffix, image)[1])


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Nothing; drops what is written to the process's stderr meanwhile, as libpng, libjpeg and FFmpeg do by themselves."""
    sys.stderr.flush()
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)


def _open_file(path: Path) -> Video:
    with path.open("rb") as file:
        head = file.read(4096)
    if not head:
        raise InputError(f"{path} is empty")
    if path.suffix.lower() in IMAGE_SUFFIXES:  # OpenCV would take 001.png for the start of a numbered sequence
        raise InputError(f"{path} is a single image; give a video file or the directory of the frames")
    if stream.is_text(head):
        raise InputError(f"{path} is a text file, not a video")
    capture = _capture(str(path))
    if capture is None:
        raise InputError(f"{path} cannot be opened as a video; it may be cut off, damaged or of an unknown format")
    fps, count = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
    opened = [capture]
    return Video(str(path), lambda: _read_capture(opened.pop() if opened else _capture(str(path))), fps, count)


def _open_stdin() -> Video:
    stdin = stream.Stdin()
    first = stream.Stream("stdin", stdin)
    opened = [first]

    def start():
        if not opened:
            raise InputError("stdin can be read only once")
        return stream.read_all("stdin", opened.pop(), stdin)

    return Video("stdin", start, first.fps, first.frame_count)


def _open_url(url: str) -> Video:
    name = stream.shown(url)
    if url.partition(":")[0].lower() not in stream.SCHEMES:
        raise InputError(f"{name} is no address of a video; expected {'://, '.join(stream.SCHEMES)}://")
    first = stream.Stream(name, url)
    opened = [first]

    def connect():
        return opened.pop() if opened else stream.Stream(name, url)

    if first.finite and url.lower().startswith("http"):
        return Video(name, lambda: stream.read_all(name, connect()), first.fps, first.frame_count)
    return Video(name, lambda: Live(name, connect, stream.Pictures()), first.fps)


def _open_camera(number: int) -> Video:
    first = Camera(number)
    opened = [first]

    def connect():
        return opened.pop() if opened else Camera(number)

    return Video(f"camera {number}", lambda: Live(f"camera {number}", connect, lambda frame: frame), first.fps)


class Camera:
    """A camera on this machine by its number; iterating yields (None, BGR frame) until it is gone. InputError if it cannot be opened."""

    finite = in_parts = False

    def __init__(self, number: int):
        self._capture = _capture(number)
        if self._capture is None:
            raise InputError(f"camera {number} cannot be opened; is it connected, and free?")
        self.fps = self._capture.get(cv2.CAP_PROP_FPS)

    def __iter__(self) -> Iterator[tuple[None, np.ndarray]]:
        while (read := self._capture.read())[0]:
            yield None, read[1]

    def close(self) -> None:
        self._capture.release()


def _capture(source: str | int) -> cv2.VideoCapture | None:
    silence = quiet() if isinstance(source, str) else contextlib.nullcontext()  # a camera is opened in a thread, too
    with silence:
        try:
            capture = cv2.VideoCapture(source)
        except cv2.error:  # a camera number beyond what a back end can count
            return None
    return capture if capture.isOpened() else None


def _read_capture(capture: cv2.VideoCapture) -> Iterator[Timed]:
    while (read := capture.read())[0]:
        yield capture.get(cv2.CAP_PROP_POS_MSEC) / 1000, read[1]
