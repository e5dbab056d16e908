"""The documents of docs/live.md, as plain dicts and lists for JSON: pure functions of a cache.

Each takes its numbers without stopping the cache, and holds locks only for moments. Each is bounded: by volumes, by
LIMIT_MOST files and RANGES_MOST ranges. Choosing and sorting files, and finding the oldest dirty byte,
reads only the key or one number of every file.
"""

from __future__ import annotations

import errno
import heapq
import os
import shlex
import sys
import time
from collections.abc import Iterable
from functools import cache as once
from typing import TYPE_CHECKING, Any

from ..distribution import VERSION
from ..engine.commit import overdue
from ..engine.report.trouble import Trouble
from ..errors import FailedRange, Key
from ..native import COMMIT_CALL, LATENCY_BOUNDS, READ_CALL, WRITE_CALL
from ..stats import CacheStats

if TYPE_CHECKING:
    from ..cache import PageCache
    from ..volume.inode import Inode
    from ..volume.volume import Volume

__all__ = ["SCHEMA", "SORTS", "NotThere", "failed", "files", "said_range", "stats", "volume_named", "waits"]

SCHEMA = 1
SORTS = ("dirty", "cached", "failed", "unstable", "age", "hits", "key")
LIMIT, LIMIT_MOST = 200, 1000
RANGES_MOST = 10_000
OLDEST_AMONG = 1000
"""Number of dirty files, in the order in which they became dirty, that are searched for the oldest byte."""
COMMAND_MOST = 200
CALLS = {"read": READ_CALL, "write": WRITE_CALL, "commit": COMMIT_CALL}


class NotThere(LookupError):
    """No such volume, file or ticket; the message is one sentence that names it."""


def said(key: Key) -> str | None:
    """Return a key as readable text."""
    if key is None or isinstance(key, str):
        return key
    if isinstance(key, os.PathLike):
        path = os.fspath(key)
        return path if isinstance(path, str) else repr(path)
    return repr(key)


def code_name(code: int | None) -> str | None:
    return None if code is None else errno.errorcode.get(code)


def volume_named(cache: PageCache, name: str | None) -> list[Volume]:
    """Return the volume of that name; None: all of them.

    Raises:
        NotThere: There is none.
    """
    volumes = cache.volumes()
    found = [volume for volume in volumes if name is None or volume.name == name]
    if not found and name is not None:
        known = ", ".join(repr(volume.name) for volume in volumes) or "none"
        raise NotThere(f"volume {name!r} is not attached; there are: {known}")
    return found


# -- stats


def stats(cache: PageCache) -> dict[str, Any]:
    """`/v1/stats`."""
    now = cache.clock.now()
    limits = cache.limits
    memory = cache.native.usage()
    total, each = cache._usage()
    volumes = [_volume(volume, CacheStats(**cache._counters(usage, memory)).to_dict(), now) for volume, usage in each]
    return {
        "schema": SCHEMA,
        "pagecache": VERSION,
        "pid": os.getpid(),
        "command": _command(),
        "time": time.time(),
        "uptime": now - cache.began,
        "cache": {
            "name": cache.name,
            "capacity": cache.capacity,
            "page_size": limits.page_size,
            "dirty_background": limits.dirty_background,
            "dirty_limit": limits.dirty_limit,
            "waiting": len(cache.native.waits()),
            "counters": CacheStats(**cache._counters(total, memory)).to_dict(),
        },
        "volumes": volumes,
    }


@once
def _command() -> str:
    return shlex.join(sys.orig_argv)[:COMMAND_MOST]


def _volume(volume: Volume, counters: dict[str, Any], now: float) -> dict[str, Any]:
    engine = volume.engine
    pressure = engine.native.pressure()
    with volume.inodes_lock:
        files = len(volume.inodes.objects) + len(volume.orphans)
        handles = volume.handles
    return {
        "name": volume.name,
        "backend": type(volume.backend).__name__,
        "state": "aborted" if engine.aborted else "detaching" if engine.seals else "attached",
        "reason": str(engine.abort_reason) if engine.aborted and engine.abort_reason is not None else None,
        "files": files,
        "handles": handles,
        "oldest": {"dirty": _oldest_dirty(volume, now), "failed": _age(engine.troubles.failures_since(), now)},
        "queue": {"running": pressure.running + engine.runner.naming(), "waiting": engine.native.waiting()},
        "throttle": {
            "waiting": pressure.throttled,
            "position": pressure.position / 1000,
            "local": pressure.local,
            "limit": pressure.limit,
        },
        "rate": engine.pace.rate,
        "clean_in": _clean_in(counters, engine.pace.rate, engine.aborted),
        "latency": {name: _histogram(volume, call) for name, call in CALLS.items()},
        "errors": [_trouble(trouble, now) for trouble in reversed(engine.troubles.last)],
        "counters": counters,
    }


