"""What the interface says of `pagecache.aio`, over every kind of backend."""

from __future__ import annotations

import asyncio
import io
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

import pagecache
from pagecache import Volume, aio

from ..file.rig import eventually
from .conftest import Attach
from .plain import PlainStore

PAGE = 4096
BLOCK = bytes(range(256)) * 16


def run(main: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(main, 20))


def content(volume: Volume, key: str = "f") -> bytes:
    with volume.open(key) as file:
        return file.read()


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
    """The same methods: what does not wait may be plain, what may wait is awaited."""

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
def test_modes_are_those_of_open(attach: Attach, mode: str) -> None:
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
            async with aio.open(volume, "there", "rt"):
                pass
        with pytest.raises(TypeError):
            async with aio.open(volume, "there", "r", nonsense=1):
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
                lambda: file.pwrite("text", 0),
                lambda: file.pread_into(b"read-only", 0),
                lambda: file.pread("1", 0),
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


def test_an_exception_in_the_body_abandons_objects_and_closes_files(volume: Volume) -> None:
    """2.22: `async with` as `with`: nothing half-written is published, and the exception is the primary one."""

    class Oops(Exception): ...

    async def main() -> None:
        with pytest.raises(Oops):
            async with aio.open(volume, "f", "w+b") as file:
                await file.pwrite(b"half", 0)
                raise Oops

    run(main())
    if volume.backend.limits.commit_on_close:
        assert not volume.exists("f")
    else:
        assert content(volume) == b"half"


def test_cancellation_in_the_body_abandons_objects_too(volume: Volume) -> None:
    """T-56, 2.22: CancelledError is an exception as well."""

    async def main() -> None:
        ready = asyncio.Event()

        async def body() -> None:
            async with aio.open(volume, "f", "w+b") as file:
                await file.pwrite(b"half", 0)
                ready.set()
                await asyncio.sleep(1000)

        task = asyncio.create_task(body())
        await ready.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main())
    if volume.backend.limits.commit_on_close:
        assert not volume.exists("f")
    else:
        assert content(volume) == b"half"


def test_abandon_publishes_nothing(volume: Volume) -> None:
    async def main() -> None:
        async with aio.open(volume, "f", "w+b") as file:
            await file.pwrite(BLOCK * 8, 0)
            await file.flush()
            await file.abandon()

    run(main())
    if volume.backend.limits.commit_on_close:
        assert not volume.exists("f")


def test_close_commits_an_object(attach: Attach) -> None:
    store = PlainStore(commit_on_close=True)
    volume = attach(store)

    async def main() -> None:
        async with aio.open(volume, "f", "w") as file:
            await file.pwrite(BLOCK, 0)
            await file.flush()
            assert "f" not in store.objects
        assert store.objects["f"] == BLOCK

    run(main())


def test_a_hit_suspends_nobody(volume: Volume) -> None:
    """T-55: a coroutine that hits is driven to its end by one send, without a loop."""

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
    """A handle opened on one loop serves on the next."""

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


def test_leaving_through_an_exit_stack(volume: Volume) -> None:
    from contextlib import AsyncExitStack

    async def main() -> None:
        async with AsyncExitStack() as stack:
            files = [await stack.enter_async_context(aio.open(volume, f"f{i}", "w+")) for i in range(10)]
            await asyncio.gather(*(file.pwrite(b"x" * (i + 1), 0) for i, file in enumerate(files)))

    run(main())
    assert [volume.stat(f"f{i}").size for i in range(10)] == list(range(1, 11))


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


def opened_in_vain(volume: Volume, store: PlainStore, mode: str) -> None:
    """A task that opens `f` is cancelled while the backend is at it, which then goes on."""

    async def main() -> None:
        gate = store.gate("open")
        task = asyncio.ensure_future(aio.open(volume, "f", mode)._open())
        await asyncio.to_thread(gate.wait_entered)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        gate.open()

    run(main())


