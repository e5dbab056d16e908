"""The ends of awaited handles: close, abandon, cancelled opens, exceptions in the body; and newly created objects,
which have no version before they are committed.
"""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from pagecache import CommitError, DataLossError, Volume, aio
from pagecache.engine.file import EngineFile
from pagecache.native import NativeInode
from pagecache.options import OpenMode
from pagecache.volume.inode import Inode

from ..file.rig import ONCE, PAGE, Patch, Task, content_of, eventually, raises, raising, until_all_wait
from ..stores import WAIT_LIMIT_S, RecordingBackend
from .conftest import Attach, cancelled
from .stores import Gate, Store


@pytest.mark.parametrize("whole", [False, True], ids=["files", "objects"])
@pytest.mark.parametrize("how", ["an exception", "a cancellation"])
async def test_leaving_the_body_by_an_exception_abandons_objects_and_closes_files(
    attach: Attach, how: str, whole: bool
) -> None:
    """`async with` acts as `with`: what only a commit publishes is not published half-written. [T-56, T-77, 2.22]"""
    volume = attach(Store(commit_on_close=whole))

    class Oops(Exception): ...

    async def body(ready: asyncio.Event) -> None:
        async with aio.open(volume, "f", "w+b") as file:
            await file.pwrite(b"half", 0)
            if how == "an exception":
                raise Oops
            ready.set()
            await asyncio.sleep(1000)

    ready = asyncio.Event()
    task = asyncio.create_task(body(ready))
    if how == "a cancellation":
        await ready.wait()
        task.cancel()
    with pytest.raises((Oops, asyncio.CancelledError)):
        await task
    if whole:
        assert not volume.exists("f")
    else:
        assert content_of(volume, "f") == b"half"


@pytest.mark.parametrize("mode", ["w", "w+", "x"])
async def test_an_open_that_was_cancelled_publishes_no_empty_object(attach: Attach, mode: OpenMode) -> None:
    """The backend goes on with the open. The handle that emptied or created the object is gone, so a later sync does
    not publish that, and an exclusive open may be repeated. [T-56, 2.22]
    """
    store = Store({"f": b"old"} if mode != "x" else {}, commit_on_close=True)
    volume = attach(store)
    gate = store.gate("open")
    await cancelled(gate, aio.open(volume, "f", mode)._open())
    gate.open()
    eventually(lambda: "rollback" in store.calls)
    if mode == "x":
        async with aio.open(volume, "f", "x") as file:
            await file.pwrite(b"old", 0)
    assert content_of(volume, "f") == b"old"
    volume.sync()
    assert store.content("f") == b"old"
    assert [inode.handles for inode in volume.inodes.values()] == [0]


async def test_close_does_not_block_the_loop_for_the_version(attach: Attach) -> None:
    """Nothing is dirty, but the acknowledged version has to be queried. [T-55]"""
    store = Store({"f": b"old"}, versions=True, durable_writes=True)
    volume = attach(store)
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


