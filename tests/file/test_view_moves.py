"""Views of a file as sources of its writes and destinations of its reads."""

from __future__ import annotations

import errno
import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pagecache import DeadlockError

from .rig import KEY, PAGE, Make, Rig, accepted_before, make_rig, pattern, raises

PAGES = 24
SIZE = PAGES * PAGE
CONTENT = pattern(SIZE)
offsets = st.one_of(st.integers(0, SIZE), st.integers(0, PAGES).map(lambda page: page * PAGE))


@contextmanager
def a_rig(folio: str) -> Iterator[Rig]:
    """A rig for tests that hypothesis runs many times: ended whatever happens."""
    rig = make_rig({KEY: CONTENT}, capacity="4MiB", max_folio=folio)
    try:
        yield rig
    finally:
        rig.finish()


def moved(content: bytes, start: int, length: int, to: int) -> bytes:
    """The result of memmove."""
    data = content[start : start + length]
    grown = content.ljust(to + len(data), b"\0") if data else content
    return grown[:to] + data + grown[to + len(data) :]


@settings(deadline=None, max_examples=60)
@given(
    folio=st.sampled_from(["4KiB", "16KiB", "1MiB"]),
    writable=st.booleans(),
    cached=st.booleans(),
    moves=st.lists(st.tuples(offsets, st.integers(0, 6 * PAGE), offsets, st.booleans()), max_size=6),
)
def test_a_view_written_to_its_own_file_moves_its_bytes(
    folio: str, writable: bool, cached: bool, moves: list[tuple[int, int, int, bool]]
) -> None:
    """As memmove does, in one folio and over many, cached or not; and by append. [T-04, 2.7]"""
    with a_rig(folio) as rig:
        file, model = rig.open("r+b"), CONTENT
        for start, length, to, append in moves:
            start = min(start, len(model))
            length = min(length, len(model) - start)
            if not cached:
                rig.volume.drop_clean()
            with file.view(start, length, writable=writable) as view:
                for segment in view.segments:
                    if append:
                        to = file.append(segment)
                    else:
                        file.pwrite(segment, to)
                    model = moved(model, start, len(segment), to)
                    start, to = start + len(segment), to + len(segment)
            assert file.pread(2 * len(model), 0) == model
        file.fsync()
        assert rig.backend.committed(KEY) == model


@pytest.mark.parametrize("pieces", ["one", "many"])
@pytest.mark.parametrize("shift", [1, 100, PAGE, 3 * PAGE - 1])
def test_a_long_view_moves_up_by_less_than_its_length(make: Make, shift: int, pieces: str) -> None:
    """The write is taken piece by piece, and the first must not change what the next is made of. [T-04, 2.7]"""
    limits = {"dirty_limit": 16 * PAGE, "dirty_background": 8 * PAGE} if pieces == "many" else {}
    file = make({KEY: CONTENT}, capacity="2MiB", max_folio="64KiB", **limits).open("r+b")
    with file.view(0, 16 * PAGE) as view:
        (segment,) = view.segments
        assert file.pwrite(segment, shift) == 16 * PAGE
    assert file.pread(SIZE, 0) == moved(CONTENT, 0, 16 * PAGE, shift)


def test_a_view_written_to_its_own_range_changes_nothing(make: Make) -> None:
    """It copies nothing aside, nor does a write of a view in pieces to another part of the file. [T-04, 2.7]"""
    file = make({KEY: CONTENT}, max_folio="64KiB").open("r+b")
    with file.view(0, 16 * PAGE, writable=True) as view:
        view.segments[0][:5] = b"hello"
        assert file.pwrite(view.segments[0], 0) == 16 * PAGE
        assert file.stats().staged_copies == 0
    assert file.pread(SIZE, 0) == b"hello" + CONTENT[5:]
    file = make({KEY: CONTENT}, capacity="2MiB", max_folio=PAGE).open("r+b")
    with file.view(0, 4 * PAGE) as view:
        file.pwritev(view.segments, 0)
        file.pwritev(view.segments, 8 * PAGE)
        assert file.stats().staged_copies == 0
    assert file.pread(SIZE, 0) == moved(CONTENT, 0, 4 * PAGE, 8 * PAGE)


