"""Several loops, loops that end with live tasks, Ctrl-C, forks: a loop owns nothing, so no call hangs behind one."""

from __future__ import annotations

import asyncio
import contextvars
import errno
import gc
import os
import subprocess
import sys
import threading
from collections.abc import Awaitable
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import pytest

from pagecache import DeadlockError, aio, native
from pagecache.backends import MemoryBackend
from pagecache.engine import aside

from ..file.rig import KEY, PAGE, Patch, Task, pattern, raises, until_all_wait
from .conftest import Attach, run
from .stores import Store

DATA = pattern(64 * PAGE)


async def until(condition: Any) -> None:
    while not condition():
        await asyncio.sleep(0.001)


def test_a_loop_closed_with_live_tasks(attach: Attach) -> None:
    """They wait for misses, fsync and room; other loops and threads wait for these too, and go on. [T-56]"""
    store = Store({KEY: DATA})
    volume = attach(store)
    plain = volume.open(KEY, "r+")
    plain.pwrite(b"dirty", 0)
    read, write = store.gate("read_into"), store.gate("write_from")
    dead = asyncio.new_event_loop()
    file = aio.AsyncCachedFile(plain)

    async def begin() -> list[asyncio.Task[Any]]:
        tasks = [
            asyncio.create_task(call) for call in (file.pread(10, 8 * PAGE), file.fsync(), file.truncate(9 * PAGE))
        ]
        for gate in (read, write):
            await asyncio.to_thread(gate.wait_entered)
        return tasks

    tasks = dead.run_until_complete(begin())
    dead.close()
    reader = Task(plain.pread, 10, 8 * PAGE)
    syncer = Task(plain.fsync)
    assert reader.waits()
    assert syncer.waits()

    async def another() -> None:
        call = asyncio.create_task(aio.AsyncCachedFile(plain).pread(10, 8 * PAGE))
        await until_all_wait(volume.cache, call)
        store.open_all()
        assert await call == DATA[8 * PAGE : 8 * PAGE + 10]

    run(another())
    assert reader.result() == DATA[8 * PAGE : 8 * PAGE + 10]
    syncer.result()
    for task in tasks:
        task._log_destroy_pending = False  # type: ignore[attr-defined]
    del tasks
    gc.collect()
    plain.pwrite(b"after", PAGE)
    plain.close()
    assert store.content(KEY)[PAGE : PAGE + 5] == b"after"


async def test_tasks_end_when_the_volume_is_aborted(attach: Attach) -> None:
    """Every wait of a task has a way out. [K9, I-23]"""
    store = Store({KEY: DATA})
    volume = attach(store)
    file = await aio.open(volume, KEY, "r+")
    await file.pwrite(b"dirty", 0)
    store.gate("read_into")
    store.gate("write_from")
    calls: list[Awaitable[object]] = [
        file.pread(10, 8 * PAGE),
        file.fsync(),
        file.flush(),
        file.truncate(PAGE),
        volume.begin_sync(),
    ]
    tasks = [asyncio.ensure_future(call) for call in calls]
    await until(lambda: store.gates["read_into"].waiting and store.gates["write_from"].waiting)
    volume.abort(OSError("gone"))
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(r).__name__ for r in results] == ["ShutdownError"] * len(tasks)
    store.open_all()
    volume.reconnect(store)
    assert await file.pread(10, 8 * PAGE) == DATA[8 * PAGE : 8 * PAGE + 10]
    await file.fsync()
    await file.close()
    assert store.content(KEY)[:5] == b"dirty"


def test_without_a_running_loop_an_await_says_so(attach: Attach) -> None:
    """Other frameworks drive a coroutine by hand: a hit succeeds, a wait is a clear error."""
    volume = attach(MemoryBackend())
    with volume.open(KEY, "w+") as plain:
        plain.write(DATA)
        plain.fsync()
        file = aio.AsyncCachedFile(plain)
        assert raises(StopIteration, file.pread(3, 0).send, None).value == DATA[:3]
        volume.drop_clean()
        raises(RuntimeError, file.pread(3, 0).send, None, match="no running event loop")
        assert plain.pread(3, 0) == DATA[:3]


# ---------------------------------------------------------------- re-entrancy


