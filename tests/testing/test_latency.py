"""Delays have the set length, and calls are delayed side by side."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from pagecache.backends import MemoryBackend
from pagecache.testing import LatencyBackend, latency

from ..file.rig import Patch, Task

BUFFER = memoryview(bytearray(10))


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


CALLS: dict[str, Callable[[Any], object]] = {
    "read": lambda file: file.read_into(0, [BUFFER]),
    "write": lambda file: file.write_from(0, [BUFFER]),
    "commit": lambda file: file.commit(),
    "look_up": lambda file: file.stat(),
}


@pytest.mark.parametrize("operation", CALLS)
def test_each_operation_has_its_own_delay(operation: str) -> None:
    """No call without bytes has that of reads and writes, and calls without a delay do not count."""
    backend = LatencyBackend(MemoryBackend(), **{operation: 0.03})  # type: ignore[arg-type]
    file = backend.open("a", create=True)
    file.truncate(0)
    taken = {name: seconds(lambda call=call: call(file)) for name, call in CALLS.items()}  # type: ignore[misc]
    assert taken[operation] >= 0.03
    assert backend.delayed == 1


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
def test_delays_are_exact_though_sleeps_are_not(delay: float, monkeypatch: Patch) -> None:
    clock = Time()
    monkeypatch.setattr(latency, "time", clock)
    backend = LatencyBackend(MemoryBackend(), write=delay)
    file = backend.open("a", create=True)
    before = clock.now
    file.write_from(0, [BUFFER])
    assert delay <= clock.now - before < delay + 5e-6


def test_calls_are_delayed_side_by_side(monkeypatch: Patch) -> None:
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
