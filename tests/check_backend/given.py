"""Backends and factories that the command is given: good ones, odd ones, and invalid ones."""

from __future__ import annotations

import errno
from typing import Any

from pagecache import Backend, BackendLimits, ObjectStat
from pagecache.backends import DirectoryBackend, MemoryBackend, TransformBackend
from pagecache.backends.passing import PassingBackend
from pagecache.errors import Key
from pagecache.testing import FaultyBackend, LatencyBackend

from ..aio.over import Over
from ..backends.transforms import Sealed
from ..plain import AsyncBlobs, Blobs, Wrong
from .broken import IgnoresCommit, Mistaken

# ------------------------------------------------------------------------------------------------ good ones


def latency(seconds: float = 20e-6) -> Backend:
    return LatencyBackend(MemoryBackend(), read=seconds, write=seconds, commit=seconds)


def faulty(profile: str = "none") -> Backend:
    return FaultyBackend(MemoryBackend(), profile, seed=3)


def asynchronous() -> Any:
    return Over(MemoryBackend())


def sealed(path: str = "") -> Backend:
    return TransformBackend(DirectoryBackend(path) if path else MemoryBackend(), Sealed())


class UndoesRemovals(PassingBackend):
    """A removal that `sync` has not made durable is undone by `close`."""

    store = MemoryBackend()

    def __init__(self) -> None:
        super().__init__(self.store)
        self._removed: dict[Key, bytes] = {}

    def remove(self, key: Key) -> None:
        content = self.store.snapshot(key) if any(each.key == key for each in self.store.list()) else b""
        self.store.remove(key)
        self._removed[key] = content

    def sync(self) -> None:
        self._removed.clear()

    def close(self) -> None:
        for key, content in self._removed.items():
            self.store.put(key, content)
        self._removed.clear()


shared = MemoryBackend()
plain = Blobs
plain_asynchronous = AsyncBlobs


def read_only() -> Backend:
    return MemoryBackend(read_only=True)


def unremovable(path: str) -> Backend:
    def refuse(key: Key) -> None:
        raise PermissionError(errno.EPERM, "nothing is ever removed")

    return Mistaken(inner=DirectoryBackend(path), remove=refuse)


class CopiesOnCommit(IgnoresCommit):
    """Written bytes stay in this file object until commit."""

    def commit(self) -> str | None:
        size = self._copy.stat().size
        data = memoryview(bytearray(size))
        self._copy.read_into(0, [data])
        self.inner.truncate(size)
        self.inner.write_from(0, [data])
        return self.inner.commit()


def durable_lie(path: str) -> Backend:
    """durable_writes is declared, but not true."""
    made = Mistaken(CopiesOnCommit, DirectoryBackend(path))
    made.inner.limits = BackendLimits(durable_writes=True)
    return made


def counted() -> Backend:
    return counting


counting = FaultyBackend(MemoryBackend(), "none")
"""A single backend whose log records every call."""


def numbered() -> Backend:
    def refuse(key: Key) -> Key:
        raise ValueError("keys are numbers")

    return Mistaken(canonical=refuse)


class OddLimits(Blobs):
    limits = None


def _wrong(**answers: Any) -> Any:
    """Make a backend whose objects all answer so; the first object of `Wrong` has another class."""
    return lambda: Wrong(**answers)


forgets_return_of_write = _wrong(write_from=None)
forgets_return_of_read = _wrong(read_into=None)
answers_too_much = _wrong(write_from=10**9)
commits_a_number = _wrong(commit=7)
stats_a_tuple = _wrong(stat=(5, "v"))


class NoBackend:
    limits = BackendLimits()


def raises() -> Backend:
    raise RuntimeError("no password")


number = 17


class Halfway(Backend):
    """A backend whose files do not follow the protocol."""

    def open(self, key: Key, *, create: bool = False, exclusive: bool = False) -> Any:
        return object()

    def stat(self, key: Key) -> ObjectStat:
        raise FileNotFoundError(2, "no", key)
