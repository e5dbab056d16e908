"""Simulated threads and the interpreter lock: orders that it rules out are not played, all others are."""

from __future__ import annotations

import json
import subprocess
import sys

from ..planted.planted import debug_environment

SEEDS = 12
"""Seeds of each policy; the reads of a fourth of the runs or more differ if they may."""


def equal_reads(*arguments: str) -> str:
    """The output of `equal_reads.py`."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.stress.equal_reads", *arguments],
        env=debug_environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def reads_that_differ(gil_release: str) -> list[int]:
    """The numbers of all runs."""
    found: list[int] = json.loads(equal_reads("reads", gil_release, str(SEEDS)))
    assert len(found) == 2 * SEEDS
    return found


def test_no_thread_comes_between_calls_that_keep_the_interpreter_lock() -> None:
    """A thread stops at points of the core with the lock; others that need it wait until it is released."""
    assert set(reads_that_differ("1MiB")) == {0}


def test_a_thread_without_the_interpreter_lock_goes_on_beside_one_that_has_it() -> None:
    """The calls are equal, but writes copy without the lock: they come between two reads that keep it."""
    assert any(reads_that_differ("4KiB"))


def test_a_thread_that_never_releases_the_interpreter_lock_is_reported_with_its_stack() -> None:
    """The others would wait forever, and time would pass: nothing else ends such a run."""
    printed = equal_reads("for-ever")
    assert "first: waits for nothing, and never releases the interpreter lock" in printed
    assert "in read_forever" in printed
    assert "other: waits for the interpreter lock of first" in printed
