"""The interface of `pagecache.aio`: verbs, modes, arguments, over every kind of backend."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Coroutine
from typing import Any, cast

import pytest

import pagecache
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


def test_hints_and_tries_are_there_too(volume: Volume) -> None:
    """A method that never waits may be plain, the others are awaited."""

    async def result(value: Any) -> Any:
        return await value if hasattr(value, "__await__") else value

    async def main() -> None:
        async with aio.open(volume, "f", "w+b") as file:
            await file.pwrite(BLOCK * 4, 0)
            await result(file.prefetch(0, PAGE))
            await result(file.prefetch(wait=True))
            await result(file.prefetch_ranges([(0, 10), (PAGE, 20)], wait=True))
            await result(file.advise(pagecache.Advice.RANDOM))
            assert await result(file.try_pread(4, 0)) == BLOCK[:4]
            assert await result(file.try_pwrite(b"x", 0)) == 1
            view = await result(file.view(0, 4, writable=True))
            assert view.tobytes() == b"x" + BLOCK[1:4]
            view.segments[0][1:2] = b"y"
            view.release()
            assert await file.pread(2, 0) == b"xy"
            assert (await result(file.stats())).hits >= 0

    run(main())


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


def test_opening_raises_what_a_thread_would_get(attach: Attach) -> None:
    volume = attach(PlainStore({"there": b""}))

    async def main() -> None:
        with pytest.raises(FileNotFoundError):
            async with aio.open(volume, "nowhere"):
                pass
        with pytest.raises(FileExistsError):
            async with aio.open(volume, "there", "x"):
                pass
        with pytest.raises(ValueError):
            async with aio.open(volume, "there", cast(Any, "rt")):
                pass
        with pytest.raises(TypeError):
            async with aio.open(volume, "there", "r", **cast(Any, {"nonsense": 1})):
                pass

    run(main())


def test_a_closed_handle_is_a_value_error(volume: Volume) -> None:
    """2.1: a closed handle is a ValueError in each verb; close is idempotent, and so is abandon after it."""

    async def main() -> None:
        async with aio.open(volume, "f", "w+b") as file:
            await file.pwrite(b"x", 0)
            await file.close()
            await file.close()
            await file.abandon()
            calls: list[Callable[[], Coroutine[Any, Any, Any]]] = [
                lambda: file.pread(1, 0),
                lambda: file.pread(0, 0),
                lambda: file.pread_into(bytearray(1), 0),
                lambda: file.preadv([bytearray(1)], 0),
                lambda: file.pwrite(b"x", 0),
                lambda: file.pwrite(b"", 0),
                lambda: file.pwritev([b"x"], 0),
                lambda: file.append(b"x"),
                lambda: file.truncate(0),
                lambda: file.punch_hole(0, 1),
                lambda: file.zero_range(0, 1),
                lambda: file.flush(),
                lambda: file.fsync(),
                lambda: file.sync_range(0, 1),
            ]
            for call in calls:
                with pytest.raises(ValueError):
                    await call()

    run(main())
    assert content(volume) == b"x"


def test_bad_arguments_are_refused_and_change_nothing(volume: Volume) -> None:
    """T-59 for tasks."""

    async def main() -> None:
        async with aio.open(volume, "f", "w+b") as file:
            await file.pwrite(b"abc", 0)
            for bad in (
                lambda: file.pread(-1, 0),
                lambda: file.pread(1, -1),
                lambda: file.pwrite(b"x", -1),
                lambda: file.pwritev([b"x"], -1),
                lambda: file.preadv([bytearray(1)], -1),
                lambda: file.truncate(-1),
                lambda: file.punch_hole(-1, 1),
                lambda: file.punch_hole(0, -1),
                lambda: file.zero_range(0, -1),
                lambda: file.sync_range(-1, 1),
                lambda: file.pwrite(b"x", 2**63 - 1),
            ):
                with pytest.raises((ValueError, OSError)):
                    await bad()
            wrongs: list[Callable[[], Any]] = [
                lambda: file.pwrite(cast(Any, "text"), 0),
                lambda: file.pread_into(b"read-only", 0),
                lambda: file.pread(cast(Any, "1"), 0),
            ]
            for wrong in wrongs:
                with pytest.raises((TypeError, ValueError, BufferError)):
                    await wrong()
            assert await file.pread(10, 0) == b"abc"

    run(main())


def test_zero_bytes_touch_nothing(volume: Volume) -> None:
    async def main() -> None:
        async with aio.open(volume, "f", "w+b") as file:
            assert await file.pwrite(b"", 100) == 0
            assert await file.pwritev([], 100) == 0
            assert await file.pread(0, 0) == b""
            assert await file.pread(10, 10**6) == b""
            assert await file.preadv([], 0) == 0
            await file.pwrite(b"four", 0)
            assert await file.append(b"") == 4
            await file.truncate(0)
            assert await file.pread_into(bytearray(), 5) == 0
            await file.punch_hole(10, 0)
            await file.zero_range(10, 0)
            assert file.size == 0

    run(main())


def test_a_hit_does_not_suspend(volume: Volume) -> None:
    """T-55: one send drives a coroutine that hits to its end, without a loop."""

    async def prepare() -> aio.AsyncCachedFile:
        file = await aio.open(volume, "f", "w+b").__aenter__()
        await file.pwrite(BLOCK * 4, 0)
        return file

    file = run(prepare())
    for coroutine, expected in (
        (file.pread(4, 0), BLOCK[:4]),
        (file.pwrite(b"abcd", 0), 4),
        (file.pread_into(bytearray(4), 0), 4),
        (file.preadv([bytearray(4)], 0), 4),
        (file.pwritev([b"ab", b"cd"], 0), 4),
    ):
        with pytest.raises(StopIteration) as stop:
            coroutine.__await__().send(None) if not hasattr(coroutine, "send") else coroutine.send(None)
        assert stop.value.value == expected
    run(file.close())


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
