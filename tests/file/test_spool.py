"""Bytes in the spool until a commit: more than the cache holds, written, read, rewritten, committed, sent again.
Commits with a lost answer, of files with staged bytes, are made again with the same bytes.
"""

from __future__ import annotations

import errno
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

import pagecache
from pagecache import BackendError, CachedFile, CommitError, ConflictError, DataLossError, ShutdownError, WritebackError
from pagecache.backends.spool import Spool
from pagecache.engine.commit import overdue, staging
from pagecache.engine.commit.versions import Versions
from pagecache.native import TOKEN

from ..stores import Action, PublishingBackend, RecordingBackend, StoredObject, failing_commit, short
from .rig import KEY, ONCE, PAGE, Make, Patch, Rig, Task, at_gate, beside, eventually, held, overlay, pattern, raises
from .test_interrupts import ctrl_c

CAPACITY = 64 * PAGE
SMALL: dict[str, Any] = {
    "capacity": CAPACITY,
    "dirty_background": 0.1,
    "dirty_limit": 0.5,
    "max_folio": 4 * PAGE,
    "flush_interval": 0.02,
}
TIGHT: dict[str, Any] = {"dirty_background": 0.0, "dirty_limit": 1 / 64}  # everything is staged
CALM: dict[str, Any] = {"dirty_background": 0.8, "dirty_limit": 0.9}  # the cache sends nothing unless the test asks


def spooling(
    make: Make, objects: dict[Any, bytes] | None = None, limits: dict[str, Any] | None = None, **more: Any
) -> Rig:
    return make(backend=RecordingBackend(objects, staged=True, **(limits or {})), **{**SMALL, **more})


def stage_all(rig: Rig, file: Any, content: bytes) -> None:
    """Write, and wait until all of it is staged or unstable, except the rest of a unit that was sent in part."""
    for offset in range(0, len(content), 8 * PAGE):
        file.pwrite(content[offset : offset + 8 * PAGE], offset)
        rig.cache.check()
    file.flush()
    unit = max(PAGE, int(rig.backend.limits.write_unit))
    eventually(lambda: rig.cache.stats().dirty < unit and rig.cache.stats().writeback == 0)


def staged(file: Any) -> int:
    return int(file.stats().to_dict()["staged"])


def all_staged(rig: Rig, content: bytes, mode: str = "r+b") -> CachedFile:
    """A file all of whose written bytes are staged, and none in memory."""
    file = rig.dirtied(content, 0, mode)
    file.sync_range(0, len(content))
    rig.volume.drop_clean(KEY)
    assert staged(file) == len(content)
    rig.cache.configure(**CALM)
    return file


def only_spooled(make: Make, content: bytes, base: bytes = b"", **limits: Any) -> tuple[Rig, Any]:
    """That file on a store that forgets."""
    rig = spooling(make, {KEY: base}, limits, **TIGHT)
    file = all_staged(rig, content)
    rig.backend.forget_calls()
    return rig, file


def sent(rig: Rig) -> int:
    return sum(call.length for call in rig.backend.seen("write_from"))


