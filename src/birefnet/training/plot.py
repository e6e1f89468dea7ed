"""What a run looks like: its log as curves, and predictions of its last validation beside the truth.

`plot` makes both pictures from the folder of a run alone, also while it goes on, and needs no torch for it.
"""

import io
import json
import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from birefnet._atomic import write_whole
from birefnet._extras import require
from birefnet.errors import DataError, OutputError
from birefnet.metrics.scorer import LOWER_IS_BETTER
from birefnet.training.log import NO_LOSSES, Line, flattened, read_log, training_lines, validation_lines

CURVES = "curves.png"
MASKS = "masks.png"
VALIDATION = "validation"

Pixels = NDArray[np.uint8]
Numbers = NDArray[np.float64]

_INDEX = "samples.json"
_THUMB = 320

# The palette of Okabe and Ito, which colour-blind people can tell apart; black is the sum of the losses.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#B8A800")
_FALSE, _MISSED = (213, 94, 0), (0, 140, 220)

_POINTS_SMOOTHED = 40  # about so many independent points are left of a curve
_MOST_SIZES = 6
_MUCH_LARGER = 5
_HEADROOM = 0.25


@dataclass(frozen=True)
class Sample:
    """A photo of the validation, with what the network made of it.

    Attributes:
        name: what photo it is.
        photo: uint8 (H, W, 3), RGB.
        truth: uint8 (H, W), 255 for foreground.
        prediction: uint8 (H, W), of the same size.
        scores: its own measures, by name.
        valid: bool (H, W), where the truth is known; None for everywhere.
    """

    name: str
    photo: Pixels
    truth: Pixels
    prediction: Pixels
    scores: Mapping[str, float] = field(default_factory=dict)
    valid: NDArray[np.bool_] | None = None


def plot(run: Path) -> list[Path]:
    """Draw curves.png and, where a validation has left samples, masks.png in the folder of a run.

    Returns:
        The files that were written.

    Raises:
        DataError: it is no folder of a run, or its files are damaged.
        OutputError: a picture cannot be written.
        MissingExtraError: matplotlib is not installed.
    """
    made = [plot_curves(run)]
    title, samples = load_samples(run)
    if samples:
        made.append(contact_sheet(samples, run / MASKS, title))
    return made


# --- curves ---------------------------------------------------------------------------------------------------------


def plot_curves(run: Path) -> Path:
    """Draw the log of a run: losses, validation, learning rate, gradient and speed over the steps.

    Faint lines are what the log holds, strong ones are smoothed. A dotted vertical line marks where the run was
    resumed.

    Returns:
        The file, curves.png in the folder of the run.

    Raises:
        DataError: there is no such folder, or the log is damaged.
        OutputError: the picture cannot be written.
        MissingExtraError: matplotlib is not installed.
    """
    if not run.is_dir():
        raise DataError(f"{run}: no such folder: name the folder of a run")
    lines = read_log(run)
    # Figures of its own and a canvas without a screen: nothing of matplotlib's global state is touched.
    figure = require("matplotlib.figure", extra="train").Figure(figsize=(16, 8.4), layout="constrained")
    require("matplotlib.backends.backend_agg", extra="train").FigureCanvasAgg(figure)
    trained, validated = training_lines(lines), validation_lines(lines)
    panels: Sequence[tuple[str, Callable[[Any], None]]] = (
        ("losses", lambda axes: _draw_losses(axes, trained)),
        ("validation: higher is better", lambda axes: _draw_validation(axes, validated, lower=False)),
        ("validation: lower is better", lambda axes: _draw_validation(axes, validated, lower=True)),
        ("learning rate", lambda axes: _draw_rate(axes, trained)),
        ("norm of the gradient", lambda axes: _draw_norm(axes, trained)),
        ("images a second", lambda axes: _draw_speed(axes, trained)),
    )
    resumed = sorted({line["step"] for line in lines if line.get("event") == "resumed"})
    last = max((line["step"] for line in lines), default=0)
    for axes, (title, draw) in zip(figure.subplots(2, 3).flat, panels, strict=True):
        axes.set_title(title, loc="left", fontsize=12, fontweight="bold")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.set_axisbelow(True)
        draw(axes)
        if not axes.has_data():
            axes.text(0.5, 0.5, "nothing yet", transform=axes.transAxes, ha="center", va="center", color="#7F7F7F")
            axes.tick_params(labelleft=False, labelbottom=False)
            continue
        axes.set_xlim(0, max(1, last) * 1.02)
        axes.set_xlabel("step")
        axes.xaxis.set_major_formatter(_thousands)
        for step in resumed:
            axes.axvline(step, color="#7F7F7F", linewidth=1, linestyle=":", zorder=0)
    figure.suptitle(_headline(trained, validated, len(resumed)), fontsize=13, x=0.01, ha="left")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    write_whole(run / CURVES, buffer.getvalue())
    return run / CURVES


