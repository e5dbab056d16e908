"""Prometheus text, its equivalent for programs that export metrics already, and the pages about all numbers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from pagecache import PageCache
from pagecache.metrics import Collector
from pagecache.native import READ_CALL
from pagecache.native.extension import lib
from pagecache.observe import documents, metrics
from pagecache.observe.counters import COUNTERS
from pagecache.observe.server import ROUTES

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


# -- the pages and the dashboard

DOCS = Path(__file__).parents[2] / "docs"
ROW = re.compile(r"^\* `(\w+)` \((level|sum), (\w+)[^)]*\): (.+)$", re.MULTILINE)
METRIC = re.compile(r"\bpagecache_\w+")


@pytest.fixture(scope="module")
def families() -> dict[str, Metric]:
    """The families by their names in the text."""
    with PageCache("1MiB") as cache:
        cache.attach("memory:")
        found = metrics.families(documents.stats(cache))
        return {family.name + ("_total" if family.type == "counter" else ""): family for family in found}


def names_of(families: dict[str, Metric]) -> set[str]:
    """Names as they are written in the text."""
    found = {name for name, family in families.items() if family.type != "histogram"}
    for name in families.keys() - found:
        found |= {f"{name}_bucket", f"{name}_sum", f"{name}_count"}
    return found


def rows() -> dict[str, tuple[str, ...]]:
    found = ROW.findall((DOCS / "counters.md").read_text(encoding="utf-8"))
    assert len(found) == len({row[0] for row in found}), "a counter is explained twice"
    return {name: rest for name, *rest in found}


def test_every_counter_is_explained_as_what_it_is_and_nothing_else() -> None:
    with PageCache("1MiB") as cache:
        volume = cache.attach("memory:")
        with volume.open("f", "w") as f:
            there = {*cache.stats().to_dict(), *volume.stats().to_dict(), *f.stats().to_dict()}
    assert set(rows()) == there == set(COUNTERS)
    for name, (kind, unit, what) in rows().items():
        counter = COUNTERS[name]
        assert kind == ("sum" if counter.grows else "level"), name
        assert unit == (counter.unit or ("nanoseconds" if name.endswith("_ns") else "count")), name
        assert len(what) > 10, name


def metric(name: str, kind: str, unit: str) -> str:
    """The rule of the page for the metric of a counter."""
    unit = "" if unit == "count" or name.endswith(unit) else f"_{unit}"
    return f"pagecache_{name}{unit}{'_total' if kind == 'sum' else ''}"


def test_the_page_names_every_metric_and_no_other(families: dict[str, Metric]) -> None:
    """Those of counters by a rule, others one by one."""
    ruled = {metric(name, kind, unit) for name, (kind, unit, _) in rows().items() if name not in metrics.IN_OTHER_WORDS}
    text = (DOCS / "counters.md").read_text(encoding="utf-8")
    named = set(METRIC.findall(text.partition("## Other families")[2]))
    assert not ruled & named
    assert ruled | named == set(families)
    assert set(METRIC.findall(text)) - {"pagecache_NAME"} <= set(families)


def expressions(node: Any) -> list[str]:
    """The Prometheus queries in a dashboard."""
    if isinstance(node, dict):
        own = [value for key, value in node.items() if key in ("expr", "query") and "pagecache_" in str(value)]
        return own + [e for value in node.values() for e in expressions(value)]
    return [e for value in node for e in expressions(value)] if isinstance(node, list) else []


def test_every_expression_of_the_dashboard_is_right(families: dict[str, Metric]) -> None:
    """It names metrics that exist, rates those that grow and no levels, and uses labels of these metrics."""
    found = expressions(json.loads((DOCS / "grafana.json").read_text(encoding="utf-8")))
    assert len(found) > 20
    for expression in found:
        names = METRIC.findall(expression)
        assert names, expression
        assert set(names) <= names_of(families), expression
        rated = set(re.findall(r"rate\((pagecache_\w+)", expression))
        for name in names:
            grows = name not in families or families[name].type == "counter"
            assert grows == (name in rated), expression
        for name, matchers in re.findall(r"(pagecache_\w+)\{([^}]*)\}", expression):
            base = name if name in families else name.rpartition("_")[0]
            if families[base].samples:
                labels = {label for sample in families[base].samples for label in sample.labels}
                assert set(re.findall(r"(\w+)=~", matchers)) <= labels, expression


def test_the_page_of_the_documents_has_every_path() -> None:
    text = (DOCS / "live.md").read_text(encoding="utf-8")
    for path, route in ROUTES.items():
        assert f"| `{route.methods[0]} {path}" in text