Verb = Any
INSIDE: dict[str, tuple[str, Verb]] = {
    "a plain read": ("deadlock", lambda volume, file: file._file.pread(10, 20 * PAGE)),
    "a plain write": ("deadlock", lambda volume, file: file._file.pwrite(b"x", 0)),
    "fsync": ("deadlock", lambda volume, file: file._file.fsync()),
    "open": ("deadlock", lambda volume, file: volume.open("other")),
    "a ticket": ("deadlock", lambda volume, file: volume.begin_sync().wait()),
    "an awaited read": ("deadlock", lambda volume, file: file.pread(10, 20 * PAGE)),
    "an awaited write": ("deadlock", lambda volume, file: file.pwrite(b"x", 0)),
    "an awaited fsync": ("deadlock", lambda volume, file: file.fsync()),
    "in a child task": ("deadlock", lambda volume, file: asyncio.create_task(child(file))),
    "in to_thread": ("deadlock", lambda volume, file: asyncio.to_thread(file._file.pread, 10, 20 * PAGE)),
    "a write in to_thread": ("deadlock", lambda volume, file: asyncio.to_thread(file._file.pwrite, b"x", 0)),
    "a read of what is cached": ("fine", lambda volume, file: file._file.pread(10, 0)),
    "an awaited read of what is cached": ("fine", lambda volume, file: file.pread(10, 0)),
    "an announcement": ("fine", lambda volume, file: volume.invalidate_remote("other")),
}


async def child(file: aio.AsyncCachedFile) -> bytes:
    return await file.pread(10, 20 * PAGE)


@pytest.mark.parametrize("where", ["read_into", "write_from", "commit", "open"])
@pytest.mark.parametrize("verb", INSIDE)
def test_what_a_backend_may_do_on_its_own_volume(attach: Attach, verb: str, where: str) -> None:
    """DeadlockError instead of a hang: the context follows awaits, tasks and threads. [T-49, 2.25]"""
    outcome, action = INSIDE[verb]
    store = Store({KEY: DATA, "other": DATA})
    volume = attach(store)
    found: list[Any] = []

    async def act(*args: Any) -> Any:
        store.instead.clear()
        try:
            answer = action(volume, file)
            if hasattr(answer, "__await__"):
                answer = await answer
            found.append("fine")
        except DeadlockError:
            found.append("deadlock")
        except BaseException as error:
            found.append(error)
        return NotImplemented

    with volume.open(KEY, "r+") as plain:
        file = aio.AsyncCachedFile(plain)
        plain.pread(10, 0)
        plain.pwrite(b"dirty", PAGE)
        store.instead[where] = act
        use = {"read_into": lambda: plain.pread(10, 30 * PAGE), "open": lambda: volume.open("other").close()}
        Task(use.get(where, plain.fsync)).result()
        assert found == [outcome]


async def test_a_backend_on_another_volume(attach: Attach) -> None:
    """It awaits handles of a volume below it, on the cache's own loop; misses and writes included. [2.25]"""
    below = Store({KEY: DATA})
    cache = attach(below).cache
    lower = cache.volumes()[0]
    lower_file = lower.open(KEY, "r+")

    class Stacked(Store):
        async def reached(self, method: str, *args: Any) -> Any:
            if method == "read_into":
                offset, buffers = args
                return await aio.AsyncCachedFile(lower_file).preadv(buffers, offset)
            if method == "write_from":
                offset, buffers = args
                return await aio.AsyncCachedFile(lower_file).pwritev(buffers, offset)
            return await super().reached(method, *args)

    upper = cache.attach(Stacked({KEY: DATA}), read_ahead=0)
    async with aio.open(upper, KEY, "r+") as file:
        assert await file.pread(len(DATA), 0) == DATA
        await file.pwrite(b"through both", 100)
        await file.fsync()
    lower_file.fsync()
    lower_file.close()
    assert below.content(KEY)[100:112] == b"through both"


async def test_the_context_of_an_application_is_left_alone(attach: Attach) -> None:
    """Context variables of a task are unchanged after an await."""
    volume = attach(Store({KEY: DATA}))
    mine: contextvars.ContextVar[str] = contextvars.ContextVar("mine", default="none")
    mine.set("here")
    before = dict(contextvars.copy_context())
    async with aio.open(volume, KEY) as file:
        await file.pread(10, 0)
    assert dict(contextvars.copy_context()) == before


