"""Requests of one call that do not depend on each other: some at a time, on threads that end with the call."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")
Extent = tuple[int, int]
"""A range [begin, end)."""
GAP = 64 << 10
"""Largest gap in bytes that is read together with its neighbours: at 1 GB/s it costs less than another call."""


def side_by_side(
    work: Callable[[T], R], items: Iterable[T], most: int, passes: Callable[[BaseException], bool] = lambda error: False
) -> list[R]:
    """Return the results for all items, in order, computed by at most so many threads. An exception is raised once
    running work has ended. If it `passes`, and fewer than `most` were raised, the other items are done first.
    """
    waiting = list(enumerate(items))[::-1]
    results: dict[int, R] = {}
    passed: list[BaseException] = []
    failed: list[BaseException] = []
    lock = threading.Lock()  # guards the lists

    def carry_out() -> None:
        while True:
            with lock:
                if not waiting or failed or len(passed) >= most:
                    return
                index, item = waiting.pop()
            try:
                results[index] = work(item)
            except BaseException as error:
                with lock:
                    (passed if passes(error) else failed).append(error)

    threads = []
    for _ in range(min(most, len(waiting)) - 1):
        thread = threading.Thread(target=carry_out, name="pagecache-requests", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # at the end of the process, or at the system's limit: fewer threads suffice
            break
        threads.append(thread)
    carry_out()
    for thread in threads:
        while thread.is_alive():
            try:
                thread.join()
            except BaseException as error:  # a signal handler raised: all must end first
                failed.append(error)
    if errors := failed + passed:
        raise errors[0]
    return [results[index] for index in sorted(results)]


def reads_of(missing: Iterable[Extent], step: int) -> list[list[Extent]]:
    """Group ascending [begin, end) ranges, each group for one read of up to `step` bytes.

    >>> reads_of([(0, 10), (20, 30), (200_000, 200_250)], 100)
    [[(0, 10), (20, 30)], [(200000, 200100)], [(200100, 200200)], [(200200, 200250)]]
    """
    groups: list[list[Extent]] = []
    for begin, end in missing:
        while begin < end:
            full = groups[-1][0][0] + step if groups and begin - groups[-1][-1][1] <= GAP else begin
            if begin >= full:
                groups.append([])
                full = begin + step
            groups[-1].append((begin, min(full, end)))
            begin = min(full, end)
    return groups
