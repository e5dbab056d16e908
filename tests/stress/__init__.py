"""Runs of the stress tester in which nothing is found."""

from __future__ import annotations

from typing import Any

from pagecache.stress import Plan, Report
from pagecache.stress.job import Run


def clean(plan: Plan, target: Any = None, make: Any = None) -> Report:
    """Run a plan, in which nothing is found; return the report."""
    report = Run(plan, target, make).run()
    assert report.ok, f"{report.story}\n{report.replay}"
    return report