class FaultySpool(Spool):
    """A spool whose calls fail as the test wants."""

    write_error: OSError | None = None
    read_error: OSError | None = None

    def write(self, offset: int, buffers: Sequence[memoryview]) -> int:
        if self.write_error is not None:
            raise self.write_error
        return super().write(offset, [buffer[: max(1, len(buffer) // 2)] for buffer in buffers[:1]])

    def fill(self, offset: int, buffers: Sequence[memoryview]) -> None:
        if self.read_error is not None:
            raise self.read_error
        super().fill(offset, buffers)


@pytest.fixture
def faulty(monkeypatch: Patch) -> Iterator[type[FaultySpool]]:
    """All spools are of this class, whose writes are short."""
    monkeypatch.setattr(staging, "Spool", FaultySpool)
    yield FaultySpool
    FaultySpool.write_error = FaultySpool.read_error = None


def test_a_short_last_unit_that_is_staged_grows(make: Make) -> None:
    """The file grows behind a last unit that was staged short and has left memory: it is read back. [2.12]"""
    content = pattern(20 * PAGE)
    rig, file = spooling(make, limits={"write_unit": 4 * PAGE}, **TIGHT).opened("x+b")
    sizes = [PAGE + 100, 6 * PAGE + 1, 6 * PAGE + 2, 9 * PAGE, len(content)]
    for start, end in zip([0, *sizes], sizes, strict=False):
        file.pwrite(content[start:end], start)
        rig.volume.begin_sync().wait(20) if end == 9 * PAGE else file.sync_range(0, end)
        rig.volume.drop_clean(KEY)
        rig.cache.check()
        assert file.pread(len(content), 0) == content[:end]
        rig.volume.drop_clean(KEY)
    file.close()
    assert rig.backend.committed(KEY) == content


def test_without_a_spool_a_full_cache_says_so_and_loses_nothing(make: Make) -> None:
    """All is unstable, and nothing may be committed: ENOBUFS that names the option, not an endless wait. [T-61]"""
    rig = spooling(make, options={"spool": None})
    content = pattern(4 * CAPACITY)
    file = rig.open("x+b")
    caught: Any = raises(pagecache.PageCacheError, lambda: Task(file.pwrite, content, 0).result(), match="spool")
    assert caught.errno == errno.ENOBUFS
    taken = caught.characters_written
    assert 0 < taken < CAPACITY
    assert file.pread(len(content), 0) == content[:taken]
    assert rig.backend.seen("commit") == []
    rig.cache.check()
    assert rig.saved(file) == content[:taken]
    file.pwrite(content[taken : taken + PAGE], taken)  # there is room again


def test_a_full_cache_says_so_although_a_writer_gave_up_its_wait_for_a_page(make: Make) -> None:
    """Room is made of that page too: it was in flight, came back with a failed commit, and is dirty. [T-61]"""
    rig = make(limits={"commit_on_close": True}, options={"spool": None}, cow_limit=0, retry=ONCE, **SMALL)
    file, other = rig.open("x+b"), rig.open("x+b", "other")
    file.pwrite(bytes(PAGE), 0)
    with rig.backend.gate("write_from") as gate:
        _, sync = at_gate(gate, file.flush)
        with ctrl_c(gate.entered), pytest.raises(KeyboardInterrupt):
            file.pwrite(b"new", 100)
    sync.result()
    rig.fails("commit", failing_commit(BackendError(errno.EIO, "lost", retry=True)), OSError, file.fsync, match="lost")
    assert (
        raises(pagecache.PageCacheError, lambda: Task(other.pwrite, bytes(CAPACITY), 0).result()).errno == errno.ENOBUFS
    )


def test_all_of_a_file_staged_and_evicted_appears_whole(make: Make) -> None:
    """Memory has none of its bytes left when it is synced and closed. [T-70]"""
    content = pattern(40 * PAGE)
    rig, file = spooling(make, **TIGHT).opened("x+b")
    stage_all(rig, file, content)
    assert staged(file) == len(content)
    rig.volume.drop_clean(KEY)
    assert file.stats().to_dict()["cached"] == 0
    assert rig.volume.dirty_ranges(KEY) == [(0, len(content))]
    ticket = rig.volume.begin_sync()
    assert ticket.total >= len(content)
    ticket.wait(20)
    assert ticket.remaining == 0
    assert rig.backend.committed(KEY) == content
    assert staged(file) == 0
    file.pwrite(b"more", 7)
    file.flush()
    rig.volume.drop_clean(KEY)
    file.close()
    assert rig.backend.committed(KEY) == content[:7] + b"more" + content[11:]


@pytest.mark.parametrize("kept", [False, True])
def test_a_failed_commit_sends_spooled_bytes_again_without_memory(make: Make, kept: bool) -> None:
    """From the spool, and the cache stays empty; none if the backend kept everything. [T-18a, 1.1]"""
    content = pattern(40 * PAGE)
    rig, file = only_spooled(make, content)
    error = BackendError(errno.EIO, "not now", retry=True, kept=kept)
    rig.backend.fault("commit", failing_commit(error, forget=not kept))
    file.fsync()
    assert sent(rig) == (0 if kept else len(content))
    assert rig.backend.committed(KEY) == content
    assert not rig.backend.seen("read_into")
    assert file.stats().to_dict()["cached"] == 0


@pytest.mark.parametrize("unit", [1, 4 * PAGE, 12_000])
def test_a_unit_with_other_bytes_is_sent_again_with_them(make: Make, unit: int) -> None:
    """Staged bytes come from the spool, the others of their units from the stored object. [2.12, 2.23]"""
    base = pattern(64 * PAGE, 4)
    rig = spooling(make, {KEY: base}, {"write_unit": unit, "read_unit": 512, "max_write": 10 * unit}, **TIGHT)
    file, expected = rig.open("r+b"), bytearray(base)
    for k in range(10):
        data = pattern(PAGE + 100 * k, k)
        file.pwrite(data, 6 * k * PAGE + 50)
        expected[6 * k * PAGE + 50 : 6 * k * PAGE + 50 + len(data)] = data
        file.sync_range(0, len(base))
    rig.volume.drop_clean(KEY)
    rig.backend.forget_calls()
    rig.backend.fault("commit", failing_commit(OSError(errno.EIO, "not now")))
    assert rig.saved(file) == bytes(expected)
    assert file.pread(len(base), 0) == expected


def test_bytes_sent_again_before_an_error_are_not_sent_once_more(make: Make, monkeypatch: Patch) -> None:
    """[2.14, 2.23]"""
    monkeypatch.setattr(staging, "STEP", 4 * PAGE)
    content = pattern(40 * PAGE)
    rig, file = only_spooled(make, content, max_write=4 * PAGE)
    rig.backend.fault("commit", failing_commit(OSError(errno.EIO, "not now")))

    def breaking(stored_file: Any, offset: int, buffers: Any) -> int:
        if offset == 20 * PAGE:
            raise OSError(errno.ECONNRESET, "the connection broke")
        taken: int = stored_file.store(offset, buffers)
        return taken

    broken = rig.backend.fault("write_from", breaking, times=6)
    file.fsync()
    broken.clear()
    assert rig.backend.committed(KEY) == content
    assert [call.offset // PAGE for call in rig.backend.seen("write_from")] == [*range(0, 24, 4), *range(20, 40, 4)]


def after_a_failed_commit(make: Make, base: bytes, unit: int) -> tuple[Rig, Any]:
    """A file whose page 8 is in the spool; a commit has failed, and a call is answered behind the first unit, later."""
    backend = PublishingBackend(write_unit=unit, read_back=False)
    backend.put(KEY, base)
    rig = make(backend=backend, **{**SMALL, **TIGHT, "retry": ONCE, "flush_interval": 3600.0})
    file = rig.open("r+b")
    file.pwrite(b"8" * PAGE, 8 * PAGE)
    file.sync_range(0, len(base))
    assert staged(file) == PAGE
    rig.cache.configure(**CALM)
    rig.backend.fault("commit", failing_commit(OSError(errno.EIO, "not now")))
    raises(CommitError, file.fsync)
    eventually(file._inode.pass_idle)
    return rig, file


def write_parts(file: Any) -> bytes:
    """Write the first three units, but for a page of each: nothing sends them before a sync. Return the content."""
    for unit in range(3):
        file.pwrite(b"n" * 3 * PAGE, (4 * unit + 1) * PAGE)
    return (bytes(PAGE) + b"n" * 3 * PAGE) * 2 + b"8" * PAGE + b"n" * 3 * PAGE + bytes(4 * PAGE)


def test_bytes_of_a_call_that_the_store_has_taken_in_pieces_are_not_sent_again(make: Make) -> None:
    """A commit had failed before. [2.14, 2.23]"""
    rig, file = after_a_failed_commit(make, bytes(16 * PAGE), 4 * PAGE)
    expected = write_parts(file)
    rig.backend.fault("write_from", short(4 * PAGE))
    file.sync_range(0, 16 * PAGE)
    assert staged(file) == 10 * PAGE
    rig.backend.forget_calls()
    file.fsync()
    assert sent(rig) == 0
    assert rig.backend.committed(KEY) == expected


@pytest.mark.parametrize("again", [False, True], ids=["sent", "sent again"])
def test_a_unit_that_is_in_the_spool_in_part_is_saved_with_what_was_sent_of_it_before(make: Make, again: bool) -> None:
    """The store shows it only after a commit: an older page was sent over it. [2.12, 2.14, 2.23]"""
    rig, file = after_a_failed_commit(make, bytes(16 * PAGE), 4 * PAGE)
    file.pwrite(b"0" * PAGE, 0)
    file.sync_range(0, PAGE)
    assert (staged(file), file.stats().unstable) == (PAGE, PAGE)
    eventually(file._inode.pass_idle)
    expected = write_parts(file)
    rig.backend.fault("write_from", short(4 * PAGE))
    file.sync_range(0, 16 * PAGE)
    assert (staged(file), file.stats().unstable) == (10 * PAGE, PAGE)
    if again:
        file._inode.staging._unsent.add(0, 4 * PAGE)
    file.fsync()
    assert rig.backend.committed(KEY) == b"0" * PAGE + expected[PAGE:]


@pytest.mark.parametrize("late", [False, True])
def test_a_read_from_before_a_commit_reads_the_object(make: Make, monkeypatch: Patch, late: bool) -> None:
    """It finds no spool, or the one of later bytes, in which its bytes are a hole. [2.23, K12]"""
    content = pattern(40 * PAGE)
    rig, file = only_spooled(make, content)
    gate, reading = at_gate(held(monkeypatch, staging.Staging, "read"), file.pread, PAGE, 8 * PAGE)
    file.fsync()
    if late:
        rig.cache.configure(**TIGHT)
        file.pwrite(b"later" * PAGE, 20 * PAGE)
        file.sync_range(0, len(content))
        assert file._inode.staging._spool is not None
    assert reading.result(opening=gate) == content[8 * PAGE : 9 * PAGE]


@pytest.mark.parametrize(("error", "code"), [(errno.ENOSPC, errno.ENOSPC), (errno.ESTALE, errno.EIO)])
def test_a_disk_that_fails_fails_the_write_back_and_loses_nothing(
    make: Make, faulty: type[FaultySpool], error: int, code: int
) -> None:
    """The error names the directory and is no conflict; the bytes are spooled later. [2.16, 2.19, 2.23]"""
    content = pattern(16 * PAGE)
    rig, file = spooling(make, retry=ONCE, **TIGHT).opened("x+b")
    faulty.write_error = OSError(error, "made up")
    file.pwrite(content[:PAGE], 0)
    caught = raises(WritebackError, file.fsync, match="spool in")
    assert caught.errno == code
    assert tempfile.gettempdir() in str(caught)
    assert file.pread(PAGE, 0) == content[:PAGE]
    assert not rig.backend.seen("commit")
    faulty.write_error = None
    file.fsync()
    stage_all(rig, file, content)
    rig.volume.drop_clean(KEY)
    assert file.pread(len(content), 0) == content
    assert rig.saved(file) == content


@pytest.mark.parametrize("forgets", [False, True])
def test_an_unreadable_spool_fails_the_calls_that_need_it(make: Make, faulty: type[FaultySpool], forgets: bool) -> None:
    """The backend has the bytes: a commit reads the spool only if it has to send them again. [2.16, 2.23]"""
    content = pattern(16 * PAGE)
    rig, file = only_spooled(make, content)
    faulty.read_error = OSError(errno.EIO, "Input/output error")
    assert raises(OSError, file.pread, PAGE, 0, match="spool in").errno == errno.EIO
    if forgets:
        rig.fails("commit", failing_commit(OSError(errno.EIO, "not now")), CommitError, file.fsync, match="spool in")
        faulty.read_error = None
    assert rig.saved(file) == content == file.pread(len(content), 0)


def test_a_killed_process_leaves_nothing_in_the_spool_directory(tmp_path: Path) -> None:
    """[2.23]"""
    program = f"""
import os, signal
from pagecache import PageCache
from tests.stores import PublishingBackend
spool = {str(tmp_path / "spool")!r}
os.mkdir(spool)
cache = PageCache("256KiB", dirty_background=0.0, dirty_limit=0.1)
volume = cache.attach(PublishingBackend(), spool=spool)
file = volume.open("key", "x")
file.write(bytes(1 << 20))
assert file.stats().to_dict()["staged"]
assert any(os.readlink("/proc/self/fd/" + fd).startswith(spool) for fd in os.listdir("/proc/self/fd")
           if os.path.islink("/proc/self/fd/" + fd))
os.kill(os.getpid(), signal.SIGKILL)
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == -9, ended.stderr
    assert os.listdir(tmp_path / "spool") == []


def test_what_a_truncate_removes_takes_no_space(make: Make) -> None:
    rig, file = only_spooled(make, pattern(64 * PAGE))
    spool = file._inode.staging._spool
    file.punch_hole(8 * PAGE, 20 * PAGE)
    file.truncate(40 * PAGE)
    assert os.fstat(spool.fd).st_blocks * 512 <= 21 * PAGE
    file.truncate(0)
    assert file._inode.staging._spool is None
    assert rig.saved(file) == b""


@pytest.mark.parametrize("unit", [1, 4 * PAGE])
def test_a_unit_that_is_cut_is_sent_again(make: Make, unit: int) -> None:
    """A store of parts cannot cut one: it gets the rest of the unit again, and nothing else. [2.17, 2.23]"""
    content = pattern(40 * PAGE)
    rig, file = only_spooled(make, content, write_unit=unit)
    file.punch_hole(9 * PAGE, 6 * PAGE)
    file.truncate(38 * PAGE + 100)
    expected = overlay(content, 9 * PAGE, bytes(6 * PAGE))[: 38 * PAGE + 100]
    assert rig.saved(file) == expected
    starts = [call.offset // PAGE for call in rig.backend.seen("write_from")]
    assert starts == ([] if unit == 1 else [8, 12, 36])


@pytest.mark.parametrize("new", [False, True], ids=["an old object", "a new object"])
def test_discarding_a_part_keeps_the_rest_in_the_spool(make: Make, new: bool) -> None:
    """The backend forgets all of it; the rest is sent again, however much. [2.19]"""
    base, content = bytes(3 * CAPACITY) if new else pattern(3 * CAPACITY, 4), pattern(3 * CAPACITY)
    rig, file = spooling(make, {} if new else {KEY: base}).opened("x+b" if new else "r+b")
    stage_all(rig, file, content)
    lost = rig.volume.discard(KEY, 10 * PAGE, 5 * PAGE)
    assert [(entry.offset, entry.length) for entry in lost] == [(10 * PAGE, 5 * PAGE)]
    assert len(rig.backend.seen("rollback")) == 1
    rig.cache.check()
    expected = content[: 10 * PAGE] + base[10 * PAGE : 15 * PAGE] + content[15 * PAGE :]
    assert file.pread(len(base), 0) == expected
    raises(DataLossError, file.fsync)
    assert rig.saved(file) == expected


def test_a_discard_tells_all_ranges_that_are_in_the_spool_alone(make: Make) -> None:
    """Memory has none of them. [2.18, 2.23]"""
    rig, file = spooling(make, {KEY: bytes(200 * PAGE)}, **TIGHT).opened("r+b")
    for page in range(0, 200, 2):
        file.pwrite(b"lost" * (PAGE // 4), page * PAGE)
        file.sync_range(0, 200 * PAGE)
    rig.volume.drop_clean(KEY)
    assert staged(file) == 100 * PAGE
    lost = rig.volume.discard(KEY)
    assert [(entry.offset, entry.length) for entry in lost] == [(page * PAGE, PAGE) for page in range(0, 200, 2)]
    assert file.pread(200 * PAGE, 0) == bytes(200 * PAGE)
    raises(DataLossError, file.fsync)


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("unit", [1, 4 * PAGE])
def test_a_reconnect_loses_no_spooled_byte(make: Make, same: bool, unit: int) -> None:
    """The new backend gets all of it, or the old one again. [2.22]"""
    base, content = pattern(CAPACITY, 2), pattern(70 * PAGE)
    rig, file = only_spooled(make, content, base, write_unit=unit)
    rig.volume.abort()
    raises(ShutdownError, file.fsync)
    rig.backend.forget_uncommitted(rig.backend.objects[KEY])
    backend = rig.backend if same else RecordingBackend({KEY: base}, staged=True, write_unit=unit)
    rig.volume.reconnect(rig.volume.backend if same else backend)
    rig.cache.check()
    assert file.pread(len(content), 0) == content
    file.fsync()
    assert backend.committed(KEY) == content
    assert backend.violations == []


def test_an_abort_at_the_end_of_a_commit_loses_no_spooled_byte(make: Make, monkeypatch: Patch) -> None:
    """The commit has succeeded, and its end does not count: the abort comes between the two. [2.22, K1]"""
    content = pattern(30 * PAGE)
    rig, file = only_spooled(make, content)
    beside(monkeypatch, Versions, "commit", rig.volume.abort, after=True)
    raises(ShutdownError, file.fsync)
    assert rig.backend.committed(KEY) == content
    rig.volume.reconnect(rig.volume.backend)
    assert Task(file.pread, len(content), 0).result(10.0) == content
    file.pwrite(b"more", 0)
    assert rig.saved(file) == b"more" + content[4:]


def test_a_cut_that_a_commit_has_repeated_is_not_repeated_after_it(make: Make) -> None:
    """If all bytes are spooled, the commit makes the calls that a reconnect owes. The next one owes none. [2.22]"""
    content = pattern(30 * PAGE)
    rig, file = spooling(make, **TIGHT).opened("x+b")
    stage_all(rig, file, content)
    rig.volume.drop_clean(KEY)
    assert staged(file) == len(content)
    for _ in range(2):
        rig.volume.abort()
        rig.backend.forget_uncommitted(rig.backend.objects[KEY])
        rig.volume.reconnect(rig.volume.backend)
        assert rig.saved(file) == content


@pytest.mark.parametrize("landed", [True, False])
def test_a_write_that_was_left_behind_does_not_reach_the_spool_after_a_later_one(
    make: Make, monkeypatch: Patch, landed: bool
) -> None:
    """It is older than what the next backend got: it was written before the reconnect, or not at all. [2.22, K7]"""
    rig = spooling(make, {KEY: bytes(8 * PAGE)}, **CALM)
    file, put = rig.open("r+b"), staging.Staging.put
    name = "after_put" if landed else "before_put"
    gate = rig.backend.gate(name)

    def slow(self: staging.Staging, epoch: int, offset: int, buffers: Sequence[memoryview]) -> None:
        if landed:
            put(self, epoch, offset, buffers)
        with rig.backend.call(name, KEY):
            pass
        if not landed:
            put(self, epoch, offset, buffers)

    monkeypatch.setattr(staging.Staging, "put", slow)
    file.pwrite(b"older" * PAGE, 0)
    rig.cache.configure(**TIGHT)
    _, saving = at_gate(gate, file.fsync)
    rig.volume.abort()
    raises(ShutdownError, saving.result)
    rig.volume.reconnect(rig.volume.backend, fenced=True)
    monkeypatch.setattr(staging.Staging, "put", put)
    file.pwrite(b"newer" * PAGE, 0)
    file.sync_range(0, 8 * PAGE)
    rig.volume.drop_clean(KEY)
    gate.open()
    eventually(lambda: rig.backend.nr_running == 0)
    assert file.pread(5 * PAGE, 0) == b"newer" * PAGE
    assert rig.saved(file) == b"newer" * PAGE + bytes(3 * PAGE)


@pytest.mark.parametrize("unit", [1, 4 * PAGE])
@pytest.mark.parametrize("how", ["rebase", "force", "discard"])
def test_spooled_bytes_over_a_version_that_changed(make: Make, unit: int, how: Any) -> None:
    """Rebased local bytes stay, and the rest of their units comes from the new version. [2.19, T-73]"""
    base, content = pattern(30 * PAGE, 4), pattern(18 * PAGE + 77)
    rig, file = spooling(make, {KEY: base}, {"write_unit": unit}, **{**TIGHT, "dirty_limit": 8 / 64}).opened("r+b")
    stage_all(rig, file, content)
    rig.cache.configure(**CALM)  # an open beside a pass would not compare
    rig.volume.drop_clean(KEY)
    if how == "force":  # it needs every byte
        assert file.pread(12 * PAGE, 18 * PAGE) == (content + base[len(content) :])[18 * PAGE :]
    eventually(lambda: rig.volume.inodes[KEY].versions.quiet() is not None)
    newer = pattern(25 * PAGE, 6)
    with rig.backend.lock:
        stored = rig.backend.objects[KEY]
        stored.committed, stored.safe = newer, bytearray(newer)
        stored.version = 7
    raises(ConflictError, rig.volume.open, KEY)
    rig.volume.resolve(KEY, how)
    expected = {"rebase": content + newer[len(content) :], "force": content + base[len(content) :], "discard": newer}
    assert rig.content() == expected[how]
    assert rig.backend.seen("rollback")
    if how == "discard":
        raises(DataLossError, file.fsync)
    assert rig.saved(file) == expected[how]


@pytest.mark.parametrize("limits", [{}, {"read_unit": 512}, {"read_unit": 3000, "max_read": 60_000}], ids=str)
@pytest.mark.parametrize("begin", [0, 7 * PAGE + 100])
def test_a_full_cache_reads_staged_bytes_past_itself(make: Make, limits: dict[str, Any], begin: int) -> None:
    """So it reads stored and dirty ones; a read unit staged in part comes from both places. [0.1, 2.23]"""
    base, content = pattern(3 * CAPACITY, 5), pattern(CAPACITY)
    rig, file = spooling(make, {KEY: base, "pins": base}, limits, max_folio=PAGE).written(content, begin)
    file.flush()
    eventually(lambda: rig.cache.stats().dirty < PAGE and rig.cache.stats().writeback == 0)
    rig.volume.drop_clean(KEY)
    pins = rig.open("rb", "pins")
    views = []
    with pytest.raises(OSError):
        for k in range(200):
            views.append(pins.view(k * PAGE, PAGE))
    expected = base[:begin] + content + base[begin + len(content) :]
    assert file.pread(2 * CAPACITY, 10) == expected[10 : 10 + 2 * CAPACITY]
    for view in views:
        view.release()


UNIT = 2 * PAGE
CONTENT = pattern(60 * PAGE)
BASE = pattern(70 * PAGE, 5)
NO_ANSWER = BackendError(errno.EIO, "the commit failed, as the test wants", retry=True)


def small(make: Make, *, once: bool = True, **options: Any) -> Rig:
    """A small cache over a store of whole objects; no staged byte stays in memory."""
    backend = PublishingBackend(**{"write_unit": UNIT, **options})
    return make(backend=backend, **SMALL | TIGHT | {"max_folio": PAGE} | ({"retry": ONCE} if once else {}))


@pytest.fixture(params=[{}, {"read_back": False}, {"write_unit": 1}], ids=repr)
def rig(make: Make, request: pytest.FixtureRequest) -> Rig:
    return small(make, **request.param)


def lose_an_answer(rig: Rig, file: CachedFile, *, done: bool = True) -> None:
    """Carry one commit out, or let the store forget its bytes, and report a failure to the cache."""
    lost: Action = NO_ANSWER if done else failing_commit(NO_ANSWER)
    rig.fails("commit answer" if done else "commit", lost, CommitError, file.fsync)
    rig.volume.drop_clean(KEY)


@pytest.mark.parametrize("retries", [False, True], ids=["the next call", "the same call"])
@pytest.mark.parametrize("changed", [b"", b"x"], ids=["no more", "a small write"])
@pytest.mark.parametrize("how", ["fsync", "close"])
def test_a_commit_with_a_lost_answer_is_made_again(make: Make, how: str, changed: bytes, retries: bool) -> None:
    """The unit of a small write is completed from the spool. [T-69, 2.12, 2.14, 2.15, 2.20]"""
    rig = small(make, once=not retries)
    file = all_staged(rig, CONTENT, "x+b")
    if retries:
        rig.backend.fault("commit answer", NO_ANSWER)
    else:
        lose_an_answer(rig, file)
        rig.volume.open(KEY).close()  # the version is no foreign one
    file.pwrite(changed, 30 * PAGE + 5)
    getattr(file, how)()
    assert rig.backend.committed(KEY) == overlay(CONTENT, 30 * PAGE + 5, changed)
    with rig.volume.open(KEY) as again:
        assert staged(again) == again.stats().dirty == 0
        assert again.pread(len(CONTENT), 0) == rig.backend.committed(KEY)


def test_writers_that_wait_for_room_get_it_after_a_lost_answer(rig: Rig) -> None:
    """[T-61, 2.24]"""
    file = all_staged(rig, CONTENT, "x+b")
    lose_an_answer(rig, file)
    more = pattern(3 * CAPACITY, 8)
    assert Task(file.pwrite, more, 100).result(60) == len(more)
    assert rig.backend.committed(KEY) == CONTENT
    assert rig.saved(file) == CONTENT[:100] + more


def test_a_second_lost_answer_loses_nothing(rig: Rig) -> None:
    """The bytes stay readable, fsyncs raise, and the last commit gets an answer. [T-69]"""
    file = all_staged(rig, CONTENT, "x+b")
    lose_an_answer(rig, file)
    file.pwrite(b"x", 30 * PAGE + 5)
    rig.backend.fault("commit answer", NO_ANSWER, times=math.inf)
    raises(OSError, file.fsync, match="as the test wants")
    assert staged(file) > 0
    rig.backend.clear_faults()
    assert file.pread(10, 20 * PAGE) == CONTENT[20 * PAGE : 20 * PAGE + 10]
    assert rig.saved(file) == overlay(CONTENT, 30 * PAGE + 5, b"x") == file.pread(len(CONTENT), 0)


def test_a_truncate_and_a_hole_come_after_a_lost_answer(rig: Rig) -> None:
    """[2.17]"""
    file = all_staged(rig, CONTENT, "x+b")
    lose_an_answer(rig, file)
    file.punch_hole(4 * PAGE, 2 * PAGE)
    file.truncate(50 * PAGE + 3)
    expected = overlay(CONTENT, 4 * PAGE, bytes(2 * PAGE))[: 50 * PAGE + 3]
    assert file.pread(len(CONTENT), 0) == expected
    assert rig.backend.committed(KEY) == CONTENT
    assert rig.saved(file) == expected


def test_changes_taken_by_a_commit_without_an_answer_are_there_after_a_reconnect(rig: Rig) -> None:
    """A truncate to nothing came before the staged bytes, which are sent again over it. [T-75b, 2.17, 2.22]"""
    rig.backend.objects[KEY] = StoredObject(BASE)
    file = all_staged(rig, CONTENT, "w+b")
    lose_an_answer(rig, file)
    assert file.pread(10, 20 * PAGE) == CONTENT[20 * PAGE : 20 * PAGE + 10]
    rig.volume.drop_clean(KEY)
    rig.volume.abort()
    rig.volume.reconnect(PublishingBackend(cast(PublishingBackend, rig.backend), write_unit=UNIT))
    assert file.pread(len(CONTENT), 0) == CONTENT
    assert rig.saved(file) == CONTENT


@pytest.mark.parametrize("done", [True, False])
def test_another_version_after_a_lost_answer_is_a_conflict_that_loses_nothing(rig: Rig, done: bool) -> None:
    """All of ours can be read, and laid over the other one. [T-30, 2.19]"""
    rig.backend.objects[KEY] = StoredObject(BASE)
    file = all_staged(rig, CONTENT)
    lose_an_answer(rig, file, done=done)
    newer = pattern(70 * PAGE, 9)
    cast(PublishingBackend, rig.backend).put(KEY, newer)
    file.pwrite(b"x", 30 * PAGE + 5)
    expected = overlay(CONTENT, 30 * PAGE + 5, b"x")
    raises(ConflictError, file.fsync)
    assert rig.backend.committed(KEY) == newer
    assert file.pread(len(expected), 0)[: len(expected)] == expected
    rig.volume.resolve(KEY, "rebase")
    assert rig.saved(file) == expected + newer[60 * PAGE :]


def test_a_retry_does_not_publish_what_is_written_beside_its_sending(make: Make) -> None:
    """The write lies in a unit of which a part is in the spool. [2.14, 2.22]"""
    rig, file = after_a_failed_commit(make, bytes(16 * PAGE), 4 * PAGE)
    inode = file._inode
    gate = rig.backend.gate("read_into")  # of the other pages of the unit
    overdue.resume(inode)
    gate.wait_entered()
    file.pwrite(b"h" * PAGE, 9 * PAGE)  # the first half of a change
    gate.open()
    inode.run(TOKEN, "holding", bool)  # after the retry
    assert rig.backend.committed(KEY) == bytes(16 * PAGE)
    file.pwrite(b"h" * PAGE, 10 * PAGE)
    file.fsync()
    assert rig.backend.committed(KEY) == overlay(bytes(16 * PAGE), 8 * PAGE, b"8" * PAGE + b"h" * 2 * PAGE)
