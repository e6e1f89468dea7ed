"""The picture of `birefnet data stats`: pairs side by side, each with its mask's outline."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from birefnet.cli.data.output import printable
from birefnet.data.facts import THRESHOLD, read_mask
from birefnet.data.pairs import Pair
from birefnet.data.split import position
from birefnet.errors import BiRefNetError
from birefnet.imaging.io import read_photo

_CELL, _CAPTION, _GAP = 256, 34, 6
_PAGE, _INK, _FAINT = (24, 24, 28), (235, 235, 235), (160, 160, 165)
_LINE, _HALO, _VEIL = (60, 255, 90), (0, 0, 0), (40, 40, 120)
_VEILED = 0.65


def contact_sheet(pairs: Sequence[Pair], count: int, seed: int = 0) -> Image.Image:
    """Draw pairs chosen at random: each photo with its mask's outline, what is not foreground veiled, and its name.

    The choice depends on names and seed alone. A file that cannot be read leaves its reason in its place.

    Args:
        pairs: what to choose from.
        count: how many to draw at most.
        seed: another one chooses others.
    """
    chosen = sorted(pairs, key=lambda pair: position(f"{pair.data}/{pair.name}", seed))[:count]
    chosen.sort(key=lambda pair: (pair.data, pair.name))
    across = max(1, min(len(chosen), round((len(chosen) * 1.5) ** 0.5)))
    down = -(-len(chosen) // across)
    step_x, step_y = _CELL + _GAP, _CELL + _CAPTION + _GAP
    sheet = Image.new("RGB", (across * step_x + _GAP, down * step_y + _GAP), _PAGE)
    for number, pair in enumerate(chosen):
        corner = (_GAP + number % across * step_x, _GAP + number // across * step_y)
        sheet.paste(_cell(pair), corner)
    return sheet


def _cell(pair: Pair) -> Image.Image:
    cell = Image.new("RGB", (_CELL, _CELL + _CAPTION), _PAGE)
    draw = ImageDraw.Draw(cell)
    try:
        photo = read_photo(pair.image).rgb
        levels = read_mask(pair.mask)
    except BiRefNetError as error:
        text = printable(str(error))
        lines = [text[start : start + 40] for start in range(0, min(len(text), 400), 40)]
        draw.multiline_text((4, 4), "\n".join(lines), _INK, font=_font(11))
    else:
        shown = Image.fromarray(_overlay(photo, levels))
        cell.paste(shown, ((_CELL - shown.width) // 2, (_CELL - shown.height) // 2))
        share = float((levels > THRESHOLD).mean())
        second = f"{photo.shape[1]} x {photo.shape[0]}, {share:.1%} foreground"
        draw.text((4, _CELL + 18), second, _FAINT, font=_font(11))
    draw.text((4, _CELL + 2), _fitted(pair.name, draw), _INK, font=_font(12))
    return cell


def _overlay(photo: NDArray[np.uint8], levels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Veil the background and draw the outline on a photo that is shrunk to a cell: (h, w, 3)."""
    scale = _CELL / max(photo.shape[:2])
    size = (max(1, round(photo.shape[1] * scale)), max(1, round(photo.shape[0] * scale)))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    small = cv2.resize(photo, size, interpolation=method).astype(np.float32)
    # A mask of another size is stretched over its photo, which shows what is wrong with it.
    alpha = cv2.resize(levels, size, interpolation=method).astype(np.float32)[..., None] / 255
    veiled = (1 - _VEILED) * small + _VEILED * np.array(_VEIL, np.float32)
    drawn: NDArray[np.uint8] = np.rint(alpha * small + (1 - alpha) * veiled).astype(np.uint8)
    solid = (alpha[..., 0] > 0.5).astype(np.uint8)
    outlines, _ = cv2.findContours(solid, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(drawn, outlines, -1, _HALO, 3)
    cv2.drawContours(drawn, outlines, -1, _LINE, 1)
    return drawn


def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def _fitted(name: str, draw: ImageDraw.ImageDraw) -> str:
    """Leave out the middle of a name that is too long for a cell."""
    text = name = printable(name)
    keep = len(name)
    while draw.textlength(text, font=_font(12)) > _CELL - 8:
        keep -= 1
        text = f"{name[: keep // 2]}...{name[len(name) - (keep - keep // 2) :]}"
    return text
