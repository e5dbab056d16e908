"""The families of metrics of a cache, made from its `/v1/stats`: for `GET /metrics` and `pagecache.metrics`.

counters.py  ─┐
              ├─► families(stats) ─► text(stats)              GET /metrics, Prometheus text 0.0.4
/v1/stats    ─┘                  └─► pagecache.metrics        the registry of a program
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from .counters import COUNTERS, Counter

__all__ = ["CONTENT_TYPE", "families", "text"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
STATES = ("attached", "detaching", "aborted")
CALLS = ("read", "write", "commit")
IN_OTHER_WORDS = {"throttled_ns"}
"""Counters left out because another one has the unit that Prometheus wants."""

Labels = dict[str, str]
Values = list[tuple[Labels, float | None]]


def text(stats: Mapping[str, Any]) -> bytes:
    """Return the Prometheus text, version 0.0.4."""
    return generate_latest(_Collected(stats))


class _Collected(Collector):
    """The families of one document."""

    def __init__(self, stats: Mapping[str, Any]) -> None:
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        return families(self._stats)


def families(stats: Mapping[str, Any]) -> Iterator[Metric]:
    """Yield the numbers of `/v1/stats` by family. A family is listed even if it has no sample."""
    one = stats["cache"]
    cache = {"cache": _text(one["name"])}
    volumes = [({**cache, "volume": _text(volume["name"])}, volume) for volume in stats["volumes"]]
    yield _gauge("info", "The version, as a label.", [({**cache, "version": stats["pagecache"]}, 1)])
    yield _gauge("uptime_seconds", "Seconds since the cache was made.", [(cache, stats["uptime"])])
    for key, name, help in CACHE:
        yield _gauge(name, help, [(cache, one[key])])
    for key, counter in _counters(memory=True):
        yield _counted(key, counter, [(cache, one["counters"])])
    for name, help, values in VOLUME:
        yield _gauge(name, help, [({**of, **more}, v) for of, volume in volumes for more, v in values(volume)])
    latency = Metric("pagecache_call_seconds", "How long backend calls took that ended.", "histogram")
    for of, volume in volumes:
        for call in CALLS:
            _add_histogram(latency, {**of, "call": call}, volume["latency"][call])
    yield latency
    for key, counter in _counters(memory=False):
        yield _counted(key, counter, [(of, volume["counters"]) for of, volume in volumes])


def _text(name: str) -> str:
    """Return a name as valid Unicode."""
    return name.encode("utf-8", "replace").decode()


def _gauge(name: str, help: str, samples: Values) -> Metric:
    metric = Metric(f"pagecache_{name}", help, "gauge")
    for labels, value in samples:
        if value is not None:
            metric.add_sample(metric.name, labels, value)
    return metric


def _counters(*, memory: bool) -> Iterator[tuple[str, Counter]]:
    """Yield the counters of the cache's memory, or of a volume."""
    for key, counter in COUNTERS.items():
        if counter.memory is memory and key not in IN_OTHER_WORDS:
            yield key, counter


def _counted(key: str, counter: Counter, samples: list[tuple[Labels, Mapping[str, float]]]) -> Metric:
    name = counter.metric(key)
    metric = Metric(name.removesuffix("_total"), counter.help, "counter" if counter.grows else "gauge")
    for labels, counters in samples:
        metric.add_sample(name, labels, counters[key])
    return metric


def _add_histogram(metric: Metric, labels: Labels, latency: Mapping[str, Any]) -> None:
    bounds = (*map(repr, latency["bounds"]), "+Inf")
    for bound, count in zip(bounds, itertools.accumulate(latency["counts"]), strict=True):
        metric.add_sample(f"{metric.name}_bucket", {**labels, "le": bound}, count)
    metric.add_sample(f"{metric.name}_sum", labels, latency["sum"])
    metric.add_sample(f"{metric.name}_count", labels, latency["count"])


CACHE = (
    ("dirty_background", "dirty_background_bytes", "Local bytes above which the flusher works."),
    ("dirty_limit", "dirty_limit_bytes", "Local bytes at which writers wait."),
    ("waiting", "waiting_threads", "Threads that wait for something in the cache."),
)


def _one(*path: str) -> Callable[[Mapping[str, Any]], Values]:
    """Return the number at the end of a path of keys."""

    def value(volume: Any) -> Values:
        for key in path:
            volume = volume[key]
        return [({}, volume)]

    return value


def _age(which: str) -> Callable[[Mapping[str, Any]], Values]:
    return lambda volume: [({}, volume["oldest"][which] or 0.0)]


def _states(volume: Mapping[str, Any]) -> Values:
    return [({"state": state}, int(volume["state"] == state)) for state in STATES]


def _queue(volume: Mapping[str, Any]) -> Values:
    return [({"class": name}, waiting) for name, waiting in volume["queue"]["waiting"].items()]


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
