"""Looking at every pair of a data set once: what is wrong with it."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from birefnet.data.facts import THRESHOLD, THUMB, Facts, MaskFacts, PhotoFacts, Size, examine
from birefnet.data.pairs import Pair, Problem

KINDS = {
    "no-mask": "photos without a mask",
    "no-photo": "masks without a photo",
    "several-masks": "photos with more than one mask",
    "same-name": "photos of one name",
    "missing-file": "files that a table names and that are not there",
    "unknown-class": "classes that DIS5K does not have",
    "unreadable": "files that cannot be read as images",
    "size": "masks of another size than their photo",
    "turned": "photos that EXIF turns on their side, with masks that are not",
    "colour-mask": "masks that are a photo or a map of classes",
    "shallow": "files of 16 bits that hold levels of 8 bits",
    "zeros-and-ones": "masks whose foreground is 1 in place of 255",
    "leak": "photos that are both trained on and validated on",
    "near-leak": "photos to validate on that are much like one trained on",
    "duplicate": "photos that are there more than once",
    "near-duplicate": "photos that are much like another",
    "empty-mask": "masks without foreground",
    "full-mask": "masks without background",
    "trimap": "masks of black, white and one grey",
    "soft-mask": "masks with levels between 0 and 255",
    "grey-mask": "masks that are mostly neither dark nor bright",
    "exif": "photos that EXIF turns round or mirrors, with masks that say nothing of it",
    "mode": "masks and photos whose file is of an unusual kind",
    "tiny": "photos too small to learn details from",
}
"""What may be the matter, the worst first: kind of problem -> heading of its list."""

SMALLEST = 128
"""Shorter side in pixels below which a photo counts as tiny."""

ALIKE = 0.994
"""Correlation of two photos' thumbnails from which on they count as near duplicates.

