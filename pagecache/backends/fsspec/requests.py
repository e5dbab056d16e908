"""The requests that names and commits are made of, to a file system of fsspec."""

from __future__ import annotations

import errno
import io
import os
from concurrent.futures import Future
from contextlib import AbstractContextManager

from ...errors import Key
from ..protocol import ObjectStat
from .calls import Calls, about, tagged, translated

__all__ = ["Requests"]

REFUSALS = (
    FileNotFoundError,
    FileExistsError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
    io.UnsupportedOperation,
)
"""Errors of a request that was certainly not carried out."""


class Requests:
    """The requests to a file system."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self.move = calls.move if calls.renames else None

    async def head(self, name: str) -> ObjectStat | None:
        found = await self._calls.found(name)
        if found is not None and found.kind == "dir":
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), name)
        return found

    async def copy(self, old: str, new: str, version: ObjectStat) -> None:
        await self._calls.copy(old, new)

    async def delete(self, name: str) -> None:
        await self._calls.remove(name)

    async def wait(self, end: Future[None]) -> None:
        await self._calls.wait(end)

    def status(self, version: ObjectStat) -> ObjectStat:
        return version

    def same(self, one: ObjectStat | None, other: ObjectStat | None) -> bool:
        if one is None or other is None:
            return one is other
        if one.version is None or other.version is None:
            return one.size == other.size
        return one.version == other.version

    def is_copy(self, found: ObjectStat, version: ObjectStat) -> bool:
        return tagged(found) and found.version == version.version

    def is_refusal(self, error: BaseException) -> bool:
        return isinstance(translated(error, None, self._calls.name), REFUSALS)

    def about(self, key: Key) -> AbstractContextManager[None]:
        return about(key, self._calls.name)
