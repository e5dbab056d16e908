"""Nasty but legal stores: their behaviour is within the protocol, they lose nothing, and no alarm is due."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

from pagecache.backends import Backend, BackendFile, BackendLimits, MemoryBackend, ObjectStat
from pagecache.backends.passing import PassingBackend, PassingFile
from pagecache.errors import Key

from ..planted.settings import Factory


@dataclass(frozen=True, slots=True)
class Legal:
    """A store that is nasty and keeps its promises: a tester that reports a finding in it is wrong."""

    name: str
    sentence: str
    target: Callable[[], Factory]


def around(wrap: Callable[[Backend], Backend], **limits: Any) -> Callable[[], Factory]:
    """A new store of these limits, seen through the same wrapper at each start."""

    def target() -> Factory:
        inner = MemoryBackend(**limits)
        return lambda: wrap(inner)

    return target


class Nameless(PassingFile):
    def stat(self) -> ObjectStat:
        return replace(self.inner.stat(), version=None)

    def commit(self) -> str | None:
        self.inner.commit()
        return None


class NoVersions(PassingBackend):
    def open(self, key: Key, *, create: bool = False, exclusive: bool = False) -> BackendFile:
        return Nameless(self.inner.open(key, create=create, exclusive=exclusive))

    def stat(self, key: Key) -> ObjectStat:
        return replace(self.inner.stat(key), version=None)

    def list(self, prefix: str = "") -> Iterable[ObjectStat]:
        return (replace(stat, version=None) for stat in self.inner.list(prefix))


class RestlessLimits(PassingBackend):
    """Limits that change now and then between queries."""

    SIZES = (1 << 20, 4096, 512, 65536, 12288)

    def __init__(self, inner: Backend) -> None:
        super().__init__(inner)
        self.calls = count()

    @property
    def limits(self) -> BackendLimits:  # type: ignore[override]
        turn = next(self.calls) // 3
        most = self.SIZES[turn % len(self.SIZES)]
        return replace(self.inner.limits, max_read=most, max_write=most, max_vectors=1 + turn % 4)


LEGAL = [
    Legal("no_versions", "Objects have no version.", around(NoVersions)),
    Legal(
        "restless_limits",
        "The limits change from pass to pass: from 512 bytes and one buffer to a megabyte.",
        around(RestlessLimits),
    ),
    Legal(
        "tiny_limits",
        "Calls of at most two small units in one buffer, one at a time, within a boundary.",
        around(
            lambda inner: inner,
            write_unit=512,
            max_write=1024,
            read_unit=512,
            max_read=1024,
            max_vectors=1,
            max_inflight=1,
            boundary=2048,
        ),
    ),
]
