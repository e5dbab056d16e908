"""Direct I/O of tasks, and tasks beside direct I/O: over blocking and asynchronous backends."""

from __future__ import annotations

import asyncio
import errno
import threading
from typing import Any

import pytest

from pagecache import ShutdownError, aio

from ..file.rig import KEY, ONCE, PAGE, Task, eventually, pattern, raises
from ..stores import WAIT_LIMIT_S, RecordingBackend
from .conftest import Attach, cancelled
from .stores import Store

DATA = pattern(16 * PAGE)


@pytest.mark.parametrize("verb", ["pread_into", "pwrite"])
async def test_a_cancelled_direct_call_leaves_the_file_usable(attach: Attach, verb: str) -> None:
    """A cancelled read stores nothing; a write keeps its lock until the backend's call has returned. [T-56]"""
    store = Store({KEY: DATA}, parallel_direct_writes=True)
    volume = attach(store)
    space = bytearray(b"?" * PAGE)
    async with aio.open(volume, KEY, "r+", direct=True, parallel_direct_writes=True) as direct:
        gate = store.gate("read_into" if verb == "pread_into" else "write_from")
        await cancelled(gate, direct.pread_into(space, 0) if verb == "pread_into" else direct.pwrite(b"w" * PAGE, 0))
        store.open_all()
        await direct.truncate(8 * PAGE)  # waits for running calls
        assert (await direct.pread(PAGE, 0)) == (b"w" * PAGE if verb == "pwrite" else DATA[:PAGE])
    assert space == b"?" * PAGE


@pytest.mark.parametrize("verb", ["pread_into", "readinto", "preadv"])
def test_a_direct_read_that_an_abort_ends_stores_nothing_later(attach: Attach, verb: str) -> None:
    """The backend reads on a thread, which no cancelling ends. The memory is the program's again. [2.9]"""
    store = Store({KEY: DATA})
    volume = attach(store)
    entered, go, stored = threading.Event(), threading.Event(), threading.Event()

    def reads(buffer: memoryview) -> int:
        with memoryview(buffer) as view:
            entered.set()
            assert go.wait(WAIT_LIMIT_S)
            view[:] = b"d" * len(view)
        stored.set()
        return PAGE

    store.instead["read_into"] = lambda offset, buffers: asyncio.to_thread(reads, buffers[0])
    space = bytearray(b"?" * PAGE)
    with volume.open(KEY, direct=True) as file:
        call = {"pread_into": (space, 0), "readinto": (space,), "preadv": ([space], 0)}[verb]
        reader = Task(getattr(file, verb), *call)
        assert entered.wait(WAIT_LIMIT_S)
        volume.abort()
        raises(ShutdownError, reader.result)
        go.set()
        assert stored.wait(WAIT_LIMIT_S)
        assert space == b"?" * PAGE


@pytest.mark.parametrize("grow", ["write", "truncate"])
async def test_a_cancelled_write_behind_the_end_shows_nowhere(attach: Attach, grow: str) -> None:
    """Its call fails after storing some bytes, while a commit has the token; the file grows over them. [2.10]"""
    store = RecordingBackend({KEY: DATA}, direct_unit=PAGE, parallel_direct_writes=True)
    volume = attach(store, retry=ONCE)
    async with aio.open(volume, KEY, "r+", direct=True) as direct, aio.open(volume, KEY, "r+") as file:
        await file.pwrite(b"mine", 0)
        committing = store.gate("commit")
        saving = asyncio.create_task(file.fsync())
        await asyncio.to_thread(committing.wait_entered)
        stored = store.gate("write_from answer")
        store.fault("write_from answer", OSError(errno.EIO, "not all of it"))
        await cancelled(stored, direct.pwrite(b"t" * PAGE, len(DATA)))
        stored.open()
        grows = file.pwrite(b"far", len(DATA) + PAGE) if grow == "write" else file.truncate(len(DATA) + PAGE + 3)
        growing = asyncio.create_task(grows)
        await asyncio.to_thread(eventually, lambda: len(volume.cache.waits()) >= 2)
        committing.open()
        await asyncio.gather(saving, growing)
        await file.flush()
        assert await direct.pread(PAGE, len(DATA)) == bytes(PAGE)
        await file.fsync()
    saved = store.committed(KEY)
    assert saved is not None
    assert saved[len(DATA) :] == bytes(PAGE) + (b"far" if grow == "write" else bytes(3))
    assert store.violations == []


@pytest.mark.parametrize("failing", [0, 1])
async def test_a_task_gets_bytes_that_are_invalidated_again_and_again(attach: Attach, failing: int) -> None:
    """It reads past the cache, on a thread, as a thread does; even if a call before failed."""
    store = Store({KEY: DATA})
    volume = attach(store)
    reads = 0

    async def beside_a_write(offset: int, buffers: Any) -> Any:
        nonlocal reads
        reads += 1
        if reads <= failing:
            raise OSError(errno.EIO, "a moment")
        volume.invalidate_remote(KEY)
        return NotImplemented

    store.instead["read_into"] = beside_a_write
    async with aio.open(volume, KEY) as file:
        assert await file.pread(2 * PAGE, PAGE) == DATA[PAGE : 3 * PAGE]
    assert reads > 4
    volume.cache.check()
