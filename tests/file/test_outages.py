"""A store that refuses every call for a while: far stores are tried by time, and the program sees no error. Calls that
hang are reported: which call, since when, and once.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from pagecache import BackendError, ConflictError, Event, PageCache, RetryPolicy, Volume, loglines
from pagecache.backends import FsspecBackend, MemoryBackend, S3Backend
from pagecache.config import BY_TIME
from pagecache.engine.retryer import EARLY_MAX, decide
from pagecache.testing import FaultyBackend, Rule

from .clock import HandClock, after_flusher_turn
from .rig import KEY, NAME_CALLS, PAGE, QUIET, Log, Make, Rig, Task, at_gate, eventually, raises

DATA = os.urandom(4 * PAGE)
SHORT = 20.0  # seconds of an outage
OWN = RetryPolicy(attempts=2)


def saved(volume: Volume) -> None:
    with volume.open(KEY, "r+b") as file:
        file.pwrite(b"new", 0)
        file.fsync()


def read(volume: Volume, *, direct: bool) -> None:
    with volume.open(KEY, "rb", direct=direct) as file:
        assert file.pread(PAGE, PAGE) == DATA[PAGE : 2 * PAGE]


def written_directly(volume: Volume) -> None:
    with volume.open(KEY, "r+b", direct=True) as file:
        file.pwrite(b"new", 0)


CALLS: dict[str, Callable[[Volume], Any]] = {
    **{name: partial(call, key=KEY) for name, call in NAME_CALLS.items()},
    "create": lambda volume: volume.open("new", "xb").close(),
    "read": lambda volume: read(volume, direct=False),
    "read directly": lambda volume: read(volume, direct=True),
    "write and fsync": saved,
    "write directly": written_directly,
}


@pytest.fixture
def backend() -> FaultyBackend:
    store = MemoryBackend(retry=BY_TIME)
    store.put(KEY, DATA)
    return FaultyBackend(store)


@pytest.fixture
def cache(clock: HandClock, backend: FaultyBackend) -> Iterator[PageCache]:
    made = PageCache("8MiB", **QUIET)
    yield made
    backend.use([])
    made.close(on_failed="discard")


def refuse(backend: FaultyBackend) -> None:
    backend.use([Rule("*", error=OSError(errno.ECONNREFUSED, "no server"))])


def outlast(clock: HandClock, task: Task[Any], seconds: float) -> None:
    """Let the time of an outage pass, or less if the task ends."""
    end = clock.now() + seconds

    def passed() -> bool:
        clock.advance(0.5)
        return clock.now() >= end or task.finished.is_set()

    eventually(passed)


@pytest.mark.parametrize("call", CALLS)
def test_no_call_raises_if_a_far_store_is_away_for_a_while(
    cache: PageCache, clock: HandClock, backend: FaultyBackend, call: str
) -> None:
    """[2.14]"""
    volume = cache.attach(backend)
    refuse(backend)
    task = Task(CALLS[call], volume)
    outlast(clock, task, SHORT)
    assert not task.finished.is_set()
    backend.use([])
    clock.until(task.finished.is_set)
    task.result()


def test_an_outage_is_reported_once(cache: PageCache, clock: HandClock, backend: FaultyBackend, caplog: Log) -> None:
    """After `stall_warn` seconds: an event and a line in the log that name the cause and the end. [2.27]"""
    events: list[Event] = []
    cache.subscribe(events.append)
    volume = cache.attach(backend)
    refuse(backend)
    with caplog.at_level(logging.WARNING, "pagecache"):
        tasks = [Task(volume.stat, KEY), Task(CALLS["open"], volume)]
        clock.until(lambda: [event for event in events if event.kind == "stalled"])
        backend.use([])
        for task in tasks:
            clock.until(task.finished.is_set)
    (event,) = [event for event in events if event.kind == "stalled"]
    assert "calls have failed for 1" in event.message
    assert "ECONNREFUSED (no server)" in event.message
    assert event.next == "each is made again for at most 60 seconds"
    loglines.outlast(20.0)
    lines = [record.getMessage() for record in caplog.records]
    assert sum("calls have failed for" in line for line in lines) == 1


def test_data_is_parked_when_an_outage_is_too_long(cache: PageCache, clock: HandClock, backend: FaultyBackend) -> None:
    """It is kept and listed, fsync raises, and after the outage it is saved. [2.14]"""
    volume = cache.attach(backend)
    file = volume.open(KEY, "r+b")
    file.pwrite(b"new", 0)
    refuse(backend)
    task = Task(file.fsync)
    outlast(clock, task, 3600.0)
    raises(OSError, task.result, match="no server")
    assert [(failed.offset, failed.length) for failed in volume.failed()] == [(0, 3)]
    backend.use([])
    file.fsync()
    assert volume.failed() == []
    file.close()


def test_a_version_that_is_refused_without_end_is_asked_for_a_few_times(clock: HandClock) -> None:
    """The store says that the version of the file stands, and refuses it: no time helps. [2.19]"""
    store = MemoryBackend(retry=BY_TIME, commit_on_close=True)
    store.put(KEY, DATA)
    backend = FaultyBackend(store)
    with PageCache("8MiB", **QUIET) as cache, cache.attach(backend).open(KEY) as file:
        backend.use([Rule("read", error=OSError(errno.ESTALE, "another version"))])
        raises(ConflictError, file.pread, PAGE, 0)
        tries = EARLY_MAX + 1  # of the read, and of readahead if a thread of the volume comes first
        assert tries <= len(backend.calls_of("read")) <= 2 * tries
        backend.use([])


def test_a_backend_shortens_the_first_delays_and_lengthens_any() -> None:
    """[2.14]"""

    def delay(attempts: int, asked: float) -> float:
        found = decide(BY_TIME, BackendError(errno.EIO, "", retry=True, retry_after=asked), attempts, 1.0, 0.5)
        assert found is not None
        return found

    assert [delay(attempts, 0.0) for attempts in range(1, EARLY_MAX)] == [0.0] * (EARLY_MAX - 1)
    assert delay(EARLY_MAX, 0.0) == 0.8
    assert delay(1000 - 1, 0.0) == 2.5
    assert [delay(attempts, 30.0) for attempts in (1, EARLY_MAX, 999)] == [30.0] * 3


RemoteFileSystem = type("RemoteFileSystem", (MemoryFileSystem,), {"protocol": "remote"})
"""A file system of a protocol that is not known to be in this process."""

BACKENDS: dict[str, tuple[Callable[[], Any], RetryPolicy | None]] = {
    "memory": (MemoryBackend, None),
    "fsspec in this process": (lambda: FsspecBackend(MemoryFileSystem(), "/outages"), None),
    "fsspec": (lambda: FsspecBackend(RemoteFileSystem(), "/outages"), BY_TIME),
    "fsspec with a policy": (lambda: FsspecBackend(RemoteFileSystem(), "/outages", retry=OWN), OWN),
    "S3": (lambda: S3Backend("bucket"), BY_TIME),
    "S3 with a policy": (lambda: S3Backend("bucket", retry=OWN), OWN),
}


@pytest.mark.parametrize("name", BACKENDS)
def test_stores_behind_a_network_prefer_the_time(name: str) -> None:
    """[2.14]"""
    make, preferred = BACKENDS[name]
    backend = make()
    assert backend.limits.retry == preferred
    backend.close()


SHARED = RetryPolicy(attempts=3)


@pytest.mark.parametrize(
    ("volume", "shared", "preferred", "chosen"),
    [
        (None, None, None, RetryPolicy()),
        (None, None, BY_TIME, BY_TIME),
        (None, SHARED, BY_TIME, SHARED),
        (OWN, SHARED, BY_TIME, OWN),
        (OWN, None, None, OWN),
    ],
)
def test_the_policy_is_that_of_the_volume_the_cache_or_the_backend(
    volume: RetryPolicy | None, shared: RetryPolicy | None, preferred: RetryPolicy | None, chosen: RetryPolicy
) -> None:
    """The first of these that was given. [2.14]"""
    options: dict[str, Any] = {} if shared is None else {"retry": shared}
    with PageCache("1MiB", **options) as cache:
        assert cache.attach(MemoryBackend(retry=preferred), retry=volume).engine.retry == chosen


def said_once(
    rig: Rig, clock: HandClock, caplog: Log, count: Callable[[], int], beside: Callable[[], object] = bool
) -> None:
    """Check that one more event comes after ten seconds, neither before nor again."""
    before = count()
    after_flusher_turn(rig.cache)
    clock.advance(9.9)
    beside()
    after_flusher_turn(rig.cache)
    after_flusher_turn(rig.cache)
    assert count() == before
    with caplog.at_level(logging.WARNING, "pagecache"):
        clock.advance(0.2)
        eventually(lambda: count() == before + 1)
        clock.advance(100.0)
        after_flusher_turn(rig.cache)
        after_flusher_turn(rig.cache)
    assert count() == before + 1
    loglines.outlast(20.0)


@pytest.mark.parametrize("op", ["write_from", "read_into", "commit"])
def test_a_stall_is_said_once(make: Make, clock: HandClock, caplog: Log, op: str) -> None:
    """stall_warn seconds without a completion while calls run: one event and one line; again after progress. [2.27]"""
    rig = make({KEY: bytes(64 * PAGE)}, stall_warn=10.0, flush_interval=1.0)
    events: list[Event] = []
    rig.cache.subscribe(events.append)

    def stalled() -> int:
        return sum(event.kind == "stalled" for event in events)

    file = rig.open()
    for times in (1, 2):
        gate = rig.backend.gate(op)
        file.pwrite(b"x", 0)
        task = Task(file.pread, PAGE, 10 * times * PAGE) if op == "read_into" else Task(file.fsync)
        gate.wait_entered()
        said_once(rig, clock, caplog, stalled)
        assert sum("none has ended for 10 seconds" in record.getMessage() for record in caplog.records) == times
        task.result(opening=gate)
    assert {event.volume for event in events if event.kind == "stalled"} == {"volume"}


def test_calls_that_end_are_no_stall_and_nothing_that_runs_is_none(make: Make, clock: HandClock) -> None:
    """An idle volume never reports one, nor does a volume with a completion now and then. [2.27]"""
    rig = make({KEY: bytes(64 * PAGE)}, stall_warn=10.0, flush_interval=1.0)
    events: list[Event] = []
    rig.cache.subscribe(events.append)
    file = rig.open()
    after_flusher_turn(rig.cache)
    clock.advance(100.0)
    after_flusher_turn(rig.cache)
    with rig.backend.gate("read_into") as gate:
        _, hung = at_gate(gate, file.pread, PAGE, 0)
        for page in range(2, 12):
            clock.advance(6.0)
            after_flusher_turn(rig.cache)
            file.pread(PAGE, page * PAGE)
        after_flusher_turn(rig.cache)
    hung.result()
    after_flusher_turn(rig.cache)
    assert events == []


@pytest.mark.parametrize("call", NAME_CALLS)
def test_a_hanging_call_is_named(make: Make, clock: HandClock, caplog: Log, call: str) -> None:
    """Each call is reported once, though other calls end at the same time; quick ones are not reported. [2.24, 2.27]"""
    rig = make({KEY: bytes(64 * PAGE), "one": b"1", "two": b"2"}, stall_warn=10.0, flush_interval=1.0)
    events: list[Event] = []
    rig.cache.subscribe(events.append)
    file = rig.open()
    expected: list[tuple[str, str, str | None]] = []
    lines: list[str] = []
    for key in ("one", "two"):
        gate, task = at_gate(rig.backend.gate(call), NAME_CALLS[call], rig.volume, key)
        said_once(rig, clock, caplog, events.__len__, partial(file.pread, PAGE, 10 * len(lines) * PAGE))
        expected.append(("stalled", "volume", None if call == "list" else key))
        of = "" if call == "list" else f" of {key!r}"
        next = "nothing is given up; it is waited for until it ends, or `abort`"
        lines.append(f"volume: {call}{of} has run for 10 seconds and has not ended; {next}")
        assert [(event.kind, event.volume, event.key) for event in events] == expected
        assert [record.getMessage() for record in caplog.records] == lines
        task.result(opening=gate)
