"""Values that the package makes all the time: the status of an object, and events. Immutable.

The others are in stats.py, which is imported on first use: making dataclasses takes a tenth of the time of
`import pagecache`.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Literal

from .errors import Key

Kind = Literal["file", "dir", "symlink", "fifo", "socket", "char", "block"]
"""Kind of an object: only a "file" has bytes that can be cached."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectStat:
    """A backend's status of one object.

    Attributes:
        size: bytes.
        version: opaque; differs whenever the content may differ (an etag, a generation, mtime_ns:size:ino).
        mtime: seconds since the epoch.
        key: set if several objects are listed, and by open files of a `commit_on_close` backend.
        kind: kind of the object.
        mode, uid, gid, nlink: permissions, owner, group and number of links, from stores that keep them.
        atime_ns, mtime_ns, ctime_ns: times in nanoseconds since the epoch, from stores that keep them.
        rdev: number of the device, of kind "char" or "block".
        allocated: bytes that the object takes in the store, less than `size` if it has holes; None: unknown.
        identity: equal for all names of one object, and kept by a rename; another object never has it, not even under
            the same name later. None: the store knows objects by their names only.
    """

    size: int
    version: str | None = None
    mtime: float | None = None
    key: Key | None = None
    kind: Kind = "file"
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    nlink: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None
    ctime_ns: int | None = None
    rdev: int | None = None
    allocated: int | None = None
    identity: Hashable | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FileStat(ObjectStat):
    """An object as a reader of the cache sees it, local extensions included.

    Attributes:
        dirty: bytes dirty, in flight or unstable.
        cached: valid bytes in memory, dirty ones included.
        allocated: bytes in the store and dirty bytes that it may not have yet: an upper bound until they are written
            back.
    """

    dirty: int = 0
    cached: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A reported event; see `PageCache.subscribe`.

    Attributes:
        kind: kind of the event; docs/events.md describes each.
        volume, key: name of the volume, and the object if there is one.
        ranges: the bytes concerned as (offset, length).
        error: the cause, if there is one.
        message: the event, as a sentence without volume and key.
        next: the next step.
        time: seconds since the epoch.
        missed: events before this one that were dropped, because subscribers were slow.
    """

    kind: Literal["failed", "repaired", "parked", "conflict", "invalidated", "stalled", "committed", "warning", "disk"]
    volume: str
    key: Key | None = None
    ranges: tuple[tuple[int, int], ...] = ()
    error: OSError | None = None
    message: str = ""
    next: str = ""
    time: float = 0.0
    missed: int = 0
