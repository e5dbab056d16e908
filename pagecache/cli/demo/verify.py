"""The first difference of two files, and of two trees, byte by byte."""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

MIB = 1024 * 1024
SHOWN = 16  # bytes of each side in a report


@dataclass(frozen=True, slots=True)
class Difference:
    """The first difference of two sides.

    Args:
        key: The file.
        offset: The first byte that differs; the length of the shorter one if one ends.
        expected: Some bytes from there on the plain side; empty if it ends.
        found: The bytes of the cached side at that place.
        stage: The phase of the run.
    """

    key: str
    offset: int
    expected: bytes
    found: bytes
    stage: str


def first_difference(expected: bytes, found: bytes) -> int | None:
    """Return the first offset at which two strings differ, or None.

    Example:
        >>> first_difference(b"abcd", b"abxd"), first_difference(b"ab", b"abc"), first_difference(b"", b"")
        (2, 2, None)
    """
    if expected == found:
        return None
    low, high = 0, min(len(expected), len(found))
    # Halving: the prefixes are equal at `low`, and either differ at `high` or one string ends there.
    while low < high:
        middle = (low + high + 1) // 2
        if expected[low:middle] == found[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def difference_of(key: str, base: int, expected: bytes, found: bytes, stage: str) -> Difference | None:
    """Compare two strings that begin at offset `base` of a file."""
    at = first_difference(expected, found)
    if at is None:
        return None
    return Difference(key, base + at, expected[at : at + SHOWN], found[at : at + SHOWN], stage)


def compare_pieces(
    key: str, pieces: Sequence[tuple[int, int]], expected: Sequence[bytes], found: Sequence[bytes], stage: str
) -> Difference | None:
    """Compare pieces of a file that both sides read."""
    for (offset, _), one, other in zip(pieces, expected, found, strict=True):
        different = difference_of(key, offset, one, other, stage)
        if different:
            return different
    return None


def compare_files(key: str, expected: Path, found: Path, stage: str) -> Difference | None:
    """Compare two files by reading them plainly."""
    with open(expected, "rb", buffering=0) as one, open(found, "rb", buffering=0) as other:
        offset = 0
        while True:
            left, right = one.read(MIB), other.read(MIB)
            different = difference_of(key, offset, left, right, stage)
            if different or not left:
                return different
            offset += len(left)


def names_below(root: Path) -> set[str]:
    """Paths of all files below `root`."""
    return {os.path.relpath(os.path.join(folder, name), root) for folder, _, names in os.walk(root) for name in names}


def compare_trees(
    expected: Path, found: Path, keys: Iterable[str], stage: str, advance: Callable[[], None]
) -> Difference | None:
    """Compare two trees: names, and every byte.

    Args:
        expected: Root of the right tree.
        found: Root of the tree under test.
        keys: The files, in the order in which they are compared.
        stage: Phase for the difference.
        advance: Called after each file.
    """
    for key in sorted(names_below(found) ^ names_below(expected)):
        here = (found / key).exists()
        return Difference(key, 0, b"" if here else b"(a file)", b"(a file)" if here else b"(no file)", stage)
    for key in keys:
        different = compare_files(key, expected / key, found / key, stage)
        if different:
            return different
        advance()
    return None
