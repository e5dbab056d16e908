"""Directed scenarios for the mistakes of the Python layers: the assertions of each hold, and fail with the patch."""

from __future__ import annotations

import errno
import mmap
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import pytest

from pagecache import DataLossError, RetryPolicy, WritebackError
from pagecache.native import NativeInode
from pagecache.volume.namespace import NameChange

from ..file.answers import failing_commit
from ..file.backends import RecordingFile
from ..file.clock import after_flusher_turn
from ..file.objects import ObjectBackend
from ..file.rig import KEY, ONCE, PAGE, Task, eventually, overlay, pattern, quiet
from .scenario import MOMENT, NEW, OLD, SOON, Make, shows

NEWER = pattern(8 * PAGE, seed=9)


def refusing(page: int) -> Callable[[RecordingFile, int, Sequence[memoryview]], int]:
    """Refuse writes of one page permanently."""

    def answer(file: RecordingFile, offset: int, buffers: Sequence[memoryview]) -> int:
        if offset == page * PAGE:
            raise OSError(errno.EINVAL, "no")
        return file.store(offset, buffers)

    return answer


@shows("direct_write_checks_once")
def a_direct_write_is_newer_than_what_was_buffered_before_it(make: Make) -> None:
    rig = make({KEY: OLD}, limits={"parallel_direct_writes": True})
    file, direct = rig.open(), rig.open(direct=True, parallel_direct_writes=True)
    decided, go_on = threading.Event(), threading.Event()
    may_share = NativeInode.direct_may_share

    def look(self: NativeInode, pos: int, end: int) -> bool:
        answer = may_share(self, pos, end)
        if not decided.is_set():
            decided.set()
            assert go_on.wait(SOON)
        return answer

    NativeInode.direct_may_share = look  # type: ignore[method-assign]
    try:
        writing = Task(direct.pwrite, NEWER[:PAGE], 0)
        assert decided.wait(SOON)
        file.pwrite(NEW[:PAGE], 0)
        go_on.set()
        writing.result(SOON)
    finally:
        NativeInode.direct_may_share = may_share  # type: ignore[method-assign]
    file.fsync()
    assert rig.backend.committed(KEY) == overlay(OLD, 0, NEWER[:PAGE])


@shows("success_forgets_failures")
def what_failed_is_there_after_a_success(make: Make) -> None:
    rig = make({KEY: OLD}, retry=ONCE)
    file = rig.open()
    refused = rig.backend.fault("write_from", refusing(0), times=99)
    file.pwrite(NEW[:PAGE], 0)
    with suppress(WritebackError):
        file.sync_range(0, PAGE)
    file.pwrite(NEW[4 * PAGE : 5 * PAGE], 4 * PAGE)
    file.sync_range(4 * PAGE, PAGE)
    for size in (7 * PAGE, 6 * PAGE):
        Task(rig.volume.truncate, KEY, size).result(SOON)  # behind any work that the success has started
    refused.clear()
    file.fsync()
    expected = overlay(overlay(OLD, 0, NEW[:PAGE]), 4 * PAGE, NEW[4 * PAGE : 5 * PAGE])
    assert rig.backend.committed(KEY) == expected[: 6 * PAGE]


@shows("retry_sends_old_bytes")
def newer_bytes_stay_after_a_retry(make: Make) -> None:
    rig = make({KEY: OLD}, retry=ONCE)
    file = rig.open()
    rig.backend.fault("write_from", OSError(errno.EINVAL, "no"))
    file.pwrite(NEW[:PAGE], 0)
    with suppress(WritebackError):
        file.flush()
    file.fsync()
    file.pwrite(NEWER[:PAGE], 0)
    file.fsync()
    assert rig.backend.committed(KEY) == overlay(OLD, 0, NEWER[:PAGE])


@shows("retry_wakes_for_new_files_only")
def a_retry_begins_when_it_is_due(make: Make) -> None:
    rig = make({KEY: OLD}, retry=RetryPolicy(attempts=9, first_delay=0.01, max_delay=600.0))
    file = rig.open()
    rig.backend.fault("write_from", OSError(errno.EIO, "passing"), times=3)
    gate = rig.backend.gate("write_from")
    file.pwrite(NEW[:PAGE], 0)
    saving = Task(file.fsync)
    for _ in range(3):
        gate.wait_entered()
        gate, entered = rig.backend.gate("write_from"), gate
        after_flusher_turn(rig.cache)  # the flusher sleeps again when the call fails
        entered.open()
    gate.open()
    saving.result(SOON)


