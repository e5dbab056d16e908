"""Random operations, by the stress tester and its model: each byte that a handle, a view or the store shows is one of
its possible values, and `PageCache.check` finds nothing whenever nothing runs.

With one worker a seed decides the whole run; `tests/stress` has more runs of many. A failing plan can be reduced:
`pagecache stress --help`.
"""

from __future__ import annotations

from typing import Any

import pytest

from pagecache.stress import Plan, run


@pytest.mark.parametrize("faults", ["none", "nasty"])
@pytest.mark.parametrize("profile", ["fsx", "log", "generic-095", "direct", "metadata", "losses"])
def test_random_operations_of_one_worker(profile: str, faults: str) -> None:
    """With faults, calls are short, late, lost or refused, and commits forget. [T-45, I-17, I-18, I-22]"""
    small: dict[str, Any] = {"files": 2, "size": "64KiB", "capacity": "128KiB", "operations": 150, "rounds": 2}
    report = run(Plan(seed=1, profile=profile, faults=faults, threads=1, tasks=0, duration=60, **small))
    assert report.ok, f"{report.story}\n{report.replay}"
    assert report.counters["operations"] > 100


def test_no_worker_sees_bytes_of_another_place() -> None:
    """Beside eviction, copies for pages in flight, and reuse: four files have eight times the memory. [T-64, I-24]"""
    small: dict[str, Any] = {"files": 4, "size": "256KiB", "capacity": "128KiB", "operations": 1000, "rounds": 1}
    report = run(Plan(seed=5, profile="fsx", threads=7, tasks=0, duration=60, **small))
    assert report.ok, f"{report.story}\n{report.replay}"
