"""Bytes that the backend keeps until a commit: more than the cache holds, written, read, rewritten, committed, lost."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import pytest

from pagecache import (
    BackendError,
    CommitError,
    ConflictError,
    DataLossError,
    PageCacheError,
    ShutdownError,
    WritebackError,
)

from .answers import failing_commit, short
from .keeping import KeepingBackend
from .rig import KEY, ONCE, PAGE, Rig, Task, accepted_before, dirty_bytes, eventually, pattern, quiet
from .test_interrupts import ctrl_c

Make = Callable[..., Rig]

CAPACITY = 64 * PAGE
SMALL = {
    "capacity": CAPACITY,
    "dirty_background": 0.1,
    "dirty_limit": 0.5,
    "max_folio": 4 * PAGE,
    "flush_interval": 0.02,
}


def keeping(
    make: Make, objects: dict[Any, bytes] | None = None, limits: dict[str, Any] | None = None, **more: Any
) -> Rig:
    return make(backend=KeepingBackend(objects, **(limits or {})), **{**SMALL, **more})


def backend_of(rig: Rig) -> KeepingBackend:
    assert isinstance(rig.backend, KeepingBackend)
    return rig.backend


def write_all(rig: Rig, file: Any, content: bytes, step: int = 8 * PAGE) -> None:
    for offset in range(0, len(content), step):
        assert file.pwrite(content[offset : offset + step], offset) == len(content[offset : offset + step])
        rig.cache.check()


def stage_all(rig: Rig, file: Any, content: bytes) -> None:
    """Write, and wait until all of it is staged or unstable, except the rest of a unit that was sent in part."""
    write_all(rig, file, content)
    file.flush()
    unit = max(PAGE, int(rig.backend.limits.write_unit))
    eventually(lambda: rig.cache.stats().dirty < unit and rig.cache.stats().writeback == 0)


def staged(file: Any) -> int:
    return int(file.stats().to_dict()["staged"])


@pytest.mark.parametrize(
    "limits", [{}, {"write_unit": 2 * PAGE, "read_unit": 512}, {"max_vectors": 2, "max_inflight": 1}]
)
def test_four_times_the_capacity_is_written_read_rewritten_and_committed(make: Make, limits: dict[str, Any]) -> None:
    """Four times the cache, written in order; then read back, parts written anew, and closed. [T-61, 2.23]"""
    content = bytearray(pattern(4 * CAPACITY + 777))
    rig = keeping(make, limits=limits)
    file = rig.open("x+b")
    write_all(rig, file, bytes(content))
    assert rig.backend.committed(KEY) is None  # never without a request of the application
    for offset in range(0, len(content), 8 * PAGE):
        assert file.pread(8 * PAGE, offset) == content[offset : offset + 8 * PAGE]
        rig.cache.check()
    for k, offset in enumerate(range(100, len(content), 5 * PAGE + 33)):
        data = pattern(50 + 700 * (k % 4), k)[: len(content) - offset]
        file.pwrite(data, offset)
        content[offset : offset + len(data)] = data
        rig.cache.check()
    assert dirty_bytes(rig.volume) == rig.volume.stat(KEY).dirty == len(content)
    for offset in range(0, len(content), 3 * PAGE):
        assert file.pread(3 * PAGE, offset) == content[offset : offset + 3 * PAGE]
    file.close()
    assert rig.backend.committed(KEY) == bytes(content)
    assert rig.backend.seen("stage")
    with rig.volume.open(KEY) as again:
        assert again.pread(len(content), 0) == content
    assert dirty_bytes(rig.volume) == 0


def test_a_short_last_unit_that_is_staged_grows(make: Make) -> None:
    """The file grows behind a last unit that was staged short and has left memory: it is read back. [2.12]"""
    content = pattern(20 * PAGE)
    rig = keeping(make, limits={"write_unit": 4 * PAGE}, dirty_background=0.0, dirty_limit=1 / 64)
    file = rig.open("x+b")
    sizes = [PAGE + 100, 6 * PAGE + 1, 6 * PAGE + 2, 9 * PAGE, len(content)]
    for start, end in zip([0, *sizes], sizes, strict=False):
        file.pwrite(content[start:end], start)
        rig.volume.begin_sync().wait(20) if end == 9 * PAGE else file.sync_range(0, end)
        rig.volume.drop_clean(KEY)
        rig.cache.check()
        assert file.pread(len(content), 0) == content[:end]
        rig.volume.drop_clean(KEY)
    assert rig.backend.seen("read_staged")
    file.close()
    assert rig.backend.committed(KEY) == content


def test_an_abandoned_object_leaves_nothing_behind(make: Make) -> None:
    """The staged bytes of an abandoned object are rolled back, and nothing becomes visible. [T-61, 2.20]"""
    rig = keeping(make, {KEY: b"as it was"})
    file = rig.open("w+b")
    write_all(rig, file, pattern(2 * CAPACITY))
    file.abandon()
    eventually(lambda: rig.backend.seen("rollback"))
    assert rig.backend.committed(KEY) == b"as it was"
    assert backend_of(rig).staged(KEY) == 0
    eventually(lambda: rig.cache.stats().to_dict()["staged"] == 0)
    with rig.volume.open(KEY) as again:
        assert again.read() == b"as it was"


def test_without_stage_a_full_cache_says_so_and_loses_nothing(make: Make) -> None:
    """All is unstable, nothing may be committed, the backend cannot keep it: ENOBUFS, not an endless wait. [T-61]"""
    rig = make(limits={"commit_on_close": True}, **SMALL)
    content = pattern(4 * CAPACITY)
    file = rig.open("x+b")
    with pytest.raises(PageCacheError) as caught:
        Task(file.pwrite, content, 0).result()
    assert caught.value.errno == errno.ENOBUFS
    assert "cannot keep it" in str(caught.value)
    taken = accepted_before(caught.value)
    assert 0 < taken < CAPACITY
    assert file.pread(len(content), 0) == content[:taken]
    rig.cache.check()
    file.fsync()
    assert rig.backend.committed(KEY) == content[:taken]
    file.pwrite(content[taken : taken + PAGE], taken)  # there is room again


def test_a_full_cache_says_so_although_a_writer_gave_up_its_wait_for_a_page(make: Make) -> None:
    """Room is made of that page too: it was in flight, came back with a failed commit, and is dirty. [T-61]"""
    rig = make(limits={"commit_on_close": True}, cow_limit=0, retry=ONCE, **SMALL)
    file, other = rig.open("x+b"), rig.open("x+b", "other")
    file.pwrite(bytes(PAGE), 0)
    with rig.backend.gate("write_from") as gate:
        sync = Task(file.flush)
        gate.wait_entered()
        with ctrl_c(gate.entered), pytest.raises(KeyboardInterrupt):
            file.pwrite(b"new", 100)
    sync.result()
    rig.backend.fault("commit", failing_commit(BackendError(errno.EIO, "lost", retry=True)))
    with pytest.raises(OSError, match="lost"):
        file.fsync()
    with pytest.raises(PageCacheError) as caught:
        Task(other.pwrite, bytes(CAPACITY), 0).result()
    assert caught.value.errno == errno.ENOBUFS


def test_all_of_a_file_staged_and_evicted_appears_whole(make: Make) -> None:
    """Memory has none of its bytes left when it is synced and closed. [T-70]"""
    content = pattern(40 * PAGE)
    rig = keeping(make, dirty_background=0.0, dirty_limit=1 / 64)
    file = rig.open("x+b")
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


def test_a_failed_commit_sends_again_only_what_is_not_staged(make: Make) -> None:
    """The commit forgets as much as it may; staged bytes stay, and are not sent again. [T-18a, 1.1]"""
    content = pattern(2 * CAPACITY)
    rig = keeping(make)
    file = rig.open("x+b")
    stage_all(rig, file, content[: 4 * PAGE])  # memory is not short yet
    stage_all(rig, file, content)
    unstable, kept = rig.cache.stats().unstable, backend_of(rig).staged(KEY)
    assert unstable >= 4 * PAGE
    assert kept >= CAPACITY
    rig.backend.forget_calls()
    rig.backend.fault("commit", failing_commit(OSError(errno.EIO, "not now")))
    file.fsync()
    assert rig.backend.committed(KEY) == content
    again = rig.backend.seen("stage") + rig.backend.seen("write_from")
    assert 0 < sum(call.length for call in again) <= unstable


def test_staged_bytes_are_read_while_a_commit_runs_and_takes_them(make: Make) -> None:
    """The backend has committed and no longer has staged bytes, and the cache has not noticed yet: the read waits and
    then asks for the object. [2.23]
    """
    content = pattern(CAPACITY)
    rig = keeping(make)
    file = rig.open("x+b")
    stage_all(rig, file, content)
    rig.volume.drop_clean(KEY)
    gate = rig.backend.gate("after_commit")

    def slow_commit(stored_file: Any) -> str:
        version: str = stored_file.make_durable()
        with rig.backend.call("after_commit", KEY):
            return version

    rig.backend.fault("commit", slow_commit)
    syncing = Task(file.fsync)
    gate.wait_entered()
    reading = Task(file.pread, len(content), 0)
    eventually(lambda: rig.backend.seen("read_staged"))
    assert reading.waits()
    gate.open()
    assert reading.result() == content
    syncing.result()


def test_a_commit_whose_answer_was_lost_is_no_loss(make: Make) -> None:
    """The commit took the staged bytes and then failed: until one succeeds their place is unknown. [T-69]"""
    content = pattern(CAPACITY)
    rig = keeping(make)
    file = rig.open("x+b")
    stage_all(rig, file, content)
    rig.volume.drop_clean(KEY)

    def unheard(stored_file: Any) -> str:
        stored_file.make_durable()
        raise OSError(errno.EIO, "the connection broke")

    fault = rig.backend.fault("commit", unheard, times=100)
    with pytest.raises(WritebackError, match="the connection broke"):
        file.fsync()
    with pytest.raises(OSError, match="not known"):
        file.pread(len(content), 0)
    fault.clear()
    file.fsync()
    assert file.pread(len(content), 0) == content
    assert rig.backend.committed(KEY) == content


def test_a_lost_staging_is_reported_once_and_spares_the_bytes_in_memory(make: Make) -> None:
    """Reads of lost bytes raise, each handle reports the loss once, and bytes in memory are sent again. [2.16, 2.23]"""
    base, content = pattern(20 * PAGE, 9), pattern(20 * PAGE)
    rig = keeping(make, {KEY: base}, dirty_background=0.0, dirty_limit=1 / 64)
    file, other = rig.open("r+b"), rig.open("rb")
    stage_all(rig, file, content)
    rig.volume.drop_clean(KEY)
    assert file.pread(PAGE, 4 * PAGE) == content[4 * PAGE : 5 * PAGE]
    backend_of(rig).lose_staging(KEY)
    with pytest.raises(PageCacheError) as caught:
        file.pread(PAGE, 8 * PAGE)
    assert caught.value.errno == errno.EIO
    rig.cache.check()
    assert file.pread(PAGE, 8 * PAGE) == base[8 * PAGE : 9 * PAGE]
    for handle in (file, other):
        with pytest.raises(DataLossError) as caught:
            handle.fsync()
        assert [(lost.offset, lost.length) for lost in caught.value.ranges] == [(0, 4 * PAGE), (5 * PAGE, 15 * PAGE)]
        handle.fsync()
    rig.open("rb").fsync()  # opened after the loss was reported
    assert rig.backend.committed(KEY) == base[: 4 * PAGE] + content[4 * PAGE : 5 * PAGE] + base[5 * PAGE :]


@pytest.mark.parametrize(
    ("limits", "dirty_limit", "probes"),
    [({}, 1, {2}), ({"max_read": 5 * PAGE}, 1, {4}), ({"write_unit": 2 * PAGE}, 4, {5, 6, 7})],  # some may be local
)
def test_a_staging_that_is_gone_in_part_is_found_by_the_commit(
    make: Make, limits: dict[str, Any], dirty_limit: int, probes: set[int]
) -> None:
    """Its first byte is there, and it still cannot be published: a loss, and not a lasting error. [2.23]"""
    base, content = pattern(20 * PAGE, 9), pattern(20 * PAGE)
    rig = keeping(make, {KEY: base}, limits, dirty_background=0.0, dirty_limit=dirty_limit / 64)
    file = rig.open("r+b")
    stage_all(rig, file, content)
    rig.volume.drop_clean(KEY)
    before = staged(file)
    backend_of(rig).lose_part(KEY, 12 * PAGE + (50 if not limits else 0), PAGE)
    rig.backend.fault("commit", FileNotFoundError(errno.ENOENT, "an upload is gone"))
    with pytest.raises(DataLossError) as caught:
        file.fsync()
    # A dirty part of a unit takes its staged neighbours along, which are in memory then.
    gone = sum(lost.length for lost in caught.value.ranges)
    assert 14 * PAGE < before - limits.get("write_unit", 0) <= gone <= before
    assert len(rig.backend.seen("read_staged")) in probes
    file.fsync()
    expected = bytearray(content)
    for lost in caught.value.ranges:
        expected[lost.offset : lost.offset + lost.length] = base[lost.offset : lost.offset + lost.length]
    assert rig.backend.committed(KEY) == bytes(expected)
    assert file.pread(20 * PAGE, 0) == expected


def test_a_commit_that_misses_something_else_loses_nothing_that_is_staged(make: Make) -> None:
    """ENOENT, and all of it is readable: the commit fails, and the next one takes it. [K1, 2.23]"""
    content = pattern(20 * PAGE)
    rig = keeping(make, {KEY: b""}, dirty_background=0.0, dirty_limit=1 / 64)
    file = rig.open("r+b")
    stage_all(rig, file, content)
    rig.volume.drop_clean(KEY)
    rig.backend.fault("commit", FileNotFoundError(errno.ENOENT, "no such bucket"))
    with pytest.raises(CommitError, match="no such bucket"):
        file.fsync()
    file.fsync()
    assert rig.backend.committed(KEY) == content


def test_a_lost_tail_takes_the_size_with_it(make: Make) -> None:
    rig = keeping(make, {KEY: pattern(PAGE)}, dirty_background=0.0, dirty_limit=1 / 64)
    file = rig.open("r+b")
    stage_all(rig, file, pattern(20 * PAGE, 3))
    rig.volume.drop_clean(KEY)
    backend_of(rig).lose_staging(KEY)
    with pytest.raises(PageCacheError):
        file.pread(PAGE, 8 * PAGE)
    assert file.size == PAGE
    with pytest.raises(DataLossError):
        file.close()
    assert rig.backend.committed(KEY) == pattern(PAGE)


def test_a_staging_that_is_gone_when_more_is_staged_begins_anew(make: Make) -> None:
    content = pattern(20 * PAGE)
    rig = keeping(make, dirty_background=0.0, dirty_limit=4 / 64)
    file = rig.open("x+b")
    stage_all(rig, file, content[: 16 * PAGE])
    rig.backend.fault("stage", FileNotFoundError(errno.ENOENT, "the private object is gone"))
    backend_of(rig).lose_staging(KEY)
    file.pwrite(content[16 * PAGE :], 16 * PAGE)  # nothing was evicted: all of it is sent again
    file.fsync()
    assert rig.backend.committed(KEY) == content


@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "passing"), BackendError(errno.ENOENT, "passing", retry=True)], ids=["EIO", "retry"]
)
def test_a_passing_error_of_read_staged_is_tried_again(make: Make, error: OSError) -> None:
    content = pattern(CAPACITY)
    rig = keeping(make)
    file = rig.open("x+b")
    stage_all(rig, file, content)
    rig.volume.drop_clean(KEY)
    rig.backend.fault("read_staged", error, times=2)
    rig.backend.fault("read_staged", lambda wanted: max(1, wanted // 3), times=3)
    assert file.pread(len(content), 0) == content


def test_short_answers_and_failures_of_stage(make: Make) -> None:
    """They equal those of `write_from`: the rest is sent again, an error is retried, a permanent one parks. [2.26]"""
    content = pattern(20 * PAGE)
    rig = keeping(make, dirty_background=0.9, dirty_limit=1.0, max_folio=PAGE)
    rig.cache.configure(dirty_background=0.0, dirty_limit=1 / 64)
    file = rig.open("x+b")
    rig.backend.fault("stage", short(lambda wanted: max(1, wanted // 2)), times=3)
    rig.backend.fault("stage", OSError(errno.EIO, "passing"), times=2)
    write_all(rig, file, content, PAGE)
    file.fsync()
    assert rig.backend.committed(KEY) == content
    fault = rig.backend.fault("stage", OSError(errno.EACCES, "for good"), times=100)
    file.pwrite(b"x" * PAGE, 0)
    with pytest.raises(WritebackError, match="for good"):
        file.fsync()
    fault.clear()
    file.fsync()
    assert rig.backend.committed(KEY) == b"x" * PAGE + content[PAGE:]


@pytest.mark.parametrize("limits", [{}, {"read_unit": 512}, {"read_unit": 3000, "max_read": 60_000}], ids=str)
@pytest.mark.parametrize("begin", [0, 7 * PAGE + 100])
def test_a_full_cache_reads_staged_bytes_past_itself(make: Make, limits: dict[str, Any], begin: int) -> None:
    """Every frame is pinned: staged bytes, stored ones and dirty ones are read past the cache. A read unit that is
    staged in part is read from both places. [0.1, 2.23]
    """
    base, content = pattern(3 * CAPACITY, 5), pattern(CAPACITY)
    rig = keeping(make, {KEY: base, "pins": base}, limits, max_folio=PAGE)
    file = rig.open("r+b")
    file.pwrite(content, begin)
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


def test_truncate_and_holes_in_what_is_staged(make: Make) -> None:
    content = bytearray(pattern(2 * CAPACITY))
    rig = keeping(make)
    file = rig.open("x+b")
    stage_all(rig, file, bytes(content))
    rig.volume.drop_clean(KEY)
    file.punch_hole(PAGE + 5, 30 * PAGE)
    content[PAGE + 5 : 31 * PAGE + 5] = bytes(30 * PAGE)
    file.truncate(100 * PAGE + 77)
    file.truncate(110 * PAGE)
    content[100 * PAGE + 77 :] = bytes(10 * PAGE - 77)
    rig.cache.check()
    assert file.pread(len(content), 0) == content
    file.fsync()
    assert rig.backend.committed(KEY) == bytes(content)


def test_discarding_a_part_brings_the_rest_back_and_rolls_back(make: Make) -> None:
    """The backend forgets all acknowledged bytes; the rest is read back first and sent again. [2.19]"""
    base, content = pattern(30 * PAGE, 4), pattern(30 * PAGE)
    rig = keeping(make, {KEY: base}, dirty_background=0.0, dirty_limit=8 / 64)
    file = rig.open("r+b")
    stage_all(rig, file, content)
    rig.volume.drop_clean(KEY)
    rig.cache.configure(dirty_background=0.8, dirty_limit=0.9)  # the cache sends nothing unless the test asks
    lost = rig.volume.discard(KEY, 10 * PAGE, 5 * PAGE)
    assert staged(file) == 0
    assert [(entry.offset, entry.length) for entry in lost] == [(10 * PAGE, 5 * PAGE)]
    assert len(rig.backend.seen("rollback")) == 1
    rig.cache.check()
    expected = content[: 10 * PAGE] + base[10 * PAGE : 15 * PAGE] + content[15 * PAGE :]
    assert file.pread(len(base), 0) == expected
    with pytest.raises(DataLossError):
        file.fsync()
    file.fsync()
    assert rig.backend.committed(KEY) == expected


def test_discarding_a_part_of_more_than_fits_gives_up_nothing(make: Make) -> None:
    content = pattern(3 * CAPACITY)
    rig = keeping(make)
    file = rig.open("x+b")
    stage_all(rig, file, content)
    with pytest.raises(PageCacheError) as caught:
        rig.volume.discard(KEY, 0, PAGE)
    assert caught.value.errno == errno.ENOBUFS
    assert not rig.backend.seen("rollback")
    rig.cache.check()
    assert file.pread(len(content), 0) == content
    assert sum(entry.length for entry in rig.volume.discard(KEY)) == len(content)
    assert len(rig.backend.seen("rollback")) == 1


@pytest.mark.parametrize("keeps", [True, False])
def test_reconnect_with_what_was_staged_or_without(make: Make, keeps: bool) -> None:
    """The new backend reports whether it has the acknowledged bytes. If not, those missing in memory are lost.
    [2.22]
    """
    base, content = pattern(CAPACITY, 2), pattern(CAPACITY)
    rig = keeping(make, {KEY: base}, dirty_background=0.0, dirty_limit=1 / 64)
    file = rig.open("r+b")
    stage_all(rig, file, content)
    rig.volume.drop_clean(KEY)
    assert file.pread(4 * PAGE, 8 * PAGE) == content[8 * PAGE : 12 * PAGE]
    rig.volume.abort()
    with pytest.raises(ShutdownError):
        file.fsync()
    backend = backend_of(rig)
    backend.keeps = keeps
    if not keeps:
        backend.lose_staging(KEY)
    rig.volume.reconnect(backend)
    rig.cache.check()
    if keeps:
        assert file.pread(len(content), 0) == content
        file.fsync()
        assert backend.committed(KEY) == content
    else:
        with pytest.raises(DataLossError) as caught:
            file.fsync()
        assert sum(entry.length for entry in caught.value.ranges) == len(content) - 4 * PAGE
        file.fsync()
        assert backend.committed(KEY) == base[: 8 * PAGE] + content[8 * PAGE : 12 * PAGE] + base[12 * PAGE :]


def test_staged_bytes_over_a_version_that_changed(make: Make) -> None:
    """Rebased local bytes stay, staged ones too, and the rest comes from the new version. [2.19]"""
    base, content = pattern(30 * PAGE, 4), pattern(20 * PAGE)
    rig = keeping(make, {KEY: base}, dirty_background=0.0, dirty_limit=8 / 64)
    file = rig.open("r+b")
    stage_all(rig, file, content)
    rig.volume.drop_clean(KEY)
    quiet(rig.volume)
    newer = pattern(25 * PAGE, 6)
    with rig.backend.lock:
        stored = rig.backend.objects[KEY]
        stored.committed, stored.safe = newer, bytearray(newer)
        backend_of(rig).versions[stored] = 7
    with pytest.raises(ConflictError):
        rig.volume.open(KEY)
    rig.volume.resolve(KEY, "rebase")
    with rig.volume.open(KEY) as again:
        assert again.read() == content + newer[20 * PAGE :]
    assert rig.backend.seen("rollback")
    file.fsync()
    assert rig.backend.committed(KEY) == content + newer[20 * PAGE :]
