"""Values that tell people and programs about the state of things: objects, caches, events. Nothing here changes
anything.

All are immutable snapshots. The counters are exact when nothing is going on; taken beside running calls, each is
right by itself, and sums may be off by what is in between.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from .errors import Key

__all__ = ["CacheStats", "Event", "FileStat", "FileStats", "ObjectStat", "VolumeStats"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectStat:
    """What a backend knows of one object.

    Attributes:
        size: bytes.
        version: opaque; differs whenever the content may differ (an etag, a generation, mtime_ns:size:ino).
        mtime: seconds since the epoch.
        key: filled in where several objects are listed.
        kind: what the name stands for.
    """

    size: int
    version: str | None = None
    mtime: float | None = None
    key: Key | None = None
    kind: Literal["file", "dir", "symlink"] = "file"
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    nlink: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None
    ctime_ns: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FileStat(ObjectStat):
    """An object as a reader of the cache sees it, local extensions included.

    Attributes:
        dirty: bytes dirty, in flight or unstable.
        cached: valid bytes in memory, dirty ones included.
    """

    dirty: int = 0
    cached: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheStats:
    """Counters of a cache since it was made, and its memory now, in bytes.

    `dirty`, `writeback` and `unstable` are disjoint except for bytes dirtied again in flight; `failed` is a part of
    `dirty`. Seconds are sums over threads.
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
    retries: int
    short_writes: int
    cow_copies: int
    staged_copies: int
    throttled_seconds: float
    lock_waits: int
    details: Mapping[str, int] = dataclasses.field(default_factory=dict, repr=False, compare=False)

    def to_dict(self) -> dict[str, int | float]:
        """Every counter by name, as JSON and metrics want them; `details` (memory of the metadata, I/O accounting)
        among them.
        """
        named = {counter.name: getattr(self, counter.name) for counter in dataclasses.fields(self)}
        return {**named.pop("details"), **named}


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeStats(CacheStats):
    """The same, of one volume."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileStats(CacheStats):
    """The same, of one cached object."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened without anybody asking; see `PageCache.subscribe`.

    Attributes:
        ranges: the bytes concerned as (offset, length).
        error: the cause, where there is one.
    """

    kind: Literal["failed", "repaired", "parked", "conflict", "invalidated", "stalled", "committed"]
    volume: str
    key: Key | None = None
    ranges: tuple[tuple[int, int], ...] = ()
    error: OSError | None = None