def test_loops_that_come_and_go_leave_no_descriptors_or_threads(attach: Attach) -> None:
    volume = attach(Store({KEY: DATA}))

    async def once() -> None:
        async with aio.open(volume, KEY, "r+b") as file:
            volume.drop_clean()
            assert await file.pread(PAGE, PAGE) == DATA[PAGE : 2 * PAGE]
            await file.pwrite(DATA[:PAGE], 0)
            await volume.begin_sync()

    for turn in range(220):
        if turn == 20:
            before, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
        run(once())
    assert len(os.listdir("/proc/self/fd")) <= before + 2
    assert threading.active_count() <= threads + 2


PREAMBLE = """
import asyncio, os, signal, sys, threading, time
from tests.aio.stores import Store
from pagecache import ForkedError, PageCache, ShutdownError, aio
from pagecache.backends import DirectoryBackend
from pagecache.testing import LatencyBackend
cache = PageCache("8MiB", exit_timeout=5)
"""


def run_program(code: str, *args: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-X", "dev", "-c", PREAMBLE + code, *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_ctrl_c_in_asyncio_run(tmp_path: Path) -> None:
    """KeyboardInterrupt out of asyncio.run: nothing is lost, and the next loop goes on with the same handle. [T-51]"""
    code = """
volume = cache.attach(LatencyBackend(DirectoryBackend(sys.argv[1]), write=0.3))
async def opens():
    return await aio.open(volume, "f", "w+")
file = asyncio.run(opens())
async def syncs():
    await file.pwrite(b"x" * 8192, 0)
    loop = asyncio.get_running_loop()
    loop.call_later(0.05, os.kill, os.getpid(), signal.SIGINT)
    await file.fsync()
for turn in range(3):
    try:
        asyncio.run(syncs())
    except KeyboardInterrupt:
        print("interrupted")
async def ends():
    await file.fsync()
    assert await file.pread(8192, 0) == b"x" * 8192
    await file.close()
asyncio.run(ends())
cache.check()
cache.close(timeout=20)
print("end")
"""
    done = run_program(code, tmp_path)
    assert done.stdout == "interrupted\n" * 3 + "end\n", done.stderr
    assert done.returncode == 0
    assert done.stderr == ""
    assert (tmp_path / "f").read_bytes() == b"x" * 8192


def test_a_fork_inside_of_a_running_loop(tmp_path: Path) -> None:
    """The child gets ForkedError from everything, and ends; the parent's tasks go on. [T-50]"""
    code = """
volume = cache.attach(Store({"f": b"o" * 40960}))
other = cache.attach(DirectoryBackend(sys.argv[1]))
async def main():
    async with aio.open(volume, "f", "r+") as file, aio.open(other, "g", "w+") as second:
        await second.pwrite(b"g" * 100, 0)
        await file.pwrite(b"new", 0)
        volume.drop_clean()
        before = asyncio.ensure_future(file.pread(10, 8192))
        await asyncio.sleep(0)
        view = file._file.view(0, 10, writable=True)
        pid = os.fork()
        if not pid:
            status = 0
            try:
                for call in (lambda: file.pread(1, 0), lambda: file.pread(1, 20000), lambda: file.pwrite(b"c", 0),
                             lambda: file.fsync(), lambda: file.flush(), lambda: file.sync_range(0, 1)):
                    try:
                        call().__await__().send(None)  # asyncio has no running loop in the child
                        status = 2
                    except ForkedError:
                        pass
                view.release()
                before.cancel()
            except BaseException as error:
                print(repr(error), flush=True)
                status = 3
            os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert await asyncio.wait_for(before, 20) == b"o" * 10
        view.release()
        volume.drop_clean()
        assert await asyncio.wait_for(file.pread(10, 16384), 20) == b"o" * 10
        await file.fsync()
asyncio.run(main())
cache.check()
cache.close(timeout=20)
assert volume.backend.content("f")[:3] == b"new"
print("end")
"""
    done = run_program(code, tmp_path)
    assert done.stdout == "end\n", done.stdout + done.stderr
    assert done.returncode == 0
    assert (tmp_path / "g").read_bytes() == b"g" * 100


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
