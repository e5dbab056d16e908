"""Threads for work that a task must not wait for itself (engine/aside.py)."""

from __future__ import annotations

import asyncio
import errno
import threading
from queue import Empty, SimpleQueue
from typing import Any

import pytest

from pagecache import native
from pagecache.engine import aside

from ..file.rig import Patch, raises
from .conftest import Attach
from .stores import Store


def test_a_call_that_comes_when_the_last_thread_gives_up_waiting_is_run(monkeypatch: Patch) -> None:
    """The thread has waited long enough and finds nothing; the call counted on it. (pair)"""
    lane = aside._Lane("test", lambda: 8)
    gives_up, looks = threading.Event(), threading.Event()

    class Queue(SimpleQueue[Any]):
        def get(self, block: bool = True, timeout: float | None = None) -> Any:
            if gives_up.is_set():
                return super().get(block, 20)
            gives_up.set()
            assert looks.wait(20)
            raise Empty

        def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
            if gives_up.is_set() and not looks.is_set():  # the call without a new thread
                looks.set()
                thread.join(0.2)  # it ends, if it may
            super().put(item, block, timeout)

    monkeypatch.setattr(lane, "_calls", Queue())

    async def main() -> int:
        made = aside._Call(lambda: 7)
        lane._threads = 1
        thread.start()
        await asyncio.to_thread(gives_up.wait, 20)
        lane.submit(made)
        await asyncio.wait_for(made.over, 20)
        return int(made.result())

    thread = threading.Thread(target=lane._work, daemon=True)
    assert asyncio.run(main()) == 7
    lane.stop()


def test_a_call_whose_thread_is_refused_is_run_by_a_thread_that_there_is(monkeypatch: Patch) -> None:
    """The lane has a thread, which is busy: the call waits for it. Without any thread the call is refused."""
    lane, begun, free = aside._Lane("test", lambda: 8), threading.Event(), threading.Event()

    def busy() -> int:
        begun.set()
        assert free.wait(20)
        return 1

    def refuse(thread: threading.Thread, whose: str) -> None:
        raise BlockingIOError(errno.EAGAIN, f"a thread {whose} cannot be started")

    async def main() -> tuple[int, int]:
        first, second = aside._Call(busy), aside._Call(lambda: 2)
        lane.submit(first)
        await asyncio.to_thread(begun.wait, 20)
        with monkeypatch.context() as patched:
            patched.setattr(aside, "start_thread", refuse)
            lane.submit(second)
            raises(BlockingIOError, aside._Lane("other", lambda: 8).submit, aside._Call(lambda: 3))
        free.set()
        for call in (first, second):
            await asyncio.wait_for(call.over, 20)
        return first.result(), second.result()

    try:
        assert asyncio.run(main()) == (1, 2)
        assert lane._threads == 1
    finally:
        free.set()
        lane.stop()


async def test_a_call_that_has_not_begun_at_its_deadline_or_cancellation_does_not_begin(attach: Attach) -> None:
    """All threads of the lane are busy: the caller ends the wait in line. [2.1, 2.10]"""
    volume = attach(Store({"file": b""}, max_inflight=1))
    free, ran = threading.Event(), threading.Event()
    busy = [asyncio.create_task(volume.aside.run("sync", free.wait)) for _ in range(aside.THREADS)]
    await asyncio.sleep(0)
    with pytest.raises(TimeoutError, match="has not begun"):
        await volume.aside.run("sync", ran.set, timeout=0.01)
    cancelled = asyncio.create_task(volume.aside.run("sync", ran.set))
    await asyncio.sleep(0)
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    free.set()
    assert await asyncio.gather(*busy) == [True] * aside.THREADS
    await volume.aside.run("sync", lambda: None)
    assert not ran.is_set()


async def test_a_future_that_cannot_be_ended_is_reported() -> None:
    """One that has ended stays as it is. [T-56]"""

    class Refusing(asyncio.Future[None]):
        def set_result(self, result: None, /) -> None:
            raise OSError("refused")

    loop = asyncio.get_running_loop()
    good, over = loop.create_future(), loop.create_future()
    over.cancel()
    for future in (good, over, good):
        native.wake(future)
    raises(OSError, native.wake, Refusing(loop=loop), match="refused")
    assert good.done()
    assert over.cancelled()
