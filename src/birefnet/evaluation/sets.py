"""Test sets and predictions on disk: which files belong together, and which are left over."""

from dataclasses import dataclass
from pathlib import Path

from birefnet.data.pairs import images_below
from birefnet.errors import DataError

TASK_FOLDERS = {
    "DIS5K": "dis",
    "COD": "cod",
    "HRSOD": "sod",
    "SOD": "sod",
    "Matting": "matting",
    "General": "general",
    "General-2K": "general",
}
"""Folder of the layout ROOT/TASK/SET -> task of its sets."""

IMAGES, TRUTHS = "im", "gt"

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
"""What is taken for a photo, a mask or a prediction in a folder."""

# Names that say what a folder holds, and not which set it belongs to.
_NAMELESS = ("gt", "gts", "mask", "masks", "truth", "alpha", "label", "labels")


@dataclass(frozen=True)
class Problem:
    """Something about a file that a reader of the scores should know.

    Attributes:
        kind: one of a few words, such as "missing-prediction".
        file: the path, as the user would write it.
        detail: what is the matter, in a few words.
    """

    kind: str
    file: str
    detail: str


@dataclass(frozen=True)
class TruthSet:
    """A set of truth masks, with the photos they belong to where those are known.

    Attributes:
        name: what tables call it.
        truth: folder of the masks, or a single mask.
        images: folder of the photos, None where none is known.
        task: the task whose measures it is judged by, None where the layout does not say.
    """

    name: str
    truth: Path
    images: Path | None = None
    task: str | None = None


@dataclass(frozen=True)
class Item:
    """One prediction and its truth.

    Attributes:
        name: path below the set's folder without the suffix, which truth, photo and prediction share.
        truth: path of the mask.
        image: path of the photo, None where it is not known.
        prediction: path of the predicted map, None where it is still to be made.
    """

    name: str
    truth: Path
    image: Path | None = None
    prediction: Path | None = None

    @property
    def source(self) -> str:
        """The part of the name before the first "-": where a mixed set's photo comes from."""
        return self.name.split("-", 1)[0]


@dataclass(frozen=True)
class Entry:
    """A method on a set, which becomes one row of the table.

    Attributes:
        method: name of the method or model.
        data: name of the set.
        task: the set's task, None where it is not known.
        items: what is scored, in the order of names.
        problems: files that do not match.
        part_of: name of the set that this one is a part of, None where it is whole.
    """

    method: str
    data: str
    task: str | None
    items: tuple[Item, ...]
    problems: tuple[Problem, ...] = ()
    part_of: str | None = None


def named_set(name: str | None, folder: Path) -> TruthSet:
    """Describe a set by the folder of its masks, or by one that holds them in gt/ (and its photos in im/).

    Args:
        name: what to call it; by default the folder's name, or that of the folder around it where it is called gt.
        folder: the folder, or a single mask.

    Raises:
        DataError: there is no such folder.
    """
    if not folder.exists():
        raise DataError(f"{folder}: no such folder: name the one that holds the truth masks")
    truth = folder / TRUTHS if (folder / TRUTHS).is_dir() else folder
    home = truth.parent if truth.is_dir() and truth.name.lower() in _NAMELESS else truth
    images = truth.parent / IMAGES if truth.name == TRUTHS else None
    called = home.stem if home.is_file() else home.resolve().name
    task = TASK_FOLDERS.get(home.resolve().parent.name)
    return TruthSet(name or called, truth, images if images is not None and images.is_dir() else None, task)


