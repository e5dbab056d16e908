"""Waits of asyncio tasks: named by the task, followed through the threads that work for it, gone when it goes on."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from pagecache import PageCache, aio

from ..aio.stores import Store
from ..file.rig import FAST, KEY, PAGE, QUIET, Rig, Task, eventually, pattern
from .seen import no_wait_left, start, wait_of

Make = Callable[..., Rig]
DATA = pattern(16 * PAGE)
WORKER = r"pagecache-volume-\d+"
READS = rf"{WORKER} is in read_into of 'file' \[16384, 20480\) for [\d.]+ s, at .*"
SECONDS = 60


@dataclass
class Kind:
    """A way to wait, and its expected report."""

    gate: str
    call: Callable[[Rig, aio.AsyncCachedFile], Awaitable[Any]]
    what: str
    owner: str
    chain: list[str]


KINDS: dict[str, Kind] = {
    "a miss": Kind(
        "read_into",
        lambda rig, file: file.pread(10, 4 * PAGE),
        r"a fill of \[16384, 20480\)",
        "a read of the backend",
        [READS],
    ),
    "fsync": Kind(
        "commit",
        lambda rig, file: file.fsync(),
        "fsync",
        "a commit of the backend",
        [rf"{WORKER} is in commit of 'file' for .*"],
    ),
    "flush": Kind(
        "write_from",
        lambda rig, file: file.flush(),
        "flush",
        "a write of the backend",
        [rf"{WORKER} is in write_from of 'file' \[0, 4096\) for .*"],
    ),
    "a ticket": Kind(
        "write_from",
        lambda rig, file: awaited(rig),
        "sync",
        "a write of the backend",
        [rf"{WORKER} is in write_from of 'file' \[0, 4096\) for .*"],
    ),
    "a truncate": Kind(
        "truncate",
        lambda rig, file: file.truncate(PAGE),
        "a truncate or hole",
        "the call itself",
        [
            "pagecache-volume-change does that for .*",
            "pagecache-volume-change waits for the backend's truncate of 'file'",
            rf"{WORKER} is in truncate of 'file' for .*",
        ],
    ),
    "an open": Kind(
        "open",
        lambda rig, file: opened(rig),
        "an open",
        "the call itself",
        [
            "pagecache-volume-open does that for .*",
            "pagecache-volume-open waits for the backend's open of 'other'",
            rf"{WORKER} is in open of 'other' for .*",
        ],
    ),
}


async def awaited(rig: Rig) -> None:
    await rig.volume.begin_sync()


async def opened(rig: Rig) -> None:
    async with aio.open(rig.volume, "other"):
        pass


def running(rig: Rig, name: str, call: Callable[[], Awaitable[Any]]) -> tuple[Task[Any], Callable[[], None]]:
    """A loop on a separate thread with a task of this name; and a function that cancels it."""
    made: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = []

    async def main() -> Any:
        async def work() -> Any:
            return await call()

        task = asyncio.get_running_loop().create_task(work(), name=name)
        made.append((asyncio.get_running_loop(), task))
        return await task

    thread = start("loop", asyncio.run, main())
    eventually(lambda: made)

    def cancel() -> None:
        loop, task = made[0]
        loop.call_soon_threadsafe(task.cancel)

    return thread, cancel


@pytest.mark.parametrize("cancelled", [False, True], ids=["goes on", "cancelled"])
@pytest.mark.parametrize("name", KINDS)
def test_a_task_that_waits_is_reported_by_its_name(make: Make, name: str, cancelled: bool) -> None:
    """The report has the object, the owner, and the chain, through the thread that works for the task; then it is
    empty, also after a cancellation. [T-80]
    """
    kind = KINDS[name]
    rig = make({KEY: DATA, "other": DATA})
    plain = rig.open()
    file = aio.AsyncCachedFile(plain)
    plain.pwrite(b"d" * PAGE, 0)
    gate = rig.backend.gate(kind.gate)
    thread, cancel = running(rig, "the task", lambda: kind.call(rig, file))
    gate.wait_entered()
    eventually(lambda: len(wait_of(rig.cache, "the task").chain) == 1 + len(kind.chain))
    wait = wait_of(rig.cache, "the task")
    assert wait.task
    assert wait.thread == thread.thread.ident
    assert re.fullmatch(kind.what, wait.what)
    for pattern_, sentence in zip(kind.chain, wait.chain[1:], strict=True):
        assert re.fullmatch(pattern_, sentence)
    assert wait.owner is not None
    assert wait.owner.what == kind.owner
    if cancelled:
        cancel()
        with pytest.raises(asyncio.CancelledError):
            thread.result()
        assert not [wait for wait in rig.cache.waits() if wait.task]
    gate.open()
    if not cancelled:
        thread.result()
    no_wait_left(rig.cache)


def test_a_wait_of_a_task_lasts_over_its_looks(make: Make) -> None:
    """fsync checks every tenth of a second: it is still one wait, as old as the call. [T-80]"""
    rig = make({KEY: DATA})
    plain = rig.open()
    plain.pwrite(b"d", 0)
    with rig.backend.gate("commit") as gate:
        thread, _ = running(rig, "the task", aio.AsyncCachedFile(plain).fsync)
        gate.wait_entered()
        eventually(lambda: any(wait.seconds > 0.35 for wait in rig.cache.waits()))
    thread.result()
    no_wait_left(rig.cache)


def test_a_coroutine_of_a_backend_is_shown_as_the_call_of_its_thread() -> None:
    """The thread that started it waits for it. [T-80]"""
    store = Store({KEY: DATA})
    with PageCache("1MiB", **{**QUIET, "retry": FAST}) as cache:
        volume = cache.attach(store, name="volume", read_ahead=0)
        plain = volume.open(KEY, "r+")
        gate = store.gate("read_into")

        async def main() -> None:
            async def work() -> bytes:
                return bytes(await aio.AsyncCachedFile(plain).pread(10, 4 * PAGE))

            task = asyncio.get_running_loop().create_task(work(), name="the task")
            await asyncio.to_thread(gate.wait_entered)
            wait = await asyncio.to_thread(wait_of, cache, "the task")
            reads = r"pagecache-volume-\d+ is in read_into of 'file' \[16384, 20480\) for [\d.]+ s"
            assert re.fullmatch(reads, wait.chain[1])
            gate.open()
            assert await task == DATA[4 * PAGE : 4 * PAGE + 10]

        asyncio.run(asyncio.wait_for(main(), SECONDS))
        no_wait_left(cache)
        plain.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::RuntimeWarning")
def test_a_task_of_a_loop_that_was_closed_is_in_no_report(make: Make) -> None:
    """It never goes on, and nothing can end its wait. [T-80]"""
    rig = make({KEY: DATA})
    file = aio.AsyncCachedFile(rig.open())
    loop = asyncio.new_event_loop()

    async def work() -> None:
        await file.pread(10, 4 * PAGE)

    gate = rig.backend.gate("read_into")
    task = loop.create_task(work(), name="left")
    loop.call_soon(loop.stop)
    loop.run_forever()
    gate.wait_entered()
    assert [wait.name for wait in rig.cache.waits()] == ["left"]
    loop.close()
    assert rig.cache.waits() == []
    gate.open()
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    del task
    no_wait_left(rig.cache)
