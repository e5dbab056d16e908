"""The mix as a test: in a process of its own, which ends with the stacks of all threads when it does not go on."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GRACE = 150.0  # seconds: a round that hangs ends before


def mix(seconds: float, *options: str, seed: str | None = None) -> None:
    """Run it; what it has to say when it fails begins with the seed."""
    seed = seed or os.environ.get("SEED") or str(random.SystemRandom().randrange(1 << 32))
    command = [sys.executable, "-W", "error", "-m", "tests.mix", "--seed", seed, "--seconds", str(seconds), *options]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds + GRACE)
    assert ran.returncode == 0, f"{' '.join(command)} ended with {ran.returncode}\n{ran.stderr[-20_000:]}"


@pytest.mark.timeout(200)
def test_every_way_in_at_once() -> None:
    """Buffered, direct, views, copies, truncates, threads and tasks: each byte seen was there. [T-28, I-17]"""
    mix(3.0, "--calls", "30", seed=os.environ.get("SEED", "7"))


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_every_way_in_at_once_for_a_minute() -> None:
    """The same on some twenty variants of cache and backend. [T-28, I-17, I-18]"""
    mix(60.0)


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_every_way_in_at_once_for_long() -> None:
    """The same for ten minutes; SEED repeats a run. [T-28, I-17, I-18]"""
    mix(float(os.environ.get("PAGECACHE_SOAK_SECONDS", "600")))
