"""Binary images with 64 pixels in a word, on which morphology costs a few passes over one bit a pixel.

A row is a whole number of words and has at least one spare bit, always 0, at its end. So a picture may be shifted as
one long number: what leaves a row falls into the spare bit, which is then cleared.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.uint8]
Words = NDArray[np.uint64]

# packbits fills bytes in the order of pixels, so a word's lowest byte comes first: on little-endian machines, which are
# all that OpenCV's wheels run on, this is the machine's own type.
_WORD = np.dtype("<u8")
_ONE, _LAST = np.uint64(1), np.uint64(63)
_ONES_OF_BYTE_PAIR = np.array([bin(pair).count("1") for pair in range(1 << 16)], np.uint8)


@dataclass(frozen=True)
class Bits:
    """A binary image of `width` columns: words (H, K), bit i of word k is the pixel in column 64 k + i."""

    words: Words
    width: int

    @classmethod
    def pack(cls, mask: Mask | NDArray[np.bool_]) -> "Bits":
        """Pack an image: what is not 0 is 1.  (H, W)."""
        height, width = mask.shape
        packed = np.packbits(mask, axis=1, bitorder="little")
        words = np.zeros((height, (width // 64 + 1) * 8), np.uint8)
        words[:, : packed.shape[1]] = packed
        return cls(words.view(_WORD), width)

    def unpack(self) -> Mask:
        """The image as (H, W) of 0 and 1."""
        return np.unpackbits(self.words.view(np.uint8), axis=1, count=self.width, bitorder="little")

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return int(self.words.shape[0]), self.width

    def __and__(self, other: "Bits") -> "Bits":
        return Bits(self.words & other.words, self.width)

    def __or__(self, other: "Bits") -> "Bits":
        return Bits(self.words | other.words, self.width)

    def __xor__(self, other: "Bits") -> "Bits":
        return Bits(self.words ^ other.words, self.width)

    def __sub__(self, other: "Bits") -> "Bits":
        """What is in this image but not in the other."""
        return Bits(self.words & ~other.words, self.width)

    def __invert__(self) -> "Bits":
        return Bits(~self.words & self._inside(), self.width)

    def count(self) -> int:
        """Number of pixels that are 1."""
        pairs = np.ascontiguousarray(self.words).view(np.uint16)
        return int(_ONES_OF_BYTE_PAIR[pairs].sum(dtype=np.int64))

    def at(self, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Values of some pixels.  (N,), (N,) -> (N,)."""
        words = self.words.reshape(-1).take(rows * self.words.shape[1] + (columns >> 6))
        return np.asarray(words >> (columns & 63).astype(np.uint64) & _ONE, np.bool_)

    def dilate(self, half_widths: list[int] | None = None) -> "Bits":
        """Grow by a footprint; beyond the image's border there is nothing.

        Args:
            half_widths: the footprint: rows with that many pixels to either side of the middle, for each distance
                0, 1, ... of the row from the middle; they must not grow with the distance. By default a cross of 5.
        """
        spans = half_widths or [1, 0]
        row = self.words.reshape(-1)
        stride = self.words.shape[1]
        grown = np.zeros_like(row)
        reach = 0
        row = row.copy()
        # From the narrowest rows of the footprint, at its top and bottom, to the widest.
        for distance in range(len(spans) - 1, -1, -1):
            for _ in range(spans[distance] - reach):
                row = self._widen(row)
            reach = spans[distance]
            offset = distance * stride
            if offset < len(row):
                grown[offset:] |= row[: len(row) - offset]
                if offset:
                    grown[:-offset] |= row[offset:]
        return Bits(grown.reshape(self.words.shape), self.width)

    def erode(self, half_widths: list[int] | None = None) -> "Bits":
        """Shrink by a footprint as `dilate` takes it; beyond the image's border everything is foreground."""
        return ~(~self).dilate(half_widths)

    def _widen(self, row: Words) -> Words:
        """One pixel to the left and to the right."""
        wider = row << _ONE
        wider |= row
        wider |= row >> _ONE
        wider[1:] |= row[:-1] >> _LAST
        wider[:-1] |= row[1:] << _LAST
        inside = wider.reshape(self.words.shape)
        inside &= self._inside()
        return wider

    def _inside(self) -> Words:
        """A row's words with a 1 for every column.  (K,)."""
        row = np.zeros(self.words.shape[1] * 64, np.uint8)
        row[: self.width] = 1
        return np.packbits(row, bitorder="little").view(_WORD)
