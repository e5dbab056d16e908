"""Simulated threads and the interpreter lock: orders that it rules out are not played, all others are."""

from __future__ import annotations

import json
import subprocess
import sys

from ..planted.planted import debug_environment

SEEDS = 12
"""With each policy; the looks of a fourth of the runs or more differ where they may."""


def looks_that_differ(gil_release: str) -> list[int]:
    """Of each run; see `looking.py`."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.stress.looking", gil_release, str(SEEDS)],
        env=debug_environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found: list[int] = json.loads(done.stdout)
    assert len(found) == 2 * SEEDS
    return found


def test_nobody_comes_between_calls_that_keep_the_interpreter_lock() -> None:
    """A thread stops at points of the core with the lock; whoever needs it waits until it has let it go."""
    assert set(looks_that_differ("1MiB")) == {0}


def test_who_has_let_the_interpreter_lock_go_goes_on_beside_one_that_has_it() -> None:
    """The same calls, but writes copy without the lock: they come between two looks that keep it."""
    assert any(looks_that_differ("4KiB"))
