"""What all tests share: good error messages from the public conformance suite, and settings for hypothesis.

`make test` has to say the same each time it is asked: its random tests play the same examples until they are changed.
New ones are for the long runs (`--hypothesis-profile=random`, as `make slow` and `make soak` do).
"""

from __future__ import annotations

import gc
import os
import re
import signal
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# COLUMNS and LINES: readline in the main process of pytest-xdist sets them for its workers, and programs prefer them to
# the terminal of a test. PYTHONUNBUFFERED: a program that exits without a flush has to fail in every environment.
for variable in ("COLUMNS", "LINES", "PYTHONUNBUFFERED"):
    os.environ.pop(variable, None)

# A shell that is not interactive ignores SIGINT in its background jobs (`pytest &`); tests of Ctrl-C, and the programs
# that they start, would never see it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

IDS = re.compile(r"\[[^\]]*\b[TI]-\d+[^\]]*\]\s*$")
"""Ids at the end of a docstring: `[T-18, I-3, 2.4]`."""

settings.register_profile("random", deadline=None, print_blob=True, suppress_health_check=list(HealthCheck))
settings.register_profile("same", parent=settings.get_profile("random"), derandomize=True)
settings.load_profile("same")

for part in ("conformance", "conformance_bytes"):
    pytest.register_assert_rewrite(f"pagecache.testing.{part}")


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests that name an id of the contract; give the tests of a shared fixture to one process, and slow tests
    more time.

    Tests run in several processes; one of them makes what a module or a folder makes once.
    """
    for item in items:
        for named in (getattr(item, "obj", None), getattr(item, "cls", None)):
            if IDS.search(getattr(named, "__doc__", None) or ""):
                item.add_marker(pytest.mark.contract)
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(1800))
        info: Any = getattr(item, "_fixtureinfo", None)
        for fixtures in info.name2fixturedefs.values() if info else ():
            if fixtures[-1].scope in ("module", "session") and fixtures[-1].baseid.startswith("tests/"):
                item.add_marker(pytest.mark.xdist_group(fixtures[-1].baseid))


def pytest_collection_finish() -> None:
    """Thousands of tests are a million objects, and none is garbage: left to the collector, a full collection takes
    half a second, and some tests need hundreds.
    """
    gc.collect()
    gc.freeze()
