"""Order of requests: those for overlapping bytes of a file run in the order of arrival, if one of them is a write.

The kernel has the bytes of a write in its pages before it sends them to the server, and may drop such a page while the
write is in flight: at an open, or on posix_fadvise(DONTNEED). A read of that page that overtook the write would bring
the old bytes back, and they would stay; a store through a mapping would then write them over the new ones, since the
kernel writes whole pages:

    kernel   WRITE [100, 200) ...............................  done: the page shows old bytes until it is dropped again
                               page dropped, READ [0, 4096)
    server   on a thread, since it has to wait for room         on the loop, since the page is cached

So a request that overlaps an earlier, waiting write waits as well, also after the deadline of that write: its call may
still change the bytes. Writes that complete on the loop are over before the next request is read, and do not come here.

A truncate writes all bytes from its size on. Reads do not wait for it: cached ones go on while the store
is silent.
"""

from __future__ import annotations

import errno
import math
from collections.abc import Sequence
from dataclasses import dataclass

import trio

from ..volume.inode import Inode


@dataclass(frozen=True, slots=True, eq=False)
class Turn:
    """A running write of the bytes [start, end) of a file; `end` of a truncate: infinity."""

    inode: Inode
    start: int
    end: float
    over: trio.Event


class Turns:
    """Waiting writes, and the requests that wait for them. All calls on the loop.

    Args:
        deadline: seconds after which a waiter continues with ETIMEDOUT; None: never.

    Attributes:
        writes: in the order of arrival.
    """

    def __init__(self, deadline: float | None = None) -> None:
        self.writes: list[Turn] = []
        self._deadline = math.inf if deadline is None else deadline

    def before(self, inode: Inode, start: int, end: float) -> list[Turn]:
        """Return the earlier writes that overlap these bytes."""
        return [turn for turn in self.writes if turn.inode is inode and turn.start < end and start < turn.end]

    async def wait(self, turns: Sequence[Turn]) -> None:
        """Wait until these writes are over.

        Raises:
            OSError: ETIMEDOUT.
        """
        try:
            with trio.fail_after(self._deadline):
                for turn in turns:
                    await turn.over.wait()
        except trio.TooSlowError:
            raise OSError(errno.ETIMEDOUT, f"a write before it has no answer for {self._deadline:g} s") from None

    async def begin(self, inode: Inode, start: int, end: float) -> Turn:
        """Wait until a write may run: after earlier overlapping writes. Later requests wait until `end`."""
        before, turn = self.before(inode, start, end), Turn(inode, start, end, trio.Event())
        self.writes.append(turn)
        try:
            await self.wait(before)
        except BaseException:
            self.end(turn)
            raise
        return turn

    def end(self, turn: Turn) -> None:
        turn.over.set()
        self.writes.remove(turn)