@shows("reconnect_does_not_wait")
def newer_bytes_stay_after_a_late_call(make: Make) -> None:
    rig = make({KEY: OLD}, retry=ONCE)
    file = rig.open()
    gate = rig.backend.gate("write_from")
    rig.backend.fault("write_from", lambda stored, offset, _: stored.store(offset, [memoryview(NEW[:PAGE])]))
    file.pwrite(NEW[:PAGE], 0)
    flushing = Task(file.flush)
    gate.wait_entered()
    rig.volume.abort()
    with suppress(OSError):
        flushing.result()
    fresh = rig.backend.successor()
    rig.volume.reconnect(fresh)
    file.pwrite(NEWER[:PAGE], 0)
    saving = Task(file.fsync)
    assert saving.waits(MOMENT)
    gate.open()
    saving.result()
    eventually(lambda: rig.backend.nr_running == 0)
    assert fresh.written(KEY)[:PAGE] == NEWER[:PAGE]


@shows("rebase_keeps_uploads")
def a_rebase_brings_no_old_neighbours_back(make: Make) -> None:
    backend = ObjectBackend({KEY: OLD}, write_unit=4 * PAGE, max_write=4 * PAGE)
    rig = make(backend=backend, retry=ONCE)
    file = rig.open()
    file.pwrite(NEW[PAGE : 2 * PAGE], PAGE)
    file.sync_range(0, 4 * PAGE)
    quiet(rig.volume)
    backend.put(KEY, NEWER)
    with suppress(OSError):
        file.fsync()
    rig.volume.resolve(KEY, "rebase")
    file.fsync()
    assert backend.committed(KEY) == overlay(NEWER, PAGE, NEW[PAGE : 2 * PAGE])


@shows("hole_is_forgotten_at_reconnect")
def a_hole_is_there_or_reported(make: Make) -> None:
    rig = make({KEY: OLD}, retry=ONCE, limits={"punch": True})
    file = rig.open()
    rig.backend.fault("commit", failing_commit(OSError(errno.EIO, "no"), forget=False))
    with suppress(OSError):
        file.punch_hole(0, 2 * PAGE)
    rig.volume.abort()
    rig.volume.reconnect(rig.backend.successor())
    try:
        file.fsync()
    except DataLossError:
        return
    assert file.pread(2 * PAGE, 0) == bytes(2 * PAGE)


@shows("truncate_is_forgotten_at_reconnect")
def a_truncate_is_repeated(make: Make) -> None:
    rig = make({KEY: OLD})
    file = rig.open()
    file.truncate(PAGE)
    rig.volume.abort()
    fresh = rig.backend.successor()
    rig.volume.reconnect(fresh)
    file.fsync()
    assert fresh.committed(KEY) == OLD[:PAGE]


@shows("creation_is_not_committed")
def an_object_without_bytes_is_durable(make: Make) -> None:
    rig = make()
    rig.open("x+", key="new").fsync()
    assert rig.backend.committed("new") == b""


@shows("sync_waits_for_later_writes")
def a_sync_minds_no_later_write(make: Make) -> None:
    rig = make({KEY: OLD}, retry=ONCE)
    file = rig.open()
    file.pwrite(NEW[:PAGE], 0)
    with rig.backend.gate("write_from") as gate:
        ticket = rig.volume.begin_sync()
        assert not ticket.done()
        gate.wait_entered()
        file.pwrite(NEW[4 * PAGE : 5 * PAGE], 4 * PAGE)
        refused = rig.backend.fault("write_from", refusing(4), times=9)
    ticket.wait(SOON)
    refused.clear()
    assert rig.backend.committed(KEY) == overlay(OLD, 0, NEW[:PAGE])


@shows("sync_leaves_files_to_another_sync")
def a_sync_waits_for_what_another_is_saving(make: Make) -> None:
    rig = make({KEY: OLD})
    file = rig.open()
    file.pwrite(NEW[:PAGE], 0)
    with rig.backend.gate("commit") as gate:
        first = rig.volume.begin_sync()
        assert not first.done()
        gate.wait_entered()
        second = Task(rig.volume.sync)
        assert second.waits(MOMENT)
    first.wait(SOON)
    second.result(SOON)


@shows("sync_misses_the_last_file")
def a_sync_saves_every_file(make: Make) -> None:
    rig = make({"a": OLD, "b": OLD})
    for key in "ab":
        rig.open(key=key).pwrite(NEW[:PAGE], 0)
    rig.volume.sync()
    assert [rig.backend.committed(key) for key in "ab"] == [overlay(OLD, 0, NEW[:PAGE])] * 2


