"""Parting a data set into what is trained on and what is validated on, by names alone."""

import hashlib
import re
from collections.abc import Sequence

from birefnet.data.pairs import Pair
from birefnet.errors import ConfigError, DataError


def split(
    pairs: Sequence[Pair], share: float, seed: int = 0, groups: str | None = None
) -> tuple[list[Pair], list[Pair]]:
    r"""Part pairs into those to train on and those to validate on, both in the order given.

    Where a pair goes depends on nothing but its own name, the seed and the share: files that are added or removed move
    no other, and a larger share keeps all that a smaller one validates on. So the share is met on average only; of few
    pairs, where it would meet none, the first group in line is validated on.

    Args:
        pairs: what to part.
        share: of the pairs to validate on, from 0 to below 1.
        seed: another one gives another split.
        groups: regular expression, matched from the start of the name; pairs with the same match (or, where it has a
            group in brackets, the same first group) stay together, such as the frames of a video with r"(.+)_\d+".

    Raises:
        ConfigError: the share or the pattern is impossible.
        DataError: nothing would be left to train on.
    """
    if not 0 <= share < 1:
        raise ConfigError(f"share {share}: the part to validate on must be at least 0 and below 1")
    try:
        pattern = re.compile(groups) if groups is not None else None
    except re.error as error:
        raise ConfigError(f"groups {groups!r}: no regular expression ({error})") from error
    places = [position(group_of(pair.name, pattern), seed) for pair in pairs]
    first = min(places, default=1.0)
    validation = [share > 0 and (place < share or place == first) for place in places]
    if pairs and all(validation):
        raise DataError(
            f"nothing is left to train on: all {len(pairs)} pairs fall to one side of a split at {share:g}; "
            "use another share or seed, or name the data to validate on"
        )
    return (
        [pair for pair, held_out in zip(pairs, validation, strict=True) if not held_out],
        [pair for pair, held_out in zip(pairs, validation, strict=True) if held_out],
    )


def position(key: str, seed: int = 0) -> float:
    """Give a name its place in [0, 1), spread evenly.

    It is the BLAKE2b digest of eight bytes of "SEED:KEY" in UTF-8, read as a number with the greatest byte first, of
    which the upper 53 bits are divided by 2 to the 53rd: the same on every machine and in every release.
    """
    # Bytes of file names that are no UTF-8 come back as they were.
    digest = hashlib.blake2b(f"{seed}:{key}".encode(errors="surrogateescape"), digest_size=8).digest()
    # As many bits as a float holds, so that no place is rounded up to 1.
    return (int.from_bytes(digest, "big") >> 11) / 2.0**53


def group_of(name: str, pattern: re.Pattern[str] | None) -> str:
    """Tell what decides where a pair goes: its name, or the part of it that its group has in common."""
    match = pattern.match(name) if pattern is not None else None
    if match is None:
        return name
    return next((group for group in match.groups() if group is not None), match.group())
