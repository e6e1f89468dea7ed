"""What can be known of a user's files before anything takes long."""

import os
from pathlib import Path

from birefnet.data.pairs import images_below
from birefnet.errors import InputError, OutputError
from birefnet.imaging.io import RgbImage, read_photo

MOST_PHOTOS = 6
"""Photos of a folder that are looked at, spread evenly over its names."""


def read_photos(place: str | Path) -> list[RgbImage]:
    """Read the photos to compare on.

    Args:
        place: a folder, or one photo.

    Returns:
        RGB uint8 (H, W, 3) each, at most `MOST_PHOTOS`.

    Raises:
        InputError: the folder holds none.
        DataError: the folder cannot be read.
        ImageError: a photo cannot be read.
    """
    place = Path(place)
    if place.is_file():
        return [read_photo(place).rgb]
    found = sorted(images_below(place)) if place.is_dir() else []
    if not found:
        raise InputError(f"{place}: no photos to compare on: name a folder that holds some, or one photo")
    step = max(1, len(found) / MOST_PHOTOS)
    return [read_photo(found[int(index * step)]).rgb for index in range(min(MOST_PHOTOS, len(found)))]


def check_weights_place(path: Path) -> None:
    """Refuse a file whose weights would replace what is no OpenVINO file's: anything may be called NAME.bin.

    Args:
        path: the file, ending in `.xml`.

    Raises:
        OutputError: its `.bin` is there without it, or one of the two is a folder.
    """
    weights = path.with_suffix(".bin")
    for place in (path, weights):
        if place.is_dir():
            raise OutputError(f"{place}: cannot be written, a folder has this name: choose another")
    if os.path.lexists(weights) and not path.exists():
        raise OutputError(f"{path}: its weights would replace {weights}, which is not its own: choose another name")
