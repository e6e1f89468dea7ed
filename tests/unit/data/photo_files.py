"""Small data sets of real files, for the tests of what reads them."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from birefnet.data.pairs import Pair, find_pairs


def save_pair(folder: Path, name: str, photo: np.ndarray, mask: np.ndarray) -> None:
    for part, array in (("im", photo), ("gt", mask)):
        (folder / part).mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(folder / part / f"{name}.png")


def cuts(source: Path, folder: Path, count: int = 7, size: tuple[int, int] = (60, 80)) -> list[Pair]:
    """Cuts of a real photo with discs for masks; every third with an unlabelled stripe."""
    with Image.open(source) as image:
        whole = image.convert("RGB")
    for number in range(count):
        left, upper = 9 * number, 7 * number
        photo = whole.crop((left, upper, left + size[1], upper + size[0]))
        mask = Image.new("L", photo.size)
        ImageDraw.Draw(mask).circle((20 + 4 * number, 30), 12 + number, fill=255)
        levels = np.array(mask)
        name = f"cats-{number}#1#2#Bag"
        if number % 3 == 0:
            name = f"flower17-{number}"
            levels[:, 50:56] = 128
        save_pair(folder, name, np.asarray(photo), levels)
    return find_pairs(folder)
