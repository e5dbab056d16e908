"""Deadlines of calls that carry no bytes, over a store that does not answer: which waits end, which calls go on, which
state is left.

A gate holds the backend's call; the volume's clock stands still until the test moves it.
"""

from __future__ import annotations

import errno
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from pagecache import BackendError, BackendLimits, PageCache, Volume
from pagecache.backends import MemoryBackend
from pagecache.backends.protocol import close_backend_file
from pagecache.engine.commit.versions import Versions
from pagecache.native import NativeInode
from pagecache.testing import FaultyBackend, Gate, Rule

from ..aio.over import Over
from ..stores import RecordingBackend
from .clock import HandClock
from .rig import FAST, NAME_CALLS, QUIET, Patch, Task, at_gate, beside, eventually, gated, raises

KEY = "object"
DATA = bytes(range(256)) * 16

CALLS: dict[str, tuple[str, Callable[..., object]]] = {
    **{name: (name, partial(call, key=KEY)) for name, call in NAME_CALLS.items()},
    "exists": ("stat", lambda volume, **more: volume.exists(KEY, **more)),
}


@pytest.fixture(params=["blocking", "async"])
def backend(request: pytest.FixtureRequest) -> Any:
    store = MemoryBackend()
    store.put(KEY, DATA)
    return FaultyBackend(store) if request.param == "blocking" else Over(FaultyBackend(store))


@pytest.fixture
def cache(clock: HandClock) -> Iterator[PageCache]:
    made = PageCache("8MiB", **{**QUIET, "retry": replace(FAST, deadline=3600.0)})
    yield made
    made.check()
    for volume in made.volumes():
        if volume.unsaved():  # by a test that failed: its next try never comes, as the clock stands still
            volume.abort()
    made.close(on_failed="discard")


@pytest.fixture
def volume(cache: PageCache, backend: Any) -> Volume:
    return cache.attach(backend)


def late(clock: HandClock, task: Task[Any], seconds: float) -> TimeoutError:
    """Let a deadline pass, and return the error of the call."""
    clock.advance(seconds)
    caught = raises(TimeoutError, task.result)
    assert caught.errno == errno.ETIMEDOUT
    return caught


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("how", ["argument", "default of the volume"])
def test_a_deadline_ends_the_wait(cache: PageCache, clock: HandClock, backend: Any, call: str, how: str) -> None:
    """It does not end before its time; the error names operation and key, and the call goes on."""
    operation, run = CALLS[call]
    volume = cache.attach(backend, timeout=None if how == "argument" else 7.0)
    with gated(backend, operation, times=1) as gate:
        _, task = at_gate(gate, run, volume, **({"timeout": 7.0} if how == "argument" else {}))
        clock.advance(6.9)
        assert task.waits()
        error = late(clock, task, 0.2)
        name = "stat" if call == "exists" else call
        assert str(error).startswith(f"[Errno {errno.ETIMEDOUT}] {name}: the deadline passed; what was started goes on")
        assert error.filename == (None if call == "list" else KEY)
    if call in ("remove", "rename"):
        Task(eventually, lambda: not volume.exists(KEY)).result()
    else:
        Task(run, volume).result()


@pytest.mark.parametrize("timeout", [-1, math.nan, "1", object()])
@pytest.mark.parametrize("call", [*CALLS, "attach"])
def test_a_timeout_that_is_none_is_refused(cache: PageCache, backend: Any, call: str, timeout: Any) -> None:
    """No call reaches the backend. [T-59]"""
    if call == "attach":
        raises((ValueError, TypeError), cache.attach, backend, timeout=timeout, match="timeout")
        cache.attach(backend)
        return
    volume = cache.attach(backend)
    raises((ValueError, TypeError), CALLS[call][1], volume, timeout=timeout, match="timeout")
    assert backend.calls == []


@pytest.mark.parametrize("call", ["open", "stat", "list", "remove", "rename"])
def test_the_error_has_the_last_error_and_next_try(cache: PageCache, clock: HandClock, backend: Any, call: str) -> None:
    operation, run = CALLS[call]
    volume = cache.attach(backend)
    backend.use([Rule(operation, error=BackendError(errno.EIO, "bad cable", retry=True, retry_after=60.0))])
    task = Task(run, volume, timeout=20.0)
    eventually(lambda: any("next try" in wait.what for wait in cache.waits()))
    error = late(clock, task, 20.0)
    assert "the last try failed: EIO (bad cable); the next try would be in 40.0 s" in str(error)
    assert len(backend.calls_of(operation)) == 1


