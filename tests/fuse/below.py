"""Stores below a mount that a test can stop and break from outside of the server's process, by files in a folder.

hang    a FIFO: each call opens it, and hangs until somebody opens it for writing
fail    a text "WORDS ERRNO": calls whose name is one of the words (a|b) raise
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pagecache.backends import DirectoryBackend, MemoryBackend
from pagecache.backends.passing import PassingBackend, PassingFile
from pagecache.backends.protocol import Backend, BackendFile, ObjectStat
from pagecache.testing import FaultyBackend, LatencyBackend

__all__ = ["Switch", "faulty", "slow", "switched", "switched_objects"]


class Switch:
    """What a test does to the store."""

    def __init__(self, folder: Path) -> None:
        self._hang, self._fail = folder / "hang", folder / "fail"

    def hang(self) -> None:
        os.mkfifo(self._hang)

    def go_on(self) -> None:
        """Calls that hang return, and no other hangs."""
        gone = self._hang.with_suffix(".gone")
        self._hang.rename(gone)
        os.close(os.open(gone, os.O_RDWR))  # who waits in open(2) for a writer has one
        gone.unlink()

    def fail(self, words: str, code: int) -> None:
        new = self._fail.with_suffix(".new")
        new.write_text(f"{words} {code}")
        new.rename(self._fail)

    def repair(self) -> None:
        self._fail.unlink()

    def pass_through(self, what: str) -> None:
        """In the server: a call of this name."""
        try:
            os.close(os.open(self._hang, os.O_RDONLY))
        except FileNotFoundError:
            pass
        try:
            words, code = self._fail.read_text().split()
        except FileNotFoundError:
            return
        if what in words.split("|"):
            raise OSError(int(code), os.strerror(int(code)))


class _File(PassingFile):
    def __init__(self, inner: BackendFile, switch: Switch) -> None:
        super().__init__(inner)
        self._switch = switch

    def stat(self) -> ObjectStat:
        self._switch.pass_through("stat")
        return super().stat()

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> int:
        self._switch.pass_through("read")
        return super().read_into(offset, buffers)

    def write_from(self, offset: int, buffers: Sequence[memoryview]) -> int:
        self._switch.pass_through("write")
        return super().write_from(offset, buffers)

    def commit(self) -> str | None:
        self._switch.pass_through("commit")
        return super().commit()


class _Switched(PassingBackend):
    def __init__(self, inner: Backend, folder: Path) -> None:
        super().__init__(inner)
        self._switch = Switch(folder)

    def open(self, key: Any, *, create: bool = False, exclusive: bool = False) -> BackendFile:
        self._switch.pass_through("open")
        return _File(self.inner.open(key, create=create, exclusive=exclusive), self._switch)

    def stat(self, key: Any) -> ObjectStat:
        self._switch.pass_through("stat")
        return super().stat(key)

    def sync(self) -> None:
        self._switch.pass_through("sync")
        super().sync()


def switched(folder: str) -> Backend:
    """The directory `store` of a folder, with the switch there."""
    return _Switched(DirectoryBackend(Path(folder) / "store"), Path(folder))


def switched_objects(folder: str) -> Backend:
    """Objects that are published as a whole, with the switch in a folder."""
    import fsspec

    from pagecache.backends.fsspec import FsspecBackend

    fs = fsspec.filesystem("memory")
    return _Switched(FsspecBackend(fs, "/bucket"), Path(folder))


def faulty(root: str, profile: str, seed: int = 1) -> Backend:
    return FaultyBackend(DirectoryBackend(root), profile, seed)


def slow(root: str) -> Backend:
    return LatencyBackend(DirectoryBackend(root), read=0.002, write=0.002, commit=0.005)


def memory() -> Backend:
    return MemoryBackend()