def _draw_losses(axes: Any, lines: Sequence[Line]) -> None:
    """The loss and its terms; on a log scale, where all are above 0, because terms differ by orders of magnitude."""
    names = [name for name in _names(lines) if name not in NO_LOSSES and _is_number(lines, name)]
    names.sort(key=lambda name: name != "loss")
    positive = True
    for name, colour in zip(names, ("#000000", *_COLOURS, *_COLOURS), strict=False):
        steps, values = _series(lines, name)
        _curve(axes, steps, values, colour, name, width=2.2 if name == "loss" else 1.5)
        positive = positive and bool((values[np.isfinite(values)] > 0).all())
    if not names:
        return
    if positive:
        axes.set_yscale("log")
    # Room above the curves, which fall, for the legend and the sizes.
    low, high = axes.get_ylim()
    axes.set_ylim(low, high * (high / low) ** _HEADROOM if positive else high + (high - low) * _HEADROOM)
    if positive:
        _plain_log_ticks(axes)
    columns = {"columnspacing": 1.0, "ncols": 3 if len(names) > 4 else 2, "loc": "upper right"}
    _legend(axes, len(names), **columns, bbox_to_anchor=(1, 0.96))
    _mark_sizes(axes, lines)


def _draw_validation(axes: Any, lines: Sequence[Line], *, lower: bool) -> None:
    """Measures of one direction, each with its best value marked and told."""
    flat = [{"step": line["step"], **flattened(line["val"])} for line in lines]
    names = [name for name in _names(flat) if name != "step" and is_lower_better(name) == lower]
    curves = []
    for name in names[: len(_COLOURS)]:
        steps, values = _series(flat, name)
        known = np.isfinite(values)
        if known.any():
            curves.append((name, steps[known], values[known], (values[known].min if lower else values[known].max)()))
    if not curves:
        return
    bests = [abs(best) for *_, best in curves]
    # Measures of very different size, as a loss and the MAE are, share a panel by what they are of their best.
    relative = min(bests) > 0 and max(bests) > _MUCH_LARGER * min(bests)
    for (name, steps, values, best), colour in zip(curves, _COLOURS, strict=False):
        shown = values / best if relative else values
        first = int((values == best).argmax())
        axes.plot(steps, shown, color=colour, linewidth=1.6, marker="o", markersize=3.5)
        axes.plot(
            *(steps[first], shown[first]),
            **{"color": colour, "marker": "*", "markersize": 13, "markeredgecolor": "w"},
            label=f"{_label(name)}   best {best:.4g}",
        )
    if relative:
        axes.set_ylabel("times the best")
    _legend(axes, len(curves))


def _draw_rate(axes: Any, lines: Sequence[Line]) -> None:
    steps, values = _series(lines, "rate")
    if len(steps):
        axes.plot(steps, values, color=_COLOURS[0], linewidth=2, marker="o" if len(steps) == 1 else None)
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")


def _draw_norm(axes: Any, lines: Sequence[Line]) -> None:
    """The mean norm, and the worst of each interval; ticks below tell of skipped steps."""
    steps, values = _series(lines, "norm")
    if not np.isfinite(values).any():
        return
    worst_steps, worst = _series(lines, "worst_norm")
    if np.isfinite(worst).any():
        style = {"linewidth": 0.8, "alpha": 0.6, "marker": "o" if len(worst) == 1 else None}
        axes.plot(worst_steps, worst, color=_COLOURS[1], label="worst of each interval", **style)
    _curve(axes, steps, values, _COLOURS[0], "mean")
    axes.set_yscale("log")
    _plain_log_ticks(axes)
    skips = [line["step"] for line in lines if line.get("skipped")]
    if skips:
        count = sum(line["skipped"] for line in lines if line.get("skipped"))
        axes.plot(
            *(skips, [0.015] * len(skips)),
            transform=axes.get_xaxis_transform(),
            **{"color": "#C00000", "marker": "|", "markersize": 12, "linestyle": "none"},
            label=f"{count} steps skipped",
        )
    _legend(axes, 3)


