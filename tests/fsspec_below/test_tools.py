"""`pagecache check-backend` and `pagecache stress` find nothing wrong with file systems of fsspec below the cache."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from pagecache.backends.fsspec import FsspecBackend
from pagecache.stress import Plan, run
from tests.fsspec_below.stores import Whole

SHORT: dict[str, Any] = {
    "threads": 4, "tasks": 6, "files": 2, "size": "256KiB", "capacity": "256KiB", "operations": 40, "rounds": 1,
    "duration": 1,
}  # fmt: skip
numbers = itertools.count()
stored = Whole(asynchronous=True)


def asynchronous() -> FsspecBackend:
    """The backends share one file system: a later one finds the stored objects."""
    return FsspecBackend(stored, "bucket")


TARGETS: dict[str, Callable[[], Any]] = {
    "blocking": lambda: f"fsspec:memory://stressed-{next(numbers)}",
    "asynchronous": lambda: asynchronous,
}


@pytest.mark.parametrize("form", TARGETS)
@pytest.mark.parametrize("faults", ["none", "flaky"])
def test_a_short_run_of_the_stress_tester_is_clean(form: str, faults: str) -> None:
    report = run(Plan(seed=1, faults=faults, **SHORT), TARGETS[form]())
    assert report.ok, f"{report.story}\n{report.replay}"
    assert report.counters["operations"] > 100


@pytest.mark.parametrize("profile", ["losses", "saving"])
def test_staged_bytes_survive_the_actions_of_others(profile: str) -> None:
    """Commits, discards and versions of another client, beside reads of evicted bytes."""
    report = run(Plan(seed=5, profile=profile, **SHORT), TARGETS["blocking"]())
    assert report.ok, f"{report.story}\n{report.replay}"


@pytest.mark.slow
@pytest.mark.parametrize("form", TARGETS)
@pytest.mark.parametrize("faults", ["none", "nasty"])
def test_a_run_of_the_stress_tester_is_clean(form: str, faults: str) -> None:
    report = run(Plan(seed=1, faults=faults, duration=20), TARGETS[form]())
    assert report.ok, f"{report.story}\n{report.replay}"
