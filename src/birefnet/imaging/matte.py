"""A photo with its alpha, and everything that can be made of the two."""

from dataclasses import dataclass, replace
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor

from birefnet.errors import InputError
from birefnet.imaging.foreground import estimate_foreground
from birefnet.imaging.io import Alpha, Photo, RgbImage

Box = tuple[int, int, int, int]
"""(top, left, bottom, right), the last two exclusive."""


@dataclass(frozen=True, eq=False)
class Matte:
    """A photo and the alpha of its foreground.

    Attributes:
        photo: the photo.
        alpha: (H, W) float32 in [0, 1].
    """

    photo: Photo
    alpha: Alpha

    @cached_property
    def foreground(self) -> RgbImage:
        """The object's own colours, without those of the old background at soft edges.  (H, W, 3) uint8."""
        return estimate_foreground(self.photo.rgb, self.alpha)

    def mask(self) -> Image.Image:
        """Alpha as an 8-bit grey image."""
        return self._with_file_facts(Image.fromarray(_to_bytes(self.alpha)), profile=False)

    def cutout(self, *, decontaminate: bool = True) -> Image.Image:
        """The object on nothing, as an RGBA image.

        Args:
            decontaminate: take the object's own colours; otherwise the photo's, mixed at soft edges.
        """
        colours = self.foreground if decontaminate else self.photo.rgb
        rgba = np.asarray(cv2.merge([*cv2.split(colours), _to_bytes(self.alpha)]), np.uint8)
        return self._with_file_facts(Image.fromarray(rgba))

    def composite(self, background: str | Image.Image, *, decontaminate: bool = True) -> Image.Image:
        """The object on another background, as an RGB image.

        Args:
            background: a colour as CSS writes it ("white", "#09f", "rgb(0, 153, 255)"), "blur" for the photo itself out
                of focus, or an image, which is scaled and cropped to cover the photo.
            decontaminate: as in `cutout`.

        Raises:
            InputError: the text is no colour.
        """
        behind = self._background(background)
        colours = self.foreground if decontaminate else self.photo.rgb
        mixed = cv2.blendLinear(colours, behind, self.alpha, 1 - self.alpha)
        return self._with_file_facts(Image.fromarray(mixed))

    def _background(self, background: str | Image.Image) -> RgbImage:
        height, width = self.alpha.shape
        if isinstance(background, Image.Image):
            scale = max(width / background.width, height / background.height)
            size = max(width, round(background.width * scale)), max(height, round(background.height * scale))
            left, top = (size[0] - width) // 2, (size[1] - height) // 2
            covering = background.convert("RGB").resize(size, Image.Resampling.LANCZOS)
            return np.asarray(covering.crop((left, top, left + width, top + height)))
        if background == "blur":
            return _out_of_focus(self.photo.rgb, self.alpha)
        return np.full((height, width, 3), parse_colour(background), np.uint8)

    def trimap(self, width: int = 10) -> Image.Image:
        """What is surely foreground (255), surely background (0) and to be worked out (128), as matting tools take it.

        Args:
            width: how far the unknown band reaches to each side of the edge, in pixels.
        """
        unknown = (self.alpha > 0.05) & (self.alpha < 0.95)
        solid = self.alpha >= 0.5
        near = _disc(width)
        edge = cv2.dilate(solid.view(np.uint8), near) != cv2.erode(solid.view(np.uint8), near)
        levels = np.where(unknown | edge, 128, np.where(solid, 255, 0)).astype(np.uint8)
        return self._with_file_facts(Image.fromarray(levels), profile=False)

    def box(self, margin: int = 0) -> Box | None:
        """The smallest box around all that is at least half opaque, with a margin; None where there is nothing."""
        solid = self.alpha >= 0.5
        rows, columns = np.flatnonzero(solid.any(axis=1)), np.flatnonzero(solid.any(axis=0))
        if not len(rows):
            return None
        height, width = self.alpha.shape
        return (
            max(int(rows[0]) - margin, 0),
            max(int(columns[0]) - margin, 0),
            min(int(rows[-1]) + 1 + margin, height),
            min(int(columns[-1]) + 1 + margin, width),
        )

    def crop(self, margin: int = 0) -> "Matte":
        """Cut photo and alpha to the box of the object; unchanged where there is none."""
        box = self.box(margin)
        if box is None:
            return self
        part = np.s_[box[0] : box[2], box[1] : box[3]]
        opacity = self.photo.opacity
        photo = replace(self.photo, rgb=self.photo.rgb[part], opacity=None if opacity is None else opacity[part])
        return Matte(photo, self.alpha[part])

    def harden(self, threshold: float = 0.5) -> "Matte":
        """Make alpha 1 where it is at least `threshold` and 0 elsewhere."""
        return replace(self, alpha=(self.alpha >= threshold).astype(np.float32))

    def levels(self, low: float, high: float) -> "Matte":
        """Make alpha 0 up to `low` and 1 from `high` on, and stretch what lies between.

        Makes half-transparent insides solid and a faint haze vanish, where `harden` would also cut the soft edge.

        Raises:
            InputError: not 0 <= `low` < `high` <= 1.
        """
        if not 0 <= low < high <= 1:
            raise InputError(f"levels {low:g} {high:g}: must be two numbers from 0 to 1, the lower one first")
        # Both ends as alpha's own type, so that what equals the higher one becomes exactly 1.
        bottom, top = np.float32(low), np.float32(high)
        stretched = (self.alpha - bottom) / (top - bottom)
        return replace(self, alpha=stretched.clip(0, 1))

    def feather(self, pixels: float) -> "Matte":
        """Soften the edge by a Gaussian of this standard deviation."""
        if pixels <= 0:
            return self
        return replace(self, alpha=cv2.GaussianBlur(self.alpha, (0, 0), pixels).clip(0, 1))

    def grow(self, pixels: int) -> "Matte":
        """Move the edge outward by a number of pixels, or inward by a negative one."""
        if pixels == 0:
            return self
        change = cv2.dilate if pixels > 0 else cv2.erode
        return replace(self, alpha=np.asarray(change(self.alpha, _disc(abs(pixels))), np.float32))

    def _with_file_facts(self, image: Image.Image, *, profile: bool = True) -> Image.Image:
        """Hand on what the photo's file said, in the place where Pillow keeps it."""
        if self.photo.dpi is not None:
            image.info["dpi"] = self.photo.dpi
        if profile and self.photo.icc_profile is not None:
            image.info["icc_profile"] = self.photo.icc_profile
        return image


