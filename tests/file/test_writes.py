"""Writes and appends: which of them need a read, how other handles see them, and which bytes go to the backend: some
take whole units only. A file may grow while its end is in flight. Truncate, holes and zeroed ranges: sizes, zeros, and
no byte that comes back.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import pagecache
from pagecache import CachedFile, PageCache, WritebackError
from pagecache.backends import MemoryBackend
from pagecache.testing import FaultPlan, FaultyBackend, Rule

from ..stores import Gate, ObjectBackend, RecordingFile
from .rig import KEY, ONCE, PAGE, QUIET, Make, Rig, Task, at_gate, content_of, eventually, pattern, raises, spread

CONTENT = pattern(8 * PAGE)


@pytest.fixture
def stored(make: Make) -> Rig:
    return make({KEY: CONTENT})


def patched(content: bytes, *changes: tuple[int, bytes]) -> bytes:
    """Content after writes of (offset, bytes)."""
    result = bytearray(content)
    for offset, data in changes:
        result.extend(bytes(max(0, offset + len(data) - len(result))))
        result[offset : offset + len(data)] = data
    return bytes(result)


def test_a_partial_write_to_an_uncached_page_reads_nothing(stored: Rig, file: CachedFile) -> None:
    """A later read fills only what is missing around the bytes. [T-01, M2, M7]"""
    expected = patched(CONTENT, (1000, b"x" * 100))
    assert file.pwrite(b"x" * 100, 1000) == 100
    assert file.pread(100, 1000) == b"x" * 100
    assert file.pread(30, 1050) == b"x" * 30
    assert stored.backend.spans("read_into") == []
    assert file.pread(PAGE, 0) == expected[:PAGE]
    assert all(offset + length <= PAGE for offset, length in stored.backend.spans("read_into"))
    stored.backend.forget_calls()
    assert file.pread(PAGE, 0) == expected[:PAGE]
    assert stored.backend.spans("read_into") == []
    assert stored.saved(file) == expected


def test_eight_separate_writes_to_an_uncached_page_read_nothing(stored: Rig, file: CachedFile) -> None:
    """Write-back sends them, not the page around them; if there are more, it is read. [T-03, M7, 2.7, 2.12]"""
    changes = [(500 * i + 7, bytes([65 + i]) * (100 + i)) for i in range(8)]
    for offset, data in changes:
        file.pwrite(data, offset)
    for offset, data in changes:
        assert file.pread(len(data), offset) == data
    file.fsync()
    assert stored.backend.spans("read_into") == []
    assert set(stored.backend.spans("write_from")) == {(offset, len(data)) for offset, data in changes}
    assert stored.backend.committed(KEY) == patched(CONTENT, *changes)
    more = [(120 * i + PAGE + 3, bytes([65 + i]) * 20) for i in range(30)]  # more than there are extents
    with stored.volume.open(KEY, flags=os.O_WRONLY) as only_writes:
        for offset, data in more:
            only_writes.pwrite(data, offset)
    assert stored.saved(file) == patched(CONTENT, *changes, *more)


@pytest.mark.parametrize(("stored", "offset", "reads"), [(8 * PAGE, 20 * PAGE + 5, []), (1000, 2000, [(0, 1000)])])
def test_a_write_beyond_the_stored_end_reads_nothing(make: Make, stored: int, offset: int, reads: list[Any]) -> None:
    """The gap is zeros in the cache and on the backend; a read of it reads what is stored of its page. [M8, 2.7]"""
    rig, file = make({KEY: CONTENT[:stored]}).written(b"far", offset)
    assert (file.size, rig.backend.spans("read_into")) == (offset + 3, [])
    assert file.pread(30 * PAGE, stored) == bytes(offset - stored) + b"far"
    assert rig.backend.spans("read_into") == reads
    expected = patched(CONTENT[:stored], (offset, b"far"))
    assert file.pread(30 * PAGE, 0) == expected
    assert rig.saved(file) == expected


def test_the_source_may_change_after_the_call(stored: Rig, file: CachedFile) -> None:
    """A write copies; the caller's buffer is free at return. [2.7]"""
    source = bytearray(b"first" * 1000)
    file.pwrite(source, 0)
    source[:] = b"other" * 1000
    source.append(1)
    assert stored.saved(file) == patched(CONTENT, (0, b"first" * 1000))


