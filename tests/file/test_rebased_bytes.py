"""A rebase lays exactly the bytes that this program has written over the other version, and returns which of its bytes
they replace. [2.19]
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import pytest

from pagecache import CachedFile, ConflictError, LostRange, PageCache
from pagecache.backends import MemoryBackend
from pagecache.testing import FaultyBackend, Rule
from pagecache.testing import Gate as CallGate

from ..rebased import Written
from ..stores import Gate, ObjectBackend, RecordingBackend
from .rig import KEY, ONCE, PAGE, Make, Rig, Task, eventually, overlay, pattern

BASE, THEIRS = pattern(6 * PAGE + 123), pattern(6 * PAGE, seed=9)


def positions(lost: list[LostRange]) -> list[int]:
    return [entry.offset + at for entry in lost for at in range(entry.length)]


def replace(rig: Rig, content: bytes) -> None:
    """Store another version, as another client does, and let the cache find it."""
    eventually(lambda: not rig.cache.stats().writeback)
    if isinstance(rig.backend, ObjectBackend):
        rig.backend.put(KEY, content)
    else:
        rig.backend.change_remotely(KEY, content)
        rig.volume.invalidate_remote(KEY, version="another")
    with pytest.raises(ConflictError):
        rig.handles[0].fsync()


KINDS: dict[str, Callable[[bytes], Any]] = {
    "in place": lambda base: RecordingBackend({KEY: base}),
    "whole": lambda base: ObjectBackend({KEY: base}),
    "units": lambda base: ObjectBackend({KEY: base}, write_unit=3 * PAGE, max_write=6 * PAGE),
}


@pytest.mark.parametrize("folio", [PAGE, 16 * PAGE])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(12))
def test_random_changes(make: Make, kind: str, folio: int, seed: int) -> None:
    """Writes, appends, cuts, holes, reads, flushes and commits: the model says what is laid over. [T-30, 2.19]"""
    rig = make(backend=KINDS[kind](BASE), retry=ONCE, max_folio=folio)
    file = rig.open()
    model = Written(file, BASE, seed)
    model.change(30)
    model.put(model.random.randrange(5 * PAGE), 10)
    rig.cache.check()
    theirs = pattern(model.random.choice((100, 3 * PAGE + 5, 12 * PAGE)), seed=9)
    replace(rig, theirs)
    lost = rig.volume.resolve(KEY, "rebase")
    rig.cache.check()
    assert positions(lost) == model.replaced(theirs)
    expected = model.over(theirs)
    assert file.size == len(expected)
    assert file.pread(len(expected) + 1, 0) == expected
    file.fsync()
    assert rig.backend.committed(KEY) == bytes(expected)


def written_beside_the_reads(make: Make) -> tuple[Rig, CachedFile, Gate, Task[Any]]:
    """A rebase that waits in its first read of the other version; a cached page was changed since."""
    rig = make(backend=ObjectBackend({KEY: BASE}), retry=ONCE)
    file = rig.open()
    file.pread(len(BASE), 0)
    file.pwrite(b"early", 10)
    replace(rig, THEIRS)
    reading = rig.backend.gate("read_into")
    rebasing = Task(rig.volume.resolve, KEY, "rebase")
    reading.wait_entered()
    file.pwrite(b"late", 3 * PAGE + 10)
    return rig, file, reading, rebasing


def test_a_writer_beside_the_reads_of_the_other_version(make: Make) -> None:
    """It changes a part of a cached page of the earlier version: the rest of that page is the other version's, too.
    [T-30, 2.19]
    """
    rig, file, reading, rebasing = written_beside_the_reads(make)
    reading.open()
    rebasing.result()
    rig.cache.check()
    file.fsync()
    expected = bytearray(THEIRS)
    expected[10:15], expected[3 * PAGE + 10 : 3 * PAGE + 14] = b"early", b"late"
    assert rig.backend.committed(KEY) == bytes(expected)


def test_a_late_page_that_cannot_be_read_leaves_a_conflict(make: Make) -> None:
    """The writer of the test above, and a store that fails then: nothing mixed is stored, the next call settles it.
    [T-30, 2.19]
    """
    rig, file, reading, rebasing = written_beside_the_reads(make)
    rig.backend.fault("read_into", OSError(errno.EACCES, "no reading"), skip=1)
    reading.open()
    with pytest.raises(OSError, match="no reading"):
        rebasing.result()
    with pytest.raises(ConflictError):
        file.fsync()
    assert rig.backend.committed(KEY) == THEIRS
    assert file.pread(4, 3 * PAGE + 10) == b"late"
    rig.volume.resolve(KEY, "rebase")
    file.fsync()
    expected = bytearray(THEIRS)
    expected[10:15], expected[3 * PAGE + 10 : 3 * PAGE + 14] = b"early", b"late"
    assert rig.backend.committed(KEY) == bytes(expected)


@pytest.mark.parametrize("kind", ["whole", "units"])
@pytest.mark.parametrize("seed", range(12))
def test_bytes_in_the_spool_of_a_cache_that_is_smaller_than_the_file(make: Make, kind: str, seed: int) -> None:
    """Around written bytes the spool has bytes of the version below, too. [T-30, 2.19]"""
    small: dict[str, Any] = {"capacity": 16 * PAGE, "dirty_background": 0.0, "dirty_limit": 0.2, "max_folio": 2 * PAGE}
    base = pattern(40 * PAGE + 123)
    rig = make(backend=KINDS[kind](base), retry=ONCE, **small)
    file = rig.open()
    model = Written(file, base, seed)
    model.change(30)
    for pos in range(100, 40 * PAGE, PAGE):
        if pos % (3 * PAGE) > PAGE:
            file.pread(PAGE, pos)  # else the page has the written bytes alone
        model.put(pos, 50)
        file.flush()
    assert file.stats().to_dict()["staged"] > 16 * PAGE
    for pos in range(200, 40 * PAGE, 3 * PAGE):
        model.put(pos, 50)
    rig.cache.check()
    theirs = pattern(model.random.choice((100, 23 * PAGE + 5, 50 * PAGE)), seed=9)
    replace(rig, theirs)
    lost = rig.volume.resolve(KEY, "rebase")
    rig.cache.check()
    assert positions(lost) == model.replaced(theirs)
    expected = model.over(theirs)
    assert file.size == len(expected)
    assert file.pread(len(expected) + 1, 0) == expected
    file.fsync()
    assert rig.backend.committed(KEY) == bytes(expected)


def test_a_page_that_was_written_beside_pages_in_the_spool_is_compared(make: Make) -> None:
    """All are in one folio, of which an earlier rebase has dropped the pages in the spool. [T-30, 2.19]"""
    small: dict[str, Any] = {"capacity": 32 * PAGE, "dirty_background": 0.15, "dirty_limit": 0.2}
    store = ObjectBackend({KEY: bytes(40 * PAGE)})
    rig = make(backend=store, retry=ONCE, max_folio=16 * PAGE, **small)
    file, ours, late = rig.open(), pattern(40 * PAGE), 12 * PAGE
    for pos in range(0, 40 * PAGE, PAGE):
        if pos != late:
            file.pwrite(ours[pos : pos + PAGE], pos)
            file.flush()
    file.pread(16 * PAGE, 0)
    replace(rig, bytes(40 * PAGE))
    written = pattern(PAGE, seed=5)
    file.pwrite(written, late)
    ours = overlay(ours, late, written)
    rig.volume.resolve(KEY, "rebase")
    assert file.stats().to_dict()["staged"] > 16 * PAGE
    store.put(KEY, overlay(ours, late + 7, bytes([ours[late + 7] ^ 1])))
    rig.volume.invalidate_remote(KEY)
    assert positions(rig.volume.resolve(KEY, "rebase")) == [late + 7]
    rig.cache.check()
    file.fsync()
    assert store.committed(KEY) == ours


def test_a_writable_view_has_written_all_that_it_shows(make: Make) -> None:
    """What a program stores through it is not seen. [T-30, 2.19, 2.21]"""
    rig = make(backend=ObjectBackend({KEY: BASE}), retry=ONCE)
    file = rig.open()
    with file.view(PAGE + 100, 50, writable=True) as view:
        (memory,) = view.segments
        memory[3] = 255
        replace(rig, THEIRS)
        rig.volume.resolve(KEY, "rebase")
        memory[4] = 254
        rig.cache.check()
    file.fsync()
    expected = bytearray(THEIRS)
    expected[PAGE + 100 : PAGE + 150] = BASE[PAGE + 100 : PAGE + 150]
    expected[PAGE + 103], expected[PAGE + 104] = 255, 254
    assert rig.backend.committed(KEY) == bytes(expected)


def test_a_rebase_waits_for_a_read_of_other_pages_of_the_folio() -> None:
    """A thread of the volume makes the rebase, and the read has the folio until it returns. [2.19]"""
    store, base, theirs = MemoryBackend(), pattern(16 * PAGE), pattern(16 * PAGE, seed=9)

    def put(content: bytes) -> None:
        file = store.open(KEY, create=True)
        file.write_from(0, [memoryview(content)])
        file.commit()

    put(base)
    backend = FaultyBackend(store)
    with CallGate() as gate, PageCache("4MiB", flush_interval=3600) as cache:
        volume = cache.attach(backend)
        with volume.open(KEY, "r+", read_ahead=0) as file:
            assert file.pread(len(base), 0) == base
            file.pwrite(b"M", 10)
            volume.invalidate_remote(KEY, 8 * PAGE, PAGE)  # the folio stays, with this page missing
            backend.use([Rule("read", nth=1, gate=gate)])
            reading = Task(file.pread, 10, 8 * PAGE)
            gate.wait_entered()
            put(theirs)
            volume.invalidate_remote(KEY)
            resolving = Task(volume.resolve, KEY, "rebase")
            assert resolving.waits()
            gate.release()
            assert [(lost.offset, lost.length) for lost in resolving.result()] == [(10, 1)]
            assert reading.result() in (base[8 * PAGE :][:10], theirs[8 * PAGE :][:10])
            expected = theirs[:10] + b"M" + theirs[11:]
            assert file.pread(len(expected), 0) == expected
            cache.check()
    assert store.snapshot(KEY) == expected


DATA = pattern(4 * PAGE)


def spans(lost: list[LostRange]) -> list[tuple[int, int]]:
    return [(entry.offset, entry.offset + entry.length) for entry in lost]


def conflict(make: Make, ours: bytes, theirs: bytes, *, whole: bool, **limits: Any) -> Rig:
    """Local pages `ours`, from the second one on, over an object that another client has replaced by `theirs`."""
    if whole:
        rig = make(backend=ObjectBackend({KEY: DATA}, **limits), retry=ONCE)
    else:
        rig = make({KEY: DATA}, retry=ONCE, limits=limits)
    rig.open().pwrite(ours, PAGE)
    if isinstance(rig.backend, ObjectBackend):
        rig.backend.put(KEY, theirs)
    else:
        rig.backend.change_remotely(KEY, theirs)
    with pytest.raises(ConflictError):
        rig.volume.open(KEY)
    return rig


@pytest.mark.parametrize("whole", [False, True], ids=["in place", "whole"])
@pytest.mark.parametrize("limits", [{}, {"read_unit": 512, "max_read": 1024}, {"max_read": 1000}], ids=str)
def test_bytes_that_differ_are_returned_exactly(make: Make, whole: bool, limits: dict[str, int]) -> None:
    """What lies under equal bytes, and beside ours, is not replaced. [T-30, 2.19]"""
    ours = pattern(2 * PAGE, seed=3)
    theirs = bytearray(DATA[:PAGE] + ours + DATA[3 * PAGE :])
    theirs[10:20] = bytes(10)  # not under ours
    changed = [(PAGE, PAGE + 1), (PAGE + 100, PAGE + 350), (2 * PAGE - 3, 2 * PAGE + 3), (3 * PAGE - 1, 3 * PAGE)]
    for begin, end in changed:
        theirs[begin:end] = bytes(255 - byte for byte in theirs[begin:end])
    rig = conflict(make, ours, bytes(theirs), whole=whole, **limits)
    lost = rig.volume.resolve(KEY, "rebase")
    assert spans(lost) == changed
    assert {(entry.key, entry.errno, entry.volume) for entry in lost} == {(KEY, errno.ESTALE, rig.volume.name)}
    rig.handles[0].fsync()
    assert rig.backend.committed(KEY) == bytes(theirs[:PAGE]) + ours + bytes(theirs[3 * PAGE :])


@pytest.mark.parametrize("whole", [False, True], ids=["in place", "whole"])
def test_nothing_is_replaced_behind_the_end_of_the_other_version(make: Make, whole: bool) -> None:
    """It ends within ours. [T-30, 2.19]"""
    rig = conflict(make, pattern(2 * PAGE, seed=3), bytes(PAGE + 10), whole=whole)
    ours = pattern(2 * PAGE, seed=3)
    assert sum(entry.length for entry in rig.volume.resolve(KEY, "rebase")) == 10 - ours[:10].count(0)


def test_a_version_that_cannot_be_read_is_not_replaced(make: Make) -> None:
    """The conflict stands with all local bytes, and the next call settles it. [T-30, 2.19]"""
    theirs = pattern(4 * PAGE, seed=9)
    rig = conflict(make, b"mine" * (PAGE // 4), theirs, whole=True)
    rig.backend.fault("read_into", OSError(errno.EACCES, "no reading"))
    with pytest.raises(OSError, match="no reading"):
        rig.volume.resolve(KEY, "rebase")
    with pytest.raises(ConflictError):
        rig.handles[0].fsync()
    assert rig.handles[0].pread(PAGE, PAGE) == b"mine" * (PAGE // 4)
    assert rig.backend.committed(KEY) == theirs
    assert rig.volume.resolve(KEY, "rebase") != []
    rig.handles[0].fsync()
    assert rig.backend.committed(KEY) == theirs[:PAGE] + b"mine" * (PAGE // 4) + theirs[2 * PAGE :]
