"""Ranges of `prefetch` and `prefetch_ranges`: joining them, and waiting for them.

Fills are queued for the volume's threads, within the available memory: no more is fetched than the cache holds, or the
end would push out the beginning. A waiter then goes over the ranges itself: it takes over fills that no thread has
begun, waits for running ones, and reads bytes that a failed fill left missing, which raises the backend's error.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ..backends.protocol import BackendLimits
from ..native import NativeInode

WAIT_STEP = 1 << 20
"""Bytes that a waiter checks together."""
GAP = 64 << 10
"""Largest gap in bytes that is read together with its neighbours: at 1 GB/s it costs less than another call."""


def merged(ranges: Iterable[tuple[int, int]], limits: BackendLimits) -> list[tuple[int, int]]:
    """Return [start, end) ranges, joining those near one another while one call can read them together.

    Each stands at the place of the first of its ranges: the order is the caller's.

    >>> merged([(900_000, 900_010), (5, 10), (0, 6), (900_100, 900_200)], BackendLimits())
    [(900000, 900200), (0, 10)]
    """
    most = int(limits.max_read)
    groups: list[tuple[int, int, int]] = []  # place in the order, start, end
    for start, end, place in sorted((start, end, place) for place, (start, end) in enumerate(ranges) if start < end):
        if groups:
            first, low, high = groups[-1]
            together = max(high, end)
            if start <= high or (start - high <= GAP and together - low <= most):
                groups[-1] = (min(first, place), low, together)
                continue
        groups.append((place, start, end))
    return [(start, end) for _, start, end in sorted(groups)]


def clipped(ranges: Iterable[tuple[int, int]], most: int) -> Iterator[tuple[int, int]]:
    """Yield the first `most` bytes of the ranges, in order.

    >>> list(clipped([(0, 100), (200, 300), (400, 500)], 150))
    [(0, 100), (200, 250)]
    """
    for start, end in ranges:
        part = min(end - start, most)
        if part > 0:
            yield start, start + part
            most -= part


def fetch(inode: NativeInode, wanted: Iterable[tuple[int, int]], capacity: int, *, wait: bool) -> None:
    """Read the ranges into the cache, in order; `wait`: return when they are there, within the available memory.

    Raises:
        OSError: with `wait`, an error of the backend.
    """
    ranges = list(clipped(wanted, capacity))
    for start, end in ranges:
        inode.prefetch(start, end)
    if wait:
        for start, end in ranges:
            for at in range(start, end, WAIT_STEP):
                inode.fill_missing(at, min(WAIT_STEP, end - at))
