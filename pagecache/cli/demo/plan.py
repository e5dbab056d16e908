"""The operations on each file, as a pure function of seed, key and size: equal for both sides and for every run.

Sizes and offsets are deliberately odd: pieces of a byte less and more than a page, edits that begin and end inside
pages, files that grow behind a hole, shrink and grow again.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

KIB = 1024
MIB = 1024 * 1024

PIECES = (509, 4095, 4096, 4097, 16 * KIB, 64 * KIB + 3, 256 * KIB, MIB)
LONGEST_EDIT = 48 * KIB
LONGEST_HOLE = 24 * KIB
MOST_EDITS = 64  # for one file

Kind = Literal["overwrite", "grow", "append", "truncate"]
Piece = tuple[int, int]  # offset, length


@dataclass(frozen=True, slots=True)
class Edit:
    """One change of a file.

    Args:
        kind: overwrite: bytes inside the file; grow: bytes past its end, with a hole between; append; truncate: a
            new size, smaller or larger.
        offset: Where the bytes go; for truncate the new size; for append the size before.
        data: The bytes; empty for truncate.
    """

    kind: Kind
    offset: int
    data: bytes


def random_for(seed: int, what: str, key: str) -> Random:
    """Return a separate generator for each file and use, so that the set of files does not affect the numbers of
    others.
    """
    return Random(os.fsencode(f"{seed}:{what}:{key}"))  # a name need not be text


def copy_pieces(seed: int, key: str, size: int) -> list[Piece]:
    """Consecutive pieces of mixed sizes that cover the file."""
    rng = random_for(seed, "copy", key)
    pieces = []
    offset = 0
    while offset < size:
        length = min(rng.choice(PIECES), size - offset)
        pieces.append((offset, length))
        offset += length
    return pieces


def read_pieces(seed: int, key: str, size: int) -> list[Piece]:
    """Pieces of mixed sizes of the edited file, in random order."""
    pieces = copy_pieces(seed + 1, key, size)
    random_for(seed, "read", key).shuffle(pieces)
    return pieces


def grouped(pieces: Sequence[Piece], most: int = 16 * MIB) -> Iterator[list[Piece]]:
    """Cut a list of pieces into runs of at most `most` bytes (or one piece)."""
    group: list[Piece] = []
    total = 0
    for piece in pieces:
        if group and total + piece[1] > most:
            yield group
            group, total = [], 0
        group.append(piece)
        total += piece[1]
    if group:
        yield group


def length_of(rng: Random, most: int) -> int:
    """A length from 1 to `most`, short ones more often."""
    return max(1, int(most ** rng.random()))


def edits_of(seed: int, key: str, size: int) -> tuple[list[Edit], int]:
    """The edits of one file in order, and its size after them."""
    rng = random_for(seed, "edit", key)
    edits = []
    for _ in range(min(MOST_EDITS, 2 + size // (32 * KIB))):
        edit = edit_of(rng, size)
        if edit.kind == "truncate":
            size = edit.offset
        else:
            size = max(size, edit.offset + len(edit.data))
        edits.append(edit)
    return edits, size


def edit_of(rng: Random, size: int) -> Edit:
    """One edit of a file that has `size` bytes now."""
    kind: Kind = rng.choices(("overwrite", "grow", "append", "truncate"), (80, 6, 8, 6))[0]
    if kind == "overwrite" and size > 0:
        offset = rng.randrange(size)
        return Edit(kind, offset, rng.randbytes(min(length_of(rng, LONGEST_EDIT), size - offset)))
    if kind == "grow":
        return Edit(kind, size + rng.randrange(LONGEST_HOLE), rng.randbytes(length_of(rng, LONGEST_EDIT)))
    if kind == "truncate":
        return Edit(kind, max(0, size + rng.randrange(-LONGEST_HOLE, LONGEST_HOLE // 4)), b"")
    return Edit("append", size, rng.randbytes(length_of(rng, LONGEST_EDIT)))


def calls_of(seed: int, key: str, size: int, rounds: int) -> int:
    """The reads and writes of one file in a whole run: copy, then some rounds of edits and reading back."""
    calls = 2 * len(copy_pieces(seed, key, size))
    for turn in range(rounds):
        edits, size = edits_of(seed + turn, key, size)
        calls += sum(edit.kind != "truncate" for edit in edits) + len(read_pieces(seed + turn, key, size))
    return calls


def interleaved(rng: Random, edits: Sequence[Sequence[Edit]]) -> list[tuple[int, Edit]]:
    """Mix the edits of several files: pairs of the file's number and its next edit."""
    turns = [number for number, some in enumerate(edits) for _ in some]
    rng.shuffle(turns)
    ahead = [iter(some) for some in edits]
    return [(number, next(ahead[number])) for number in turns]
