"""Which bytes of an object are on disk, and where: against a list with one entry for each byte."""

from __future__ import annotations

import random

import pytest

from pagecache.disk.copies import CHUNK, Chunk, Copy

pytestmark = pytest.mark.contract("D8")

SIZE = 400
BASE = CHUNK - 200
"""The bytes of the test lie at both sides of the end of a chunk."""

Place = tuple[int, int]  # address of the extent, and which byte of it


def empty(_number: int, _chunk: int) -> Chunk:
    return Chunk()


def loaded(saved: dict[int, bytes]) -> Copy:
    copy = Copy(1, "v", b"k", "1", lambda _, number: Chunk(saved.get(number, b"")))
    copy.known = True
    return copy


def places(copy: Copy) -> list[Place | None]:
    """Return where each byte is, found range by range."""
    found: list[Place | None] = []
    while len(found) < SIZE:
        at = copy.find(BASE + len(found))
        if at is None:
            found.append(None)
        else:
            assert at.skip + at.length <= at.extent
            assert at.offset + at.skip == BASE + len(found)
            found += [(at.address, at.skip + k) for k in range(at.length)]
    return found[:SIZE]


@pytest.mark.parametrize("seed", range(60))
def test_ranges_are_those_of_a_list_of_bytes(seed: int) -> None:
    chance = random.Random(seed)
    copy, other = Copy(1, "v", b"k", "1", empty), Copy(1, "v", b"k", None, empty)
    wanted: list[Place | None] = [None] * SIZE
    above: list[Place | None] = [None] * SIZE
    for address in range(1, 80):
        target, model = chance.choice([(copy, wanted), (other, above)])
        begin = chance.randrange(SIZE)
        edge = 200 if begin < 200 else SIZE  # an extent lies in one chunk
        end = chance.randint(begin + 1, edge)
        what = chance.random()
        if what < 0.6:
            target.put(BASE + begin, end - begin, address)
            model[begin:end] = [(address, k) for k in range(end - begin)]
        elif what < 0.9:
            end = chance.randint(begin, SIZE)
            target.cut(BASE + begin, BASE + end)
            model[begin:end] = [None] * (end - begin)
        elif what < 0.93:
            target.cut(BASE + begin, None)
            model[begin:] = [None] * (SIZE - begin)
        elif what < 0.97:
            copy.lay(other)
            wanted = [new or old for new, old in zip(above, wanted, strict=True)]
        else:  # saved, let go of and loaded
            copy = loaded({number: chunk.packed() for number, chunk in copy._chunks.items()})
        assert places(copy) == wanted
        assert places(other) == above
        gaps = [False] * SIZE
        for low, high in copy.gaps(BASE, BASE + SIZE):
            gaps[low - BASE : high - BASE] = [True] * (high - low)
        assert gaps == [place is None for place in wanted]


def test_extents_of_segments_that_are_gone_are_left_out() -> None:
    copy = Copy(1, "v", b"k", "1", empty)
    for k in range(10):
        copy.put(k * 100, 100, k << 32)
    chunk = copy._chunks[0]
    assert len(Chunk(chunk.packed(), lambda address: address >> 32 >= 7)) == 3
    assert chunk.highest() == 9 << 32
