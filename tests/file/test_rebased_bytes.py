"""A rebase lays exactly the bytes that this program has written over the other version, and returns which of its bytes
they replace. [2.19]

Rollbacks that hang, are refused, or lose their answer: no caller is stuck in the backend, and no data is lost. A read
beside one leaves no byte of the old state, and is not refused. [K12]
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from typing import Any

import pytest

from pagecache import BackendError, CachedFile, ConflictError, DataLossError, LostRange, ShutdownError
from pagecache.engine import runner
from pagecache.engine.commit.overlay import Overlay
from pagecache.engine.commit.staging import Staging
from pagecache.engine.io.direct import _Sender

from ..rebased import Written
from ..stores import WAIT_LIMIT_S, ObjectBackend, RecordingBackend
from .clock import HandClock
from .rig import KEY, ONCE, PAGE, Make, Rig, Task, at_gate, ended_or_behind, eventually, held, overlay, pattern, raises

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
    assert rig.saved(file) == bytes(expected)


@pytest.mark.parametrize("folio", [PAGE, 16 * PAGE])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(8))
def test_random_changes(make: Make, kind: str, folio: int, seed: int) -> None:
    """Writes, appends, cuts, holes, reads, flushes and commits; equal bytes are not replaced. [T-30, 2.19]"""
    rig, file = make(backend=KINDS[kind](BASE), retry=ONCE, max_folio=folio).opened()
    model = Written(file, BASE, seed)
    model.change(30)
    model.put(model.random.randrange(5 * PAGE), 10)
    rebase(rig, model, pattern(model.random.choice((100, 3 * PAGE + 5, 12 * PAGE)), seed=9))


@pytest.mark.parametrize("fails", [False, True])
def test_a_writer_beside_the_reads_of_the_other_version(make: Make, fails: bool) -> None:
    """The rest of its page is the other version's, too; if that cannot be read, nothing is mixed. [T-30, 2.19]"""
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
    assert rig.saved(file) == overlay(overlay(THEIRS, 10, b"early"), 3 * PAGE + 10, b"late")


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


@pytest.mark.parametrize("units", [{}, {"write_unit": 512}], ids=str)
def test_a_version_that_ends_before_a_hole_in_a_dirty_page_leaves_no_page_without_a_byte(
    make: Make, units: dict[str, Any]
) -> None:
    rig, file = make(backend=RecordingBackend({KEY: BASE}, punch=True, **units), retry=ONCE).opened()
    file.pwrite(b"x" * 100, PAGE + 1000)  # the page is not cached: it has no other valid bytes
    file.punch_hole(PAGE + 1000, 100)
    theirs = THEIRS[: PAGE + 404]
    replace(rig, theirs)
    assert rig.volume.resolve(KEY, "rebase") == []
    rig.cache.check()
    Task(file.fsync).result()
    assert file.pread(3 * PAGE, 0) == theirs
    file.truncate(10)


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


def test_a_writable_view_over_a_hole_has_written_what_it_may_store_to(make: Make) -> None:
    """Not the zeros of the hole behind it, or those behind the end of the file. [2.19, 2.21]"""
    rig, file = make(backend=RecordingBackend({KEY: BASE}, punch=True), retry=ONCE).opened()
    with file.view(0, 200, writable=True) as view:
        file.punch_hole(100, 200)
        file.truncate(400)
        rig.cache.check()
        assert not view.detached
        view.segments[0][150:153] = b"new"
        replace(rig, THEIRS)
        rig.volume.resolve(KEY, "rebase")
        rig.cache.check()
    expected = BASE[:100] + bytes(50) + b"new" + bytes(47) + THEIRS[200:]
    assert file.pread(len(expected), 0) == expected
    file.fsync()
    assert rig.backend.committed(KEY) == expected


