"""The documents of several sockets as one: what `pagecache top --json` prints, and what the tables are made from.

    Watch.read() ─► Sample ─┐
    Watch.read() ─► Sample ─┴─► figures(watches) ─► JSON, tables

Two samples of one socket give rates and the hit rate of the time between them; one alone gives the totals. None means
"not known", never 0. If a counter shrank, the process is another one, or a clock went back, the samples do not fit
together, and every rate is None. Texts are unchanged; the code that shows them makes them printable.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pagecache.observe.client import LiveError, ask, not_pagecache

__all__ = ["Question", "Watch", "figures", "read_all"]

TIMEOUT_S = 5.0
LOCAL = ("dirty", "writeback", "unstable")
"""Counters of bytes that may exist only in this cache."""
RATES = {
    "accesses": ("hits", "misses"),
    "reads": ("read_requests",),
    "writes": ("write_requests",),
    "commits": ("commits",),
}
"""The rates, and the counters of each."""

Counters = Mapping[str, float]
Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Question:
    """The files to show: the first `limit` in the order `sort`."""

    sort: str
    limit: int


@dataclass(frozen=True, slots=True)
class Sample:
    """The documents of one socket at one time."""

    stats: Document
    files: Document
    waits: list[Document]


class Watch:
    """One socket. `read` is called by one thread; others read the attributes, which are replaced as a whole.

    Attributes:
        error: The error of the last read, if it failed.
        samples: The last good sample, and the one before.
    """

    def __init__(self, socket: Path, question: Question) -> None:
        self.socket = socket
        self.question = question
        self.error: LiveError | None = None
        self.samples: tuple[Sample | None, Sample | None] = None, None

    def read(self) -> None:
        """Read one sample."""
        try:
            sample = self._sample()
            figures_of(self.socket, sample, None)  # every field that is shown is there
        except LiveError as error:
            self.error = error
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            self.error = not_pagecache(self.socket, error)
        else:
            self.samples, self.error = (sample, self.samples[0]), None

    def read_again(self, interval: float, over: threading.Event) -> None:
        """Read until `over` is set."""
        while not over.is_set():
            self.read()
            over.wait(interval)

    def _sample(self) -> Sample:
        stats = ask(self.socket, "/v1/stats", timeout=TIMEOUT_S)
        files: Document = {"uptime": 0.0, "total": 0, "files": []}
        sort, limit = self.question.sort, self.question.limit
        if limit:
            files = ask(self.socket, "/v1/files", timeout=TIMEOUT_S, sort=sort, limit=limit)
        return Sample(stats, files, ask(self.socket, "/v1/waits", timeout=TIMEOUT_S)["waits"])


def read_all(watches: Sequence[Watch]) -> None:
    """Read all sockets side by side: one that hangs delays the others only by its timeout, and an interrupt not."""
    threads = [threading.Thread(target=watch.read, daemon=True) for watch in watches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def figures(watches: Iterable[Watch], question: Question) -> Document:
    """Return one document for all sockets: names and numbers as the caches report them, and rates."""
    found: Document = {"caches": [], "volumes": [], "files": [], "waits": []}
    for watch in watches:
        (now, before), error = watch.samples, watch.error
        if now is None or error is not None:
            found["caches"].append(_unread(watch.socket, now, error))
            continue
        for name, entries in figures_of(watch.socket, now, before).items():
            found[name] += entries
    found["files"].sort(key=ORDERS[question.sort])
    return found


def _amount(name: str) -> Callable[[Document], Any]:
    return lambda file: -file["counters"][name]


ORDERS: dict[str, Callable[[Document], Any]] = {
    **{name: _amount(name) for name in ("dirty", "cached", "failed", "unstable", "hits")},
    "age": lambda file: -(-1.0 if file["oldest_dirty"] is None else file["oldest_dirty"]),
    "key": lambda file: file["key"],
}
"""The orders of `/v1/files`, to merge files of several sockets."""


def _unread(socket: Path, last: Sample | None, error: LiveError | None) -> Document:
    stats = last.stats if last else {}
    return {
        "socket": str(socket),
        "error": {"kind": error.kind, "message": error.message} if error else None,
        "name": stats["cache"]["name"] if last else socket.name,
        **{key: stats.get(key) for key in ("pid", "command")},
        "uptime": None,
    }


def figures_of(socket: Path, now: Sample, before: Sample | None) -> dict[str, list[Document]]:
    """Return the entries of one socket."""
    stats, seconds = now.stats, _seconds(now, before)
    if before is None or seconds is None:
        before, seconds = None, None
    cache, volumes = stats["cache"], stats["volumes"]
    where = {"socket": str(socket), "cache": cache["name"]}
    old_volumes = {one["name"]: one["counters"] for one in before.stats["volumes"]} if before else {}
    old_files = {one["id"]: one["counters"] for one in before.files["files"]} if before else {}
    ages = [one["oldest"]["dirty"] for one in volumes if one["oldest"]["dirty"] is not None]
    expected = [one["clean_in"] for one in volumes]
    whole = {
        "socket": str(socket),
        "error": None,
        "name": cache["name"],
        **{key: stats[key] for key in ("pid", "command", "uptime")},
        **{key: cache[key] for key in ("capacity", "waiting")},
        "oldest_dirty": max(ages, default=None),
        "clean_in": None if None in expected else max(expected, default=0.0),
        "total_files": now.files["total"],
        **_traffic(cache["counters"], before.stats["cache"]["counters"] if before else None, seconds),
    }
    return {
        "caches": [whole],
        "volumes": [
            {
                **where,
                **{key: one[key] for key in ("name", "backend", "state", "reason", "files", "handles")},
                "oldest_dirty": one["oldest"]["dirty"],
                "oldest_failed": one["oldest"]["failed"],
                **{key: one[key] for key in ("clean_in", "rate", "queue", "errors")},
                "throttled": one["throttle"]["waiting"],
                **_traffic(one["counters"], old_volumes.get(one["name"]), seconds),
            }
            for one in volumes
        ],
        "files": [
            {
                **where,
                **{key: one[key] for key in ("volume", "id", "key", "size", "stored", "state", "handles")},
                "oldest_dirty": one["oldest_dirty"],
                **_traffic(one["counters"], old_files.get(one["id"]), seconds),
            }
            for one in now.files["files"]
        ],
        "waits": [
            {"socket": str(socket), **{key: one[key] for key in ("seconds", "name", "what", "volume", "key", "owner")}}
            for one in now.waits
        ],
    }


def _seconds(now: Sample, before: Sample | None) -> float | None:
    """Return the seconds between two samples of one cache, by its clock."""
    if before is None:
        return None
    (pid, name), (old_pid, old_name) = ((one.stats["pid"], one.stats["cache"]["name"]) for one in (now, before))
    seconds: float = now.stats["uptime"] - before.stats["uptime"]
    return seconds if seconds > 0 and (pid, name) == (old_pid, old_name) else None


def _traffic(now: Counters, before: Counters | None, seconds: float | None) -> Document:
    """Return the figures that a cache, a volume and a file have in common."""

    def per_second(*names: str) -> float | None:
        if before is None or seconds is None:
            return None
        grown = sum(now[name] - before[name] for name in names)
        return grown / seconds if grown >= 0 else None

    return {
        "local": sum(now[name] for name in LOCAL),
        "hit_rate": None if before is None else _hit_rate(now, before),
        "total_hit_rate": _hit_rate(now, {}),
        "per_second": {name: per_second(*counters) for name, counters in RATES.items()},
        "counters": now,
    }


def _hit_rate(now: Counters, before: Counters) -> float | None:
    hits, misses = (now[name] - before.get(name, 0) for name in ("hits", "misses"))
    return hits / (hits + misses) if hits >= 0 and misses >= 0 and hits + misses else None