def data_sets(folder: Path) -> list[TruthSet]:
    """Find the set in a folder with im/ and gt/, or the sets one or two floors below it (ROOT/TASK/SET).

    Raises:
        DataError: there is none.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder: a data set has its photos in im/ and its masks in gt/")
    if (folder / TRUTHS).is_dir():
        return [named_set(None, folder)]
    found = sorted({path.parent for depth in ("*", "*/*") for path in folder.glob(f"{depth}/{TRUTHS}")})
    if not found:
        raise DataError(f"{folder}: no data set: neither it nor a folder below it has its masks in gt/")
    return [named_set(None, path) for path in found]


def match_predictions(method: str, folder: Path, data: TruthSet, *, only: bool) -> Entry:
    """Pair a method's predictions with the truth of a set by their names without suffix.

    Args:
        method: name of the method.
        folder: its predictions: in `folder`/SET, `folder`/TASK/SET or, for a single set, in `folder` itself; or one
            predicted map for one mask.
        data: the set.
        only: whether the method is judged on this set alone.

    Raises:
        DataError: there are no predictions, no truth, or two masks of one name.
    """
    if not folder.exists():
        raise DataError(f"{folder}: no such file or folder: name the one with the predictions of {method}")
    if folder.is_file() or data.truth.is_file():
        if folder.is_dir() or data.truth.is_dir():
            raise DataError(f"{folder} and {data.truth}: one is a file, the other a folder; name two of a kind")
        return Entry(method, data.name, data.task, (Item(data.truth.stem, data.truth, prediction=folder),))
    place = _predictions_of(folder, data, only=only)
    truths, images = _truths(data), _images(data)
    found, twins = _by_name(place, "predictions")
    problems = [
        Problem("missing-prediction", str(place / name), f"there is no such file for {truths[name]}")
        for name in sorted(truths.keys() - found.keys())
    ]
    problems += [
        Problem("extra-prediction", str(found[name]), f"no mask of this name in {data.truth}")
        for name in sorted(found.keys() - truths.keys())
    ]
    problems += [Problem("duplicate-prediction", str(path), "not used: there is another of its name") for path in twins]
    items = (Item(name, truths[name], images.get(name), found[name]) for name in truths if name in found)
    return Entry(method, data.name, data.task, tuple(items), tuple(problems))


def match_photos(method: str, data: TruthSet) -> Entry:
    """Pair the photos of a set, which a model is to predict, with their truth.

    Raises:
        DataError: there are no photos, no truth, or two masks of one name.
    """
    if data.images is None:
        raise DataError(f"{data.truth}: no photos: a data set has its photos in im/ beside its masks in gt/")
    truths, (images, twins) = _truths(data), _by_name(data.images, "photos")
    problems = [Problem("duplicate-image", str(path), "not used: there is another of its name") for path in twins]
    problems += [
        Problem("missing-image", str(data.images / name), f"there is no such photo for {truths[name]}")
        for name in sorted(truths.keys() - images.keys())
    ]
    problems += [
        Problem("missing-truth", str(images[name]), f"no mask of this name in {data.truth}")
        for name in sorted(images.keys() - truths.keys())
    ]
    items = (Item(name, truths[name], images[name]) for name in truths if name in images)
    return Entry(method, data.name, data.task, tuple(items), tuple(problems))


def by_source(entry: Entry) -> list[Entry]:
    """Part a mixed set by where its photos come from: the set itself, and SET/SOURCE for each of several sources."""
    sources = sorted({item.source for item in entry.items})
    if len(sources) < 2:
        return [entry]
    parts = [
        Entry(
            entry.method,
            f"{entry.data}/{source}",
            entry.task,
            tuple(item for item in entry.items if item.source == source),
            part_of=entry.data,
        )
        for source in sources
    ]
    return [entry, *parts]


def _predictions_of(folder: Path, data: TruthSet, *, only: bool) -> Path:
    tasks = [task for task, short in TASK_FOLDERS.items() if short == data.task]
    for place in (folder / data.name, *(folder / task / data.name for task in tasks)):
        if place.is_dir():
            return place
    if not only:
        raise DataError(
            f"{folder}: holds no folder {data.name}: where there are several sets, each has a folder of its name"
        )
    return folder


def _truths(data: TruthSet) -> dict[str, Path]:
    truths, twins = _by_name(data.truth, "masks")
    if twins:
        raise DataError(f"{twins[0]}: has the same name as another mask but for its suffix: keep one of the two")
    return truths


def _images(data: TruthSet) -> dict[str, Path]:
    """Photos that show what was predicted; scores do without them."""
    return (
        {}
        if data.images is None or not any(images_below(data.images, IMAGE_SUFFIXES))
        else _by_name(data.images, "photos")[0]
    )


def _by_name(folder: Path, kind: str) -> tuple[dict[str, Path], list[Path]]:
    """Images in a folder and below it by their names, in the order of these, and those whose name is taken."""
    found: dict[str, Path] = {}
    twins = []
    for path in sorted(images_below(folder, IMAGE_SUFFIXES)):
        if _is_special(path):
            continue
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in found:
            twins.append(path)
        else:
            found[name] = path
    if not found:
        raise DataError(f"{folder}: holds no {kind} ({', '.join(IMAGE_SUFFIXES)})")
    return dict(sorted(found.items())), twins


def _is_special(path: Path) -> bool:
    """Whether a name is of a pipe, a socket or a device, which would be waited for without end."""
    return path.exists() and not path.is_file()
