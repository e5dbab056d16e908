"""Awaited handles over every kind of store: verbs, modes, options, tasks beside each other, loops that come and go."""

from __future__ import annotations

import asyncio
import io
import os
import threading

import pytest

from pagecache import Volume, aio
from pagecache.options import OpenMode

from .awaiting import BLOCK, PAGE, content, run
from .conftest import Attach
from .plain import PlainStore


def test_each_verb_of_a_handle_can_be_awaited(volume: Volume) -> None:
    """T-55: the verbs of CachedFile as coroutines."""

    async def main() -> None:
        async with aio.open(volume, "f", "w+b") as file:
            assert await file.pwrite(b"hello", 0) == 5
            assert await file.pwritev([b" ", b"", b"world"], 5) == 6
            assert await file.append(b"!") == 11
            assert await file.pread(100, 0) == b"hello world!"
            buffer = bytearray(5)
            assert await file.pread_into(buffer, 6) == 5
            assert buffer == b"world"
            parts = [bytearray(2), bytearray(0), bytearray(20)]
            assert await file.preadv(parts, 0) == 12
            assert bytes(parts[0]) == b"he"
            assert bytes(parts[2][:10]) == b"llo world!"
            assert await file.truncate(8) == 8
            await file.zero_range(1, 2)
            await file.punch_hole(4, 2)
            assert await file.pread(100, 0) == b"h\0\0l\0\0wo"
            await file.sync_range(0, 8)
            await file.flush()
            await file.fsync()
            await file.fsync(data_only=True, timeout=10)
            assert file.size == 8
            assert file.key == "f"
            assert file.volume is volume

    run(main())
    assert content(volume) == b"h\0\0l\0\0wo"


@pytest.mark.parametrize("mode", ["r", "rb", "r+", "r+b", "w", "w+", "x", "x+", "a", "a+", "ab"])
def test_modes_are_those_of_open(attach: Attach, mode: OpenMode) -> None:
    volume = attach(PlainStore({} if "x" in mode else {"f": b"old"}))

    async def main() -> None:
        async with aio.open(volume, "f", mode) as file:
            if "+" in mode or "r" not in mode:
                await file.append(b"new")
            else:
                with pytest.raises(io.UnsupportedOperation):
                    await file.pwrite(b"x", 0)
            if "+" in mode or "r" in mode:
                await file.pread(1, 0)
            else:
                with pytest.raises(io.UnsupportedOperation):
                    await file.pread(1, 0)

    run(main())
    expected = {"r": b"old" if "+" not in mode else b"oldnew", "w": b"new", "x": b"new", "a": b"oldnew"}[mode[0]]
    assert content(volume) == expected


def test_an_async_handle_takes_the_options_of_open(attach: Attach) -> None:
    store = PlainStore({"f": BLOCK * 2})
    volume = attach(store)

    async def main() -> None:
        async with aio.open(volume, "f", "r+", direct=True, parallel_direct_writes=True) as file:
            await file.pwrite(b"z" * PAGE, 0)
            assert store.objects["f"][:PAGE] == b"z" * PAGE
            assert await file.pread(PAGE, 0) == b"z" * PAGE
        async with aio.open(volume, "f", "r+", write_through=True) as file:
            await file.pwrite(b"y" * PAGE, PAGE)
            assert store.objects["f"][PAGE:] == b"y" * PAGE
        async with aio.open(volume, "g", flags=os.O_RDWR | os.O_CREAT) as file:
            await file.pwrite(b"g", 0)

    run(main())
    assert content(volume, "g") == b"g"


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