@pytest.mark.parametrize("first", ["rebase waits", "read is refused", "then an abort"])
def test_a_read_that_the_shorter_version_refuses_lets_the_rebase_have_its_folio(
    make: Make, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    """The read waits for the end of the rebase, or for an abort, beside which the rebase goes on. [2.19, 2.22]"""
    rig, file = make({KEY: BASE}, max_folio=16 * PAGE).opened()
    file.pread(4 * PAGE, 0)
    file.pwrite(b"N", 2 * PAGE)
    file._inode.invalidate_range(3 * PAGE, 4 * PAGE)
    rig.backend.change_remotely(KEY, THEIRS[:PAGE])
    raises(ConflictError, rig.volume.open, KEY)
    if first == "then an abort":
        monkeypatch.setattr(runner, "SLICE", WAIT_LIMIT_S)  # the caller of `resolve` looks for it no earlier
    answer, reading = at_gate(rig.backend.gate("read_into"), file.pread, PAGE, 3 * PAGE)
    if first == "rebase waits":
        rebasing = Task(rig.volume.resolve, KEY, "rebase")
        assert rebasing.waits()
        answer.open()
    else:
        put, rebasing = at_gate(held(monkeypatch, Overlay, "put"), rig.volume.resolve, KEY, "rebase")
        answer.open()
        assert reading.waits()
        if first == "then an abort":
            rig.volume.abort()
            raises(ShutdownError, reading.result)
        put.open()
    assert rebasing.result() == []
    rig.cache.check()
    if first != "then an abort":
        assert reading.result() == b""
        assert file.pread(len(BASE), 0) == THEIRS[:PAGE] + bytes(PAGE) + b"N"


def test_a_rebase_waits_for_a_read_of_other_pages_of_the_folio(make: Make) -> None:
    """A thread of the volume makes the rebase, and the read has the folio until it returns. [2.19]"""
    base, theirs = pattern(16 * PAGE), pattern(16 * PAGE, seed=9)
    rig, file = make({KEY: base}).opened()
    assert file.pread(len(base), 0) == base
    file.pwrite(b"M", 10)
    rig.volume.invalidate_remote(KEY, 8 * PAGE, PAGE)  # the folio stays, with this page missing
    gate, reading = at_gate(rig.backend.gate("read_into"), file.pread, 10, 8 * PAGE)
    rig.backend.change_remotely(KEY, theirs)
    rig.volume.invalidate_remote(KEY)
    resolving = Task(rig.volume.resolve, KEY, "rebase")
    assert resolving.waits()
    gate.open()
    assert positions(resolving.result()) == [10]
    assert reading.result() in (base[8 * PAGE :][:10], theirs[8 * PAGE :][:10])
    expected = overlay(theirs, 10, b"M")
    assert file.pread(len(expected), 0) == expected
    assert rig.saved(file) == expected


DATA = pattern(4 * PAGE)
MINE = b"m" * PAGE


def uploaded(make: Make) -> tuple[Rig, CachedFile, ObjectBackend]:
    """Two pages are acknowledged and not committed."""
    backend = ObjectBackend({KEY: DATA}, max_write=PAGE)
    rig, file = make(backend=backend, retry=ONCE).written(MINE, 0)
    file.pwrite(MINE, 2 * PAGE)
    file.flush()
    eventually(lambda: rig.cache.stats().unstable == 2 * PAGE)
    return rig, file, backend


ALL = MINE + DATA[PAGE : 2 * PAGE] + MINE + DATA[3 * PAGE :]


def test_discard_rolls_back_on_a_thread_of_the_volume(make: Make) -> None:
    """All backend calls run there but fills and `canonical`. [2.1, 2.19]"""
    rig, _file, backend = uploaded(make)
    caller = Task(lambda: (threading.get_ident(), rig.volume.discard(KEY, 0, PAGE)))
    ident, lost = caller.result()
    assert [(entry.offset, entry.length) for entry in lost] == [(0, PAGE)]
    assert [call.thread == ident for call in backend.seen("rollback")] == [False]


def test_a_discard_waits_for_a_direct_write_that_is_acknowledged(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rollback forgets them, and they are reported: otherwise the write would count them as stored. [2.10, 2.19]"""
    backend = RecordingBackend({KEY: DATA}, staged=True, commit_on_close=False)
    rig, file, direct = make(backend=backend, retry=ONCE).both(direct=True)
    file.pwrite(MINE, 0)
    file.flush()
    gate, writing = at_gate(held(monkeypatch, _Sender, "send", after=True), direct.pwrite, MINE, 2 * PAGE)
    discarding = Task(rig.volume.discard, KEY, 0, PAGE)
    assert discarding.waits()
    assert writing.result(opening=gate) == PAGE
    assert [(entry.offset, entry.length) for entry in discarding.result()] == [(0, PAGE)]
    for handle in (file, direct):
        lost = raises(DataLossError, handle.fsync).ranges
        assert (2 * PAGE, PAGE) in [(entry.offset, entry.length) for entry in lost]
        handle.fsync()
    assert backend.committed(KEY) == DATA


@pytest.mark.parametrize(
    ("op", "error", "rollbacks"),
    [("rollback", errno.EACCES, 1), ("rollback", errno.ECONNRESET, 2), ("file_stat", errno.EACCES, 2)],
)
def test_a_discard_that_fails_gives_up_nothing(make: Make, op: str, error: int, rollbacks: int) -> None:
    """Refused: nothing has changed. Of unknown outcome, or done and not looked at: all is sent again. [2.17, 2.19]"""
    rig, file, backend = uploaded(make)
    backend.fault(op, OSError(error, "injected"))
    raises(OSError, rig.volume.discard, KEY, 0, PAGE, match="injected")
    rig.cache.check()
    assert file.pread(4 * PAGE, 0) == ALL
    file.fsync()
    assert backend.committed(KEY) == ALL
    assert len(backend.seen("rollback")) == rollbacks
    file.fsync()  # no loss is reported


def test_closing_with_a_deadline_ends_though_the_rollback_hangs(make: Make, clock: HandClock) -> None:
    """Unsaved data is given up at the deadline, and listed. [2.22, K9]"""
    rig, _file, backend = uploaded(make)
    backend.fault("commit", BackendError(errno.EACCES, "no", retry=False, kept=True), times=9)
    gate, closing = at_gate(backend.gate("rollback", times=9), rig.cache.close, timeout=60.0, on_failed="discard")
    clock.advance(60.0)
    lost = closing.result()
    assert sum(entry.length for entry in lost) == 2 * PAGE
    assert gate.nr_entered == 1
    gate.open()


LOCAL = pattern(4 * PAGE, seed=1)


def staged(make: Make) -> tuple[Rig, RecordingBackend]:
    # a call for each page, whichever thread begins to write back
    backend = RecordingBackend({KEY: DATA}, staged=True, max_write=PAGE)
    rig, file = make(backend=backend, capacity="1MiB", dirty_background=0.0, dirty_limit=1 / 64).written(LOCAL, 0)
    file.sync_range(0, 4 * PAGE)
    rig.volume.drop_clean(KEY)
    # the last two; the share of bytes that have to stay in memory is full before
    assert file.stats().to_dict()["staged"] == 2 * PAGE
    return rig, backend


def test_a_read_of_staged_bytes_beside_their_discard_needs_no_backend(make: Make) -> None:
    """The backend has forgotten them, and the cache has not noticed yet: the spool has them. [2.19]"""
    rig, backend = staged(make)
    file = rig.handles[0]
    rolled_back, discarding = at_gate(backend.gate("file_stat"), rig.volume.discard, KEY)
    assert Task(file.pread, PAGE, 3 * PAGE).result() == LOCAL[3 * PAGE :]
    rolled_back.open()
    assert [(lost.offset, lost.length) for lost in discarding.result()] == [(0, 4 * PAGE)]
    assert file.pread(4 * PAGE, 0) == DATA
    assert len(backend.seen("rollback")) == 1


@pytest.mark.parametrize("late", [False, True])
def test_a_read_that_got_staged_bytes_before_their_discard_leaves_none_of_them(
    make: Make, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    """Its answer comes between the rollback and the cache's own discard, or after both. [2.19, K12]"""
    rig, backend = staged(make)
    file = rig.handles[0]
    rolled_back = backend.gate("file_stat")
    answer, reading = at_gate(held(monkeypatch, Staging, "read", after=True), file.pread, PAGE, 3 * PAGE)
    _, discarding = at_gate(rolled_back, rig.volume.discard, KEY)
    if not late:
        assert reading.result(opening=answer) == LOCAL[3 * PAGE :]
    discarding.result(opening=rolled_back)
    assert reading.result(opening=answer) == (DATA if late else LOCAL)[3 * PAGE :]
    assert file.pread(4 * PAGE, 0) == DATA


@pytest.mark.parametrize("again", [False, True], ids=["at once", "after a failed call"])
def test_a_read_of_a_gap_beside_a_rollback_is_made_again(make: Make, again: bool) -> None:
    """The object is shorter than the cache assumes: the read returns no bytes where zeros belong. [2.19, 2.3]"""
    backend = ObjectBackend({KEY: DATA})
    rig, file = make(backend=backend).written(LOCAL[:PAGE], 0)
    file.pwrite(LOCAL[:PAGE], 10 * PAGE)
    file.flush()
    eventually(lambda: rig.cache.stats().unstable == 2 * PAGE)
    rolled_back, read = backend.gate("file_stat"), [] if again else [backend.gate("read_into")]

    def fail(*_: object) -> None:
        read.append(backend.gate("read_into"))
        raise OSError(errno.EAGAIN, "a moment")

    if again:
        backend.fault("read_into", fail)
    reading = Task(file.pread, PAGE, 6 * PAGE)
    eventually(lambda: len(read) == 1)
    read[0].wait_entered()
    _, discarding = at_gate(rolled_back, rig.volume.discard, KEY, 0, PAGE)
    read[0].open()
    ended_or_behind(rig.cache, reading, discarding.thread)
    assert not reading.finished.is_set()
    discarding.result(opening=rolled_back)
    assert reading.result() == bytes(PAGE)
    assert file.pread(PAGE, 10 * PAGE) == LOCAL[:PAGE]
