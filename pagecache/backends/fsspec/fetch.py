"""Fetch the unwritten ranges of the stored object for a commit, in few reads, some of them concurrent.

    missing   [0, 4096)   [8192, 12288)       [5 MiB, 6 MiB)      between the first two is a page that was written
    reads     [0, 12288)                      [5 MiB, 6 MiB)      it is read with them, and left out

A call to a remote store costs more than the bytes between two ranges, and much more than a thread: thousands of small
writes leave thousands of small ranges, which would take minutes one after another.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from ..objects.store import run
from ..spool import Spool
from .calls import AwaitedCalls, Calls, Reader

__all__ = ["fetched", "reads_of"]

GAP = 64 << 10
"""Largest gap in bytes that is read together with its neighbours: at 1 GB/s it costs less than another call."""

Extent = tuple[int, int]
Work = Callable[[], Coroutine[Any, Any, None]]


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


async def fetched(calls: Calls, reader: Reader, spool: Spool, missing: Iterable[Extent], step: int, most: int) -> bool:
    """Fetch ranges of an object into a spool, by up to `most` concurrent calls. False: the object is shorter.

    After a failure no other call is begun, and the running ones have ended when its error is raised: the spool is not
    written to afterwards.
    """
    todo = deque(reads_of(missing, step))
    short: list[int] = []

    async def work() -> None:
        room = memoryview(bytearray(max(group[-1][1] - group[0][0] for group in [*todo, [(0, 0)]])))
        while todo and not short:
            try:
                group = todo.popleft()
            except IndexError:  # another thread took the last one
                return
            begin, done, length = group[0][0], 0, group[-1][1] - group[0][0]
            while done < length:
                more = await reader.read(begin + done, [room[done:length]])
                if not more:
                    short.append(begin + done)
                    return
                done += more
            for first, end in group:
                spool.write_all(first, [room[first - begin : end - begin]])

    works = [work] * min(most, len(todo))
    if isinstance(calls, AwaitedCalls):
        await _as_tasks(works)
    else:
        _on_threads(works, todo.clear)
    return not short


async def _as_tasks(works: list[Work]) -> None:
    try:
        async with asyncio.TaskGroup() as group:
            for work in works:
                group.create_task(work())
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None


def _on_threads(works: list[Work], stop: Callable[[], object]) -> None:
    """Run the works on the calling thread and others, which end with the call."""
    errors: list[BaseException] = []

    def carry_out(work: Work) -> None:
        try:
            run(work())
        except BaseException as error:
            errors.append(error)
            stop()

    begun = []
    for work in works[1:]:
        thread = threading.Thread(target=carry_out, args=(work,), name="pagecache-fetch", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # at the end of the process, or at the system's limit: fewer threads suffice
            break
        begun.append(thread)
    for work in works[:1]:
        carry_out(work)
    for thread in begun:
        while thread.is_alive():
            try:
                thread.join()
            except BaseException as error:  # a signal handler raised: all must end first
                errors.append(error)
                stop()
    if errors:
        raise errors[0]
