"""Samples of a validation: chosen, kept beside the run, and drawn on a contact sheet."""

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from birefnet.errors import DataError
from birefnet.training.contact_sheet import contact_sheet, difference
from birefnet.training.samples import Sample, load_samples, ranked, save_samples

FALSE, MISSED = (213, 94, 0), (0, 140, 220)


def make_sample(name: str, height: int = 60, width: int = 90, **scores: float) -> Sample:
    random = np.random.default_rng(0)
    photo = random.integers(0, 256, (height, width, 3), np.uint8)
    truth = np.zeros((height, width), np.uint8)
    truth[: height // 2] = 255
    prediction = np.zeros((height, width), np.uint8)
    prediction[:, : width // 2] = 255
    return Sample(name, photo, truth, prediction, scores)


def test_the_difference_tells_false_from_missed_foreground() -> None:
    sample = make_sample("x")
    picture = difference(sample)
    assert tuple(picture[-1, 0]) == FALSE  # predicted, and not there
    assert tuple(picture[0, -1]) == MISSED
    for right in (picture[0, 0], picture[-1, -1]):  # grey where both agree
        assert right[0] == right[1] == right[2]
    unknown = np.ones(sample.truth.shape, bool)
    unknown[-1, 0] = False
    hidden = difference(Sample("x", sample.photo, sample.truth, sample.prediction, {}, unknown))
    assert tuple(hidden[-1, 0]) not in (FALSE, MISSED)


def test_samples_are_ranked_by_a_measure_of_either_direction() -> None:
    samples = [make_sample(str(i), maxF=i / 10, MAE=i / 10) for i in range(10)]
    samples.append(make_sample("without"))
    assert "".join(s.name for s in ranked(samples[:10], "maxF")) == "9876543210"
    assert "".join(s.name for s in ranked(samples[:10], "MAE")) == "0123456789"
    assert "".join(s.name for s in ranked(samples[:10], "maxF", 6)) == "985410"
    assert ranked(samples, "maxF", 20)[-1].name == "without"
    assert list(ranked(samples, "MAE")[0].scores) == ["MAE", "maxF"]
    assert ranked([], "maxF") == []


def test_samples_come_back_small_and_replace_older_ones(tmp_path: Path) -> None:
    valid = np.ones((900, 600), bool)
    valid[:450] = False
    big = make_sample("folder/photo 1.jpg", 900, 600, maxF=0.5, MAE=math.nan)
    samples = [Sample(big.name, big.photo, big.truth, big.prediction, big.scores, valid), make_sample("照片", 1, 7)]
    assert load_samples(tmp_path) == ("", [])
    save_samples(tmp_path, [make_sample("older")], 10)
    save_samples(tmp_path, samples, 2000, "best first")
    title, loaded = load_samples(tmp_path)
    assert title == "validation at step 2,000: best first"
    assert [sample.name for sample in loaded] == ["folder/photo 1.jpg", "照片"]
    first, second = loaded
    assert first.photo.shape == (320, 213, 3)
    assert first.truth.shape == first.prediction.shape == (320, 213)
    assert first.valid is not None
    assert not first.valid[:159].any()
    assert first.valid[161:].all()
    assert first.scores["maxF"] == 0.5
    assert math.isnan(first.scores["MAE"])
    assert second.valid is None
    np.testing.assert_array_equal(second.truth, samples[1].truth)
    np.testing.assert_array_equal(second.prediction, samples[1].prediction)
    names = sorted(path.name for path in (tmp_path / "validation").iterdir())
    assert len(names) == 7
    assert names[0] == "0002000-00-folder_photo_1.jpg-photo.jpg"


def test_damaged_and_missing_samples_are_named(tmp_path: Path) -> None:
    save_samples(tmp_path, [make_sample("a")], 1)
    (photo,) = (tmp_path / "validation").glob("*-photo.jpg")
    content = photo.read_bytes()
    photo.write_bytes(content[:200])
    with pytest.raises(DataError, match="validation: is damaged"):
        load_samples(tmp_path)
    photo.unlink()
    with pytest.raises(DataError, match=r"photo\.jpg: is missing"):
        load_samples(tmp_path)
    (tmp_path / "validation" / "samples.json").write_text("{}")
    with pytest.raises(DataError, match="validation: is damaged"):
        load_samples(tmp_path)


def test_a_contact_sheet_of_any_sizes_is_laid_out_in_one_or_two_columns(tmp_path: Path) -> None:
    sizes = [(60, 90), (90, 60), (1, 300), (300, 1), (1200, 1600)]
    long_name = "a/very/long/path/" * 12 + "ünïcode 照片.jpeg"
    samples = [make_sample(long_name, height, width, maxF=0.5, MAE=math.nan) for height, width in sizes]
    widths = []
    for count in (0, 1, 4, 5):
        path = contact_sheet(samples[:count], tmp_path / "sheet.png", "title" if count else "")
        with Image.open(path) as image:
            image.load()
            widths.append(image.width)
            assert len(image.getcolors(1 << 24) or []) > 10
    assert widths[0] == widths[1] == widths[2]
    assert widths[3] > 2 * widths[0] - 40
