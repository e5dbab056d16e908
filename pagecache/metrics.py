"""A collector of the families of `GET /metrics`, for programs that export metrics by `prometheus_client` already."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector as _Collector

from .observe import documents, metrics

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
        if cache is not None and not cache.closed and not cache.native.forked:
            yield from metrics.families(documents.stats(cache))