Copies of 200 photos, shrunk, enlarged, brightened by a tenth and saved as JPEG of quality 30 to 90, gave 0.9949 and
more; of 3,592 different photos the two most alike gave 0.9892. Copies cropped by 3% give 0.95 and are not found.
"""

# How much of a mask may be clearly coloured, and of middle greys.
_COLOURED_SHARE, _MID_SHARE = 0.05, 0.5

# How much of the grey that trimaps have there is at least, of all and of what is neither black nor white.
_UNKNOWN_SHARE, _UNKNOWN_PART = 0.005, 0.95

_BLOCK = 1024


def check_pairs(
    pairs: Sequence[Pair],
    validation: Sequence[Pair] = (),
    *,
    binary: bool = False,
    smallest: int = SMALLEST,
    jobs: int | None = None,
    advance: Callable[[], None] | None = None,
) -> list[Problem]:
    """Look at every pair and list all that is the matter, the worst first.

    Args:
        pairs: what is to be trained on.
        validation: what is to be validated on; it is checked as well, and for photos that are in `pairs` too.
        binary: report masks that are soft, where they should not be.
        smallest: shorter side in pixels below which a photo is reported as tiny.
        jobs: pairs decoded at a time; by default one a processor.
        advance: called after each pair.
    """
    facts = examine([*pairs, *validation], jobs=jobs, advance=advance)
    problems = [problem for each in facts for problem in judge(each, binary=binary, smallest=smallest)]
    train, held_out = facts[: len(pairs)], facts[len(pairs) :]
    return sort_problems([*problems, *duplicates(train), *duplicates(held_out), *leaks(train, held_out)])


def sort_problems(problems: Sequence[Problem]) -> list[Problem]:
    """Put problems that stop a training first, then those of one kind together, in the order of their files."""
    order = {kind: number for number, kind in enumerate(KINDS)}
    return sorted(problems, key=lambda p: (not p.stops, order[p.kind], p.file))


def judge(facts: Facts, *, binary: bool = False, smallest: int = SMALLEST) -> list[Problem]:
    """List what is the matter with a pair by itself.

    Args:
        facts: of the pair.
        binary: report a mask that is soft.
        smallest: shorter side in pixels below which the photo is reported as tiny.
    """
    problems = list(facts.problems)
    if facts.photo is not None:
        problems += _judge_photo(str(facts.pair.image), facts.photo, smallest)
    if facts.mask is not None:
        problems += _judge_mask(str(facts.pair.mask), facts.mask, binary=binary)
    if facts.photo is not None and facts.mask is not None:
        problems += _judge_sizes(str(facts.pair.mask), facts.photo, facts.mask)
    return problems


def duplicates(facts: Sequence[Facts]) -> list[Problem]:
    """Find photos of one set that are the same, pixel by pixel, or much alike."""
    readable = [each for each in facts if each.photo is not None]
    problems = []
    first: dict[str, Facts] = {}
    for each in readable:
        assert each.photo is not None
        other = first.setdefault(each.photo.digest, each)
        if other is not each:
            detail = f"is the same photo as {other.pair.image}, {_masks_of(each, other)}"
            problems.append(Problem("duplicate", str(each.pair.image), detail, stops=False))
    singles = list(first.values())
    for i, j, alike in _alike(singles, singles):
        if i < j:
            detail = f"is much like {singles[i].pair.image} ({alike:.4f}), {_masks_of(singles[j], singles[i])}"
            problems.append(Problem("near-duplicate", str(singles[j].pair.image), detail, stops=False))
    return problems


def leaks(train: Sequence[Facts], validation: Sequence[Facts]) -> list[Problem]:
    """Find photos to validate on that are the same as one to train on, or much like one."""
    known = {each.photo.digest: each for each in train if each.photo is not None}
    problems, rest = [], []
    for each in validation:
        other = known.get(each.photo.digest) if each.photo is not None else None
        if other is None:
            rest.append(each)
        else:
            detail = f"is the same photo as {other.pair.image}, which is trained on: take it out of one of the sets"
            problems.append(Problem("leak", str(each.pair.image), detail))
    near: dict[int, tuple[int, float]] = {}
    for i, j, alike in _alike(rest, train):
        if alike > near.get(i, (0, 0.0))[1]:
            near[i] = (j, alike)
    for i, (j, alike) in near.items():
        detail = f"is much like {train[j].pair.image} ({alike:.4f}), which is trained on"
        problems.append(Problem("near-leak", str(rest[i].pair.image), detail, stops=False))
    return problems


# --- judging ---


def _judge_photo(file: str, photo: PhotoFacts, smallest: int) -> Iterator[Problem]:
    if photo.shallow:
        yield Problem("shallow", file, f"{photo.mode}: none of its levels is above 255 of 65535: save it with 8 bits")
    elif photo.mode.startswith("I"):
        yield Problem("mode", file, f"{photo.mode}: its 16-bit levels are scaled to 8 bits", stops=False)
    if photo.transparent:
        yield Problem("mode", file, f"{photo.mode}: where it is transparent it is shown on white", stops=False)
    if min(photo.size) < smallest:
        yield Problem("tiny", file, f"is {_shown(photo.size)}: has a side shorter than {smallest}", stops=False)


def _judge_mask(file: str, mask: MaskFacts, *, binary: bool) -> Iterator[Problem]:
    if mask.coloured > _COLOURED_SHARE:
        detail = f"{mask.coloured:.0%} of its pixels are coloured: a mask is grey, white for foreground"
        yield Problem("colour-mask", file, detail)
    elif mask.shallow:
        yield Problem("shallow", file, f"{mask.mode}: none of its levels is above 255 of 65535: save it with 8 bits")
    elif mask.greatest == 1:
        yield Problem("zeros-and-ones", file, "its greatest level is 1, foreground is 255: multiply it by 255")
    elif mask.foreground == 0:
        detail = f"nothing is above {THRESHOLD}, the greatest level is {mask.greatest}"
        yield Problem("empty-mask", file, detail, stops=False)
    elif mask.foreground == 1:
        yield Problem("full-mask", file, f"nothing is at {THRESHOLD} or below", stops=False)
    if mask.mode.startswith("I") and not mask.shallow:
        yield Problem("mode", file, f"{mask.mode}: its 16-bit levels are scaled to 8 bits", stops=False)
    if mask.transparent:
        yield Problem("mode", file, f"{mask.mode}: its transparency is read, not its colours", stops=False)
    elif mask.mode == "P" and mask.coloured <= _COLOURED_SHARE:
        yield Problem("mode", file, "P: the colours of its palette are turned to grey", stops=False)
    if mask.unknown > _UNKNOWN_SHARE and mask.unknown > _UNKNOWN_PART * mask.soft:
        detail = f"{mask.unknown:.1%} of its pixels are one middle grey: is it a trimap, or not labelled there?"
        yield Problem("trimap", file, detail, stops=False)
    elif mask.coloured <= _COLOURED_SHARE and mask.middle > _MID_SHARE:
        detail = f"{mask.middle:.0%} of its pixels are neither dark nor bright: is it a photo?"
        yield Problem("grey-mask", file, detail, stops=False)
    elif binary and mask.soft:
        yield Problem("soft-mask", file, f"{mask.soft:.2%} of its pixels are neither 0 nor 255", stops=False)


def _judge_sizes(file: str, photo: PhotoFacts, mask: MaskFacts) -> Iterator[Problem]:
    on_side = photo.orientation >= 5
    if photo.size == mask.size:
        if photo.orientation != 1 and mask.orientation == 1 and (not on_side or photo.size[0] == photo.size[1]):
            detail = f"its photo is turned as EXIF says (orientation {photo.orientation}): see that it fits that"
            yield Problem("exif", file, detail, stops=False)
        return
    sizes = f"is {_shown(mask.size)}, its photo {_shown(photo.size)}"
    if photo.size == mask.size[::-1]:
        why = "" if photo.orientation == mask.orientation else " as EXIF turns it"
        yield Problem("turned", file, f"{sizes}{why}: turn the mask the same way")
        return
    # The same picture at another scale, but for rounding to whole pixels.
    scale = (mask.size[0] / photo.size[0] * mask.size[1] / photo.size[1]) ** 0.5
    same = all(abs(m - p * scale) <= 1 for m, p in zip(mask.size, photo.size, strict=True))
    hint = "the same picture at another scale: resize one" if same else "of another shape: one of them is cropped"
    yield Problem("size", file, f"{sizes}, {hint}")


def _shown(size: Size) -> str:
    return f"{size[1]} x {size[0]}"


def _masks_of(one: Facts, other: Facts) -> str:
    if one.mask is None or other.mask is None:
        return "of which one mask cannot be read"
    return "with the same mask" if one.mask.digest == other.mask.digest else "with another mask"


def _alike(some: Sequence[Facts], others: Sequence[Facts]) -> Iterator[tuple[int, int, float]]:
    """Compare all thumbnails of two sets, and tell which are alike: positions in both, and their correlation."""
    blank = np.zeros(THUMB**2, np.float32)
    left, right = (
        np.stack([each.photo.thumbnail if each.photo is not None else blank for each in facts])
        if facts
        else blank[None]
        for facts in (some, others)
    )
    for top in range(0, len(left), _BLOCK):
        products = left[top : top + _BLOCK] @ right.T
        for i, j in np.argwhere(products > ALIKE):
            yield top + int(i), int(j), float(products[i, j])
