"""From a decoder's frames to the picture that a player shows: deinterlaced, in the colours of a plain screen, upright."""
import contextlib
from collections.abc import Iterable, Iterator

import av
import av.filter
import numpy as np
from av.sidedata.sidedata import SideDataContainer
from av.video.reformatter import VideoReformatter

# On glibc, a freed block of this size keeps later frames' buffers on the heap: mapping each anew costs 0.2 ms at 640x360.
np.empty(1 << 24, np.uint8)

BT709 = 1  # the standard screen's transfer curve and primaries (ISO/IEC 23091-2, also those below)
UNSPECIFIED = 2
HDR_CURVES = (16, 18)  # PQ, HLG


class Pictures:
    """Makes BGR uint8 (H, W, 3) of PyAV's frames; for one thread.

    YUV becomes BGR by the frame's own matrix and range, HDR (PQ, HLG) becomes SDR with 203 nits as white, and the display matrix turns
    and mirrors what a camera held otherwise has taken. Pixels stay as stored where they are not square. FFmpegError if it is a kind of
    frame that cannot be shown.
    """

    def __init__(self):
        self._reformat = VideoReformatter().reformat  # keeps what it has set up for this size

    def __call__(self, frame) -> np.ndarray:
        hdr = {"dst_color_trc": BT709, "dst_color_primaries": BT709, "threads": 0} if frame.color_trc in HDR_CURVES else {"threads": 1}
        try:
            bgr = self._bgr(frame, **hdr)
        except av.error.FFmpegError:  # tags that mean nothing, or an unusual pixel format with HDR: as if there were none
            frame.colorspace = UNSPECIFIED
            bgr = self._bgr(frame, threads=1)
        try:
            matrix = SideDataContainer(frame).get("DISPLAYMATRIX")  # frame.side_data keeps the frame until gc runs
        except ValueError:  # there is side data of a kind that this PyAV does not know
            return np.rot90(bgr, round(frame.rotation / 90) % 4)
        return bgr if matrix is None else upright(bgr, np.frombuffer(bytes(matrix), np.int32))

    def _bgr(self, frame, **options) -> np.ndarray:
        return self._reformat(frame, format="bgr24", interpolation="BICUBIC", **options).to_ndarray()


def upright(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """`image` (H, W, 3) turned by quarters and mirrored as the display matrix says, an int32 (9,) of ISO/IEC 14496-12, 6.2.2."""
    (a, b), (c, d) = matrix.reshape(3, 3)[:2, :2].tolist()  # the pixel (x, y) is shown at (a x + c y, b x + d y)
    if abs(b) + abs(c) > abs(a) + abs(d):
        image, a, d = image.transpose(1, 0, 2), c, b
    return image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


def deinterlace(frames: Iterable) -> Iterator:
    """Yield as many frames as come; from the first interlaced one on, those that are become progressive (by FFmpeg's bwdif)."""
    graph = form = None
    for frame in frames:
        if graph and form != (frame.width, frame.height, frame.format.name):
            yield from _through(graph, None)
            graph = None
        if graph is None and frame.interlaced_frame:
            graph, form = _bwdif(frame), (frame.width, frame.height, frame.format.name)
        yield from _through(graph, frame) if graph else [frame]
    if graph:
        yield from _through(graph, None)


def _bwdif(frame):
    graph = av.filter.Graph()
    chain = graph.add_buffer(template=frame), graph.add("bwdif", "mode=send_frame:deint=interlaced"), graph.add("buffersink")
    return graph.link_nodes(*chain).configure() or graph


def _through(graph, frame) -> Iterator:
    """Yield the frames that come out when `frame`, or the end, goes in."""
    graph.push(frame)
    with contextlib.suppress(av.error.BlockingIOError, av.error.EOFError):  # it wants more first; it has no more
        while True:
            yield graph.pull()
