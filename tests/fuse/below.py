"""Stores below a mount that a test can stop and break from outside of the server's process, by files in a folder.

hang    a FIFO: each call opens it, and hangs until a writer opens it
fail    a text "WORDS ERRNO": calls whose name is one of the words (a|b) raise
die     a text "N": the server kills itself in the N-th call from its start on, before (N > 0) or after (N < 0) its work
"""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pagecache.backends import DirectoryBackend
from pagecache.backends.passing import PassingBackend, PassingFile
from pagecache.backends.protocol import Backend, BackendFile
from pagecache.fuse import nodes
from pagecache.testing import FaultyBackend, LatencyBackend

__all__ = ["Switch", "faulty", "few_names", "slow", "switched"]


T = TypeVar("T")


class Switch:
    """The test's control over the store."""

    def __init__(self, folder: Path) -> None:
        self._hang, self._fail, self._die = folder / "hang", folder / "fail", folder / "die"
        self._numbers = itertools.count(1)

    def hang(self) -> None:
        os.mkfifo(self._hang)

    def go_on(self) -> None:
        """Let hanging calls return, and make no other hang."""
        gone = self._hang.with_suffix(".gone")
        self._hang.rename(gone)
        os.open(gone, os.O_RDWR)  # waiters in open(2) for a writer have one, and so does a later opener: it stays open
        gone.unlink()

    def fail(self, words: str, code: int) -> None:
        new = self._fail.with_suffix(".new")
        new.write_text(f"{words} {code}")
        new.rename(self._fail)

    def succeed(self) -> None:
        self._fail.unlink()

    def die(self, at: int) -> None:
        self._die.write_text(str(at))

    def live(self) -> None:
        self._die.unlink(missing_ok=True)

    def through(self, what: str, call: Callable[[], T]) -> T:
        """Apply the switch, in the server, to a call of this name."""
        at, number = int(self._die.read_text()) if self._die.exists() else 0, next(self._numbers)
        if number == at:
            os.kill(os.getpid(), signal.SIGKILL)
        with suppress(FileNotFoundError):
            os.close(os.open(self._hang, os.O_RDONLY))
        words, code = self._fail.read_text().split() if self._fail.exists() else ("", "0")
        if what in words.split("|"):
            raise OSError(int(code), os.strerror(int(code)))
        answer = call()
        if number == -at:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer


def _through(what: str, method: str = "") -> Any:
    """A method that is subject to the switch, under a name of the call."""

    def call(self: Any, *arguments: Any, **options: Any) -> Any:
        return self._switch.through(what, partial(getattr(self.inner, method or what), *arguments, **options))

    return call


class _File(PassingFile):
    def __init__(self, inner: BackendFile, switch: Switch) -> None:
        super().__init__(inner)
        self._switch = switch

    stat, truncate, commit = map(_through, ("stat", "truncate", "commit"))
    read_into, write_from = _through("read", "read_into"), _through("write", "write_from")


class _Switched(PassingBackend):
    def __init__(self, inner: Backend, folder: Path) -> None:
        super().__init__(inner)
        self._switch = Switch(folder)

    def open(self, key: Any, *, create: bool = False, exclusive: bool = False) -> BackendFile:
        call = partial(self.inner.open, key, create=create, exclusive=exclusive)
        return _File(self._switch.through("open", call), self._switch)

    stat, remove, rename, sync = map(_through, ("stat", "remove", "rename", "sync"))


def switched(folder: str) -> Backend:
    """The directory `store` of a folder, with the switch there."""
    return _Switched(DirectoryBackend(Path(folder) / "store"), Path(folder))


def faulty(root: str, profile: str, seed: int = 1) -> Backend:
    return FaultyBackend(DirectoryBackend(root), profile, seed)


def slow(root: str) -> Backend:
    return LatencyBackend(DirectoryBackend(root), read=0.002, write=0.002, commit=0.005)


def few_names(root: str) -> Backend:
    """A mount that asks the kernel to forget names beyond a hundred."""
    nodes.NAMES_MAX = 100
    return DirectoryBackend(root)