def _draw_speed(axes: Any, lines: Sequence[Line]) -> None:
    """Images a second, and on the right the share of time waited for data."""
    steps, values = _series(lines, "images_per_second")
    if not len(steps):
        return
    _curve(axes, steps, values, _COLOURS[2], "images a second")
    axes.set_ylim(bottom=0)
    waits = [
        {"step": line["step"], "wait": 100 * line["share_of_time"]["data"]}
        for line in lines
        if "data" in line.get("share_of_time", {})
    ]
    if waits:
        right = axes.twinx()
        right.spines[["top", "left", "right"]].set_visible(False)
        _curve(right, *_series(waits, "wait"), _COLOURS[4], "waiting")
        right.set_ylim(0, 100)
        right.set_ylabel("% of time waiting for data", color=_COLOURS[4])
        right.tick_params(axis="y", colors=_COLOURS[4])
    axes.set_ylabel("images a second", color=_COLOURS[2])
    axes.tick_params(axis="y", colors=_COLOURS[2])


def _curve(axes: Any, steps: Numbers, values: Numbers, colour: str, name: str, width: float = 1.8) -> None:
    """A faint line of what was measured and a strong one of its running mean; a dot for a single value."""
    few = len(steps) < 4
    marker = "o" if len(steps) == 1 else None
    if not few:
        axes.plot(steps, values, color=colour, linewidth=0.8, alpha=0.3)
    strong = values if few else smoothed(values)
    axes.plot(steps, strong, color=colour, linewidth=width, marker=marker, markersize=5, label=_label(name))


def smoothed(values: Numbers) -> Numbers:
    """Running mean that leaves about 40 independent points: (N,) -> (N,). It skips, and stays, where values are NaN.

    The mean is over what came before, with weights that fall off exponentially and sum to 1 from the first value on.
    """
    keep = 1 - 1 / max(1.0, len(values) / _POINTS_SMOOTHED)
    total = weight = 0.0
    result = np.full(len(values), np.nan)
    for i, value in enumerate(values):
        if math.isfinite(value):
            total, weight = keep * total + (1 - keep) * value, keep * weight + 1 - keep
        if weight:
            result[i] = total / weight
    return result


def _mark_sizes(axes: Any, lines: Sequence[Line]) -> None:
    """Tell where the photos got larger, which moves losses and speed; not where each line has another size."""
    changes: list[tuple[int, str]] = []
    before, sizes = 0, [(line["step"], line["size"]) for line in lines if line.get("size")]
    for step, size in sizes:
        name = str(size) if isinstance(size, int) else str(size[0]) if size[0] == size[1] else f"{size[0]}×{size[1]}"
        if not changes or changes[-1][1] != name:
            changes.append((before, name))
        before = step
    if len(changes) > _MOST_SIZES:
        return
    for step, name in changes:
        if step:
            axes.axvline(step, color="#000000", linewidth=0.7, alpha=0.4)
        axes.annotate(
            *(f" {name} px", (step, 1.0)),
            xycoords=axes.get_xaxis_transform(),
            **{"va": "top", "fontsize": 8, "color": "#555555"},
        )


def _headline(trained: Sequence[Line], validated: Sequence[Line], resumed: int) -> str:
    if not trained:
        return "no step logged yet" if not validated else f"step {validated[-1]['step']:,}"
    line = trained[-1]
    parts = [f"step {line['step']:,}" + (f" of {line['steps']:,}" if "steps" in line else "")]
    if "epoch" in line:
        parts.append(f"epoch {line['epoch']:g}")
    if "samples" in line:
        parts.append(f"{line['samples']:,} images")
    if line.get("seconds"):
        hours, minutes = divmod(round(line["seconds"] / 60), 60)
        parts.append(f"{hours} h {minutes:02} min" if hours else f"{minutes} min")
    if resumed:
        parts.append(f"resumed {resumed} time{'s' if resumed > 1 else ''}")
    best = [line for line in validated if line.get("best")]
    if best:
        parts.append(f"best validation at step {best[-1]['step']:,}")
    return "    ".join(parts)