def parse_colour(text: str) -> tuple[int, int, int]:
    """Red, green and blue of a colour as CSS writes it.

    Raises:
        InputError: the text is no colour.
    """
    try:
        red, green, blue = ImageColor.getrgb(text)[:3]
    except ValueError:
        raise InputError(f"{text!r} is no colour; write it as white, #rrggbb or rgb(r, g, b)") from None
    return red, green, blue


def _to_bytes(alpha: Alpha) -> NDArray[np.uint8]:
    return np.asarray(cv2.convertScaleAbs(alpha, alpha=255), np.uint8)  # rounds to even, as numpy does


def _disc(radius: int) -> NDArray[np.uint8]:
    """A filled circle as kernel for dilation and erosion."""
    steps = np.arange(-radius, radius + 1)
    return (steps[:, None] ** 2 + steps**2 <= radius**2).astype(np.uint8)


def _out_of_focus(rgb: RgbImage, alpha: Alpha) -> RgbImage:
    """Blur what is behind the object, without letting the object's colours bleed into it."""
    height, width = alpha.shape
    # On a small copy: what is out of focus has no detail to lose.
    scale = min(1.0, 512 / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    share = cv2.resize(1 - alpha, size, interpolation=cv2.INTER_AREA)[..., None]
    seen = cv2.resize(rgb.astype(np.float32) * (1 - alpha)[..., None], size, interpolation=cv2.INTER_AREA)
    sigma = max(size) / 60
    seen, share = cv2.GaussianBlur(seen, (0, 0), sigma), cv2.GaussianBlur(share, (0, 0), sigma)[..., None]
    # Deep inside the object nothing of the background is near; what is shown there is hidden anyway.
    behind = cv2.resize(seen / np.maximum(share, np.float32(1e-3)), (width, height), interpolation=cv2.INTER_LINEAR)
    levels: NDArray[np.uint8] = np.rint(behind).clip(0, 255).astype(np.uint8)
    return levels
