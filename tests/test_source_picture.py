"""What is shown of a video: deinterlaced, in its colours, upright; the same by file and by stdin."""
import gc
import itertools
from fractions import Fraction

import av
import av.filter
import numpy as np
import pytest

from tests.servers import stdin_of
from util.source.picture import upright
from util.source.video import open_video

SIZE = 96, 64  # width, height
MATRICES = {"BT.601": (0.299, 0.114), "BT.709": (0.2126, 0.0722), "BT.2020": (0.2627, 0.0593)}  # weights of red and blue
TAGS = {"BT.601": 6, "BT.709": 1, "BT.2020": 9}  # ISO/IEC 23091-2


def write(path, frames, codec="ffv1"):
    """Write av.VideoFrames at 25 a second; return the path."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream(codec, rate=25, options={"qscale": "2"} if codec == "mpeg2video" else {})
        stream.width, stream.height, stream.pix_fmt = frames[0].width, frames[0].height, frames[0].format.name
        if codec == "mpeg2video":
            stream.codec_context.flags |= av.codec.context.Flags.interlaced_dct
        for name in ("colorspace", "color_range", "color_trc", "color_primaries"):
            setattr(stream.codec_context, name, getattr(frames[0], name))
        for number, frame in enumerate(frames):
            frame.pts, frame.time_base = number, Fraction(1, 25)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return path


def both_ways(monkeypatch, path):
    """The frames of a file, after a check that stdin gives the same."""
    frames = list(open_video(path))
    with stdin_of(monkeypatch, path.read_bytes()):
        assert np.array_equal(list(open_video("-")), frames)
    return frames


# ---- Fields ---------------------------------------------------------------------------------------------------------
def moments(count):
    """Two grey pictures per frame: a still ramp, and a bar that moves 3 pixels from each to the next."""
    still = np.tile(np.linspace(40, 120, SIZE[0]).astype(np.uint8), (SIZE[1], 1))
    pictures = np.repeat(still[None], 2 * count, 0)
    for number, picture in enumerate(pictures):
        picture[16:48, 3 * number : 3 * number + 12] = 220
    return pictures


def interlaced(pictures):
    """av.VideoFrames whose lines are of two moments in turn, and which say so."""
    graph = av.filter.Graph()
    chain = graph.add_buffer(width=SIZE[0], height=SIZE[1], format="yuv420p", time_base="1/25"), graph.add("setfield", "tff")
    graph.link_nodes(*chain, graph.add("buffersink")).configure()
    for first, second in zip(pictures[::2], pictures[1::2], strict=True):
        woven = first.copy()
        woven[1::2] = second[1::2]
        graph.push(av.VideoFrame.from_ndarray(woven, "gray").reformat(format="yuv420p"))
        yield graph.pull()


@pytest.mark.parametrize(("suffix", "codec"), [("mkv", "ffv1"), ("ts", "mpeg2video")])
def test_an_interlaced_video_is_shown_without_combs(tmp_path, monkeypatch, suffix, codec):
    pictures = moments(10)
    frames = both_ways(monkeypatch, write(tmp_path / f"clip.{suffix}", list(interlaced(pictures)), codec))
    assert len(frames) == 10
    for number in range(2, 8):
        grey = frames[number][..., 1].astype(float)
        rows = grey[20:44]  # of the bar
        assert np.abs(np.diff(rows, axis=0)).mean() < 3, "neighbouring lines show one moment"
        assert np.corrcoef(grey.ravel(), pictures[2 * number].ravel())[0, 1] > 0.98
        assert np.abs(frames[number][:12].astype(int) - frames[2][:12]).mean() < 2, "what stands still does not bob"


# ---- Colours --------------------------------------------------------------------------------------------------------
def coded(colour, matrix, bits, full):
    """An av.VideoFrame of one colour, RGB 0..1, coded as ITU-R BT.601, BT.709 or BT.2020 say."""
    red, blue = MATRICES[matrix]
    luma = np.dot(colour, (red, 1 - red - blue, blue))
    chroma = (colour[2] - luma) / (2 - 2 * blue), (colour[0] - luma) / (2 - 2 * red)
    frame = av.VideoFrame(*SIZE, "yuv420p" if bits == 8 else "yuv420p10le")
    unit = 2 ** (bits - 8)
    values = [luma * (2**bits - 1) if full else unit * (16 + 219 * luma)]
    values += [(each * (2**bits - 1) if full else unit * 224 * each) + 128 * unit for each in chroma]
    for plane, value in zip(frame.planes, values, strict=True):
        plane.update(np.full(plane.buffer_size // (bits > 8 or 1) // (2 if bits > 8 else 1), round(value), "u2" if bits > 8 else "u1"))
    frame.colorspace, frame.color_range = TAGS[matrix], 2 if full else 1
    return frame


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("bits", [8, 10])
@pytest.mark.parametrize("full", [False, True])
def test_colours_are_those_that_were_coded(tmp_path, monkeypatch, matrix, bits, full):
    for colour in ((0.8, 0.2, 0.1), (0.1, 0.7, 0.3), (1, 1, 1), (0, 0, 0)):
        path = write(tmp_path / "clip.mkv", [coded(colour, matrix, bits, full)])
        (frame,) = both_ways(monkeypatch, path)
        assert np.abs(frame[32, 48, ::-1] / 255 - colour).max() < 0.02, colour


def pq(nits):
    """The PQ signal 0..1 of a luminance (SMPTE ST 2084)."""
    power = (nits / 10000) ** (2610 / 16384)
    return ((3424 / 4096 + 2413 / 128 * power) / (1 + 2392 / 128 * power)) ** (2523 / 32)


def test_hdr_is_shown_as_on_a_plain_screen(tmp_path):
    luminances = 0.1, 5, 26, 100, 203  # the last: white of plain video in HDR (ITU-R BT.2408)
    frames = [coded((pq(nits),) * 3, "BT.2020", 10, False) for nits in luminances]
    for frame in frames:
        frame.color_trc, frame.color_primaries = 16, 9
    path = write(tmp_path / "clip.mkv", frames)  # one clip for all, read once: FFmpeg takes seconds to compute its table of colours
    shown = [int(picture[32, 48, 1]) for picture in open_video(path)]
    assert shown[0] < 20 and 95 < shown[2] < 115 and shown[4] > 248 and all(np.diff(shown) > 20), shown


def test_a_decoder_s_frame_goes_when_it_has_been_shown(tmp_path):
    """And not when Python next looks for cycles, some 200 frames later."""
    path, kept = write(tmp_path / "clip.mkv", [coded((0.8, 0.2, 0.1), "BT.709", 8, False)] * 60), []
    gc.collect()
    gc.freeze()  # what is there already isn't searched: a million objects late in a run of all tests
    gc.disable()
    try:
        for _ in open_video(path):
            kept.append(sum(isinstance(each, av.VideoFrame) for each in gc.get_objects()))
    finally:
        gc.enable()
        gc.unfreeze()
    assert len(kept) == 60 and max(kept) < 15, kept


# ---- The way up -----------------------------------------------------------------------------------------------------
def test_the_display_matrix_turns_and_mirrors():
    """By the standard's formula, pixel by pixel: (x, y) is shown at (a x + c y, b x + d y)."""
    image = np.random.default_rng(0).integers(0, 256, (3, 5, 3), np.uint8)
    for first, second, turned in itertools.product((1, -1), (1, -1), (False, True)):
        a, b, c, d = (0, first, second, 0) if turned else (first, 0, 0, second)
        points = {(a * x + c * y, b * x + d * y): image[y, x] for y in range(3) for x in range(5)}
        left, top = (min(point[axis] for point in points) for axis in (0, 1))
        shown = upright(image, np.int32([a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30]))
        assert len(points) == shown.shape[0] * shown.shape[1]
        assert all(np.array_equal(shown[y - top, x - left], pixel) for (x, y), pixel in points.items()), (a, b, c, d)
