"""The families of metrics of a cache, made from its `/v1/stats`: for `GET /metrics` and `pagecache.metrics`.

counters.py  ─┐
              ├─► families(stats) ─► text(stats)              GET /metrics, Prometheus text 0.0.4
/v1/stats    ─┘                  └─► pagecache.metrics        the registry of a program
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import HistogramMetricFamily, Metric

from .counters import COUNTERS

STATES = ("attached", "detaching", "aborted")
IN_OTHER_WORDS = {"throttled_ns"}
"""Counters left out because another one has the unit that Prometheus wants."""

Stats = Mapping[str, Any]
Samples = Iterable[tuple[dict[str, str], float | None]]


def text(stats: Stats) -> bytes:
    """Return the Prometheus text, version 0.0.4."""
    return generate_latest(SimpleNamespace(collect=lambda: families(stats)))


def families(stats: Stats) -> Iterator[Metric]:
    """Yield the numbers of `/v1/stats` by family. A family is listed even if it has no sample."""
    one = stats["cache"]
    cache = {"cache": _text(one["name"])}
    volumes = [({**cache, "volume": _text(volume["name"])}, volume) for volume in stats["volumes"]]
    yield _family("info", "The version, as a label.", [({**cache, "version": stats["pagecache"]}, 1)])
    yield _family("uptime_seconds", "Seconds since the cache was made.", [(cache, stats["uptime"])])
    for key, name, help in CACHE:
        yield _family(name, help, [(cache, one[key])])
    yield from _counted([(cache, one)], memory=True)
    states = [({**of, "state": state}, int(one["state"] == state)) for of, one in volumes for state in STATES]
    yield _family("volume_state", "1 for the state that the volume is in.", states)
    queues = [({**of, "class": name}, n) for of, one in volumes for name, n in one["queue"]["waiting"].items()]
    yield _family("queue_waiting", "Pieces of work that no thread has taken yet.", queues)
    for name, help, value in VOLUME:
        yield _family(name, help, [(of, value(volume)) for of, volume in volumes])
    labels = ("cache", "volume", "call")
    latency = HistogramMetricFamily("pagecache_call_seconds", "How long backend calls took that ended.", labels=labels)
    for of, volume in volumes:
        for call, found in volume["latency"].items():
            bounds = (*map(repr, found["bounds"]), "+Inf")
            buckets = list(zip(bounds, itertools.accumulate(found["counts"]), strict=True))
            latency.add_metric((*of.values(), call), buckets, found["sum"])
    yield latency
    yield from _counted(volumes, memory=False)


def _text(name: str) -> str:
    """Return a name as valid Unicode."""
    return name.encode("utf-8", "replace").decode()


def _family(name: str, help: str, samples: Samples, kind: str = "gauge") -> Metric:
    metric = Metric(f"pagecache_{name}".removesuffix("_total"), help, kind)
    for labels, value in samples:
        if value is not None:
            metric.add_sample(f"pagecache_{name}", labels, value)
    return metric


def _counted(holders: list[tuple[dict[str, str], Stats]], *, memory: bool) -> Iterator[Metric]:
    """Yield the counters of the cache's memory, or of its volumes."""
    for key, counter in COUNTERS.items():
        if counter.memory is memory and key not in IN_OTHER_WORDS:
            samples = [(labels, holder["counters"][key]) for labels, holder in holders]
            yield _family(counter.metric(key), counter.help, samples, "counter" if counter.grows else "gauge")


CACHE = (
    ("dirty_background", "dirty_background_bytes", "Local bytes above which the flusher works."),
    ("dirty_limit", "dirty_limit_bytes", "Local bytes at which writers wait."),
    ("waiting", "waiting_threads", "Threads that wait for something in the cache."),
)
DIRTY_AGE = "Age of the oldest byte that is dirty, in a running call or failed; 0 without one."
FAILED_AGE = "Time since the first failed write or commit whose data is not saved; 0 without one."
VOLUME: tuple[tuple[str, str, Callable[[Stats], float | None]], ...] = (
    ("files", "Files that the volume knows.", lambda one: one["files"]),
    ("handles", "Handles that are open.", lambda one: one["handles"]),
    ("oldest_dirty_seconds", DIRTY_AGE, lambda one: one["oldest"]["dirty"] or 0.0),
    ("oldest_failed_seconds", FAILED_AGE, lambda one: one["oldest"]["failed"] or 0.0),
    ("calls_running", "Backend calls at work.", lambda one: one["queue"]["running"]),
    ("throttled_writers", "Writers that are slowed or stopped now.", lambda one: one["throttle"]["waiting"]),
    ("throttle_position", "0 up to the midpoint, 1 at the limit.", lambda one: one["throttle"]["position"]),
    ("volume_limit_bytes", "The volume's part of the dirty limit.", lambda one: one["throttle"]["limit"]),
    ("rate_bytes_per_second", "Bytes that the backend acknowledged per second, lately.", lambda one: one["rate"]),
    ("clean_in_seconds", "Expected seconds until nothing is local; none when unknown.", lambda one: one["clean_in"]),
)