@settings(deadline=None, max_examples=60)
@given(
    folio=st.sampled_from(["4KiB", "16KiB", "1MiB"]),
    reads=st.lists(st.tuples(offsets, st.integers(0, 6 * PAGE), offsets), max_size=6),
)
def test_a_view_read_into_from_its_own_file_moves_the_bytes(folio: str, reads: list[tuple[int, int, int]]) -> None:
    """The destination is the file itself: it gets the content at the start of the read. [T-65, 2.5]"""
    with a_rig(folio) as rig:
        file, model = rig.open("r+b"), CONTENT
        for start, length, source in reads:
            length = min(length, SIZE - start)
            with file.view(start, length, writable=True) as view:
                for segment in view.segments:
                    n = file.pread_into(segment, source)
                    model = moved(model, source, n, start)
                    start, source = start + len(segment), source + n
            assert file.pread(SIZE, 0) == model
        file.fsync()
        assert rig.backend.committed(KEY) == model


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("shift", [-2 * PAGE, -PAGE, -100, 0, 1, PAGE, 4 * PAGE, 5 * PAGE])
def test_a_view_in_pieces_moves_as_one(make: Make, direct: bool, shift: int) -> None:
    """The number of a view's segments makes no difference to pwritev and preadv. [T-04, T-65, 2.5, 2.7]"""
    rig, file, other = make({KEY: CONTENT}, capacity="2MiB", max_folio=PAGE).both(direct=direct)
    start, length = 2 * PAGE + 50, 5 * PAGE
    with file.view(start, length) as view:
        assert len(view.segments) == 6
        assert other.pwritev(view.segments, start + shift) == length
    model = moved(CONTENT, start, length, start + shift)
    assert file.pread(SIZE, 0) == model
    rig.volume.sync(20)
    with file.view(start, length, writable=True) as view:
        if direct and shift in (0, 1):  # each piece into itself
            raises(DeadlockError, other.preadv, view.segments, start + shift)
            return
        assert other.preadv(view.segments, start + shift) == length
    assert file.pread(SIZE, 0) == moved(model, start + shift, length, start)


# -- sources that have disappeared


@pytest.fixture
def cut_mapping(tmp_path: Path) -> mmap.mmap:
    """A mapping of two pages of a file that has only one left."""
    path = tmp_path / "mapped"
    path.write_bytes(b"m" * 2 * PAGE)
    with path.open("r+b") as file:
        mapping = mmap.mmap(file.fileno(), 2 * PAGE)
        file.truncate(PAGE)
    return mapping


def test_memory_that_faults_is_an_error_and_leaves_nothing_behind(make: Make, cut_mapping: mmap.mmap) -> None:
    """EFAULT where the system would end the process; of a source nothing is valid, dirty or part of the file. [T-05,
    T-65]
    """
    rig, file = make({KEY: CONTENT}).opened("r+b")
    for offset in (0, 100, SIZE, None):
        with pytest.raises(OSError) as caught:
            file.append(cut_mapping) if offset is None else file.pwrite(cut_mapping, offset)
        assert (caught.value.errno, accepted_before(caught.value)) == (errno.EFAULT, 0)
    assert rig.volume.dirty_ranges(KEY) == []
    assert (file.size, rig.cache.stats().used) == (SIZE, 0)
    assert raises(OSError, file.pread_into, cut_mapping, 0).errno == errno.EFAULT


def test_buffers_before_the_source_that_faults_are_accepted(make: Make, cut_mapping: mmap.mmap) -> None:
    """The buffers before it are in the file and count; nothing behind them has changed. [T-05, K13]"""
    rig, file = make({KEY: CONTENT}).opened("r+b")
    caught = raises(OSError, file.pwritev, [b"a" * 1000, b"b" * PAGE, cut_mapping, b"c"], 10)
    assert (caught.errno, accepted_before(caught)) == (errno.EFAULT, 1000 + PAGE)
    assert rig.volume.dirty_ranges(KEY) == [(10, 1000 + PAGE)]
    assert file.pread(SIZE, 0) == CONTENT[:10] + b"a" * 1000 + b"b" * PAGE + CONTENT[10 + 1000 + PAGE :]
