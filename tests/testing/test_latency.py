"""Delays are as long as asked, and calls are delayed side by side."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from pagecache.backends import MemoryBackend
from pagecache.testing import LatencyBackend

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
    assert min(seconds(lambda: file.stat()) for _ in range(5)) < 0.02


@pytest.mark.parametrize("delay", [5e-6, 20e-6, 1e-3])
def test_short_delays_are_exact(delay: float) -> None:
    backend = LatencyBackend(MemoryBackend(), write=delay)
    file = backend.open("a", create=True)
    best = min(seconds(lambda: file.write_from(0, [BUFFER])) for _ in range(200))
    assert delay <= best < delay + 100e-6


def test_calls_are_delayed_side_by_side() -> None:
    backend = LatencyBackend(MemoryBackend(), read=0.1)
    file = backend.open("a", create=True)
    threads = [threading.Thread(target=lambda: file.read_into(0, [BUFFER])) for _ in range(8)]

    def together() -> None:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert 0.1 <= seconds(together) < 0.6


def test_jitter_varies_within_its_share() -> None:
    backend = LatencyBackend(MemoryBackend(), write=0.002, jitter=0.5, seed=3)
    file = backend.open("a", create=True)
    taken = [seconds(lambda: file.write_from(0, [BUFFER])) for _ in range(30)]
    assert min(taken) >= 0.001
    assert max(taken) - min(taken) > 0.0005


@pytest.mark.parametrize("options", [{"read": -1.0}, {"write": float("nan")}, {"jitter": 2.0}])
def test_bad_delays_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        LatencyBackend(MemoryBackend(), **options)  # type: ignore[arg-type]
