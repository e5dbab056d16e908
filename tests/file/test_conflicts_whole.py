"""Conflicts of objects that are replaced as a whole: uploads, units, pinned versions. [2.19]"""

from __future__ import annotations

import errno
import io
import threading
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import pytest

from pagecache import CommitError, ConflictError, DataLossError, PageCacheError, WritebackError
from pagecache.engine import throttle
from pagecache.engine.commit import remote
from pagecache.volume import opening

from ..stores import WAIT_LIMIT_S, ObjectBackend, ObjectFile
from .rig import KEY, ONCE, PAGE, Make, Patch, Rig, Task, at_gate, beside, eventually, held, overlay, pattern, raises
from .test_conflicts import DATA, MINE, OTHER, over, uploaded


def test_a_conflict_ends_pending_retries(make: Make) -> None:
    """A write-back had failed before another client stored a version. [2.16, 2.19]"""
    rig, file = make({KEY: DATA}, retry=replace(ONCE, failed_retry=3600.0)).written(MINE, PAGE)
    rig.fails("write_from", OSError(errno.ENOSPC, "full"), WritebackError, file.fsync)
    (failed,) = rig.volume.failed()
    assert failed.next_retry is not None
    rig.volume.invalidate_remote(KEY, version="other")
    (failed,) = rig.volume.failed()
    assert (failed.errno, failed.next_retry) == (errno.ENOSPC, None)
    rig.volume.resolve(KEY, "discard")


def test_force_without_the_whole_version_changes_nothing(make: Make) -> None:
    """Uncached parts of the local version can no longer be read, so only rebase and discard are possible. [2.19]"""
    rig, file = make(backend=ObjectBackend({KEY: DATA}), retry=ONCE).written(MINE, PAGE)
    rig.backend.change_remotely(KEY, OTHER)
    raises(ConflictError, file.fsync, match=f"^[^']*the one below the unsaved bytes: {KEY!r}$")
    raises(ConflictError, rig.volume.resolve, KEY, "force", match=f"be read no longer: rebase or discard: {KEY!r}$")
    raises(ConflictError, file.fsync)
    rig.volume.resolve(KEY, "rebase")
    assert rig.saved(file) == over(OTHER)


@pytest.mark.parametrize("then", ["force", "rebase"])
def test_a_force_that_fails_makes_no_read_byte_a_written_one(make: Make, then: str) -> None:
    """Only bytes that were written, in a dirty page, a sent one, or since, are those of this program. [2.19]"""
    rig, file = make(backend=ObjectBackend({KEY: DATA}), retry=ONCE, max_folio=4 * PAGE).opened()
    assert file.pread(len(DATA), 0) == DATA
    file.pwrite(b"sent", 10)
    file.flush()
    eventually(lambda: rig.cache.stats().unstable == PAGE)
    file.pwrite(b"dirty", PAGE + 20)
    rig.backend.change_remotely(KEY, OTHER)
    raises(ConflictError, file.fsync)
    rig.fails("open", OSError(errno.EACCES, "not now"), OSError, rig.volume.resolve, KEY, "force")
    rig.cache.check()
    file.pwrite(b"later", 2 * PAGE + 30)
    lost = rig.volume.resolve(KEY, then)  # type: ignore[arg-type]
    rig.cache.check()
    assert sum(entry.length for entry in lost) <= 14
    below = DATA if then == "force" else OTHER
    for offset, data in ((10, b"sent"), (PAGE + 20, b"dirty"), (2 * PAGE + 30, b"later")):
        below = overlay(below, offset, data)
    assert rig.saved(file) == file.pread(len(below), 0) == below