def is_lower_better(name: str) -> bool:
    """Whether a measure of a validation is an error, by its name, which may have the name of a set before it."""
    measure = name.rpartition("/")[2].lower()
    return "loss" in measure or measure in {each.lower() for each in LOWER_IS_BETTER}


def _series(lines: Iterable[Line], name: str) -> tuple[Numbers, Numbers]:
    """Steps and values of the lines that have a figure; null is NaN, which leaves a gap."""
    pairs = [(line["step"], math.nan if line[name] is None else line[name]) for line in lines if name in line]
    array = np.array(pairs, np.float64).reshape(-1, 2)
    return array[:, 0], array[:, 1]


def _names(lines: Iterable[Line]) -> list[str]:
    return list(dict.fromkeys(name for line in lines for name in line))


def _is_number(lines: Iterable[Line], name: str) -> bool:
    kinds = {type(line[name]) for line in lines if line.get(name) is not None}
    return bool(kinds) and kinds <= {int, float}


def _label(name: str) -> str:
    # matplotlib hides labels that begin with an underscore, and takes dollars for formulas.
    return name.lstrip("_").replace("$", r"\$")


def _legend(axes: Any, count: int, **places: Any) -> None:
    style = {"fontsize": 9, "edgecolor": "none", "framealpha": 0.85, "handlelength": 1.4}
    axes.legend(**{"ncols": 1 if count <= 4 else 2, **style, **places})


def _plain_log_ticks(axes: Any) -> None:
    """Write 0.02 and 30 in place of powers of ten, and enough of them where less than a decade is shown."""
    ticker = require("matplotlib.ticker", extra="train")
    low, high = axes.get_ylim()
    marks = (1.0, 2.0, 5.0) if high / low < 300 else (1.0,)
    axes.yaxis.set_major_locator(ticker.LogLocator(subs=marks, numticks=20))
    axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(ticker.NullFormatter())


def _thousands(value: float, _position: int) -> str:
    return f"{value / 1000:g}k" if value >= 10_000 else f"{value:g}"


# --- samples of a validation ----------------------------------------------------------------------------------------


def save_samples(run: Path, samples: Sequence[Sample], step: int, title: str = "") -> None:
    """Keep small copies of a validation's samples in the folder validation/ of a run, in place of the last one's.

    For each sample there are three files to look at, named after the step, the sample's place and its name:
    …photo.jpg, …truth.png (with alpha 0 where the truth is not known) and …prediction.png; samples.json lists them. It
    is replaced last, at once, so that what it lists is always whole and of one validation.

    Args:
        run: folder of the run.
        samples: in the order in which they are to be shown, such as `ranked` gives them.
        step: the step of the validation.
        title: what to write above them, such as the order they are in.

    Raises:
        OutputError: a file cannot be written.
    """
    folder = run / VALIDATION
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be created ({error.strerror})") from error
    rows, written = [], {_INDEX}
    for place, sample in enumerate(samples):
        safe = re.sub(r"[^\w.-]+", "_", sample.name, flags=re.ASCII)[-60:]
        stem = f"{step:07}-{place:02}-{safe}"
        files = {}
        for kind, image in _thumbs(sample).items():
            buffer = io.BytesIO()
            image.save(buffer, *(("JPEG",) if kind == "photo" else ("PNG",)), quality=90)
            files[kind] = f"{stem}-{kind}.{'jpg' if kind == 'photo' else 'png'}"
            write_whole(folder / files[kind], buffer.getvalue())
        written |= set(files.values())
        scores = {name: float(value) if math.isfinite(value) else None for name, value in sample.scores.items()}
        rows.append({"name": sample.name, **files, "scores": scores})
    write_whole(
        folder / _INDEX, (json.dumps({"step": step, "title": title, "samples": rows}, indent=1) + "\n").encode()
    )
    for path in folder.iterdir():
        if path.name not in written:
            path.unlink(missing_ok=True)


