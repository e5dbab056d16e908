"""pagecache.aio: the verbs of a handle, awaited. A hit costs nothing of a loop; a wait leaves it to other tasks."""

from __future__ import annotations

import asyncio
import collections.abc
import errno
import gc
import inspect
import mmap
import os
import threading
import warnings
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, cast

import numpy
import pytest

from pagecache import Advice, CachedFile, aio
from pagecache.backends import MemoryBackend
from pagecache.native import LOOP_PIECE

from ..file.rig import KEY, ONCE, PAGE, accepted_before, pattern
from ..stores import RecordingBackend
from .conftest import SECONDS, Attach, run
from .stores import Store

DATA = pattern(64 * PAGE)


def memory(data: bytes = DATA) -> RecordingBackend:
    return RecordingBackend({KEY: data})


def stored(data: bytes = DATA) -> Store:
    return Store({KEY: data})


BACKENDS = {"blocking": memory, "asynchronous": stored}
both = pytest.mark.parametrize("backend", BACKENDS.values(), ids=BACKENDS)


@both
async def test_a_thousand_misses_side_by_side(attach: Attach, backend: Any) -> None:
    """A few threads serve them, without an extra thread for each. [T-55]"""
    pages = 1000
    volume = attach(backend(pattern(pages * PAGE)), capacity="16MiB", max_folio="4KiB")
    expected = pattern(pages * PAGE)

    threads = threading.active_count()
    async with aio.open(volume, KEY) as file:
        found = await asyncio.gather(*(file.pread(PAGE, k * PAGE) for k in range(pages)))
        assert b"".join(found) == expected
        assert threading.active_count() <= threads + 32
    assert volume.stats().misses == pages


@both
async def test_a_miss_leaves_the_loop_to_others(attach: Attach, backend: Any) -> None:
    """The loop turns while a call of the backend hangs; waiters of the same page all get it. [T-55]"""
    volume = attach(store := backend())
    gate = store.gate("read_into")
    async with aio.open(volume, KEY) as file:
        tasks = [asyncio.create_task(file.pread(100, 0)) for _ in range(10)]
        await asyncio.to_thread(gate.wait_entered)
        assert not any(task.done() for task in tasks)
        gate.open()
        assert await asyncio.gather(*tasks) == [DATA[:100]] * 10


@pytest.mark.smoke("asyncio")
@both
async def test_every_verb(attach: Attach, backend: Any) -> None:
    """One handle's life, compared with the answers of a file."""
    volume = attach(store := backend())
    assert volume.backend is store
    async with aio.open(volume, KEY, "r+") as file:
        assert (file.key, file.mode, file.volume, file.size, file.closed) == (KEY, "r+", volume, len(DATA), False)
        assert await file.pread(10, len(DATA) - 5) == DATA[-5:]
        assert await file.pread(10, len(DATA) + 5) == b""
        first, second = bytearray(10), bytearray(20)
        assert await file.preadv([first, second], 3) == 30
        assert first + second == DATA[3:33]
        assert await file.pwritev([b"abc", b"defg"], 100) == 7
        assert await file.pread(7, 100) == b"abcdefg"
        assert await file.append(b"tail") == len(DATA)
        assert await file.read(3) == DATA[:3]
        assert await file.tell() == 3
        assert await file.write(b"xyz") == 3
        assert await file.seek(0) == 0
        assert await file.readinto(first) == 10
        assert bytes(first) == DATA[:3] + b"xyz" + DATA[6:10]
        assert await file.truncate(5 * PAGE) == 5 * PAGE
        await file.punch_hole(PAGE, PAGE)
        await file.zero_range(0, 10)
        assert await file.pread(10, 0) == bytes(10)
        assert await file.pread(PAGE, PAGE) == bytes(PAGE)
        with await file.view(2 * PAGE, 100) as view:
            assert view.tobytes() == DATA[2 * PAGE : 2 * PAGE + 100]
        await file.advise(Advice.RANDOM)
        await file.prefetch(0, PAGE)
        await file.prefetch_ranges([(0, PAGE), (PAGE, PAGE)], wait=True)
        assert file.try_pread(10, 0) == bytes(10)
        assert file.try_pwrite(b"now", 0) == 3
        await file.sync_range(0, PAGE)
        await file.flush()
        await file.fsync(timeout=SECONDS)
        assert (await file.stats()).dirty == 0
        await file.seek(0)
        await file.truncate(0)
    assert file.closed
    with pytest.raises(ValueError):
        await file.pread(1, 0)
    opened = await aio.open(volume, KEY, "a")
    assert await opened.write(b"!") == 1
    await opened.close()
    await opened.close()
    async with aio.open(volume, KEY, flags=os.O_RDWR | os.O_APPEND, write_through=True, direct=True) as file:
        assert (await file.write(b"?"), await file.tell()) == (1, 2)
    with volume.open(KEY) as plain:
        assert plain.read() == b"!?"


