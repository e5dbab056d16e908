"""Times and rates of a backend: one call, calls of different sizes, and concurrent calls.

A budget of seconds and of bytes bounds all of it; a small budget skips measurements, and the report lists them. There
is no judgement by the clock: the figures are those of this machine at this moment.
"""

from __future__ import annotations

import math
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pagecache.backends.protocol import Backend, BackendFile, BackendLimits
from pagecache.cli.check_backend.checking import Objects
from pagecache.testing.conformance_base import content, limits_of, transfer

__all__ = ["Budget", "Measures", "Rates", "measure", "saturated"]

REGION = 16 << 20
"""Bytes of an object that is read and written repeatedly."""
SIZE_MAX = 16 << 20
PARALLEL_MAX = 64
ENOUGH = 0.9
"""Fraction of the best rate that counts as equally good."""
GROUP = "measures"
LATENCY_CALLS = 30
ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Budget:
    """The budget of all measurements.

    Attributes:
        seconds: total time.
        size: total bytes moved.
    """

    seconds: float
    size: int

    def part(self, share: float) -> Budget:
        return Budget(self.seconds * share, int(self.size * share))


@dataclass(frozen=True, slots=True)
class Rates:
    """Bytes per second at one request size, or with a number of concurrent calls; None: not measured, the budget was
    used up.
    """

    at: int
    read: float | None
    write: float | None


@dataclass(slots=True)
class Measures:
    """All figures.

    Attributes:
        latency: of the smallest call: (median, slowest tenth) in seconds, of "read", "write" and "commit".
        sizes: by bytes of one request, one call at a time.
        parallel: by number of concurrent calls, of the best size.
    """

    unit: int = 0
    latency: dict[str, tuple[float, float]] = field(default_factory=dict)
    sizes: list[Rates] = field(default_factory=list)
    parallel: list[Rates] = field(default_factory=list)


def saturated(rates: Sequence[Rates], verb: str) -> int | None:
    """Return the smallest size, or number, that is about as fast as any; None: nothing was measured."""
    found = [(entry.at, rate) for entry in rates if (rate := getattr(entry, verb))]
    if not found:
        return None
    best = max(rate for _, rate in found)
    return next(at for at, rate in found if rate >= ENOUGH * best)


class _Bench:
    """One backend, and the objects for measurements."""

    def __init__(self, backend: Backend, objects: Objects) -> None:
        self.backend = backend
        self._objects = objects
        self._files: list[BackendFile] = []

    def file(self, number: int) -> BackendFile:
        """Return the object of a number, open, committed and empty."""
        while len(self._files) <= number:
            file = self.backend.open(self._objects.key(GROUP, str(len(self._files))), create=True)
            file.commit()
            self._files.append(file)
        return self._files[number]

    def close(self) -> None:
        for file in self._files:
            if hasattr(file, "close"):
                file.close()
        self._objects.remove(self.backend, GROUP)


def measure(backend: Backend, objects: Objects, budget: Budget, measures: Measures) -> None:
    """Fill in `measures` step by step, so that a hang keeps the earlier results."""
    bench = _Bench(backend, objects)
    try:
        limits = limits_of(backend, bench.file(0))
        unit = measures.unit = math.lcm(int(limits.read_unit), int(limits.write_unit), 4096)
        measures.latency = _latency(bench, unit, budget.part(0.2))
        _sizes(bench, limits, unit, budget.part(0.4), measures)
        _parallel(bench, limits, unit, budget.part(0.4), measures)
    finally:
        bench.close()


