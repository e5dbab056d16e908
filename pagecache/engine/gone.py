"""The file of an object that has lost the name by which its backend finds it: nothing of it is stored any longer.

It takes the place of the backend's file. So no call for the object can reach another object that has its name: reads of
bytes that were stored find nothing, and changes without bytes have no effect on a store. Zeros that came later, behind
the end or as a hole, were never stored and are read as such. Bytes of an object in place are never acknowledged. Those
of a whole object are uncommitted for good: they stay in memory, or in the spool. Neither needs a unit to be complete.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..backends.protocol import BackendFile, BackendLimits, ObjectStat
from ..backends.spool import END, Ranges

if TYPE_CHECKING:
    from ..errors import Key
    from ..native import NativeInode

REMOVED = "uncached bytes of a removed object are gone"


class GoneFile(BackendFile):
    """The file of an object without a name; `limits` are those that the object had."""

    def __init__(self, limits: BackendLimits, inode: NativeInode, key: Key) -> None:
        self.limits = replace(limits, write_unit=1)
        self._inode = inode
        self._key = key
        self._lock = threading.Lock()
        self._lost = Ranges()  # of `_lock`: what may have been stored
        self._lost.add(0, END)

    def stat(self) -> ObjectStat:
        whole = self.limits.commit_on_close  # which forgets what is not committed
        return ObjectStat(key=self._key, size=self._inode.remote_size if whole else self._inode.size)

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> int:
        count = sum(map(len, buffers))
        with self._lock:
            lost = any(inside for _begin, _end, inside in self._lost.pieces(offset, offset + count))
        if lost:
            raise FileNotFoundError(errno.ENOENT, REMOVED, self._key)
        for buffer in buffers:
            buffer[:] = bytes(len(buffer))
        return count

    def write_from(self, offset: int, buffers: Sequence[memoryview]) -> int:
        if self.limits.commit_on_close:
            self._forget(self._inode.remote_size, END)  # a gap before the bytes is zeros
            return sum(map(len, buffers))
        raise FileNotFoundError(errno.ENOENT, REMOVED, self._key)

    def truncate(self, size: int) -> None:
        """Note that bytes behind the old end, or the new one, are zeros. Nothing is in flight, so the end is known."""
        self._forget(min(size, self._inode.remote_size), END)

    def punch_hole(self, offset: int, length: int) -> None:
        self._forget(offset, offset + length)

    def _forget(self, begin: int, end: int) -> None:
        with self._lock:
            self._lost.cut(begin, end)

    def rollback(self) -> None:
        """Note that no zeros have replaced stored bytes."""
        with self._lock:
            self._lost.add(0, END)

    def commit(self) -> None:
        raise FileNotFoundError(errno.ENOENT, REMOVED, self._key)
