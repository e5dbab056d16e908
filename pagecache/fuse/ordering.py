"""Requests for the same bytes of a file are served in the order in which they came, where one of them is a write.

The kernel has the bytes of a write in its pages before the server has heard of them, and may drop such a page while the
write is on its way: somebody opens the file, or says that he needs it no more. A read of that page which overtook the
write would bring the old bytes back, and they would stay; a store through a mapping would then write them over the new
ones, since it writes whole pages:

    kernel   WRITE [100, 200) ...............................  done: the page shows old bytes until it is dropped again
                               page dropped, READ [0, 4096)
    server   on a thread, since it has to wait for room         on the loop, since the page is cached

So what comes after a write that waits, and touches its bytes, waits as well. Without pages of the kernel (direct I/O)
nobody would keep what such a read finds, and nothing has to wait.

Writes that are answered on the loop are over before the next request is looked at, and never get here.
"""

from __future__ import annotations

import errno
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from ..volume.inode import Inode

__all__ = ["Turns"]


@dataclass(frozen=True, slots=True, eq=False)
class Turn:
    """A write of the bytes [start, end) that is on its way."""

    start: int
    end: int
    over: trio.Event


class Turns:
    """Writes that wait, and who waits for them. All calls on the loop.

    Args:
        deadline: seconds after which who waits goes on with ETIMEDOUT; None: never.
        pages: the kernel keeps pages; else nobody waits.

    Attributes:
        writes: of each file, in the order in which they came; no file without any.
    """

    def __init__(self, deadline: float | None = None, *, pages: bool = True) -> None:
        self._pages = pages
        self.writes: dict[Inode, list[Turn]] = {}
        self._deadline = math.inf if deadline is None else deadline

    def before(self, inode: Inode, start: int, end: int) -> list[Turn]:
        """The writes that touch these bytes and came before."""
        return [turn for turn in self.writes.get(inode, ()) if turn.start < end and start < turn.end]

    async def wait(self, turns: Sequence[Turn]) -> None:
        """Until these are over.

        Raises:
            OSError: ETIMEDOUT.
        """
        try:
            with trio.fail_after(self._deadline):
                for turn in turns:
                    await turn.over.wait()
        except trio.TooSlowError:
            raise OSError(errno.ETIMEDOUT, f"a write before it has no answer for {self._deadline:g} s") from None

    @asynccontextmanager
    async def write(self, inode: Inode, start: int, end: int) -> AsyncIterator[None]:
        """A write that may wait: after those before it, and before what comes from now on."""
        if not self._pages:
            yield
            return
        before, turn = self.before(inode, start, end), Turn(start, end, trio.Event())
        self.writes.setdefault(inode, []).append(turn)
        try:
            await self.wait(before)
            yield
        finally:
            turn.over.set()
            queue = self.writes[inode]
            queue.remove(turn)
            if not queue:
                del self.writes[inode]
