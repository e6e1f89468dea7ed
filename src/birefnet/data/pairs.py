"""Finding the photos of a data set and their masks, in the layouts that data sets come in."""

import csv
import io
import os
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from birefnet.classes import DIS5K_CLASSES
from birefnet.errors import DataError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
"""What is taken for a photo or a mask in a folder."""

IMAGE_FOLDERS = ("im", "images", "image", "imgs", "img")
MASK_FOLDERS = ("gt", "masks", "mask", "gts", "mattes", "alpha")
"""Folders of a data set, those of the reference first: where there are several, the first one is taken."""

MARKS = ("mask", "masks", "matte", "alpha", "gt", "label", "seg")
"""Words that the name of a mask may have behind its photo's, after "_", "-" or "."."""

JOIN = "+"

_LISTED = 5
_HOME = "a data set has its photos in im/ and its masks in gt/"


@dataclass(frozen=True)
class Pair:
    """A photo and its mask.

    Attributes:
        name: path of the photo below its folder, without the suffix: what mask and photo share.
        image: path of the photo.
        mask: path of the mask, 255 for foreground.
        data: name of the data set.
        category: index into `birefnet.classes.DIS5K_CLASSES`, None where it is not known.
    """

    name: str
    image: Path
    mask: Path
    data: str = ""
    category: int | None = None

    @property
    def source(self) -> str:
        """The part of the file's name before the first "-": where a mixed data set's photo comes from."""
        return self.name.rsplit("/", 1)[-1].split("-", 1)[0]


@dataclass(frozen=True)
class Problem:
    """Something that is the matter with a file of a data set.

    Attributes:
        kind: one of a few words, such as "no-mask".
        file: the path, as the user would write it.
        detail: what is the matter, in a few words, and what to do about it.
        stops: whether the set cannot be trained on, or would teach what is wrong; else it is only worth knowing.
    """

    kind: str
    file: str
    detail: str
    stops: bool = True


@dataclass(frozen=True)
class Found:
    """What a search came upon.

    Attributes:
        pairs: photos with exactly one mask, in the order of data sets and names.
        problems: files that belong to no pair; all of them stop a training.
        notes: what was chosen where there was a choice, a line each.
    """

    pairs: tuple[Pair, ...]
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()


def find_pairs(spec: str | Path, masks: Path | None = None) -> list[Pair]:
    """Match photos and masks one to one, in the order of data sets and names.

    Args:
        spec: as in `discover`.
        masks: as in `discover`.

    Raises:
        DataError: there is no such data set, it is empty, or photos and masks do not match one to one.
    """
    found = discover(spec, masks)
    for kind, say in _REFUSALS.items():
        files = [problem for problem in found.problems if problem.kind == kind]
        if files:
            raise DataError(say(str(spec), files))
    return list(found.pairs)


def discover(spec: str | Path, masks: Path | None = None) -> Found:
    """Match photos and masks, and list what does not match.

    Args:
        spec: one of
            a folder with photos in im/ and masks in gt/, or the other names in `IMAGE_FOLDERS` and `MASK_FOLDERS`;
            a folder with both, where the masks' names carry one of `MARKS`, such as cat.jpg and cat_mask.png;
            a CSV file with the columns image, mask and, if wanted, class (its name or index), where paths are relative
            to the file's folder;
            several of these joined with "+", each beside the first or a path of its own: ROOT/TASK/SET1+SET2;
            with `masks`, the folder of the photos.
        masks: folder of the masks, where `spec` is that of the photos.

    Folders are searched with all below them. Names match without their suffix: a mask's is its photo's, or that with a
    mark (cat.png, cat_mask.png, cat-alpha.png).

    Raises:
        DataError: there is no such data set, or it holds no photos or no masks.
    """
    if masks is not None:
        images = Path(spec)
        for folder, kind in ((images, "photos"), (masks, "masks")):
            if not folder.is_dir():
                raise DataError(f"{folder}: no such folder: name the one that holds the {kind}")
        return _match(images, masks, images.resolve().name)
    parts = [_discover_one(path) for path in split_spec(spec)]
    return Found(
        tuple(pair for part in parts for pair in part.pairs),
        tuple(problem for part in parts for problem in part.problems),
        tuple(note for part in parts for note in part.notes),
    )


def class_of(mask_name: str) -> int | None:
    """Tell the category of a DIS5K mask: the fourth field of its file's name, between "#".

    Args:
        mask_name: such as "1#Accessories#1#Bag#3292738108_d1827bc0ef_o.png".

    Returns:
        Index into `birefnet.classes.DIS5K_CLASSES`, None where the name tells none.
    """
    fields = Path(mask_name).stem.split("#")
    return _CATEGORIES.get(fields[3]) if len(fields) > 3 else None


_CATEGORIES = {name: index for index, name in enumerate(DIS5K_CLASSES)}


