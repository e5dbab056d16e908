"""The measuring of `pagecache bench` by clocks that tests set, and each program of benchmarks/ once, quickly.

No time is judged. The requests of benchmarks/far.py are exact.
"""

import random
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from pagecache.bench import Bench, Comparison, Settings, Way, summary
from tests.s3.servers import missing

PROGRAMS = Path(__file__).parents[1] / "benchmarks"
REQUESTS = {"read-1": 4, "again-1": 4, "kept-1": 0, "read-16": 4, "kept-16": 0, "create": 8, "creates": 16}
"""Exact requests of a quick run of far.py."""
MOST = {"again-16": 4, "stream-again": 1, "write": 8, "writes": 10, "random": 9}


FURTHER = {"a hot set that moves in steps": 1.5, "popular pages, read twice at once": 1.1}
"""Bounds of traces on which another policy is better: docs/performance.md."""


class Clock:
    """Time that passes only while a way runs."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log: list[str] = []

    def __call__(self) -> float:
        return self.now

    def way(self, name: str, seconds: float, **options: Any) -> Way:
        """A way that takes a given time for each item."""

        def run(items: Sequence[Any]) -> None:
            self.now += seconds * len(items)
            self.log.append(name)

        return Way(name=name, run=run, items=range(100), **options)

    def compare(self, *ways: Way, rounds: int = 7) -> Comparison:
        return Bench(Settings(), Path(), random.Random(1), ExitStack()).compare(*ways, rounds=rounds, clock=self)


def test_each_round_runs_every_way_once_in_a_changing_order() -> None:
    clock = Clock()
    ways = [clock.way(name, 1.0) for name in "abc"]
    clock.compare(*ways, rounds=8)
    orders = ["".join(clock.log[start : start + 3]) for start in range(3, 27, 3)]  # one each to calibrate
    assert all(sorted(order) == ["a", "b", "c"] for order in orders)
    assert len(set(orders)) > 2


def test_a_machine_that_slows_down_during_a_run_does_not_move_the_ratio() -> None:
    """A quotient of two averages over all rounds would be right only by luck; the ratio of each round is right."""
    clock = Clock()

    def run(items: Sequence[Any], seconds: float) -> None:
        clock.now += seconds * len(items) * (10 if clock.now > 30 else 1)

    own = Way(name="own", run=lambda items: run(items, 1), items=[0])
    base = Way(name="base", run=lambda items: run(items, 3), items=[0])
    found = clock.compare(own, base, rounds=11)
    assert found.speed("own", "base")[0] == pytest.approx(3.0)
    assert found.times("own", "base")[0] == pytest.approx(1 / 3)


def test_a_slice_is_as_long_as_asked_and_stays_within_the_bound_of_its_way() -> None:
    clock = Clock()
    way = clock.way("x", 1e-6)
    count = way.calibrated(0.003, clock)
    assert way.slice(count, clock) >= 0.003
    assert count < 9 * 3000
    assert clock.way("bounded", 1e-9, most=50).calibrated(0.003, clock) == 50
    assert clock.way("slow", 1.0).calibrated(0.003, clock) == 1


def test_what_follows_a_slice_is_not_timed_and_runs_after_a_failure() -> None:
    clock = Clock()

    def pause(items: Sequence[Any]) -> None:
        clock.now += 100.0

    assert clock.way("x", 1e-6, after=pause).slice(10, clock) == pytest.approx(1e-5)

    def fail(items: Sequence[Any]) -> None:
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        Way(name="x", run=fail, items=[1], after=pause).slice(1, clock)
    assert clock.now > 200


def test_the_spread_ignores_single_outliers_and_grows_with_noise() -> None:
    assert summary([1.0] * 30 + [9.0], max) == (1.0, 9.0, 0.0)
    assert 0.03 < summary([1.0 + 0.1 * (n % 10) for n in range(31)], max)[2] < 0.3


def quick(program: str, *options: str) -> list[list[str]]:
    """Run a program; return the cells of its tables."""
    command = [sys.executable, str(PROGRAMS / program), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")]


@pytest.mark.parametrize(
    ("program", "row"),
    [
        ("hits.py", "1 MiB view: open, touch every page, release"),
        ("files.py", "open, read, close; cached, keep_cache"),
        ("streams.py", "direct read by 1 MiB"),
    ],
)
def test_each_program_measures(program: str, row: str) -> None:
    assert row in [cells[0] for cells in quick(program, "--quick")]


def test_the_cache_misses_hardly_more_than_the_best_policy_on_any_trace() -> None:
    rows = quick("missratio.py", "--quick")[1:]
    shares = {cells[0]: [float(cell.strip(" %")) for cell in cells[1:-1]] for cells in rows}
    assert len(shares) == 12
    assert "shuffled epochs over twice the cache" in shares
    for name, (cache, *peers, best) in shares.items():
        assert best <= cache <= FURTHER.get(name, 1.05) * min(peers) + 0.2, name


@pytest.mark.skipif(missing("counted"), reason="ministack is not installed (extra `dev`)")
def test_each_job_on_s3_makes_the_requests_of_its_goal() -> None:
    only = [*REQUESTS, *MOST, "stream", "edits-all"]
    options = ("--quick", "--here", "--delay", "1ms", "--only", ",".join(only))
    found = {cells[0].partition(":")[0]: cells for cells in quick("far.py", *options) if ": " in cells[0]}
    assert set(found) == set(only)
    counts = {name: int(cells[1].partition(";")[0]) for name, cells in found.items()}
    assert {name: counts[name] for name in REQUESTS} == REQUESTS
    assert all(counts[name] <= most for name, most in MOST.items())
    assert {cells[2] for cells in found.values()} <= {"boto3", "obstore"}


@pytest.mark.skipif(missing("counted"), reason="ministack is not installed (extra `dev`)")
def test_the_disk_tier_keeps_its_exact_promises(tmp_path: Path) -> None:
    pytest.importorskip("diskcache", reason="the extra `bench` is not installed")
    options = ("--quick", "--here", "--folder", str(tmp_path), "--only", "start,second,upload")
    found = {cells[0]: cells[4:] for cells in reversed(quick("disk.py", *options)[1:]) if cells[0] != "P45"}
    assert set(found) == {"P43", "P44", "P47", "D9"}
    assert found["P44"] == ["16 requests, 0 bytes", "yes"]
    assert found["P47"][1] == "yes"
    assert found["P43"] == ["1.000", "yes"]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("fusermount3") is None, reason="there is no FUSE here")
def test_a_mount_is_measured_beside_its_peers() -> None:
    assert {"names", "stats"} <= {cells[0] for cells in quick("mounts.py", "--files", "20")}
