"""A contact sheet: thumbnails of crops in a grid, each with its caption."""
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from util.outputs.pictures import LIGHT, MUTED, colour_of, font_of

NAME = "contact_sheet.png"  # what it is called beside the images that it shows
MAX_THUMBNAILS = 96
SIDE, GAP, HEADER, CAPTION = 112, 12, 32, 28  # pixels
GROUND = (24, 26, 31)  # RGB


def draw_sheet(images: Sequence[np.ndarray], captions: Sequence[str], labels: Sequence[str], title: str = "") -> np.ndarray:
    """Return a contact sheet, BGR uint8: thumbnails of RGB uint8 (h, w, 3) images in a grid, each with its caption and label's colour.

    Of more than MAX_THUMBNAILS an even sample is shown, and the header says so. Small images are enlarged. ValueError without an image.
    """
    if not images or not len(images) == len(captions) == len(labels):
        raise ValueError(f"{len(images)} images, {len(captions)} captions and {len(labels)} labels make no contact sheet")
    count = len(images)
    shown = [i * count // MAX_THUMBNAILS for i in range(MAX_THUMBNAILS)] if count > MAX_THUMBNAILS else range(count)
    columns = min(12, max(4, math.ceil(math.sqrt(1.5 * len(shown)))))
    rows = math.ceil(len(shown) / columns)
    edge, top = GAP + SIDE, GAP + HEADER
    sheet = Image.new("RGB", (columns * edge + GAP, top + rows * (edge + CAPTION) + GAP // 2), GROUND)
    draw = ImageDraw.Draw(sheet)
    note = f"{len(shown)} of {count}, evenly sampled" if count > len(shown) else f"{count} shown"
    title = title or "Moving objects"
    font, small = font_of(20, title), font_of(14)
    title = _shorten(title, font, sheet.width - 3 * GAP - small.getlength(note))
    draw.text((GAP, GAP + 2), title, LIGHT, font)
    draw.text((sheet.width - GAP, GAP + 6), note, MUTED, small, anchor="ra")
    for cell, i in enumerate(shown):
        x, y = GAP + cell % columns * edge, top + cell // columns * (edge + CAPTION)
        _thumbnail(sheet, draw, images[i], captions[i], colour_of(labels[i]), x, y)
    return np.asarray(sheet)[..., ::-1]


def _thumbnail(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, rgb: np.ndarray, caption: str, colour: tuple[int, int, int], x: int, y: int
) -> None:
    image = Image.fromarray(np.ascontiguousarray(rgb))
    factor = SIDE / max(image.size)
    size = [max(1, round(length * factor)) for length in image.size]
    image = image.resize(size, Image.Resampling.LANCZOS)
    left, top = x + (SIDE - size[0]) // 2, y + (SIDE - size[1]) // 2
    sheet.paste(image, (left, top))
    font = font_of(13, caption)
    draw.rectangle((x, y + SIDE + 3, x + SIDE - 1, y + SIDE + 5), colour)
    draw.text((x + SIDE / 2, y + SIDE + 16), _shorten(caption, font, SIDE), LIGHT, font, anchor="mm")


def _shorten(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
