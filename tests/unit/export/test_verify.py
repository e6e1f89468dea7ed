"""Comparing files with the network: what is compared, and that a difference is seen."""

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from birefnet.config import InputSpec
from birefnet.errors import InputError, OutputError
from birefnet.export.checks import MOST_PHOTOS
from birefnet.export.verify import Comparison, Source, compare, shapes_for
from birefnet.model import BiRefNet
from engine_files import lively_model
from support import TINY, tiny_model


class Off:
    """The network with an error in one pixel of one image of a batch."""

    precision = "float32"

    def __init__(self, model: BiRefNet, error: float, batch: int) -> None:
        self.source, self.error, self.batch = Source(model), error, batch
        self.seen: list[np.ndarray] = []

    def __call__(self, images: np.ndarray) -> np.ndarray:
        self.seen.append(images)
        alpha = self.source(images).copy()
        if len(images) == self.batch:
            alpha[-1, 0, -1, -1] += self.error
        return alpha


def test_the_network_equals_itself() -> None:
    model = lively_model()
    comparison = compare(Source(model), model)
    assert comparison.difference == comparison.mean == 0
    assert comparison.checked == shapes_for(model)
    assert "drawn pictures" in comparison.notes[0]


@pytest.mark.parametrize("batch", [1, 3])
def test_one_wrong_pixel_is_seen(batch: int, tmp_path: Path) -> None:
    model = lively_model()
    comparison = compare(Off(model, 0.25, batch), model)
    assert comparison.difference == pytest.approx(0.25)
    with pytest.raises(OutputError, match=r"not written, its masks differ from the network's by 0\.25") as error:
        comparison.require(0.2, tmp_path / "x.onnx")
    assert "\n" not in str(error.value)
    comparison.require(0.3, tmp_path / "x.onnx")


def test_nan_is_within_no_bound(tmp_path: Path) -> None:
    comparison = compare(Off(lively_model(), math.nan, 1), lively_model())
    assert math.isnan(comparison.difference)
    with pytest.raises(OutputError, match="nan"):
        comparison.require(1e9, tmp_path / "x.onnx")


def test_the_photos_given_are_looked_at(tmp_path: Path, astronaut: Path) -> None:
    model = lively_model()
    for index in range(MOST_PHOTOS + 4):
        Image.open(astronaut).resize((60 + index, 50)).save(tmp_path / f"{index}.png")
    engine = Off(model, 0, 1)
    comparison = compare(engine, model, photos=tmp_path)
    assert f"{MOST_PHOTOS} photos" in comparison.notes[0]
    assert compare(engine, model, photos=tmp_path / "3.png").notes == (
        f"compared on 1 photos of {tmp_path / '3.png'} and noise",
    )
    # The first picture is the photo, prepared as the weights want it, at the model's own size.
    assert engine.seen[0].shape == (1, 3, *model.input_spec.size)
    # All six photos and the noise: every picture differs from the others at one of the sizes.
    looked = Off(model, 0, 1)
    compare(looked, model, photos=tmp_path)
    assert sum(len(images) for images in looked.seen) >= MOST_PHOTOS + 1
    with pytest.raises(InputError, match="no photos to compare on"):
        compare(engine, model, photos=tmp_path / "missing")


def test_sizes_suit_the_network() -> None:
    model = tiny_model()
    for size in ((64, 64), (1024, 1024), (1440, 2560), (32, 32)):
        model.input_spec = InputSpec(size=size)
        first, second, third = shapes_for(model)
        assert first == (1, *size)
        assert second[0] == 3
        assert third[1] != third[2]
        assert all(side % 32 == 0 and side >= 32 for shape in (first, second, third) for side in shape[1:])
    refined = BiRefNet(TINY, InputSpec(size=(64, 64)), refiner="refunet")
    assert all(side % 64 == 0 for shape in shapes_for(refined) for side in shape[1:])


def test_the_report_holds_what_was_compared(tmp_path: Path) -> None:
    report = Comparison(0.5, 0.1, ((1, 32, 64),), ("seen",)).report(tmp_path, "first")
    assert (report.path, report.difference, report.checked, report.notes) == (
        tmp_path,
        0.5,
        ((1, 32, 64),),
        ("first", "seen"),
    )


def test_the_networks_mode_stays_as_it_was() -> None:
    model = tiny_model().train()
    Source(model)(np.zeros((2, 3, 64, 64), np.float32))
    assert model.training


def test_a_network_in_bfloat16_is_compared_in_float32() -> None:
    model = copy.deepcopy(lively_model()).bfloat16()
    images = np.random.default_rng(0).standard_normal((1, 3, 64, 64), np.float32)
    expected = Source(copy.deepcopy(model).float())(images)
    np.testing.assert_array_equal(Source(model)(images), expected)
    assert next(model.parameters()).dtype == torch.bfloat16
