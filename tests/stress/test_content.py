"""Bytes that name their origin."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from pagecache.stress.content import APPENDED, decode, made

FILES = st.integers(0, 1000)
NUMBERS = st.integers(0, 60_000)
OFFSETS = st.integers(0, 1 << 32)


@given(FILES, NUMBERS, NUMBERS, OFFSETS, st.integers(16, 300))
def test_a_fragment_at_its_place_names_its_write(file: int, worker: int, sequence: int, offset: int, size: int) -> None:
    origin = decode(made(7, file, worker, sequence, offset, offset + size), offset, file)
    assert origin is not None
    assert (origin.tag, origin.file, origin.worker, origin.sequence) == (7, file, worker, sequence)
    assert (origin.offset, origin.appended) == (offset, False)


@given(st.integers(0, 50), NUMBERS, NUMBERS, st.integers(0, 900_000), st.integers(24, 100), st.integers(0, 900_000))
def test_a_fragment_at_another_place_names_its_own(
    file: int, worker: int, sequence: int, offset: int, size: int, found: int
) -> None:
    origin = decode(made(7, file, worker, sequence, offset, offset + size), found, 3)
    assert origin is not None
    assert (origin.file, origin.worker, origin.sequence, origin.offset) == (file, worker, sequence, offset)


def test_an_append_names_its_own_offsets() -> None:
    origin = decode(made(7, 2 | APPENDED, 5, 6, 100, 140), 987, 2)
    assert origin is not None
    assert (origin.file, origin.worker, origin.sequence, origin.offset, origin.appended) == (2, 5, 6, 100, True)


def test_other_calls_than_writes_have_no_origin() -> None:
    rng = random.Random(1)
    assert decode(bytes(100), 5, 1) is None
    assert all(decode(rng.randbytes(64), rng.randrange(1 << 20), 1) is None for _ in range(200))
    assert decode(made(7, 1, 2, 3, 0, 100)[:15], 0, 1) is None


def test_two_writes_of_a_place_differ_in_nearly_every_byte() -> None:
    one, other = made(7, 1, 2, 3, 5, 5005), made(7, 1, 2, 4, 5, 5005)
    assert sum(a == b for a, b in zip(one, other, strict=True)) < 600