@shows("sync_forgets_names")
def a_sync_makes_names_durable(make: Make) -> None:
    rig = make({KEY: OLD})
    rig.volume.rename(KEY, "other")
    rig.volume.sync()
    assert rig.backend.seen("sync")


@shows("remove_leaves_the_cache")
def a_removed_name_is_free(make: Make) -> None:
    rig = make({KEY: OLD})
    with rig.volume.open(KEY, "r+") as file:
        file.pwrite(NEW[:PAGE], 0)
    rig.volume.remove(KEY)
    with rig.volume.open(KEY, "a+") as file:
        assert file.pread(PAGE, 0) == b""


@shows("rename_holds_one_name")
def an_open_beside_a_rename_finds_the_cache_of_the_object(make: Make) -> None:
    rig = make({KEY: OLD})
    file = rig.open()
    file.pwrite(NEW[:PAGE], 0)
    carried_out, go_on = threading.Event(), threading.Event()
    publish = NameChange.publish

    def late(self: NameChange) -> None:
        carried_out.set()
        assert go_on.wait(SOON)
        publish(self)

    NameChange.publish = late  # type: ignore[method-assign]
    try:
        renaming = Task(rig.volume.rename, KEY, "other")
        assert carried_out.wait(SOON)
        opening = Task(rig.volume.open, "other", "r+b")
        assert opening.waits(MOMENT)
        go_on.set()
        renaming.result(SOON)
    finally:
        NameChange.publish = publish  # type: ignore[method-assign]
    assert opening.result(SOON).pread(PAGE, 0) == NEW[:PAGE]


@shows("open_holds_no_name")
def two_opens_side_by_side_share_their_pages(make: Make) -> None:
    rig = make({KEY: OLD})
    gate = rig.backend.gate("open", times=2)
    first, second = Task(rig.volume.open, KEY, "r+b"), Task(rig.volume.open, KEY, "r+b")
    gate.wait_entered()
    second.waits(MOMENT)
    gate.open()
    writer, reader = first.result(SOON), second.result(SOON)
    writer.pwrite(NEW[:PAGE], 0)
    assert reader.pread(PAGE, 0) == NEW[:PAGE]


@shows("rename_drops_dirty_bytes")
def a_rename_takes_dirty_bytes_along(make: Make) -> None:
    rig = make({KEY: OLD})
    file = rig.open()
    file.pwrite(NEW[:PAGE], 0)
    rig.volume.rename(KEY, "other")
    file.fsync()
    assert rig.backend.committed("other") == overlay(OLD, 0, NEW[:PAGE])


@shows("write_through_returns_early")
def a_write_through_is_stored_when_it_returns(make: Make) -> None:
    rig = make({KEY: OLD})
    file = rig.open(write_through=True)
    with rig.backend.gate("write_from") as gate:
        writing = Task(file.pwrite, NEW[:PAGE], 0)
        gate.wait_entered()
        assert writing.waits(MOMENT)
    writing.result()


@shows("close_writes_nothing_back")
def a_close_hands_over(make: Make) -> None:
    rig = make({KEY: OLD})
    with rig.volume.open(KEY, "r+") as file:
        file.pwrite(NEW[:PAGE], 0)
    assert rig.backend.written(KEY) == overlay(OLD, 0, NEW[:PAGE])


@shows("open_trusts_its_pages")
def an_open_sees_what_is_stored(make: Make) -> None:
    rig = make({KEY: OLD})
    assert rig.open().pread(PAGE, 0) == OLD[:PAGE]
    rig.backend.change_remotely(KEY, NEW)
    assert rig.open().pread(PAGE, 0) == NEW[:PAGE]


@shows("loss_is_not_reported")
def a_loss_is_reported(make: Make) -> None:
    rig = make({KEY: OLD})
    file = rig.open()
    file.pwrite(NEW[:PAGE], 0)
    assert rig.volume.discard(KEY)
    with pytest.raises(DataLossError):
        file.fsync()


@shows("faulting_source_is_copied_in_place")
def a_map_that_was_cut_is_an_error(make: Make) -> None:
    rig = make({KEY: OLD})
    file = rig.open()
    with tempfile.TemporaryFile() as source:
        source.truncate(PAGE)
        mapped: Any = mmap.mmap(source.fileno(), PAGE)
        source.truncate(0)
        with pytest.raises(OSError, match="memory is not there"):
            file.pwrite(mapped, 0)
    assert file.pread(PAGE, 0) == OLD[:PAGE]