@pytest.mark.parametrize("held", ["open", "stat"])
@pytest.mark.parametrize("mode", ["rb", "wb", "xb"])
def test_an_open_that_timed_out_leaves_nothing(cache: PageCache, clock: HandClock, held: str, mode: str) -> None:
    """Its name is free at once, and a file that the backend opens later is closed. [2.20]"""
    store, opened = RecordingBackend({KEY: DATA} if mode == "rb" else {}), list[int]()
    store.fault("open answer", lambda: opened.append(1), times=math.inf)
    backend = FaultyBackend(store)
    volume = cache.attach(backend)
    with Gate() as gate:
        creates = mode == "wb" and held == "open"
        backend.use([Rule(held, gate=gate, nth=2 if creates else 1)])
        _, task = at_gate(gate, volume.open, KEY, mode, timeout=7.0)
        late(clock, task, 7.0)
        assert cache.waits() == []
        with volume.open("other name", "wb"):
            pass
        volume.sync(20)
        before = len(opened) - len(store.seen("file_close"))
        Task(lambda: volume.open(KEY, "rb" if mode == "rb" else "wb").close()).result()
    volume.invalidate()
    eventually(lambda: len(opened) - len(store.seen("file_close")) <= before + 1)
    assert [key for key in volume.inodes if key not in (KEY, "other name")] == []


def test_an_object_may_be_there_after_an_open_that_timed_out(cache: PageCache, clock: HandClock) -> None:
    """The creation in flight takes effect; the cache keeps nothing of it. [2.20]"""
    store = MemoryBackend()
    backend = FaultyBackend(store)
    volume = cache.attach(backend)
    with gated(backend, "open", nth=2) as gate:
        _, task = at_gate(gate, volume.open, KEY, "wb", timeout=7.0)
        late(clock, task, 7.0)
        assert not volume.exists(KEY)
    eventually(lambda: volume.exists(KEY))
    assert volume.inodes == {}


@pytest.mark.parametrize("call", ["remove", "rename"])
def test_names_are_busy_until_a_late_call_returns(cache: PageCache, clock: HandClock, backend: Any, call: str) -> None:
    """A caller that needs them waits, at most until its own deadline; then they are free. [2.20]"""
    operation, run = CALLS[call]
    volume = cache.attach(backend)
    volume.open(KEY, "rb").close()
    with gated(backend, operation) as gate:
        _, task = at_gate(gate, run, volume, timeout=7.0)
        late(clock, task, 7.0)
        second = Task(volume.open, KEY, "rb", timeout=3.0)
        eventually(lambda: any("name" in wait.what for wait in cache.waits()))
        error = late(clock, second, 3.0)
        assert f"open: the deadline passed; the name is busy with {call}" in str(error)
        third = Task(volume.exists, KEY)
    assert third.result() in (True, False)
    eventually(lambda: not volume.exists(KEY))
    raises(FileNotFoundError, volume.open, KEY, "rb")


def test_a_status_does_not_depend_on_a_remove_beside_it(volume: Volume, monkeypatch: Patch) -> None:
    """The object goes between the look-up of its open file and the call of that file. [2.20]"""
    volume.open(KEY, "rb").close()

    def remove() -> None:
        monkeypatch.undo()
        volume.remove(KEY)

    beside(monkeypatch, Versions, "quiet", remove)
    beside(monkeypatch, NativeInode, "at_rest", remove)  # one of them comes first
    raises(FileNotFoundError, volume.stat, KEY)


def test_a_status_does_not_depend_on_when_an_idle_file_is_closed(volume: Volume, backend: Any) -> None:
    """The backend's file is closed while the store is asked for the name. [2.20]"""
    volume.open(KEY, "rb").close()
    backend.calls.clear()
    with gated(backend, "stat", times=1) as gate:
        _, task = at_gate(gate, volume.stat, KEY)
        for backend_file in volume.engine.take_idle(0):
            close_backend_file(backend_file)
    assert task.result().size == len(DATA)
    assert [call.key for call in backend.calls_of("stat")] == [KEY]


