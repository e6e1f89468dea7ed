"""From what a user names to pairs of files: photos to read and results to write."""

import glob
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from birefnet.errors import InputError

PHOTO_SUFFIXES = frozenset(
    [
        ".avif",
        ".bmp",
        ".gif",
        ".jfif",
        ".jp2",
        ".jpe",
        ".jpeg",
        ".jpg",
        ".pbm",
        ".pgm",
        ".png",
        ".pnm",
        ".ppm",
        ".tga",
        ".tif",
        ".tiff",
        ".webp",
    ]
)
"""What is taken for a photo in a folder; a file that is named itself is tried whatever its name."""


@dataclass(frozen=True)
class Job:
    """A photo to read and the file to write for it."""

    source: Path
    target: Path


def plan(inputs: Iterable[str | Path], output: str | Path | None, *, kind: str, suffix: str = ".png") -> list[Job]:
    """Pair each photo with the file to write.

    Args:
        inputs: files, folders (searched through, their tree is kept) and glob patterns.
        output: a file for a single photo; a folder, which need not exist yet where its name ends in a slash; a pattern
            with {stem} and {kind}, such as "cut/{stem}.webp". By default results lie beside their photos as
            STEM-KIND.SUFFIX, and those of a folder in a folder beside it, named FOLDER-KIND.
        kind: what is made, for names.
        suffix: format of the results, where `output` does not say.

    Raises:
        InputError: a pattern or folder without photos, one file for several photos, two photos for one file, or a
            result that would replace a photo.
    """
    found = [(source, root) for item in inputs for source, root in _expand(str(item))]
    text = None if output is None else str(output)
    folder = text is not None and _is_folder(text, found)
    if text is not None and folder:
        # Results may go into the folder that is searched; they are no photos the next time.
        results = os.path.realpath(text) + os.sep
        found = [(s, root) for s, root in found if root is None or not os.path.realpath(s).startswith(results)]
    if text is not None and not folder and "{stem}" not in text and len(found) > 1:
        raise InputError(
            f"-o {text}: {len(found)} photos cannot go into one file; name a folder, ending it with a slash"
        )
    jobs, taken = [], dict[str, Path]()
    photos = {os.path.realpath(source) for source, _ in found}
    # Photos of a folder that differ in their suffix alone keep it: a.jpg and a.png become a.jpg.png and a.png.png.
    alike = Counter((source.parent, source.stem) for source, root in found if root is not None)
    for source, root in found:
        stem = source.stem if alike[source.parent, source.stem] < 2 else source.name
        target = _target(source, stem, root, text if not folder else None, text if folder else None, kind, suffix)
        real = os.path.realpath(target)
        if real in photos:
            raise InputError(f"{target}: is a photo to cut out and would be replaced; choose another -o")
        if real in taken:
            raise InputError(f"{taken[real]} and {source} would both be written to {target}; use a folder for each")
        taken[real] = source
        jobs.append(Job(source, target))
    return jobs


def _is_folder(output: str, found: list[tuple[Path, Path | None]]) -> bool:
    """Whether -o names a folder: one that exists, is marked by a slash, or must take the tree of another."""
    if "{stem}" in output:
        return False
    searched = any(root is not None for _, root in found)
    return os.path.isdir(output) or output.endswith(("/", os.sep)) or searched  # noqa: PTH112 - see _expand


def _target(
    source: Path, stem: str, root: Path | None, pattern: str | None, folder: str | None, kind: str, suffix: str
) -> Path:
    if pattern is not None:
        return Path(pattern.replace("{stem}", stem).replace("{kind}", kind))
    if root is None:
        return Path(folder or source.parent) / f"{stem}-{kind}{suffix}"
    place = Path(folder) if folder else root.resolve().with_name(f"{root.resolve().name}-{kind}")
    return place / source.parent.relative_to(root) / f"{stem}{suffix}"


def _expand(item: str) -> Iterator[tuple[Path, Path | None]]:
    """Photos that an input stands for, each with the folder that was searched, if one was."""
    if os.path.isdir(item):  # noqa: PTH112 - pathlib raises where a name is too long
        photos = sorted(_photos_below(Path(item)))
        if not photos:
            raise InputError(f"{item}: no photos in this folder or below it")
        yield from ((photo, Path(item)) for photo in photos)
    elif glob.has_magic(item) and not os.path.lexists(item):
        matches = sorted(glob.glob(item, recursive=True))  # noqa: PTH207 - patterns may be absolute
        if not matches:
            raise InputError(f"{item}: no file matches")
        for match in matches:
            if not Path(match).is_dir():
                yield Path(match), None
    else:
        yield Path(item), None  # one that does not exist is reported with the others that cannot be read


def _photos_below(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if not name.startswith(".") and Path(name).suffix.lower() in PHOTO_SUFFIXES:
                yield Path(parent) / name
