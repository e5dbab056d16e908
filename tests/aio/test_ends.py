"""The ends of awaited handles: close, abandon, cancelled opens, exceptions in the body, over every kind of backend."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from pagecache import Volume, aio
from pagecache.options import OpenMode

from ..file.rig import content_of, eventually, until_all_wait
from .conftest import Attach
from .stores import Store
from .test_handles import run


@pytest.mark.parametrize("how", ["an exception", "a cancellation"])
def test_leaving_the_body_by_an_exception_abandons_objects_and_closes_files(volume: Volume, how: str) -> None:
    """`async with` acts as `with`: what only a commit publishes is not published half-written. [T-56, T-77, 2.22]"""

    class Oops(Exception): ...

    async def body(ready: asyncio.Event) -> None:
        async with aio.open(volume, "f", "w+b") as file:
            await file.pwrite(b"half", 0)
            if how == "an exception":
                raise Oops
            ready.set()
            await asyncio.sleep(1000)

    async def main() -> None:
        ready = asyncio.Event()
        task = asyncio.create_task(body(ready))
        if how == "a cancellation":
            await ready.wait()
            task.cancel()
        with pytest.raises((Oops, asyncio.CancelledError)):
            await task

    run(main())
    if volume.backend.limits.commit_on_close:
        assert not volume.exists("f")
    else:
        assert content_of(volume, "f") == b"half"


def opened_in_vain(volume: Volume, store: Store, mode: OpenMode) -> None:
    """Cancel a task while the backend opens `f` for it; the open then goes on."""

    async def main() -> None:
        gate = store.gate("open")
        task = asyncio.ensure_future(aio.open(volume, "f", mode)._open())
        await asyncio.to_thread(gate.wait_entered)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        gate.open()

    run(main())


@pytest.mark.parametrize("mode", ["w", "w+"])
def test_an_open_that_was_cancelled_publishes_no_empty_object(attach: Attach, mode: OpenMode) -> None:
    """The handle that emptied the object is gone, so a later sync does not publish that. [T-56, 2.22]"""
    store = Store({"f": b"old"}, commit_on_close=True)
    volume = attach(store)
    opened_in_vain(volume, store, mode)
    eventually(lambda: "rollback" in store.calls)
    assert content_of(volume, "f") == b"old"
    volume.sync()
    assert store.content("f") == b"old"
    assert [inode.handles for inode in volume.inodes.values()] == [0]


def test_an_exclusive_open_that_was_cancelled_may_be_repeated(attach: Attach) -> None:
    store = Store(commit_on_close=True)
    volume = attach(store)
    opened_in_vain(volume, store, "x")
    eventually(lambda: "rollback" in store.calls)

    async def again() -> None:
        async with aio.open(volume, "f", "x") as file:
            await file.pwrite(b"new", 0)

    run(again())
    assert store.content("f") == b"new"


def test_close_does_not_block_the_loop_for_the_version(attach: Attach) -> None:
    """Nothing is dirty, but the acknowledged version has to be queried. [T-55]"""
    store = Store({"f": b"old"}, versions=True, durable_writes=True)
    volume = attach(store)
    gate = None

    async def main() -> None:
        nonlocal gate
        file = await aio.open(volume, "f", "r+")
        await file.pwrite(b"new", 0)
        await file.sync_range(0, 3)
        gate = store.gate("file_stat")
        turned = threading.Event()
        loop = asyncio.get_running_loop()

        def watch() -> bool:
            gate.wait_entered()
            loop.call_soon_threadsafe(turned.set)
            try:
                return turned.wait(20)
            finally:
                gate.open()

        watching = loop.run_in_executor(None, watch)
        await file.close()
        assert await watching, "the loop stood still while the backend was asked"

    run(main())


def test_calls_in_progress_when_an_object_was_abandoned_are_not_published(attach: Attach) -> None:
    """A truncate of a cancelled task holds the file's locks and goes on; others stand in line. [T-56, T-77]"""
    store = Store({"f": b"old" * 10_000}, commit_on_close=True)
    volume = attach(store)

    async def main() -> None:
        gate = store.gate("truncate")
        with pytest.raises(RuntimeError):
            async with aio.open(volume, "f", "r+") as file:
                tasks: list[asyncio.Task[Any]] = [asyncio.create_task(file.truncate(100))]
                await asyncio.to_thread(gate.wait_entered)
                late = (file.pwrite(b"late", 0), file.append(b"late"), file.zero_range(0, 9), file.truncate(9))
                tasks += [asyncio.create_task(call) for call in late]
                await until_all_wait(volume.cache, *tasks)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                raise RuntimeError
        gate.open()

    run(main())
    eventually(lambda: "rollback" in store.calls)
    assert content_of(volume, "f") == b"old" * 10_000
    volume.sync()
    assert volume.dirty_ranges("f") == []
    assert "commit" not in store.calls
    assert volume.cache.close(timeout=20) == []
    assert store.content("f") == b"old" * 10_000


def test_a_write_that_goes_on_when_its_object_was_abandoned_is_given_up(attach: Attach) -> None:
    """A write has the file's lock, and reads bytes from the backend."""
    store = Store({"f": b"old" * 10_000}, commit_on_close=True)
    volume = attach(store)

    async def main() -> None:
        gate = store.gate("read_into")
        with pytest.raises(RuntimeError):
            async with aio.open(volume, "f", "r+") as file:
                for offset in range(10, 4000, 300):  # more pieces of a page than are kept apart
                    file.try_pwrite(b"x", offset)
                task = asyncio.ensure_future(file.pwrite(b"late" * 5000, 3905))
                await asyncio.to_thread(gate.wait_entered)
                task.cancel()
                raise RuntimeError
        gate.open()

    run(main())
    eventually(lambda: "rollback" in store.calls)
    assert content_of(volume, "f") == b"old" * 10_000
    eventually(lambda: not volume.orphans)
    assert volume.cache.stats().dirty == 0
    assert volume.cache.close(timeout=20) == []
    assert store.content("f") == b"old" * 10_000
