"""Finding the photos of a data set and their masks."""

from dataclasses import dataclass
from pathlib import Path

from birefnet.errors import DataError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")

_LISTED = 5


@dataclass(frozen=True)
class Pair:
    """A photo and its mask.

    Attributes:
        name: the file stem that both share.
        image: path of the photo.
        mask: path of the mask, 255 for foreground.
    """

    name: str
    image: Path
    mask: Path

    @property
    def source(self) -> str:
        """The part of the name before the first "-": where a mixed data set's photo comes from."""
        return self.name.split("-", 1)[0]


def find_pairs(folder: Path) -> list[Pair]:
    """Match the photos of folder/im with the masks of folder/gt by file stem, in the order of their names.

    Raises:
        DataError: a folder is missing or holds no image, or photos and masks do not match one to one.
    """
    images = _by_stem(folder / "im", "photos")
    masks = _by_stem(folder / "gt", "masks")
    for found, others, kind, missing in (
        (images, masks, "photos", "mask"),
        (masks, images, "masks", "photo"),
    ):
        lonely = sorted(found[stem].name for stem in found.keys() - others.keys())
        if lonely:
            listed = ", ".join(lonely[:_LISTED]) + (", ..." if len(lonely) > _LISTED else "")
            raise DataError(
                f"{folder}: {len(lonely)} {kind} have no {missing} ({listed}): "
                "add the missing files under the same stem, or remove these"
            )
    return [Pair(stem, images[stem], masks[stem]) for stem in sorted(images)]


def _by_stem(folder: Path, kind: str) -> dict[str, Path]:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder: a data set has its photos in im/ and its masks in gt/")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in IMAGE_SUFFIXES or path.name.startswith("."):
            continue
        if path.stem in found:
            raise DataError(f"{path}: has the same stem as {found[path.stem].name}: keep one of the two")
        found[path.stem] = path
    if not found:
        raise DataError(f"{folder}: holds no {kind} ({', '.join(IMAGE_SUFFIXES)})")
    return found
