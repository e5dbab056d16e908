"""Asynchronous backends under threads and tasks: many requests in flight, odd answers, hangs, kept buffers, the end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pagecache import (
    BackendError,
    BackendProtocolError,
    ObjectStat,
    PageCache,
    ShutdownError,
    WritebackError,
    aio,
    native,
)
from pagecache.backends import Backend, MemoryBackend
from pagecache.engine.blocking import Blocking, inside_calls
from pagecache.engine.loop import CacheLoop
from pagecache.errors import Key
from pagecache.testing import BackendConformance, FaultyBackend

from ..file.rig import KEY, ONCE, PAGE, QUIET, Task, eventually, pattern, raises, raising, run_program
from .conftest import Attach, run
from .over import Over
from .stores import Store, StoredFile

DATA = pattern(64 * PAGE)
MANY = 100


@pytest.fixture(scope="module")
def loop() -> Any:
    loop = CacheLoop("conformance")
    yield loop
    assert loop.stop(5)


class OnLoop(BackendConformance):
    """A store that is called as the threads of a cache call it."""

    store: Callable[[], Any]

    @pytest.fixture(autouse=True)
    def _with_loop(self, loop: CacheLoop) -> None:
        self.loop = loop

    def make_backend(self, tmp_path: Path) -> Backend:
        return Blocking(type(self).store(), self.loop)


@pytest.mark.smoke("asynchronous backend")
class TestStore(OnLoop):
    store = Store


class TestPublishing(OnLoop):
    """Commits publish."""

    store = partial(Store, commit_on_close=True)


class TestFaulty(OnLoop):
    """A fault injector without faults, over a blocking backend that is made asynchronous."""

    store = staticmethod(lambda: Over(FaultyBackend(MemoryBackend())))


async def test_as_many_calls_run_as_the_backend_accepts(attach: Attach) -> None:
    """Write-back of one fsync, then the reads of as many tasks: `max_inflight` are with the backend at once. [2.1]"""
    store = Store({KEY: b""}, max_inflight=MANY, max_write=PAGE, max_read=PAGE)
    volume = attach(store, capacity="16MiB", max_folio="4KiB")
    data = pattern(MANY * PAGE)
    with volume.open(KEY, "r+") as file:
        file.pwrite(data, 0)
        gate = store.gate("write_from")
        saved = Task(file.fsync)
        eventually(lambda: gate.waiting > MANY * 3 // 4)  # one file does not get all of them
        gate.open()
        saved.result()
        assert store.content(KEY) == data
        volume.drop_clean()
        gate = store.gate("read_into")
        handle = aio.AsyncCachedFile(file)
        tasks = [asyncio.create_task(handle.pread(PAGE, k * PAGE)) for k in range(MANY)]
        await asyncio.to_thread(gate.wait_entered, MANY)
        gate.open()
        assert b"".join(await asyncio.gather(*tasks)) == data


def test_a_loop_is_started_with_the_first_asynchronous_backend(attach: Attach) -> None:
    """The loop is not started before; there is one per cache, and it ends with the cache. [2.1]"""

    def loops() -> list[str]:
        return [t.name for t in threading.enumerate() if t.name.startswith("pagecache-") and t.name.endswith("-loop")]

    before = loops()
    volume = attach(MemoryBackend())
    assert loops() == before
    volume.cache.attach(Store())
    volume.cache.attach(Store())
    assert len(loops()) == len(before) + 1
    volume.cache.close()
    assert loops() == before


ERRORS = (
    PermissionError(13, "no"),
    BackendError(5, "no", retry=False),
    ValueError("odd"),
    asyncio.CancelledError(),
    StopAsyncIteration(),
    GeneratorExit(),
)
ODD: dict[str, tuple[Callable[..., Any], type[OSError]]] = {
    "a wrong answer": (lambda *args: -1, BackendProtocolError),
    **{type(error).__name__: (raising(error), OSError) for error in ERRORS},
}


@pytest.mark.parametrize("what", ODD)
async def test_calls_that_end_oddly_cost_no_byte(attach: Attach, what: str) -> None:
    """The errors of contract 2.14 for threads and tasks; the loop survives, and once it is mended all arrives.
    [T-60, 2.14]
    """
    act, expected = ODD[what]
    store = Store({KEY: DATA})
    with attach(store, retry=ONCE).open(KEY, "r+") as file:
        store.instead["read_into"] = act
        raises(expected, Task(file.pread, 10, 0).result)
        with pytest.raises(expected):
            await aio.AsyncCachedFile(file).pread(10, 8 * PAGE)
        file.pwrite(b"new", 0)
        for method in ("write_from", "commit"):
            store.instead = {method: act}
            raises(WritebackError, Task(file.fsync).result)
            assert file.pread(3, 0) == b"new"
        store.instead.clear()
        assert file.pread(10, 0) == b"new" + DATA[3:10]
        file.fsync()
        assert store.content(KEY)[:3] == b"new"


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), TimeoutError("an alarm")])
@pytest.mark.parametrize("verb", ["pwrite", "append", "write"])
def test_an_interrupt_at_the_begin_of_a_write_is_raised(attach: Attach, verb: str, error: BaseException) -> None:
    """Asking whether a coroutine of this volume writes runs code, so signal handlers too. Nothing is written. [2.7]"""

    def struck() -> list[int]:
        native.use_inside(inside_calls)
        raise error

    with attach(Store({KEY: DATA})).open(KEY, "r+") as file:
        write = partial(file.pwrite, b"new", 0) if verb == "pwrite" else partial(getattr(file, verb), b"new")
        native.use_inside(struck)
        try:
            raises(type(error), write)
        finally:
            native.use_inside(inside_calls)
        if isinstance(error, OSError):
            assert getattr(error, "characters_written", None) == 0
        assert file.pread(len(DATA) + PAGE, 0) == DATA
        assert file.tell() == 0


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
def test_exceptions_that_end_a_program_do_not_end_the_loop(attach: Attach, error: BaseException) -> None:
    """SystemExit and KeyboardInterrupt of a coroutine are raised in the caller that waits for it. [2.14]"""
    store = Store({KEY: DATA})
    volume = attach(store)
    with volume.open(KEY) as file:
        store.instead["read_into"] = raising(error)
        raises(type(error), Task(file.pread, 10, 0).result)
        store.instead.clear()
        assert file.pread(10, 0) == DATA[:10]

        async def lost() -> None:
            raise SystemExit(3)

        async def makes_a_task(*args: Any) -> Any:
            asyncio.get_running_loop().create_task(lost())
            await asyncio.sleep(0)
            return NotImplemented

        store.instead["read_into"] = makes_a_task
        assert Task(file.pread, 10, 8 * PAGE).result() == DATA[8 * PAGE : 8 * PAGE + 10]


@pytest.mark.parametrize("method", ["open", "stat", "read_into", "write_from", "commit"])
def test_methods_that_cannot_be_awaited(attach: Attach, method: str) -> None:
    """A plain method where a coroutine is due: said by name. [T-60]"""
    store = Store({KEY: DATA})
    volume = attach(store, retry=ONCE)
    target = Store if method in ("open", "stat") else StoredFile
    with volume.open(KEY, "r+") as file, pytest.MonkeyPatch.context() as patch:
        file.pread(10, 0)
        file.pwrite(b"new", 0)
        patch.setattr(target, method, lambda *args, **options: 5)
        calls = {
            "open": lambda: volume.open("other"),
            "stat": lambda: volume.stat("other"),
            "read_into": lambda: file.pread(10, 8 * PAGE),
        }
        raises(OSError, Task(calls.get(method, file.fsync)).result, match="cannot be awaited")
        patch.undo()
        file.fsync()
        assert store.content(KEY)[:3] == b"new"


def test_a_cancelled_call_that_goes_on_in_a_thread(attach: Attach) -> None:
    """The volume was aborted, and the call goes on writing: into unused memory. [K7]"""
    store = Store({KEY: DATA})
    volume = attach(store)
    entered, go, wrote = threading.Event(), threading.Event(), threading.Event()

    def late(buffers: Any) -> None:
        with memoryview(buffers[0]) as view:
            entered.set()
            assert go.wait(20)
            view[:PAGE] = b"!" * PAGE
        wrote.set()

    async def slow(offset: int, buffers: Any) -> Any:
        await asyncio.to_thread(late, buffers)
        return NotImplemented

    with volume.open(KEY) as file:
        store.instead["read_into"] = slow
        reader = Task(file.pread, PAGE, 0)
        assert entered.wait(20)
        volume.abort()
        raises(OSError, reader.result)
        store.instead.clear()
        volume.reconnect(store)
        assert file.pread(PAGE, 0) == DATA[:PAGE]
        go.set()
        assert wrote.wait(20)
        assert file.pread(PAGE, 0) == DATA[:PAGE]


def test_an_abort_leaves_running_calls_alone(attach: Attach) -> None:
    """A write hangs while the volume is aborted: its late answer only ends the flight. [K7, 2.22]"""
    store = Store({KEY: DATA})
    volume = attach(store)
    with volume.open(KEY, "r+") as file:
        file.pwrite(b"new", 0)
        gate = store.gate("write_from")
        syncer = Task(file.fsync)
        gate.wait_entered()
        volume.abort()
        raises(OSError, syncer.result)
        assert gate.waiting == 1
        other = Store({KEY: DATA})
        volume.reconnect(other)
        assert volume.backend is other
        syncer = Task(file.fsync)
        assert syncer.waits()
        gate.open()
        syncer.result()
        assert other.content(KEY)[:3] == b"new"


@pytest.mark.parametrize("by", ["a thread", "a task", "readahead"])
def test_an_abort_cancels_running_reads(attach: Attach, by: str) -> None:
    """Whoever waits for them, or nobody: no other call can need the bytes. [2.22]"""
    store = Store({KEY: DATA})
    volume = attach(store)
    gate = store.gate("read_into")
    over = threading.Event()

    async def watched(*args: Any) -> Any:
        try:
            await gate.passing()
        except asyncio.CancelledError:
            over.set()
            raise

    del store.gates["read_into"]
    store.instead["read_into"] = watched
    with volume.open(KEY) as file:
        task = lambda: run(aio.AsyncCachedFile(file).pread(10, 0))  # noqa: E731
        reader = Task({"a thread": lambda: file.pread(10, 0), "a task": task, "readahead": file.prefetch}[by])
        gate.wait_entered()
        volume.abort()
        assert over.wait(20)
        if by != "readahead":
            raises(ShutdownError, reader.result)


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("same", [False, True])
@pytest.mark.parametrize("abort", [False, True])
def test_a_read_ends_though_it_looks_after_the_reconnect(
    attach: Attach, monkeypatch: pytest.MonkeyPatch, abort: bool, same: bool, direct: bool
) -> None:
    """Its coroutine never ends. [2.22, K9]"""
    store, other = Store({KEY: DATA}), Store({KEY: DATA})
    volume = attach(store)
    adapter: Any = volume.engine.backend
    alive, reconnected = adapter.check_alive, threading.Event()

    def looks() -> None:
        assert reconnected.wait(20)
        alive()

    monkeypatch.setattr(adapter, "check_alive", looks)
    store.instead["read_into"] = lambda *_: asyncio.sleep(3600)
    with volume.open(KEY, direct=direct) as file:
        reader = Task(file.pread, PAGE, 0)
        eventually(lambda: "read_into" in store.calls)
        if abort:
            volume.abort()
        store.instead.clear()
        volume.reconnect(store if same else other)
        reconnected.set()
        with contextlib.suppress(ShutdownError):
            assert reader.result() == DATA[:PAGE]  # read again
        assert file.pread(PAGE, 0) == DATA[:PAGE]


@pytest.mark.parametrize("there", [True, False])
def test_reconnecting_to_a_backend_of_the_other_kind(attach: Attach, there: bool) -> None:
    """The test goes from asynchronous to blocking and back: everything local arrives. [2.22]"""
    plain = MemoryBackend()
    plain.put(KEY, DATA)
    first, second = (Over(plain), plain) if there else (plain, Over(plain))
    volume = attach(first)
    with volume.open(KEY, "r+") as file:
        for round_, backend in enumerate((second, first, second)):
            file.pwrite(b"round %d" % round_, PAGE)
            volume.abort()
            volume.reconnect(backend)
            file.fsync()
            assert file.pread(7, PAGE) == b"round %d" % round_
            volume.drop_clean()
            assert file.pread(PAGE, 2 * PAGE) == DATA[2 * PAGE : 3 * PAGE]
        assert volume.backend is second
    assert plain.snapshot(KEY)[PAGE : PAGE + 7] == b"round 2"


def test_a_mirror_may_be_asynchronous(attach: Attach) -> None:
    """A best-effort copy by its own calls. [T-34]"""
    mirror = Store()
    volume = attach(Store(), mirror=mirror)
    with volume.open(KEY, "w+") as file:
        file.pwrite(DATA, 0)
        file.fsync()
    eventually(lambda: KEY in mirror.objects and mirror.content(KEY) == DATA)


EXIT = """
import asyncio, sys
import pagecache
from tests.aio.stores import Store

