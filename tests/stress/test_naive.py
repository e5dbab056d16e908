"""Write-back caches of an afternoon: the tester finds their mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pagecache.stress import Plan, run

from . import naive

FIELDS: dict[str, Any] = {"threads": 2, "tasks": 0, "files": 2, "size": "64KiB", "capacity": "256KiB", "operations": 40}
MIX = ("buffered", "truncate")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(naive.WHERE, str(tmp_path))
    return tmp_path


@pytest.mark.long
def test_a_cache_that_loses_the_errors_of_its_uploads_is_found() -> None:
    """It takes data and shows it to its readers; the bytes stored at its close are older. [I-22]"""
    report = run(Plan(seed=1, duration=240, mix=MIX, profile="database", **FIELDS), naive.forgiving)
    assert (report.ok, report.kind) == (False, "data"), report.story
    assert "the store after close" in report.story
    assert (
        "should be of: writer" in report.story
        or "should be one of: writer" in report.story
        or "where the file had" in report.story
    )


@pytest.mark.long
def test_a_cache_whose_fsync_does_nothing_is_found_when_its_process_is_killed(folder: Path) -> None:
    """Its own process sees no mistake, and a close saves everything; a kill shows that fsync saved nothing. [I-18]"""
    plan = Plan(seed=1, duration=1, rounds=1, mix=MIX, profile="database", **FIELDS)
    clean = run(plan, naive.hasty)
    assert clean.ok, clean.story
    plan = Plan(seed=1, duration=100, crashes=("killed",), mix=MIX, profile="database", **FIELDS)
    report = run(plan, naive.hasty)
    assert (report.ok, report.kind) == (False, "crash"), report.story
    assert "the store after a crash" in report.story
