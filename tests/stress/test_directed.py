"""Rounds end with a write that outlives its backend, and with syncs beside writers that never stop."""

from __future__ import annotations

import errno
import threading
from functools import partial
from typing import Any

import pytest

from pagecache import Backend, BackendError
from pagecache.backends import MemoryBackend
from pagecache.config import Durability
from pagecache.stress import Plan, run
from pagecache.stress.cached import CachedTarget
from pagecache.stress.job import Run
from pagecache.testing import FaultPlan, FaultyBackend, Rule
from pagecache.volume import reconnect

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


@pytest.mark.long
def test_a_cache_that_sends_beside_an_old_call_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The old call lands over newer bytes. [T-63, K7]"""
    genuine = reconnect.reconnect
    monkeypatch.setattr(reconnect, "reconnect", lambda volume, backend, fenced: genuine(volume, backend, True))
    report = run(plan(rounds=20))
    assert (report.ok, report.kind) == (False, "data")


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


class WaitsForQuiet(CachedTarget):
    """fsync returns when nothing of the file is dirty."""

    def fsync(self, file: int, way: str = "buffered", level: Durability = "backend") -> None:
        handle = self.handle(file, "buffered")
        handle.fsync()
        while self.volume.dirty_ranges(self.key(file)):
            handle.fsync()


@pytest.mark.long
def test_a_sync_that_waits_for_later_writes_is_found_by_the_requests_that_it_lets_pass() -> None:
    """Without the writers that never stop it would go unnoticed: it returns, only late. [I-19]"""
    plan = Plan(seed=1, duration=240, mix=("buffered",), profile="database", **FIELDS)
    report = Run(plan, make=lambda plan, number: WaitsForQuiet(plan, number, None, "WaitsForQuiet")).run()
    assert (report.ok, report.kind) == (False, "hang")
    assert "it waits for what was written later" in report.story
