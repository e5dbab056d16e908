"""A task that stops waiting: cancelled at each await, interrupted at each place. I/O goes on, nothing is locked. A read
of a task beside a change of the name of its object, in a store that finds objects by their names. [2.20]
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import pagecache
from pagecache import CachedFile, DataLossError, PageCache, Volume, aio
from pagecache.engine import aside
from pagecache.engine.file import EngineFile
from pagecache.engine.io import holes, reader
from pagecache.testing import Gate

from ..file.rig import FAST, KEY, PAGE, QUIET, Task, eventually, held, pattern
from ..file.test_interrupts import interrupted_at
from ..stores import RecordingBackend
from .conftest import SECONDS, Attach, cancelled
from .stores import Store
from .test_handles import DATA as STORED
from .test_handles import both

DATA = pattern(8 * PAGE)
PACKAGE = Path(pagecache.__file__).parent

# For each wait of a task, the method of the backend in which it hangs.
WAITS: dict[str, tuple[str, Callable[[aio.AsyncCachedFile], Any]]] = {
    "a miss": ("read_into", lambda f: f.pread(100, 4 * PAGE)),
    "a miss into a buffer": ("read_into", lambda f: f.pread_into(bytearray(100), 4 * PAGE)),
    "a miss of many pages": ("read_into", lambda f: f.preadv([bytearray(PAGE), bytearray(2 * PAGE)], 4 * PAGE)),
    "a prefetch": ("read_into", lambda f: f.prefetch(4 * PAGE, PAGE, wait=True)),
    "a view": ("read_into", lambda f: f.view(4 * PAGE, 100)),
    "flush": ("write_from", lambda f: f.flush()),
    "fsync in write-back": ("write_from", lambda f: f.fsync()),
    "fsync in commit": ("commit", lambda f: f.fsync()),
    "sync_range": ("write_from", lambda f: f.sync_range(0, PAGE)),
    "truncate": ("truncate", lambda f: f.truncate(2 * PAGE)),
    "a write behind a truncate": ("truncate", lambda f: behind_a_truncate(f)),
    "an append behind a truncate": ("truncate", lambda f: behind_a_truncate(f, append=True)),
    "close": ("write_from", lambda f: f.close()),
    "open": ("open", lambda f: aio.open(f.volume, "other")._open()),
    "create": ("open", lambda f: aio.open(f.volume, "new", "x")._open()),
    "a ticket": ("commit", lambda f: ticket(f.volume)),
    "a ticket for names": ("sync", lambda f: ticket(f.volume)),
}


async def behind_a_truncate(file: aio.AsyncCachedFile, *, append: bool = False) -> None:
    cut = Task(file._file.truncate, 6 * PAGE)
    store: Any = file.volume.backend
    await asyncio.to_thread(store.gates["truncate"].wait_entered)
    try:
        await (file.append(b"end") if append else file.pwrite(b"late", 0))
    finally:
        store.open_all()
        cut.result()


async def ticket(volume: Volume) -> None:
    await volume.begin_sync()


@pytest.mark.parametrize("wait", WAITS)
async def test_a_task_cancelled_in_each_await(attach: Attach, wait: str) -> None:
    """It ends at once; begun work goes on, and everything works as before. [T-56, K9]"""
    method, call = WAITS[wait]
    store = Store({KEY: DATA, "other": DATA})
    late = wait == "a write behind a truncate"  # a thread may have begun it, and stands in line: then it goes on
    if method == "sync":

        async def sync() -> None:
            await store.reached("sync")

        store.sync = sync  # type: ignore[method-assign]
    volume = attach(store)
    file = await aio.open(volume, KEY, "r+")
    await file.pwrite(b"dirty", 0)
    gate = store.gate(method)
    task = asyncio.create_task(call(file))
    await asyncio.to_thread(gate.wait_entered)
    for _ in range(3):
        await asyncio.sleep(0)
    task.cancel()
    if "behind" not in wait:
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, SECONDS)
        assert gate.waiting or method == "open", "the call of the backend was not left alone"
    else:
        with pytest.raises(asyncio.CancelledError):
            await task
    store.open_all()
    async with aio.open(volume, KEY, "r+") as again:
        await again.pwrite(b"after", PAGE)
        await again.append(b"tail")
        await again.truncate(2 * PAGE)
        await again.fsync()
        content = await again.pread(3 * PAGE, 0)
        assert content[:5] == b"dirty" or (late and content[:5] == b"latey")
        assert content[5:] == DATA[5:PAGE] + b"after" + DATA[PAGE + 5 : 2 * PAGE]
    await file.close()
    assert volume.cache.stats().pinned == 0
    assert [wait for wait in volume.cache.waits() if wait.task or wait.name == "MainThread"] == []
    volume.cache.check()
    assert store.content(KEY)[:5] == b"dirty" or late


@pytest.mark.parametrize("call", ["flush", "fsync"])
async def test_a_loss_is_reported_to_the_call_that_is_left_not_to_the_cancelled_one(attach: Attach, call: str) -> None:
    """Each loss is reported once, to a caller that hears it. [2.17, T-56]"""
    store = Store({KEY: DATA})
    volume = attach(store)
    async with aio.open(volume, KEY, "r+") as file:
        await file.pwrite(b"lost", 4 * PAGE)
        volume.discard(KEY, 4 * PAGE, PAGE)
        await file.pwrite(b"dirty", 0)
        await cancelled(store.gate("write_from"), getattr(file, call)())
        store.open_all()
        lane = file._aside._lanes["sync"]
        await asyncio.to_thread(eventually, lambda: lane._idle == lane._threads)
        with pytest.raises(DataLossError):
            await getattr(file, call)()
        await file.fsync()  # once
    assert store.content(KEY)[:5] == b"dirty"


@pytest.mark.parametrize("queued", [False, True])
async def test_calls_that_their_tasks_have_left_keep_no_other_from_beginning(
    attach: Attach, monkeypatch: pytest.MonkeyPatch, queued: bool
) -> None:
    """Of one object that hangs: as many as the lane has threads. `queued`: the other call has come before. [T-56]"""
    volume, save = attach(store := RecordingBackend({KEY: DATA, "other": DATA})), CachedFile._save
    lane, most = volume.aside._lanes["sync"], volume.aside._most()

    def hanging(file: CachedFile, *arguments: Any) -> None:
        if file.key == KEY:
            gate.enter(SECONDS)
        save(file, *arguments)

    with Gate() as gate:
        monkeypatch.setattr(CachedFile, "_save", hanging)
        async with aio.open(volume, KEY, "r+") as file, aio.open(volume, "other", "r+") as other:
            await other.pwrite(b"dirty", 0)
            tasks = [asyncio.create_task(file.fsync()) for _ in range(most)]
            await asyncio.to_thread(gate.wait_entered, calls=most)
            saving = asyncio.create_task(other.fsync() if queued else asyncio.sleep(0))
            await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await asyncio.wait_for(other.fsync(), SECONDS / 4)
            await saving
            gate.release()
            await asyncio.to_thread(eventually, lambda: lane._idle == lane._threads <= most)
    assert store.written("other")[:5] == b"dirty"


async def test_calls_that_their_tasks_have_left_have_a_bound(attach: Attach, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of threads; others wait. [T-56, 1.3]"""
    monkeypatch.setattr(aside, "LEFT", 2)
    volume, save = attach(RecordingBackend({KEY: DATA})), CachedFile._save
    lane, most = volume.aside._lanes["sync"], volume.aside._most()

    def hanging(file: CachedFile, *arguments: Any) -> None:
        gate.enter(SECONDS)
        save(file, *arguments)

    with Gate() as gate:
        monkeypatch.setattr(CachedFile, "_save", hanging)
        async with aio.open(volume, KEY, "r+") as file:
            for calls in (most, most + 2):
                tasks = [asyncio.create_task(file.fsync()) for _ in range(most)]
                await asyncio.to_thread(gate.wait_entered, calls=calls)
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
            waiting = asyncio.create_task(file.fsync())
            await asyncio.sleep(0)
            assert (lane._threads, lane._waiting) == (most + 2, 1 + most - 2)
            gate.release()
            await asyncio.wait_for(waiting, SECONDS)


