"""Prometheus text, and its equivalent for programs with prometheus_client."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from pagecache import PageCache
from pagecache.metrics import Collector
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
    return metrics.text(metrics.families(documents.stats(cache)))


def named(found: Iterable[tuple[str, Any]]) -> set[str]:
    return {name for name, _ in found}


def test_a_parser_reads_the_page_as_it_was_meant(served: Served) -> None:
    with served.volume.open("f", "w+") as f:
        f.write(b"x" * 10_000)
        f.pread(10, 0)
        f.fsync()
    connection = Connection(served.path)
    connection.request("GET", "/metrics")
    response = connection.getresponse()
    assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    found = samples(response.read().decode())
    connection.close()
    stats = get(served.path, "/v1/stats")
    volume = frozenset({"cache": stats["cache"]["name"], "volume": "V"}.items())
    cache = frozenset({"cache": stats["cache"]["name"]}.items())
    counters = stats["volumes"][0]["counters"]
    for name in ("write_bytes", "commits", "hits", "clean"):
        assert found[COUNTERS[name].metric(name), volume] == counters[name]
    assert found["pagecache_capacity_bytes", cache] == served.cache.capacity
    assert found["pagecache_volume_state", volume | {("state", "attached")}] == 1
    assert found["pagecache_volume_state", volume | {("state", "aborted")}] == 0


def test_every_family_has_its_help_its_kind_and_a_name_of_its_kind(served: Served) -> None:
    families = list(text_string_to_metric_families(page_of(served.cache)))
    for family in families:
        assert family.documentation, family.name
        assert family.type in ("counter", "gauge", "histogram")
        assert family.samples or family.name in ("pagecache_rate_bytes_per_second", "pagecache_clean_in_seconds")
        if family.type == "counter":
            assert all(sample.name.endswith("_total") for sample in family.samples)
    names = [family.name for family in families]
    assert len(names) == len(set(names))


def test_families_are_there_before_the_first_volume() -> None:
    """An expression over them is therefore no error, only empty."""
    with PageCache("1MiB") as cache:
        empty = metrics.families(documents.stats(cache))
        cache.attach("memory:")
        assert [f.name for f in metrics.families(documents.stats(cache))] == [f.name for f in empty]


def test_a_histogram_is_cumulative_and_ends_with_all(served: Served) -> None:
    for seconds in (1e-6, 1e-3, 1e-3, 0.5, 1000.0):
        served.volume.engine.native.count_call(0, seconds)
    (family,) = [f for f in text_string_to_metric_families(page_of(served.cache)) if f.name == "pagecache_call_seconds"]
    reads = [s for s in family.samples if s.labels["call"] == "read"]
    buckets = [(float(s.labels["le"]), s.value) for s in reads if s.name.endswith("_bucket")]
    assert buckets == sorted(buckets)
    assert buckets[0] == (1e-6, 1)
    assert buckets[-1] == (float("inf"), 5)
    assert buckets[-2][1] == 4
    assert dict.fromkeys(v for _, v in buckets).keys() == {1, 3, 4, 5}
    (total,) = [s.value for s in reads if s.name.endswith("_sum")]
    assert total == pytest.approx(1000.502001)
    (count,) = [s.value for s in reads if s.name.endswith("_count")]
    assert count == 5


def test_odd_names_survive() -> None:
    with PageCache("1MiB") as cache:
        cache.attach("memory:", name=ODD)
        assert ODD in {dict(labels).get("volume") for _, labels in samples(page_of(cache))}


def test_a_name_that_is_no_text_does_not_break_the_page(served: Served) -> None:
    served.cache.attach("memory:", name="lone \udc80 half")
    page = get(served.path, "/metrics")
    assert "lone ? half" in page
    assert get(served.path, "/v1/stats")["volumes"][1]["name"] == "lone \udc80 half"


def test_unknown_values_have_no_sample(served: Served) -> None:
    names = named(samples(page_of(served.cache)))
    assert "pagecache_rate_bytes_per_second" not in names
    assert "pagecache_clean_in_seconds" in names


def test_the_collector_says_the_same(served: Served) -> None:
    registry = CollectorRegistry()
    registry.register(Collector(served.cache))
    theirs, ours = samples(generate_latest(registry).decode()), samples(page_of(served.cache))
    assert theirs.keys() == ours.keys()
    assert {key for key in ours if theirs[key] != ours[key]} <= {key for key in ours if "uptime" in key[0]}


def test_two_caches_can_be_collected_side_by_side() -> None:
    registry = CollectorRegistry()
    with PageCache("1MiB") as one, PageCache("1MiB") as other:
        registry.register(Collector(one))
        registry.register(Collector(other))
        caches = {dict(labels)["cache"] for _, labels in samples(generate_latest(registry).decode())}
        assert caches == {one.name, other.name}
    assert generate_latest(registry) == b""


WITHOUT = """
import sys
sys.modules["prometheus_client"] = None
try:
    import pagecache.metrics
except ImportError as error:
    print(error)
import pagecache
with pagecache.PageCache("1MiB") as cache:
    cache.serve_stats(sys.argv[1])
"""


def test_a_missing_library_is_an_error_with_the_command_to_install_it(tmp_path: Any) -> None:
    """Serving needs no library."""
    ran = subprocess.run([sys.executable, "-c", WITHOUT, tmp_path / "s"], capture_output=True, text=True, timeout=60)
    assert ran.stdout == (
        "pagecache.metrics needs prometheus_client: run pip install '.[metrics]' in a checkout of libpagecache\n"
    )
    assert ran.returncode == 0, ran.stderr


LAZY = """
import sys
import pagecache
heavy = ("pagecache.observe.", "pagecache.metrics", "http", "prometheus")
loaded = [name for name in sys.modules if name.startswith(heavy)]
print([name for name in loaded if not name.startswith("pagecache.observe.tracing")])
"""


def test_importing_the_package_imports_nothing_of_this() -> None:
    ran = subprocess.run([sys.executable, "-c", LAZY], capture_output=True, text=True, timeout=60)
    assert ran.stdout == "[]\n"