def test_a_file_mapping_of_the_same_file_can_be_written(tmp_path: Path) -> None:
    """The source may fault while it is copied, and is the stored file itself. [T-04, K11]"""
    (tmp_path / KEY).write_bytes(CONTENT)
    with PageCache("1MiB") as cache, cache.attach(f"dir:{tmp_path}").open(KEY, "r+b") as file:
        with (
            (tmp_path / KEY).open("rb") as stored_file,
            mmap.mmap(stored_file.fileno(), 0, prot=mmap.PROT_READ) as mapped,
        ):
            assert Task(file.pwrite, mapped, 100).result() == len(CONTENT)
        assert file.pread(10 * PAGE, 0) == patched(CONTENT, (100, CONTENT))
    assert (tmp_path / KEY).read_bytes() == patched(CONTENT, (100, CONTENT))


@pytest.mark.parametrize("pieces", [1, 32])
def test_a_write_cut_by_the_throttle_says_what_it_accepted(make: Make, pieces: int) -> None:
    """`characters_written` bytes of all buffers are dirty and readable, nothing beyond them is. [T-05, 2.7, 2.24]"""
    rig, file = make(
        {KEY: bytes(100)}, capacity="256KiB", dirty_background="32KiB", dirty_limit="64KiB", throttle_timeout=0.05
    ).opened("r+b")
    data, length = pattern(1 << 20), (1 << 20) // pieces
    buffers = [data[at : at + length] for at in range(0, len(data), length)]
    with rig.backend.gate("write_from", times=1000):
        caught = raises(BlockingIOError, lambda: Task(file.pwritev, buffers, 0).result())
        accepted = caught.characters_written
        assert 0 < accepted < len(data)
        assert file.size == max(accepted, 100)
        assert file.pread(1 << 20, 0) == data[:accepted]
        assert spread(1 << 20, rig.volume.dirty_ranges(KEY)) == set(range(accepted))
    rig.cache.sync(timeout=20)
    assert rig.backend.committed(KEY) == data[:accepted]


@pytest.mark.parametrize("fails", [False, True])
def test_bytes_written_again_in_flight_win_however_the_call_ends(stored: Rig, fails: bool) -> None:
    """The older request neither cleans nor resurrects anything; an fsync commits the older bytes. [T-11, T-19, T-42]"""
    stored.backend.capture = True
    file = stored.dirtied(b"old" * 1000, 0)
    gate = stored.backend.gate("write_from")
    if fails:
        stored.backend.fault("write_from", OSError(28, "full"))
    _, saving = at_gate(gate, file.fsync)
    assert Task(file.pwrite, b"new" * 500, 0).result() == 1500
    gate.open()
    if fails:
        raises(pagecache.WritebackError, saving.result)
    else:
        saving.result()
        assert stored.backend.committed(KEY) == patched(CONTENT, (0, b"old" * 1000))
    assert stored.backend.seen("write_from")[0].data == b"old" * 1000
    assert stored.volume.dirty_ranges(KEY) != []
    assert file.pread(3000, 0) == b"new" * 500 + b"old" * 500
    assert stored.saved(file) == patched(CONTENT, (0, b"new" * 500 + b"old" * 500))
    assert stored.volume.dirty_ranges(KEY) == []


HEAD = pattern(PAGE + 100, seed=1)  # ends within a page
TAILS = {"same page": 0, "next page": PAGE, "far": 40 * PAGE}


@pytest.mark.parametrize("answer", ["stored", "short", "failed"])
@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("how", ["pwrite", "append", "truncate"])
def test_a_file_that_grows_in_flight_keeps_its_tail(make: Make, how: str, tail: str, answer: str) -> None:
    """The call sees the size at its start; later bytes are dirty after it has returned. [T-43, T-19, 2.7]"""
    rig, file = make({KEY: b""}).written(HEAD, 0)
    gate = rig.backend.gate("write_from")

    def respond(stored: RecordingFile, offset: int, buffers: Sequence[memoryview]) -> int:
        if answer == "failed":
            raise OSError(errno.EIO, "passing")
        return stored.store(offset, buffers, 50 if answer == "short" else None)

    rig.backend.fault("write_from", respond)
    _, flush = at_gate(gate, file.flush)
    expected = grow(file, how, TAILS[tail], gate)
    flush.result(opening=gate)
    assert file.pread(100 * PAGE, 0) == expected
    assert file.size == len(expected)
    assert rig.saved(file) == expected
    assert rig.volume.stat(KEY).size == len(expected)


