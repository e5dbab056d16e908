"""The size of a read, by the latency and the throughput that were measured.

While a call is on its way nothing arrives, so a read has several times the bytes that would arrive meanwhile: with
`TIMES` the line is busy for all but a fifth of the time. Several reads share a long one; they end after `LONGEST_S`
at most, so that a slow line does not keep the first byte until the last one. A long read is a few calls side by side,
and a single one beside enough others: more calls at once make a line no faster.

Looks at versions and small reads measure the latency, long reads the throughput. A program that reads parquet makes no
small read, and each of its opens has a look.

Both are smoothed by their ratios, so sizes follow a line that becomes faster as soon as one that becomes slower.
"""

from __future__ import annotations

import threading

__all__ = ["Pace"]

SMALL = 64 << 10
"""Bytes up to which the time of a read counts as latency."""
LEAST, FIRST = 1 << 20, 4 << 20
"""Bytes of the smallest long read, and of one before anything was measured. Shorter reads than the smallest have no
throughput: their time is mostly that of the call."""
TIMES = 4
LONGEST_S = 0.5
SIDE_BY_SIDE, AT_ONCE = 4, 8
"""Calls at once of one long read, and of all reads before each of them is one call."""
WEIGHT = 0.25
FASTEST = 1e10
"""Bytes a second, at most: clocks are coarse."""


def _smoothed(before: float, now: float) -> float:
    """Return the next mean of a positive measure; 0 before the first."""
    return before * (now / before) ** WEIGHT if before else now


class Pace:
    """Measures one file system. Thread-safe.

    >>> pace = Pace()
    >>> pace.sizes(1 << 25)
    (8388608, 33554432)
    >>> pace.measured(4096, 0.02)  # 20 ms
    >>> pace.measured(1 << 20, 0.12)  # 10 MB/s
    >>> pace.sizes(1 << 25)
    (1310720, 5242880)
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the next
        self._latency = 0.0
        self._throughput = 0.0  # of the line
        self._running = 0

    def begin(self) -> int:
        """Record that a read begins; return how many run."""
        with self._lock:
            self._running += 1
            return self._running

    def end(self, size: int, seconds: float, beside: int) -> None:
        """Record the end of a read that shared the line. `size` 0: it failed; `beside`: result of `begin`."""
        with self._lock:
            beside = max(beside, self._running)
            self._running -= 1
        if size:
            self.measured(size, seconds, beside)

    def measured(self, size: int, seconds: float, beside: int = 1) -> None:
        """Record a call that shared the line with so many, itself included. A look has no bytes."""
        with self._lock:
            if size <= SMALL:
                self._latency = _smoothed(self._latency, max(seconds, 1e-6))
                return
            self._latency = min(self._latency, seconds)
            if size >= LEAST:
                rate = min(size * beside / max(seconds - self._latency, 1e-9), FASTEST)
                self._throughput = _smoothed(self._throughput, rate)

    def sizes(self, most: int) -> tuple[int, int]:
        """Return the bytes of one call, and those after which a read ends early."""
        with self._lock:
            latency, throughput = self._latency, self._throughput
            calls = min(max(AT_ONCE - self._running, 1), SIDE_BY_SIDE)
        step = FIRST
        if latency and throughput:
            step = max(int(TIMES * latency * throughput), LEAST)
            most = min(max(int(LONGEST_S * throughput), step), most)
        calls = min(max(round(most / step), 1), calls)
        return -(-most // calls), most
