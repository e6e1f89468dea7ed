"""Networks in 8-bit whole numbers for ONNX Runtime and OpenVINO, with a report of what that costs in quality.

Static quantisation: the ranges of activations come from photos of a calibration folder, weights get a scale for each
output channel, and the layers that suffer most stay in float32. How many of them is found by trying.
"""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from birefnet._atomic import atomic_path
from birefnet._extras import require
from birefnet.config import InputSpec
from birefnet.data.pairs import MASK_FOLDERS, Pair, discover, images_below
from birefnet.engines.base import Engine
from birefnet.engines.openvino_library import openvino_library
from birefnet.errors import DataError, OutputError
from birefnet.export.checks import check_weights_place
from birefnet.export.facts import check_target
from birefnet.export.sensitivity import Sensitivity, sensitivities
from birefnet.export.verify import ExportReport, compare
from birefnet.imaging.io import read_photo
from birefnet.imaging.masks import read_map
from birefnet.imaging.preprocess import prepare
from birefnet.metrics import Scorer
from birefnet.model import BiRefNet
from birefnet.predictor import Predictor

CALIBRATION_PHOTOS = 128
"""Photos that ranges are taken from at most, spread over the folder."""

QUALITY_PHOTOS = 200
"""Photos with masks that are scored at most."""

KEPT_SHARES = (0.05, 0.1, 0.2, 0.35, 0.5)
"""Shares of the layers that stay in float32, the most sensitive first, in the order in which they are tried."""

LIMIT = 0.01
"""What maxF may lose."""

ALPHA_LIMIT = 0.02
"""What alpha may differ by in the mean where there are no masks to score with."""

# Few and small are enough to rank layers: it is their order that counts.
_RANKING_PHOTOS = 4
_RANKING_SIDE = 256

_TIMED_PAIRS = 7

Photos = Sequence[NDArray[np.float32]]
"""Prepared photos, (1, 3, H, W) each."""

_Item = TypeVar("_Item")


class PreparedPhotos(Sequence[NDArray[np.float32]]):
    """Photos as a network takes them, (1, 3, H, W) each, prepared when they are asked for.

    All at once, a hundred of 1024 x 1024 would take more memory than the network.

    Args:
        paths: of the photos.
        spec: how to prepare them.
    """

    def __init__(self, paths: Sequence[Path], spec: InputSpec) -> None:
        self._paths = paths
        self._spec = spec

    def __len__(self) -> int:
        return len(self._paths)

    @overload
    def __getitem__(self, index: int) -> NDArray[np.float32]: ...
    @overload
    def __getitem__(self, index: slice) -> "PreparedPhotos": ...
    def __getitem__(self, index: int | slice) -> "NDArray[np.float32] | PreparedPhotos":
        """Read and prepare a photo.

        Raises:
            ImageError: it cannot be read.
        """
        if isinstance(index, slice):
            return PreparedPhotos(self._paths[index], self._spec)
        return prepare(read_photo(self._paths[index]).rgb, self._spec)[None]


class Quantiser(Protocol):
    """Writes int8 files of a network for one program.

    Attributes:
        plain: the file of the network in float32.
    """

    plain: Path

    def calibrate(self, images: Photos) -> None:
        """Take the ranges of activations from prepared photos, (1, 3, H, W) each."""
        ...

    def write(self, target: Path, kept: Sequence[Sensitivity]) -> int:
        """Write a file in which all but the given layers are quantised; return how many have weights of 8 bits."""
        ...

    def engine(self, path: Path, threads: int | None = None) -> Engine:
        """Run a file, what is not int8 in float32."""
        ...


@dataclass(frozen=True, kw_only=True)
class Int8Report(ExportReport):
    """What was written, and what 8 bits cost.

    Attributes:
        mean: mean difference of alpha, over all that was compared.
        before: scores of the float32 file, by the field's names; empty where the calibration folder holds no masks.
        after: the same of the int8 file.
        scored: photos that were scored.
        kept: names of the layers that stay in float32 because they are the most sensitive.
        quantised: number of layers with weights of 8 bits.
        layers: number of convolutions and linear layers.
        size: bytes of the file, or files.
        size_before: bytes of the float32 file, or files.
        speed: time of the float32 file over that of the int8 one, at the weights' own size on one thread.
    """

    mean: float
    before: dict[str, float] = field(default_factory=dict)
    after: dict[str, float] = field(default_factory=dict)
    scored: int = 0
    kept: tuple[str, ...] = ()
    quantised: int = 0
    layers: int = 0
    size: int = 0
    size_before: int = 0
    speed: float = 1.0

    @property
    def loss(self) -> float:
        """How much maxF was lost; 0 where it was not measured."""
        return self.before["maxF"] - self.after["maxF"] if self.before else 0.0

    def lines(self) -> list[str]:
        """The report for a person, a line each."""
        lines = [
            f"{self.quantised} of {self.layers} layers in int8; the {len(self.kept)} most sensitive stay in float32",
            f"{self.size / 1e6:.1f} MB, of {self.size_before / 1e6:.1f} MB; {self.speed:.2f} times as fast, one thread",
            f"alpha differs by {self.mean:.4f} in the mean",
        ]
        for name, value in self.before.items():
            lines.append(f"{name} {value:.4f} -> {self.after[name]:.4f} on {self.scored} photos not calibrated with")
        return lines