def test_an_asynchronous_handle_has_the_verbs_of_a_handle() -> None:
    """They can be awaited, except those that never wait."""
    plain = {"fileno", "isatty", "readable", "writable", "seekable", "try_pread", "try_pwrite", "size"}
    verbs = {n for n in {*vars(CachedFile), *vars(CachedFile.__base__)} if not n.startswith("_")} - plain
    hot = {"pread", "pread_into", "pwrite", "append"}
    for name in verbs - hot - {"closed", "key", "name", "mode", "volume"}:
        assert inspect.iscoroutinefunction(getattr(aio.AsyncCachedFile, name)), name


async def test_an_awaitable_is_a_coroutine(attach: Attach) -> None:
    """create_task takes it; it warns if it is never awaited, and raises if awaited twice."""
    volume = attach(memory())
    async with aio.open(volume, KEY) as file:
        call = file.pread(3, 0)
        assert isinstance(call, collections.abc.Coroutine)
        assert await asyncio.create_task(call) == DATA[:3]
        with pytest.raises(RuntimeError, match="already awaited"):
            await call
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            file.pread(3, 0)  # type: ignore[unused-coroutine]
            gc.collect()
        assert ["pread' was never awaited" in str(w.message) for w in caught] == [True]
        closed = file.pread(3, 0)
        closed.close()


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("shift", [-PAGE, 100, PAGE])
async def test_a_view_in_pieces_moves_as_one(attach: Attach, direct: bool, shift: int) -> None:
    """The number of a view's segments makes no difference to pwritev and preadv of tasks. [T-04, T-65, 2.7]"""
    content, start, length = pattern(16 * PAGE), 4 * PAGE, 4 * PAGE
    store = Store({KEY: content})
    volume = attach(store, max_folio=PAGE)
    async with aio.open(volume, KEY, "r+") as file, aio.open(volume, KEY, "r+", direct=direct) as other:
        with await file.view(start, length) as view:
            assert len(view.segments) == 4
            assert await other.pwritev(view.segments, start + shift) == length
        written = await file.pread(len(content), 0)
        await file.fsync()
        with await file.view(start, length, writable=True) as view:
            assert await other.preadv(view.segments, start + shift) == length
        read = await file.pread(len(content), 0)
    to = start + shift
    model = content[:to] + content[start : start + length] + content[to + length :]
    assert written == model
    assert read == model[:start] + model[to : to + length] + model[start + length :]


@pytest.mark.parametrize("verb", ["pwrite", "append"])
async def test_a_source_that_is_not_there_is_an_error_of_the_task(attach: Attach, tmp_path: Path, verb: str) -> None:
    """A map reaches behind the end of its file: EFAULT, and nothing is written. [T-05, 2.7]"""
    path = tmp_path / "map"
    path.write_bytes(bytes(4 * PAGE))
    volume = attach(stored())
    async with aio.open(volume, KEY, "r+") as file:
        with open(path, "r+b") as mapped, mmap.mmap(mapped.fileno(), 4 * PAGE) as source:
            os.truncate(path, PAGE)
            with pytest.raises(OSError) as caught:
                await (file.pwrite(source, 0) if verb == "pwrite" else file.append(source))
        assert caught.value.errno == errno.EFAULT
        assert file.size == len(DATA)
        assert await file.pread(len(DATA), 0) == DATA


@pytest.mark.parametrize("direct", [False, True])
async def test_a_write_that_fails_moves_the_position_past_the_accepted_bytes(attach: Attach, direct: bool) -> None:
    """The next one goes on behind them, as one of a thread does. [2.7]"""
    store = memory(b"")
    volume = attach(store, retry=ONCE)
    async with aio.open(volume, KEY, "r+", write_through=True, direct=direct) as file:
        store.fault("write_from", lambda backend_file, offset, buffers: backend_file.store(offset, buffers, 3))
        store.fault("write_from", OSError(errno.ENOSPC, "full"))
        with pytest.raises(OSError, match="full") as caught:
            await file.write(b"first\n")
        accepted = accepted_before(caught.value)
        assert (await file.tell(), await file.pread(10, 0)) == (accepted, b"first\n"[:accepted])
        await file.write(b"second\n")
    assert accepted == (3 if direct else 6)
    assert store.written(KEY) == b"first\n"[:accepted] + b"second\n"


