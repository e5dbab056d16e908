"""Subscribers that are slow, raise, come and go, and call the cache."""

from __future__ import annotations

import errno
import gc
import logging
import queue
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from pagecache import Event, PageCache, RetryPolicy, ShutdownError, loglines
from pagecache.backends import MemoryBackend
from pagecache.engine.report import events as engine_events
from pagecache.testing import Gate

from ..file.rig import KEY, ONCE, PAGE, QUIET, Log, Make, Patch, Rig, Task, eventually, pattern
from ..stores import WAIT_LIMIT_S

DATA = pattern(4 * PAGE)
GONE = OSError(errno.EIO, "gone for a moment")


def kinds(seen: list[Event]) -> list[str]:
    return [event.kind for event in seen]


def commit(rig: Rig, times: int = 1) -> None:
    """Make that many commits, each an event."""
    for number in range(times):
        rig.handles[0].pwrite(bytes([number % 256]), 0)
        rig.handles[0].fsync()


class Slow:
    """A subscriber that a gate holds."""

    def __init__(self) -> None:
        self.seen: list[Event] = []
        self.gate = Gate()

    def __call__(self, event: Event) -> None:
        self.gate.enter(WAIT_LIMIT_S)
        self.seen.append(event)


@pytest.fixture
def rig(make: Make) -> Rig:
    rig = make({KEY: DATA})
    rig.open("r+b")
    return rig


def test_a_slow_subscriber_delays_nothing_of_the_cache(make: Make) -> None:
    """Retries, write-back by age and syncs go on; the subscriber gets everything, later and in order. [2.27]"""
    rig, file = make({KEY: DATA}, dirty_expire=0.01, flush_interval=0.01).opened("r+b")
    slow = Slow()
    rig.cache.subscribe(slow)
    rig.backend.fault("write_from", GONE, times=2)
    file.pwrite(b"a", 0)  # no call asks to save it
    slow.gate.wait_entered(WAIT_LIMIT_S)
    eventually(lambda: rig.backend.written(KEY)[:1] == b"a")
    file.pwrite(b"b", 0)
    Task(file.fsync).result()
    Task(rig.volume.sync).result()
    assert slow.seen == []
    slow.gate.release()
    eventually(lambda: kinds(slow.seen)[-1:] == ["committed"])
    assert kinds(slow.seen)[:3] == ["failed", "failed", "repaired"]


def test_an_exception_of_a_subscriber_is_logged_once_and_does_no_harm(rig: Rig, caplog: Log) -> None:
    """This includes SystemExit. The subscriber goes on getting events, and so do the others. [2.27]"""
    seen: list[Event] = []
    raised: list[Event] = []

    def broken(event: Event) -> None:
        raised.append(event)
        raise SystemExit("made up") if len(raised) == 1 else ValueError("made up")

    rig.cache.subscribe(broken)
    rig.cache.subscribe(seen.append)
    with caplog.at_level(logging.INFO, "pagecache"):
        commit(rig, 5)
        eventually(lambda: len(seen) == 5)
    assert len(raised) == 5
    records = [record for record in caplog.records if record.name == "pagecache.events"]
    assert [(record.levelname, "broken" in record.getMessage()) for record in records] == [("ERROR", True)]


def test_a_subscriber_may_unsubscribe_itself_and_others(rig: Rig) -> None:
    """It does so in its callback: none of them is called again, those behind it get this event. [2.27]"""
    seen: list[list[Event]] = [[], [], []]

    def once(event: Event) -> None:
        seen[0].append(event)
        for end in (*ends, *ends):
            end()

    ends = [rig.cache.subscribe(callback) for callback in (once, seen[1].append)]
    rig.cache.subscribe(seen[2].append)
    commit(rig, 3)
    eventually(lambda: len(seen[2]) == 3)
    assert [len(events) for events in seen] == [1, 0, 3]


def test_a_callback_that_is_subscribed_twice_is_called_twice(rig: Rig) -> None:
    """Each subscription is ended separately. [2.27]"""
    seen: list[Event] = []
    ends = [rig.cache.subscribe(seen.append) for _ in range(2)]
    commit(rig)
    eventually(lambda: len(seen) == 2)
    ends[0]()
    ends[0]()
    commit(rig)
    eventually(lambda: len(seen) == 3)
    ends[1]()
    commit(rig)
    rig.cache.close()
    assert len(seen) == 3


