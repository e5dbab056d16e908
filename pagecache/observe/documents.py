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
from typing import TYPE_CHECKING, Any

from ..distribution import VERSION
from ..engine.commit import overdue
from ..engine.report.trouble import Trouble
from ..errors import FailedRange
from ..native import COMMIT_CALL, LATENCY_BOUNDS, READ_CALL, WRITE_CALL
from ..stats import CacheStats, key_text

if TYPE_CHECKING:
    from ..cache import PageCache
    from ..volume.inode import Inode
    from ..volume.volume import Volume

SCHEMA = 1
SORTS = ("dirty", "cached", "failed", "unstable", "age", "hits", "key")
LIMIT, LIMIT_MOST = 200, 1000
RANGES_MOST = 10_000
OLDEST_AMONG = 1000
"""Number of dirty files, in the order in which they became dirty, that are searched for the oldest byte."""
COMMAND_MOST = 200
CALLS = {"read": READ_CALL, "write": WRITE_CALL, "commit": COMMIT_CALL}


class Refused(Exception):
    """A request without a document, by a status of HTTP; the message is one sentence for the client."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def volumes_named(cache: PageCache, name: str | None) -> list[Volume]:
    """Return the volume of that name; None: all of them.

    Raises:
        Refused: There is none.
    """
    volumes = cache.volumes()
    found = [volume for volume in volumes if name is None or volume.name == name]
    if not found and name is not None:
        known = ", ".join(repr(volume.name) for volume in volumes) or "none"
        raise Refused(404, f"volume {name!r} is not attached; there are: {known}")
    return found


def _failure(failure: Trouble | FailedRange) -> dict[str, Any]:
    return {
        "key": key_text(failure.key),
        "offset": failure.offset,
        "length": failure.length,
        "errno": failure.errno,
        "name": None if failure.errno is None else errno.errorcode.get(failure.errno),
        "message": failure.message,
    }


# -- stats


def stats(cache: PageCache) -> dict[str, Any]:
    """`/v1/stats`."""
    now = cache.clock.now()
    limits = cache.limits
    memory = cache.native.usage()
    total, each = cache._usage()

    def counters(usage: dict[str, int]) -> dict[str, Any]:
        return CacheStats(**cache._counters(usage, memory)).to_dict()

    return {
        "schema": SCHEMA,
        "pagecache": VERSION,
        "pid": os.getpid(),
        "command": shlex.join(sys.orig_argv)[:COMMAND_MOST],
        "time": time.time(),
        "uptime": now - cache.began,
        "cache": {
            "name": cache.name,
            "capacity": cache.capacity,
            "page_size": limits.page_size,
            "dirty_background": limits.dirty_background,
            "dirty_limit": limits.dirty_limit,
            "waiting": len(cache.native.waits()),
            "counters": counters(total),
        },
        "volumes": [_volume(volume, counters(usage), now) for volume, usage in each],
    }


def recovered(volumes: list[Volume]) -> dict[str, int]:
    """Count what only the disk tier has and nothing saves."""
    kept = [file for volume in volumes if volume.recovery is not None for file in volume.recovery.kept()]
    return {"files": len(kept), "bytes": sum(length for file in kept for _, length in file.ranges)}


def _volume(volume: Volume, counters: dict[str, Any], now: float) -> dict[str, Any]:
    engine = volume.engine
    pressure = engine.native.pressure()
    with volume.inodes_lock:
        files = len(volume.inodes.objects) + len(volume.orphans)
        handles = volume.handles
    left = recovered([volume])
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
        "clean_in": None if left["files"] else _clean_in(volume, counters),
        "recovered": left,
        "latency": {
            name: {"bounds": LATENCY_BOUNDS, "counts": counts, "count": sum(counts), "sum": total}
            for name, call in CALLS.items()
            for counts, total in [engine.native.latency(call)]
        },
        "errors": [
            {"age": _age(trouble.at, now), "kind": trouble.kind, **_failure(trouble), "next": trouble.next}
            for trouble in reversed(engine.troubles.last)
        ],
        "counters": counters,
    }


def _age(at: float | None, now: float) -> float | None:
    return None if at is None else max(0.0, now - at)


def _oldest_dirty(volume: Volume, now: float) -> float | None:
    found = [volume.engine.file(id) for id in volume.engine.native.dirty_inodes(OLDEST_AMONG)]
    times = [when for file in found if file is not None and (when := overdue.oldest(file)) is not None]
    return _age(min(times, default=None), now)


def _clean_in(volume: Volume, counters: dict[str, Any]) -> float | None:
    """Return the expected seconds until everything is saved; None: bytes have failed, nothing is being saved, or it is
    no bytes: a creation, a size, direct writes.
    """
    engine = volume.engine
    unsaved = counters["local"] + counters["staged"]
    if not unsaved:
        return None if engine.native.dirty_inodes(1) else 0.0
    rate = None if engine.aborted or counters["failed"] else engine.pace.rate
    return unsaved / rate if rate else None


# -- files


def files(cache: PageCache, volume: str | None, sort: str, limit: int, match: str = "") -> dict[str, Any]:
    """`/v1/files`: the first `limit` files with `match` in their keys, greatest first; by key ascending."""
    now = cache.clock.now()
    found: list[tuple[Volume, Inode]] = []
    for each in volumes_named(cache, volume):
        with each.inodes_lock:
            found += [(each, inode) for inode in (*each.inodes.objects.values(), *each.orphans)]
    if match:
        found = [pair for pair in found if match.casefold() in str(key_text(pair[1].key)).casefold()]
    return {
        "schema": SCHEMA,
        "uptime": now - cache.began,
        "total": len(found),
        "files": [_file(each, inode, now) for each, inode in _first(found, sort, limit)],
    }


def _first(found: list[tuple[Volume, Inode]], sort: str, limit: int) -> list[tuple[Volume, Inode]]:
    def rank(pair: tuple[Volume, Inode]) -> float:
        number = pair[1].number(sort)
        if sort == "age":  # the oldest first; clean files have none
            return -(number or float("inf"))
        return number + overdue.failed_bytes(pair[1]) if sort == "failed" else number

    if sort == "key":
        return heapq.nsmallest(limit, found, key=lambda pair: (str(key_text(pair[1].key)), pair[0].name))
    return heapq.nlargest(limit, found, key=rank)


def _file(volume: Volume, inode: Inode, now: float) -> dict[str, Any]:
    return {
        "id": inode.id,
        "volume": volume.name,
        "key": key_text(inode.key),
        "size": inode.size,
        "stored": inode.remote_size,
        "handles": inode.handles,
        "oldest_dirty": _age(overdue.oldest(inode), now),
        "state": _state(inode),
        "counters": volume._file_stats(inode).to_dict(),
    }


def _state(inode: Inode) -> str:
    if inode.conflict is not None:
        return "conflict"
    if inode.removed or inode.abandoned:
        return "removed"
    return "open" if inode.handles else "idle"


# -- waits and failures


def waits(cache: PageCache) -> dict[str, Any]:
    """`/v1/waits`."""
    return {"schema": SCHEMA, "waits": [wait.to_dict() for wait in cache.waits()]}


def failed(cache: PageCache, volume: str | None) -> dict[str, Any]:
    """`/v1/failed`: at most RANGES_MOST of the `total` ranges."""
    found: list[FailedRange] = []
    for each in volumes_named(cache, volume):
        if each.engine.aborted or each._usage()["failed"]:
            found += each.failed()
    return {"schema": SCHEMA, "total": len(found), "failed": ranges(found[:RANGES_MOST])}


def ranges(failed: list[FailedRange]) -> list[dict[str, Any]]:
    """Return failed ranges as entries of documents."""
    return [
        _failure(each)
        | {"volume": each.volume, "attempts": each.attempts, "next_retry": each.next_retry, "since": each.since}
        for each in failed
    ]
