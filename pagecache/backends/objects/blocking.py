"""An open object of a blocking store, for threads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..protocol import BackendFile, ObjectStat
from .file import ObjectFile
from .store import run

__all__ = ["BlockingFile"]


class BlockingFile(BackendFile):
    """One object. Its calls are carried out on the calling thread."""

    def __init__(self, file: ObjectFile[Any]) -> None:
        self._file = file

    def stat(self) -> ObjectStat:
        return run(self._file.stat())

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> int:
        return run(self._file.read_into(offset, buffers))

    def write_from(self, offset: int, buffers: Sequence[memoryview]) -> int:
        return run(self._file.write_from(offset, buffers))

    def truncate(self, size: int) -> None:
        run(self._file.truncate(size))

    def punch_hole(self, offset: int, length: int) -> None:
        """Write zeros, at the next commit."""
        run(self._file.punch_hole(offset, length))

    def commit(self) -> str | None:
        return run(self._file.commit())

    def rollback(self) -> None:
        """Forget all writes since the last commit."""
        run(self._file.rollback())

    @property
    def unanswered(self) -> object:
        """What identifies the commits of this file."""
        return self._file.unanswered

    def recognises(self, unanswered: object) -> bool:
        """Return whether the opened version is one of these commits."""
        return run(self._file.recognises(unanswered))

    def close(self) -> None:
        """Drop uncommitted bytes."""
        run(self._file.close())