@pytest.mark.parametrize("mode", ["w", "w+"])
def test_an_open_that_was_cancelled_publishes_no_empty_object(attach: Attach, mode: str) -> None:
    """T-56, 2.22: nobody has the handle that emptied the object, so nothing of that is published by a later sync."""
    store = PlainStore({"f": b"old"}, commit_on_close=True)
    volume = attach(store)
    opened_in_vain(volume, store, mode)
    eventually(lambda: "rollback" in store.calls, 5)
    with volume.open("f", "r") as file:
        assert file.read() == b"old"
    volume.sync()
    assert store.objects["f"] == b"old"


def test_an_exclusive_open_that_was_cancelled_may_be_repeated(attach: Attach) -> None:
    store = PlainStore(commit_on_close=True)
    volume = attach(store)
    opened_in_vain(volume, store, "x")

    async def again() -> None:
        async with aio.open(volume, "f", "x") as file:
            await file.pwrite(b"new", 0)

    run(again())
    assert store.objects["f"] == b"new"


def test_close_does_not_block_the_loop_for_the_version(attach: Attach) -> None:
    """T-55: nothing is dirty any more, but the version that was acknowledged is asked for."""
    store = PlainStore({"f": b"old"}, durable_writes=True)
    volume = attach(store)
    gate = None

    async def main() -> None:
        nonlocal gate
        file = await aio.open(volume, "f", "r+")
        await file.pwrite(b"new", 0)
        await file.sync_range(0, 3)
        gate = store.gate("file_stat")
        turned = threading.Event()
        loop = asyncio.get_running_loop()

        def watch() -> bool:
            gate.wait_entered()
            loop.call_soon_threadsafe(turned.set)
            try:
                return turned.wait(2)
            finally:
                gate.open()

        watching = loop.run_in_executor(None, watch)
        await file.close()
        assert await watching, "the loop stood still while the backend was asked"

    run(main())


def test_what_was_at_work_when_an_object_was_abandoned_is_not_published(attach: Attach) -> None:
    """T-56, T-77: a truncate of a cancelled task holds the file's locks and goes on; others stand in line."""
    store = PlainStore({"f": b"old" * 10_000}, commit_on_close=True)
    volume = attach(store)

    async def main() -> None:
        gate = store.gate("truncate")
        with pytest.raises(RuntimeError):
            async with aio.open(volume, "f", "r+") as file:
                tasks: list[asyncio.Future[Any]] = [asyncio.ensure_future(file.truncate(100))]
                await asyncio.to_thread(gate.wait_entered)
                tasks += [asyncio.ensure_future(file.pwrite(b"late", 0)), asyncio.ensure_future(file.append(b"late"))]
                tasks += [asyncio.ensure_future(file.zero_range(0, 9)), asyncio.ensure_future(file.truncate(9))]
                for _ in range(3):
                    await asyncio.sleep(0.01)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                raise RuntimeError
        gate.open()

    run(main())
    eventually(lambda: "rollback" in store.calls, 5)
    with volume.open("f") as file:
        assert file.size == 30_000
        assert file.read() == b"old" * 10_000
    volume.sync()
    assert volume.dirty_ranges("f") == []
    assert "commit" not in store.calls
    assert volume.cache.close(timeout=20) == []
    assert store.objects["f"] == b"old" * 10_000


def test_a_write_that_goes_on_when_its_object_was_abandoned_is_given_up(attach: Attach) -> None:
    """The same for a write that has the file's lock, and reads what it needs from the backend."""
    store = PlainStore({"f": b"old" * 10_000}, commit_on_close=True)
    volume = attach(store)

    async def main() -> None:
        gate = store.gate("read_into")
        with pytest.raises(RuntimeError):
            async with aio.open(volume, "f", "r+") as file:
                for offset in range(10, 4000, 300):  # more pieces of a page than are kept apart
                    file.try_pwrite(b"x", offset)
                task = asyncio.ensure_future(file.pwrite(b"late" * 5000, 3905))
                await asyncio.to_thread(gate.wait_entered)
                task.cancel()
                raise RuntimeError
        gate.open()

    run(main())
    eventually(lambda: "rollback" in store.calls, 5)
    with volume.open("f") as file:
        assert file.read() == b"old" * 10_000
    eventually(lambda: not volume.orphans, 10)
    assert volume.cache.stats().dirty == 0
    assert volume.cache.close(timeout=20) == []
    assert store.objects["f"] == b"old" * 10_000
