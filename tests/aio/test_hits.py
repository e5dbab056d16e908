"""Awaited hits cost nothing of a loop: no thread, no future, no turn."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any

from pagecache import aio

from ..file.rig import KEY, PAGE
from .conftest import Attach
from .test_handles import DATA, SECONDS, both


class Counted(asyncio.SelectorEventLoop):
    """Counters of objects that a hit must not make."""

    def __init__(self) -> None:
        super().__init__()
        self.futures = self.scheduled = 0

    def create_future(self) -> asyncio.Future[Any]:
        self.futures += 1
        return super().create_future()

    def call_soon(self, *args: Any, **options: Any) -> asyncio.Handle:  # type: ignore[override]
        self.scheduled += 1
        return super().call_soon(*args, **options)


def run_counted(work: Coroutine[Any, Any, None]) -> None:
    loop = Counted()
    try:
        loop.run_until_complete(asyncio.wait_for(work, SECONDS))
    finally:
        loop.close()


@both
def test_a_thousand_tasks_hit_without_thread_future_or_turn(attach: Attach, backend: Any) -> None:
    """Cached bytes are read and written: no thread, no future, no suspension; as calls and as tasks. [T-55]"""
    volume = attach(backend(), max_folio="4KiB")

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        async with aio.open(volume, KEY, "r+") as file:
            await file.prefetch(wait=True)
            threads = threading.active_count()
            futures, scheduled = loop.futures, loop.scheduled
            for k in range(1000):
                assert await file.pread(100, k * 10) == DATA[k * 10 : k * 10 + 100]
            buffer = bytearray(PAGE)
            assert await file.pread_into(buffer, PAGE) == PAGE
            assert await file.pwrite(b"new", 5) == 3
            assert (loop.futures, loop.scheduled) == (futures, scheduled)
            steps: list[str] = []

            async def one(k: int) -> None:
                steps.append("begins")
                await file.pread(100, k)
                steps.append("ends")

            await asyncio.gather(*(one(k) for k in range(1000)))
            assert steps == ["begins", "ends"] * 1000  # no other task ran in between
            assert threading.active_count() <= threads

    run_counted(main())
