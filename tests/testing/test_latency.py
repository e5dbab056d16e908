"""Delays have the set length, and calls are delayed side by side."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from pagecache.backends import MemoryBackend
from pagecache.testing import LatencyBackend, latency

from ..file.rig import Task

BUFFER = memoryview(bytearray(10))


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def test_each_operation_has_its_own_delay() -> None:
    backend = LatencyBackend(MemoryBackend(), read=0.02, write=0.04, commit=0.06)
    file = backend.open("a", create=True)
    assert seconds(lambda: file.write_from(0, [BUFFER])) >= 0.04
    assert seconds(lambda: file.read_into(0, [BUFFER])) >= 0.02
    assert seconds(lambda: file.commit()) >= 0.06


def test_calls_without_bytes_are_not_delayed() -> None:
    backend = LatencyBackend(MemoryBackend(), read=3600.0, write=3600.0, commit=3600.0)
    file = backend.open("a", create=True)  # an hour each, if it were
    file.stat()
    file.truncate(0)


def test_look_ups_have_a_delay_of_their_own() -> None:
    backend = LatencyBackend(MemoryBackend(), look_up=0.03)
    file = backend.open("a", create=True)
    assert seconds(file.stat) >= 0.03
    assert seconds(lambda: backend.stat("a")) >= 0.03
    file.write_from(0, [BUFFER])
    assert backend.delayed == 2  # calls without a delay do not count


class Time:
    """The wrapper's clock: reading it takes a microsecond, a sleep takes 150 µs longer than requested."""

    def __init__(self) -> None:
        self.now = 1000.0

    def perf_counter(self) -> float:
        self.now += 1e-6
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds + 150e-6


@pytest.mark.parametrize("delay", [5e-6, 20e-6, 150e-6, 1e-3, 0.5])
def test_delays_are_exact_though_sleeps_are_not(delay: float, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Time()
    monkeypatch.setattr(latency, "time", clock)
    backend = LatencyBackend(MemoryBackend(), write=delay)
    file = backend.open("a", create=True)
    before = clock.now
    file.write_from(0, [BUFFER])
    assert delay <= clock.now - before < delay + 5e-6


def test_calls_are_delayed_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of eight threads ends its delay before all have begun theirs."""
    clock, together = Time(), threading.Barrier(8)

    def sleep(seconds: float) -> None:
        together.wait(60)
        clock.now += seconds

    monkeypatch.setattr(clock, "sleep", sleep)
    monkeypatch.setattr(latency, "time", clock)
    file = LatencyBackend(MemoryBackend(), read=0.1).open("a", create=True)
    tasks = [Task(file.read_into, 0, [BUFFER]) for _ in range(8)]
    assert [task.result() for task in tasks] == [0] * 8


def test_jitter_varies_within_its_share() -> None:
    backend = LatencyBackend(MemoryBackend(), write=0.002, jitter=0.5, seed=3)
    file = backend.open("a", create=True)
    taken = [seconds(lambda: file.write_from(0, [BUFFER])) for _ in range(30)]
    assert min(taken) >= 0.001
    assert max(taken) - min(taken) > 0.0005


@pytest.mark.parametrize("options", [{"read": -1.0}, {"write": float("nan")}, {"look_up": "1ms"}, {"jitter": 2.0}])
def test_bad_delays_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        LatencyBackend(MemoryBackend(), **options)  # type: ignore[arg-type]