@pytest.mark.parametrize(
    ("policy", "fails"), [*product(("fail", "take_remote"), ("rollback answer", "open")), ("fail", "read_into")]
)
def test_what_was_cut_off_stays_so_though_the_other_version_cannot_be_taken(
    make: Make, policy: str, fails: str
) -> None:
    """The backend has forgotten truncates and holes by then, and makes them again before a read. [2.17, 2.19]"""
    options = {"on_conflict": policy}
    rig, file = make(backend=ObjectBackend({KEY: DATA}), retry=ONCE, options=options).opened(read_ahead=0)
    file.truncate(PAGE + 10)
    file.truncate(len(DATA))
    file.pwrite(MINE, 0)
    rig.backend.change_remotely(KEY, OTHER)
    rig.backend.fault(fails, OSError(errno.EACCES, "not now"), times=1 if policy == "fail" else 9)
    raises(ConflictError, file.fsync)
    if policy == "fail":
        raises(OSError, rig.volume.resolve, KEY, "rebase", match="not now")
    eventually(lambda: rig.volume.engine.files()[0].conflict is not None)
    rig.backend.clear_faults()
    rig.backend.fault("read_into", old_version, times=100)
    rig.volume.resolve(KEY, "force")
    assert rig.saved(file) == MINE + DATA[PAGE : PAGE + 10] + bytes(len(DATA) - PAGE - 10)


@pytest.mark.parametrize("moment", ["at its look", "behind its look"])
@pytest.mark.parametrize("way", ["rebase", "take_remote"])
def test_a_read_refused_before_a_rebase_gives_nothing_up(make: Make, monkeypatch: Patch, way: str, moment: str) -> None:
    """Its look at the store, or the effect of its look, comes afterwards: the version is the base by then. [2.19]"""
    rig, file = make(backend=ObjectBackend({KEY: DATA}), retry=ONCE).written(MINE, PAGE)
    rig.backend.change_remotely(KEY, OTHER)
    gate = rig.backend.gate("stat") if moment == "at its look" else held(monkeypatch, remote, "changed")
    _, reading = at_gate(gate, file.pread, PAGE, 0)
    raises(ConflictError, file.fsync)
    rig.volume.resolve(KEY, "rebase")
    if way == "take_remote":
        monkeypatch.setattr(rig.volume.engine, "on_conflict", "take_remote")
    file.pwrite(MINE, PAGE)
    assert reading.result(opening=gate) == OTHER[:PAGE]
    assert rig.saved(file) == over(OTHER)
    assert rig.volume.engine.files()[0].conflict is None


@pytest.mark.parametrize("moment", ["before it", "beside its rollback"])
def test_a_rebase_ends_though_its_name_has_changed(make: Make, moment: str) -> None:
    """The debts to know the name and to roll back are paid, whichever came first. [2.17, 2.19, 2.20]"""
    rig, file = make(backend=ObjectBackend({KEY: DATA}), retry=ONCE).written(MINE, PAGE)
    rig.backend.change_remotely(KEY, OTHER)
    raises(ConflictError, file.fsync)
    name, lost = KEY, OSError(errno.ECONNRESET, "no answer")
    if moment == "before it":
        name = "new"
        rig.fails("rollback", lost, OSError, rig.volume.resolve, KEY, "rebase")
        rig.fails("rename answer", lost, OSError, rig.volume.rename, KEY, name)
        resolving = Task(rig.volume.resolve, KEY, "rebase")
    else:
        gate, resolving = at_gate(rig.backend.gate("rollback"), rig.volume.resolve, KEY, "rebase")
        opening.owe_opening(rig.volume.inodes[KEY])
        gate.open()
    resolving.result()
    assert rig.saved(file, name) == over(OTHER)


def test_a_rebase_takes_the_version_of_the_present_name(make: Make) -> None:
    """A rename had no answer, but was carried out: nothing is made under the old name. [2.19, 2.20]"""
    rig, file = make(backend=ObjectBackend({KEY: DATA}), retry=ONCE).written(MINE, PAGE)
    rig.backend.change_remotely(KEY, OTHER)
    raises(ConflictError, file.fsync)
    rig.fails("rename answer", OSError(errno.ECONNRESET, "lost"), OSError, rig.volume.rename, KEY, "new")
    rig.backend.forget_calls()
    rig.volume.resolve(KEY, "rebase")
    assert {call.key for call in rig.backend.seen("open")} == {"new"}
    assert rig.saved(file, "new") == over(OTHER)
    assert rig.backend.committed(KEY) is None


