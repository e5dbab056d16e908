"""The families of metrics of a cache, made from its `/v1/stats`, and as Prometheus text 0.0.4.

counters.py  ─┐
              ├─► families(stats) ─► text(families)           GET /metrics
/v1/stats    ─┘                  └─► pagecache.metrics        prometheus_client
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, lru_cache
from typing import Any, Literal, NamedTuple

from .counters import COUNTERS

__all__ = ["CONTENT_TYPE", "Family", "Histogram", "families", "text"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
STATES = ("attached", "detaching", "aborted")
CALLS = ("read", "write", "commit")
IN_OTHER_WORDS = {"throttled_ns"}
"""Counters left out because another one has the unit that Prometheus wants."""

Labels = tuple[tuple[str, str], ...]
Values = list[tuple[Labels, float | None]]
Kind = Literal["counter", "gauge", "histogram"]


class Histogram(NamedTuple):
    """Calls by their duration: `counts[k]` of at most `bounds[k]` seconds and more than the bound before."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    sum: float

    def buckets(self) -> list[tuple[str, int]]:
        """(upper bound, calls up to it)."""
        return list(zip(_bounds(self.bounds), itertools.accumulate(self.counts), strict=True))


@cache
def _bounds(bounds: tuple[float, ...]) -> tuple[str, ...]:
    return tuple(map(number, (*bounds, math.inf)))


class Family(NamedTuple):
    """One metric with all its samples."""

    name: str
    kind: Kind
    help: str
    samples: Sequence[tuple[Labels, float | Histogram]]


def families(stats: Mapping[str, Any]) -> list[Family]:
    """Return the numbers of `/v1/stats` by family. A family is listed even if it has no sample."""
    one = stats["cache"]
    labels: Labels = (("cache", one["name"]),)
    volumes = [((*labels, ("volume", volume["name"])), volume) for volume in stats["volumes"]]
    found = [
        Family(
            "pagecache_info", "gauge", "The version, as a label.", [((*labels, ("version", stats["pagecache"])), 1)]
        ),
        Family("pagecache_uptime_seconds", "gauge", "Seconds since the cache was made.", [(labels, stats["uptime"])]),
    ]
    found += [Family(name, "gauge", help, [(labels, one[key])]) for key, name, help in CACHE]
    found += [Family(name, kind, help, [(labels, one["counters"][key])]) for key, name, kind, help in MEMORY]
    for name, help, values in VOLUME:
        samples = [(of + more, value) for of, volume in volumes for more, value in values(volume) if value is not None]
        found.append(Family(f"pagecache_{name}", "gauge", help, samples))
    latencies = [((*of, ("call", call)), _latency(volume, call)) for of, volume in volumes for call in CALLS]
    found.append(Family("pagecache_call_seconds", "histogram", "How long backend calls took that ended.", latencies))
    for key, name, kind, help in OWN:
        found.append(Family(name, kind, help, [(of, volume["counters"][key]) for of, volume in volumes]))
    return found


def _table(*, memory: bool) -> list[tuple[str, str, Kind, str]]:
    """Yield (counter, metric, kind, help) of the cache's memory, or of a volume."""
    return [
        (name, counter.metric(name), "counter" if counter.grows else "gauge", counter.help)
        for name, counter in COUNTERS.items()
        if counter.memory is memory and name not in IN_OTHER_WORDS
    ]


MEMORY, OWN = _table(memory=True), _table(memory=False)
CACHE = (
    ("dirty_background", "pagecache_dirty_background_bytes", "Local bytes above which the flusher works."),
    ("dirty_limit", "pagecache_dirty_limit_bytes", "Local bytes at which writers wait."),
    ("waiting", "pagecache_waiting_threads", "Threads that wait for something in the cache."),
)


def _latency(volume: Mapping[str, Any], call: str) -> Histogram:
    latency = volume["latency"][call]
    return Histogram(tuple(latency["bounds"]), tuple(latency["counts"]), latency["sum"])


def _one(*path: str) -> Callable[[Mapping[str, Any]], Values]:
    """Return the number at the end of a path of keys."""

    def value(volume: Any) -> Values:
        for key in path:
            volume = volume[key]
        return [((), volume)]

    return value


def _age(which: str) -> Callable[[Mapping[str, Any]], Values]:
    return lambda volume: [((), volume["oldest"][which] or 0.0)]


def _states(volume: Mapping[str, Any]) -> Values:
    return [((("state", state),), int(volume["state"] == state)) for state in STATES]


def _queue(volume: Mapping[str, Any]) -> Values:
    return [((("class", name),), waiting) for name, waiting in volume["queue"]["waiting"].items()]


VOLUME = (
    ("volume_state", "1 for the state that the volume is in.", _states),
    ("files", "Files that the volume knows.", _one("files")),
    ("handles", "Handles that are open.", _one("handles")),
    (
        "oldest_dirty_seconds",
        "Age of the oldest byte that is dirty, in a running call or failed; 0 without one.",
        _age("dirty"),
    ),
    (
        "oldest_failed_seconds",
        "Time since the first failed write or commit whose data is not saved; 0 without one.",
        _age("failed"),
    ),
    ("calls_running", "Backend calls at work.", _one("queue", "running")),
    ("queue_waiting", "Pieces of work that no thread has taken yet.", _queue),
    ("throttled_writers", "Writers that are slowed or stopped now.", _one("throttle", "waiting")),
    ("throttle_position", "0 up to the midpoint, 1 at the limit.", _one("throttle", "position")),
    ("volume_limit_bytes", "The volume's part of the dirty limit.", _one("throttle", "limit")),
    ("rate_bytes_per_second", "Bytes that the backend acknowledged per second, lately.", _one("rate")),
    ("clean_in_seconds", "Expected seconds until nothing is local; none when unknown.", _one("clean_in")),
)


def text(families: Iterable[Family]) -> str:
    """Return the Prometheus text, version 0.0.4."""
    lines: list[str] = []
    for family in families:
        lines.append(_head(family.name, family.kind, family.help))
        for labels, value in family.samples:
            if isinstance(value, Histogram):
                lines += _histogram(family.name, labels, value)
            else:
                lines.append(f"{family.name}{{{_said(labels)}}} {number(value)}")
    return "\n".join(lines) + "\n"


def _histogram(name: str, labels: Labels, histogram: Histogram) -> Iterator[str]:
    of = _said(labels)
    for bound, count in histogram.buckets():
        yield f'{name}_bucket{{{of},le="{bound}"}} {count}'
    yield f"{name}_sum{{{of}}} {number(histogram.sum)}"
    yield f"{name}_count{{{of}}} {sum(histogram.counts)}"


@cache
def _head(name: str, kind: Kind, help: str) -> str:
    return f"# HELP {name} {_escaped(help)}\n# TYPE {name} {kind}"


def number(value: float) -> str:
    """Format a number for Prometheus."""
    if isinstance(value, float):
        return "+Inf" if value == math.inf else repr(value)
    return str(int(value))


@lru_cache(maxsize=4096)
def _said(labels: Labels) -> str:
    return ",".join(f'{name}="{_escaped(value, quote=True)}"' for name, value in labels)


def _escaped(value: str, *, quote: bool = False) -> str:
    escaped = value.replace("\\", "\\\\").replace("\n", "\\n")
    return escaped.replace('"', '\\"') if quote else escaped
