"""Random operations, by the stress tester and its model: each byte that a handle, a view or the store shows is one of
its possible values, and `PageCache.check` finds nothing whenever nothing runs.

With one worker a seed decides the whole run; `tests/stress` has more runs of many. A failing plan can be reduced:
`pagecache stress --help`.
"""

from __future__ import annotations

from typing import Any

import pytest

from pagecache.stress import Plan, run

from ..stores import RecordingBackend
from .rig import PAGE

SMALL: dict[str, Any] = {"files": 2, "size": "64KiB", "operations": 150, "rounds": 2, "threads": 1, "tasks": 0}


@pytest.mark.parametrize("faults", ["none", "nasty"])
@pytest.mark.parametrize("profile", ["fsx", "generic-095", "crowd", "metadata", "losses"])
def test_random_operations_of_one_worker(profile: str, faults: str) -> None:
    """With faults, calls are short, late, lost or refused, and commits forget. [T-45, I-17, I-18, I-22]"""
    report = run(Plan(seed=1, profile=profile, faults=faults, duration=60, capacity="128KiB", **SMALL))
    assert report.ok, f"{report.story}\n{report.replay}"
    assert report.counters["operations"] > 100


@pytest.mark.long
@pytest.mark.parametrize("staged", [False, True], ids=["in place", "spooled"])
@pytest.mark.parametrize("faults", ["none", "nasty"])
@pytest.mark.parametrize(
    "limits",
    [
        *(
            {"max_write": 2 * PAGE},
            {"max_vectors": 2},
            {"max_inflight": 1},
            {"read_unit": 512},
            {"durable_writes": True},
        ),
        *({"boundary": 4 * PAGE}, {"boundary": 4 * PAGE, "max_read": 3 * PAGE}, {"max_read": PAGE}),
        *({"write_unit": PAGE}, {"write_unit": 2 * PAGE}, {"write_unit": 512}),
    ],
    ids=str,
)
def test_random_operations_on_a_cache_of_a_few_pages(limits: dict[str, Any], faults: str, staged: bool) -> None:
    """Over a backend with each kind of limit, with a spool and without. A failed commit forgets. [T-45, I-17, I-18]"""
    if staged:
        limits = {**limits, "durable_writes": False}  # what it forgets was not durable
    backend = RecordingBackend(staged=staged, punch=True, **limits)
    report = run(Plan(seed=3, faults=faults, duration=60, capacity=16 * PAGE, **SMALL), lambda: backend)
    assert report.ok, f"{report.story}\n{report.replay}"


def test_no_worker_sees_bytes_of_another_place() -> None:
    """Beside eviction, copies for pages in flight, and reuse: four files have eight times the memory. [T-64, I-24]"""
    small: dict[str, Any] = {"files": 4, "size": "256KiB", "capacity": "128KiB", "operations": 1000, "rounds": 1}
    report = run(Plan(seed=5, profile="fsx", threads=7, tasks=0, duration=60, **small))
    assert report.ok, f"{report.story}\n{report.replay}"
