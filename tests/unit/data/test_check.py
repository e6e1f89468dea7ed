import io
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from birefnet.data.cache import decode_pair
from birefnet.data.check import KINDS, check_pairs, duplicates, leaks, sort_problems
from birefnet.data.facts import examine, read_mask, summarise
from birefnet.data.pairs import Pair, Problem
from birefnet.errors import DataError

WIDTH, HEIGHT = 160, 130


@pytest.fixture
def photo(chelsea: Path) -> Image.Image:
    with Image.open(chelsea) as image:
        return image.convert("RGB").resize((WIDTH, HEIGHT))


def disc(radius: int = 40) -> Image.Image:
    mask = Image.new("L", (WIDTH, HEIGHT))
    ImageDraw.Draw(mask).circle((WIDTH // 2, HEIGHT // 2), radius, fill=255)
    return mask


def save(folder: Path, photo: Image.Image, mask: Image.Image, name: str = "a", suffix: str = ".png") -> Pair:
    folder.mkdir(parents=True, exist_ok=True)
    pair = Pair(name, folder / f"{name}-photo.png", folder / f"{name}-mask{suffix}", "set")
    photo.save(pair.image, exif=photo.getexif())
    mask.save(pair.mask)
    return pair


def kinds(*pairs: Pair, binary: bool = False) -> list[tuple[str, bool]]:
    return [(problem.kind, problem.stops) for problem in check_pairs(pairs, binary=binary)]


def test_nothing_is_the_matter(tmp_path: Path, photo: Image.Image) -> None:
    calls: list[None] = []
    pair = save(tmp_path, photo, disc())
    assert check_pairs([pair], binary=True, advance=lambda: calls.append(None)) == []
    assert len(calls) == 1
    assert check_pairs([]) == []


def truncated(photo: Image.Image) -> bytes:
    buffer = io.BytesIO()
    photo.save(buffer, "PNG")
    return buffer.getvalue()[:5000]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (lambda _: b"", "empty: replace or remove it"),
        (lambda _: b"no image at all", "not an image"),
        (truncated, "damaged or cut off"),
    ],
)
def test_unreadable_files(
    tmp_path: Path, photo: Image.Image, content: Callable[[Image.Image], bytes], reason: str
) -> None:
    pair = save(tmp_path, photo, disc())
    pair.image.write_bytes(content(photo))
    pair.mask.unlink()
    mask, image = check_pairs([pair])
    assert (mask.kind, mask.file, image.kind, image.file) == (
        "unreadable",
        str(pair.mask),
        "unreadable",
        str(pair.image),
    )
    assert "no such file" in mask.detail
    assert reason in image.detail
    assert "\n" not in image.detail


