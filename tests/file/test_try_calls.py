"""try_pread and try_pwrite answer at once from memory. They return None, and do nothing, if they would wait or call the
backend.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

import pagecache
from pagecache import CachedFile

from ..stores import StoredObject
from .rig import KEY, PAGE, Make, Rig, Task, at_gate, eventually, no_memory, pattern, raises

CONTENT = pattern(16 * PAGE)
MIB = 1 << 20


@pytest.fixture
def stored(make: Make) -> Rig:
    return make({KEY: CONTENT})


def refused(rig: Rig, file: CachedFile, data: bytes, offset: int) -> bool:
    """Return whether try_pwrite answered None without dirtying or extending anything and without a backend call."""
    rig.backend.forget_calls()
    before = rig.volume.dirty_ranges(KEY), file.size
    answer = file.try_pwrite(data, offset)
    assert answer in (None, len(data))
    if answer is None:
        assert (rig.volume.dirty_ranges(KEY), file.size) == before
        assert rig.backend.calls == []
    return answer is None


# -- try_pwrite


@pytest.mark.parametrize("offset", [0, 100, 3 * PAGE, 5 * PAGE - 1, 16 * PAGE, 40 * PAGE + 7])
def test_a_write_that_need_not_wait_is_done(stored: Rig, file: CachedFile, offset: int) -> None:
    """Whole pages, parts of pages that are not cached, at the end and behind it. [2.7]"""
    for length in (1, 100, PAGE, 3 * PAGE + 5):
        data = pattern(length, seed=length)
        assert file.try_pwrite(data, offset) == length
        assert file.pread(length, offset) == data
    file.fsync()
    assert stored.backend.written(KEY)[offset : offset + 3 * PAGE + 5] == data


def test_all_or_nothing_where_a_page_is_being_filled(stored: Rig, file: CachedFile) -> None:
    """Pages before the one that a running fill has locked are not touched; its bytes are not there to be read. [2.5,
    2.7]
    """
    with stored.backend.gate("read_into") as gate:
        _, reader = at_gate(gate, file.pread, 10, 2 * PAGE)
        assert refused(stored, file, b"x" * 3 * PAGE, 0)
        assert refused(stored, file, b"x" * PAGE, 2 * PAGE)
        assert file.try_pread(10, 2 * PAGE) is None
        assert file.try_pwrite(b"y" * 2 * PAGE, 3 * PAGE) == 2 * PAGE  # beside it there is no obstacle
    assert reader.result() == CONTENT[2 * PAGE : 2 * PAGE + 10]
    assert file.pread(3 * PAGE, 0) == CONTENT[: 3 * PAGE]
    assert file.try_pwrite(b"x" * 3 * PAGE, 0) == 3 * PAGE


def test_a_refused_write_keeps_no_pass_away(make: Make) -> None:
    """No later write waits after a None: dirty bytes beside those in flight are written back in time. [2.7, 2.11]"""
    rig, file = make({KEY: CONTENT}, cow_limit=0).opened("r+b")
    file.prefetch(0, 8 * PAGE, wait=True)  # one folio
    file.pwrite(b"first", 0)
    with rig.backend.gate("write_from") as gate:
        _, flushed = at_gate(gate, file.flush)
        file.pwrite(b"beside", PAGE)
        assert refused(rig, file, b"x", 0)
    rig.cache.configure(dirty_background=0, flush_interval=0.01)
    eventually(lambda: rig.backend.written(KEY)[PAGE : PAGE + 6] == b"beside")
    flushed.result()


@pytest.mark.parametrize("free", [0, 2])
def test_where_too_little_memory_is_free(make: Make, free: int) -> None:
    """The rest is pinned: nothing could be evicted without waiting. Pages taken for a part are free again. [2.7]"""
    rig, file = make({KEY: CONTENT, "other": pattern(16 * PAGE)}, capacity=16 * PAGE).opened()
    with no_memory(rig, 16 - free):
        for offset in (0, 5):
            assert refused(rig, file, b"x" * (free + 1) * PAGE, offset)
        if free:
            assert file.try_pwrite(b"x" * free * PAGE, 0) == free * PAGE
    assert file.try_pwrite(b"x" * 3 * PAGE, 0) == 3 * PAGE


def test_where_a_writer_is_slowed_down(make: Make) -> None:
    """Above the midpoint of the dirty budget every writer pauses. [2.7, 2.24]"""
    rig = make({KEY: CONTENT}, capacity=64 * PAGE, dirty_background=8 * PAGE, dirty_limit=16 * PAGE)
    rig.backend.gate("write_from", times=100)
    file = rig.open("r+b")
    taken = 0
    while taken < 64 and file.try_pwrite(b"x" * PAGE, taken * PAGE) == PAGE:
        taken += 1
    assert 0 < taken <= 16
    assert file.try_pwrite(b"x" * PAGE, taken * PAGE) is None
    rig.backend.open_all_gates()
    file.fsync()
    assert file.try_pwrite(b"x" * PAGE, taken * PAGE) == PAGE


@pytest.mark.parametrize("length", [MIB - 1, MIB, 4 * MIB])
def test_large_ones_reserve_what_they_dirty(make: Make, length: int) -> None:
    """Many at once do not pass the limit together, and return their reservations. [2.24]"""
    rig, file = make(capacity="16MiB", dirty_background=0.7, dirty_limit=0.9).opened("w+b")
    data = pattern(length)
    answers = [task.result() for task in [Task(file.try_pwrite, data, n * 4 * MIB + 5) for n in range(4)]]
    assert set(answers) <= {None, length}
    assert rig.cache.stats().dirty <= 0.9 * (16 << 20)
    for n, answer in enumerate(answers):
        if answer is not None:
            assert file.pread(length, n * 4 * MIB + 5) == data
    for n in range(8):
        file.fsync()
        assert file.try_pwrite(data, n * PAGE) == length


def test_more_than_4_mib_is_more_than_it_tries(make: Make) -> None:
    """The limit is the largest piece of a write that no other write's bytes can split. [2.7]"""
    rig, file = make(capacity="32MiB").opened("w+b")
    assert refused(rig, file, bytes(4 * MIB + 1), 0)
    assert file.try_pwrite(bytes(4 * MIB), 3) == 4 * MIB


