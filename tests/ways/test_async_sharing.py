"""Awaited handles beside each other, beside threads, and on loops that come and go."""

from __future__ import annotations

import asyncio
import os
import threading

from pagecache import Volume, aio

from .awaiting import BLOCK, PAGE, run
from .conftest import Attach
from .plain import PlainStore


def test_sync_and_async_handles_share_everything(volume: Volume) -> None:
    with volume.open("f", "w+b") as sync:

        async def main() -> None:
            async with aio.open(volume, "f", "r+b") as file:
                sync.pwrite(b"one", 0)
                assert await file.pread(3, 0) == b"one"
                await file.pwrite(b"two", 0)
                assert sync.pread(3, 0) == b"two"
                assert sync.size == file.size == 3

        run(main())


def test_a_ticket_is_awaited_on_several_loops(volume: Volume) -> None:
    """`SyncTicket` can be awaited: by many tasks, on several loops at once, beside a thread, and when it is done."""
    with volume.open("f", "w+b") as file:
        file.pwrite(BLOCK * 4, 0)
        ticket = volume.begin_sync()
        errors: list[BaseException] = []

        async def main() -> None:
            async def waits() -> None:
                await ticket

            await asyncio.gather(*(waits() for _ in range(20)))
            await ticket

        def on_a_loop() -> None:
            try:
                run(main())
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=on_a_loop) for _ in range(4)]
        for thread in threads:
            thread.start()
        ticket.wait(20)
        for thread in threads:
            thread.join(20)
        assert errors == []
        assert ticket.done()
        assert ticket.remaining == 0


def test_fsync_with_a_timeout_of_nothing(attach: Attach) -> None:
    """A deadline that has passed is a TimeoutError, or success; the data is not lost."""
    volume = attach(PlainStore())

    async def main() -> None:
        async with aio.open(volume, "f", "w") as file:
            await file.pwrite(BLOCK, 0)
            try:
                await file.fsync(timeout=0)
            except TimeoutError:
                pass
            await file.fsync()

    run(main())
    assert volume.backend.objects["f"] == BLOCK  # type: ignore[union-attr]


def test_many_tasks_append_atomically(volume: Volume) -> None:
    async def main() -> None:
        async with aio.open(volume, "f", "a+b") as one, aio.open(volume, "f", "r+b") as two:
            records = [bytes([i]) * 100 for i in range(60)]
            offsets = await asyncio.gather(*((one, two)[i % 2].append(record) for i, record in enumerate(records)))
            assert sorted(offsets) == list(range(0, 6000, 100))
            for offset, record in zip(offsets, records, strict=True):
                assert await one.pread(100, offset) == record

    run(main())


def test_a_loop_that_is_gone_leaves_handle_and_file_usable(volume: Volume) -> None:
    """A handle opened on one loop works on the next."""

    async def first() -> aio.AsyncCachedFile:
        file = await aio.open(volume, "f", "w+b").__aenter__()
        await file.pwrite(BLOCK, 0)
        return file

    file = run(first())

    async def second() -> None:
        assert await file.pread(PAGE, 0) == BLOCK
        await file.fsync()
        volume.drop_clean()
        assert await file.pread(PAGE, 0) == BLOCK
        await file.close()

    run(second())


def nr_fds() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_loops_that_come_and_go_leave_no_descriptors_or_threads(attach: Attach) -> None:
    volume = attach(PlainStore({"f": BLOCK * 16}))

    async def once() -> None:
        async with aio.open(volume, "f", "r+b") as file:
            volume.drop_clean()
            assert await file.pread(PAGE, PAGE * 3) == BLOCK
            await file.pwrite(BLOCK, 0)
            await volume.begin_sync()

    for _ in range(20):
        run(once())
    before, threads = nr_fds(), threading.active_count()
    for _ in range(200):
        run(once())
    assert nr_fds() <= before + 2
    assert threading.active_count() <= threads + 2


def test_loops_closed_with_live_tasks_leave_no_descriptors(attach: Attach) -> None:
    store = PlainStore({"f": BLOCK * 16})
    volume = attach(store)

    def once() -> None:
        loop = asyncio.new_event_loop()

        async def opened() -> aio.AsyncCachedFile:
            return await aio.open(volume, "f", "r+b").__aenter__()

        file = loop.run_until_complete(opened())
        volume.drop_clean()
        tasks = [loop.create_task(file.pread(PAGE, PAGE * i)) for i in range(4)]
        loop.run_until_complete(asyncio.sleep(0))
        for task in tasks:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        loop.close()
        file_closed = asyncio.new_event_loop()
        file_closed.run_until_complete(file.close())
        file_closed.close()

    import gc

    for _ in range(10):
        once()
    gc.collect()
    before = nr_fds()
    for _ in range(100):
        once()
    gc.collect()
    assert nr_fds() <= before + 4