@pytest.mark.parametrize("end", ["abandon", "rebase"])
def test_a_debt_to_know_the_name_outlasts_a_rollback_beside_it(make: Make, monkeypatch: Patch, end: str) -> None:
    """The rename of a directory owes it, without a token of the file. [2.20]"""
    rig, file = make(backend=ObjectBackend({KEY: DATA}), retry=ONCE).written(MINE, PAGE)
    if end == "rebase":
        rig.backend.change_remotely(KEY, OTHER)
        raises(ConflictError, file.fsync)
    call = file.abandon if end == "abandon" else partial(rig.volume.resolve, KEY, "rebase")
    gate, ending = at_gate(held(monkeypatch, remote, "_forget_owed" if end == "abandon" else "open_base"), call)
    opening.owe_opening(rig.volume.inodes[KEY])
    rig.backend.forget_calls()
    ending.result(opening=gate)
    with rig.open("rb") as again:
        assert again.read() == (over(OTHER) if end == "rebase" else DATA)
    assert len(rig.backend.seen("open")) == 1 + (end == "rebase")


def test_an_fsync_asks_the_store_nothing_before_a_version_is_taken(make: Make) -> None:
    """It waits for the end of the call that changes the name, beside which none is taken. [2.19, 2.20]"""
    rig, file = make(backend=ObjectBackend({KEY: DATA}), options={"on_conflict": "take_remote"}).written(MINE, PAGE)
    inode, call = file._inode, object()
    rig.backend.change_remotely(KEY, OTHER)
    inode.begin_unnaming(call)  # as the rename of a directory does, without the token
    inode.disputed().request_take()
    rig.backend.forget_calls()
    raises(TimeoutError, file.fsync, timeout=0.2)
    assert not rig.backend.seen("stat")
    inode.end_unnaming(call)
    raises(DataLossError, file.fsync)
    assert rig.saved(file) == OTHER


def old_version(file: ObjectFile, offset: int, buffers: Sequence[memoryview]) -> int:
    """Return the old version, as a store that keeps open versions."""
    content = file.base
    for size in file.cuts:
        content = content[:size].ljust(size, b"\0")
    found = io.BytesIO(content[offset:])
    return sum(found.readinto(buffer) for buffer in buffers)


def test_force_reads_on_while_another_call_changes_the_path_of_reads(make: Make) -> None:
    """An owed truncate is paid, and the whole local version is read. [2.17, 2.19]"""
    rig, file = make(backend=ObjectBackend({KEY: DATA}, max_read=PAGE, max_inflight=1), retry=ONCE).written(MINE, PAGE)
    file.pwrite(MINE, 3 * PAGE)  # in memory: a truncate in it waits for no read
    rig.backend.change_remotely(KEY, OTHER)
    raises(ConflictError, file.fsync)
    rig.backend.fault("read_into", old_version, times=100)
    reading, forcing = at_gate(rig.backend.gate("read_into"), rig.volume.resolve, KEY, "force")
    rig.backend.fault("truncate", OSError(errno.ECONNRESET, "the line went dead"))
    raises(OSError, file.truncate, 3 * PAGE + 10, match="the line went dead")
    assert len(rig.backend.seen("read_into")) == 1
    assert forcing.result(opening=reading) == []
    assert rig.saved(file) == over(DATA)[: 3 * PAGE] + MINE[:10]


def test_no_fsync_returns_before_the_loss_of_its_bytes_is_recorded(make: Make, monkeypatch: Patch) -> None:
    """A policy gives the bytes up within the commit of one caller; the fsync of another one waits. [2.16, 2.19]"""
    rig = uploaded(make, "take_remote")
    file = rig.handles[0]
    gate, saving = at_gate(held(monkeypatch, type(file._inode), "report_loss"), file.fsync)
    assert not file.stats().dirty
    raises(TimeoutError, file.fsync, timeout=0.2)
    raises(DataLossError, saving.result, opening=gate)
    file.fsync()