def grow(file: CachedFile, how: str, distance: int, gate: Gate) -> bytes:
    """Make the file longer beside the request in flight, for which a truncate waits; return its content."""
    data = pattern(300, seed=2)
    if how == "append":
        assert Task(file.append, data).result() == len(HEAD)
        return HEAD + data
    if how == "pwrite":
        Task(file.pwrite, data, len(HEAD) + distance).result()
        return HEAD + bytes(distance) + data
    size = len(HEAD) + distance + 300
    growing = Task(file.truncate, size)
    assert growing.waits(0.05)
    growing.result(opening=gate)
    return HEAD + bytes(distance + 300)


def test_a_unit_that_was_stored_in_part_is_no_remote_change() -> None:
    """It is not acknowledged and has made the object longer; the next open still finds no conflict. [2.14, 2.20]"""
    rules = [Rule("write", span=(2 * PAGE, 3 * PAGE), short=100)]
    store = FaultyBackend(MemoryBackend(write_unit=2 * PAGE, max_write=2 * PAGE), FaultPlan(rules))
    cache = PageCache("1MiB", **{**QUIET, "retry": ONCE})
    volume = cache.attach(store, read_ahead=0)
    with volume.open(KEY, "w+b") as file:
        file.pwrite(pattern(3 * PAGE), 0)
        raises(WritebackError, file.sync_range, 0, 3 * PAGE)
        file._inode.start_commit()
        eventually(lambda: cache.stats().unstable == 0)
        assert store.stat(KEY).size == 2 * PAGE + 100
        assert content_of(volume, KEY)[: 3 * PAGE] == pattern(3 * PAGE)
        store.use([])
        file.fsync()
    assert cache.close(timeout=20) == []


def test_gaps_between_missing_bytes_of_a_unit_are_read_along_if_a_call_is_expensive() -> None:
    """The gap between local bytes counts, not the read length. [2.12]"""
    content = bytearray(pattern(64 * PAGE))
    store = ObjectBackend({KEY: bytes(content)}, write_unit=16 * PAGE, max_read=16 * PAGE, max_write=16 * PAGE)
    with PageCache("1MiB", **QUIET) as cache, cache.attach(store, read_ahead=0).open(KEY, "r+b") as file:
        for round, pages in enumerate(((17, 19, 22, 31), (20,), (18, 21, 30))):
            for page in pages:
                data = bytes([100 + page + round]) * 50
                file.pwrite(data, page * PAGE + 7)
                content[page * PAGE + 7 : page * PAGE + 57] = data
            file.sync_range(16 * PAGE, 16 * PAGE)  # unstable from here on: the store still has the old bytes
            assert len(store.spans("read_into")) == 1
            cache.volumes()[0].drop_clean()
            store.calls.clear()
        file.fsync()
    assert store.content(KEY) == bytes(content)


def test_distant_gaps_in_a_unit_are_read_separately() -> None:
    """Other backends read gaps separately too, as their calls are cheap. [2.12]"""
    unit = 256 * PAGE
    for whole, reads in ((True, 2), (False, 3)):
        store = ObjectBackend(
            {KEY: pattern(unit)}, write_unit=unit, max_read=unit, max_write=unit, commit_on_close=whole
        )
        with PageCache("16MiB", **QUIET) as cache, cache.attach(store, read_ahead=0).open(KEY, "r+b") as file:
            file.pwrite(pattern(100 * PAGE, seed=3), 50 * PAGE)
            file.pwrite(b"x" * PAGE, 200 * PAGE)
            file.fsync()
        assert len(store.spans("read_into")) == reads