def test_a_change_waits_for_bytes_in_flight_until_its_deadline(volume: Volume, backend: Any) -> None:
    """A rename and a truncate have not begun by then, and all names are free. [2.20]"""
    with volume.open(KEY, "r+b") as file, volume.open("other", "wb") as other, gated(backend, "write") as gate:
        file.write(b"bytes")
        _, saving = at_gate(gate, file.fsync)
        for change, to in ((volume.rename, "new"), (volume.rename, "other"), (volume.truncate, 5)):
            raises(TimeoutError, Task[Any](change, KEY, to, timeout=0.05).result, match="deadline")
        assert backend.calls_of("rename", "truncate") == []
        volume.open(KEY, "rb").close()
        gate.release()
        saving.result()
        assert file.size == len(DATA)
        other.write(b"replaced")
        volume.rename(KEY, "other", timeout=20)


def test_a_truncate_that_timed_out_does_not_commit(cache: PageCache, clock: HandClock) -> None:
    """A store that publishes at close is not called again: the caller has no time left. [2.17]"""
    store = MemoryBackend(limits=BackendLimits(commit_on_close=True))
    store.put(KEY, DATA)
    backend = FaultyBackend(store)
    volume = cache.attach(backend)
    with gated(backend, "truncate", times=1) as gate:
        _, task = at_gate(gate, volume.truncate, KEY, 5, timeout=7.0)
        assert str(late(clock, task, 7.0)).startswith(f"[Errno {errno.ETIMEDOUT}] truncate: ")
        gate.release()
    assert backend.calls_of("commit") == []
    volume.sync(20)
    assert store.snapshot(KEY) == DATA[:5]


def test_a_truncate_waits_for_a_read_until_its_deadline(volume: Volume, clock: HandClock, backend: Any) -> None:
    """The read covers bytes that are cut off, and its call does not return. [2.17]"""
    with volume.open(KEY, "rb", read_ahead=0) as file, gated(backend, "read") as gate:
        _, reading = at_gate(gate, file.pread, 10, 100)
        task = Task(volume.truncate, KEY, 5, timeout=7.0)
        eventually(lambda: any("cut off" in wait.what for wait in volume.cache.waits()))
        late(clock, task, 7.0)
        assert file.size == len(DATA)
        gate.release()
        assert reading.result() == DATA[100:110]
        volume.truncate(KEY, 5)
        assert file.size == 5


def test_the_next_try_of_a_sync_covers_names_changed_since(volume: Volume, clock: HandClock, backend: Any) -> None:
    """One call makes them durable: no second one follows for them. [2.15]"""
    error = BackendError(errno.EIO, "names", retry=True, retry_after=100.0)
    backend.use([Rule("sync", error=error, times=1)])
    first = Task(volume.sync, 1000)
    eventually(lambda: len(backend.calls_of("sync")) == 1)
    volume.open("another", "xb").close()
    second = Task(volume.sync, 1000)
    eventually(lambda: len(volume.cache.waits()) == 2)
    while not (first.finished.wait(0.02) and second.finished.wait(0.02)):
        clock.advance(100.0)
    first.result()
    second.result()
    assert len(backend.calls_of("sync")) == 2


def test_a_listing_has_its_deadline_for_each_answer(cache: PageCache, clock: HandClock) -> None:
    """Time that the program takes between two entries does not count."""
    store = MemoryBackend()
    for nr in range(2500):
        store.put(f"{nr:04}", b"")
    found = []
    for entry in cache.attach(store).list(timeout=5.0):
        found.append(entry.key)
        clock.advance(1.0)
    assert len(found) == 2500


@pytest.mark.parametrize("call", ["fsync", "sync"])
@pytest.mark.parametrize("operation", ["write", "commit"])
def test_the_error_of_a_sync_names_file_error_and_next_try(
    cache: PageCache, clock: HandClock, backend: Any, call: str, operation: str
) -> None:
    """Another call saves the bytes once the backend works again."""
    backend.use([Rule(operation, error=BackendError(errno.EIO, "bad cable", retry=True, retry_after=60.0))])
    volume = cache.attach(backend)
    with volume.open(KEY, "r+b") as file:
        file.write(b"bytes")
        task = Task(file.fsync if call == "fsync" else volume.sync, timeout=20.0)
        engine = volume.inodes[KEY]
        eventually(lambda: engine.failures.next_retry() or engine.commits.failing_since is not None)
        eventually(lambda: any(wait.what == call and wait.owner is None for wait in cache.waits()))
        error = late(clock, task, 20.0)
        assert f"{call}: the deadline passed; the last try failed: EIO (bad cable)" in str(error)
        assert "; the next try is in 40.0 s" in str(error)
        assert error.filename == KEY
        backend.use([])
        volume.retry_failed()
        clock.advance(60.0)
        Task(file.fsync).result()