def _latency(bench: _Bench, unit: int, budget: Budget) -> dict[str, tuple[float, float]]:
    file, data = bench.file(0), memoryview(content(unit, 1))
    buffer = memoryview(bytearray(unit))
    times: dict[str, list[float]] = {"read": [], "write": [], "commit": []}
    until = time.perf_counter() + budget.seconds
    for call in range(LATENCY_CALLS):
        if call and (time.perf_counter() > until or 2 * call * unit > budget.size):
            break
        times["write"].append(_timed(lambda: transfer(bench.backend, file, "write_from", 0, data)))
        times["commit"].append(_timed(file.commit))
        times["read"].append(_timed(lambda: transfer(bench.backend, file, "read_into", 0, buffer)))
    return {verb: (statistics.median(found), sorted(found)[-1 - len(found) // 10]) for verb, found in times.items()}


def _timed(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _steps(first: int, last: int) -> list[int]:
    """Return doubled values from the first to the last, including both."""
    steps = [first]
    while steps[-1] * 2 <= last:
        steps.append(steps[-1] * 2)
    return steps if steps[-1] == last else [*steps, last]


def _sizes(bench: _Bench, limits: BackendLimits, unit: int, budget: Budget, measures: Measures) -> None:
    """Measure one call at a time, of sizes up to the limits."""
    longest = max(int(limits.max_read), int(limits.max_write))
    room = min(longest, int(limits.boundary) or longest, SIZE_MAX)

    def rates(size: int, budget: Budget) -> Rates:
        write = _rate(bench, "write_from", size, 1, budget.part(0.5)) if size <= int(limits.max_write) else None
        read = _rate(bench, "read_into", size, 1, budget.part(0.5)) if size <= int(limits.max_read) else None
        return Rates(size, read, write)

    _in_rounds(_steps(unit, max(unit, room - room % unit)), rates, budget, measures.sizes)


def _parallel(bench: _Bench, limits: BackendLimits, unit: int, budget: Budget, measures: Measures) -> None:
    """Measure concurrent calls of the best size: on one object, or on one object per call if an object takes one call
    only.
    """
    read_size = saturated(measures.sizes, "read") or unit
    write_size = saturated(measures.sizes, "write") or unit

    def rates(count: int, budget: Budget) -> Rates:
        write = _rate(bench, "write_from", write_size, count, budget.part(0.5))
        read = _rate(bench, "read_into", read_size, count, budget.part(0.5))
        return Rates(count, read, write)

    _in_rounds(_steps(1, min(PARALLEL_MAX, max(int(limits.max_inflight) * 2, 16))), rates, budget, measures.parallel)


def _in_rounds(
    steps: Sequence[int], rates: Callable[[int, Budget], Rates], budget: Budget, measured: list[Rates]
) -> None:
    """Repeat all steps in rounds and keep the best of each, so that a short disturbance of the machine does not fall on
    one step alone.
    """
    each = budget.part(1 / len(steps) / ROUNDS)
    for turn in range(ROUNDS):
        for number, step in enumerate(steps):
            found = rates(step, each)
            if turn == 0:
                measured.append(found)
            else:
                before = measured[number]
                measured[number] = Rates(step, _best(before.read, found.read), _best(before.write, found.write))


def _best(one: float | None, other: float | None) -> float | None:
    return max((rate for rate in (one, other) if rate is not None), default=None)


def _rate(bench: _Bench, verb: str, size: int, count: int, budget: Budget) -> float | None:
    """Return the bytes per second of so many threads together; None: the budget does not allow one call of each."""
    if size * count > budget.size:
        return None
    apart = bench.backend.limits.ordered_writes
    files = [bench.file(i if apart else 0) for i in range(count)]
    row = size if apart else size * count  # bytes of one object in one turn
    region = REGION if apart is False else REGION // count
    if verb == "read_into":
        for file in files[: count if apart else 1]:
            _fill(bench, file, row)
        region = min(file.stat().size for file in files)
    turns = max(1, region // row)  # turns of one thread, before it is back at its first offset
    moved, failed, start = [0] * count, [], threading.Barrier(count)
    most = budget.size // count

    def work(me: int) -> None:
        data = memoryview(bytearray(content(size, me)))
        try:
            start.wait()
            until = time.perf_counter() + budget.seconds
            turn = 0
            while not turn or (time.perf_counter() < until and moved[me] + size <= most):
                place = turn % turns if apart else turn % turns * count + me
                moved[me] += transfer(bench.backend, files[me], verb, place * size, data)
                turn += 1
        except BaseException as error:
            failed.append(error)
            start.abort()

    threads = [threading.Thread(target=work, args=(me,), daemon=True) for me in range(count)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - began
    if failed:
        raise next((error for error in failed if not isinstance(error, threading.BrokenBarrierError)), failed[0])
    for file in files[: count if apart else 1]:
        file.commit()
    return sum(moved) / seconds


def _fill(bench: _Bench, file: BackendFile, length: int) -> None:
    """Write bytes up to `length`."""
    if (have := file.stat().size) < length:
        at = have - have % math.lcm(int(bench.backend.limits.write_unit), 4096)
        with memoryview(content(length - at, 0)) as view:
            transfer(bench.backend, file, "write_from", at, view)
        file.commit()