def test_a_subscriber_gets_what_happens_after_it_came(rig: Rig) -> None:
    """A callback may also subscribe another one: that one gets neither the current event nor those already queued.
    [2.27]
    """
    first: list[Event] = []
    late: list[Event] = []
    gate = Gate()

    def subscribes(event: Event) -> None:
        if not first:
            gate.enter(WAIT_LIMIT_S)
            rig.cache.subscribe(late.append)
        first.append(event)

    rig.cache.subscribe(subscribes)
    commit(rig, 2)
    gate.wait_entered(WAIT_LIMIT_S)
    gate.release()
    eventually(lambda: len(first) == 2)
    assert late == []
    commit(rig)
    eventually(lambda: len(late) == 1)
    assert late == first[2:]


@pytest.mark.parametrize("call", ["sync", "fsync", "stats", "pwrite", "retry_failed", "detach", "close"])
def test_a_subscriber_may_call_the_cache(make: Make, call: str) -> None:
    """Its request is done while it waits, including retries that only the flusher makes. The close does not wait for
    the callback that runs it. [2.27, 2.22]
    """
    retry = RetryPolicy(attempts=50, first_delay=0.01, max_delay=0.02, deadline=None)
    rig, file = make({KEY: DATA}, retry=retry).opened("r+b")
    done: queue.SimpleQueue[Any] = queue.SimpleQueue()
    calls: dict[str, Callable[[], Any]] = {
        "sync": lambda: rig.cache.sync(WAIT_LIMIT_S),
        "fsync": lambda: file.fsync(timeout=WAIT_LIMIT_S),
        "stats": rig.cache.stats,
        "pwrite": lambda: file.pwrite(b"x", 0),
        "retry_failed": rig.volume.retry_failed,
        "detach": lambda: rig.volume.detach(timeout=WAIT_LIMIT_S),
        "close": lambda: rig.cache.close(timeout=WAIT_LIMIT_S),
    }

    def calls_back(event: Event) -> None:
        unsubscribe()
        try:
            done.put(calls[call]())
        except BaseException as error:
            done.put(error)

    unsubscribe = rig.cache.subscribe(calls_back)
    rig.backend.fault("write_from", GONE, times=5)
    file.pwrite(b"a", 0)
    flushing = Task(file.flush)
    assert not isinstance(done.get(timeout=WAIT_LIMIT_S), BaseException)
    try:
        flushing.result()
    except ShutdownError:
        assert call in ("detach", "close")  # the volume ended before the flush had seen that all is written back
    assert rig.backend.written(KEY)[:1] in (b"a", b"x")
    assert rig.cache.closed == (call == "close")
    if rig.cache.closed:
        eventually(lambda: not any(thread.name == "pagecache-events" for thread in threading.enumerate()))


def test_close_delivers_what_happened(rig: Rig) -> None:
    """The commits of the close itself are delivered before it returns. [2.27]"""
    seen: list[Event] = []
    rig.cache.subscribe(seen.append)
    rig.handles[0].pwrite(b"x", 0)
    rig.cache.close()
    assert kinds(seen) == ["committed"]


def test_events_that_slow_subscribers_miss_are_counted(rig: Rig, monkeypatch: Patch, caplog: Log) -> None:
    """A limited number of events waits; the next one reports how many were left out, and the log does so once.
    [2.27]
    """
    monkeypatch.setattr(engine_events, "QUEUED_MAX", 3)
    slow = Slow()
    rig.cache.subscribe(slow)
    commit(rig)
    slow.gate.wait_entered(WAIT_LIMIT_S)
    with caplog.at_level(logging.WARNING, "pagecache.events"):
        commit(rig, 10)  # three wait, seven are left out
    slow.gate.release()
    eventually(lambda: len(slow.seen) == 4)
    commit(rig)
    eventually(lambda: len(slow.seen) == 5)
    assert [event.missed for event in slow.seen] == [0, 0, 0, 0, 7]
    loglines.outlast(20.0)
    assert [record.getMessage() for record in caplog.records] == [
        "subscribers are slow: 3 events wait, and more are left out"
    ]


def test_a_subscriber_does_not_keep_a_dropped_cache() -> None:
    """Its callback may refer to the cache. [2.22, 2.27]"""
    cache = PageCache("1MiB", **QUIET, retry=ONCE)
    volume = cache.attach(MemoryBackend())
    seen: list[Event] = []
    cache.subscribe(lambda event, cache=cache: seen.append(event))  # type: ignore[misc]
    with volume.open("f", "w") as file:
        file.pwrite(b"x", 0)
        file.fsync()
    eventually(lambda: seen)
    gone, thread = weakref.ref(cache.flusher), cache.feed._thread
    assert thread is not None
    del cache, volume, file

    def ended() -> bool:
        gc.collect()
        return gone() is None and not thread.is_alive()

    eventually(ended)


def test_no_subscriber_no_thread(rig: Rig) -> None:
    """A cache without subscribers costs nothing. [2.27]"""
    commit(rig)
    assert rig.cache.feed._thread is None