async def behind_a_truncate(volume: Volume, file: aio.AsyncCachedFile, gate: Gate) -> None:
    """The truncate of a cancelled task holds the file's locks; others stand in line."""
    tasks: list[asyncio.Task[Any]] = [asyncio.create_task(file.truncate(100))]
    await asyncio.to_thread(gate.wait_entered)
    late = (file.pwrite(b"late", 0), file.append(b"late"), file.zero_range(0, 9), file.truncate(9))
    tasks += [asyncio.create_task(call) for call in late]
    await until_all_wait(volume.cache, *tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def beside_a_read(volume: Volume, file: aio.AsyncCachedFile, gate: Gate) -> None:
    """A write has the file's lock, and reads bytes from the backend."""
    for offset in range(10, 4000, 300):  # more pieces of a page than are kept apart
        file.try_pwrite(b"x", offset)
    task = asyncio.ensure_future(file.pwrite(b"late" * 5000, 3905))
    await asyncio.to_thread(gate.wait_entered)
    task.cancel()


@pytest.mark.parametrize("fails", [False, True], ids=["published", "refused"])
@pytest.mark.parametrize("beside", [True, False], ids=["beside it", "after it"])
async def test_the_close_after_a_cancelled_one_has_its_result(attach: Attach, *, beside: bool, fails: bool) -> None:
    """As `asyncio.wait_for(file.close(), 5)` does it. The loop runs meanwhile. [2.16, 2.20]"""
    store = Store({"f": b"old"}, commit_on_close=True)
    volume = attach(store, retry=ONCE)
    file = await aio.open(volume, "f", "w")
    await file.pwrite(b"new", 0)
    gate = store.gate("commit")
    await cancelled(gate, file.close())
    if fails:
        store.instead["commit"] = raising(OSError(errno.EACCES, "no"))
    if beside:
        again = asyncio.create_task(file.close())
        await until_all_wait(volume.cache, again)
        gate.open()
    else:
        gate.open()
        await asyncio.to_thread(eventually, lambda: file.closed and not volume.inodes["f"].handles)
        again = asyncio.create_task(file.close())
    if fails:
        with pytest.raises(CommitError, match="no"):
            await again
    else:
        await again
    assert store.content("f") == (b"old" if fails else b"new")


async def test_an_exception_in_the_body_waits_for_no_close_that_the_body_has_left(attach: Attach) -> None:
    """As `asyncio.wait_for(file.close(), 5)` leaves it, beside a store that hangs. [2.16]"""
    store = Store({"f": b"old"})
    volume = attach(store)
    file = await aio.open(volume, "f", "r+")
    await file.pwrite(b"new", 0)
    gate = store.gate("write_from")

    async def body() -> None:
        async with file:
            await cancelled(gate, file.close())
            raise BufferError

    leaving = asyncio.create_task(body())
    await asyncio.wait({leaving}, timeout=WAIT_LIMIT_S)
    assert leaving.done()
    gate.open()
    with pytest.raises(BufferError):
        await leaving
    await file.close()
    assert store.content("f") == b"new"


async def test_a_write_that_ends_right_after_its_object_was_dropped_is_not_published(
    attach: Attach, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[T-56]"""
    store, drop = Store({"f": b"old" * 10_000}, commit_on_close=True), Inode.drop
    volume = attach(store)
    gate = store.gate("read_into")

    def beside(self: Inode, start: int, end: int) -> Any:
        dropped = drop(self, start, end)
        gate.open()
        eventually(lambda: not self.is_changing())
        return dropped

    with pytest.raises(RuntimeError):
        async with aio.open(volume, "f", "r+") as file:
            await beside_a_read(volume, file, gate)
            monkeypatch.setattr(Inode, "drop", beside)
            raise RuntimeError
    eventually(lambda: "rollback" in store.calls)
    assert content_of(volume, "f") == b"old" * 10_000


@pytest.mark.parametrize(
    ("method", "cancelled"), [("truncate", behind_a_truncate), ("read_into", beside_a_read)], ids=["truncate", "write"]
)
async def test_calls_in_progress_when_an_object_was_abandoned_are_not_published(
    attach: Attach, method: str, cancelled: Callable[..., Awaitable[None]]
) -> None:
    """They go on when their tasks are cancelled. [T-56, T-77]"""
    store = Store({"f": b"old" * 10_000}, commit_on_close=True)
    volume = attach(store)
    gate = store.gate(method)
    with pytest.raises(RuntimeError):
        async with aio.open(volume, "f", "r+") as file:
            await cancelled(volume, file, gate)
            raise RuntimeError
    gate.open()
    eventually(lambda: "rollback" in store.calls)
    assert content_of(volume, "f") == b"old" * 10_000
    eventually(lambda: not volume.orphans)
    volume.sync()
    assert volume.dirty_ranges("f") == []
    assert volume.cache.stats().dirty == 0
    assert "commit" not in store.calls
    assert volume.cache.close(timeout=20) == []
    assert store.content("f") == b"old" * 10_000


@pytest.mark.parametrize("written", [b"", b"bytes"])
def test_a_created_object_may_be_opened_again_though_its_file_names_a_version(attach: Attach, written: bytes) -> None:
    """An object that was created and not committed is there for open, stat and exists, and is one inode. [2.20]"""
    store = Store(commit_on_close=True)  # answers version 0 for an uncommitted object
    volume = attach(store)
    with volume.open("f", "w+") as one:
        one.pwrite(written, 0)
        assert volume.exists("f")
        assert volume.stat("f").size == len(written)
        with volume.open("f", flags=os.O_RDWR) as two:
            two.pwrite(b"!", len(written))
            assert one.pread(10, 0) == written + b"!"
    assert store.content("f") == written + b"!"


def test_a_store_that_shows_what_is_created_at_once_is_no_conflict(attach: Attach) -> None:
    """It is harmless: the version is the one that the file named. [2.19, 2.20]"""
    volume = attach(RecordingBackend({}, staged=True))
    with volume.open("f", "x+b") as one:
        with volume.open("f", "r+b") as two:
            two.pwrite(b"bytes", 0)
        one.fsync()
        volume.open("f").close()
        assert one.pread(10, 0) == b"bytes"


def test_a_created_object_that_was_rolled_back_is_still_created(attach: Attach) -> None:
    """The backend may forget its bytes, but it was still created here; closing publishes it. [2.19, 2.20]"""
    store = Store(commit_on_close=True)
    volume = attach(store)
    with volume.open("f", "x+") as one:
        one.pwrite(b"x" * 3 * PAGE, 0)
        one.flush()
        eventually(lambda: volume.stats().unstable == 3 * PAGE)
        assert sum(lost.length for lost in volume.discard("f", 0, PAGE)) == PAGE
        assert "rollback" in store.calls
        volume.open("f").close()
        raises(DataLossError, one.flush)
    assert store.content("f") == bytes(PAGE) + b"x" * 2 * PAGE


def test_a_direct_write_that_begins_with_a_commit_is_no_remote_change(attach: Attach, monkeypatch: Patch) -> None:
    """The version that a commit answers is not that of a direct write that began at the same time. [2.19]"""
    monkeypatch.setattr(EngineFile, "_checks_writes", lambda file: True)  # C counts and calls in one step
    backend = RecordingBackend({"f": bytes(4 * PAGE)}, durable_writes=False, parallel_direct_writes=True)
    volume = attach(backend)
    one = volume.open("f", "r+")
    direct = volume.open("f", "r+", direct=True)
    begun: list[Task[int]] = []
    gates = []
    count = NativeInode.direct_count

    def meanwhile(native: NativeInode) -> int:
        found = count(native)
        if not begun and native.commit_running():
            gates.append(backend.gate("write_from"))
            begun.append(Task(direct.pwrite, b"d" * PAGE, 2 * PAGE))
            gates[0].wait_entered()
        return found

    one.pwrite(b"b" * PAGE, 0)
    one.flush()
    monkeypatch.setattr(NativeInode, "direct_count", meanwhile)
    one.fsync()
    assert begun
    gates[0].open()
    assert begun[0].result() == PAGE
    one.pwrite(b"b", 0)
    volume.open("f").close()
    one.fsync()
    direct.close()
    one.close()
