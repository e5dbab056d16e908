"""Rounds end with a write that outlives its backend, and with syncs beside writers that never stop."""

from __future__ import annotations

import errno
import threading
from functools import partial
from typing import Any

import pytest

from pagecache import Backend, BackendError
from pagecache.backends import MemoryBackend
from pagecache.stress import Plan, run
from pagecache.testing import FaultPlan, FaultyBackend, Rule

FIELDS: dict[str, Any] = {"threads": 1, "tasks": 0, "files": 1, "size": "64KiB", "capacity": "256KiB", "operations": 5}


def plan(**fields: Any) -> Plan:
    few: dict[str, Any] = {"seed": 1, "duration": 60, "mix": ("buffered",)}
    return Plan(**few | FIELDS | fields)


def passed(store: Backend) -> Backend:
    return store


@pytest.mark.long
def test_a_backend_is_outlived_by_its_calls_and_syncs_beside_writers_that_never_stop_return() -> None:
    """Nothing is found; no thread is left. The syncs are fsync, sync and a ticket. [T-63, T-75b, I-19]"""
    report = run(plan(rounds=6))
    assert report.ok, report.story
    assert report.counters["backends outlived"] >= 2
    assert report.counters["syncs beside writers"] == 6
    assert [one.name for one in threading.enumerate() if one.name == "stress-directed"] == []


def test_a_handle_may_report_a_refusal_of_the_backend_before_the_last_one() -> None:
    """A commit that fails takes direct writes along; each handle reports it with its next call [2.9, I-22]."""
    refused = partial(BackendError, errno.EIO, "no answer", retry=True, retry_after=0.0)
    flaky = Rule("commit", error=refused, done=True, chance=0.3)
    for seed in (4, 5, 8):
        asked = plan(seed=seed, files=2, operations=40, rounds=1, mix=("buffered", "direct"))
        store = FaultyBackend(MemoryBackend(), FaultPlan([flaky], seed=1))
        report = run(asked, partial(passed, store))
        assert report.ok, report.story
        assert report.counters["backends outlived"] == 2
