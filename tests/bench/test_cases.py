"""Every case runs to its end on a small working set and gives all its rows; the numbers mean nothing here."""

import random
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.bench import suite
from tests.bench.goals import BY_KEY
from tests.bench.rows import Bench, Case, Settings

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    settings = Settings(rounds=1, seconds=0.0001, cell_seconds=0.02, size=8 * MIB, most_pages=10_000, quick=True)
    with ExitStack() as stack:
        yield Bench(settings, Path(tmp_path_factory.mktemp("bench")), random.Random(1), stack)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # fsspec's block cache leaves them to the collector
@pytest.mark.parametrize("case", suite.CASES, ids=lambda case: case.name)
def test_a_case_gives_every_row_it_promises(case: Case, bench: Bench) -> None:
    rows = list(case.run(bench))
    assert rows
    assert sorted({row.key for row in rows if row.key}) == sorted(case.goals)
    for row in rows:
        if row.key:
            goal = BY_KEY[row.key]
            assert (row.metric, row.against, row.unit) == (goal.metric, goal.against, goal.unit)
        assert row.skipped or (row.value is not None and row.value >= 0), row


def test_write_back_hands_over_whole_requests_of_cache_memory(bench: Bench) -> None:
    """The exact goals hold on any machine: one call per contiguous MiB, nothing copied."""
    (case,) = [case for case in suite.CASES if case.name == "counts"]
    values = {row.key: row.value for row in case.run(bench) if row.key}
    assert values == {"P15/calls": 1, "P15/copies": 0}
