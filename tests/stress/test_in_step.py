"""Workers in step: they begin together, and checks in between see states that the next call would repair."""

from __future__ import annotations

from typing import Any

import pytest

from pagecache.stress import Plan, run
from pagecache.stress.cached import CachedTarget

FIELDS: dict[str, Any] = {"seed": 1, "threads": 3, "tasks": 0, "files": 1, "size": "64KiB", "capacity": "128KiB"}
FIELDS |= {"profile": "ends", "rounds": 1, "operations": 10, "mix": "buffered,append,truncate,losses"}


def test_all_threads_begin_an_operation_together() -> None:
    """There are as many checks as operations, if there are no tasks; with tasks each thread goes on alone."""
    report = run(Plan(**FIELDS))
    assert report.ok, report.story
    assert report.counters["looks in step"] == 3 * 10
    report = run(Plan(**FIELDS | {"tasks": 1}))
    assert report.ok, report.story
    assert "looks in step" not in report.counters


def test_a_breach_between_two_operations_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """At a rest it would be right again."""
    checks = iter(range(1 << 30))

    def check(_target: CachedTarget) -> None:
        assert next(checks) != 5, "planted"

    monkeypatch.setattr(CachedTarget, "check", check)
    report = run(Plan(**FIELDS))
    assert (report.ok, report.kind) == (False, "check")
    assert "in step: planted" in report.story
