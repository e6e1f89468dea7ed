"""Image files: photos read upright as RGB with what else their files say, masks written whole or not at all."""

import io
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, ImageOps, UnidentifiedImageError

from birefnet._atomic import make_folder, write_whole
from birefnet.errors import ImageError, OutputError, first_line

RgbImage = NDArray[np.uint8]
"""(H, W, 3) uint8."""

Alpha = NDArray[np.float32]
"""(H, W) float32 in [0, 1]."""

MAX_PIXELS = 178_000_000
"""The most pixels a photo may have unless asked otherwise: just under where Pillow suspects an attack."""

MAX_SIDE = 65_535
"""The longest side a photo may have, JPEG's own limit: a longer one is a damaged header, and costs like a real one."""

# Pillow's decoder of these keeps further copies of the whole picture, so each of their pixels counts as several.
_COSTLY = {"WEBP": 3, "GIF": 2}

# Rows turned into RGB at a time, so that a large photo is never held in several forms at once.
_STRIP = 512

FORMATS: dict[str, dict[str, Any]] = {
    # Pillow's own 6 takes a cut-out of a photo three to four times as long, for a tenth less to store.
    ".png": {"compress_level": 2},
    ".webp": {"lossless": True},
    ".tif": {"compression": "tiff_adobe_deflate"},
    ".tiff": {"compression": "tiff_adobe_deflate"},
    ".jpg": {"quality": 95},
    ".jpeg": {"quality": 95},
}
"""Suffix -> how Pillow is to write an image."""

_OPAQUE = (".jpg", ".jpeg")


@dataclass(frozen=True, eq=False)
class Photo:
    """A photo, turned upright, with what its file says beside the pixels.

    Attributes:
        rgb: (H, W, 3) uint8; transparent parts are shown on white.
        opacity: (H, W) float32 in [0, 1], the transparency of the file itself, or None where all is opaque.
        icc_profile: colour profile that `rgb` is to be seen with, or None.
        dpi: horizontal and vertical resolution for print, or None.
        notices: what a user should know about how the file was read, a line each.
    """

    rgb: RgbImage
    opacity: Alpha | None = None
    icc_profile: bytes | None = None
    dpi: tuple[float, float] | None = None
    notices: tuple[str, ...] = ()


PhotoSource = str | Path | bytes | Image.Image | RgbImage | Photo
"""What a photo can be given as: a path, the bytes of a file, a Pillow image, an array or one that is read already."""


def read_photo(source: PhotoSource, *, max_pixels: int = MAX_PIXELS) -> Photo:
    """Read a photo from a file, the bytes of one, a Pillow image of any mode, or an array.

    Arrays are uint8: (H, W) grey, (H, W, 3) RGB or (H, W, 4) RGB with opacity.

    16-bit grey is scaled to 8 bit, CMYK goes through its colour profile, the first frame stands for an animation, and
    EXIF orientation is applied. Pillow's own limit of 178,956,970 pixels holds whatever `max_pixels` says, unless the
    application sets `PIL.Image.MAX_IMAGE_PIXELS`.

    Raises:
        ImageError: the file is missing, no image, damaged, or has more than `max_pixels`; an array of another kind.
    """
    if isinstance(source, Photo):
        return source
    name = str(source) if isinstance(source, str | Path) else "image"
    with naming(name):
        if isinstance(source, Image.Image | np.ndarray):
            image = source if isinstance(source, Image.Image) else _from_array(source)
            return _to_photo(image, max_pixels)
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            return _to_photo(image, max_pixels)


@contextmanager
def naming(name: str | Path) -> Iterator[None]:
    """Turn whatever opening and decoding an image raise into one line that names the file.

    Raises:
        ImageError: the file is missing, no image or damaged, or the body says so of it.
    """
    try:
        with warnings.catch_warnings():
            # Pillow remarks on odd but readable files, and on half the size it refuses.
            warnings.simplefilter("ignore")
            yield
    except FileNotFoundError:
        raise ImageError(f"{name}: no such file") from None
    except IsADirectoryError:
        raise ImageError(f"{name}: cannot be read (a folder, not an image)") from None
    except PermissionError:
        raise ImageError(f"{name}: may not be read; change its permissions") from None
    except UnidentifiedImageError:
        raise ImageError(f"{name}: not an image, or of a kind that cannot be read") from None
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name}: too many pixels ({error})") from error
    except MemoryError as error:
        raise ImageError(f"{name}: too large for this machine's memory") from error
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from None
    except Exception as error:  # decoders of many formats, which damaged files make raise anything
        if isinstance(error, OSError) and error.errno is not None:  # the file system's, not a decoder's
            raise ImageError(f"{name}: cannot be read ({error.strerror})") from error
        raise ImageError(f"{name}: damaged or cut off ({first_line(error)})") from error


def _from_array(array: RgbImage) -> Image.Image:
    if (
        array.dtype != np.uint8
        or array.size == 0
        or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4)))
    ):
        raise ImageError(f"an array must be uint8 (H, W), (H, W, 3) or (H, W, 4), not {array.dtype} {array.shape}")
    return Image.fromarray(array)


