"""A sync does not wait for later writes: counted."""

from __future__ import annotations

from typing import Any

import pytest

from pagecache.stress import Plan, run
from pagecache.stress.cached import CachedTarget
from pagecache.stress.job import Run

FIELDS: dict[str, Any] = {"threads": 1, "tasks": 0, "files": 1, "size": "64KiB", "capacity": "256KiB", "operations": 5}


class WaitsForQuiet(CachedTarget):
    """fsync returns when nothing of the file is dirty."""

    def fsync(self, file: int, way: str = "buffered") -> None:
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


@pytest.mark.long
def test_syncs_beside_writers_that_never_stop_return() -> None:
    """The calls are fsync, sync and a ticket. [I-19]"""
    plan = Plan(seed=1, duration=240, rounds=3, **FIELDS)
    report = run(plan)
    assert report.ok, report.story
    assert report.counters["syncs beside writers"] == 3