store = Store({"file": bytes(8192)})
async def hang(*args):
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass
store.instead["write_from"] = hang
cache = pagecache.PageCache("1MiB", exit_timeout=0.5)
file = cache.attach(store).open("file", "r+")
file.pwrite(b"never saved", 0)
print("over", flush=True)
sys.exit(7)
"""


def test_interpreter_exit_while_a_coroutine_hangs(tmp_path: Path) -> None:
    """It ends within `exit_timeout`, with the list of unsaved bytes, and the program's own status, though the
    coroutine ignores its cancellation. [T-52, 2.22]
    """
    ended = run_program(tmp_path, EXIT)
    assert (ended.returncode, ended.stdout) == (7, "over\n")
    assert "not saved" in ended.stderr


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_cache_that_is_dropped_ends_its_loop() -> None:
    """Only its tasks reference the cache: dirty bytes are saved, then its threads end."""
    store = Store({KEY: DATA})
    cache = PageCache("1MiB", **QUIET)
    file = cache.attach(store).open(KEY, "r+")
    file.pwrite(b"saved", 0)
    number = cache._number
    file.close()
    del file, cache

    def ended() -> bool:
        gc.collect()  # several times: a thread may still use a dropped object
        return f"pagecache-{number}-loop" not in [t.name for t in threading.enumerate()]

    eventually(ended)
    assert store.content(KEY)[:5] == b"saved"


class Canonical(Store):
    """A store whose `canonical` is a coroutine, too."""

    waits = False

    async def canonical(self, key: Key) -> Key:  # type: ignore[override]
        if self.waits:
            await asyncio.sleep(0)
        return str(key).removeprefix("./")


@pytest.mark.parametrize("waits", [False, True])
def test_canonical_may_be_a_coroutine(attach: Attach, waits: bool) -> None:
    """[T-67]"""
    store = Canonical({KEY: DATA})
    store.waits, store.objects[f"./{KEY}"] = waits, store.objects[KEY]
    volume = attach(store)
    with volume.open(f"./{KEY}", "r+") as one, volume.open(KEY) as two:
        one.pwrite(b"2", 0)
        assert two.pread(1, 0) == b"2"
    assert volume.stat(f"./{KEY}").size == len(DATA)


def test_an_async_generator_may_raise_half_way(attach: Attach) -> None:
    class Half(Store):
        async def list(self, prefix: str = "") -> AsyncIterator[ObjectStat]:
            yield ObjectStat(size=1, key="one")
            raise PermissionError(13, "no further", None)

    raises(PermissionError, list, attach(Half()).list())
