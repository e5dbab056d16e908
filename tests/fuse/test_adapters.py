"""`Files` and `TrioFiles` without a kernel, the order of requests, and a process that uses its own mount."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from pagecache import PageCache, RetryPolicy, Volume
from pagecache.backends import MemoryBackend
from pagecache.errors import DataLossError, ShutdownError
from pagecache.fuse import Files, TrioFiles, errno_of
from pagecache.fuse.files import ZERO_RANGE, OpenFile
from pagecache.fuse.tasks import Aside
from pagecache.testing import FaultyBackend, Gate, Rule

from ..file.rig import Patch, Task, at_gate, eventually, raises, raising
from .mounts import code, needs_mounts

CREATE = os.O_RDWR | os.O_CREAT
ONCE = RetryPolicy(attempts=1, failed_retry=None)


class Waits:
    """A handle one of whose methods waits."""

    def __init__(self, file: Any, name: str) -> None:
        self.file, self.begun, self.go_on = file, threading.Event(), threading.Event()

        def wait(*arguments: Any) -> Any:
            self.begun.set()
            assert self.go_on.wait(60)
            return getattr(file, name)(*arguments)

        setattr(self, name, wait)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


@pytest.fixture
def backend() -> FaultyBackend:
    return FaultyBackend(MemoryBackend())


@pytest.fixture
def volume(backend: FaultyBackend) -> Iterator[Volume]:
    with PageCache("1MiB", flush_interval=3600, dirty_expire=3600, retry=ONCE) as cache:
        yield cache.attach(backend, read_ahead=0)


@pytest.fixture
def files(volume: Volume) -> Iterator[Files]:
    made = Files(volume)
    yield made
    made.close()


def test_the_verbs(files: Files, backend: FaultyBackend) -> None:
    """Each handles the request of its name."""
    fh = files.open("a", CREATE)
    assert files.write(fh, 0, b"hello world") == 11
    assert files.read(fh, 6, 100) == b"world"
    assert files.size("a") == 11
    files.truncate(fh, 5)
    files.fallocate(fh, 0x03, 0, 2)
    files.fallocate(fh, 0x10, 4, 4)
    assert files.read(fh, 0, 100) == b"\0\0ll\0\0\0\0"
    files.flush(fh)
    assert backend.inner.snapshot("a") == b"\0\0ll\0\0\0\0"  # type: ignore[attr-defined]
    files.fsync(fh)
    files.release(fh)
    assert code(files.read, fh, 0, 1) == errno.EBADF
    files.release(fh)


def test_a_failure_is_reported_to_each_open_once(files: Files, backend: FaultyBackend) -> None:
    """flush or write reports it once; fsync reports it while it lasts; and a new failure is reported again."""
    one, other = files.open("a", CREATE), files.open("a", CREATE)
    files.write(one, 0, b"x" * 4096)
    backend.use([Rule("write", error=errno.ENOSPC)])
    assert [code(files.flush, one) for _ in range(3)] == [errno.ENOSPC, None, None]
    assert [code(files.write, other, 0, b"y") for _ in range(3)] == [errno.ENOSPC, None, None]
    assert [code(files.fsync, one) for _ in range(3)] == [errno.ENOSPC] * 3
    assert code(files.write, one, 0, b"z") is None
    assert code(files.flush, one) == errno.ENOSPC
    backend.use([])
    assert [code(files.fsync, fh) for fh in (one, other)] == [None, None]
    files.write(other, 0, b"!")
    backend.use([Rule("write", error=errno.EDQUOT)])
    assert code(files.flush, other) == errno.EDQUOT
    backend.use([])
    assert code(files.flush, other) is None
    assert backend.inner.snapshot("a")[:1] == b"!"  # type: ignore[attr-defined]


@pytest.mark.parametrize("mapped", [None, True, False])
def test_pages_of_a_mapping_are_taken_beside_a_failure(
    files: Files, backend: FaultyBackend, mapped: bool | None
) -> None:
    """The kernel sends them once. A program that is told of a failure does not find its bytes, if the binding knows."""
    fh, told = files.open("a", CREATE), None if mapped else errno.ENOSPC
    files.write(fh, 0, b"x" * 8192)
    backend.use([Rule("write", error=errno.ENOSPC)])
    other = files.get(files.open("a", os.O_RDWR))
    assert code(files.flush, fh) == errno.ENOSPC
    assert code(partial(other.write, mapped=mapped), b"mapped", 4096) == told
    assert files.read(fh, 4096, 6) == (b"xxxxxx" if mapped is False else b"mapped")
    assert code(other.flush) == (errno.ENOSPC if mapped is not False else None)
    backend.use([])


def test_a_trio_write_beside_a_failure_is_taken_and_reports_it(volume: Volume, backend: FaultyBackend) -> None:
    async def run() -> None:
        files = TrioFiles(volume)
        one, other = await files.open("a", CREATE), await files.open("a", os.O_RDWR)
        await files.write(one, 0, b"x" * 8192)
        backend.use([Rule("write", error=errno.ENOSPC)])
        with pytest.raises(OSError, match="No space left"):
            await files.flush(one)
        with pytest.raises(OSError, match="could not be written back"):
            await files.write(other, 4096, b"mapped")
        assert await files.read(other, 4096, 6) == b"mapped"
        assert await files.write(other, 0, b"again") == 5
        backend.use([])
        for fh in (one, other):
            await files.release(fh)

    trio.run(run)


def test_a_loss_is_reported_to_each_open_once(files: Files) -> None:
    one, other = files.open("a", CREATE), files.open("a", os.O_RDONLY)
    files.write(one, 0, b"x" * 4096)
    files.volume.discard("a")
    for fh in (one, other):
        raises(DataLossError, files.flush, fh)
        assert code(files.flush, fh) is None


def test_a_release_that_fails_keeps_the_data_and_says_so(
    files: Files, backend: FaultyBackend, caplog: pytest.LogCaptureFixture
) -> None:
    """This holds without a flush before it, as when a connection is cut."""
    fh = files.open("a", CREATE)
    files.write(fh, 0, b"x" * 4096)
    backend.use([Rule("write", error=errno.ENOSPC)])
    files.release(fh)
    assert "not saved when it was closed" in caplog.text
    assert [(entry.offset, entry.length) for entry in files.volume.failed()] == [(0, 4096)]
    backend.use([])
    files.volume.sync(20)
    assert backend.inner.snapshot("a") == b"x" * 4096  # type: ignore[attr-defined]


def test_a_whole_object_is_published_by_a_flush_that_has_something_to_publish() -> None:
    """Closes in children of a program do not publish unfinished content."""
    with PageCache("1MiB") as cache:
        whole = FaultyBackend(MemoryBackend(commit_on_close=True))
        files = Files(cache.attach(whole))
        fh = files.open("a", CREATE)
        files.flush(fh)
        assert whole.calls_of("commit") == []
        files.write(fh, 0, b"one")
        files.flush(fh)
        files.flush(fh)
        assert len(whole.calls_of("commit")) == 1
        files.release(fh)
        assert len(whole.calls_of("commit")) == 1
        empty = files.open("empty", CREATE)
        files.flush(empty)
        files.release(empty)
        assert len(whole.calls_of("commit")) == 2


@pytest.mark.parametrize("change", ["write", "truncate", "fallocate"])
def test_a_change_that_ends_after_a_flush_is_published_by_the_next_one(change: str, monkeypatch: Patch) -> None:
    with PageCache("1MiB") as cache:
        whole = MemoryBackend(commit_on_close=True)
        files = Files(cache.attach(whole))
        fh = files.open("a", CREATE)
        files.write(fh, 0, b"first")
        opened = files.get(fh)
        name = {"write": "pwrite", "truncate": "truncate", "fallocate": "punch_hole"}[change]
        waits = Waits(opened.file, name)
        monkeypatch.setattr(opened, "file", waits)
        calls = {"write": (0, b"again"), "truncate": (2,), "fallocate": (0x03, 0, 2)}
        changing = Task(getattr(files, change), fh, *calls[change])
        assert waits.begun.wait(60)
        files.flush(fh)  # of a duplicate
        waits.go_on.set()
        changing.result()
        assert opened.written_ns
        files.flush(fh)
        assert whole.snapshot("a") == {"write": b"again", "truncate": b"fi", "fallocate": b"\0\0rst"}[change]
        monkeypatch.undo()
        files.release(fh)


@pytest.mark.parametrize("error", [None, errno.EACCES])
def test_a_flush_beside_one_that_publishes_has_its_result(error: int | None) -> None:
    """The first is that of a child, which ignores the result; the second that of the program which has written."""
    whole = FaultyBackend(MemoryBackend(commit_on_close=True))
    with PageCache("1MiB", retry=ONCE) as cache, Gate() as gate:
        files = Files(cache.attach(whole))
        fh = files.open("a", CREATE)
        files.write(fh, 0, b"one")
        whole.use([Rule("commit", gate=gate, error=error)])
        first = at_gate(gate, code, files.flush, fh)[1]
        second = Task(code, files.flush, fh)
        waiting = second.thread.ident
        eventually(lambda: second.finished.is_set() or any(wait.thread == waiting for wait in cache.waits()))
        waited = not second.finished.is_set()
        gate.release()
        found = [first.result(), second.result()]
        whole.use([])
        files.release(fh)
        assert waited
        assert found == [error, error]
        assert whole.inner.snapshot("a") == b"one"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ENOSPC, "full"), errno.ENOSPC),
        (ShutdownError("gone", "a"), errno.EIO),
        (OSError(errno.ECONNRESET, "reset"), errno.EIO),
        (TimeoutError("late"), errno.EIO),
        (FileNotFoundError("without a number"), errno.ENOENT),
        (FileExistsError(), errno.EEXIST),
        (NotADirectoryError("a"), errno.ENOTDIR),
        (IsADirectoryError("a"), errno.EISDIR),
        (PermissionError("a"), errno.EACCES),
        (OSError("text"), errno.EIO),
        (io.UnsupportedOperation("no"), errno.EOPNOTSUPP),
        (ValueError("no key"), errno.EINVAL),
        (MemoryError(), errno.ENOMEM),
        (KeyError("odd"), errno.EIO),
        (OSError(errno.EDEADLK, "itself"), errno.EDEADLK),
    ],
    ids=lambda value: str(value),
)
def test_the_errors_that_a_program_gets(error: BaseException, expected: int) -> None:
    assert errno_of(error) == expected


def test_hits_on_trio_need_no_thread(volume: Volume, backend: FaultyBackend) -> None:
    """Reads and writes of cached bytes do not suspend; a miss leaves the loop free."""
    gate = Gate()

    async def run() -> None:
        files = TrioFiles(volume)
        fh = await files.open("a", CREATE)
        await files.write(fh, 0, b"x" * 8192)
        with trio.CancelScope() as scope:  # a task that suspends in it is cancelled
            scope.cancel()
            assert await files.read(fh, 0, 8192) == b"x" * 8192
            assert await files.write(fh, 0, b"y") == 1
        assert not scope.cancelled_caught
        await files.fsync(fh)
        volume.drop_clean()
        backend.use([Rule("read", gate=gate)])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(files.read, fh, 0, 10)
            await trio.to_thread.run_sync(gate.wait_entered)
            gate.release()
        assert await files.size("a") == 8192
        await files.release(fh)

    trio.run(run)


def test_errors_on_trio_are_what_the_binding_wants(volume: Volume) -> None:
    class BindingError(Exception):
        pass

    async def run() -> None:
        files = TrioFiles(volume, error=BindingError)
        with pytest.raises(BindingError) as caught:
            await files.open("none")
        assert caught.value.args == (errno.ENOENT,)
        with pytest.raises(BindingError):
            await files.read(17, 0, 1)
        with pytest.raises(FileNotFoundError):
            await TrioFiles(volume).open("none")

    trio.run(run)


def test_an_answer_after_the_deadline_is_undone(volume: Volume, backend: FaultyBackend) -> None:
    """The task goes on with ETIMEDOUT; a file opened for it in the end is closed again."""
    gate = Gate()
    backend.use([Rule("open", gate=gate)])
    closed = threading.Event()

    async def run() -> None:
        files = TrioFiles(volume, deadline=0.05)
        release = files.files.release

        def released(fh: int) -> None:
            release(fh)
            closed.set()

        files.files.release = released  # type: ignore[method-assign]
        with pytest.raises(OSError) as caught:
            await files.open("a", CREATE)
        assert caught.value.errno == errno.ETIMEDOUT
        gate.release()
        await trio.to_thread.run_sync(closed.wait, 20)
        assert files.files.by_number == {}

    trio.run(run)
    assert closed.is_set()


@pytest.mark.parametrize("how", ["cancelled", "late", "no thread"])
def test_releases_that_their_callers_do_not_wait_for_are_made_on_few_threads(monkeypatch: Patch, how: str) -> None:
    """The kernel sends each once. The only thread of the loop is in another call, which hangs, as the first close does.
    Without a thread they are left to the next call.
    """
    hold, closed, whole = threading.Event(), threading.Semaphore(0), MemoryBackend(commit_on_close=True)
    closers: set[threading.Thread] = set()
    count = 20

    async def run(volume: Volume) -> None:
        files = TrioFiles(volume, deadline=0.01, threads=1)
        opened, close = [files.files.open(f"a{number}", CREATE) for number in range(count)], OpenFile.close
        for fh in opened:
            await files.write(fh, 0, b"written")

        def closing(opened: OpenFile) -> None:
            closers.add(threading.current_thread())
            assert hold.wait(20)
            close(opened)
            closed.release()

        async def release(fh: int) -> None:
            with trio.CancelScope() as scope:
                if how == "cancelled":
                    scope.cancel()
                with contextlib.suppress(OSError):
                    await files.release(fh)
            assert scope.cancelled_caught == (how == "cancelled")

        monkeypatch.setattr(OpenFile, "close", closing)
        with pytest.raises(OSError):
            await files._aside.call(hold.wait)
        with monkeypatch.context() as patch:
            if how == "no thread":
                patch.setattr(threading.Thread, "start", raising(RuntimeError("can't start new thread")))
            for fh in opened[1:]:
                await release(fh)
        assert not (how == "no thread" and closers)
        await release(opened[0])
        hold.set()
        for _ in opened:
            assert await trio.to_thread.run_sync(partial(closed.acquire, timeout=20))
        assert len(closers) == 1
        assert threading.main_thread() not in closers
        assert files.files.by_number == {}
        eventually(lambda: not files._aside._late_threads)

    with PageCache("1MiB") as cache:
        trio.run(run, cache.attach(whole))
        for number in range(count):
            assert whole.snapshot(f"a{number}") == b"written"


@pytest.mark.parametrize("other", ["hangs", "raises"])
def test_a_late_release_does_not_wait_for_another_one(monkeypatch: Patch, other: str) -> None:
    hold, made, said = threading.Event(), threading.Event(), threading.Event()
    monkeypatch.setattr(threading, "excepthook", lambda _: said.set())

    async def run() -> None:
        aside = Aside(threads=2)
        aside.later(hold.wait if other == "hangs" else raising(MemoryError()))
        aside.later(made.set)
        assert await trio.to_thread.run_sync(made.wait, 20)
        hold.set()
        eventually(lambda: not aside._late_threads and said.is_set() == (other == "raises"))

    trio.run(run)


def test_calls_that_hang_do_not_take_all_threads_of_the_loop() -> None:
    """They are at their limit; the next one fails at its deadline, and the loop goes on."""
    hold = threading.Event()

    async def run() -> None:
        aside = Aside(deadline=0.05, threads=2)
        for _ in range(4):
            with pytest.raises(OSError):
                await aside.call(hold.wait)
        hold.set()
        assert await Aside(threads=2).call(lambda: 7) == 7

    trio.run(run)


# ---------------------------------------------------------------- requests for the same bytes, one behind another

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

    def write(self, data: Any, offset: int, *, mapped: bool | None = None) -> int:
        self.begun.release()
        assert self.go_on.acquire(timeout=60)
        self.order.append(data)
        return super().write(data, offset, mapped=mapped)


def on_trio(volume: Volume, program: Callable[[TrioFiles, Held, trio.Nursery], Awaitable[None]], **how: Any) -> None:
    """Run a program on a file of old bytes, all cached; release all waiting writes at its end."""

    async def main() -> None:
        files = TrioFiles(volume, error=lambda code: OSError(code, "reported"), **how)
        fh = files.files.open("a", CREATE)
        files.files.write(fh, 0, b"o" * 2 * PAGE)
        opened = files.files.by_number[fh] = Held(files.files.get(fh))
        async with trio.open_nursery() as nursery:
            try:
                await program(files, opened, nursery)
            finally:
                opened.go_on.release(10)
        opened.close()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0) if "deadline" in how else None)


async def leave(files: TrioFiles, opened: Held, call: Callable[..., Awaitable[object]], *arguments: Any) -> None:
    """Cancel the task of a call that runs, and goes on: it keeps its turn."""
    with trio.CancelScope() as left:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call, opened.number, *arguments)
            await trio.to_thread.run_sync(opened.begun.acquire)
            left.cancel()
    assert len(files._turns.writes) == 1


def test_requests_for_the_bytes_of_a_waiting_write_follow_it(volume: Volume) -> None:
    """In the order of their arrival: the later bytes stay, and are read. Requests for other bytes are not delayed."""

    async def program(files: TrioFiles, opened: Held, nursery: trio.Nursery) -> None:
        found: list[object] = []

        async def read() -> None:
            found.append(await files.read(opened.number, 0, 200))

        nursery.start_soon(files.write, opened.number, 0, b"1" * 100)
        await trio.to_thread.run_sync(opened.begun.acquire)
        nursery.start_soon(files.write, opened.number, 50, b"2" * 100)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        assert not opened.begun.acquire(blocking=False)
        assert await files.read(opened.number, PAGE, PAGE) == b"o" * PAGE
        nursery.start_soon(files.write, opened.number, PAGE, b"3" * 100)
        await trio.to_thread.run_sync(opened.begun.acquire)
        opened.go_on.release(3)
        while not found:
            await trio.lowlevel.checkpoint()
        assert found == [b"1" * 50 + b"2" * 100 + b"o" * 50]

    on_trio(volume, program)


def test_a_write_that_its_task_has_left_is_before_those_that_came_after_it(volume: Volume) -> None:
    """Its call may still change the bytes: the later ones stay."""

    async def program(files: TrioFiles, opened: Held, nursery: trio.Nursery) -> None:
        await leave(files, opened, files.write, 0, b"1" * 100)
        nursery.start_soon(files.write, opened.number, 0, b"2" * 100)
        await trio.testing.wait_all_tasks_blocked()
        assert not opened.begun.acquire(blocking=False)
        opened.go_on.release(2)
        assert await files.read(opened.number, 0, 100) == b"2" * 100
        assert opened.order == [b"1" * 100, b"2" * 100]

    on_trio(volume, program)


@pytest.mark.parametrize("call", ["truncate", "fallocate"])
def test_a_truncate_that_its_task_has_left_is_before_later_writes(
    volume: Volume, monkeypatch: Patch, call: str
) -> None:
    """It cuts off nothing that was written since. Reads go on."""

    async def program(files: TrioFiles, opened: Held, nursery: trio.Nursery) -> None:
        genuine = getattr(files.files, call)

        def late(*arguments: int) -> None:
            opened.begun.release()
            assert opened.go_on.acquire(timeout=60)
            genuine(*arguments)

        monkeypatch.setattr(files.files, call, late)
        arguments = (100,) if call == "truncate" else (ZERO_RANGE, 100, PAGE)
        await leave(files, opened, getattr(files, call), *arguments)
        nursery.start_soon(files.write, opened.number, 100, b"2" * 100)
        await trio.testing.wait_all_tasks_blocked()
        assert not opened.begun.acquire(blocking=False)
        assert await files.read(opened.number, PAGE, PAGE) == b"o" * PAGE
        opened.go_on.release(2)
        assert await files.read(opened.number, 0, 200) == b"o" * 100 + b"2" * 100

    on_trio(volume, program)


def test_a_truncate_is_behind_a_write_that_its_task_has_left(volume: Volume) -> None:
    """The bytes of that write do not come back."""

    async def program(files: TrioFiles, opened: Held, nursery: trio.Nursery) -> None:
        await leave(files, opened, files.write, PAGE, b"1" * 100)
        async with trio.open_nursery() as inner:
            inner.start_soon(files.truncate, opened.number, 100)
            await trio.testing.wait_all_tasks_blocked()
            assert opened.file.size == 2 * PAGE
            opened.go_on.release()
        assert opened.file.size == 100

    on_trio(volume, program)


def test_a_request_behind_a_write_goes_on_at_its_deadline(volume: Volume) -> None:
    """EIO, as for the write itself; no request is blocked after the call has ended."""

    async def program(files: TrioFiles, opened: Held, nursery: trio.Nursery) -> None:
        codes: list[int | None] = []

        async def failing(call: Callable[..., Awaitable[object]], *arguments: object) -> None:
            with pytest.raises(OSError) as caught:
                await call(*arguments)
            codes.append(caught.value.errno)

        async with trio.open_nursery() as inner:
            inner.start_soon(failing, files.write, opened.number, 100, b"n" * 100)
            while not opened.begun.acquire(blocking=False):
                await trio.lowlevel.checkpoint()
            inner.start_soon(failing, files.read, opened.number, 0, PAGE)
        assert codes == [errno.EIO] * 2
        await failing(files.read, opened.number, 0, PAGE)  # the call still runs
        assert codes == [errno.EIO] * 3
        opened.go_on.release()
        while files._turns.writes:
            await trio.lowlevel.checkpoint()
        assert len(await files.read(opened.number, 0, PAGE)) == PAGE

    on_trio(volume, program, deadline=5.0)


ASKS_ITSELF = """
import errno, os, subprocess, sys, threading
import pyfuse3, trio
import pagecache, pagecache.fuse
from pagecache.testing import FaultyBackend, Rule
sys.path.insert(0, sys.argv[2])
import fuse_trio