@pytest.mark.parametrize("announced", ["before the answer", "in place of the answer"])
@pytest.mark.parametrize("then", ["ours", "another", "another, which an open looks at"])
def test_an_announced_other_version_beside_a_commit_is_a_conflict(make: Make, announced: str, then: str) -> None:
    """The version of the commit is unknown then, or another one may have replaced it. [2.19]"""
    backend = ObjectBackend({KEY: DATA})
    rig, file = make(backend=backend, options={"revalidate": 1e6}).written(MINE, PAGE)

    def commit(stored_file: Any) -> str:
        made = str(stored_file.make_durable())
        rig.volume.invalidate_remote(KEY, version=made if then == "ours" else backend.put(KEY, OTHER))
        if announced == "in place of the answer":
            raise OSError(errno.ETIMEDOUT, "no answer")
        return made

    backend.fault("commit", commit)
    if then == "ours" or announced == "before the answer":
        file.fsync()
    if then == "ours":
        assert file.pread(len(DATA), 0) == over(DATA)
        file.pwrite(MINE, 0)
        file.fsync()
        assert backend.committed(KEY) == MINE + over(DATA)[PAGE:]
    elif then == "another" or announced == "in place of the answer":
        file.pwrite(MINE, 0)
        raises(ConflictError, file.fsync)
        assert backend.committed(KEY) == OTHER
        raises(ConflictError, file.pread, PAGE, 2 * PAGE)
    else:
        assert rig.content() == OTHER


@pytest.mark.parametrize("notice", ["nobody", "announced"])
def test_a_reader_of_a_replaced_version_never_reads_a_mix(make: Make, notice: str) -> None:
    """ConflictError on its next miss, the new version after reopening. [2.19]"""
    rig, reader = make(backend=ObjectBackend({KEY: DATA})).opened("rb")
    assert reader.pread(PAGE, 0) == DATA[:PAGE]
    rig.backend.change_remotely(KEY, OTHER)
    if notice == "announced":
        rig.volume.invalidate_remote(KEY)
    else:
        assert reader.pread(PAGE, 0) == DATA[:PAGE]
    for _ in range(2):
        raises(ConflictError, reader.pread, PAGE, PAGE)
    with rig.volume.open(KEY) as fresh:
        assert fresh.pread(len(DATA), 0) == OTHER
        for offset in (0, PAGE):
            raises(ConflictError, reader.pread, PAGE, offset)
    reader.close()


def test_an_open_object_that_another_client_removed(make: Make) -> None:
    """A new open reports it; local bytes are a conflict. [2.19, 2.20]"""
    rig = make(backend=ObjectBackend({KEY: DATA, "dirty": DATA}), retry=ONCE)
    reader, writer = rig.open("rb"), rig.open(key="dirty")
    reader.pread(PAGE, 0)
    writer.pwrite(MINE, 0)
    rig.backend.objects.clear()
    raises(FileNotFoundError, rig.volume.open, KEY)
    rig.dirtied(b"new", 0, "w+b").close()
    assert rig.backend.committed(KEY) == b"new"
    raises(ConflictError, rig.volume.open, "dirty")
    rig.volume.resolve("dirty", "rebase")
    assert rig.saved(writer, "dirty") == MINE


