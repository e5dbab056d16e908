"""The stored object changes behind the cache: policies, `resolve`, announcements."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import pytest

from pagecache import ConflictError, DataLossError, Event, RetryPolicy
from pagecache.engine.file import EngineFile

from ..stores import ObjectBackend, RecordingFile
from .rig import KEY, ONCE, PAGE, Log, Make, Patch, Rig, Task, at_gate, dirty_bytes, eventually, pattern, quiet, raises

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
    if (meeting[1], how) != ("announced", "force")  # what was announced as changed is no longer in memory
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
    file.fsync()
    assert rig.backend.committed(KEY) == file.pread(len(DATA), 0) == content
    assert rig.content() == content
    assert rig.volume.failed() == []
    assert rig.volume.resolve(KEY, how) == []


def test_resolve_and_policies_refuse_what_they_do_not_know(make: Make) -> None:
    """ValueError names it. No policy lays local bytes over a version of another program. [T-59, 2.19]"""
    rig = make({KEY: DATA})
    raises(ValueError, rig.volume.resolve, KEY, "merge", match="merge")
    words = r"on_conflict: 'rebase' is not a policy.*Volume\.resolve"
    raises(ValueError, make, options={"on_conflict": "rebase"}, match=words)


@pytest.mark.parametrize(("store", "notice"), MEETINGS)
def test_take_remote_loses_local_bytes(make: Make, store: Callable[[Make, str], Rig], notice: str, caplog: Log) -> None:
    """The loss is logged, and reported once to each handle open at that time. [T-30, 2.19]"""
    rig = store(make, "take_remote")
    file = rig.handles[0]
    if notice == "open":
        rig.open("rb")
    elif notice == "announced":
        rig.volume.invalidate_remote(KEY)
        eventually(lambda: dirty_bytes(rig.volume) == 0)
    assert [(item.offset, item.length) for item in raises(DataLossError, file.fsync).ranges] == [(PAGE, PAGE)]
    assert "the foreign version was taken; [4096, 8192) given up" in caplog.text
    file.fsync()
    assert rig.backend.committed(KEY) == file.pread(len(DATA), 0) == OTHER
    assert len(rig.backend.seen("rollback")) == (store is uploaded)


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
    """The backend was not asked: what is stored in place stays there, and the next commit covers it. [2.16, 2.19]"""
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


def test_an_announcement_of_our_own_version_changes_nothing(make: Make) -> None:
    """Only a change that no own write or commit explains is remote. [2.19]"""
    rig, file = make({KEY: DATA}).opened()
    file.pread(len(DATA), 0)
    file.pwrite(MINE, PAGE)
    file.fsync()
    file.pwrite(MINE[::-1], 0)
    rig.volume.invalidate_remote(KEY, version=rig.volume.engine.files()[0].versions.base)
    rig.backend.forget_calls()
    assert file.pread(len(DATA), 0) == MINE[::-1] + over(DATA)[PAGE:]
    assert rig.backend.seen("read_into") == []
    file.fsync()


def test_a_change_elsewhere_in_the_file_is_no_conflict(make: Make) -> None:
    """The announced range has no local bytes: it is read again. [2.19]"""
    rig = in_place(make)
    file = rig.handles[0]
    rig.volume.invalidate_remote(KEY, 2 * PAGE, 2 * PAGE, version="2")
    assert file.pread(len(DATA), PAGE) == MINE + OTHER[2 * PAGE :]
    file.fsync()


@pytest.mark.parametrize("policy", ["fail", "take_remote"])
def test_an_announcement_from_inside_read_into_never_blocks(make: Make, policy: str) -> None:
    """Of the same file, with local bytes: the fill is read again. [T-46, K8, K12]"""
    rig, file = make({KEY: DATA}, options={"on_conflict": policy}, retry=ONCE).opened()
    file.pwrite(MINE, PAGE)

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
def test_a_conflict_ends_with_the_last_name(make: Make, monkeypatch: Patch, *, whole: bool, late: bool) -> None:
    """The other version belongs to the name; the object goes on without either. [2.19, 2.20]"""
    rig, file = make({KEY: pattern(4 * PAGE)}, limits={"commit_on_close": whole}).opened("r+b")
    file.pwrite(MINE, PAGE)
    if late:
        genuine, removing = EngineFile.is_renamed, [rig.volume.remove]

        def meanwhile(engine: EngineFile) -> bool:
            renamed = genuine(engine)
            while removing:
                Task(removing.pop(), KEY).result()
            return renamed

        monkeypatch.setattr(EngineFile, "is_renamed", meanwhile)
    rig.volume.invalidate_remote(KEY, version="another")
    if not late:
        rig.volume.remove(KEY)
    assert rig.volume.engine.files()[0].conflict is None
    assert file.pread(PAGE, PAGE) == MINE
    file.fsync()
    file.close()
    eventually(lambda: not rig.cache.stats().dirty)
