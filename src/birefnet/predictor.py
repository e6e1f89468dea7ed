"""From photos to mattes: preparation, a back end, and the way back to the photo's size."""

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from birefnet.config import InputSpec
from birefnet.engines.base import Engine
from birefnet.imaging.decide import decide, finer
from birefnet.imaging.io import Alpha, Photo, PhotoSource, RgbImage, read_photo
from birefnet.imaging.matte import Matte
from birefnet.imaging.postprocess import join, restore, trust, undecided, without_scraps
from birefnet.imaging.preprocess import colours, denormalised, grey_world, mirrored, prepare, stretch
from birefnet.imaging.tiling import cover, taper

PATCHES = 4
"""The most patches of a photo that go through the network together."""

# A photo hardly larger than the input has no detail that the network has not seen.
_WORTHWHILE = 1.25
# How much closer each look is than the one before. Larger steps scored worse: see docs/log.md.
_CLOSER = 2.0
# The part of a patch's side over which it gives way to its neighbour.
_MARGIN = 8
# Rows blended at a time, so that a large photo needs few further copies.
_STRIP = 512


class Predictor:
    """Finds the foreground of photos of any size.

    Attributes:
        engine: what runs the network.
        spec: how its weights want photos prepared.
        refine: whether photos larger than the input get a closer look, unless a call says otherwise.
        mirror: whether each look is taken at the mirror image as well and the two joined, which takes twice the time
            and steadies a small network; what the spec says, unless it is set.
    """

    def __init__(self, engine: Engine, spec: InputSpec, *, refine: bool = False, notes: Sequence[str] = ()) -> None:
        self.engine = engine
        self.spec = spec
        self.refine = refine
        self.mirror = spec.mirror
        self._loaded = tuple(notes)

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks about how the model was loaded, and the engine's on how it runs so far, a line each."""
        return tuple(dict.fromkeys((*self._loaded, *getattr(self.engine, "notes", ()))))

    def predict(self, source: PhotoSource, *, refine: bool | None = None) -> Matte:
        """Find the foreground of a photo, at the photo's size. What is transparent in the photo itself stays so.

        Args:
            source: the photo.
            refine: take closer looks at what is undecided in a photo that is larger than the network's input, patch by
                patch; by default what the predictor was made for. Costs one more run for every few patches.

        Raises:
            ImageError: the photo cannot be read.
        """
        return self.predict_many([source], refine=refine)[0]

    def predict_many(self, sources: Sequence[PhotoSource], *, refine: bool | None = None) -> list[Matte]:
        """Find the foregrounds of several photos, of any sizes, in one run of the network for each size of input.

        Args:
            sources: the photos.
            refine: as in `predict`; the patches of each photo take further runs.

        Raises:
            ImageError: a photo cannot be read.
        """
        photos = [read_photo(source) for source in sources]
        if not photos:
            return []
        refine = self.refine if refine is None else refine
        alike: dict[tuple[int, int], list[int]] = {}
        for index, photo in enumerate(photos):
            alike.setdefault(self.spec.size_of(*photo.rgb.shape[:2]), []).append(index)
        mattes = {}
        for size, indices in alike.items():
            images = np.stack([prepare(photos[index].rgb, self.spec, size) for index in indices])
            gains, seen = grey_world(images, self.spec), None
            if self.spec.crf:
                seen = np.stack([colours(photos[index].rgb, finer(size), self.spec.resize) for index in indices])
            for index, alpha, gain in zip(indices, self.segment(images, gains, seen), gains, strict=True):
                found = without_scraps(alpha[0]) if self.spec.crf else alpha[0]
                mattes[index] = self._matte(photos[index], found, gain, refine)
        return [mattes[index] for index in range(len(photos))]

    def segment(
        self,
        images: NDArray[np.float32],
        gains: NDArray[np.float32] | None = None,
        seen: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        """Find the foreground of images that are prepared already, by all that `mirror` and the spec ask for.

        Args:
            images: (N, 3, height, width), each as `birefnet.imaging.preprocess.prepare` makes it.
            gains: (N, 3), what the mirror images' red, green and blue are multiplied by; by default their own
                `birefnet.imaging.preprocess.grey_world`.
            seen: (N, 3, H, W), red, green and blue in [0, 1] of the same photos for the CRF, of the size that it works
                at; by default those of `images`.

        Returns:
            Alpha at the size of the images, (N, 1, height, width), or at that of `seen` where the spec asks for a CRF.
        """
        alphas = self.engine(images)
        if self.mirror:
            # A second run, as a batch twice as large would take twice the memory.
            gains = grey_world(images, self.spec) if gains is None else gains
            second = self.engine(mirrored(images, gains, self.spec))
            alphas = join(alphas, second[..., ::-1])
        if self.spec.crf:
            seen = denormalised(images, self.spec) if seen is None else seen
            alphas = decide(alphas[:, 0], seen, self.spec.crf)[:, None]
        return alphas

    def _restore(self, alpha: Alpha, size: tuple[int, int]) -> Alpha:
        return restore(alpha, size, self.spec.resize, decided=self.spec.crf > 0)

    def _matte(self, photo: Photo, found: Alpha, gains: NDArray[np.float32], refine: bool) -> Matte:
        height, width, _ = photo.rgb.shape
        alpha = self._restore(found, (height, width))
        if refine:
            rows, columns = self.spec.size_of(height, width)  # what the network saw, which is what is to be refined
            coarse = cv2.resize(found, (columns, rows), interpolation=cv2.INTER_AREA)
            self._refine(photo.rgb, np.asarray(coarse, np.float32), alpha, gains)
        return Matte(photo, alpha if photo.opacity is None else alpha * photo.opacity)

    def _refine(self, rgb: RgbImage, coarse: Alpha, alpha: Alpha, gains: NDArray[np.float32]) -> None:
        """Look closer and closer at what is undecided, down to the photo's own pixels, and improve `alpha` in place.

        Each look about halves the part of the photo that the network sees at once, so that it is never far from what
        the look before has settled. What the whole photo leaves decided stays as it is, to the last bit.
        """
        height, width = alpha.shape
        network = coarse.shape[0], coarse.shape[1]
        sizes, band = looks((height, width), network), undecided(coarse)
        if not sizes or not band.any():
            return
        finer = coarse
        for size in sizes:
            finer = self._look(rgb, finer, size, network, gains)
        weight = _enlarge(band, (height, width))
        for top in range(0, height, _STRIP):
            part = alpha[top : top + _STRIP]
            part += weight[top : top + _STRIP] * (finer[top : top + _STRIP] - part)
            part.clip(0, 1, out=part)

    def _look(
        self,
        rgb: RgbImage,
        coarse: Alpha,
        size: tuple[int, int],
        network: tuple[int, int],
        gains: NDArray[np.float32],
    ) -> Alpha:
        """Find what is undecided again, in patches as large as the network's input of the photo scaled to `size`.

        The mirror images of all patches have the whole photo's gains: a patch alone says nothing of the light.
        (h, w) -> `size`.
        """
        band = undecided(coarse)
        before = self._restore(coarse, size)
        after = before.copy()
        weight = _enlarge(band, size)
        photo = rgb if size == rgb.shape[:2] else stretch(rgb, size, self.spec.resize)
        pitch = max(size[0] / coarse.shape[0], size[1] / coarse.shape[1])
        margin = network[0] // _MARGIN, network[1] // _MARGIN
        windows = cover(band > 0, size, network, margin)
        for start in range(0, len(windows), PATCHES):
            batch = windows[start : start + PATCHES]
            images = [prepare(np.ascontiguousarray(photo[window.part]), self.spec, network) for window in batch]
            looked = self.segment(np.stack(images), np.broadcast_to(gains, (len(batch), 3)))
            for window, alpha in zip(batch, looked, strict=True):
                part, context = after[window.part], before[window.part]
                patch = self._restore(alpha[0], (context.shape[0], context.shape[1]))
                share = weight[window.part] * taper(window, size, margin) * trust(patch, context, pitch)
                part += share * (patch - part)
        return after


def looks(photo: tuple[int, int], network: tuple[int, int]) -> list[tuple[int, int]]:
    """Sizes at which a photo is looked at again, patch by patch: each about twice the one before, the last its own.

    Args:
        photo: (H, W) of the photo.
        network: (h, w) of the network's input, which the first look at the whole photo has.

    Returns:
        Sizes as (height, width); none for a photo hardly larger than the network's input.
    """
    ratio = max(photo[0] / network[0], photo[1] / network[1])
    if ratio < _WORTHWHILE:
        return []
    count = max(1, math.ceil(math.log(ratio, _CLOSER) - 1e-9))
    sizes = []
    for step in range(1, count + 1):
        scale = ratio ** (1 - step / count)
        # A side on which the photo is no longer than the input has been seen whole already.
        height, width = (max(round(a / scale), min(a, b)) for a, b in zip(photo, network, strict=True))
        sizes.append((height, width))
    return sizes


def _enlarge(band: Alpha, size: tuple[int, int]) -> Alpha:
    return np.asarray(cv2.resize(band, (size[1], size[0]), interpolation=cv2.INTER_LINEAR), np.float32)