path, loop = sys.argv[1], threading.Thread(target=trio.run, args=(pyfuse3.main,))

said = []

def read_below(key, fd):
    # the next read of the backend for this file reads another one
    def read(*_):
        try:
            said.append(len(os.pread(fd, 10, 0)))
        except OSError as error:
            said.append(errno.errorcode[error.errno])
        done.set()
    store.use([Rule("read", key=key, times=1, change=read)])

class Server(fuse_trio.Server):
    def __init__(self, volume):
        super().__init__(volume)
        self.files = files = pagecache.fuse.TrioFiles(volume, error=pyfuse3.FUSEError, deadline=1)
        self.read, self.write, self.flush, self.release = files.read, files.write, files.flush, files.release

done = threading.Event()
store = FaultyBackend(fuse_trio.Tables())
volume = pagecache.PageCache("4MiB").attach(store, read_ahead=0)
pyfuse3.init(Server(volume), path)
loop.start()
fds = {key: os.open(os.path.join(path, key), os.O_RDONLY) for key in "123"}
read_below("2", fds["1"])
assert os.pread(fds["2"], 9, 0) == b"0 0\\n1 1\\n2"  # its backend reads another file of the mount
assert said.pop() == 10
done.clear()
read_below("3", fds["3"])
try:
    assert os.pread(fds["3"], 9, 0) == b"0 0\\n1 1\\n2"  # its backend reads what it is asked for itself