def _age(at: float | None, now: float) -> float | None:
    return None if at is None else max(0.0, now - at)


def _oldest_dirty(volume: Volume, now: float) -> float | None:
    found = [volume.engine.file_at(id) for id in volume.engine.native.dirty_inodes(OLDEST_AMONG)]
    times = [when for file in found if file is not None and (when := overdue.oldest(file)) is not None]
    return _age(min(times, default=None), now)


def _clean_in(counters: dict[str, Any], rate: float | None, aborted: bool) -> float | None:
    """Return the expected seconds until everything is saved; None: bytes have failed, or nothing is being saved."""
    unsaved = counters["local"] + counters["staged"]
    if not unsaved:
        return 0.0
    return None if aborted or counters["failed"] or not rate else unsaved / rate


def _histogram(volume: Volume, call: int) -> dict[str, Any]:
    counts, total = volume.engine.native.latency(call)
    return {"bounds": LATENCY_BOUNDS, "counts": counts, "count": sum(counts), "sum": total}


def _trouble(trouble: Trouble, now: float) -> dict[str, Any]:
    return {
        "age": _age(trouble.at, now),
        "kind": trouble.kind,
        "key": said(trouble.key),
        "offset": trouble.offset,
        "length": trouble.length,
        "errno": trouble.errno,
        "name": code_name(trouble.errno),
        "message": trouble.message,
        "next": trouble.next,
    }


# -- files


def files(cache: PageCache, volume: str | None, sort: str, limit: int, match: str = "") -> dict[str, Any]:
    """`/v1/files`: the first `limit` files with `match` in their keys, greatest first; by key ascending."""
    now = cache.clock.now()
    found: list[tuple[Volume, Inode]] = []
    for each in volume_named(cache, volume):
        with each.inodes_lock:
            found += [(each, inode) for inode in (*each.inodes.objects.values(), *each.orphans)]
    if match:
        found = [pair for pair in found if _matches(pair[1].key, match.casefold())]
    return {
        "schema": SCHEMA,
        "uptime": now - cache.began,
        "total": len(found),
        "files": [_file(each, inode, now) for each, inode in _first(found, sort, limit)],
    }


def _matches(key: Key, folded: str) -> bool:
    return folded in str(said(key)).casefold()


def _first(found: list[tuple[Volume, Inode]], sort: str, limit: int) -> list[tuple[Volume, Inode]]:
    if sort == "key":
        return heapq.nsmallest(limit, found, key=lambda pair: (str(said(pair[1].key)), pair[0].name))
    if sort == "age":  # the oldest first; clean files have none
        return heapq.nsmallest(limit, found, key=lambda pair: pair[1].native.number("age") or float("inf"))
    if sort == "failed":
        return heapq.nlargest(
            limit, found, key=lambda pair: pair[1].native.number(sort) + overdue.failed_bytes(pair[1].engine)
        )
    return heapq.nlargest(limit, found, key=lambda pair: pair[1].native.number(sort))


def _file(volume: Volume, inode: Inode, now: float) -> dict[str, Any]:
    return {
        "id": inode.native.id,
        "volume": volume.name,
        "key": said(inode.key),
        "size": inode.native.size,
        "stored": inode.native.remote_size,
        "handles": inode.handles,
        "oldest_dirty": _age(overdue.oldest(inode.engine), now),
        "state": _state(inode),
        "counters": volume._file_stats(inode).to_dict(),
    }


def _state(inode: Inode) -> str:
    if inode.engine.conflict is not None:
        return "conflict"
    if inode.engine.removed or inode.engine.abandoned:
        return "removed"
    return "open" if inode.handles else "idle"


# -- waits


def waits(cache: PageCache) -> dict[str, Any]:
    """`/v1/waits`."""
    return {"schema": SCHEMA, "waits": [wait.to_dict() for wait in cache.waits()]}


# -- failed


def failed(cache: PageCache, volume: str | None) -> dict[str, Any]:
    """`/v1/failed`: at most RANGES_MOST of the `total` ranges."""
    found: list[FailedRange] = []
    for each in volume_named(cache, volume):
        if each.engine.aborted or each._usage()["failed"]:
            found += each.failed()
    return {"schema": SCHEMA, "total": len(found), "failed": said_ranges(found[:RANGES_MOST])}


def said_range(failed: FailedRange) -> dict[str, Any]:
    return {
        "volume": failed.volume,
        "key": said(failed.key),
        "offset": failed.offset,
        "length": failed.length,
        "errno": failed.errno,
        "name": code_name(failed.errno),
        "attempts": failed.attempts,
        "next_retry": failed.next_retry,
        "message": failed.message,
        "since": failed.since,
    }


def said_ranges(ranges: Iterable[FailedRange]) -> list[dict[str, Any]]:
    return [said_range(each) for each in ranges]
