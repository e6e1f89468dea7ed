"""Results of an evaluation as a folder to open in a browser: tables, curves, and what went well and what did not.

The page is one file with its style and script inside, and a folder beside it with data and pictures. The data are
scripts that call a function of the page, as a page opened from a disk may read nothing else. Whatever comes from
outside (names of files, methods and sets) reaches the page as JSON or escaped, and becomes text, never markup.
"""

import hashlib
import itertools
import json
import math
import os
import re
import shutil
import tempfile
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

from birefnet._atomic import write_whole
from birefnet._threads import in_parallel
from birefnet.errors import DataError, InputError, OutputError
from birefnet.evaluation.report_curves import figures
from birefnet.evaluation.report_pictures import (
    FALSE_NEGATIVE,
    FALSE_POSITIVE,
    Case,
    Made,
    make_pictures,
    object_share,
)
from birefnet.evaluation.tables import best_rows, shown
from birefnet.metrics import LOWER_IS_BETTER

DEFAULT_MEASURE = "wF"
"""What cases are chosen by where it was measured; else the first measure is."""

Progress = Callable[[int, int], None]
"""Called with the number of steps that are done and of all steps."""

# Beside the page; the rest of the name tells its content, so that a new report never mixes with an older one.
_BESIDE = "report-"
_DIGITS = 12

# What the results say at least of a row and of an image.
_ROW = ("method", "set", "count", "summary", "images")
_IMAGE = ("name", "values")


@dataclass
class _Set:
    """One data set: its rows of the results, one for each method, and all images that any of them has."""

    name: str
    rows: list[Mapping[str, Any]]
    names: list[str] = field(default_factory=list)
    images: list[list[Mapping[str, Any] | None]] = field(default_factory=list)
    shares: list[float | None] = field(default_factory=list)
    pictures: dict[int, tuple[int, Made]] = field(default_factory=dict)

    def known(self, number: int, key: str) -> Any:
        """What the first method that has it says of an image: its photo, truth or size."""
        return next((entry[key] for entry in self.images[number] if entry is not None and entry.get(key)), None)