except OSError as error:
    assert error.errno == errno.EIO  # the kernel may ask once more by itself, and is answered then
assert done.wait(30)
assert said == ["EIO"], said
assert os.pread(fds["3"], 9, 0) == b"0 0\\n1 1\\n2"  # nobody waits for anything any more
for fd in fds.values():
    os.close(fd)
subprocess.run(["fusermount3", "-u", path], check=True)
loop.join()
pyfuse3.close(unmount=False)
print("served", flush=True)
os._exit(0)
"""


@needs_mounts
@pytest.mark.skipif(
    find_spec("pyfuse3") is None, reason="pyfuse3 is not installed: apt install libfuse3-dev pkg-config"
)
def test_a_process_uses_the_mount_that_it_serves_itself_below_its_backend(tmp_path: Path) -> None:
    """A call that waits for itself ends at its deadline. [T-65]"""
    examples = Path(__file__).parent.parent.parent / "examples"
    command = [sys.executable, "-c", ASKS_ITSELF, str(tmp_path), str(examples)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        # A thread that waits for a page cannot be killed before the connection is cut.
        cut = threading.Timer(60, lambda: subprocess.run(["umount", "-f", "-l", str(tmp_path)], check=False))
        cut.start()
        try:
            output, complained = process.communicate()
        finally:
            cut.cancel()
    assert output == "served\n", complained
