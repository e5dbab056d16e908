"""A collector for programs that have `prometheus_client` already (the extra `metrics`).

It has the families of `GET /metrics` of `PageCache.serve_stats`, which needs no package but the cache.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING

from .distribution import needs
from .observe import documents, metrics

try:
    from prometheus_client.metrics_core import Metric
    from prometheus_client.registry import Collector as _Collector
except ImportError:
    raise ImportError(needs("pagecache.metrics needs prometheus_client", "metrics")) from None

if TYPE_CHECKING:
    from .cache import PageCache

__all__ = ["Collector"]


class Collector(_Collector):
    """The metrics of one cache: `prometheus_client.REGISTRY.register(Collector(cache))`.

    It does not keep the cache alive; a closed cache has no metrics.
    """

    def __init__(self, cache: PageCache) -> None:
        self._cache = weakref.ref(cache)

    def describe(self) -> list[Metric]:
        """Return nothing: two caches have equal families, distinguished by the label `cache`."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield all families with their samples."""
        cache = self._cache()
        if cache is None or cache.closed or cache.native.forked:
            return
        for family in metrics.families(documents.stats(cache)):
            yield _metric(family)


def _metric(family: metrics.Family) -> Metric:
    metric = Metric(family.name.removesuffix("_total"), family.help, family.kind)
    for labels, value in family.samples:
        if isinstance(value, metrics.Histogram):
            for bound, count in value.buckets():
                metric.add_sample(f"{family.name}_bucket", {**dict(labels), "le": bound}, count)
            metric.add_sample(f"{family.name}_sum", dict(labels), value.sum)
            metric.add_sample(f"{family.name}_count", dict(labels), sum(value.counts))
        else:
            metric.add_sample(family.name, dict(labels), value)
    return metric
