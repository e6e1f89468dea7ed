"""A model under evaluation: what it is, and its predictions as files."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import birefnet
from birefnet.evaluation.cache import digest_of, file_digest
from birefnet.imaging.io import write_image
from birefnet.loading import load
from birefnet.models import bundled_file
from birefnet.predictor import Predictor
from birefnet.sources import CONFIG_FILE, PREPROCESSOR_FILE, is_bundled, locate

_LIBRARIES = ("numpy", "onnxruntime", "opencv-python-headless", "openvino", "pillow", "torch")


@dataclass(eq=False)
class Model:
    """A model whose predictions are scored as they are made.

    Attributes:
        load: gives the predictor; called once, when the first photo has to be predicted.
        identity: JSON values that change whenever its predictions may.
        masks: folder for its predictions, as SET/NAME.png.
        keep: whether the predictions are wanted as files, also where their scores are known.
        tell: takes remarks about how the model was loaded and runs, each once.
    """

    load: Callable[[], Predictor]
    identity: Any
    masks: Path
    keep: bool = False
    tell: Callable[[str], None] = lambda _: None
    _predictor: Predictor | None = None
    _told: set[str] = field(default_factory=set)

    def ready(self) -> Predictor:
        """Load the model, the first time.

        Raises:
            BiRefNetError: it does not load.
        """
        if self._predictor is None:
            self._predictor = self.load()
            self._tell_notes(self._predictor)
        return self._predictor

    def predict(self, photo: Path, target: Path) -> None:
        """Write the predicted mask of a photo.

        Raises:
            BiRefNetError: the model does not load, the photo cannot be read, or the mask not written.
        """
        predictor = self.ready()
        matte = predictor.predict(photo)
        self._tell_notes(predictor)
        write_image(matte.mask(), target)

    def _tell_notes(self, predictor: Predictor) -> None:
        for note in predictor.notes:
            if note not in self._told:
                self._told.add(note)
                self.tell(note)


@dataclass(frozen=True)
class HowToRun:
    """How a model is to be run: arguments of `birefnet.load`."""

    engine: str = "auto"
    size: int | None = None
    device: str = "cpu"
    refine: bool = False
    mirror: bool | None = None
    crf: float | None = None
    keep_aspect: bool | None = None
    accept_licence: bool = False
    precision: str = "auto"
    threads: int | None = None
    max_memory: int | None = None
    providers: tuple[str, ...] = ()
    allow_fallback: bool = False
    compiled: bool = False

    def load(self, name: str | Path) -> Predictor:
        """Make a model ready for photos.

        Raises:
            BiRefNetError: it does not load, or cannot be run so.
        """
        return load(name, **vars(self))


def open_model(
    name: str | Path, how: HowToRun, masks: Path, *, keep: bool = False, tell: Callable[[str], None] = lambda _: None
) -> Model:
    """Find a model's weights, downloading them where they are not here yet; they are loaded only when needed.

    Args:
        name: what `birefnet.load` takes.
        how: how it is to be run.
        masks: folder for its predictions.
        keep: whether they are wanted as files.
        tell: takes remarks about how the model was loaded and runs.

    Raises:
        BiRefNetError: there is no such model, or it cannot be had.
    """
    if is_bundled(name):
        files = [bundled_file(str(name), suffix) for suffix in (".onnx", ".safetensors")]
    else:
        weights = locate(name, accept_licence=how.accept_licence).path
        beside = (weights.with_suffix(".bin"),) if weights.suffix.lower() == ".xml" else ()
        files = [weights, *beside, *(weights.with_name(other) for other in (CONFIG_FILE, PREPROCESSOR_FILE))]

    identity = [
        [file_digest(path) for path in files if path.is_file()],
        # Threads and memory change no more than the order of sums.
        [
            how.engine,
            how.size,
            how.device,
            how.refine,
            how.mirror,
            how.crf,
            how.keep_aspect,
            how.precision,
            list(how.providers),
            how.allow_fallback,
            how.compiled,
        ],
        _package_version(),
    ]
    return Model(partial(how.load, name), identity, masks, keep, tell)


@cache
def _package_version() -> str:
    """Digest of the package's code and of the libraries that a prediction may hang on."""
    return digest_of(sorted(Path(birefnet.__file__).parent.rglob("*.py")), _LIBRARIES)