def _to_photo(image: Image.Image, max_pixels: int) -> Photo:
    limit = max_pixels // _COSTLY.get(image.format or "", 1)
    if image.width * image.height > limit:
        raise ImageError(f"{image.width} x {image.height} pixels are over the limit of {limit:,}")
    if max(image.size) > MAX_SIDE:
        raise ImageError(f"{image.width} x {image.height}: sides of more than {MAX_SIDE:,} pixels are not read")
    notices = []
    # Not MPO: the further pictures of a phone's JPEG are its depth map and the like.
    if getattr(image, "is_animated", False) and image.format != "MPO":
        notices.append(f"has {getattr(image, 'n_frames', 'several')} frames; the first one is used")
    dpi, profile = _dpi(image), image.info.get("icc_profile")
    # exif_transpose copies also where there is nothing to turn, which a photo of 178 megapixels feels.
    turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
    upright = ImageOps.exif_transpose(image) if turned else image
    rgb, opacity = _to_rgb(upright, profile)
    # A profile tells the colours of the file's own channels: one for CMYK or grey means nothing for RGB.
    keeps_profile = isinstance(profile, bytes) and profile[16:20] == b"RGB " and upright.mode not in ("CMYK", "LAB")
    return Photo(rgb, opacity, profile if keeps_profile else None, dpi, tuple(notices))


def _dpi(image: Image.Image) -> tuple[float, float] | None:
    try:
        across, down = (float(value) for value in image.info["dpi"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):  # absent, or nonsense in the file
        return None
    return (across, down) if 0 < across < math.inf and 0 < down < math.inf else None


def _to_rgb(image: Image.Image, profile: object) -> tuple[RgbImage, Alpha | None]:
    if image.mode == "F":
        raise ImageError("a floating-point image, whose white is not defined; save it with 8 or 16 bits")
    image.load()
    rgb: RgbImage = np.empty((image.height, image.width, 3), np.uint8)
    opacity: Alpha | None = None
    for top in range(0, image.height, _STRIP):
        rows = slice(top, min(top + _STRIP, image.height))
        rgb[rows], strip = _strip_to_rgb(image.crop((0, rows.start, image.width, rows.stop)), profile)
        if strip is not None:
            if opacity is None:  # all that came before was opaque
                opacity = np.ones((image.height, image.width), np.float32)
            opacity[rows] = strip.astype(np.float32) / np.float32(255)
    return rgb, opacity


def _strip_to_rgb(image: Image.Image, profile: object) -> tuple[RgbImage, NDArray[np.uint8] | None]:
    """RGB of some rows, on white where they are transparent, and their opacity unless they are opaque."""
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow itself would clip at 255; older releases say I
        values = np.asarray(image).astype(np.float32).clip(0, 65535)
        grey = np.rint(values / 257).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2), None
    if image.mode in ("CMYK", "LAB"):
        return np.asarray(_managed(image, profile)), None
    if not image.has_transparency_data:
        return np.asarray(image.convert("RGB")), None
    rgba = image.convert("RGBA")
    opacity = np.asarray(rgba.getchannel("A"))
    white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
    rgb = np.asarray(Image.alpha_composite(white, rgba).convert("RGB"))
    return rgb, None if opacity.min() == 255 else opacity


def _managed(image: Image.Image, profile: object) -> Image.Image:
    """Turn CMYK and Lab into sRGB by the file's profile, without one by the plain formula."""
    source: Any = None
    if image.mode == "LAB":
        source = ImageCms.createProfile("LAB")
    elif isinstance(profile, bytes) and profile[16:20] == b"CMYK":
        source = io.BytesIO(profile)
    if source is not None:
        try:
            srgb = ImageCms.createProfile("sRGB")
            converted: Image.Image | None = ImageCms.profileToProfile(image, source, srgb, outputMode="RGB")
            assert converted is not None  # only a conversion in place gives None
            return converted
        except ImageCms.PyCMSError:
            if image.mode == "LAB":
                raise
    return image.convert("RGB")


def check_suffix(path: str | Path, *, transparent: bool) -> None:
    """Refuse a path, or a suffix alone, of no format that holds such an image, before any work is done.

    Raises:
        OutputError: the message lists the formats that do.
    """
    able = [suffix for suffix in FORMATS if not (transparent and suffix in _OPAQUE)]
    suffix = _suffix(path)
    if suffix not in able:
        what = "an image with transparency" if transparent else "an image"
        raise OutputError(f"{path}: {what} cannot be written as {suffix or 'that'}; use {', '.join(able)}")


def _suffix(path: str | Path) -> str:
    name = Path(path).name.lower()
    return name if name in FORMATS else Path(name).suffix


def encode_image(image: Image.Image, suffix: str) -> bytes:
    """Encode an image in the format of a suffix, with the colour profile and resolution in `image.info`.

    Raises:
        OutputError: the format does not exist or cannot hold the image.
    """
    check_suffix(suffix, transparent=image.mode == "RGBA")
    options = dict(FORMATS[_suffix(suffix)])
    # Named again, because not every writer looks into the image's own information.
    options |= {key: image.info[key] for key in ("dpi", "icc_profile") if key in image.info}
    buffer = io.BytesIO()
    try:
        image.save(buffer, Image.registered_extensions()[_suffix(suffix)], **options)
    except ValueError as error:  # the format's own limits, such as WebP's 16383 pixels a side
        raise OutputError(f"{suffix}: cannot be written ({error}); use .png") from error
    return buffer.getvalue()


def write_image(image: Image.Image, path: str | Path) -> None:
    """Write an image in the format of the path's suffix, whole or not at all; missing folders are made.

    Raises:
        OutputError: the file cannot be written, or its suffix is of no format that holds the image.
    """
    path = Path(path)
    content = encode_image(image, str(path))
    make_folder(path.parent)
    write_whole(path, content)