def test_with_write_through(stored: Rig) -> None:
    """Every write would wait for the backend. [2.8]"""
    file = stored.open("r+b", write_through=True)
    assert refused(stored, file, b"x", 0)
    assert file.try_pwrite(b"", 0) == 0


def test_a_file_with_failed_data(make: Make) -> None:
    """A write might raise its error, or send it again. [2.16]"""
    rig, file = make({KEY: CONTENT}).opened("r+b")
    rig.backend.fault("write_from", OSError(errno.ENOSPC, "full"), times=float("inf"))
    file.pwrite(b"x", 0)
    raises(pagecache.WritebackError, file.flush)
    assert refused(rig, file, b"y", PAGE)
    rig.backend.clear_faults()
    rig.volume.retry_failed()
    file.flush()
    assert file.try_pwrite(b"y", PAGE) == 1


def test_growing_beyond_a_short_unit(make: Make) -> None:
    """The unit of the old end has to be sent again, and its last byte is not cached: it would be read. [2.12]"""
    rig, file = make({KEY: CONTENT[: 5 * PAGE + 100]}, limits={"write_unit": 4 * PAGE}).opened("r+b")
    assert refused(rig, file, b"x" * 2 * PAGE, 9 * PAGE)
    file.pread(1, 5 * PAGE + 99)
    assert file.try_pwrite(b"x" * 2 * PAGE, 9 * PAGE) == 2 * PAGE
    file.fsync()
    assert rig.backend.written(KEY) == CONTENT[: 5 * PAGE + 100].ljust(9 * PAGE, b"\0") + b"x" * 2 * PAGE


