"""Backends and factories that the command is given: good ones, odd ones, and invalid ones."""

from __future__ import annotations

import errno
from functools import partial
from typing import Any

from pagecache import Backend, BackendLimits, ObjectStat
from pagecache.backends import DirectoryBackend, MemoryBackend, TransformBackend
from pagecache.backends.passing import PassingBackend, PassingFile
from pagecache.errors import Key
from pagecache.testing import FaultyBackend, LatencyBackend

from ..aio.over import Over
from ..backends.transforms import Sealed
from ..plain import AsyncBlobs, Blobs, Wrong
from .broken import Mistaken, refuse


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
    return Mistaken(PassingFile, DirectoryBackend(path), remove=lambda key: refuse(errno.EPERM))


def queried() -> Backend:
    properties = [("put", True, "checks conditions", "a HEAD"), ("copies", False, "copies parts", "parts are sent")]
    return Mistaken(PassingFile, MemoryBackend(), server_properties=lambda: properties)


def numbered() -> Backend:
    return Mistaken(PassingFile, MemoryBackend(), canonical=int)


class OddLimits(Blobs):
    limits = None


forgets_return_of_write = partial(Wrong, write_from=None)
forgets_return_of_read = partial(Wrong, read_into=None)
answers_too_much = partial(Wrong, write_from=10**9)
commits_a_number = partial(Wrong, commit=7)
stats_a_tuple = partial(Wrong, stat=(5, "v"))


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
