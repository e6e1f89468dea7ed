from pathlib import Path

import cv2
import numpy as np
import pytest
from hard_masks import TRUTHS, truth_of
from skimage.morphology import skeletonize

from birefnet.errors import OutputError
from birefnet.metrics.bits import Bits
from birefnet.metrics.boundary_accuracy import _disk
from birefnet.metrics.skeleton import skeleton, thin

SIZES = [(1, 1), (1, 130), (130, 1), (7, 63), (9, 64), (11, 65), (50, 128), (61, 200)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", TRUTHS)
def test_morphology_of_bits_is_that_of_pixels(kind: str, size: tuple[int, int]) -> None:
    mask = np.minimum(truth_of(kind, *size, np.random.default_rng(0)), 1)
    bits = Bits.pack(mask)
    assert (bits.unpack() == mask).all()
    assert bits.count() == mask.sum()
    assert ((~bits).unpack() == 1 - mask).all()
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    assert (bits.dilate().unpack() == cv2.dilate(mask, cross)).all()
    assert (bits.erode().unpack() == cv2.erode(mask, cross)).all()
    for radius in (1, 2, 6, 13):
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
        assert (bits.dilate(_disk(radius)).unpack() == cv2.dilate(mask, kernel)).all()
        assert (bits.erode(_disk(radius)).unpack() == cv2.erode(mask, kernel)).all()
    rows, columns = np.nonzero(np.ones(size))
    assert (bits.at(rows, columns) == mask[rows, columns]).all()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", TRUTHS)
def test_thinning_is_that_of_scikit_image(kind: str, size: tuple[int, int]) -> None:
    for seed in range(3):
        mask = truth_of(kind, *size, np.random.default_rng(seed))
        assert (thin(mask) == skeletonize(mask > 0)).all()


def test_kept_skeletons_are_found_by_content_and_made_anew_if_damaged(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "skeletons"
    truth = Bits.pack(truth_of("blobs", 90, 120, np.random.default_rng(1)))
    expected = skeleton(truth).unpack()
    assert (skeleton(truth, folder).unpack() == expected).all()
    (kept,) = folder.iterdir()
    other = Bits.pack(truth_of("blobs", 90, 120, np.random.default_rng(2)))
    np.savez(kept, words=skeleton(other).words)  # proof that what is kept is read
    assert (skeleton(truth, folder).unpack() == skeleton(other).unpack()).all()
    for damage in (b"", b"PK\x03\x04 nonsense", kept.read_bytes()[:200]):
        kept.write_bytes(damage)
        assert (skeleton(truth, folder).unpack() == expected).all()
    np.savez(kept, words=np.zeros((3, 3), np.uint64))
    assert (skeleton(truth, folder).unpack() == expected).all()


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="file"):
        skeleton(Bits.pack(np.ones((3, 3), np.uint8)), tmp_path / "file" / "skeletons")
