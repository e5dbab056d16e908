"""Fetch the unwritten ranges of the stored object for a commit, in few reads, some of them concurrent.

    missing   [0, 4096)   [8192, 12288)       [5 MiB, 6 MiB)      between the first two is a page that was written
    reads     [0, 12288)                      [5 MiB, 6 MiB)      it is read with them, and left out

A call to a remote store costs more than the bytes between two ranges, and much more than a thread: thousands of small
writes leave thousands of small ranges, which would take minutes one after another.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..spool import Spool
from .calls import Calls, Reader

__all__ = ["fetched", "reads_of"]

GAP = 64 << 10
"""Largest gap in bytes that is read together with its neighbours: at 1 GB/s it costs less than another call."""

Extent = tuple[int, int]


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


async def fetched(calls: Calls, reader: Reader, spool: Spool, missing: Iterable[Extent], step: int, most: int) -> None:
    """Fetch ranges of an object into a spool, by up to `most` concurrent calls.

    After a failure no other call is begun, and the running ones have ended when its error is raised: the spool is not
    written to afterwards.

    Raises:
        EOFError: the object is shorter.
    """

    async def fetch(group: list[Extent]) -> None:
        begin, done, length = group[0][0], 0, group[-1][1] - group[0][0]
        room = memoryview(bytearray(length))
        while done < length:
            more = await reader.read(begin + done, [room[done:]])
            if not more:
                raise EOFError
            done += more
        for first, end in group:
            spool.write_all(first, [room[first - begin : end - begin]])

    await calls.side_by_side(fetch, reads_of(missing, step), most)
