"""Directed scenarios for the fixes of the core in locks, wake-ups and views."""

from __future__ import annotations

import asyncio
from typing import Any

from pagecache import aio

from ..file.rig import KEY, PAGE, Task, eventually, overlay, pattern, until_all_wait
from .scenario import NEW, OLD, SOON, Make, shows

# ---------------------------------------------------------------------------------------- locks and wake-ups


@shows("direct_write_invalidates")
def a_direct_write_is_seen_by_buffered_readers(make: Make) -> None:
    rig = make({KEY: OLD})
    file, direct = rig.open(), rig.open(direct=True)
    assert file.pread(PAGE, 0) == OLD[:PAGE]
    direct.pwrite(NEW[:PAGE], 0)
    assert file.pread(PAGE, 0) == NEW[:PAGE]


@shows("direct_write_invalidates_again")
def a_read_beside_a_direct_write_leaves_nothing_old(make: Make) -> None:
    rig = make({KEY: OLD}, limits={"parallel_direct_writes": True})
    file, direct = rig.open(), rig.open(direct=True, parallel_direct_writes=True)
    with rig.backend.gate("write_from") as gate:
        writing = Task(direct.pwrite, NEW[:PAGE], 0)
        gate.wait_entered()
        assert file.pread(PAGE, 0) == OLD[:PAGE]
    writing.result()
    assert file.pread(PAGE, 0) == NEW[:PAGE]


@shows("last_one_out_hands_the_lock_on")
def a_buffered_writer_goes_on_after_a_direct_one(make: Make) -> None:
    rig = make({KEY: OLD}, limits={"parallel_direct_writes": True})
    file, direct = rig.open(), rig.open(direct=True, parallel_direct_writes=True)
    with rig.backend.gate("write_from") as gate:
        sent = Task(direct.pwrite, NEW[:PAGE], 0)
        gate.wait_entered()
        waiting = rig.cache.stats().lock_waits
        writing = Task(file.pwrite, NEW[PAGE : 2 * PAGE], PAGE)
        eventually(lambda: rig.cache.stats().lock_waits > waiting)
    sent.result(SOON)
    writing.result(SOON)


@shows("tasks_are_woken")
def a_task_goes_on_when_its_page_is_there(make: Make) -> None:
    rig = make({KEY: OLD})
    file = rig.open()

    async def waits(gate: Any, first: Task[bytes]) -> None:
        async with aio.open(rig.volume, KEY, "r") as other:
            task = asyncio.create_task(other.pread(PAGE, 0))
            await until_all_wait(rig.cache, task)
            gate.open()
            await asyncio.to_thread(first.result)
            assert await asyncio.wait_for(task, SOON) == OLD[:PAGE]

    with rig.backend.gate("read_into") as gate:
        first = Task(file.pread, PAGE, 0)
        gate.wait_entered()
        Task(asyncio.run, waits(gate, first)).result(SOON)


@shows("append_keeps_the_lock")
def an_append_is_whole(make: Make) -> None:
    rig = make({KEY: b""}, capacity="1MiB")
    file = rig.open()
    long = pattern(4 << 20)
    with rig.backend.gate("write_from") as gate:
        first = Task(file.append, long)
        gate.wait_entered()
        waiting = rig.cache.stats().lock_waits
        second = Task(rig.open().append, b"whole")
        eventually(lambda: rig.cache.stats().lock_waits > waiting)
    first.result()
    second.result()
    file.fsync()
    assert rig.backend.committed(KEY) in (long + b"whole", b"whole" + long)


# ---------------------------------------------------------------------------------------- views


@shows("view_of_the_range_is_copied_first")
def a_view_moves_within_its_file(make: Make) -> None:
    rig = make({KEY: OLD}, max_folio="16KiB")
    file = rig.open()
    with file.view(0, 4 * PAGE) as view:
        assert len(view.segments) == 1
        file.pwrite(view.segments[0], 2 * PAGE)
    assert file.pread(8 * PAGE, 0) == overlay(OLD, 2 * PAGE, OLD[: 4 * PAGE])


@shows("pages_of_writable_view_stay_dirty")
def a_store_to_a_view_after_an_fsync_is_saved(make: Make) -> None:
    rig = make({KEY: OLD})
    file = rig.open()
    with file.view(0, PAGE, writable=True) as view:
        file.fsync()
        view.segments[0][:] = NEW[:PAGE]
    file.fsync()
    assert rig.backend.committed(KEY) == overlay(OLD, 0, NEW[:PAGE])


@shows("views_end_with_the_file")
def a_view_stores_nothing_behind_the_end(make: Make) -> None:
    rig = make({KEY: OLD[:PAGE]})
    file = rig.open()
    with file.view(0, PAGE, writable=True) as view:
        file.truncate(100)
        view.segments[0][200:300] = NEW[200:300]
        file.truncate(PAGE)
        assert file.pread(PAGE, 0) == OLD[:100] + bytes(PAGE - 100)
