"""The stored object changes behind the cache: policies, `resolve`, announcements; also by a longer version."""

from __future__ import annotations

import errno
import math
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from itertools import repeat
from typing import Any, Literal

import pytest

from pagecache import BackendError, CachedFile, ConflictError, DataLossError, Event, RetryPolicy, loglines
from pagecache.engine.attempts import AGAIN
from pagecache.engine.commit import remote
from pagecache.engine.file import EngineFile
from pagecache.testing import Gate as Gates

from ..stores import WAIT_LIMIT_S, ObjectBackend, RecordingFile
from .rig import (
    FAST,
    KEY,
    ONCE,
    PAGE,
    Make,
    Rig,
    Task,
    at_gate,
    beside,
    dirty_bytes,
    eventually,
    held,
    pattern,
    quiet,
    raises,
    wait_for,
)

DATA = pattern(4 * PAGE)
OTHER = pattern(4 * PAGE, seed=9)
MINE = b"mine" * (PAGE // 4)


def in_place(make: Make, policy: str = "fail", **options: Any) -> Rig:
    """A file with one dirty page over four clean ones, changed by another client since."""
    rig, file = make({KEY: DATA}, options={"on_conflict": policy}, retry=ONCE, **options).opened()
    file.pread(len(DATA), 0)
    file.pwrite(MINE, PAGE)
    rig.backend.change_remotely(KEY, OTHER)
    return rig


def uploaded(make: Make, policy: str = "fail", retry: RetryPolicy = ONCE, **limits: Any) -> Rig:
    """That file on an object store, with the page uploaded."""
    backend = ObjectBackend({KEY: DATA}, **{"max_write": PAGE, **limits})
    rig, file = make(backend=backend, options={"on_conflict": policy}, retry=retry).opened()
    file.pread(len(DATA), 0)
    file.pwrite(MINE, PAGE)
    file.flush()
    eventually(lambda: rig.cache.stats().unstable == PAGE)
    quiet(rig.volume)
    backend.put(KEY, OTHER)
    return rig


def over(base: bytes) -> bytes:
    return base[:PAGE] + MINE + base[2 * PAGE :]


# No commit in place meets a version.
MEETINGS = [(store, notice) for store in (in_place, uploaded) for notice in ("open", "announced")] + [
    (uploaded, "commit")
]


@pytest.mark.parametrize(("store", "notice"), MEETINGS)
def test_a_conflict_is_raised_and_what_is_local_stays(make: Make, store: Callable[..., Rig], notice: str) -> None:
    """Nothing is written back, and only `resolve` and `discard` lead on. [T-30, 2.16, 2.19]"""
    rig = store(make)
    file = rig.handles[0]
    base, other = rig.volume.engine.files()[0].versions.base, rig.backend.stat(KEY).version
    events: list[Event] = []
    rig.cache.subscribe(events.append)
    rig.backend.forget_calls()
    if notice == "announced":
        rig.volume.invalidate_remote(KEY, version="7")
    elif notice == "commit":
        raises(ConflictError, file.fsync)
    for call in (lambda: rig.volume.open(KEY), file.fsync, rig.volume.sync, lambda: rig.volume.open(KEY, "wb")):
        caught = raises(ConflictError, call)
        assert caught.errno == errno.ESTALE
        assert (caught.base, caught.remote) == (base, "7" if notice == "announced" else other)
        assert caught.ranges == [(PAGE, PAGE)]
    assert file.pread(PAGE, PAGE) == MINE
    eventually(lambda: rig.volume.failed())
    (failed,) = rig.volume.failed()
    assert (failed.offset, failed.length, failed.errno, failed.next_retry) == (PAGE, PAGE, errno.ESTALE, None)
    rig.volume.retry_failed()
    file.pwrite(MINE, PAGE)
    raises(ConflictError, file.fsync)
    assert rig.backend.seen("write_from") == []
    assert rig.backend.committed(KEY) == OTHER
    eventually(lambda: [event.kind for event in events].count("conflict") == 1)
    rig.volume.resolve(KEY, "discard")


RESOLVED = [
    (*meeting, how)
    for meeting in MEETINGS
    for how in ("force", "rebase", "discard", "a whole discard")
    if (meeting[1], how) != ("announced", "force")  # bytes announced as changed are no longer in memory
]


@pytest.mark.parametrize(("store", "notice", "how"), RESOLVED)
def test_a_conflict_is_resolved(make: Make, store: Callable[[Make], Rig], how: Any, notice: str) -> None:
    """Then all goes on. Force stores the whole local version of an object; no old part is uploaded. [T-30, 2.19]"""
    whole = store is uploaded
    rig = store(make)
    file = rig.handles[0]
    content = OTHER if "discard" in how else over(DATA if whole and how == "force" else OTHER)
    if notice == "announced":
        rig.volume.invalidate_remote(KEY)
    with pytest.raises(ConflictError):
        file.fsync() if notice == "commit" else rig.volume.open(KEY)
    if how == "a whole discard":
        how, lost = "discard", rig.volume.discard(KEY)
    else:
        lost = rig.volume.resolve(KEY, how)
    replaced = [PAGE + at for at in range(PAGE) if MINE[at] != OTHER[PAGE + at]]
    returned = [item.offset + at for item in lost for at in range(item.length)]
    assert returned == {"discard": [*range(PAGE, 2 * PAGE)], "rebase": replaced, "force": []}[how]
    assert bool(rig.backend.seen("rollback")) == whole
    if how == "discard":
        raises(DataLossError, file.fsync)
    assert rig.saved(file) == file.pread(len(DATA), 0) == content
    assert rig.content() == content
    assert rig.volume.failed() == []
    assert rig.volume.resolve(KEY, how) == []


@pytest.mark.long
def test_a_rebase_says_that_it_takes_bytes_for_written_ones(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    """A file has more written ranges than are remembered: the result has the other bytes of its pages, too. [2.19]"""
    size = 2060 * PAGE  # every other byte of these are more than 2^22 ranges
    rig, file = make({KEY: b"a" * size}, capacity="64MiB", dirty_background="48MiB", flush_interval=600.0).opened()
    assert len(file.pread(size, 0)) == size
    deque(map(file.pwrite, repeat(b"b"), range(0, size, 2)), maxlen=0)
    file.pwrite(b"b" * (size - PAGE), 0)
    rig.backend.change_remotely(KEY, b"b" * size)
    raises(ConflictError, rig.open)
    replaced = [(item.offset, item.length) for item in rig.volume.resolve(KEY, "rebase")]
    assert replaced == [(pos, 1) for pos in range(size - PAGE + 1, size, 2)]
    loglines.outlast(20.0)
    assert "some of its pages count as written as a whole" in caplog.text
    assert rig.saved(file) == b"b" * (size - PAGE) + b"ba" * (PAGE // 2)
    caplog.clear()
    file.pwrite(b"mine", 200)
    rig.backend.change_remotely(KEY, b"c" * size)
    raises(ConflictError, rig.open)
    assert [(item.offset, item.length) for item in rig.volume.resolve(KEY, "rebase")] == [(200, 4)]
    loglines.outlast(20.0)
    assert "as a whole" not in caplog.text


@pytest.mark.parametrize(("store", "notice"), MEETINGS)
def test_take_remote_loses_local_bytes(
    make: Make, store: Callable[[Make, str], Rig], notice: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The loss is logged, and reported once to each handle open at that time. [T-30, 2.19]"""
    rig = store(make, "take_remote")
    file = rig.handles[0]
    if notice == "open":
        rig.open("rb")
    elif notice == "announced":
        rig.volume.invalidate_remote(KEY)
        eventually(lambda: dirty_bytes(rig.volume) == 0)
    assert [(item.offset, item.length) for item in raises(DataLossError, file.fsync).ranges] == [(PAGE, PAGE)]
    loglines.outlast(20.0)
    assert "the foreign version was taken; [4096, 8192) given up" in caplog.text
    assert rig.saved(file) == file.pread(len(DATA), 0) == OTHER
    assert len(rig.backend.seen("rollback")) == (store is uploaded)


@pytest.mark.parametrize("store", [in_place, uploaded])
@pytest.mark.parametrize("reader", [False, True])
def test_a_close_beside_the_record_of_a_loss_raises_it(
    make: Make, store: Callable[[Make, str], Rig], monkeypatch: pytest.MonkeyPatch, *, reader: bool
) -> None:
    """The bytes have gone by then; each handle that was open raises. [2.16, 2.19]"""
    rig = store(make, "take_remote")
    file = rig.open("rb", keep_cache=True) if reader else rig.handles[0]
    gate = held(monkeypatch, EngineFile, "report_loss")
    rig.volume.invalidate_remote(KEY)
    gate.wait_entered()
    assert file._close_may_wait()  # so a task waits on a lane, and not on its loop
    closing = Task(file.close)
    assert closing.waits()
    raises(DataLossError, closing.result, opening=gate)


@pytest.mark.parametrize("times", [1, math.inf])
def test_a_foreign_version_is_not_replaced_because_a_look_at_it_failed(make: Make, times: float) -> None:
    """To take it is tried again; if that fails for good, it is in conflict. [2.19]"""
    rig, file = make({KEY: DATA}, options={"on_conflict": "take_remote"}, retry=FAST).written(MINE, PAGE)
    rig.backend.change_remotely(KEY, OTHER)
    fault = rig.backend.fault("file_stat", OSError(errno.EIO, "for a moment"), times=times)
    rig.volume.invalidate_remote(KEY)
    eventually(lambda: fault.nr_hit)
    if times > 1:
        raises(ConflictError, file.fsync)
        fault.clear()
        rig.volume.resolve(KEY, "discard")
    raises(DataLossError, file.fsync)
    assert rig.saved(file) == file.pread(len(DATA), 0) == OTHER


@pytest.mark.parametrize("moment", ["between two tries", "in a call"])
def test_a_foreign_version_is_taken_behind_a_reconnect(make: Make, moment: str) -> None:
    """An abort has ended the take of it. [2.17, 2.19]"""
    slow = replace(FAST, first_delay=3600.0, max_delay=3600.0, deadline=7200.0)
    rig, file = make({KEY: DATA}, options={"on_conflict": "take_remote"}, retry=slow).written(MINE, PAGE)
    rig.backend.change_remotely(KEY, OTHER)
    if moment == "in a call":
        gate = rig.backend.gate("file_stat")
    else:
        rig.backend.fault("file_stat", OSError(errno.EIO, "for a moment"))
    rig.volume.invalidate_remote(KEY)
    if moment == "in a call":
        gate.wait_entered()
        rig.volume.abort()
        gate.open()
    else:
        wait_for(rig.cache, AGAIN)
    fresh = rig.reconnect()
    raises(DataLossError, file.fsync)
    assert rig.content() == OTHER == fresh.committed(KEY)


def test_a_version_that_was_to_be_taken_keeps_no_write_of_a_removed_object_back(make: Make) -> None:
    """An open file goes on without a name; its earlier unsaved bytes are given up. [2.19, 2.20]"""
    policy = {"on_conflict": "take_remote"}
    rig, file = make({KEY: DATA}, limits={"identities": True}, options=policy).written(MINE, PAGE)
    gate = Gates()
    file._inode.settle(lambda: gate.enter(WAIT_LIMIT_S))
    gate.wait_entered()
    rig.backend.change_remotely(KEY, OTHER)
    rig.volume.invalidate_remote(KEY)
    rig.volume.remove(KEY)
    gate.release()
    raises(DataLossError, file.fsync)
    file.pwrite(MINE, 0)
    file.fsync(timeout=WAIT_LIMIT_S)
    assert not file.stats().dirty


def test_a_discard_that_cannot_look_at_the_other_version_returns_what_is_lost(make: Make) -> None:
    """The conflict stands. [2.18, 2.19]"""
    rig = make({KEY: DATA}, retry=ONCE)
    rig.dirtied(MINE, PAGE)._leave()
    rig.backend.change_remotely(KEY, OTHER)
    raises(ConflictError, rig.open)
    rig.backend.fault("file_stat", OSError(errno.EIO, "for a moment"))
    assert [(item.offset, item.length) for item in rig.volume.discard(KEY)] == [(PAGE, PAGE)]
    assert rig.volume.resolve(KEY, "discard") == []
    assert rig.open("rb").pread(len(DATA), 0) == OTHER


def test_a_truncate_beside_a_flush_is_no_remote_change(make: Make) -> None:
    """The store's version while the truncate is in flight differs from the one afterwards. [2.19]"""
    rig, file = make({KEY: pattern(4 * PAGE)}).opened()
    with rig.backend.gate("truncate") as gate:
        _, cutter = at_gate(gate, file.truncate, PAGE)
        Task(file.flush).result()
    cutter.result()
    file.pwrite(b"local", 0)
    assert rig.open("rb").pread(5, 0) == b"local"


def test_a_direct_write_beside_a_commit_is_no_remote_change(make: Make) -> None:
    """The commit returns a version that the direct write replaced before the answer came. [2.10, 2.19]"""
    rig, file, direct = make({KEY: pattern(4 * PAGE)}, limits={"parallel_direct_writes": True}).both(direct=True)
    file.pwrite(b"local", 0)
    rig.backend.fault("commit answer", lambda: Task(direct.pwrite, b"d" * PAGE, PAGE).result())
    file.fsync()
    file.pwrite(b"again", 0)
    assert rig.open("rb").pread(5, 0) == b"again"
    file.fsync()


@pytest.mark.parametrize("how", ["force", "rebase"])
def test_a_commit_that_a_conflict_keeps_back_loses_no_direct_write(make: Make, how: Any) -> None:
    """The backend was not asked: bytes stored in place stay there, and the next commit covers it. [2.16, 2.19]"""
    rig, file, direct = make({KEY: DATA}, retry=ONCE).both(direct=True)
    direct.pwrite(OTHER[:PAGE], 0)
    file.pwrite(MINE, PAGE)
    rig.volume.invalidate_remote(KEY)
    raises(ConflictError, file.fsync)
    eventually(lambda: file._inode.usage()["failed_commits"] == 1)
    assert not rig.backend.seen("commit")
    rig.volume.resolve(KEY, how)
    for handle in (file, direct):
        handle.fsync()
    assert rig.backend.committed(KEY) == OTHER[:PAGE] + over(DATA)[PAGE:]


@pytest.mark.parametrize("policy", ["fail", "take_remote"])
def test_an_announcement_from_inside_read_into_never_blocks(make: Make, policy: str) -> None:
    """Of the same file, with local bytes: the fill is read again. [T-46, K8, K12]"""
    rig, file = make({KEY: DATA}, options={"on_conflict": policy}, retry=ONCE).written(MINE, PAGE)

    def answer(stored: RecordingFile, offset: int, buffers: list[memoryview]) -> int:
        done = stored.fill(offset, buffers)
        rig.backend.change_remotely(KEY, OTHER)
        rig.volume.invalidate_remote(KEY)
        return done

    rig.backend.fault("read_into", answer)
    assert Task(file.pread, PAGE, 2 * PAGE).result() == OTHER[2 * PAGE : 3 * PAGE]
    assert len(rig.backend.seen("read_into")) > 1
    assert Task(file.pread, PAGE, 2 * PAGE).result() == OTHER[2 * PAGE : 3 * PAGE]
    if policy == "fail":
        rig.volume.resolve(KEY, "discard")


@pytest.mark.parametrize("whole", [False, True], ids=["in place", "whole"])
@pytest.mark.parametrize("late", [False, True], ids=["found before", "found beside"])
def test_a_conflict_ends_with_the_last_name(
    make: Make, monkeypatch: pytest.MonkeyPatch, *, whole: bool, late: bool
) -> None:
    """The other version belongs to the name; the object goes on without either. [2.19, 2.20]"""
    rig, file = make({KEY: pattern(4 * PAGE)}, limits={"commit_on_close": whole}).written(MINE, PAGE)
    if late:
        beside(monkeypatch, EngineFile, "is_renamed", lambda: Task(rig.volume.remove, KEY).result(), after=True)
    rig.volume.invalidate_remote(KEY, version="another")
    if not late:
        rig.volume.remove(KEY)
    assert rig.volume.engine.files()[0].conflict is None
    assert file.pread(PAGE, PAGE) == MINE
    file.fsync()
    file.close()
    eventually(lambda: not rig.cache.stats().dirty)


LONGER = pattern(3 * PAGE + 100, seed=9)
FAR = pattern(PAGE, seed=4)


def in_conflict(make: Make, at: int = PAGE, **limits: Any) -> tuple[Rig, CachedFile]:
    """A file with a dirty page, of which another client has stored a longer version in place."""
    rig, file = make({KEY: DATA[: 2 * PAGE]}, retry=ONCE, limits=limits).written(MINE, at)
    rig.backend.change_remotely(KEY, LONGER)
    raises(ConflictError, rig.volume.open, KEY)
    return rig, file


@pytest.mark.parametrize(
    "error",
    [None, OSError(errno.ETIMEDOUT, "late"), BackendError(errno.EIO, "no", retry=False)],
    ids=["made", "worth another try", "refused"],
)
@pytest.mark.parametrize("durable", [False, True])
def test_a_longer_version_in_place_is_cut_to_the_length_of_ours(make: Make, durable: bool, error: Any) -> None:
    """The bytes behind the local end are gone afterwards. A cut that fails is owed, before any call. [2.17, 2.19]"""
    rig, file = in_conflict(make, durable_writes=durable)
    if error is not None:
        rig.backend.fault("truncate", error, times=math.inf)
    assert rig.volume.resolve(KEY, "force") == []
    if error is not None:
        raises(OSError, file.fsync)
        assert len(rig.backend.written(KEY)) == len(LONGER)
        rig.backend.clear_faults()
    assert (file.size, file.pread(len(LONGER), 0)) == (2 * PAGE, LONGER[:PAGE] + MINE)
    file.fsync()
    assert rig.backend.written(KEY) == LONGER[:PAGE] + MINE


@pytest.mark.parametrize("how", ["force", "rebase"])
def test_an_owed_truncate_is_paid_before_another_version_is_taken(make: Make, how: Literal["force", "rebase"]) -> None:
    """The bytes it cut off do not come back. [2.17, 2.19]"""
    rig, file = in_conflict(make, at=0)
    rig.backend.fault("truncate", OSError(errno.ETIMEDOUT, "late"), times=math.inf)
    raises(TimeoutError, file.truncate, PAGE + 10)
    raises(TimeoutError, rig.volume.resolve, KEY, how)
    raises(ConflictError, rig.volume.open, KEY)
    rig.backend.clear_faults()
    rig.volume.resolve(KEY, how)
    assert (file.size, file.pread(3 * PAGE, 0)) == (PAGE + 10, MINE + LONGER[PAGE : PAGE + 10])
    file.fsync()
    assert rig.backend.committed(KEY) == MINE + LONGER[PAGE : PAGE + 10]


@pytest.mark.parametrize("how", ["rebase", "force"])
def test_a_direct_write_beside_a_resolve_is_kept(make: Make, monkeypatch: pytest.MonkeyPatch, how: Any) -> None:
    """It ends while another version is taken; a forced one waits for it, and cuts nothing of it off. [2.10, 2.19]"""
    rig, file, direct = make({KEY: DATA[: 2 * PAGE]}, retry=ONCE).both(direct=True)
    file.pwrite(MINE, PAGE)
    gate, writing = at_gate(rig.backend.gate("write_from"), direct.pwrite, FAR, 6 * PAGE)
    rig.backend.change_remotely(KEY, LONGER)
    rig.volume.invalidate_remote(KEY, version="another")
    if how == "rebase":
        beside(monkeypatch, remote, "take_base", lambda: writing.result(opening=gate), after=True)
        rig.volume.resolve(KEY, how)
    else:
        forcing = Task(rig.volume.resolve, KEY, how)
        assert forcing.waits()
        writing.result(opening=gate)
        assert forcing.result() == []
    assert file.size == 7 * PAGE
    for save in (rig.cache.check, file.fsync):
        save()
        assert (file.pread(PAGE, PAGE), file.pread(PAGE, 6 * PAGE)) == (MINE, FAR)
    assert rig.backend.written(KEY)[6 * PAGE :] == FAR