def test_the_error_of_a_read_around_dirty_bytes_names_its_range(make: Make) -> None:
    """A wrong answer to the read of the rest of a unit is a failed write-back. [2.12, 2.14]"""
    rig, file = make({KEY: pattern(8 * PAGE)}, limits={"write_unit": 2 * PAGE}, retry=ONCE).opened()
    file.pwrite(b"x" * PAGE, 2 * PAGE)
    rig.backend.fault("read_into", lambda *_: None)
    raises(WritebackError, file.fsync, match=rf"read_into\({3 * PAGE}, {PAGE} bytes\) did not answer")


def test_a_transient_read_around_parked_bytes_is_made_again(make: Make) -> None:
    """It fails the whole request, also behind dirty bytes: none of them is accepted before it. [2.12, 2.14]"""
    rig, file = make({KEY: pattern(8 * PAGE)}, limits={"write_unit": 2 * PAGE}).opened()
    file.pwrite(b"x" * PAGE, 2 * PAGE)
    rig.fails("write_from", OSError(errno.ENOSPC, "no room"), WritebackError, file.fsync)
    rig.volume.drop_clean()  # what was read around them
    passing = rig.backend.fault("read_into", OSError(errno.EIO, "passing"))
    Task(file.fsync).result()
    assert passing.nr_hit == 1
    stored = rig.backend.committed(KEY)
    assert stored is not None
    assert stored[2 * PAGE : 3 * PAGE] == b"x" * PAGE


def test_a_removed_object_grows_without_a_read_of_its_last_unit(make: Make) -> None:
    """None of its units is stored any longer. [2.12, 2.20]"""
    rig, file = make({KEY: b"a"}, limits={"write_unit": PAGE}).opened()
    rig.volume.remove(KEY)
    assert file.pwrite(b"b", PAGE) == 1
    assert file.pread(1, PAGE) == b"b"
    file.abandon()


# A call beside an append. The file had `begun` bytes before it.
SECOND: dict[str, Callable[[CachedFile, int], object]] = {
    "append": lambda file, _begun: file.append(b"second"),
    "write": lambda file, _begun: file.write(b"second"),
    "extend": lambda file, begun: file.pwrite(b"second", begun),
    "truncate": lambda file, _begun: file.truncate(5),
}


@pytest.mark.parametrize("second", SECOND)
def test_an_append_that_waits_in_the_middle_is_not_come_between(make: Make, second: str) -> None:
    """A long append whose first pieces are dirty waits for room; later appends wait for its end. [2.7]"""
    rig = make({KEY: pattern(10)}, capacity=64 * PAGE, dirty_background=0.1, dirty_limit=0.25)
    file, other = rig.open("r+b"), rig.open("ab" if second == "write" else "r+b")
    data = pattern(40 * PAGE, seed=1)
    with rig.backend.gate("write_from", times=100) as gate:
        _, long = at_gate(gate, file.append, data)
        begun = file.size
        assert 10 < begun < 10 + len(data)
        task = Task(SECOND[second], other, begun)
        assert task.waits()
    assert long.result() == 10
    whole = pattern(10) + data
    answer, expected = {
        "append": (len(whole), whole + b"second"),
        "write": (6, whole + b"second"),
        "extend": (6, patched(whole, (begun, b"second"))),
        "truncate": (5, whole[:5]),
    }[second]
    assert task.result() == answer
    assert file.pread(len(expected) + 1, 0) == expected


def zeroed(content: bytes, offset: int, length: int) -> bytes:
    end = min(offset + length, len(content))
    return content[:offset] + bytes(max(end - offset, 0)) + content[max(end, offset) :]


def test_a_view_of_the_tail_page_sees_zeros_after_the_file_grew(file: CachedFile) -> None:
    """A view is held across a truncate down and one up again. [T-44, M8]"""
    old = file.view(0, PAGE)
    file.truncate(1000)
    file.truncate(PAGE)
    with file.view(0, PAGE) as new:
        assert new.tobytes() == CONTENT[:1000] + bytes(PAGE - 1000)
    old.release()
    assert file.pread(PAGE, 0) == CONTENT[:1000] + bytes(PAGE - 1000)


