"""Image files: read upright as RGB, write whole or not at all."""

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from birefnet._atomic import atomic_path
from birefnet.errors import ImageError, OutputError

RgbImage = NDArray[np.uint8]
"""(H, W, 3) uint8."""

Alpha = NDArray[np.float32]
"""(H, W) float32 in [0, 1]."""

MASK_FORMATS: dict[str, dict[str, Any]] = {
    ".png": {},
    ".tif": {"compression": "tiff_adobe_deflate"},
    ".tiff": {"compression": "tiff_adobe_deflate"},
    ".webp": {"lossless": True},
    ".jpg": {"quality": 95},
    ".jpeg": {"quality": 95},
}
"""Suffix -> how Pillow is to write a mask."""


def read_rgb(path: str | Path) -> RgbImage:
    """Read a photo, turned upright as its EXIF data say.  -> (H, W, 3) uint8 RGB.

    Raises:
        ImageError: the file is missing, no image, damaged, or too large to be a photo.
    """
    path = Path(path)
    try:
        with warnings.catch_warnings():
            # Pillow remarks on odd but readable files, and on half the size it refuses.
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                return _to_rgb(ImageOps.exif_transpose(image))
    except FileNotFoundError:
        raise ImageError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise ImageError(f"{path}: a folder, not an image") from None
    except PermissionError:
        raise ImageError(f"{path}: may not be read; change its permissions") from None
    except UnidentifiedImageError:
        raise ImageError(f"{path}: not an image, or of a kind that cannot be read") from None
    except Image.DecompressionBombError as error:
        raise ImageError(f"{path}: too many pixels ({error})") from error
    except MemoryError as error:
        raise ImageError(f"{path}: too large for this machine's memory") from error
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from None
    except Exception as error:  # decoders of many formats, which damaged files make raise anything
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise ImageError(f"{path}: damaged or cut off ({reason})") from error


def _to_rgb(image: Image.Image) -> RgbImage:
    if image.mode == "F":
        raise ImageError("a floating-point image, whose white is not defined; save it with 8 or 16 bits")
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow itself would clip at 255; older releases say I
        values = np.asarray(image).astype(np.float32).clip(0, 65535)
        grey = np.rint(values / 257).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    return np.asarray(image.convert("RGB"))


def check_mask_path(path: Path) -> None:
    """Refuse a path that no mask can be written to, before any work is done.

    Raises:
        OutputError: the suffix is of no format that holds a mask, or the folder does not exist.
    """
    if path.suffix.lower() not in MASK_FORMATS:
        raise OutputError(f"{path}: a mask cannot be written as {path.suffix or 'that'}; use {', '.join(MASK_FORMATS)}")
    if not os.path.isdir(path.parent):  # noqa: PTH112 - pathlib raises where it may not look
        raise OutputError(f"{path}: the folder {path.parent} does not exist; create it first")


def write_mask(alpha: Alpha, path: str | Path) -> None:
    """Write alpha as an 8-bit grey image, in the format of the path's suffix, whole or not at all.

    Raises:
        OutputError: the file cannot be written, or its suffix is of no format that holds a mask.
    """
    path = Path(path)
    check_mask_path(path)
    mask = Image.fromarray(np.rint(alpha * 255).astype(np.uint8))
    with atomic_path(path) as temporary:
        try:
            mask.save(temporary, **MASK_FORMATS[path.suffix.lower()])
        except ValueError as error:  # the format's own limits, such as WebP's 16383 pixels a side
            raise OutputError(f"{path}: cannot be written ({error}); use .png") from error
