"""The statements of the pages and the dashboard about numbers match the existing numbers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.metrics_core import Metric

from pagecache import PageCache
from pagecache.observe import documents, metrics
from pagecache.observe.counters import COUNTERS
from pagecache.observe.server import ROUTES

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


def samples(families: dict[str, Metric]) -> set[str]:
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
        assert set(names) <= samples(families), expression
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
