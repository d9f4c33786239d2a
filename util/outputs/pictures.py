"""Pictures of what was found: frames with boxes and names on them, and a video of those."""
import contextlib
import math
import os
import zlib
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from util.errors import InputError, quiet
from util.files import create, refuse_special, temporary_name, write_all
from util.track.tracking import UNKNOWN

# RGB, far apart in hue and lightness, all readable with a dark text on them or a light one.
PALETTE = [(230, 60, 60), (245, 150, 30), (250, 220, 60), (150, 210, 60), (40, 160, 80), (60, 210, 200), (70, 170, 250),
           (50, 90, 220), (150, 90, 240), (240, 110, 220), (190, 140, 100), (200, 205, 215)]  # fmt: skip
DARK, LIGHT = (16, 18, 22), (250, 250, 250)
MUTED = (150, 156, 168)  # small print, and what has no name
SALT = 335644  # found by trying: neither two of CIFAR-10's names nor two digits share a colour
PNG = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE, cv2.IMWRITE_PNG_FILTER]  # and a filter:
MASK, PHOTOGRAPH = cv2.IMWRITE_PNG_FILTER_NONE, cv2.IMWRITE_PNG_FILTER_UP  # the quickest for each


def encode_png(image: np.ndarray) -> bytes:
    """Return BGR or grey uint8 as the bytes of a PNG."""
    return cv2.imencode(".png", image, [*PNG, MASK if image.ndim == 2 else PHOTOGRAPH])[1].tobytes()


def shrunk(image: np.ndarray, side: int) -> np.ndarray:
    """Return an image, uint8 (H, W, ...), with at most `side` pixels on its longer side."""
    height, width = image.shape[:2]
    factor = side / max(height, width)
    if factor >= 1:
        return image
    return cv2.resize(image, (max(1, round(width * factor)), max(1, round(height * factor))), interpolation=cv2.INTER_AREA)