@pytest.mark.parametrize(("policy", "late"), [("fail", "refusal"), ("take_remote", "refusal"), ("fail", "version")])
def test_a_read_refused_for_a_version_that_is_the_base_by_now_is_made_again(make: Make, policy: str, late: str) -> None:
    """The refusal comes late, or the version that was asked for: the conflict is settled, nothing is local. [2.19]"""
    rig, file = make(backend=ObjectBackend({KEY: DATA}), options={"on_conflict": policy}).written(MINE, PAGE)
    gate, reading = at_gate(rig.backend.gate("read_into"), file.pread, PAGE, 0)
    rig.backend.change_remotely(KEY, OTHER)
    if late == "version":
        refused, gate = gate, rig.backend.gate("stat answer")
        refused.open()
        gate.wait_entered()
    rig.volume.invalidate_remote(KEY)
    if late == "refusal":
        rig.volume.engine.files()[0].settled(lambda: None)
    if policy == "fail":
        rig.volume.resolve(KEY, "rebase")
        file.fsync()
    assert reading.result(opening=gate) == OTHER[:PAGE]
    assert file.pread(len(DATA), 0) == (OTHER if policy == "take_remote" else over(OTHER))
    if policy == "take_remote":
        raises(DataLossError, file.fsync)


def test_reads_go_on_after_an_announced_change_that_did_not_happen(make: Make) -> None:
    """Uncached bytes are refused until an open finds the version of the cache; then every handle reads them. [2.19]"""
    rig, file = make(backend=ObjectBackend({KEY: DATA}), options={"on_conflict": "fail"}).opened("rb")
    assert file.pread(PAGE, 0) == DATA[:PAGE]
    rig.volume.invalidate_remote(KEY, version="7")
    raises(ConflictError, file.pread, PAGE, 0)
    rig.open("rb")
    assert file.pread(len(DATA), 0) == DATA


def in_conflict(make: Make) -> tuple[Rig, Any]:
    """A small cache with a handle in conflict: a folio whose dirty pages have failed, and one page is written later."""
    small: dict[str, Any] = {"dirty_background": "64KiB", "dirty_limit": "128KiB", "failed_limit": 1.0}
    backend = ObjectBackend({KEY: DATA})
    rig, file = make(backend=backend, retry=ONCE, capacity="1MiB", max_folio=4 * PAGE, **small).opened("w+b")
    file.pwrite(MINE * 4, 0)
    file.fsync()
    for page in (0, 2, 3):
        file.pwrite(MINE, page * PAGE)
    backend.put(KEY, OTHER)
    raises(ConflictError, file.fsync)
    file.pwrite(MINE, PAGE)
    usage = file._inode.usage()
    assert (usage["dirty"], usage["failed"]) == (4 * PAGE, 3 * PAGE)
    return rig, file


def test_a_writer_beside_a_conflict_that_fills_the_cache_gets_an_error(make: Make) -> None:
    """Nothing of it is tried again, nor bytes written to a folio after it had failed. [2.23, 2.19]"""
    rig, file = in_conflict(make)
    with pytest.raises(PageCacheError, match="could not be written back") as caught:
        Task(file.pwrite, bytes(1 << 20), 4 * PAGE).result()
    assert caught.value.errno == errno.ENOBUFS
    rig.volume.resolve(KEY, "discard")


@pytest.mark.parametrize("all_failed", [False, True])
def test_a_writer_waits_while_a_conflict_is_being_settled(make: Make, monkeypatch: Patch, all_failed: bool) -> None:
    """The running `resolve` is about to make room. [2.23, 2.19]"""
    rig, file = in_conflict(make)
    if all_failed:
        rig.volume.discard(KEY, PAGE, PAGE)
        usage = file._inode.usage()
        assert usage["dirty"] == usage["failed"] == 3 * PAGE
    checked = threading.Event()
    with rig.backend.gate("file_stat") as gate:
        _, settling = at_gate(gate, rig.volume.resolve, KEY, "discard")
        with monkeypatch.context() as during:
            during.setattr(throttle, "HOPELESS_CHECKS_MAX", 1)
            beside(during, throttle.Checks, "count", checked.set, after=True)
            writing = Task(file.pwrite, bytes(1 << 20), 4 * PAGE)
            assert checked.wait(WAIT_LIMIT_S)
    settling.result()
    writing.result()


