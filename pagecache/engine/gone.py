"""The file of an object that has lost the name by which its backend finds it: nothing of it is stored any longer.

It takes the place of the backend's file. So no call for the object can reach another object that has its name: reads of
uncached bytes find nothing, changes without bytes have no effect on a store, and bytes are never acknowledged.
"""

from __future__ import annotations

import errno
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
        self.limits = limits
        self._native = native
        self._key = key

    def stat(self) -> ObjectStat:
        return ObjectStat(key=self._key, size=self._native.size)

    def read_into(self, offset: int, buffers: object) -> int:
        raise FileNotFoundError(errno.ENOENT, REMOVED, self._key)

    def write_from(self, offset: int, buffers: object) -> int:
        raise FileNotFoundError(errno.ENOENT, REMOVED, self._key)

    def truncate(self, size: int) -> None:
        """Do nothing."""

    def punch_hole(self, offset: int, length: int) -> None:
        """Do nothing."""

    def commit(self) -> None:
        raise FileNotFoundError(errno.ENOENT, REMOVED, self._key)
