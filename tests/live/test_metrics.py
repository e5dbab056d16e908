"""Prometheus text, and its equivalent for programs that export metrics already."""

from __future__ import annotations

import subprocess
import sys

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from pagecache import PageCache
from pagecache.metrics import Collector
from pagecache.native import READ_CALL
from pagecache.native.extension import lib
from pagecache.observe import documents, metrics
from pagecache.observe.counters import COUNTERS

from .conftest import Served
from .wire import Connection, get

ODD = 'a "name"\\with\nmore\\n'


def samples(page: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    found: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            key = sample.name, frozenset(sample.labels.items())
            assert key not in found, key
            found[key] = sample.value
    return found


def page_of(cache: PageCache) -> str:
    return metrics.text(documents.stats(cache)).decode()


def test_a_parser_reads_the_page_as_it_was_meant(served: Served) -> None:
    with served.volume.open("f", "w+") as f:
        f.write(b"x" * 10_000)
        f.pread(10, 0)
        f.fsync()
    connection = Connection(served.path)
    _, page, headers = connection.ask("/metrics")
    connection.close()
    assert headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    found = samples(page)
    stats = get(served.path, "/v1/stats")
    cache = frozenset({"cache": stats["cache"]["name"]}.items())
    volume = cache | {("volume", "V")}
    counters = stats["volumes"][0]["counters"]
    for name in ("write_bytes", "commits", "hits", "clean"):
        assert found[f"pagecache_{COUNTERS[name].metric(name)}", volume] == counters[name]
    assert found["pagecache_capacity_bytes", cache] == served.cache.capacity
    assert found["pagecache_volume_state", volume | {("state", "attached")}] == 1
    assert found["pagecache_volume_state", volume | {("state", "aborted")}] == 0


def test_every_family_has_its_help_its_kind_and_a_name_of_its_kind(served: Served) -> None:
    """A value that is not known has no sample. A family is there before the first volume: no expression is an error."""
    families = list(text_string_to_metric_families(page_of(served.cache)))
    for family in families:
        assert family.documentation, family.name
        assert family.type in ("counter", "gauge", "histogram")
        assert bool(family.samples) == (family.name != "pagecache_rate_bytes_per_second")
        if family.type == "counter":
            assert all(sample.name.endswith("_total") for sample in family.samples)
    names = [family.name for family in families]
    assert len(names) == len(set(names))
    served.volume.detach()
    assert [family.name for family in text_string_to_metric_families(page_of(served.cache))] == names


def test_a_histogram_is_cumulative_and_ends_with_all(served: Served) -> None:
    for seconds in (1e-6, 1e-3, 1e-3, 0.5, 1000.0):
        lib.pc_latency_add(served.volume.engine.native._v, READ_CALL, int(seconds * 1e9))
    (family,) = [f for f in text_string_to_metric_families(page_of(served.cache)) if f.name == "pagecache_call_seconds"]
    reads = [s for s in family.samples if s.labels["call"] == "read"]
    buckets = [(float(s.labels["le"]), s.value) for s in reads if s.name.endswith("_bucket")]
    assert buckets == sorted(buckets)
    assert (buckets[0], buckets[-2][1], buckets[-1]) == ((1e-6, 1), 4, (float("inf"), 5))
    assert {value for _, value in buckets} == {1, 3, 4, 5}
    assert [s.value for s in reads if not s.name.endswith("_bucket")] == [5, pytest.approx(1000.502001)]


def test_odd_names_survive(served: Served) -> None:
    """A name that is no text does not break the page."""
    for name in (ODD, "lone \udc80 half"):
        served.cache.attach("memory:", name=name)
    names = {dict(labels).get("volume") for _, labels in samples(get(served.path, "/metrics"))}
    assert names == {None, "V", ODD, "lone ? half"}
    assert get(served.path, "/v1/stats")["volumes"][2]["name"] == "lone \udc80 half"


def test_two_caches_can_be_collected_side_by_side() -> None:
    """The collector has the families of the page."""
    registry = CollectorRegistry()
    with PageCache("1MiB") as one, PageCache("1MiB") as other:
        registry.register(Collector(one))
        registry.register(Collector(other))
        found = samples(generate_latest(registry).decode())
        assert {key for key in found if ("cache", one.name) in key[1]} == samples(page_of(one)).keys()
        assert {dict(labels)["cache"] for _, labels in found} == {one.name, other.name}
    assert generate_latest(registry) == b""


LAZY = """
import sys
import pagecache
heavy = ("pagecache.observe.", "pagecache.metrics", "http", "prometheus")
print([name for name in sys.modules if name.startswith(heavy)])
with pagecache.PageCache("1MiB") as cache:
    cache.serve_stats(sys.argv[1])
    print("prometheus_client" in sys.modules)
"""


def test_only_a_cache_that_is_served_loads_the_server_and_only_metrics_their_library(served: Served) -> None:
    ran = subprocess.run([sys.executable, "-c", LAZY, served.folder / "t"], capture_output=True, text=True, timeout=60)
    assert ran.stdout == "[]\nFalse\n", ran.stderr
