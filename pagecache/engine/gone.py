"""The file of an object that has lost the name by which its backend finds it: nothing of it is stored any longer.

It takes the place of the backend's file. So no call for the object can reach another object that has its name: reads of
uncached bytes find nothing, and changes without bytes have no effect on a store. Bytes of an object in place are never
acknowledged. Those of a whole object are uncommitted for good: they stay in memory, or in the spool, which needs no
unit to be complete.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..backends.protocol import BackendFile, BackendLimits, ObjectStat

if TYPE_CHECKING:
    from ..errors import Key
    from ..native import NativeInode

__all__ = ["REMOVED", "GoneFile"]

REMOVED = "uncached bytes of a removed object are gone"
"""Reason of a read's FileNotFoundError."""


class GoneFile(BackendFile):
    """The file of an object without a name; `limits` are those that the object had."""

    def __init__(self, limits: BackendLimits, native: NativeInode, key: Key) -> None:
        whole = limits.commit_on_close
        self.limits = replace(limits, write_unit=1) if whole else limits
        self._native = native
        self._key = key

    def stat(self) -> ObjectStat:
        whole = self.limits.commit_on_close  # which forgets what is not committed
        return ObjectStat(key=self._key, size=self._native.remote_size if whole else self._native.size)

    def read_into(self, offset: int, buffers: object) -> int:
        raise FileNotFoundError(errno.ENOENT, REMOVED, self._key)

    def write_from(self, offset: int, buffers: Sequence[memoryview]) -> int:
        if self.limits.commit_on_close:
            return sum(map(len, buffers))
        raise FileNotFoundError(errno.ENOENT, REMOVED, self._key)

    def truncate(self, size: int) -> None:
        """Do nothing."""

    def punch_hole(self, offset: int, length: int) -> None:
        """Do nothing."""

    def rollback(self) -> None:
        """Do nothing."""

    def commit(self) -> None:
        raise FileNotFoundError(errno.ENOENT, REMOVED, self._key)