def encode_jpeg(bgr: np.ndarray, side: int | None = None, quality: int = 85) -> bytes:
    """Return BGR uint8 as the bytes of a JPEG, whose longer side has at most `side` pixels if that is given."""
    return cv2.imencode(".jpg", shrunk(bgr, side) if side else bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def colour_of(label: str) -> tuple[int, int, int]:
    """Return the RGB colour of a label."""
    if label == UNKNOWN:
        return MUTED
    return PALETTE[(zlib.crc32(label.encode()) * SALT >> 16) % len(PALETTE)]


def annotate(
    bgr: np.ndarray, boxes: Sequence[Sequence[int]], texts: Sequence[str], labels: Sequence[str], expected: Sequence[bool] | None = None
) -> np.ndarray:
    """Return a copy of the frame, uint8 (H, W, 3), with each box (x, y, width, height in pixels) and its text on it.

    Lines and letters grow with the frame; each label has its colour. Boxes that are expected, not seen, have corners alone. Text stays
    inside the frame, at its edges it goes below the box or into it. Best objects come first, so they are drawn last, on top.
    """
    picture = bgr.copy()
    frame_height, frame_width = picture.shape[:2]
    scale = math.sqrt(frame_width * frame_height)
    line, size = max(2, round(scale / 250)), max(11, round(scale / 36))
    for box, text, label, is_expected in reversed(list(zip(boxes, texts, labels, expected or [False] * len(boxes), strict=True))):
        x, y, width, height = map(int, box)
        colour = colour_of(label)
        for ink, thickness in ((DARK, line + 2), (colour[::-1], line)):  # a dark rim shows on any ground
            if is_expected:
                cv2.polylines(picture, _corners(x, y, width, height), False, ink, thickness)
            else:
                cv2.rectangle(picture, (x, y, width, height), ink, thickness)
        if text:
            plate = _plate(text, size, colour)[:frame_height, :frame_width]
            high, wide = plate.shape[:2]
            left = min(max(x - (line + 2) // 2, 0), frame_width - wide)
            top = y - high if y >= high else y + height if y + height + high <= frame_height else y
            picture[top : top + high, left : left + wide] = plate
    return picture


def draw_tracks(bgr: np.ndarray, tracks: Sequence, scale: float = 1.0) -> np.ndarray:
    """Return a copy of the frame with `tracks` of a Moment: box, number, name, probability. The frame is `scale` times the Moment's."""
    boxes = [[length * scale for length in seen.box] for seen in tracks]
    texts = [f"#{seen.track} {seen.label} {seen.probability:.0%}" for seen in tracks]
    return annotate(bgr, boxes, texts, [seen.label for seen in tracks], [seen.expected for seen in tracks])


def _corners(x: int, y: int, width: int, height: int) -> list[np.ndarray]:
    """Return the corners of a box, each as three points."""
    right, bottom, arm = x + width - 1, y + height - 1, max(3, min(width, height) // 4)
    ends = ((x, y, arm, arm), (right, y, -arm, arm), (x, bottom, arm, -arm), (right, bottom, -arm, -arm))
    return [np.array([[i + across, j], [i, j], [i, j + down]]) for i, j, across, down in ends]


@lru_cache(maxsize=64)
def _plate(text: str, size: int, colour: tuple[int, int, int]) -> np.ndarray:
    """Text on a coloured ground, BGR uint8."""
    font = font_of(size, text)
    pad = max(2, size // 4)
    plate = Image.new("RGB", (math.ceil(font.getlength(text)) + 2 * pad, size + pad + pad // 2), colour)
    ImageDraw.Draw(plate).text((pad, plate.height / 2), text, _ink(colour), font, anchor="lm")
    return np.asarray(plate)[..., ::-1]


def font_of(size: int, text: str = "") -> ImageFont.FreeTypeFont:
    """Return the font for a text, `size` pixels high: Pillow's own has ASCII alone; else DejaVu Sans, if it is there."""
    return _font(size, text.isascii())


@lru_cache(maxsize=16)
def _font(size: int, is_ascii: bool) -> ImageFont.FreeTypeFont:
    with contextlib.suppress(OSError):
        if not is_ascii:
            return ImageFont.truetype("DejaVuSans.ttf", size)  # looked for among the system's fonts
    return ImageFont.load_default(size)


def _ink(colour: tuple[int, int, int]) -> tuple[int, int, int]:
    return DARK if 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 130 else LIGHT


class VideoFile:
    """An .mp4 written frame by frame at a path where nothing is yet: `video = VideoFile(path, fps, (width, height)); video.write(bgr)`.

    H.264, which every browser plays, fragmented: no index grows in memory, and what is written can be played at any time, even after a
    kill. The last column or row of an odd size is left out. Raises InputError if it cannot be written.
    """

    def __init__(self, path: Path, fps: float, size: tuple[int, int]):
        import av  # here: who only reads results does without

        self.path, self.size, self.frames = Path(path), (size[0] // 2 * 2, size[1] // 2 * 2), 0
        self._av, self._step, self._next, self._start, self._error = av, H264.TICKS / fps, 0.0, None, None
        try:
            self._descriptor = create(self.path)
        except OSError as error:
            raise InputError(f"{path} cannot be written: {error.strerror}") from None
        try:
            with quiet():
                options = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
                self._file = av.open(Unseekable(self._put), "w", "mp4", options=options)
                self._encoder = H264(self._file, fps, size, every=2)  # a fragment begins with a key frame
        except (OSError, ValueError):
            os.close(self._descriptor)
            self.path.unlink(missing_ok=True)
            raise InputError(f"{path} cannot be written: no room, or no H.264 encoder for {size[0]}x{size[1]} pixels") from None

    def write(self, bgr: np.ndarray, seconds: float | None = None) -> None:
        """Append a frame, uint8 (H, W, 3) of the size given at first; it is shown at `seconds` from the first, by default by fps."""
        if bgr.shape[1] // 2 * 2 != self.size[0] or bgr.shape[0] // 2 * 2 != self.size[1]:
            raise ValueError(f"frame is {bgr.shape[1]}x{bgr.shape[0]}, the video {self.size[0]}x{self.size[1]}")
        self.frames += 1
        self._start = seconds if self._start is None else self._start
        wanted = self._next if seconds is None else (seconds - self._start) * H264.TICKS
        self._next = wanted + self._step
        self._file.mux(self._encoder.encode(bgr, wanted))
        self._complain()

    def close(self) -> None:
        """Complete the file; InputError if frames are missing in it. It is deleted if it holds none that can be read."""
        try:
            with contextlib.suppress(self._av.FFmpegError):  # which follow from an error of the output
                self._file.mux(self._encoder.rest())
                self._file.close()
            self._complain()
        except BaseException:
            if not _drop_torn_fragment(self.path):
                self.frames = 0
            raise
        finally:
            os.close(self._descriptor)
            if not self.frames:
                self.path.unlink(missing_ok=True)

    def _put(self, data: bytes) -> int:
        """Write what libav made. It reports a full disk late or never, so the error is kept; after it nothing is written."""
        if self._error is None:
            try:
                write_all(self._descriptor, data)
            except OSError as error:
                self._error = error
        return len(data)

    def _complain(self) -> None:
        if self._error:
            raise InputError(f"{self.path} cannot be written: {self._error.strerror}; make room or write elsewhere")


def _drop_torn_fragment(path: Path) -> int:
    """Let a fragmented .mp4 end with its last whole fragment, a box moof and a box mdat; return how many bytes are left, 0 without one."""
    with open(path, "r+b") as file:
        size, end, whole = os.fstat(file.fileno()).st_size, 0, 0
        while len(head := file.read(8)) == 8 and (length := int.from_bytes(head[:4])) >= 8 and end + length <= size:
            end += length
            whole = end if head[4:] == b"mdat" else whole
            file.seek(end)
        file.truncate(whole)
    return whole


class Unseekable:
    """What libav writes to. It has no seek, so that libav never goes back."""

    def __init__(self, write: Callable[[bytes], int]):
        self.write = write


class VideoWriter:
    """A VideoFile that gets its name at the end: `with VideoWriter(path, fps, (width, height)) as video: video.write(bgr)`.

    Also after Ctrl-C or an InputError (a source that is cut off); after any other exception, or without a frame, none is left, and an
    earlier file stays. Raises InputError if it cannot be written.
    """

    def __init__(self, path: str | Path, fps: float, size: tuple[int, int]):
        self.path = Path(path)
        refuse_special(self.path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{path} cannot be written: {error.strerror}") from None
        self._file = VideoFile(self.path.with_name(temporary_name(self.path)), fps, size)
        self.write = self._file.write

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(self, kind, error, trace) -> None:
        try:
            self._file.close()
            if self._file.frames and (error is None or isinstance(error, KeyboardInterrupt | InputError)):
                os.replace(self._file.path, self.path)
        finally:
            self._file.path.unlink(missing_ok=True)


class H264:
    """H.264 of BGR frames, as a stream of a container that PyAV has opened; a key frame each `every` seconds.

    The last column or row of an odd size is left out.
    """

    ENCODER = "libx264"
    TICKS = 90000  # per second

    def __init__(self, container, fps: float, size: tuple[int, int], every: float):
        import av

        self._from_array, self._last, self.width, self.height = av.VideoFrame.from_ndarray, -1, size[0] // 2 * 2, size[1] // 2 * 2
        options = {"preset": "ultrafast", "crf": "23", "g": str(max(1, round(every * fps)))}
        self.stream = container.add_stream(self.ENCODER, rate=Fraction(fps).limit_denominator(1001), options=options)
        self.stream.width, self.stream.height, self.stream.pix_fmt = self.width, self.height, "yuv420p"
        self.stream.time_base = self.stream.codec_context.time_base = Fraction(1, self.TICKS)
        for name in ("colorspace", "color_primaries", "color_trc"):
            setattr(self.stream.codec_context, name, 6)  # BT.601, which the conversion below makes; else players guess
        self.stream.codec_context.color_range = 1  # 16 to 235
        self.stream.codec_context.open()

    def encode(self, bgr: np.ndarray, ticks: float) -> list:
        """Return the packets that are ready after a frame, uint8 (H, W, 3), which is shown at `ticks`, but after the one before."""
        bgr = np.ascontiguousarray(bgr[: self.height, : self.width])
        frame = self._from_array(cv2.cvtColor(bgr, cv2.COLOR_BGR2YUV_I420), format="yuv420p")
        self._last = frame.pts = max(round(ticks), self._last + 1)
        frame.time_base = Fraction(1, self.TICKS)
        return self.stream.encode(frame)

    def rest(self) -> list:
        """Return the packets that are left after the last frame."""
        return self.stream.encode()