def quantise_onnx(
    model: BiRefNet,
    path: str | Path,
    *,
    calibration: str | Path,
    photos: str | Path | None = None,
    limit: float = LIMIT,
) -> Int8Report:
    """Write a network as an int8 ONNX file for ONNX Runtime, if it loses no more quality than `limit`.

    Weights are signed and activations unsigned (U8S8), as the VNNI instructions of x86 multiply them; on an older x86
    without VNNI the weights get 7 bits, as the sums of pairs would not fit otherwise.

    Args:
        model: the network.
        path: where to, ending in `.onnx`.
        calibration: a folder of photos like those that the network will see. A data set (`birefnet.data.pairs`) with
            masks is used in halves: every other photo to calibrate, the others to score.
        photos: a folder of photos to compare alpha on, or one photo; see `birefnet.export.verify.compare`.
        limit: what maxF may lose; without masks, the mean of alpha's difference may be `ALPHA_LIMIT`.

    Returns:
        What was compared, scored and timed.

    Raises:
        OutputError: too much quality is lost, or the network cannot be exported, or the file not written.
        DataError: the calibration folder holds no photos, is a data set that lacks a part, or has a mask of another
            size than its photo.
        MissingExtraError: onnx or onnxscript is not installed.
    """
    path = Path(path)
    check_target(model, path, ".onnx")
    for library in ("onnx", "onnxscript"):
        require(library, extra="export")
    from birefnet.export.int8_onnx import OnnxQuantiser

    found = _calibration_set(Path(calibration))
    with tempfile.TemporaryDirectory(prefix="birefnet-") as folder, atomic_path(path) as temporary:
        quantiser = OnnxQuantiser(model, Path(folder), path)
        return _search(model, quantiser, (temporary, path), found, photos, limit)


def quantise_openvino(
    model: BiRefNet,
    path: str | Path,
    *,
    calibration: str | Path,
    photos: str | Path | None = None,
    limit: float = LIMIT,
) -> Int8Report:
    """Write a network as an int8 OpenVINO file by NNCF, if it loses no more quality than `limit`.

    What is not quantised runs in what the engine chooses; quality is measured with float32.

    Args:
        model: the network.
        path: where to, ending in `.xml`; the weights go beside it, ending in `.bin`.
        calibration: as of `quantise_onnx`.
        photos: as of `quantise_onnx`.
        limit: as of `quantise_onnx`.

    Returns:
        What was compared, scored and timed.

    Raises:
        OutputError: too much quality is lost, or the network cannot be converted, or the files not written.
        DataError: the calibration folder holds no photos, is a data set that lacks a part, or has a mask of another
            size than its photo.
        MissingExtraError: openvino or nncf is not installed.
    """
    path = Path(path)
    check_target(model, path, ".xml")
    for library in ("openvino", "nncf"):
        openvino_library(library)
    from birefnet.export.int8_openvino import OpenVinoQuantiser
    from birefnet.export.openvino import moved_together

    check_weights_place(path)
    found = _calibration_set(Path(calibration))
    with tempfile.TemporaryDirectory(prefix="birefnet-") as folder, moved_together(path) as temporary:
        quantiser = OpenVinoQuantiser(model, Path(folder))
        return _search(model, quantiser, (temporary, path), found, photos, limit)