def test_a_write_that_never_succeeds_is_an_error(stored: Rig, file: CachedFile) -> None:
    """None would send the caller to a pwrite that raises, so it raises itself. [2.1, 2.7]"""
    caught = raises(OSError, file.try_pwrite, b"xx", 2**63 - 2, match="beyond 2")
    assert (caught.errno, caught.filename) == (errno.EFBIG, KEY)
    stored.volume.abort(OSError("gone"))
    raises(pagecache.ShutdownError, file.try_pwrite, b"x", 0, match="gone")


# -- try_pread


def test_a_read_of_a_page_that_is_being_filled(stored: Rig) -> None:
    """None while the bytes are in flight, whichever thread fetches them. [2.5]"""
    file = stored.open("rb")
    with stored.backend.gate("read_into") as gate:
        file.prefetch(0, PAGE)
        gate.wait_entered()
        assert file.try_pread(10, 0) is None
    eventually(lambda: file.try_pread(10, 0) == CONTENT[:10])


def test_a_read_that_is_valid_in_part(file: CachedFile) -> None:
    """All requested bytes, up to the end of the file, or nothing. [2.5]"""
    file.pwrite(b"local", 100)
    assert file.try_pread(5, 100) == b"local"
    assert file.try_pread(6, 100) is None
    file.pread(PAGE, 15 * PAGE)
    assert file.try_pread(10 * PAGE, 15 * PAGE) == CONTENT[15 * PAGE :]
    assert file.try_pread(0, 0) == b""
    assert file.try_pread(2**40, 2**50) == b""


def test_reading_ahead_goes_on_with_try_pread(make: Make) -> None:
    """A caller that tries first, and then reads the missing bytes, reads as far ahead as one that only reads. [2.6]"""
    content = pattern(256 * PAGE)
    rig, file = make({KEY: content}, options={"read_ahead": "128KiB"}).opened("rb")

    def backend_reads(read: Callable[[int, int], bytes]) -> list[tuple[int, int]]:
        rig.volume.drop_clean()
        rig.backend.forget_calls()
        for offset in range(0, len(content), PAGE):
            assert read(PAGE, offset) == content[offset : offset + PAGE]
            eventually(lambda: rig.cache.stats().to_dict()["requests"] == 0)  # the readahead has arrived
        return rig.backend.spans("read_into")

    misses = 0

    def tried(length: int, offset: int) -> bytes:
        nonlocal misses
        data = file.try_pread(length, offset)
        misses += data is None
        return file.pread(length, offset) if data is None else data

    assert backend_reads(tried) == backend_reads(file.pread)
    assert misses == 1  # the first; all others were readahead hits
    rig.volume.drop_clean()
    rig.backend.forget_calls()
    for page in (100, 101, 102):
        tried(PAGE, page * PAGE)
        eventually(lambda: rig.cache.stats().to_dict()["requests"] == 0)
    rig.volume.drop_clean()
    rig.backend.forget_calls()
    tried(PAGE, 103 * PAGE)  # goes on where a try ended: more than a page
    eventually(lambda: sum(call.length for call in rig.backend.seen("read_into")) > PAGE)


def test_tries_inside_of_a_backend_call(make: Make) -> None:
    """They wait for nothing, so a backend may query the cache. [2.25]"""
    rig, file = make({KEY: CONTENT}).opened("r+b")
    file.pread(PAGE, 0)
    answers: list[object] = []

    def read(stored: StoredObject, offset: int, buffers: list[memoryview]) -> int:
        answers.extend((file.try_pread(5, 0), file.try_pread(5, 3 * PAGE), file.try_pwrite(b"in", 8 * PAGE)))
        return stored.fill(offset, buffers)  # type: ignore[attr-defined,no-any-return]

    rig.backend.fault("read_into", read)
    assert file.pread(5, 3 * PAGE) == CONTENT[3 * PAGE : 3 * PAGE + 5]
    assert answers == [CONTENT[:5], None, 2]
