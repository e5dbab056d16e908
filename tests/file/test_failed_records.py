"""Records of failed ranges beside the index, which has the failed bytes: each record ends with its bytes, and bytes
without one are retried. Failed bytes that were cut or discarded leave the store as readers see it. [I-29, 2.14, 2.16]
"""

from __future__ import annotations

import errno
import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from pagecache import DataLossError, Event, RetryPolicy, ShutdownError, WritebackError
from pagecache.engine import failures
from pagecache.engine.commit import overdue
from pagecache.engine.failures import Failure, Failures
from pagecache.engine.file import EngineFile
from pagecache.engine.io.barrier import FileSync
from pagecache.native import BACKOFF, DIRTY, END, STAMP_MAX, WRITEBACK, NativeInode

from ..stores import RecordingBackend, failing_commit, short
from .clock import HandClock
from .rig import FAST, KEY, ONCE, PAGE, Make, Patch, Rig, Task, beside, eventually, held, pattern, raises
from .test_interrupts import interrupted_at

OLD, NEW = pattern(8 * PAGE), pattern(8 * PAGE, seed=1)
FULL = OSError(errno.ENOSPC, "full")
PASSING = OSError(errno.EIO, "passing")


def engine_of(rig: Rig) -> EngineFile:
    return rig.volume.inodes[KEY]


