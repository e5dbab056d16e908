"""Several loops, loops that end with live tasks, forks: a loop owns nothing, so no caller hangs behind a dead one."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import os
import threading
from collections.abc import Awaitable
from typing import Any

import pytest

from pagecache import DeadlockError, aio
from pagecache.backends import MemoryBackend

from ..file.rig import KEY, PAGE, Task, pattern, raises, until_all_wait
from .conftest import Attach, run
from .stores import Store
from .test_handles import both

DATA = pattern(64 * PAGE)


async def until(condition: Any) -> None:
    while not condition():
        await asyncio.sleep(0.001)


def test_a_loop_closed_with_live_tasks(attach: Attach) -> None:
    """They wait for misses, fsync and room; other loops and threads wait for these too, and go on. [T-56]"""
    store = Store({KEY: DATA})
    volume = attach(store)
    plain = volume.open(KEY, "r+")
    plain.pwrite(b"dirty", 0)
    read, write = store.gate("read_into"), store.gate("write_from")
    dead = asyncio.new_event_loop()
    file = aio.AsyncCachedFile(plain)

    async def begin() -> list[asyncio.Task[Any]]:
        tasks = [
            asyncio.create_task(call) for call in (file.pread(10, 8 * PAGE), file.fsync(), file.truncate(9 * PAGE))
        ]
        for gate in (read, write):
            await asyncio.to_thread(gate.wait_entered)
        return tasks

    tasks = dead.run_until_complete(begin())
    dead.close()
    reader = Task(plain.pread, 10, 8 * PAGE)
    syncer = Task(plain.fsync)
    assert reader.waits()
    assert syncer.waits()

    async def another() -> None:
        call = asyncio.create_task(aio.AsyncCachedFile(plain).pread(10, 8 * PAGE))
        await until_all_wait(volume.cache, call)
        store.open_all()
        assert await call == DATA[8 * PAGE : 8 * PAGE + 10]

    run(another())
    assert reader.result() == DATA[8 * PAGE : 8 * PAGE + 10]
    syncer.result()
    for task in tasks:
        task._log_destroy_pending = False  # type: ignore[attr-defined]
    del tasks
    gc.collect()
    plain.pwrite(b"after", PAGE)
    plain.close()
    assert store.content(KEY)[PAGE : PAGE + 5] == b"after"


@both
def test_several_loops_at_once(attach: Attach, backend: Any) -> None:
    """Four threads have a loop each, over one file, beside plain threads."""
    volume = attach(backend(DATA), max_folio="4KiB", capacity="128KiB")

    def loop(k: int) -> None:
        async def work() -> None:
            async with aio.open(volume, KEY, "r+") as file:
                for n in range(100):
                    page = (k * 17 + n * 5) % 60
                    assert await file.pread(PAGE, page * PAGE) == DATA[page * PAGE : (page + 1) * PAGE]
                    if n % 10 == 0:
                        await file.pwrite(DATA[(60 + k) * PAGE : (61 + k) * PAGE], (60 + k) * PAGE)
                        await file.fsync()

        run(work())

    def thread() -> None:
        with volume.open(KEY) as file:
            for n in range(200):
                page = n * 7 % 60
                assert file.pread(PAGE, page * PAGE) == DATA[page * PAGE : (page + 1) * PAGE]

    tasks = [*(Task(loop, k) for k in range(4)), Task(thread)]
    for task in tasks:
        task.result()
    with volume.open(KEY) as file:
        assert file.read() == DATA


async def test_tasks_end_when_the_volume_is_aborted(attach: Attach) -> None:
    """Every wait of a task has a way out. [K9, I-23]"""
    store = Store({KEY: DATA})
    volume = attach(store)
    file = await aio.open(volume, KEY, "r+")
    await file.pwrite(b"dirty", 0)
    store.gate("read_into")
    store.gate("write_from")
    calls: list[Awaitable[object]] = [
        file.pread(10, 8 * PAGE),
        file.fsync(),
        file.flush(),
        file.truncate(PAGE),
        volume.begin_sync(),
    ]
    tasks = [asyncio.ensure_future(call) for call in calls]
    await until(lambda: store.gates["read_into"].waiting and store.gates["write_from"].waiting)
    volume.abort(OSError("gone"))
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(r).__name__ for r in results] == ["ShutdownError"] * len(tasks)
    store.open_all()
    volume.reconnect(store)
    assert await file.pread(10, 8 * PAGE) == DATA[8 * PAGE : 8 * PAGE + 10]
    await file.fsync()
    await file.close()
    assert store.content(KEY)[:5] == b"dirty"


def test_without_a_running_loop_an_await_says_so(attach: Attach) -> None:
    """Other frameworks drive a coroutine by hand: a hit succeeds, a wait is a clear error."""
    volume = attach(MemoryBackend())
    with volume.open(KEY, "w+") as plain:
        plain.write(DATA)
        plain.fsync()
        file = aio.AsyncCachedFile(plain)
        assert raises(StopIteration, file.pread(3, 0).send, None).value == DATA[:3]
        volume.drop_clean()
        raises(RuntimeError, file.pread(3, 0).send, None, match="no running event loop")
        assert plain.pread(3, 0) == DATA[:3]


# ---------------------------------------------------------------- re-entrancy


Verb = Any
INSIDE: dict[str, tuple[str, Verb]] = {
    "a plain read": ("deadlock", lambda volume, file: file._file.pread(10, 20 * PAGE)),
    "a plain write": ("deadlock", lambda volume, file: file._file.pwrite(b"x", 0)),
    "fsync": ("deadlock", lambda volume, file: file._file.fsync()),
    "open": ("deadlock", lambda volume, file: volume.open("other")),
    "a ticket": ("deadlock", lambda volume, file: volume.begin_sync().wait()),
    "an awaited read": ("deadlock", lambda volume, file: file.pread(10, 20 * PAGE)),
    "an awaited write": ("deadlock", lambda volume, file: file.pwrite(b"x", 0)),
    "an awaited fsync": ("deadlock", lambda volume, file: file.fsync()),
    "in a child task": ("deadlock", lambda volume, file: asyncio.create_task(child(file))),
    "in to_thread": ("deadlock", lambda volume, file: asyncio.to_thread(file._file.pread, 10, 20 * PAGE)),
    "a write in to_thread": ("deadlock", lambda volume, file: asyncio.to_thread(file._file.pwrite, b"x", 0)),
    "a read of what is cached": ("fine", lambda volume, file: file._file.pread(10, 0)),
    "an awaited read of what is cached": ("fine", lambda volume, file: file.pread(10, 0)),
    "an announcement": ("fine", lambda volume, file: volume.invalidate_remote("other")),
}


async def child(file: aio.AsyncCachedFile) -> bytes:
    return await file.pread(10, 20 * PAGE)


@pytest.mark.parametrize("where", ["read_into", "write_from", "commit", "open"])
@pytest.mark.parametrize("verb", INSIDE)
def test_what_a_backend_may_do_on_its_own_volume(attach: Attach, verb: str, where: str) -> None:
    """DeadlockError instead of a hang: the context follows awaits, tasks and threads. [T-49, 2.25]"""
    outcome, action = INSIDE[verb]
    store = Store({KEY: DATA, "other": DATA})
    volume = attach(store)
    found: list[Any] = []

    async def act(*args: Any) -> Any:
        store.instead.clear()
        try:
            answer = action(volume, file)
            if hasattr(answer, "__await__"):
                answer = await answer
            found.append("fine")
        except DeadlockError:
            found.append("deadlock")
        except BaseException as error:
            found.append(error)
        return NotImplemented

    with volume.open(KEY, "r+") as plain:
        file = aio.AsyncCachedFile(plain)
        plain.pread(10, 0)
        plain.pwrite(b"dirty", PAGE)
        store.instead[where] = act
        use = {"read_into": lambda: plain.pread(10, 30 * PAGE), "open": lambda: volume.open("other").close()}
        Task(use.get(where, plain.fsync)).result()
        assert found == [outcome]


async def test_a_backend_on_another_volume(attach: Attach) -> None:
    """It awaits handles of a volume below it, on the cache's own loop; misses and writes included. [2.25]"""
    below = Store({KEY: DATA})
    cache = attach(below).cache
    lower = cache.volumes()[0]
    lower_file = lower.open(KEY, "r+")

    class Stacked(Store):
        async def reached(self, method: str, *args: Any) -> Any:
            if method == "read_into":
                offset, buffers = args
                return await aio.AsyncCachedFile(lower_file).preadv(buffers, offset)
            if method == "write_from":
                offset, buffers = args
                return await aio.AsyncCachedFile(lower_file).pwritev(buffers, offset)
            return await super().reached(method, *args)

    upper = cache.attach(Stacked({KEY: DATA}), read_ahead=0)
    async with aio.open(upper, KEY, "r+") as file:
        assert await file.pread(len(DATA), 0) == DATA
        await file.pwrite(b"through both", 100)
        await file.fsync()
    lower_file.fsync()
    lower_file.close()
    assert below.content(KEY)[100:112] == b"through both"


async def test_the_context_of_an_application_is_left_alone(attach: Attach) -> None:
    """Context variables of a task are unchanged after an await."""
    volume = attach(Store({KEY: DATA}))
    mine: contextvars.ContextVar[str] = contextvars.ContextVar("mine", default="none")
    mine.set("here")
    before = dict(contextvars.copy_context())
    async with aio.open(volume, KEY) as file:
        await file.pread(10, 0)
    assert dict(contextvars.copy_context()) == before


def test_loops_that_come_and_go_leave_no_descriptors_or_threads(attach: Attach) -> None:
    volume = attach(Store({KEY: DATA}))

    async def once() -> None:
        async with aio.open(volume, KEY, "r+b") as file:
            volume.drop_clean()
            assert await file.pread(PAGE, PAGE) == DATA[PAGE : 2 * PAGE]
            await file.pwrite(DATA[:PAGE], 0)
            await volume.begin_sync()

    for turn in range(220):
        if turn == 20:
            before, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
        run(once())
    assert len(os.listdir("/proc/self/fd")) <= before + 2
    assert threading.active_count() <= threads + 2