def write_report(
    results: Mapping[str, Any],
    folder: Path,
    *,
    cases: int = 24,
    measure: str | None = None,
    large: int = 1280,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """Write a report of an evaluation's results, in place of an older one.

    Pictures are made of the worst and the best images of each method on each set. All other images can be looked at
    too, straight from their own files, for as long as these stay where they are and are of a kind browsers show.

    Args:
        results: what an evaluation wrote as `results.json`.
        folder: where `index.html` and, in a folder beside it, data and pictures go; it is made where it is missing.
        cases: for how many images of each method and set pictures are made, half of them the worst and half the best;
            0 for all images.
        measure: what tells the worst from the best; by default "wF", or the first measure if that is missing.
        large: longest side in pixels of the pictures that are shown alone; 0 for none but the small ones.
        workers: threads that read and make pictures; by default one for each processor.
        progress: called after each step, from the calling thread.

    Returns:
        The path of `index.html`.

    Raises:
        DataError: the results are not what an evaluation wrote.
        InputError: an unknown measure or a negative number of cases.
        OutputError: the folder cannot be written to.
    """
    if cases < 0 or large < 0:
        raise InputError(f"cases={cases}, large={large}: give 0 or more")
    measures, sets = _understand(results)
    chosen = measure or (DEFAULT_MEASURE if DEFAULT_MEASURE in measures else measures[0])
    if chosen not in measures:
        raise InputError(f"measure {chosen!r} is not among the results: choose from {', '.join(measures)}")
    page = folder / "index.html"
    if page.exists() and b'id="about"' not in page.read_bytes():
        raise OutputError(f"{page}: is no report of ours and would be replaced; name another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".birefnet-", dir=folder) as scratch:
            inside = Path(scratch) / "report"
            (inside / "pictures").mkdir(parents=True)
            _fill(sets, inside / "pictures", cases=cases, measure=chosen, large=large, workers=workers, tell=progress)
            _write_data(results, sets, measures, inside, folder)
            beside = folder / f"{_BESIDE}{_digest(inside)}"
            if not beside.exists():  # else it has the very same content
                inside.rename(beside)
        write_whole(page, _page(results, sets, measures, chosen, cases, large, beside.name).encode())
        _remove_older(folder, beside)
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(f"{folder}: the report cannot be written ({error.strerror or error})") from error
    return page


def _understand(results: Mapping[str, Any]) -> tuple[list[str], list[_Set]]:
    """The measures, and the rows by set."""
    try:
        measures = [str(name) for name in results["measures"]]
        sets: dict[str, _Set] = {}
        for row in results["rows"]:
            _need(row, _ROW)
            _need(row["summary"], measures)
            sets.setdefault(row["set"], _Set(row["set"], [])).rows.append(row)
        for data in sets.values():
            found: dict[str, list[Mapping[str, Any] | None]] = {}
            for method, row in enumerate(data.rows):
                for entry in row["images"]:
                    _need(entry, _IMAGE)
                    found.setdefault(entry["name"], [None] * len(data.rows))[method] = entry
            # Where the methods' images differ, the missing ones of the first would else come last.
            data.names = sorted(found)
            data.images = [found[name] for name in data.names]
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"results.json: {error} is missing or of another kind: evaluate anew") from error
    if not measures or not sets:
        raise DataError("results.json: there are no scores in it: evaluate at least one set by one measure")
    return measures, list(sets.values())


def _need(given: Mapping[str, Any], keys: Sequence[str]) -> None:
    for key in keys:
        given[key]


def ranked(values: Sequence[float | None], measure: str) -> list[int]:
    """Numbers of the images from the worst to the best; those without a value are left out.

    Args:
        values: one for each image.
        measure: tells whether less or more is better.
    """
    sign = -1 if measure in LOWER_IS_BETTER else 1
    order = [(sign * value, number) for number, value in enumerate(values) if value is not None]
    return [number for _, number in sorted(order)]


def _values(data: _Set, method: int, measure: str) -> list[float | None]:
    entries = (entries[method] for entries in data.images)
    return [None if entry is None else _finite(entry["values"].get(measure)) for entry in entries]


def _finite(value: Any) -> float | None:
    return float(f"{value:.6g}") if isinstance(value, int | float) and math.isfinite(value) else None


def _choose(data: _Set, cases: int, measure: str) -> list[int]:
    """The images whose pictures are made."""
    if cases == 0:
        return list(range(len(data.images)))
    wanted: set[int] = set()
    for method in range(len(data.rows)):
        order = ranked(_values(data, method, measure), measure)
        wanted.update(order[: -(-cases // 2)], order[len(order) - cases // 2 :] if cases > 1 else ())
    return sorted(wanted)


def _fill(
    sets: Sequence[_Set],
    folder: Path,
    *,
    cases: int,
    measure: str,
    large: int,
    workers: int | None,
    tell: Progress | None,
) -> None:
    """Make the pictures, and measure the objects that the results do not tell the size of."""
    wanted: dict[Case, int] = {}  # a set and a part of it share their pictures
    chosen: list[tuple[_Set, int, Case]] = []
    truths: dict[str | None, float | None] = {}
    for data in sets:
        for number in _choose(data, cases, measure):
            predictions = tuple(None if entry is None else entry.get("prediction") for entry in data.images[number])
            case = Case(data.known(number, "image"), data.known(number, "truth"), predictions)
            wanted.setdefault(case, len(wanted))
            chosen.append((data, number, case))
        for number in range(len(data.images)):
            truths[data.known(number, "truth")] = data.known(number, "object")
    unknown = [truth for truth, share in truths.items() if share is None]
    steps: list[Callable[[], Any]] = [partial(object_share, truth) for truth in unknown]
    steps += [partial(make_pictures, case, number, folder, large) for case, number in wanted.items()]
    count = itertools.count(1)

    def advance() -> None:
        if tell is not None:
            tell(next(count), len(steps))

    # Threads are enough: decoding, scaling and encoding let go of Python's lock.
    done = in_parallel(lambda step: step(), steps, advance, workers)
    truths |= dict(zip(unknown, done, strict=False))
    made = done[len(unknown) :]
    for data in sets:
        data.shares = [truths[data.known(number, "truth")] for number in range(len(data.images))]
    for data, number, case in chosen:
        data.pictures[number] = (wanted[case], made[wanted[case]])


def _problems(results: Mapping[str, Any]) -> list[list[str]]:
    """All problems as rows of a table: method, set, kind, file and detail.

    A method's file has a problem once, whatever number of parts of a set it counts in.
    """
    found: dict[tuple[str, ...], list[str]] = {}
    for row in results["rows"]:
        for problem in row.get("problems") or ():
            facts = tuple(str(problem.get(key, "")) for key in ("kind", "file", "detail"))
            found.setdefault((row["method"], *facts), [row["method"], row["set"], *facts])
    return list(found.values())


def _write_data(
    results: Mapping[str, Any], sets: Sequence[_Set], measures: Sequence[str], inside: Path, folder: Path
) -> None:
    for number, data in enumerate(sets):
        _write_script(inside / f"set-{number}.js", f"set-{number}", _set_data(data, measures, folder))
    problems = _problems(results)
    _write_script(inside / "problems.js", "problems", problems)


def _write_script(path: Path, name: str, data: Any) -> None:
    path.write_text(f"birefnetReport({_json(name)},{_json(data)});\n", "ascii")


def _json(data: Any) -> str:
    """JSON that can stand in a script, in a page or in a file of its own, whatever its texts hold."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("&", r"\u0026").replace("<", r"\u003c").replace(">", r"\u003e")


def _set_data(data: _Set, measures: Sequence[str], folder: Path) -> dict[str, Any]:
    """What the page shows of a set's images, by columns, as 5,000 images times 20 measures are many numbers."""
    count = len(data.images)
    return {
        "names": [_text(name) for name in data.names],
        "sizes": [data.known(number, "size") for number in range(count)],
        "shares": [_finite(share) for share in data.shares],
        "photos": _links((data.known(number, "image") for number in range(count)), folder),
        "truths": _links((data.known(number, "truth") for number in range(count)), folder),
        "pictures": {
            number: {
                "id": file,
                "size": made.size,
                "views": made.views,
                "notes": [_text(note) for note in made.notes],
            }
            for number, (file, made) in data.pictures.items()
        },
        "methods": [_method_data(data, method, measures, folder) for method in range(len(data.rows))],
    }


def _method_data(data: _Set, method: int, measures: Sequence[str], folder: Path) -> dict[str, Any]:
    entries = [each[method] or {} for each in data.images]
    return {
        "values": {measure: _values(data, method, measure) for measure in measures},
        "predictions": _links((entry.get("prediction") for entry in entries), folder),
        "notes": {
            number: [_text(note) for note in entry["notes"]]
            for number, entry in enumerate(entries)
            if entry.get("notes")
        },
    }


def _links(paths: Iterable[Any], folder: Path) -> dict[str, Any]:
    """Addresses of files as seen from the page, their common beginning once."""
    start = os.path.realpath(folder)
    links = [None if path is None else _link(str(path), start) for path in paths]
    common = os.path.commonprefix([link for link in links if link is not None])  # noqa: RUF071 - not only of folders
    return {"start": common, "rest": [None if link is None else link[len(common) :] for link in links]}


def _link(path: str, start: str) -> str:
    try:
        relative = os.path.relpath(os.path.realpath(path), start)
    except ValueError:  # on another drive
        return Path(path).resolve().as_uri()
    return quote(Path(relative).as_posix(), errors="surrogateescape")


def _digest(folder: Path) -> str:
    """A name for a folder's content."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            total.update(f"{path.relative_to(folder).as_posix()}\n{path.stat().st_size}\n".encode())
            total.update(path.read_bytes())
    return total.hexdigest()[:_DIGITS]


def _remove_older(folder: Path, current: Path) -> None:
    pattern = re.compile(rf"{_BESIDE}[0-9a-f]{{{_DIGITS}}}")
    for path in folder.iterdir():
        if path != current and pattern.fullmatch(path.name) and (path / "problems.js").is_file():
            shutil.rmtree(path)


def _page(
    results: Mapping[str, Any],
    sets: Sequence[_Set],
    measures: Sequence[str],
    measure: str,
    cases: int,
    large: int,
    beside: str,
) -> str:
    files = resources.files("birefnet.evaluation")
    template, style, script = (
        files.joinpath(name).read_text("utf-8") for name in ("report_template.html", "report.css", "report.js")
    )
    about = {
        "folder": beside,
        "sets": [data.name for data in sets],
        "methods": [[row["method"] for row in data.rows] for data in sets],
        "measures": measures,
        "lower": [name for name in measures if name in LOWER_IS_BETTER],
        "decimals": {name: len(shown(name, 0).partition(".")[2]) for name in measures},
        "measure": measure,
        "half": -(-cases // 2) if cases else 12,
        "large": large > 0,
        "colours": [FALSE_POSITIVE, FALSE_NEGATIVE],
    }
    problems = len(_problems(results))
    methods = dict.fromkeys(row["method"] for data in sets for row in data.rows)
    # A set and a part of it have the same images.
    images = {data.known(number, "truth") or (data.name, number) for data in sets for number in range(len(data.images))}
    parts = {
        "title": _html(f"{_some(len(methods), 'method')} on {_some(len(sets), 'set')}"),
        "lead": _html(
            f"{', '.join(methods)} on {', '.join(data.name for data in sets)}: {_some(len(images), 'image')}, "
            f"scored by birefnet {results.get('birefnet', '')}."
        ),
        "summary": _summary(results["rows"], measures),
        "conventions": _conventions(results.get("conventions")),
        "problems": _some(problems, "problem") if problems else "No problems",
        "problem_state": "" if problems else "hidden",
        "curves": "".join(_curves(data, number) for number, data in enumerate(sets)),
        "about": _json(about),
        "style": style,
        "script": script,
        # The browser itself then refuses whatever is not this script or a file beside the page.
        "script_hash": b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], template)


def _curves(data: _Set, number: int) -> str:
    rows = [(_text(row["method"]), row.get("curves") or {}) for row in data.rows]
    return f'<section class="set"><h3>{_html(data.name)}</h3>{figures(rows, f"set-{number}")}</section>'


def _summary(rows: Sequence[Mapping[str, Any]], measures: Sequence[str]) -> str:
    head = [
        '<th scope="col" class="text"><button type="button" data-key="method">method</button></th>',
        '<th scope="col" class="text"><button type="button" data-key="set">set</button></th>',
        '<th scope="col"><button type="button" data-key="count">images</button></th>',
    ]
    for name in measures:
        arrow, word = ("↓", "less") if name in LOWER_IS_BETTER else ("↑", "more")
        head.append(
            f'<th scope="col"><button type="button" data-key="{_html(name)}">{_heading(name)} '
            f'<span class="way" title="{word} is better">{arrow}</span></button></th>'
        )
    best = {name: best_rows(rows, name) for name in measures}
    body = []
    for number, row in enumerate(rows):
        count = int(row["count"])
        cells = [
            f'<th scope="row" class="text">{_html(row["method"])}</th><td class="text">{_html(row["set"])}</td>'
            f'<td data-value="{count}">{count:,}</td>'
        ]
        cells.extend(_cell(name, row["summary"][name], number in best[name]) for name in measures)
        body.append(f"<tr>{''.join(cells)}</tr>")
    return f"<thead><tr>{''.join(head)}</tr></thead><tbody>{''.join(body)}</tbody>"


def _heading(measure: str) -> str:
    """A measure's name that may be broken where a new word starts, as in maxBIoU."""
    return re.sub(r"(?<=[a-z])(?=[A-Z]{2})", "<wbr>", _html(measure))


def _cell(measure: str, value: float | None, is_best: bool) -> str:
    if value is None:
        return '<td title="not defined">–</td>'
    text = show(measure, value)
    if is_best:
        text = f'<strong class="best">{text}<span class="hidden"> (best)</span></strong>'
    return f'<td data-value="{value!r}">{text}</td>'


def show(measure: str, value: float) -> str:
    """A score as the tables show it; the page does the same."""
    # No 0 before the point, as papers do: twenty columns fit on a screen so.
    return re.sub(r"^(-?)0\.", r"\1.", shown(measure, value))


def _conventions(conventions: Any) -> str:
    pairs = conventions.items() if isinstance(conventions, Mapping) else [("conventions", conventions)]
    return "".join(f"<dt>{_html(str(key))}</dt><dd>{_html(text)}</dd>" for key, text in _flat(pairs))


def _flat(pairs: Iterable[tuple[Any, Any]], before: str = "") -> Iterator[tuple[str, str]]:
    for key, value in pairs:
        if isinstance(value, Mapping):
            yield from _flat(value.items(), f"{before}{key} / ")
        else:
            yield f"{before}{key}", value if isinstance(value, str) else json.dumps(value)


def _some(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _text(text: str) -> str:
    """A text of Unicode alone: names of files may hold bytes that are no text."""
    return str(text).encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def _html(text: str) -> str:
    return escape(_text(text))
