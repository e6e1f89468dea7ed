"""Samples of a validation below one another: photo, truth, prediction and where that is off; needs no torch."""

import io
import math
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from birefnet._atomic import write_whole
from birefnet.training.samples import Pixels, Sample

MASKS = "masks.png"

_CELL = 240
_SCORES_SHARE = 0.5
_GAP = 10
_LINE = 20
_HEADER, _TITLE = 46, 30
_COLUMNS = ("photo", "truth", "prediction", "difference")
_INK, _PALE, _PAPER, _UNKNOWN = (30, 30, 30), (120, 120, 120), (255, 255, 255), (90, 60, 120)
_FALSE, _MISSED = (213, 94, 0), (0, 140, 220)
"""Vermilion and blue, which colour-blind people can tell apart (Okabe and Ito)."""


def contact_sheet(rows: Sequence[Sample], path: Path, title: str = "") -> Path:
    """Draw samples below one another, each as photo, truth, prediction and difference, with name and scores.

    In the difference, false foreground is vermilion and missed foreground blue, the stronger the farther the
    prediction is off, on a dark photo; the truth's unknown parts are violet. More than four samples are set in two
    columns, in the order of reading down.

    Args:
        rows: the samples in order, such as `ranked` gives them.
        path: the PNG file to write.
        title: what to write above them.

    Raises:
        OutputError: the picture cannot be written.
    """
    strips = [_strip(sample) for sample in rows]
    blocks = 1 if len(strips) <= 4 else 2
    per_block = max(1, math.ceil(len(strips) / blocks))
    parts = [strips[i * per_block : (i + 1) * per_block] for i in range(blocks)]
    block_width = len(_COLUMNS) * (_CELL + _GAP) - _GAP
    head = _HEADER + (_TITLE if title else 0)
    height = head + max(sum(strip.height + _GAP for strip in part) for part in parts) + _GAP
    sheet = Image.new("RGB", (blocks * (block_width + 3 * _GAP) + _GAP, max(height, head + 60)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((2 * _GAP, 12), _written(title), _INK, ImageFont.load_default(20))
    for number, part in enumerate(parts):
        left, top = 2 * _GAP + number * (block_width + 3 * _GAP), head
        _draw_header(draw, left, head - _HEADER)
        for strip in part:
            sheet.paste(strip, (left, top))
            top += strip.height + _GAP
    if not strips:
        draw.text((2 * _GAP, head), "no samples", _PALE, ImageFont.load_default(16))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    write_whole(path, buffer.getvalue())
    return path


def difference(sample: Sample) -> Pixels:
    """Picture of where a prediction is off, as `contact_sheet` describes it: uint8 (H, W, 3)."""
    truth = sample.truth.astype(np.float32) / 255
    off = sample.prediction.astype(np.float32) / 255 - truth
    grey = sample.photo.astype(np.float32).mean(-1, keepdims=True)
    # The photo shows through, darker outside the truth, so that one sees which part was missed.
    picture = grey * (0.25 + 0.3 * truth[..., None]) + 45 * truth[..., None]
    for amount, colour in ((off, _FALSE), (-off, _MISSED)):
        # The root keeps faint errors, such as a grey background, visible.
        share = np.sqrt(amount.clip(0, 1))[..., None]
        picture = picture * (1 - share) + np.array(colour, np.float32) * share
    if sample.valid is not None:
        picture[~sample.valid] = _UNKNOWN
    pixels: Pixels = picture.clip(0, 255).astype(np.uint8)
    return pixels


def _strip(sample: Sample) -> Image.Image:
    """One sample as a row of four pictures, and below them its name and scores."""
    truth = np.repeat(sample.truth[..., None], 3, -1)
    if sample.valid is not None:
        truth[~sample.valid] = _UNKNOWN
    pictures = (sample.photo, truth, np.repeat(sample.prediction[..., None], 3, -1), difference(sample))
    height, width = sample.truth.shape
    factor = _CELL / max(height, width)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    strip = Image.new("RGB", (len(_COLUMNS) * (_CELL + _GAP) - _GAP, size[1] + _LINE + 4), _PAPER)
    draw = ImageDraw.Draw(strip)
    for column, pixels in enumerate(pictures):
        left = column * (_CELL + _GAP) + (_CELL - size[0]) // 2
        strip.paste(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS), (left, 0))
        # Without a border, a mask's black background could not be told from the picture's end, nor its white one.
        draw.rectangle((left, 0, left + size[0] - 1, size[1] - 1), outline=(200, 200, 200))
    font = ImageFont.load_default(15)
    scores = ""
    for name, value in sample.scores.items():
        longer = f"{scores}    {_written(name)} {f'{value:.3f}' if math.isfinite(value) else '-'}".lstrip()
        if scores and draw.textlength(longer, font) > strip.width * _SCORES_SHARE:
            break
        scores = longer
    room = strip.width - draw.textlength(scores, font) - 2 * _GAP
    draw.text((0, size[1] + 3), _shortened(_written(sample.name), room, font), _INK, font)
    draw.text((strip.width, size[1] + 3), scores, _PALE, font, anchor="ra")
    return strip


def _draw_header(draw: ImageDraw.ImageDraw, left: int, top: int) -> None:
    for column, name in enumerate(_COLUMNS):
        draw.text((left + column * (_CELL + _GAP), top + 14), name, _INK, ImageFont.load_default(17))
    left += 3 * (_CELL + _GAP) + 98
    for offset, colour, meaning in ((0, _FALSE, "false"), (62, _MISSED, "missed")):
        draw.rectangle((left + offset, top + 19, left + offset + 12, top + 31), fill=colour)
        draw.text((left + offset + 17, top + 16), meaning, _PALE, ImageFont.load_default(14))


def _written(text: str) -> str:
    """Write a text with the letters the font has: accents are dropped, other scripts become codes."""
    plain = "".join(each for each in unicodedata.normalize("NFKD", text) if not unicodedata.combining(each))
    return plain.encode("ascii", "backslashreplace").decode()


def _shortened(text: str, room: float, font: Any) -> str:
    """Cut the beginning of a text, as the end of a path tells more, so that it fits."""
    if font.getlength(text) <= room:
        return text
    while text and font.getlength("..." + text) > room:
        text = text[1:]
    return "..." + text
