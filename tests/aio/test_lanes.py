"""Threads for work that a task must not wait for itself (engine/aside.py)."""

from __future__ import annotations

import asyncio
import errno
import threading
from queue import Empty, SimpleQueue
from typing import Any

import pytest

from pagecache.engine import aside
from pagecache.engine.tasks import ended


def test_a_call_that_comes_when_the_last_thread_gives_up_waiting_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread has waited long enough and finds nothing; the call counted on it. (pair)"""
    lane = aside._Lane("test")
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
        made = aside._Call(lambda: 7, None)
        lane._threads = 1
        thread.start()
        await asyncio.to_thread(gives_up.wait, 20)
        lane.submit(made)
        await asyncio.wait_for(ended(made.ticket), 20)
        return int(made.result())

    thread = threading.Thread(target=lane._work, daemon=True)
    assert asyncio.run(main()) == 7
    lane.stop()


def test_a_call_whose_thread_is_refused_is_run_by_a_thread_that_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lane has a thread, which is busy: the call waits for it. Without any thread the call is refused."""
    lane, begun, free = aside._Lane("test"), threading.Event(), threading.Event()

    def busy() -> int:
        begun.set()
        assert free.wait(20)
        return 1

    def refuse(thread: threading.Thread, whose: str) -> None:
        raise BlockingIOError(errno.EAGAIN, f"a thread {whose} cannot be started")

    async def main() -> tuple[int, int]:
        first, second = aside._Call(busy, None), aside._Call(lambda: 2, None)
        lane.submit(first)
        await asyncio.to_thread(begun.wait, 20)
        with monkeypatch.context() as patched:
            patched.setattr(aside, "start_thread", refuse)
            lane.submit(second)
            with pytest.raises(BlockingIOError):
                aside._Lane("other").submit(aside._Call(lambda: 3, None))
        free.set()
        for call in (first, second):
            await asyncio.wait_for(ended(call.ticket), 20)
        return first.result(), second.result()

    try:
        assert asyncio.run(main()) == (1, 2)
        assert lane._threads == 1
    finally:
        free.set()
        lane.stop()
