"""The fixture `pagecache_stress`, for the tests of a backend.

    def test_my_backend_under_stress(pagecache_stress, tmp_path):
        pagecache_stress(lambda: MyBackend(tmp_path), duration=5)

A package of its own: pytest imports it wherever pagecache is installed, and nothing of `pagecache` is imported before a
test asks for the fixture.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

__all__ = ["pagecache_stress"]


@pytest.fixture
def pagecache_stress() -> Callable[..., Any]:
    """Run the stress tester on a target, and fail with its story; keywords are fields of `pagecache.stress.Plan`."""
    from pagecache.stress import Plan, Report, UnusableTarget, run

    def stress(target: Any = None, **fields: Any) -> Report:
        try:
            report = run(Plan(**fields), target)
        except (UnusableTarget, ValueError) as error:
            pytest.fail(f"pagecache_stress: {error}", pytrace=False)
        if not report.ok:
            pytest.fail(f"{report.story}\nagain: Plan.from_replay({report.replay!r})", pytrace=False)
        return report

    return stress
