"""The documents of several sockets as one: what `pagecache top --json` prints, and what the tables are made from.

Two reads of one socket give rates and the hit rate of the time between them; one alone gives the totals. None means
"not known", never 0. If a counter shrank, the process is another one, or a clock went back, the reads do not fit
together, and every rate is None. Texts are unchanged; the code that shows them makes them printable.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pagecache.observe.client import LiveError, ask, live_error

TIMEOUT_S = 5.0
RATES = {
    "accesses": ("hits", "misses"),
    "reads": ("read_requests",),
    "writes": ("write_requests",),
    "commits": ("commits",),
}
"""The rates, and the counters of each."""

Counters = Mapping[str, float]
Document = dict[str, Any]


class Question(NamedTuple):
    """The files to show: the first `limit` in the order `sort`."""

    sort: str
    limit: int


class Watch:
    """One socket.

    Attributes:
        entries: Those of the last good read, by the list that they belong to; empty before it.
        error: The error of the last read, if it failed.
    """

    def __init__(self, socket: Path, question: Question) -> None:
        self.socket, self._question = socket, question
        self.entries: dict[str, list[Document]] = {}
        self.error: LiveError | None = None
        self._before: Document | None = None

    def read(self) -> None:
        """Read all documents."""
        try:
            stats = ask(self.socket, "/v1/stats", timeout=TIMEOUT_S)
            files: Document = {"total": 0, "files": []}
            if self._question.limit:
                files = ask(self.socket, "/v1/files", timeout=TIMEOUT_S, **self._question._asdict())
            now = {**stats, **files, **ask(self.socket, "/v1/waits", timeout=TIMEOUT_S), "uptime": stats["uptime"]}
            entries = entries_of(self.socket, now, self._before)
        except LiveError as error:
            self.error = error
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            self.error = live_error(self.socket, error)
        else:
            self.entries, self._before, self.error = entries, now, None


def read_all(watches: Sequence[Watch]) -> None:
    """Read all sockets side by side: one that hangs delays the others only by its timeout, and an interrupt not."""
    threads = [threading.Thread(target=watch.read, daemon=True) for watch in watches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def figures(watches: Iterable[Watch], question: Question) -> Document:
    """Return one document for all sockets, which were read: names and numbers as the caches report them, and rates."""
    found: Document = {"caches": [], "volumes": [], "files": [], "waits": []}
    for watch in watches:
        if watch.error is not None:
            found["caches"].append(_unread(watch, watch.error))
            continue
        for name, entries in watch.entries.items():
            found[name] += entries
    found["files"].sort(key=lambda file: _rank(file, question.sort))
    return found


def _rank(file: Document, sort: str) -> Any:
    """Return the key that sorts files of several sockets as `/v1/files` does."""
    if sort == "key":
        return file["key"]
    amount = file["oldest_dirty"] if sort == "age" else file["counters"][sort]
    return 1.0 if amount is None else -amount


def _unread(watch: Watch, error: LiveError) -> Document:
    (last,) = watch.entries.get("caches", [{"name": watch.socket.name}])
    return {
        "socket": str(watch.socket),
        "error": {"kind": error.kind, "message": error.message},
        **{key: last.get(key) for key in ("name", "pid", "command")},
        "uptime": None,
    }


def entries_of(socket: Path, now: Document, before: Document | None) -> dict[str, list[Document]]:
    """Return the entries of one socket, from its documents in one dictionary, and those of the read before."""
    cache, volumes = now["cache"], now["volumes"]
    seconds = _seconds(now, before) if before else None
    if before is None or seconds is None:
        before = {"cache": {"counters": None}, "volumes": [], "files": []}
    old_volumes = {one["name"]: one["counters"] for one in before["volumes"]}
    old_files = {one["id"]: one["counters"] for one in before["files"]}
    where = {"socket": str(socket), "cache": cache["name"]}
    ages = [one["oldest"]["dirty"] for one in volumes if one["oldest"]["dirty"] is not None]
    expected = [one["clean_in"] for one in volumes]
    whole = {
        "socket": str(socket),
        "error": None,
        "name": cache["name"],
        **{key: now[key] for key in ("pid", "command", "uptime")},
        **{key: cache[key] for key in ("capacity", "waiting")},
        "oldest_dirty": max(ages, default=None),
        "clean_in": None if None in expected else max(expected, default=0.0),
        "recovered": sum(one.get("recovered", {"files": 0})["files"] for one in volumes),
        "total_files": now["total"],
        **_traffic(cache["counters"], before["cache"]["counters"], seconds),
    }
    return {
        "caches": [whole],
        "volumes": [
            {
                **where,
                **one,
                "oldest_dirty": one["oldest"]["dirty"],
                "oldest_failed": one["oldest"]["failed"],
                "throttled": one["throttle"]["waiting"],
                **_traffic(one["counters"], old_volumes.get(one["name"]), seconds),
            }
            for one in volumes
        ],
        "files": [
            {**where, **one, **_traffic(one["counters"], old_files.get(one["id"]), seconds)} for one in now["files"]
        ],
        "waits": [{"socket": str(socket), **one} for one in now["waits"]],
    }


def _seconds(now: Document, before: Document) -> float | None:
    """Return the seconds between two reads of one cache, by its clock."""
    seconds: float = now["uptime"] - before["uptime"]
    is_same = (now["pid"], now["cache"]["name"]) == (before["pid"], before["cache"]["name"])
    return seconds if seconds > 0 and is_same else None


def _traffic(now: Counters, before: Counters | None, seconds: float | None) -> Document:
    """Return the figures that a cache, a volume and a file have in common."""

    def per_second(*names: str) -> float | None:
        if before is None or seconds is None:
            return None
        grown = sum(now[name] - before[name] for name in names)
        return grown / seconds if grown >= 0 else None

    return {
        "local": now["local"],
        "hit_rate": None if before is None else _hit_rate(now, before),
        "total_hit_rate": _hit_rate(now, {}),
        "per_second": {name: per_second(*counters) for name, counters in RATES.items()},
        "counters": now,
    }


def _hit_rate(now: Counters, before: Counters) -> float | None:
    hits, misses = (now[name] - before.get(name, 0) for name in ("hits", "misses"))
    return hits / (hits + misses) if hits >= 0 and misses >= 0 and hits + misses else None
