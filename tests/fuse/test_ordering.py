"""Requests for the same bytes, one of them a write that has to wait: they are served in the order of arrival."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
import trio
import trio.testing

from pagecache import PageCache, Volume
from pagecache.fuse.files import Files, OpenFile
from pagecache.fuse.tasks import TrioFiles

PAGE = 4096


class Held(OpenFile):
    """An open file whose writes all have to wait, until they are released."""

    __slots__ = ("begun", "go_on", "order")

    def __init__(self, opened: OpenFile) -> None:
        super().__init__(opened.file, opened.number, writable=True)
        self.begun = threading.Semaphore(0)
        self.go_on = threading.Semaphore(0)
        self.order: list[bytes] = []

    def write_now(self, data: Any, offset: int) -> int | None:
        return None

    def write(self, data: Any, offset: int) -> int:
        self.begun.release()
        assert self.go_on.acquire(timeout=60)
        self.order.append(data)
        return super().write(data, offset)


@pytest.fixture
def volume() -> Iterator[Volume]:
    with PageCache("1MiB") as cache:
        yield cache.attach("memory:", read_ahead=0)


def held(files: Files) -> Held:
    """A file of old bytes, all cached."""
    fh = files.open("a", os.O_RDWR | os.O_CREAT)
    files.write(fh, 0, b"o" * 2 * PAGE)
    opened = Held(files.get(fh))
    files.by_number[fh] = opened
    return opened


def on_trio(volume: Volume, program: Callable[[TrioFiles, Held, trio.Nursery], Awaitable[None]], **how: Any) -> None:
    """Run a program on open files; release all waiting writes at its end."""

    async def main() -> None:
        files = TrioFiles(volume, error=lambda code: OSError(code, "reported"), **how)
        opened = held(files.files)
        async with trio.open_nursery() as nursery:
            try:
                await program(files, opened, nursery)
            finally:
                opened.go_on.release(10)
        opened.close()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0) if "deadline" in how else None)


def test_a_read_waits_for_a_write_that_came_before(volume: Volume) -> None:
    """It finds the written bytes; reads of other bytes are answered in between."""

    async def program(files: TrioFiles, opened: Held, nursery: trio.Nursery) -> None:
        found: list[object] = []

        async def read() -> None:
            found.append(await files.read(opened.number, 0, PAGE))

        nursery.start_soon(files.write, opened.number, 100, b"n" * 100)
        await trio.to_thread.run_sync(opened.begun.acquire)
        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        assert found == []
        assert await files.read(opened.number, PAGE, PAGE) == b"o" * PAGE
        opened.go_on.release()
        await trio.testing.wait_all_tasks_blocked()
        while not found:
            await trio.lowlevel.checkpoint()
        assert found == [b"o" * 100 + b"n" * 100 + b"o" * (PAGE - 200)]

    on_trio(volume, program)


def test_writes_of_the_same_bytes_follow_each_other(volume: Volume) -> None:
    """The later bytes stay; a write of other bytes is not delayed."""

    async def program(files: TrioFiles, opened: Held, nursery: trio.Nursery) -> None:
        nursery.start_soon(files.write, opened.number, 0, b"1" * 100)
        await trio.to_thread.run_sync(opened.begun.acquire)
        nursery.start_soon(files.write, opened.number, 50, b"2" * 100)
        await trio.testing.wait_all_tasks_blocked()
        assert not opened.begun.acquire(blocking=False)
        nursery.start_soon(files.write, opened.number, PAGE, b"3" * 100)
        await trio.to_thread.run_sync(opened.begun.acquire)
        opened.go_on.release(2)
        await trio.to_thread.run_sync(opened.begun.acquire)
        opened.go_on.release()
        assert await files.read(opened.number, 0, 200) == b"1" * 50 + b"2" * 100 + b"o" * 50

    on_trio(volume, program)


def test_a_request_behind_a_write_goes_on_at_its_deadline(volume: Volume) -> None:
    """EIO, as for the write itself; afterwards no request is blocked."""

    async def program(files: TrioFiles, opened: Held, nursery: trio.Nursery) -> None:
        codes: list[int | None] = []

        async def failing(call: Callable[..., Awaitable[object]], *arguments: object) -> None:
            with pytest.raises(OSError) as caught:
                await call(*arguments)
            codes.append(caught.value.errno)

        async with trio.open_nursery() as inner:
            inner.start_soon(failing, files.write, opened.number, 100, b"n" * 100)
            await trio.lowlevel.checkpoint()
            inner.start_soon(failing, files.read, opened.number, 0, PAGE)
        assert codes == [errno.EIO] * 2
        assert len(await files.read(opened.number, 0, PAGE)) == PAGE

    on_trio(volume, program, deadline=5.0)
