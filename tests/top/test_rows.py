"""Documents become rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from pagecache.cli.top.columns import file_columns
from pagecache.cli.top.panels import cache_line, single
from pagecache.cli.top.rows import (
    SORTS,
    Sample,
    Watch,
    cache_row,
    file_rows,
    matching,
    merge_files,
    volume_rows,
    waits_of,
)
from pagecache.observe.answers import Files, Stats, Trouble, Waits, decode
from pagecache.observe.client import NotListening

from . import documents

SOCKET = Path("/run/cache.sock")
MIB = 1 << 20


def sample(tick: float, *, sort: str = "dirty", pid: int = 4711) -> Sample:
    return Sample(
        SOCKET,
        stats=decode(Stats, documents.busy(tick, pid=pid)),
        files=decode(Files, documents.files(tick, volume=None, sort=sort, limit=100)),
        waits=decode(Waits, documents.waits()),
    )


def watch(*ticks: float) -> Watch:
    found = Watch(SOCKET)
    for tick in ticks:
        found.take(sample(tick), tick)
    return found


GONE = Sample(SOCKET, error=NotListening(SOCKET, "nobody listens"))


def test_a_parked_failure_is_one_error() -> None:
    """The document has two events of it. Other failures of that file stay."""
    kinds = [("parked", 4096), ("failed", 4096), ("failed", 8192), ("failed", 4096), ("stalled", 4096)]
    errors = [Trouble(age=float(age), kind=kind, key="k", offset=0, length=n) for age, (kind, n) in enumerate(kinds)]
    shown = [(one.kind, one.length) for one in single(errors)]
    assert shown == [("parked", 4096), ("failed", 8192), ("failed", 4096), ("stalled", 4096)]


def test_no_column_of_a_file_has_more_bytes_than_the_file() -> None:
    """Memory is counted in pages: of 98 KiB it has 100."""
    document = documents.files(0.0, volume=None, sort="dirty", limit=1)
    first = document["files"][0]
    first["size"] = 98 << 10
    first["counters"] |= dict.fromkeys(("cached", "dirty", "failed"), 100 << 10)
    found = Watch(SOCKET)
    found.take(Sample(SOCKET, stats=decode(Stats, documents.busy(0.0)), files=decode(Files, document)), 0.0)
    (row,) = file_rows(found)
    cells = {column.name: column.cell(row).plain.strip() for column in file_columns()}
    assert [cells[name] for name in ("size", "cached", "dirty", "failed")] == ["98K"] * 4


def test_one_sample_gives_totals_and_no_rates() -> None:
    row = cache_row(watch(0.0), 0.0)
    assert row.traffic is not None
    assert row.traffic.total_hit_rate == pytest.approx(92_000 / 93_100)
    assert (row.traffic.hit_rate, row.traffic.accesses, row.traffic.writes) == (None, None, None)
    assert (row.oldest, row.clean_in, row.throttled) == (3.25, 2.0, 2)


def test_hits_have_no_figure_before_the_first_read() -> None:
    document = documents.busy()
    document["cache"]["counters"] |= {"hits": 0, "misses": 0}
    fresh = Watch(SOCKET)
    fresh.take(Sample(SOCKET, stats=decode(Stats, document)), 0.0)
    assert "hit" not in cache_line(cache_row(fresh, 0.0)).plain
    assert "hit 98.8% in all" in cache_line(cache_row(watch(0.0), 0.0)).plain


def test_two_samples_give_rates_of_the_time_between() -> None:
    seen = watch(0.0, 2.0)
    row = cache_row(seen, 2.0)
    assert row.traffic is not None
    assert row.traffic.hit_rate == pytest.approx(9_100 / 10_100)
    assert (row.traffic.accesses, row.traffic.writes, row.traffic.commits) == (10_100, 10, 1)
    photos, scratch = volume_rows(seen)
    assert photos.traffic.hit_rate == pytest.approx(0.9)
    assert scratch.traffic.hit_rate == 1.0
    assert photos.traffic.local == 48 * MIB
    first = file_rows(seen)[0]
    assert (first.file.key, first.traffic.accesses) == ("db/main.sqlite", 50)


def test_latency_is_that_of_the_time_between_or_the_last_there_was() -> None:
    photos, scratch = volume_rows(watch(0.0, 2.0))
    assert sum(photos.latency.write.counts) == 20
    assert sum(scratch.latency.read.counts) == 116  # none ended since


def test_a_cache_cannot_say_when_it_is_clean_where_one_volume_cannot() -> None:
    document = documents.busy()
    document["volumes"][0]["clean_in"] = None
    seen = Watch(SOCKET)
    seen.take(Sample(SOCKET, stats=decode(Stats, document)), 0.0)
    assert cache_row(seen, 0.0).clean_in is None
    document["volumes"] = []
    seen.take(Sample(SOCKET, stats=decode(Stats, document)), 0.0)
    assert cache_row(seen, 0.0).clean_in == 0.0


def test_a_socket_that_is_gone_keeps_its_name_and_shows_no_figures() -> None:
    seen = watch(0.0, 2.0)
    seen.take(GONE, 3.0)
    row = cache_row(seen, 7.0)
    assert (row.name, row.status, row.gone, row.traffic) == ("cache-1", "gone", 5.0, None)
    assert volume_rows(seen) == []
    assert file_rows(seen) == []
    assert waits_of(seen) is None


def test_a_socket_that_comes_back_as_another_process_begins_anew() -> None:
    seen = watch(0.0, 2.0)
    seen.take(GONE, 3.0)
    seen.take(sample(4.0, pid=99), 4.0)
    row = cache_row(seen, 4.0)
    assert row.gone is None
    assert row.traffic is not None
    assert row.traffic.hit_rate is None
    assert file_rows(seen)[0].traffic.accesses is None


def test_rates_are_of_a_quarter_of_a_second_at_least() -> None:
    """Keys may refresh at any time: two refreshes in a moment would make rates of nothing."""
    seen = watch(0.0, 2.0, 2.01)
    assert seen.between() == pytest.approx(2.01)
    for step in range(1, 40):
        seen.take(sample(2.0 + step / 10), 0.0)
        assert 0.25 <= (seen.between() or 0.0) < 0.36 or step < 4
    assert watch(0.0, 0.1).between() is None
    assert watch(2.0, 2.0).between() is None


def test_a_look_that_failed_between_does_not_spoil_the_rates() -> None:
    seen = watch(0.0)
    seen.take(GONE, 1.0)
    seen.take(sample(4.0), 4.0)
    row = cache_row(seen, 4.0)
    assert row.traffic is not None
    assert row.traffic.accesses == 10_100


def test_a_socket_that_never_answered_says_why() -> None:
    seen = Watch(SOCKET)
    assert (cache_row(seen, 5.0).status, cache_row(seen, 5.0).gone) == ("connecting", None)
    seen.take(GONE, 5.0)
    seen.take(GONE, 6.0)
    row = cache_row(seen, 8.0)
    assert (row.name, row.status, row.gone, row.message) == ("cache.sock", "not reached", 3.0, "nobody listens")


@pytest.mark.parametrize("sort", SORTS)
def test_merged_files_are_in_the_order_of_the_servers(sort: str) -> None:
    seen = Watch(SOCKET)
    seen.take(sample(0.0, sort=sort), 0.0)
    rows = file_rows(seen)
    assert merge_files(rows, sort) == rows


def test_files_match_by_key_or_volume_whatever_the_size_of_letters() -> None:
    rows = file_rows(watch(0.0))
    assert [row.file.key for row in matching(rows, "DB/")] == ["db/main.sqlite", "db/main.sqlite-wal"]
    assert matching(rows, "scratch") == []  # the name of a volume
    assert len(matching(rows, "")) == 9
    assert matching(rows, "nothing") == []
