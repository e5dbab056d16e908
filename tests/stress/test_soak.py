"""The long runs of `make soak`: no alarm in an hour of the profiles, in turn, nor in ten minutes of hell of each kind.

PAGECACHE_SOAK_SECONDS sets the time of one kind of hell, instead of ten minutes; all profiles together take six times
that. Each run prints its work.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from pagecache.stress import Plan, run
from pagecache.stress.profiles import PROFILES

SECONDS = float(os.environ.get("PAGECACHE_SOAK_SECONDS", "600"))
ON = ("memory:", "dir:")

pytestmark = [pytest.mark.soak, pytest.mark.timeout(7200)]


def clean(report: dict[str, Any]) -> None:
    first, *_ = report["story"].splitlines()
    print(first, f"seed {report['replay']['plan']['seed']}", sep="\n")
    assert report["ok"], f"{report['story']}\n{report['replay']}"
    assert report["counters"]["operations"] > 100


@pytest.mark.parametrize("profile", PROFILES)
def test_long_runs_of_each_profile_are_clean(profile: str) -> None:
    """[I-17, I-18, I-19, I-20, I-22]"""
    clean(run(Plan(profile=profile, duration=6 * SECONDS / len(PROFILES))).to_dict())


@pytest.mark.parametrize("store", ON)
def test_ten_minutes_of_hell_are_clean(tmp_path: Path, store: str) -> None:
    """[I-17, I-18, I-19, I-20, I-22]"""
    target = store if store == "memory:" else f"dir:{tmp_path}"
    clean(run(Plan(faults="hell", duration=SECONDS), target).to_dict())


@pytest.mark.parametrize("kind", ["killed", "forgetting"])
def test_long_runs_with_crashes_are_clean(tmp_path: Path, kind: str) -> None:
    """[I-18, I-19, I-21, I-22]"""
    clean(run(Plan(crashes=(kind,), duration=SECONDS), f"dir:{tmp_path}").to_dict())