def test_a_remove_ends_a_conflict_and_its_bytes_leave_memory(make: Make) -> None:
    """They are uncommitted for good, and go to the spool like others. [2.20, 2.23]"""
    rig, file = in_conflict(make)
    rig.volume.remove(KEY)
    eventually(lambda: file._inode.usage()["failed"] == 0)
    Task(file.pwrite, pattern(1 << 20), 4 * PAGE).result()
    assert file.pread(4 * PAGE, 0) == MINE * 4
    assert file.pread(1 << 20, 4 * PAGE) == pattern(1 << 20)


def test_a_read_of_the_store_raises_until_the_policy_has_taken_the_other_version(make: Make) -> None:
    """No read waits for a commit: the one that finds the version raises, and those beside the commit do. [2.19]"""
    backend = ObjectBackend({KEY: DATA})
    _, file = make(backend=backend, retry=ONCE, options={"on_conflict": "take_remote"}).opened(read_ahead=0)
    file.pwrite(MINE, PAGE)
    gate, committing = at_gate(backend.gate("commit"), file.fsync)
    backend.put(KEY, OTHER)
    for _ in range(2):
        raises(ConflictError, file.pread, PAGE, 2 * PAGE)
    gate.open()
    raises(DataLossError, committing.result)
    assert file.pread(len(DATA), 0) == OTHER
    file.fsync()
    assert backend.committed(KEY) == OTHER


def unheard(make: Make, written: bytes, *, parts: int = 1, landed: bool = True, **backend: Any) -> tuple[Rig, Any]:
    """A file whose bytes were discarded after a commit without an answer."""
    rig, file = make(backend=ObjectBackend({KEY: DATA}, **backend), retry=ONCE).opened()
    file.pread(2 * PAGE, 0)
    file.pwrite(written, 0)
    rig.fails("commit answer" if landed else "commit", OSError(errno.EIO, "lost"), CommitError, file.fsync)
    for part in range(parts):
        rig.volume.discard(KEY, part * PAGE, PAGE * 2 // parts)
    raises(DataLossError, file.fsync)
    return rig, file


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("landed", [False, True])
@pytest.mark.parametrize("pinned", [False, True])
def test_opens_compare_once_an_unheard_commit_is_discarded(make: Make, landed: bool, parts: int, pinned: bool) -> None:
    """The version that it has stored counts as another writer's then, and so is one that came since. [T-30, 2.19]"""
    rig, file = unheard(make, b"M" * 2 * PAGE, parts=parts, landed=landed, pinned=pinned)
    stored = overlay(DATA, 0, b"M" * 2 * PAGE) if landed else DATA
    for content in (stored, OTHER, pattern(PAGE, seed=3)):
        if content is not stored:
            rig.backend.put(KEY, content)  # type: ignore[attr-defined]
        with rig.volume.open(KEY, "rb") as again:
            assert again.pread(len(DATA), 0) == content
    rig.cache.check()
    if landed:
        raises(ConflictError, file.pread, PAGE, 3 * PAGE)


@pytest.mark.parametrize("first", ["written", "replaced"])
def test_a_write_beside_the_open_that_finds_an_unheard_commit(make: Make, monkeypatch: Patch, first: str) -> None:
    """The write makes that version ours again, or its handle is replaced. [T-30, 2.19]"""
    rig, file = unheard(make, b"M")
    gate = held(monkeypatch, opening, "_replaced", after=first == "replaced")
    _, opens = at_gate(gate, rig.volume.open, KEY, "rb")
    if first == "replaced":
        raises(ConflictError, file.pwrite, b"N", 1)
        gate.open()
        with opens.result() as again:
            assert again.pread(len(DATA), 0) == overlay(DATA, 0, b"M")
        return
    file.pwrite(b"N", 1)
    gate.open()
    with opens.result() as again:
        assert again.pread(2, 0) == b"MN"
        file.fsync()
    assert rig.backend.committed(KEY) == overlay(DATA, 0, b"MN")