def split_spec(spec: str | Path) -> list[Path]:
    """Part data sets joined with "+": ROOT/SET1+SET2 -> ROOT/SET1, ROOT/SET2. A "+" in a name that exists stays.

    Raises:
        DataError: one of them does not exist.
    """
    pieces = str(spec).split(JOIN)
    found: list[Path] = []
    while pieces:
        for count in range(len(pieces), 0, -1):
            text = JOIN.join(pieces[:count])
            # Beside the first, unless it is a path of its own.
            places = [*([found[0].parent / text] if found else []), Path(text)]
            existing = [place for place in places if text and place.exists()]
            if existing:
                break
        else:
            piece = places[0] if pieces[0] else Path(str(spec))
            raise DataError(f"{piece}: no such folder or file: {_HOME}; several are joined as ROOT/SET1+SET2")
        found.append(existing[0])
        pieces = pieces[count:]
    return found


def images_below(folder: Path, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> Iterator[Path]:
    """Find the image files in a folder and below it, following links but never in a circle; hidden ones are left out.

    The order is the file system's.

    Raises:
        DataError: a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename}: the folder cannot be read ({error.strerror})")

    seen = set()
    for parent, folders, names in os.walk(folder, followlinks=True, onerror=refuse):
        place = Path(parent).resolve()
        if place in seen:
            folders.clear()
            continue
        seen.add(place)
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(parent) / name
            if not name.startswith(".") and path.suffix.lower() in suffixes:
                yield path


# --- one data set ---


def _discover_one(place: Path) -> Found:
    if place.is_file():
        if place.suffix.lower() not in (".csv", ".tsv"):
            raise DataError(f"{place}: a file that is no .csv: name a folder; {_HOME}")
        return _from_table(place)
    images = [place / name for name in IMAGE_FOLDERS if (place / name).is_dir()]
    masks = [place / name for name in MASK_FOLDERS if (place / name).is_dir()]
    if not images and not masks and _is_mixed(place):
        return _match(place, place, place.resolve().name)
    if not images or not masks:
        raise DataError(_no_layout(place, images, masks))
    found = _match(images[0], masks[0], place.resolve().name)
    usual = (images[0].name, masks[0].name) == (IMAGE_FOLDERS[0], MASK_FOLDERS[0])
    if usual and len(images) == len(masks) == 1:
        return found
    others = ", ".join(f"{path.name}/" for path in (*images[1:], *masks[1:]))
    note = f"{place}: photos are taken from {images[0].name}/, masks from {masks[0].name}/"
    return Found(found.pairs, found.problems, (note + f"; not used: {others}" * bool(others), *found.notes))


def _is_mixed(place: Path) -> bool:
    """Whether a folder holds masks beside their photos, told apart by marks."""
    files = list(images_below(place))
    names = {_name(path, place) for path in files}
    return any(_name(path, place)[: -len(mark)] in names for path in files if (mark := _mark_of(path.stem)))


def _no_layout(place: Path, images: list[Path], masks: list[Path]) -> str:
    if not images and not masks:
        sets = sorted(path.parent.relative_to(place) for d in ("*", "*/*") for path in place.glob(f"{d}/gt"))
        if sets:
            joined = place / sets[0].parent / JOIN.join(s.name for s in sets if s.parent == sets[0].parent)
            return f"{place}: holds {len(sets)} data sets, and is none: name one, or join several, such as {joined}"
    return f"{place / ('gt' if images else 'im')}: no such folder: {_HOME}"


def _match(images: Path, masks: Path, data: str) -> Found:
    """Match the files of two folders by name; of one folder, where masks carry marks."""
    together = images.resolve() == masks.resolve()
    photos: dict[str, list[Path]] = {}
    for path in sorted(images_below(images)):
        if not (together and _mark_of(path.stem)):
            photos.setdefault(_name(path, images), []).append(path)
    if not photos:
        raise DataError(f"{images}: holds no photos ({', '.join(IMAGE_SUFFIXES)})")
    candidates = [path for path in sorted(images_below(masks)) if not together or _mark_of(path.stem)]
    if not candidates:
        raise DataError(f"{masks}: holds no masks ({', '.join(IMAGE_SUFFIXES)})")
    owned: dict[str, list[Path]] = {}
    lonely = []
    for path in candidates:
        name = _name(path, masks)
        # A name that is a photo's own comes first: of photos a and a_mask, a_mask.png belongs to the second.
        for guess in (name, name[: len(name) - len(_mark_of(path.stem))]):
            if guess in photos and not (together and guess == name):
                owned.setdefault(guess, []).append(path)
                break
        else:
            lonely.append(path)
    pairs, problems = [], []
    for name, paths in sorted(photos.items()):
        problem = _unfit(paths, owned.get(name, []))
        if problem is None:
            mask = owned[name][0]
            pairs.append(Pair(name, paths[0], mask, data, class_of(mask.name)))
        else:
            problems.append(problem)
    problems += [Problem("no-photo", str(path), f"has no photo of its name in {images}") for path in lonely]
    return Found(tuple(pairs), tuple(problems))


def _unfit(photos: list[Path], masks: list[Path]) -> Problem | None:
    if len(photos) > 1:
        others = ", ".join(path.name for path in photos[:-1])
        return Problem("same-name", str(photos[-1]), f"has the same stem as {others}: keep one of them")
    if not masks:
        return Problem("no-mask", str(photos[0]), "has no mask: add one under the same stem, or remove it")
    if len(masks) > 1:
        listed = ", ".join(path.name for path in masks)
        return Problem("several-masks", str(photos[0]), f"has {len(masks)} masks ({listed}): keep one of them")
    return None


def _name(path: Path, folder: Path) -> str:
    # Some systems store an accented letter as two characters: the same name must stay the same.
    return unicodedata.normalize("NFC", path.relative_to(folder).with_suffix("").as_posix())


def _mark_of(stem: str) -> str:
    """Find the mark at the end of a mask's name with what parts it from the photo's: "cat_mask" -> "_mask"."""
    for mark in MARKS:
        if len(stem) > len(mark) + 1 and stem[-len(mark) - 1] in "_-." and stem.lower().endswith(mark):
            return stem[-len(mark) - 1 :]
    return ""


# --- tables ---


def _from_table(path: Path) -> Found:
    rows = _rows(path)
    pairs: list[Pair] = []
    problems = []
    taken: dict[str, int] = {}
    for line, row in rows:
        image, mask = path.parent / row["image"], path.parent / row["mask"]
        name = unicodedata.normalize("NFC", Path(row["image"]).with_suffix("").as_posix())
        missing = [file for file in (image, mask) if not file.is_file()]
        if missing:
            problems.append(Problem("missing-file", str(missing[0]), f"is named in {path}, line {line}, but not there"))
            continue
        if name in taken:
            detail = f"has the same name as the photo of line {taken[name]} in {path}, line {line}: keep one of them"
            problems.append(Problem("same-name", str(image), detail))
            continue
        taken[name] = line
        text = row.get("class", "")
        category = _category(text) if text else class_of(mask.name)
        if text and category is None:
            detail = f"line {line}: unknown class {text!r}: use a name of DIS5K's or its index, or leave it empty"
            problems.append(Problem("unknown-class", str(path), detail))
        pairs.append(Pair(name, image, mask, path.stem, category))
    return Found(tuple(sorted(pairs, key=lambda pair: pair.name)), tuple(problems))


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Read the rows that have a photo and a mask, each with its line, columns by their names in small letters."""
    try:
        # With the mark that spreadsheets put before the text.
        text = path.read_text(encoding="utf-8-sig")
        head = text.partition("\n")[0]
        separator = max(",;\t", key=head.count)
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        columns = [column.strip().lower() for column in next(reader, [])]
        cells = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as a table ({error}): save it as CSV in UTF-8") from error
    if not {"image", "mask"} <= set(columns):
        raise DataError(f"{path}: its first line must name the columns image and mask, not {head.strip()[:60]!r}")
    rows = []
    for line, row in cells:
        values = dict(zip(columns, row, strict=False))
        if not values.get("image") or not values.get("mask"):
            raise DataError(f"{path}: line {line} lacks a photo or a mask: fill in both, or remove the line")
        rows.append((line, values))
    if not rows:
        raise DataError(f"{path}: holds no photos: each line names a photo and its mask")
    return rows


def _category(text: str) -> int | None:
    if text.isdecimal():
        return int(text) if int(text) < len(DIS5K_CLASSES) else None
    return _CATEGORIES.get(text)


# --- refusals ---


def _list_names(files: Iterable[Problem]) -> str:
    names = [Path(problem.file).name for problem in files]
    return ", ".join(names[:_LISTED]) + (", ..." if len(names) > _LISTED else "")


def _refuse_lonely(kind: str, missing: str) -> Callable[[str, list[Problem]], str]:
    return lambda spec, files: (
        f"{spec}: {len(files)} {kind} have no {missing} ({_list_names(files)}): "
        "add the missing files under the same stem, or remove these; 'birefnet data check' lists all"
    )


def _refuse_first(spec: str, files: list[Problem]) -> str:
    more = f" ({len(files)} such in {spec}: 'birefnet data check' lists all)" if len(files) > 1 else ""
    return f"{files[0].file}: {files[0].detail}{more}"


_REFUSALS: dict[str, Callable[[str, list[Problem]], str]] = {
    "same-name": _refuse_first,
    "several-masks": _refuse_first,
    "missing-file": _refuse_first,
    "unknown-class": _refuse_first,
    "no-mask": _refuse_lonely("photos", "mask"),
    "no-photo": _refuse_lonely("masks", "photo"),
}