def recorded(rig: Rig) -> list[tuple[int, int]]:
    """Return the ranges of the records, in pages."""
    engine = engine_of(rig)
    with engine.lock:
        return [(failure.start // PAGE, -(-failure.end // PAGE)) for failure in engine.failures]


def written(rig: Rig, page: int) -> bool:
    """Return whether the backend has the new content of a page, and the cache its answer."""
    start = page * PAGE
    stored = rig.backend.written(KEY)[start : start + PAGE] == NEW[start : start + PAGE]
    return stored and not engine_of(rig).range_local(start, start + PAGE) & (DIRTY | WRITEBACK)


def failed_rig(make: Make, length: int = 4 * PAGE, **options: Any) -> Rig:
    """A file whose first bytes have failed for good; nothing retries them but a request."""
    rig, _ = make({KEY: OLD}, **{"retry": ONCE, **options}).written(NEW[:length], 0)
    rig.fails("write_from", FULL, WritebackError, rig.handles[0].fsync)
    assert recorded(rig) == [(0, -(-length // PAGE))]
    return rig


def test_a_commit_that_fails_for_good_leaves_waiting_bytes_their_retry(make: Make, clock: HandClock) -> None:
    """They are no part of the commit."""
    rig = make({KEY: OLD}, retry=RetryPolicy(attempts=5, first_delay=0.2, max_delay=0.2, failed_retry=None))
    file = rig.dirtied(NEW[:PAGE], 0)
    file.flush()
    rig.backend.fault("write_from", PASSING)
    file.pwrite(NEW[2 * PAGE : 3 * PAGE], 2 * PAGE)
    engine = engine_of(rig)
    engine.flush_start(STAMP_MAX)
    eventually(lambda: engine.range_next(0, END, BACKOFF) == 2 * PAGE)
    rig.backend.fault("commit", failing_commit(FULL))
    engine.start_commit()
    eventually(lambda: engine.commits.parked)
    clock.advance(1.0)
    eventually(lambda: written(rig, 2))
    assert not written(rig, 0)
    rig.cache.check()
    file.fsync()


def store_the_first_page(rig: Rig) -> None:
    rig.backend.fault("write_from", short(PAGE))
    rig.fails("write_from", FULL, WritebackError, rig.handles[0].fsync)


@pytest.mark.parametrize("planned", [False, True])
def test_a_reconnect_makes_up_the_save_of_a_sync_that_an_abort_has_ended(
    make: Make, monkeypatch: Patch, planned: bool
) -> None:
    """The kept error of the sync keeps the sync, too. A signal handler comes before or after it has `planned` the next
    commit. [2.14, 2.22]
    """
    rig = make({KEY: OLD}, retry=RetryPolicy(attempts=5, first_delay=3600.0, max_delay=3600.0))
    rig.dirtied(NEW, 0)
    rig.backend.fault("commit", failing_commit(PASSING))
    fresh: list[RecordingBackend] = []
    due = held(monkeypatch, overdue, "due")
    beside(monkeypatch, FileSync, "_pause", lambda: fresh.append(rig.reconnect()), after=planned)
    with rig.volume.engine._advancing:  # not the flusher advances it
        error = raises(ShutdownError, rig.volume.sync, 20)
    due.open()
    eventually(lambda: fresh[0].committed(KEY) == NEW)
    assert error.__traceback__ is not None


# What ends the failure of some pages, and the pages that have failed still.
ENDS: dict[str, tuple[Callable[[Rig], object], list[tuple[int, int]]]] = {
    "stored": (store_the_first_page, [(1, 4)]),
    "punched": (lambda rig: rig.handles[0].punch_hole(PAGE, PAGE + 100), [(0, 1), (2, 4)]),
    "given up": (lambda rig: rig.volume.discard(KEY, 100, PAGE), [(2, 4)]),
}


@pytest.mark.parametrize("end", ENDS)
def test_the_record_of_pages_ends_whose_failure_is_over(make: Make, end: str) -> None:
    """Stored by a second try that fails behind them, made a hole, or discarded: in whole blocks."""
    rig = failed_rig(make, limits={"punch": True})
    call, left = ENDS[end]
    call(rig)
    assert recorded(rig) == left
    rig.cache.check()
    rig.handles[0].punch_hole(0, 4 * PAGE)
    assert recorded(rig) == []


def test_bytes_written_beside_a_discard_start_without_the_failure_given_up(make: Make, monkeypatch: Patch) -> None:
    """A write that comes between the discard and its record has all its attempts. [2.14, 2.18]"""
    rig = failed_rig(make, PAGE)
    write = partial(rig.handles[0].pwrite, NEW[:PAGE], 0)
    beside(monkeypatch, NativeInode, "discard", lambda: Task(write).result(), after=True)
    rig.volume.discard(KEY)
    assert recorded(rig) == []
    raises(DataLossError, rig.handles[0].fsync)
    assert rig.backend.committed(KEY) == NEW[:PAGE] + OLD[PAGE:]


def test_a_parked_neighbour_in_a_unit_keeps_its_record_and_is_not_retried_with_it(make: Make) -> None:
    """A transient failure of its unit gives a parked page neither another record nor an early retry. [2.14, 2.16]"""
    rig = make({KEY: OLD}, retry=FAST, max_folio=PAGE, limits={"write_unit": 4 * PAGE, "max_write": 4 * PAGE})
    file = rig.dirtied(NEW[:PAGE], 0)
    file.pwrite(NEW[2 * PAGE : 3 * PAGE], 2 * PAGE)
    rig.fails("write_from", FULL, WritebackError, file.fsync)
    seen: list[Event] = []
    rig.cache.subscribe(seen.append)
    rig.backend.fault("write_from", PASSING)
    failures.resume(engine_of(rig), 2 * PAGE, 3 * PAGE)
    eventually(lambda: written(rig, 2))
    (failed,) = rig.volume.failed()
    assert (failed.offset, failed.length, failed.errno, failed.attempts) == (0, PAGE, errno.ENOSPC, 1)
    assert recorded(rig) == [(0, 2)]
    eventually(lambda: [(event.kind, event.ranges) for event in seen[1:]] == [("repaired", ((2 * PAGE, PAGE),))])
    rig.cache.check()
    file.fsync()
    assert recorded(rig) == []


def test_a_sync_of_clean_bytes_in_a_failed_folio_sends_the_folio_again(make: Make) -> None:
    """A folio waits as a whole: the sync retries its failed page before it judges the range. [2.15]"""
    rig, file = make({KEY: OLD}, retry=ONCE).opened("r+b")
    file.pread(8 * PAGE, 0)
    file.pwrite(NEW[:PAGE], 0)
    rig.fails("write_from", FULL, WritebackError, file.fsync)
    assert engine_of(rig).usage()["folios"] == 1
    file.sync_range(4 * PAGE, PAGE)
    assert written(rig, 0)
    assert recorded(rig) == []


def test_a_failed_range_without_a_record_is_found_and_reported_all_the_same(make: Make) -> None:
    """The index has the failed bytes; the record of their failure may be missing. [I-29, 2.16]"""
    rig = failed_rig(make)
    rig.cache.check()
    engine = engine_of(rig)
    with engine.lock:
        engine.failures.forget()
    raises(AssertionError, rig.cache.check, match=r"I-29: .* has no record")
    assert [(failed.offset, failed.length, failed.attempts) for failed in rig.volume.failed()] == [(0, 4 * PAGE, 0)]
    assert rig.saved(rig.handles[0]) == NEW[: 4 * PAGE] + OLD[4 * PAGE :]


def test_a_block_that_failed_is_saved_after_its_failed_end_was_cut_off(make: Make) -> None:
    """A block fails as a whole; its rest still has a sender after a truncate. [2.14, 2.17]"""
    content = bytes(range(256)) * (PAGE // 256)
    rig, file = make({KEY: content}).written(b"a" * 10, 100)
    file.pwrite(b"b" * 10, 3000)
    rig.backend.fault("write_from", FULL, skip=1)
    raises(WritebackError, file.fsync)
    assert recorded(rig) == [(0, 1)]
    file.truncate(2000)
    file.fsync(timeout=20)
    assert rig.backend.committed(KEY) == content[:100] + b"a" * 10 + content[110:2000]
    assert (rig.volume.failed(), recorded(rig)) == ([], [])


@pytest.mark.parametrize("stored", [b"old", pattern(3 * PAGE)], ids=["extended", "overwritten"])
@pytest.mark.parametrize("how", ["commit failed", "answer lost"])
def test_discarded_bytes_that_the_store_took_are_committed(make: Make, how: str, stored: bytes) -> None:
    """Readers then see the content that a crash leaves. [I-18, 2.17]"""
    rig, file = make({KEY: stored}, retry=ONCE).written(b"new" * 2000, 0)
    if how == "commit failed":
        rig.backend.fault("commit", failing_commit(FULL, forget=False))
    else:
        rig.backend.fault("write_from answer", FULL)
    raises(WritebackError, file.fsync)
    rig.volume.discard(KEY)
    raises(DataLossError, file.fsync)
    assert rig.saved(file) == file.pread(4 * PAGE, 0)


def three_records() -> Failures:
    """Pages 0 and 1, parked; pages 4 to 7, parked; page 9, never parked."""
    records = Failures()
    for start, end, at in ((0, 2, None), (4, 8, 5.0), (9, 10, 3.0)):
        records.add(Failure(start * PAGE, end * PAGE, errno.EIO, 1, "", 0.0, at, PASSING, at != 3.0))
    return records


def state_of(records: Failures) -> tuple[object, ...]:
    return list(records), records.hopeless, records.next_retry(), records.due(9.0, 9)


CHANGES: dict[str, Callable[[Failures], object]] = {
    "new": lambda records: records.add(Failure(20 * PAGE, 22 * PAGE, errno.EIO, 1, "", 0.0, 1.0, PASSING, True)),
    "over two": lambda records: records.add(Failure(PAGE, 5 * PAGE, errno.EIO, 1, "", 0.0, 1.0, PASSING, True)),
    "middle": lambda records: records.clear(5 * PAGE, 6 * PAGE),
    "later": lambda records: records.postpone(next(iter(records)), 7.0),
    "forgotten": Failures.forget,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_an_interrupt_leaves_a_change_of_records_undone_or_done(change: Callable[[Failures], object]) -> None:
    """No later call fails, and no record is lost or left behind. [2.1.3, 2.14]"""
    done = three_records()
    change(done)
    states, found = [state_of(three_records()), state_of(done)], set()
    for nth in itertools.count(1):
        records = three_records()
        place = interrupted_at(nth, partial(change, records))
        assert state_of(records) in states, place
        found.add(states.index(state_of(records)))
        records.clear(0, END)
        assert state_of(records) == ([], 0, None, []), place
        if not place:
            break
    assert found == {0, 1}