@pytest.mark.parametrize(
    ("size", "kind", "hint"),
    [
        ((WIDTH // 2, HEIGHT // 2), "size", "another scale"),
        ((WIDTH * 2 + 1, HEIGHT * 2), "size", "another scale"),
        ((WIDTH, HEIGHT - 20), "size", "another shape"),
        ((HEIGHT, WIDTH), "turned", "turn the mask the same way"),
    ],
)
def test_sizes(tmp_path: Path, photo: Image.Image, size: tuple[int, int], kind: str, hint: str) -> None:
    (problem,) = check_pairs([save(tmp_path, photo, disc().resize(size))])
    assert (problem.kind, problem.stops) == (kind, True)
    assert problem.detail.startswith(f"is {size[0]} x {size[1]}, its photo {WIDTH} x {HEIGHT}")
    assert hint in problem.detail


def test_photos_that_exif_turns(tmp_path: Path, photo: Image.Image) -> None:
    exif = photo.getexif()
    exif[0x0112] = 6
    (problem,) = check_pairs([save(tmp_path, photo, disc())])
    assert problem.kind == "turned"
    assert f"its photo {HEIGHT} x {WIDTH} as EXIF turns it" in problem.detail
    # Turned as well, or with the same note in its file, the mask fits.
    assert kinds(save(tmp_path, photo, disc().transpose(Image.Transpose.ROTATE_270))) == []
    mask = disc()
    mask.save(tmp_path / "noted.png", exif=exif)
    assert kinds(Pair("noted", tmp_path / "a-photo.png", tmp_path / "noted.png")) == []
    # Turned by half, the sizes say nothing.
    exif[0x0112] = 3
    assert kinds(save(tmp_path, photo, disc())) == [("exif", False)]


def test_masks_that_are_no_masks(tmp_path: Path, photo: Image.Image) -> None:
    grey = np.asarray(photo.convert("L"))
    cases: dict[str, tuple[Image.Image, list[tuple[str, bool]]]] = {
        "empty": (Image.new("L", photo.size, 90), [("empty-mask", False), ("grey-mask", False)]),
        "black": (Image.new("L", photo.size), [("empty-mask", False)]),
        "full": (Image.new("L", photo.size, 255), [("full-mask", False)]),
        "photo": (photo, [("colour-mask", True)]),
        "grey photo": (Image.fromarray(grey), [("grey-mask", False)]),
        "ones": (disc().point(lambda level: level // 255), [("zeros-and-ones", True)]),
        "bilevel": (disc().convert("1"), []),
        "grey as RGB": (disc().convert("RGB"), []),
    }
    for name, (mask, expected) in cases.items():
        assert kinds(save(tmp_path, photo, mask)) == expected, name


def test_files_of_unusual_kinds(tmp_path: Path, photo: Image.Image) -> None:
    wide = np.asarray(disc()).astype(np.uint16) * 257
    soft = wide // 3
    soft[:, :80] *= 2
    palette = disc().convert("P")
    classes = disc().point(lambda level: level // 255).convert("P")
    classes.putpalette([0, 0, 0, 200, 0, 0])
    hidden = Image.merge("RGBA", (*photo.split(), disc()))
    white = Image.merge("LA", (Image.new("L", photo.size, 255), disc()))
    unit = np.asarray(disc()).astype(np.float32) / 255
    cases: list[tuple[Image.Image, str, list[tuple[str, bool]]]] = [
        (Image.fromarray(wide), ".png", [("mode", False)]),
        (Image.fromarray(soft), ".png", [("mode", False)]),
        (Image.fromarray(wide // 257), ".png", [("shallow", True)]),
        (Image.fromarray(unit), ".tif", [("unreadable", True)]),
        (palette, ".png", [("mode", False)]),
        (classes, ".png", [("colour-mask", True)]),
        (hidden, ".png", [("mode", False)]),
        (white, ".png", [("mode", False)]),
    ]
    for mask, suffix, expected in cases:
        assert kinds(save(tmp_path, photo, mask, suffix=suffix)) == expected, mask.mode
    assert kinds(save(tmp_path, hidden, disc())) == [("mode", False)]
    assert kinds(save(tmp_path, Image.fromarray(soft), disc())) == [("mode", False)]
    assert kinds(save(tmp_path, Image.fromarray(wide // 257), disc())) == [("shallow", True)]


def test_soft_masks_and_trimaps(tmp_path: Path, photo: Image.Image) -> None:
    soft = disc().resize((20, 16)).resize(photo.size, Image.Resampling.BILINEAR)
    pair = save(tmp_path, photo, soft)
    assert kinds(pair) == []
    assert kinds(pair, binary=True) == [("soft-mask", False)]
    trimap = disc(50).point(lambda level: level and 128)
    trimap.paste(255, mask=disc(40))
    assert kinds(save(tmp_path, photo, trimap)) == [("trimap", False)]


def test_tiny_photos(tmp_path: Path, photo: Image.Image) -> None:
    pair = save(tmp_path, photo, disc())
    (problem,) = check_pairs([pair], smallest=HEIGHT + 1)
    assert (problem.kind, problem.stops) == ("tiny", False)
    assert check_pairs([pair], smallest=HEIGHT) == []


def test_the_same_photo_twice(tmp_path: Path, photo: Image.Image, astronaut: Path) -> None:
    first = save(tmp_path, photo, disc(), "a")
    second = save(tmp_path, photo, disc(30), "b")
    photo.save(second.image, compress_level=0)  # another file of the same pixels
    with Image.open(astronaut) as image:
        third = save(tmp_path, image.convert("RGB").resize(photo.size), disc(), "c")
    (problem,) = check_pairs([first, third, second])
    assert problem == Problem(
        "duplicate", str(second.image), f"is the same photo as {first.image}, with another mask", stops=False
    )
    shutil.copy(first.mask, second.mask)
    assert "with the same mask" in check_pairs([first, third, second])[0].detail


def test_photos_much_alike(tmp_path: Path, photo: Image.Image) -> None:
    pair = save(tmp_path, photo, disc(), "a")
    smaller = photo.resize((WIDTH * 2 // 3, HEIGHT * 2 // 3))
    buffer = io.BytesIO()
    smaller.save(buffer, "JPEG", quality=50)
    with Image.open(buffer) as copy:
        other = save(tmp_path, copy.convert("RGB"), disc().resize(smaller.size), "b")
    mirrored = save(tmp_path, photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT), disc(), "c")
    plain = [save(tmp_path, Image.new("RGB", photo.size, (200, 200, 200 + n)), disc(), f"plain{n}") for n in range(2)]
    pairs = [pair, other, mirrored, *plain]
    problems = check_pairs(pairs, smallest=1)
    assert [(problem.kind, problem.file) for problem in problems] == [("near-duplicate", str(other.image))]
    problems = check_pairs([pair, mirrored, *plain], [other], smallest=1)
    assert [(problem.kind, problem.stops) for problem in problems] == [("near-leak", False)]


def test_leakage(tmp_path: Path, photo: Image.Image) -> None:
    train = [save(tmp_path / "train", photo.rotate(90 * turn, expand=True), disc(), str(turn)) for turn in range(2)]
    validation = [save(tmp_path / "val", photo, disc(), "other-name"), *train[1:]]
    problems = [problem for problem in check_pairs(train, validation) if problem.kind == "leak"]
    assert [problem.file for problem in problems] == sorted(str(pair.image) for pair in validation)
    assert all(problem.stops for problem in problems)
    assert f"the same photo as {train[0].image}" in problems[1].detail
    assert leaks(examine(train[:1]), []) == leaks([], examine(train)) == duplicates([]) == []


def test_every_kind_has_a_heading_and_the_worst_come_first() -> None:
    problems = [Problem(kind, "a", "", stops) for stops in (False, True) for kind in reversed(KINDS)]
    ordered = sort_problems(problems)
    assert [problem.kind for problem in ordered] == [*KINDS, *KINDS]
    assert [problem.stops for problem in ordered] == [True] * len(KINDS) + [False] * len(KINDS)


def test_a_pair_in_numbers(tmp_path: Path, photo: Image.Image) -> None:
    (facts,) = examine([save(tmp_path, photo, disc(50))])
    assert facts.photo is not None
    assert facts.mask is not None
    assert facts.photo.size == facts.mask.size == (HEIGHT, WIDTH)
    assert facts.mask.foreground == pytest.approx(np.pi * 50**2 / (WIDTH * HEIGHT), rel=0.03)
    # A disc's outline over the root of its area is 2 sqrt(pi); steps of pixels are longer than the arc.
    assert facts.mask.thinness == pytest.approx(2 * np.pi**0.5, rel=0.1)
    assert (facts.mask.soft, facts.mask.coloured, facts.mask.border) == (0, 0, 0)
    pixels = np.asarray(photo).reshape(-1, 3) / 255
    np.testing.assert_allclose(facts.photo.mean, pixels.mean(0), atol=1e-6)
    np.testing.assert_allclose(facts.photo.square, (pixels**2).mean(0), atol=1e-6)


def test_masks_are_read_as_they_are_trained_on(tmp_path: Path, photo: Image.Image) -> None:
    pair = save(tmp_path, photo, disc())
    from_pack = decode_pair(pair, (64, 64))[3]
    levels = Image.fromarray(np.where(read_mask(pair.mask) > 127, 254, 0).astype(np.uint8))
    shrunk = np.asarray(levels.resize((64, 64), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(shrunk - from_pack).max() <= 1
    pair.mask.write_bytes(b"broken")
    with pytest.raises(DataError, match=r"a-mask\.png: not an image"):
        read_mask(pair.mask)


def test_thin_things_and_things_at_the_border(tmp_path: Path, photo: Image.Image) -> None:
    mask = Image.new("L", photo.size)
    ImageDraw.Draw(mask).rectangle((0, 60, WIDTH, 61), fill=255)
    (facts,) = examine([save(tmp_path, photo, mask)])
    assert facts.mask is not None
    assert facts.mask.thinness is not None
    assert facts.mask.thinness > 15
    assert facts.mask.border == pytest.approx(4 / (2 * WIDTH + 2 * HEIGHT - 4))


def test_a_set_in_numbers(tmp_path: Path, photo: Image.Image) -> None:
    pairs = [save(tmp_path, photo.rotate(5 * n), disc(10 + 10 * n), str(n)) for n in range(4)]
    empty = save(tmp_path, photo, Image.new("L", photo.size), "empty")
    broken = save(tmp_path, photo, disc(), "broken")
    broken.mask.write_bytes(b"")
    summary = summarise(examine([*pairs, empty, broken]))
    assert (summary["pairs"], summary["unreadable"], summary["sets"]) == (5, 1, {"set": 5})
    assert set(summary["height"].values()) == {HEIGHT}
    assert summary["foreground"]["least"] == 0
    assert summary["foreground"]["greatest"] == pytest.approx(np.pi * 40**2 / (WIDTH * HEIGHT), rel=0.03)
    assert sum(summary["foreground_histogram"]) == 5
    assert summary["binary_masks"] == 5
    assert (summary["categories"], summary["with_category"], summary["at_border"]) == (0, 0, 0)
    assert summarise(examine([empty]))["thinness"] is None
    with pytest.raises(DataError, match="none of the 1 pairs can be read"):
        summarise(examine([broken]))


def test_threads_do_not_change_the_result(tmp_path: Path, photo: Image.Image) -> None:
    pairs = [save(tmp_path, photo, disc(n + 1).resize((50, 40)), str(n)) for n in range(6)]
    assert check_pairs(pairs, jobs=1) == check_pairs(pairs, jobs=5)
