"""Directed scenarios for the fixes of the core: the assertions of each hold with the fix, and fail without it."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from pagecache.native import STAMP_MAX
from pagecache.native.extension import lib

from ..file.answers import failing_commit, short
from ..file.backends import RecordingFile
from ..file.rig import KEY, ONCE, PAGE, Task, eventually, overlay, pattern
from .scenario import MOMENT, NEW, OLD, SOON, Make, shows

FOREIGN = pattern(8 * PAGE, seed=9)


def fails(call: Callable[[], object]) -> None:
    """Call a function that should raise; the caller asserts the state afterwards."""
    with suppress(OSError):
        call()


@contextmanager
def held(point: str) -> Iterator[Callable[[], None]]:
    """Hold the next thread that comes to a sync point; yield a function that waits until one has come."""
    name = point.encode()
    lib.pc_sync_arm(name, 0)
    try:
        yield lambda: eventually(lambda: lib.pc_sync_arrived(name), SOON)
    finally:
        lib.pc_sync_release(name)


def reading(before: Callable[[], None]) -> Callable[[RecordingFile, int, Sequence[memoryview]], int]:
    """A read that has got the stored bytes, and answers later."""

    def answer(file: RecordingFile, offset: int, buffers: Sequence[memoryview]) -> int:
        done = file.fill(offset, buffers)
        before()
        return done

    return answer


# ---------------------------------------------------------------------------------------- answers and stamps


@shows("failed_bytes_are_dirty_again")
def a_failed_write_is_repaired(make: Make) -> None:
    rig = make({KEY: OLD}, retry=ONCE)
    file = rig.open()
    rig.backend.fault("write_from", OSError(errno.EINVAL, "no"))
    file.pwrite(NEW[:PAGE], 0)
    fails(file.fsync)
    file.fsync()
    assert rig.backend.committed(KEY) == overlay(OLD, 0, NEW[:PAGE])


@shows("short_answer_is_short")
def all_of_a_short_write_arrives(make: Make) -> None:
    rig = make({KEY: OLD})
    file = rig.open()
    rig.backend.fault("write_from", short(100))
    file.pwrite(NEW[:PAGE], 0)
    file.fsync()
    assert rig.backend.committed(KEY) == overlay(OLD, 0, NEW[:PAGE])


@shows("late_answer_only_ends_the_flight")
def the_new_backend_gets_what_the_old_one_took(make: Make) -> None:
    rig = make({KEY: OLD})
    file = rig.open()
    gate = rig.backend.gate("write_from")
    file.pwrite(NEW[:PAGE], 0)
    saving = Task(file.fsync)
    gate.wait_entered()
    rig.volume.abort()
    fresh = rig.backend.successor(shared=False)
    rig.volume.reconnect(fresh)
    gate.open()
    fails(saving.result)
    eventually(lambda: rig.cache.stats().writeback == 0)
    Task(file.fsync).result(SOON)
    assert fresh.committed(KEY) == overlay(OLD, 0, NEW[:PAGE])


@shows("oldest_stamp_stays")
def a_sync_waits_for_what_was_written_again(make: Make) -> None:
    rig = make({KEY: OLD}, retry=ONCE)
    file = rig.open()
    file.pwrite(NEW[PAGE : 2 * PAGE], PAGE)
    with rig.backend.gate("commit") as gate:
        saving = Task(file.fsync)
        gate.wait_entered()  # nothing is written back at the same time
        file.pwrite(NEW[:100], 0)
        ticket = rig.volume.begin_sync()
        file.pwrite(NEW[200:300], 200)
    saving.result()
    ticket.wait(SOON)
    assert (rig.backend.committed(KEY) or b"")[:100] == NEW[:100]


@shows("flight_keeps_its_stamp", "flight_is_waited_for")
def fsync_waits_for_what_is_in_flight(make: Make) -> None:
    rig = make({KEY: OLD})
    file = rig.open()
    file.pwrite(NEW[:PAGE], 0)
    with rig.backend.gate("write_from") as gate:
        saving = Task(file.fsync)
        gate.wait_entered()
        assert saving.waits(MOMENT)
    saving.result()
    assert rig.backend.committed(KEY) == overlay(OLD, 0, NEW[:PAGE])


@shows("stamp_stays_to_the_last_answer")
def fsync_waits_for_both_halves_of_a_page(make: Make) -> None:
    rig = make({KEY: OLD}, limits={"max_write": PAGE}, retry=ONCE)
    file = rig.open()
    file.pwrite(NEW[: 2 * PAGE], 0)  # one folio
    entered, go_on = threading.Event(), threading.Event()

    def fails_later(*_: object) -> int:
        entered.set()
        assert go_on.wait(SOON)
        raise OSError(errno.EINVAL, "no")

    rig.backend.fault("write_from", fails_later)
    saving = Task(file.fsync)
    assert entered.wait(SOON)
    eventually(lambda: rig.cache.stats().unstable == PAGE)
    go_on.set()
    fails(saving.result)
    file.fsync()
    assert rig.backend.committed(KEY) == overlay(OLD, 0, NEW[: 2 * PAGE])


@shows("failed_commit_makes_dirty")
def a_failed_commit_is_repaired(make: Make) -> None:
    rig = make({KEY: OLD}, retry=ONCE)
    file = rig.open()
    rig.backend.fault("commit", failing_commit(OSError(errno.EIO, "forgot")))
    file.pwrite(NEW[:PAGE], 0)
    fails(file.fsync)
    file.fsync()
    assert rig.backend.committed(KEY) == overlay(OLD, 0, NEW[:PAGE])


@shows("commit_failure_between_checks_is_seen")
def a_commit_that_fails_between_two_checks(make: Make) -> None:
    rig = make({KEY: OLD}, retry=ONCE)
    file = rig.open()
    file.pwrite(NEW[:PAGE], 0)
    file.flush()
    rig.backend.fault("commit", failing_commit(OSError(errno.EIO, "forgot")))
    with held("sync_between") as arrived:
        looking = Task(file._native.sync_done, STAMP_MAX)
        arrived()
        file._native.start_commit(0)
        eventually(lambda: not rig.cache.stats().unstable)
    assert not looking.result(SOON)


@shows("commit_covers_earlier_changes")
def a_direct_write_beside_a_commit_wants_its_own(make: Make) -> None:
    rig = make({KEY: OLD}, limits={"parallel_direct_writes": True})
    file, direct = rig.open(), rig.open(direct=True, parallel_direct_writes=True)
    began, go_on = threading.Event(), threading.Event()

    def slow(stored: RecordingFile) -> str:
        content = bytes(stored.stored.written)
        began.set()
        assert go_on.wait(SOON)
        stored.stored.committed = content
        return "old"

    rig.backend.fault("commit", slow)
    file.pwrite(NEW[:PAGE], 0)
    saving = Task(file.fsync)
    assert began.wait(SOON)
    direct.pwrite(NEW[4 * PAGE : 5 * PAGE], 4 * PAGE)
    go_on.set()
    saving.result()
    direct.fsync()
    expected = overlay(overlay(OLD, 0, NEW[:PAGE]), 4 * PAGE, NEW[4 * PAGE : 5 * PAGE])
    assert rig.backend.committed(KEY) == expected


@shows("token_stays_to_the_last_answer")
def a_hole_waits_for_what_is_in_flight(make: Make) -> None:
    rig = make({KEY: OLD}, limits={"max_write": PAGE, "punch": True})
    file = rig.open()
    file.pwrite(NEW[:PAGE], 0)
    file.pwrite(NEW[2 * PAGE : 3 * PAGE], 2 * PAGE)
    with rig.backend.gate("write_from") as gate:
        flushing = Task(file.flush)
        gate.wait_entered()
        eventually(lambda: rig.cache.stats().unstable == PAGE)
        hole = Task(file.punch_hole, 6 * PAGE, PAGE)
        assert hole.waits(MOMENT)
    flushing.result()
    hole.result()
    assert rig.backend.violations == []


@shows("forgotten_bytes_are_sent_again")
def what_the_old_backend_only_acknowledged_is_sent_again(make: Make) -> None:
    rig = make({KEY: OLD})
    file = rig.open()
    file.pwrite(NEW[:PAGE], 0)
    file.flush()
    rig.volume.abort()
    fresh = rig.backend.successor()
    rig.volume.reconnect(fresh)
    file.fsync()
    assert fresh.committed(KEY) == overlay(OLD, 0, NEW[:PAGE])


# ---------------------------------------------------------------------------------------- bytes and sizes


@shows("flight_is_not_changed")
def a_call_sends_what_it_was_given(make: Make) -> None:
    rig = make({KEY: OLD})
    file = rig.open()
    file.pwrite(NEW[:PAGE], 0)
    sent: list[bytes] = []
    entered, go_on = threading.Event(), threading.Event()

    def slow(stored: RecordingFile, offset: int, buffers: Sequence[memoryview]) -> int:
        entered.set()
        assert go_on.wait(SOON)
        sent.append(b"".join(buffers))
        return stored.store(offset, buffers)

    rig.backend.fault("write_from", slow)
    flushing = Task(file.flush)
    assert entered.wait(SOON)
    Task(file.pwrite, FOREIGN[:PAGE], 0).result()
    go_on.set()
    flushing.result()
    assert sent == [NEW[:PAGE]]


@shows("size_before_unlock")
def the_end_of_an_extending_write_is_saved(make: Make) -> None:
    rig = make({KEY: OLD[:100]}, gil_release=1)
    file = rig.open()
    assert file.pread(100, 0) == OLD[:100]
    with held("size_late"):
        writing = Task(file.pwrite, NEW[:100], 100)
        eventually(lambda: writing.finished.is_set() or lib.pc_sync_arrived(b"size_late"))
        file.fsync()
    writing.result()
    file.fsync()
    assert rig.backend.committed(KEY) == OLD[:100] + NEW[:100]


@shows("rest_of_a_new_page_is_zeroed")
def a_gap_in_a_new_page_is_zeros(make: Make) -> None:
    rig = make({"foreign": FOREIGN, KEY: b""})
    assert rig.open(key="foreign").pread(8 * PAGE, 0) == FOREIGN
    rig.volume.drop_clean()
    file = rig.open()
    file.pwrite(b"begin", 0)
    file.pwrite(b"end", PAGE - 3)
    assert file.pread(PAGE, 0) == b"begin" + bytes(PAGE - 8) + b"end"


@shows("cut_bytes_are_zeroed")
def a_page_that_was_cut_is_zeros_behind_the_cut(make: Make) -> None:
    rig = make({KEY: OLD})
    file = rig.open()
    assert file.pread(PAGE, 0) == OLD[:PAGE]
    file.truncate(100)
    file.truncate(PAGE)
    assert file.pread(PAGE, 0) == OLD[:100] + bytes(PAGE - 100)


@shows("cut_pages_leave_the_cache")
def pages_that_were_cut_off_are_zeros(make: Make) -> None:
    rig = make({KEY: OLD}, max_folio="4KiB")
    file = rig.open()
    assert file.pread(8 * PAGE, 0) == OLD
    file.truncate(PAGE)
    file.truncate(8 * PAGE)
    assert file.pread(8 * PAGE, 0) == OLD[:PAGE] + bytes(7 * PAGE)


@shows("reader_checks_again_after_copy")
def a_reader_never_sees_what_its_page_became(make: Make) -> None:
    rig = make({KEY: OLD}, max_folio="4KiB", gil_release=1)
    file = rig.open()
    assert file.pread(PAGE, 0) == OLD[:PAGE]
    with held("read_before_copy") as arrived:
        got = Task(file.pread, PAGE, 0)
        arrived()
        rig.volume.drop_clean()
        assert rig.open().pread(PAGE, 4 * PAGE) == OLD[4 * PAGE : 5 * PAGE]  # in the reused memory
    assert got.result(SOON) == OLD[:PAGE]


@shows("writer_checks_again_after_lock")
def a_writer_never_writes_to_what_its_page_became(make: Make) -> None:
    rig = make({KEY: OLD}, max_folio="4KiB", gil_release=1)
    file = rig.open()
    assert file.pread(PAGE, 4 * PAGE) == OLD[4 * PAGE : 5 * PAGE]
    with held("found_before_lock") as arrived:
        writing = Task(file.pwrite, NEW[:100], 4 * PAGE)
        arrived()
        rig.volume.drop_clean()
        assert rig.open().pread(PAGE, 0) == OLD[:PAGE]
    writing.result(SOON)
    assert file.pread(8 * PAGE, 0) == overlay(OLD, 4 * PAGE, NEW[:100])


@shows("fill_sees_invalidations")
def a_read_beside_a_remote_change_leaves_nothing_old(make: Make) -> None:
    rig = make({KEY: OLD})
    file = rig.open()
    entered, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        entered.set()
        assert go_on.wait(SOON)

    rig.backend.fault("read_into", reading(hold))
    first = Task(file.pread, PAGE, 0)
    assert entered.wait(SOON)
    rig.backend.change_remotely(KEY, NEW)
    rig.volume.invalidate_remote(KEY)
    go_on.set()
    first.result()
    assert file.pread(PAGE, 0) == NEW[:PAGE]


@shows("failed_fill_unlocks")
def a_read_that_failed_locks_nothing(make: Make) -> None:
    rig = make({KEY: OLD})
    file = rig.open()
    file.pwrite(NEW[:100], 0)
    rig.backend.fault("read_into", OSError(errno.EACCES, "no"))
    fails(lambda: file.pread(PAGE, 0))
    assert Task(file.pread, PAGE, 0).result(SOON) == NEW[:100] + OLD[100:PAGE]


@shows("invalidation_keeps_local_bytes")
def a_remote_change_leaves_what_is_local(make: Make) -> None:
    rig = make({KEY: OLD})
    file = rig.open()
    file.pwrite(NEW[:PAGE], 0)
    rig.backend.change_remotely(KEY, FOREIGN)
    rig.volume.invalidate_remote(KEY)
    rig.volume.resolve(KEY, "rebase")
    file.fsync()
    assert rig.backend.committed(KEY) == overlay(FOREIGN, 0, NEW[:PAGE])


# ---------------------------------------------------------------------------------------- memory


@shows("unstable_bytes_are_not_evicted")
def what_is_not_committed_is_sent_again(make: Make) -> None:
    many = pattern(64 * PAGE)
    rig = make({KEY: OLD, "many": many}, capacity=16 * PAGE, retry=ONCE)
    file, other = rig.open(), rig.open(key="many")
    file.pwrite(NEW[:PAGE], 0)
    file.flush()
    for _ in range(2):
        assert other.pread(64 * PAGE, 0) == many
    rig.backend.fault("commit", failing_commit(OSError(errno.EIO, "forgot")))
    fails(file.fsync)
    file.fsync()
    assert rig.backend.committed(KEY) == overlay(OLD, 0, NEW[:PAGE])


@shows("reclaim_never_waits")
def a_stuck_backend_stops_no_other(make: Make) -> None:
    rig = make({KEY: b""}, capacity=16 * PAGE, max_folio="4KiB")
    many = pattern(64 * PAGE)
    healthy = rig.cache.attach(type(rig.backend)({KEY: many}), name="healthy", read_ahead=0)
    file = rig.open()
    file.pwrite(NEW[: 4 * PAGE], 0)
    with rig.backend.gate("write_from", times=8) as gate, healthy.open(KEY) as other:
        flushing = Task(file.flush)
        gate.wait_entered()
        assert Task(other.pread, len(many), 0).result(SOON) == many
    flushing.result()


@shows("no_budget_while_waiting_for_a_lock")
def no_writer_waits_for_a_file_with_budget_that_its_holder_needs(make: Make) -> None:
    rig = make(
        {KEY: bytes(64 * PAGE)},
        capacity="256KiB",
        dirty_background="16KiB",
        dirty_limit="32KiB",
        limits={"parallel_direct_writes": True},
    )
    buffered, direct = rig.open(), rig.open(direct=True, parallel_direct_writes=True)
    with rig.backend.gate("write_from") as gate:
        sent = Task(direct.pwrite, bytes(PAGE), 0)  # with the file's lock
        gate.wait_entered()
        waiting = rig.cache.stats().lock_waits
        first = Task(buffered.append, bytes(16 * PAGE))
        eventually(lambda: rig.cache.stats().lock_waits > waiting)
        others = [Task(buffered.pwrite, pattern(2 * PAGE), k * 2 * PAGE) for k in range(16, 24)]
        eventually(lambda: rig.cache.stats().lock_waits >= waiting + 5)
    for task in [sent, first, *others]:
        task.result(SOON)


@shows("a_local_end_is_a_byte")
def what_is_local_ends_where_it_was_written(make: Make) -> None:
    rig = make({KEY: OLD[:1000]})
    file = rig.open()
    file.pwrite(NEW[:10], 0)
    rig.backend.change_remotely(KEY, FOREIGN[:500])
    rig.volume.invalidate_remote(KEY)
    rig.volume.resolve(KEY, "rebase")
    file.fsync()
    assert file.size == 500
    assert rig.backend.committed(KEY) == overlay(FOREIGN[:500], 0, NEW[:10])


@shows("discard_sees_extension")
def a_discard_beside_an_extension_cuts_it_off(make: Make) -> None:
    rig = make({KEY: OLD[:PAGE]}, max_folio="4KiB", gil_release=1)
    file = rig.open()
    with held("passer_by_met") as met:
        with held("write_before_copy") as arrived:
            writing = Task(file.pwrite, NEW[:PAGE], PAGE)
            arrived()
            giving_up = Task(rig.volume.discard, KEY, PAGE)
            met()
        writing.result(SOON)
    giving_up.result(SOON)
    assert file.size == PAGE
    rig.cache.check()


@shows("rebase_sees_extension")
def a_rebase_beside_an_extension_keeps_it(make: Make) -> None:
    rig = make({KEY: OLD[: 3 * PAGE]}, max_folio="4KiB", gil_release=1)
    file = rig.open()
    file.pwrite(NEW[:10], 0)
    rig.backend.change_remotely(KEY, FOREIGN[:PAGE])
    rig.volume.invalidate_remote(KEY)
    with held("passer_by_met") as met:
        with held("write_before_copy") as arrived:
            writing = Task(file.pwrite, NEW[: 2 * PAGE + 100], 2 * PAGE)
            arrived()
            rebasing = Task(rig.volume.resolve, KEY, "rebase")
            met()
        writing.result(SOON)
    rebasing.result(SOON)
    file.fsync()
    assert file.size == 4 * PAGE + 100
    assert (rig.backend.committed(KEY) or b"")[2 * PAGE :] == NEW[: 2 * PAGE + 100]
    rig.cache.check()


@shows("commit_follows_its_bytes")
def no_commit_comes_before_the_bytes_of_its_caller(make: Make) -> None:
    rig = make(retry=ONCE)
    file = rig.open("x+")
    committed: list[bytes] = []

    def forgets(stored: RecordingFile) -> str:
        stored.forget()
        raise OSError(errno.EIO, "forgot")

    def notes(stored: RecordingFile) -> str:
        committed.append(bytes(stored.stored.written))
        return stored.make_durable()

    file.pwrite(NEW[:PAGE], 0)
    file.flush()
    rig.backend.fault("commit", forgets)
    rig.backend.fault("commit", notes)
    native = file._native
    assert not native.flush_pending(STAMP_MAX, 0, PAGE)
    native.start_commit(0)
    eventually(lambda: not rig.cache.stats().unstable)
    native.start_commit(STAMP_MAX)
    file.fsync()
    assert committed == [NEW[:PAGE]]


@shows("discarded_bytes_are_not_kept")
def what_was_read_after_a_discard_goes_with_a_failed_commit(make: Make) -> None:
    rig = make({KEY: OLD}, retry=ONCE)
    file = rig.open()
    file.pwrite(NEW[:PAGE], 0)
    file.flush()
    assert rig.volume.discard(KEY)
    assert file.pread(PAGE, 0) == NEW[:PAGE]  # it is not undone
    rig.backend.fault("commit", failing_commit(OSError(errno.EIO, "forgot")))
    fails(file.fsync)
    fails(file.fsync)
    assert file.pread(PAGE, 0) == (rig.backend.written(KEY) or b"")[:PAGE]
