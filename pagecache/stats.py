"""Values that describe objects, caches and events. Nothing here changes anything.

All are immutable snapshots. The counters are exact when nothing is going on; beside running calls, each is right by
itself, and sums may be off by the calls in between.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .errors import Key


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheStats:
    """Counters of a cache since it was made, and its memory now, in bytes.

    `dirty`, `writeback` and `unstable` are disjoint except for bytes dirtied again in flight; `failed` is a part of
    them and of staged bytes. Seconds are sums over threads. docs/counters.md explains each counter.

    Attributes:
        capacity: bytes that cached data may take.
        used: bytes of memory in use; of a volume or file, its pages in memory.
        clean: bytes that storage also has.
        dirty: bytes newer than storage and not in flight.
        writeback: bytes in a running backend call.
        unstable: bytes that the backend acknowledged and has not committed.
        failed: unsaved bytes whose last write-back or commit failed for good.
        pinned: bytes that views hold.
        folios: folios in memory.
        hits: reads served from memory alone.
        misses: reads that had to wait for a backend call.
        evicted: clean folios that were evicted because memory was needed.
        read_requests: backend calls that read.
        read_bytes: bytes that these calls delivered.
        write_requests: backend calls that write.
        write_bytes: bytes that the backend acknowledged.
        commits: commits that succeeded.
        failed_commits: commits that failed.
        retries: calls that were repeated after a failure.
        short_writes: writes that acknowledged fewer bytes than they were given.
        cow_copies: folios that were copied because they were written while their bytes were in flight.
        staged_copies: temporary copies of buffers and of pages under a writable view.
        throttled_seconds: time that writers waited for room, added up over threads.
        lock_waits: times that a call slept for a folio or for the lock of a file.
        disk_hits: backend calls to read that the disk tier served.
        disk_bytes: bytes that the tier takes on disk; of all volumes and caches that share it.
        journal_bytes: bytes of its journal; 0 while a store has everything.
        disk_errors: failures of the tier's disk, damaged blocks among them.
        details: further counters by name.
    """

    capacity: int
    used: int
    clean: int
    dirty: int
    writeback: int
    unstable: int
    failed: int
    pinned: int
    folios: int
    hits: int
    misses: int
    evicted: int
    read_requests: int
    read_bytes: int
    write_requests: int
    write_bytes: int
    commits: int
    failed_commits: int
    retries: int
    short_writes: int
    cow_copies: int
    staged_copies: int
    throttled_seconds: float
    lock_waits: int
    disk_hits: int = 0
    disk_bytes: int = 0
    journal_bytes: int = 0
    disk_errors: int = 0
    details: Mapping[str, int] = dataclasses.field(default_factory=dict, repr=False, compare=False)

    def to_dict(self) -> dict[str, int | float]:
        """Return every counter by name, in the form of JSON and metrics; including `details` (memory of the metadata,
        I/O accounting).
        """
        named = {counter.name: getattr(self, counter.name) for counter in dataclasses.fields(self)}
        return {**named.pop("details"), **named}


SEPARATE = {"capacity", "used", "throttled_seconds", "disk_bytes", "journal_bytes", "disk_errors", "details"}
COUNTERS = [field.name for field in dataclasses.fields(CacheStats) if field.name not in SEPARATE]
"""Fields that are counters of CORE with these names."""


class VolumeStats(CacheStats):  # without fields of its own, a second decorator would only cost time at import
    """Counters of one volume."""

    __slots__ = ()


class FileStats(CacheStats):
    """Counters of one cached object."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveredFile:
    """An object with bytes that a disk tier has and its store does not; see `Volume.recovered`.

    Attributes:
        key: of the object.
        size: bytes, as they were saved in the tier.
        ranges: (offset, length) of the bytes that the store does not have.
        base: version that they were written over.
        created: the store has no such object yet.
    """

    key: Key
    size: int
    ranges: tuple[tuple[int, int], ...]
    base: str | None
    created: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitOwner:
    """The call of a backend that a thread or task waits for; see `Wait`.

    Attributes:
        what: "a read of the backend", "a commit of the backend".
        thread: that makes it, as returned by `threading.get_ident`; of a coroutine, that of its loop.
        name: of the thread.
        seconds: duration of the call.
        place: the line that it has reached in code of the backend; None: unknown.
    """

    what: str
    thread: int | None = None
    name: str | None = None
    seconds: float | None = None
    place: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the form of `/v1/waits` of the live documents."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """A thread or task that waits for something of a cache; see `PageCache.waits`.

    Attributes:
        thread: its identifier, as returned by `threading.get_ident`; of a task, that of its loop's thread.
        name: of the thread, or of the task.
        task: whether it is a task of an event loop.
        seconds: duration of the wait.
        what: the awaited thing: "a fill of [0, 4096)", "the file's lock", "an fsync".
        volume: name of the volume.
        key, file: the object and its number in the cache, if the wait is for an object.
        offset, length: the range in bytes, if there is one.
        owner: the call of the backend that it waits for; None: none runs, or a time has to pass.
    """

    thread: int
    name: str
    task: bool = False
    seconds: float
    what: str
    volume: str | None = None
    key: Key | None = None
    file: int | None = None
    offset: int | None = None
    length: int | None = None
    owner: WaitOwner | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return an entry of `/v1/waits` of the live documents."""
        plain = {name: getattr(self, name) for name in self.__slots__}
        return {**plain, "key": key_text(self.key), "owner": None if self.owner is None else self.owner.to_dict()}


def key_text(key: Key) -> str | None:
    """Return a key as readable text; None: there is none."""
    text = os.fsdecode(key) if isinstance(key, os.PathLike) else key
    return text if text is None or isinstance(text, str) else repr(text)