@pytest.mark.parametrize("direct", [False, True])
async def test_bad_arguments(attach: Attach, direct: bool) -> None:
    """They raise the errors of the blocking verbs; nothing has changed. [T-59]"""
    volume = attach(memory())
    async with aio.open(volume, KEY, direct=direct) as file:
        with pytest.raises(TypeError, match="writable"):
            await file.pread_into(b"read-only", 0)
        with pytest.raises(ValueError, match="negative"):
            await file.pread(1, -1)
        with pytest.raises(OSError, match="writing"):
            await file.pwrite(b"x", 0)
    async with aio.open(volume, KEY, "w", direct=direct) as file:
        with pytest.raises(OSError):
            await file.pread(1, 0)
        with pytest.raises(TypeError):
            await file.pwrite(cast(Any, "text"), 0)
        with pytest.raises(OSError) as caught:
            await file.pwrite(b"xy", 2**63 - 1)
        assert accepted_before(caught.value) == 0
    with pytest.raises(FileNotFoundError):
        await aio.open(volume, "nothing")


async def test_long_calls_give_the_loop_its_turns(attach: Attach) -> None:
    """Copies of many megabytes are made by a thread, or go in pieces: others run in between. [T-55]"""
    size = 8 << 20
    volume = attach(MemoryBackend(), capacity="64MiB")
    turns = 0
    over = False

    async def turning() -> None:
        nonlocal turns
        while not over:
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(turning())
    async with aio.open(volume, KEY, "w+") as file:
        data, buffer = pattern(size), bytearray(size)
        calls: list[tuple[Callable[[], Any], int]] = [
            (lambda: file.pwrite(data, 0), 1),
            (lambda: file.pread(size, 0), 1),
            (lambda: file.pread_into(buffer, 0), size // (1 << 20)),
        ]
        results = []
        for call, least in calls:
            before = turns
            results.append(await call())
            assert turns - before >= least
        assert results == [size, data, size]
        assert buffer == data
        assert await file.pread(2 * size, 1) == data[1:]  # to the end of the file
        over = True
        await other


@both
async def test_a_long_call_whose_pieces_are_partly_missing(attach: Attach, backend: Any) -> None:
    """A thread makes all of it. [2.5, 2.7]"""
    piece, size = LOOP_PIECE, 5 * LOOP_PIECE
    old, new = pattern(size), pattern(size, 7)
    volume = attach(backend(old), capacity="32MiB", max_folio="4KiB")
    async with aio.open(volume, KEY, "r+") as file:
        for missing in range(5):
            await file.advise(Advice.DONTNEED)
            for k in range(5):
                if k != missing:
                    await file.prefetch(k * piece, piece, wait=True)
            misses, buffer = volume.stats().misses, bytearray(size - 2)
            if missing % 2:
                assert await file.pread(size, 1) == old[1:]
            else:
                assert await file.pread_into(buffer, 1) == size - 2
                assert buffer == old[1:-1]
            assert volume.stats().misses == misses + 1
        await file.advise(Advice.DONTNEED)
        await file.prefetch(0, 2 * piece, wait=True)
        assert await file.pwrite(new[:-2], 1) == size - 2  # the ends of the last page have to be read
        assert await file.pread(size, 0) == old[:1] + new[:-2] + old[-1:]


@both
def test_tickets_are_awaited_on_any_loop(attach: Attach, backend: Any) -> None:
    """No thread is used, not even the executor of the loop."""
    volume = attach(backend())

    async def main() -> None:
        asyncio.get_running_loop().run_in_executor = None  # type: ignore[assignment, method-assign]
        async with aio.open(volume, KEY, "r+") as file:
            await file.pwrite(b"new", 0)
            ticket = volume.begin_sync()
            await ticket
            assert ticket.done()
            assert ticket.remaining == 0
            await volume.begin_sync()

    for _ in range(2):
        run(main())


@pytest.mark.parametrize(
    ("size", "offset"),
    [("x", 0), (None, 0), (1.5, 0), (-1, 0), (1, -1), (1, 2**63), (2**63, 0), (2**64, 0), (2 * LOOP_PIECE, "x")],
)
async def test_a_read_of_a_task_refuses_what_a_read_of_a_thread_does(attach: Attach, size: Any, offset: Any) -> None:
    """Long or short, with the same words; whatever is a number is taken. [2.1]"""
    volume = attach(memory())
    async with await aio.open(volume, KEY) as file:
        with volume.open(KEY) as plain, pytest.raises((TypeError, ValueError)) as expected:
            plain.pread(size, offset)
        with pytest.raises(type(expected.value)) as caught:
            await file.pread(size, offset)
        assert str(caught.value) == str(expected.value)
        assert await file.pread(cast("int", numpy.int64(2 * LOOP_PIECE)), 0) == DATA


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
