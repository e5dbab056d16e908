"""A rebase lays exactly the bytes that this program has written over the other version, and returns which of its bytes
they replace. [2.19]
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import pytest

from pagecache import ConflictError, LostRange, PageCache, ShutdownError
from pagecache.backends import MemoryBackend
from pagecache.engine import runner
from pagecache.engine.commit.overlay import Overlay
from pagecache.testing import FaultyBackend, Rule
from pagecache.testing import Gate as CallGate

from ..rebased import Written
from ..stores import WAIT_LIMIT_S, ObjectBackend, RecordingBackend
from .rig import KEY, ONCE, PAGE, Make, Rig, Task, at_gate, eventually, held, overlay, pattern, raises

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
    raises(ConflictError, rig.handles[0].fsync)


KINDS: dict[str, Callable[[bytes], Any]] = {
    "in place": lambda base: RecordingBackend({KEY: base}),
    "read units": lambda base: RecordingBackend({KEY: base}, read_unit=512, max_read=1024),
    "whole": lambda base: ObjectBackend({KEY: base}),
    "whole, short reads": lambda base: ObjectBackend({KEY: base}, max_read=1000),
    "units": lambda base: ObjectBackend({KEY: base}, write_unit=3 * PAGE, max_write=6 * PAGE),
}


def rebase(rig: Rig, model: Written, theirs: bytes) -> None:
    """Rebase on another version, and compare the outcome with the model."""
    rig.cache.check()
    replace(rig, theirs)
    lost = rig.volume.resolve(KEY, "rebase")
    rig.cache.check()
    assert positions(lost) == model.replaced(theirs)
    assert {(entry.key, entry.errno, entry.volume) for entry in lost} <= {(KEY, errno.ESTALE, rig.volume.name)}
    expected, file = model.over(theirs), rig.handles[0]
    assert file.size == len(expected)
    assert file.pread(len(expected) + 1, 0) == expected
    file.fsync()
    assert rig.backend.committed(KEY) == bytes(expected)


@pytest.mark.parametrize("folio", [PAGE, 16 * PAGE])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(8))
def test_random_changes(make: Make, kind: str, folio: int, seed: int) -> None:
    """Writes, appends, cuts, holes, reads, flushes and commits: the model says what is laid over. What lies under equal
    bytes, and behind the end of the other version, is not replaced. [T-30, 2.19]
    """
    rig, file = make(backend=KINDS[kind](BASE), retry=ONCE, max_folio=folio).opened()
    model = Written(file, BASE, seed)
    model.change(30)
    model.put(model.random.randrange(5 * PAGE), 10)
    rebase(rig, model, pattern(model.random.choice((100, 3 * PAGE + 5, 12 * PAGE)), seed=9))


@pytest.mark.parametrize("fails", [False, True])
def test_a_writer_beside_the_reads_of_the_other_version(make: Make, fails: bool) -> None:
    """It changes a part of a cached page of the earlier version: the rest of that page is the other version's, too. If
    that cannot be read, nothing mixed is stored, and the next call settles it. [T-30, 2.19]
    """
    rig, file = make(backend=ObjectBackend({KEY: BASE}), retry=ONCE).opened()
    file.pread(len(BASE), 0)
    file.pwrite(b"early", 10)
    replace(rig, THEIRS)
    reading, rebasing = at_gate(rig.backend.gate("read_into"), rig.volume.resolve, KEY, "rebase")
    file.pwrite(b"late", 3 * PAGE + 10)
    if fails:
        rig.backend.fault("read_into", OSError(errno.EACCES, "no reading"), skip=1)
    reading.open()
    if fails:
        raises(OSError, rebasing.result, match="no reading")
        raises(ConflictError, file.fsync)
        assert rig.backend.committed(KEY) == THEIRS
        assert (file.pread(5, 10), file.pread(4, 3 * PAGE + 10)) == (b"early", b"late")
        rig.volume.resolve(KEY, "rebase")
    else:
        rebasing.result()
    rig.cache.check()
    file.fsync()
    assert rig.backend.committed(KEY) == overlay(overlay(THEIRS, 10, b"early"), 3 * PAGE + 10, b"late")


@pytest.mark.parametrize("kind", ["whole", "units"])
@pytest.mark.parametrize("seed", range(12))
def test_bytes_in_the_spool_of_a_cache_that_is_smaller_than_the_file(make: Make, kind: str, seed: int) -> None:
    """Around written bytes the spool has bytes of the version below, too. [T-30, 2.19]"""
    small: dict[str, Any] = {"capacity": 16 * PAGE, "dirty_background": 0.0, "dirty_limit": 0.2, "max_folio": 2 * PAGE}
    base = pattern(40 * PAGE + 123)
    rig, file = make(backend=KINDS[kind](base), retry=ONCE, **small).opened()
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
    rebase(rig, model, pattern(model.random.choice((100, 23 * PAGE + 5, 50 * PAGE)), seed=9))


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
    replace(rig, overlay(ours, late + 7, bytes([ours[late + 7] ^ 1])))
    assert positions(rig.volume.resolve(KEY, "rebase")) == [late + 7]
    rig.cache.check()
    file.fsync()
    assert store.committed(KEY) == ours


def test_a_writable_view_has_written_all_that_it_shows(make: Make) -> None:
    """What a program stores through it is not seen. [T-30, 2.19, 2.21]"""
    rig, file = make(backend=ObjectBackend({KEY: BASE}), retry=ONCE).opened()
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


@pytest.mark.parametrize("first", ["rebase waits", "read is refused"])
def test_a_read_that_the_shorter_version_refuses_lets_the_rebase_have_its_folio(
    make: Make, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    """The rebase puts bytes into another page of the folio, with the token; the read waits for its end. [2.19]"""
    rig, file = make({KEY: BASE}, max_folio=16 * PAGE).opened()
    file.pread(4 * PAGE, 0)
    file.pwrite(b"N", 2 * PAGE)
    file._inode.invalidate_range(3 * PAGE, 4 * PAGE)
    rig.backend.change_remotely(KEY, THEIRS[:PAGE])
    raises(ConflictError, rig.volume.open, KEY)
    answer, reading = at_gate(rig.backend.gate("read_into"), file.pread, PAGE, 3 * PAGE)
    if first == "rebase waits":
        rebasing = Task(rig.volume.resolve, KEY, "rebase")
        assert rebasing.waits()
        answer.open()
    else:
        put, rebasing = at_gate(held(monkeypatch, Overlay, "put"), rig.volume.resolve, KEY, "rebase")
        answer.open()
        assert reading.waits()
        put.open()
    assert rebasing.result() == []
    assert reading.result() == b""
    rig.cache.check()
    assert file.pread(len(BASE), 0) == THEIRS[:PAGE] + bytes(PAGE) + b"N"


def test_an_abort_ends_a_read_that_waits_for_the_rebase_beside_which_it_was_refused(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rebase goes on. [2.19, 2.22]"""
    rig, file = make({KEY: BASE}, max_folio=16 * PAGE).opened()
    file.pread(4 * PAGE, 0)
    file.pwrite(b"N", 2 * PAGE)
    file._inode.invalidate_range(3 * PAGE, 4 * PAGE)
    rig.backend.change_remotely(KEY, THEIRS[:PAGE])
    raises(ConflictError, rig.volume.open, KEY)
    monkeypatch.setattr(runner, "SLICE", WAIT_LIMIT_S)  # the caller of `resolve` looks for the abort no earlier
    answer, reading = at_gate(rig.backend.gate("read_into"), file.pread, PAGE, 3 * PAGE)
    put, rebasing = at_gate(held(monkeypatch, Overlay, "put"), rig.volume.resolve, KEY, "rebase")
    answer.open()
    assert reading.waits()
    rig.volume.abort()
    raises(ShutdownError, reading.result)
    put.open()
    assert rebasing.result() == []
    rig.cache.check()


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
            _, reading = at_gate(gate, file.pread, 10, 8 * PAGE)
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