def test_truncate_waits_for_what_is_in_flight(stored: Rig, file: CachedFile) -> None:
    """No write lands after it; the recorder notes overlaps. [T-15, T-29, 2.17]"""
    file.pwrite(b"d" * 8 * PAGE, 0)
    gate, flush = at_gate(stored.backend.gate("write_from"), file.flush)
    cut = Task(file.truncate, 10)
    assert cut.waits()
    flush.result(opening=gate)
    cut.result()
    assert stored.saved(file) == b"d" * 10


THROTTLED = {"dirty_background": "32KiB", "dirty_limit": "64KiB", "throttle_timeout": 0.05}


def test_zeroing_that_ends_half_way_says_how_far_it_came(make: Make) -> None:
    """No room for dirty zeros: some of the range reads as zeros, the rest as before. [K13, 2.7, 2.17]"""
    content = pattern(64 * PAGE)
    rig = make({KEY: content}, "256KiB", **THROTTLED)
    rig.backend.gate("write_from", times=99)
    file = rig.open("r+b")
    caught = raises(BlockingIOError, file.zero_range, 100, 60 * PAGE)
    assert 0 < caught.characters_written < 60 * PAGE
    assert file.pread(64 * PAGE, 0) == zeroed(content, 100, caught.characters_written)


def test_a_hole_whose_zeros_end_half_way_says_how_far_it_came(make: Make) -> None:
    """The backend made its part, and there was no room for the zeros behind its end. [K13, 2.17]"""
    rig = make({KEY: CONTENT}, "256KiB", limits={"punch": True}, **THROTTLED)
    rig.backend.gate("write_from", times=99)
    file = rig.dirtied(b"tail", 60 * PAGE)
    caught = raises(BlockingIOError, file.punch_hole, 4 * PAGE, 60 * PAGE)
    done = caught.characters_written
    assert 4 * PAGE < done < 56 * PAGE
    assert rig.backend.written(KEY) == zeroed(CONTENT, 4 * PAGE, 4 * PAGE)
    assert file.pread(64 * PAGE, 0) == CONTENT[: 4 * PAGE] + bytes(56 * PAGE) + b"tail"


@pytest.mark.parametrize(
    ("what", "error", "done"),
    [("refused", errno.EACCES, 0), ("answer lost", errno.ECONNRESET, 2 * PAGE), ("commit", errno.EACCES, 2 * PAGE)],
)
def test_a_hole_that_raises_says_whether_it_is_there(make: Make, what: str, error: int, done: int) -> None:
    """None after a refusal; all of it after an unknown outcome or a failed commit. [K13]"""
    rig, file = make({KEY: CONTENT}, limits={"punch": True}, retry=ONCE).opened("r+b")
    op = {"refused": "punch_hole", "answer lost": "punch_hole answer", "commit": "commit"}[what]
    caught = rig.fails(op, OSError(error, "no"), OSError, file.punch_hole, PAGE, 2 * PAGE)
    assert caught.errno == error
    assert getattr(caught, "characters_written", None) == done
    assert file.pread(8 * PAGE, 0) == zeroed(CONTENT, PAGE, done)


def test_a_read_past_the_cache_beside_a_truncate_that_storage_has_already(make: Make) -> None:
    """No fill delays the truncate, and the bytes are already gone; also of a direct read. [T-27, 2.2, 2.9, 2.17]"""
    content = pattern(64 * PAGE)
    rig = make({KEY: content}, capacity="64KiB")
    file, gate = rig.open("r+b"), rig.backend.gate("truncate answer")
    with file.view(0, 16 * PAGE):  # takes all the memory
        rig.backend.forget_calls()
        assert file.pread(PAGE, 39 * PAGE) == content[39 * PAGE : 40 * PAGE]
        assert file.pread(PAGE, 39 * PAGE) == content[39 * PAGE : 40 * PAGE]
        assert len(rig.backend.seen("read_into")) == 2  # past the cache
        _, cutter = at_gate(gate, file.truncate, 40 * PAGE + 5)
        try:
            direct = rig.open("rb", direct=True)
            readers = [Task(handle.pread, 2 * PAGE, page * PAGE) for handle in (file, direct) for page in (40, 50)]
            assert all(reader.waits() for reader in readers)
        finally:
            gate.open()
        cutter.result()
        assert [reader.result() for reader in readers] == [content[40 * PAGE :][:5], b""] * 2