def load_samples(run: Path) -> tuple[str, list[Sample]]:
    """Read the samples of a run's last validation, and what to write above them; none where there was no validation.

    Raises:
        DataError: a file is missing or damaged.
    """
    folder = run / VALIDATION
    samples = []
    try:
        content = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
        title = f"validation at step {content['step']:,}" + (f": {content['title']}" if content["title"] else "")
        for row in content["samples"]:
            images = [Image.open(folder / row[kind]) for kind in ("photo", "truth", "prediction")]
            photo, truth, prediction = (np.array(image) for image in images)
            valid = None if truth.ndim == 2 else truth[..., 1] > 127
            truth = truth if truth.ndim == 2 else truth[..., 0]
            scores = {name: math.nan if value is None else value for name, value in row["scores"].items()}
            samples.append(Sample(row["name"], photo, truth, prediction, scores, valid))
    except FileNotFoundError as error:
        if not (folder / _INDEX).exists():
            return "", []
        raise DataError(f"{error.filename}: is missing: it is made anew at the next validation") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder}: is damaged ({error}): remove it, it is made anew at the next validation") from error
    return title, samples


def _thumbs(sample: Sample) -> dict[str, Image.Image]:
    height, width = sample.truth.shape
    factor = min(1.0, _THUMB / max(height, width))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    truth = Image.fromarray(sample.truth).resize(size, Image.Resampling.BOX)
    if sample.valid is not None:
        # What is unknown must not be mixed into what is known: such a pixel is known where it is so altogether.
        valid = Image.fromarray(sample.valid.astype(np.uint8) * 255).resize(size, Image.Resampling.BOX)
        truth = Image.merge("LA", (truth, valid.point(lambda level: 255 if level == 255 else 0)))
    return {
        "photo": Image.fromarray(sample.photo).resize(size, Image.Resampling.LANCZOS),
        "truth": truth,
        "prediction": Image.fromarray(sample.prediction).resize(size, Image.Resampling.BOX),
    }


# --- contact sheet --------------------------------------------------------------------------------------------------

_CELL = 240
_SCORES_SHARE = 0.5
_GAP = 10
_LINE = 20
_HEADER, _TITLE = 46, 30
_COLUMNS = ("photo", "truth", "prediction", "difference")
_INK, _PALE, _PAPER, _UNKNOWN = (30, 30, 30), (120, 120, 120), (255, 255, 255), (90, 60, 120)


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
        draw.text((2 * _GAP, 12), _written(title), _INK, _font(20))
    for number, part in enumerate(parts):
        left, top = 2 * _GAP + number * (block_width + 3 * _GAP), head
        _draw_header(draw, left, head - _HEADER)
        for strip in part:
            sheet.paste(strip, (left, top))
            top += strip.height + _GAP
    if not strips:
        draw.text((2 * _GAP, head), "no samples", _PALE, _font(16))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    write_whole(path, buffer.getvalue())
    return path


def ranked(samples: Sequence[Sample], measure: str, count: int = 12) -> list[Sample]:
    """Choose a third each of the best, those in the middle and the worst by a measure, the best first.

    Where there are no more than `count`, all are given, in that order. Those without the measure come last. It becomes
    the first of each sample's scores, as a contact sheet shows only as many as there is room for.
    """

    def badness(sample: Sample) -> float:
        value = sample.scores.get(measure, math.nan)
        if not math.isfinite(value):
            return math.inf
        return value if is_lower_better(measure) else -value

    first = [
        replace(each, scores=dict(sorted(each.scores.items(), key=lambda it: it[0] != measure))) for each in samples
    ]
    order = sorted(first, key=badness)
    if len(order) <= count:
        return order
    third = count // 3
    middle = (len(order) - (count - 2 * third)) // 2
    return [*order[:third], *order[middle : middle + count - 2 * third], *order[len(order) - third :]]


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
    font = _font(15)
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
        draw.text((left + column * (_CELL + _GAP), top + 14), name, _INK, _font(17))
    left += 3 * (_CELL + _GAP) + 98
    for offset, colour, meaning in ((0, _FALSE, "false"), (62, _MISSED, "missed")):
        draw.rectangle((left + offset, top + 19, left + offset + 12, top + 31), fill=colour)
        draw.text((left + offset + 17, top + 16), meaning, _PALE, _font(14))


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


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