def _search(
    model: BiRefNet,
    quantiser: Quantiser,
    target: tuple[Path, Path],
    found: tuple[list[Path], list[Pair]],
    photos: str | Path | None,
    limit: float,
) -> Int8Report:
    """Quantise with more and more layers kept, until no more quality than the limit is lost.

    Args:
        model: the network.
        quantiser: what writes the files.
        target: where to write the int8 file, and what it will be called.
        found: photos to calibrate with, and pairs to score on.
        photos: as of `quantise_onnx`.
        limit: as of `quantise_onnx`.
    """
    (temporary, path), (used, pairs) = target, found
    images = PreparedPhotos(used, model.input_spec)
    ranked = sensitivities(model, _ranking_images(model, used))
    quantiser.calibrate(images)
    before = _score(quantiser.engine(quantiser.plain), model, pairs)
    limit = limit if before else ALPHA_LIMIT
    for share in KEPT_SHARES:
        kept = ranked[: max(1, round(share * len(ranked)))]
        quantised = quantiser.write(temporary, kept)
        if not quantised:
            raise OutputError(f"{path}: not written, no layer could be quantised: export without --int8")
        engine = quantiser.engine(temporary)
        comparison, after = compare(engine, model, photos=photos), _score(engine, model, pairs)
        lost = before["maxF"] - after["maxF"] if before else comparison.mean
        if lost <= limit:
            return Int8Report(
                path=path,
                difference=comparison.difference,
                checked=comparison.checked,
                notes=comparison.notes,
                mean=comparison.mean,
                before=before,
                after=after,
                scored=len(pairs),
                kept=tuple(layer.name for layer in kept),
                quantised=quantised,
                layers=len(ranked),
                size=_size_of(temporary),
                size_before=_size_of(quantiser.plain),
                speed=_speed(quantiser.engine(quantiser.plain, 1), quantiser.engine(temporary, 1), images[0]),
            )
    what = f"loses {lost:.4f} of maxF" if before else f"changes alpha by {lost:.4f} in the mean"
    raise OutputError(
        f"{path}: not written, int8 {what} even with {KEPT_SHARES[-1]:.0%} of the layers in float32, more than "
        f"{limit:g}: calibrate with photos like yours, or export with --precision float16"
    )


# --- photos ---


def _calibration_set(place: Path) -> tuple[list[Path], list[Pair]]:
    """Photos to calibrate with, and pairs to score on that are none of them.

    Raises:
        DataError: there are no photos.
    """
    if place.is_dir() and not _holds_masks(place):
        found = sorted(images_below(place))
        if not found:
            raise DataError(f"{place}: no photos to calibrate with: name a folder that holds some hundred like yours")
        return _spread(found, CALIBRATION_PHOTOS), []
    pairs = list(discover(place).pairs)
    if not pairs:
        raise DataError(f"{place}: no photo has a mask of its name: name the folder of the photos alone")
    # A single pair is calibrated with; there is none left to score on.
    scored = _spread(pairs[1::2], QUALITY_PHOTOS)
    for pair in scored:
        photo, mask = read_photo(pair.image).rgb.shape[:2], read_map(pair.mask).levels.shape[:2]
        if photo != mask:
            sizes = " and ".join(f"{height} x {width}" for height, width in (mask, photo))
            raise DataError(f"{pair.mask}: of another size than its photo ({sizes}): scale or remove it")
    return [pair.image for pair in _spread(pairs[::2], CALIBRATION_PHOTOS)], scored


def _holds_masks(place: Path) -> bool:
    """Whether there are masks in a folder or below it, which are no photos to calibrate with."""
    if any(path.is_dir() and path.name in MASK_FOLDERS for path in place.rglob("*")):
        return True
    try:
        return bool(discover(place).pairs)  # masks beside their photos, told by their names
    except DataError:  # no layout with masks: photos alone
        return False


def _spread(items: Sequence[_Item], most: int) -> list[_Item]:
    step = max(1.0, len(items) / most)
    return [items[int(index * step)] for index in range(min(most, len(items)))]


def _ranking_images(model: BiRefNet, photos: Sequence[Path]) -> Photos:
    """A few photos, prepared at a small size."""
    grid, least = model.grid, model.least_side
    height, width = (max(least, min(side, _RANKING_SIDE) // grid * grid) for side in model.input_spec.size)
    spec = replace(model.input_spec, size=(height, width), keep_aspect=False)
    return PreparedPhotos(_spread(photos, _RANKING_PHOTOS), spec)


# --- what it costs, and what it gives ---


def _score(engine: Engine, model: BiRefNet, pairs: Sequence[Pair]) -> dict[str, float]:
    """Scores (maxF, MAE) of an engine's masks at the photos' sizes; nothing without pairs."""
    if not pairs:
        return {}
    predictor, scorer = Predictor(engine, model.input_spec), Scorer(("F", "MAE"))
    for pair in pairs:
        truth = read_map(pair.mask).levels
        scorer.update(np.asarray(predictor.predict(pair.image).mask()), truth)
    scores = scorer.compute()
    return {name: scores[name] for name in ("maxF", "MAE")}


def _speed(plain: Engine, quantised: Engine, image: NDArray[np.float32]) -> float:
    """Median time of one engine over that of another, in alternating runs."""
    times: tuple[list[float], list[float]] = ([], [])
    for run in range(_TIMED_PAIRS + 1):
        for engine, taken in zip((plain, quantised), times, strict=True):
            start = time.perf_counter()
            engine(image)
            if run:  # the first one makes ready
                taken.append(time.perf_counter() - start)
    return float(np.median(times[0]) / np.median(times[1]))


def _size_of(path: Path) -> int:
    weights = path.with_suffix(".bin")
    return path.stat().st_size + (weights.stat().st_size if path.suffix == ".xml" else 0)
