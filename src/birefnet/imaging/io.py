"""Image files: read upright as RGB, write whole or not at all."""

import struct
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from birefnet._atomic import atomic_path
from birefnet.errors import ImageError, OutputError

RgbImage = NDArray[np.uint8]
"""(H, W, 3) uint8."""

Alpha = NDArray[np.float32]
"""(H, W) float32 in [0, 1]."""


def read_rgb(path: str | Path) -> RgbImage:
    """Read a photo, turned upright as its EXIF data say.  -> (H, W, 3) uint8 RGB.

    Raises:
        ImageError: the file is missing, no image, damaged, or too large to be a photo.
    """
    path = Path(path)
    try:
        with warnings.catch_warnings():
            # Pillow warns at half the size it refuses; what it accepts is fine here.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                upright = ImageOps.exif_transpose(image)
                return np.asarray(upright.convert("RGB"))
    except FileNotFoundError:
        raise ImageError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise ImageError(f"{path}: a folder, not an image") from None
    except UnidentifiedImageError:
        raise ImageError(f"{path}: not an image, or of a kind that cannot be read") from None
    except Image.DecompressionBombError as error:
        raise ImageError(f"{path}: too many pixels ({error})") from error
    except (OSError, ValueError, SyntaxError, EOFError, struct.error) as error:  # what Pillow's decoders raise
        raise ImageError(f"{path}: damaged or cut off ({error})") from error


def write_mask(alpha: Alpha, path: str | Path) -> None:
    """Write alpha as an 8-bit grey image, in the format of the path's suffix.

    Raises:
        OutputError: the file cannot be written, or its suffix is no image format.
    """
    save_image(Image.fromarray(np.rint(alpha * 255).astype(np.uint8)), path)


def save_image(image: Image.Image, path: str | Path) -> None:
    """Write an image in the format of the path's suffix, whole or not at all.

    Raises:
        OutputError: the file cannot be written, or its suffix is no image format.
    """
    path = Path(path)
    if path.suffix.lower() not in Image.registered_extensions():
        raise OutputError(f"{path}: {path.suffix or 'no suffix'} is no image format; use .png, .webp or .tiff")
    with atomic_path(path) as temporary:
        image.save(temporary)
