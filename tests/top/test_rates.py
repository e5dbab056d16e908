"""Two documents and the rates between them."""

from __future__ import annotations

from typing import Any

import pytest

from pagecache.cli.top.rates import hit_rate, per_second, quantile, seconds_between, since, sparkline
from pagecache.observe.answers import Histogram, Stats, decode

from . import documents


def stats(tick: float, **of: Any) -> Stats:
    return decode(Stats, documents.busy(tick, **of))


def test_time_between_documents_is_that_of_the_cache() -> None:
    assert seconds_between(stats(1.0), stats(3.5)) == 2.5


def test_documents_of_different_caches_have_no_time_between() -> None:
    assert seconds_between(None, stats(1.0)) is None
    assert seconds_between(stats(1.0, pid=1), stats(2.0, pid=2)) is None
    assert seconds_between(stats(1.0, name="a"), stats(2.0, name="b")) is None
    assert seconds_between(stats(2.0), stats(1.0)) is None
    assert seconds_between(stats(2.0), stats(2.0)) is None


def test_rates_are_growth_by_time() -> None:
    before, now = {"hits": 100.0, "misses": 10.0}, {"hits": 160.0, "misses": 30.0}
    assert per_second(before, now, 2.0, "hits") == 30.0
    assert per_second(before, now, 2.0, "hits", "misses") == 40.0
    assert per_second({}, {"hits": 5}, 1.0, "hits") == 5.0


def test_a_counter_that_shrank_has_no_rate() -> None:
    """A file that was evicted and read again counts from 0: a rate below 0, or a guess, would both be wrong."""
    assert per_second({"hits": 100}, {"hits": 10}, 1.0, "hits") is None
    assert per_second(None, {"hits": 10}, 1.0, "hits") is None
    assert per_second({"hits": 1}, {"hits": 10}, None, "hits") is None
    assert hit_rate({"hits": 1, "misses": 0}, {"hits": 100, "misses": 0}) is None


def test_hit_rate_of_the_interval_and_in_total() -> None:
    before, now = {"hits": 90, "misses": 10}, {"hits": 100, "misses": 30}
    assert hit_rate(now, before) == pytest.approx(1 / 3)
    assert hit_rate(now) == pytest.approx(100 / 130)
    assert hit_rate(now, now) is None
    assert hit_rate({}) is None


BOUNDS = (1.0, 2.0, 4.0)


def test_a_histogram_since_another() -> None:
    before, now = Histogram(BOUNDS, (1, 2, 0, 0), 3, 4.0), Histogram(BOUNDS, (1, 5, 0, 2), 8, 30.0)
    assert since(before, now) == Histogram(BOUNDS, (0, 3, 0, 2), 5, 26.0)
    assert since(None, now) == now
    assert since(Histogram((9.0,), (1, 1), 2, 2.0), now) == now
    assert since(now, before) == before  # it shrank: another volume with that name


def test_quantiles_lie_between_bounds() -> None:
    histogram = Histogram(BOUNDS, (0, 4, 4, 2), 10, 20.0)
    assert quantile(histogram, 0.4) == 2.0
    assert quantile(histogram, 0.2) == 1.5
    assert quantile(histogram, 0.6) == 3.0
    assert quantile(histogram, 0.99) == 4.0  # the last bound: slower ones have no upper limit
    assert quantile(histogram, 0.0) == 1.0
    assert quantile(Histogram(BOUNDS, (0, 0, 0, 0), 0, 0.0), 0.5) is None
    assert quantile(Histogram(), 0.5) is None
    assert quantile(Histogram(BOUNDS, (2,), 2, 0.0), 0.5) == 0.5  # fewer counts than bounds


def test_a_sparkline_covers_all_bounds_and_shows_a_single_call() -> None:
    histogram = Histogram(BOUNDS, (1, 0, 100, 50), 151, 0.0)
    assert sparkline(histogram, 4) == "▁·█▄"
    assert sparkline(histogram, 2) == "▁█"
    assert sparkline(Histogram(), 3) == "···"
    assert len(sparkline(histogram, 12)) == 12