async def test_a_search_for_data_that_its_task_has_left_moves_no_position(
    attach: Attach, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later seek would be undone at any time. [T-56]"""
    volume = attach(RecordingBackend({KEY: DATA}))
    searching = held(monkeypatch, holes, "find_data")
    async with aio.open(volume, KEY) as file:
        await cancelled(searching, file.seek(PAGE, os.SEEK_DATA))
        await file.seek(7)
        searching.open()
        lane = file._aside._lanes["read"]
        await asyncio.to_thread(eventually, lambda: lane._idle == lane._threads)
        assert await file.tell() == 7
        assert await file.seek(PAGE, os.SEEK_DATA) == await file.tell() == PAGE


async def test_a_truncate_at_the_position_takes_that_of_its_call(
    attach: Attach, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task that goes on after it has left the call moves the position. [T-56]"""
    volume = attach(RecordingBackend({KEY: DATA}))
    cutting = held(monkeypatch, CachedFile, "truncate")
    async with aio.open(volume, KEY, "r+") as file:
        await file.seek(PAGE)
        await cancelled(cutting, file.truncate())
        await file.seek(0)
        cutting.open()
        await asyncio.to_thread(eventually, lambda: file.size == PAGE)


async def test_tasks_cancelled_while_they_wait_for_room(attach: Attach) -> None:
    """Of the writers in line, the remaining ones get the room, and the accepted bytes are a prefix; readers go on
    meanwhile. [T-56, 2.24]
    """
    store = Store({KEY: b""})
    volume = attach(store, capacity="1MiB", dirty_background="64KiB", dirty_limit="128KiB")
    size = 96 << 10
    async with aio.open(volume, KEY, "r+") as file:
        gate = store.gate("write_from")
        tasks = [asyncio.create_task(file.pwrite(pattern(size, k), k * size)) for k in range(12)]
        await asyncio.to_thread(gate.wait_entered)
        assert await file.pread(size, 0) == pattern(size)
        for task in tasks[2:6]:
            task.cancel()
        store.open_all()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [isinstance(r, asyncio.CancelledError) for r in results[2:6]] == [True] * 4
        assert results[6:] == [size] * 6
        await file.fsync()
        assert await file.pread(size, 11 * size) == pattern(size, 11)


# ---------------------------------------------------------------- at every place where CPython checks for signals


def ours(frame: FrameType) -> bool:
    """Code of the package. An interrupt in asyncio's own code may leave the loop itself unable to go on."""
    return PACKAGE in Path(frame.f_code.co_filename).parents


def interrupted(nth: int, main: Callable[[], Any]) -> bool:
    """Run a loop with two tasks, interrupted at the nth place; return whether there was one."""
    loop = asyncio.new_event_loop()
    tasks = [asyncio.ensure_future(main(), loop=loop) for _ in range(2)]
    waiting = asyncio.wait(tasks, timeout=SECONDS)
    place = interrupted_at(nth, lambda: loop.run_until_complete(waiting), within=ours)
    for task in tasks:  # an application may go on with its loop after Ctrl-C
        if not place:
            task.result()
        finish(loop, task)
    loop.close()
    return bool(place)


def finish(loop: asyncio.AbstractEventLoop, task: asyncio.Future[Any]) -> None:
    """Let it end, which may raise the interrupt."""
    for _ in range(3):
        try:
            loop.run_until_complete(asyncio.wait_for(task, SECONDS))
        except RuntimeError as error:
            if "stopped before" in str(error):  # by tasks left over from the interrupted run
                continue
            raise
        except (KeyboardInterrupt, asyncio.CancelledError):
            pass
        return


CALLS: dict[str, Callable[[aio.AsyncCachedFile], Any]] = {
    "a miss": lambda f: f.pread(2 * PAGE, 3 * PAGE + 5),
    "a write that fills": lambda f: many_small_writes(f),
    "fsync": lambda f: f.fsync(),
    "truncate": lambda f: f.truncate(8 * PAGE),
}


async def many_small_writes(file: aio.AsyncCachedFile) -> None:
    for k in range(12):
        await file.pwrite(b"x" * 10, 100 * k + PAGE)


def inject(call: Callable[[aio.AsyncCachedFile], Any], points: Iterator[int], backend: Callable[[], Any]) -> int:
    hit = 0
    for nth in points:
        with PageCache("128KiB", **{**QUIET, "retry": FAST}) as cache:
            volume = cache.attach(backend(), read_ahead=0)
            plain = volume.open(KEY, "r+")
            plain.pwrite(b"dirty" * 100, 7)
            struck = interrupted(nth, lambda: call(aio.AsyncCachedFile(plain)))  # noqa: B023
            Task(verify, volume).result(SECONDS)
            plain.close()
            cache.check()
        hit += struck
        if not struck:
            break
    return hit


def verify(volume: Volume) -> None:
    """Check that nothing is locked or lost."""
    with volume.open(KEY, "r+") as file:
        assert file.pread(PAGE, 0) == DATA[:7] + b"dirty" * 100 + DATA[507:PAGE]
        assert file.pread(2 * PAGE, 3 * PAGE) == DATA[3 * PAGE : 5 * PAGE]
        file.pwrite(b"after", 3 * PAGE)
        file.truncate(6 * PAGE)
        file.fsync(timeout=SECONDS)
    assert volume.dirty_ranges(KEY) == []
    assert volume.cache.stats().pinned == 0
    assert [wait for wait in volume.cache.waits() if wait.task or wait.name == "MainThread"] == []


@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(
    "places", [range(1, 4000, 7), pytest.param(range(1, 100_000), marks=pytest.mark.slow)], ids=["some", "all"]
)
@pytest.mark.parametrize("call", CALLS)
@both
def test_an_interrupt_at_a_place_of_a_loop_leaves_nothing_behind(call: str, backend: Any, places: range) -> None:
    """Of the engine, with two tasks; the loop goes on after it. [T-51, T-56]"""
    assert inject(CALLS[call], iter(places), lambda: backend(DATA)) > 0


STORES: dict[str, Callable[[], Any]] = {
    "blocking": lambda: RecordingBackend({KEY: STORED}, by_name=True),
    "asynchronous": lambda: Store({KEY: STORED}),
}


@pytest.mark.parametrize("change", ["remove", "rename"])
@pytest.mark.parametrize("make", STORES.values(), ids=STORES)
async def test_a_refused_read_is_no_conflict_though_the_change_ends_at_once(
    attach: Attach, make: Callable[[], Any], change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file refuses it while its name changes, and it is judged when the change has just ended. [T-56]"""
    volume = attach(store := make())
    refused, over = threading.Event(), threading.Event()
    judge, bind = reader._judge, EngineFile._bind_beside_names

    def late(*arguments: Any) -> Any:
        refused.set()
        assert over.wait(60)
        return judge(*arguments)

    def ending(file: EngineFile) -> None:
        if file.unnaming is None:
            over.set()  # and the call goes no further, as if it were interrupted here
        else:
            bind(file)

    async with aio.open(volume, KEY) as file:
        gate = store.gate(change)
        changing = Task(volume.remove, KEY) if change == "remove" else Task(volume.rename, KEY, "new")
        await asyncio.to_thread(gate.wait_entered)
        monkeypatch.setattr(reader, "_judge", late)
        monkeypatch.setattr(EngineFile, "_bind_beside_names", ending)
        reading = asyncio.create_task(file.pread(10, PAGE))
        await asyncio.to_thread(refused.wait, 60)
        gate.open()
        if change == "rename":
            assert await reading == STORED[PAGE : PAGE + 10]
        else:
            with pytest.raises(FileNotFoundError):
                await reading
        await asyncio.to_thread(changing.result)
