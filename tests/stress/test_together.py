"""Every kind of access to a file at once, by threads and tasks; each byte is compared with its possible values."""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pagecache import Backend, BackendError, RetryPolicy
from pagecache.backends import DirectoryBackend
from pagecache.stress import Plan, Report
from pagecache.stress.cached import CachedTarget
from pagecache.stress.profiles import Operation
from pagecache.stress.script import Script
from pagecache.target import Target
from pagecache.testing import FaultPlan, Rule

from ..aio.over import Over
from ..stores import PublishingBackend
from . import clean

Factory = Callable[[], Backend] | None

FEW: dict[str, Any] = {"threads": 1, "tasks": 0, "files": 1, "size": "64KiB", "capacity": "1MiB", "rounds": 1}
FEW |= {"duration": 60}
BITS = 8  # the choices of these tests are in the bits of `extra` from here on
SEVERAL = 1 << BITS


def play(*operations: Operation, task: bool = False) -> dict[str, int]:
    """Return the counters of a script of one thread, or of one task."""
    threads, tasks = ((), ((operations,),)) if task else (((operations,),), ())
    return clean(Plan(seed=1, script=Script((60_000,), threads, tasks), **FEW)).counters


@pytest.mark.long
def test_all_accesses_at_once_are_right() -> None:
    """Buffered, direct, views, copies, truncates, by 8 threads and 200 tasks. [T-28, I-17]"""
    fields: dict[str, Any] = {"size": "256KiB", "capacity": "256KiB", "operations": 12, "rounds": 1, "duration": 60}
    clean(Plan(seed=7, threads=8, tasks=200, files=2, **fields))


def test_views_are_read_again() -> None:
    view, store = (Operation(kind, 0, "", 4096, 9000, extra=SEVERAL) for kind in ("view", "store"))
    counters = play(view, store, Operation("read", 0, "buffered", 4096, 9000), Operation("fsync", 0))
    assert counters["views read again"] == 2
    assert "copies of unknown bytes" not in +Counter(counters)


CALLS = ["try_read", "fsync", "flush", "sync_range", "truncate", "punch", "zero", "copy", "prefetch", "advise"]


@pytest.mark.parametrize("kind", CALLS)
def test_each_handle_makes_each_call(kind: str) -> None:
    every = [Operation(kind, 0, "", 40_000, 5000, extra=number << BITS + 2) for number in range(5)]
    counters = play(Operation("write", 0, "buffered", 0, 50_000), *every)
    made = {name: count for name, count in counters.items() if name.startswith(f"{kind} by")}
    assert made == {f"{kind} by a {way} handle": 1 for way in ("direct", "parallel", "through")}


def test_a_task_cancels_a_read() -> None:
    """Nothing stays behind: the next calls are right, and files close. [I-17]"""
    reads = [Operation("read", 0, "buffered", 4096 * n, 9000, extra=SEVERAL | n) for n in range(6)]
    assert play(*reads, Operation("drop", 0, "", 0, 60_000), *reads, task=True)["reads that a task cancels"] == 12


def test_clean_pages_of_all_files_are_dropped() -> None:
    assert play(Operation("drop", 0, "", 0, 10, extra=SEVERAL))["drops of all files"] == 1


def test_a_handle_outlives_the_name_of_its_object() -> None:
    """It shows the content that it showed before a rename, and before a remove."""
    publish, rename = Operation("publish", 0, "", 0, 9000, extra=1), Operation("rename", 0, extra=SEVERAL)
    counters = play(publish, rename, Operation("remove", 1, extra=SEVERAL))
    assert counters["reads by a handle after a rename"] == 1
    assert counters["reads by a handle after a remove"] == 1


def passes() -> BackendError:
    return BackendError(errno.EIO, "made up, passes", retry=True, retry_after=0.0)


def narrows() -> BackendError:
    return BackendError(errno.EIO, "made up, too long", retry=True, max_write=8192)


COMMIT = Rule("commit", error=passes, chance=0.1)
PASSING = (
    Rule(("read", "write", "truncate", "punch"), error=passes, chance=0.04),
    Rule("write", error=passes, done=True, chance=0.03),
    Rule(("read", "write"), error=errno.EAGAIN, chance=0.02),
    Rule("write", error=narrows, chance=0.01),
    Rule(("read", "write"), short="half", chance=0.1),
    Rule(("read", "write"), short=1, chance=0.02),
    COMMIT,
)
"""Faults that pass if a call is retried often enough."""


class Patient(CachedTarget):
    """Calls fail, and are retried until they succeed: no error of the backend is a valid result."""

    def __init__(self, plan: Plan, number: int, factory: Factory, label: str) -> None:
        super().__init__(replace(plan, faults="mild"), number, factory, label)
        limits = self.backend.limits
        # A failed commit loses direct writes, unless a commit publishes them. A part of a unit is no progress.
        commits, parts = limits.commit_on_close, limits.write_unit == 1
        rules = [rule for rule in PASSING if (commits or rule is not COMMIT) and (parts or rule.short is None)]
        self.faulting.plan = FaultPlan(rules, plan.seed)
        self.faulting.explained, self.faulting.shortens = frozenset(), False
        self.faulting.config["retry"] = RetryPolicy(attempts=1000, first_delay=0.001, max_delay=0.01, deadline=None)


def together(store: str, folder: Path, capacity: str, *, passing: bool, **fields: Any) -> Report:
    """Run 8 threads and 200 tasks on a kind of store. Object stores also check that calls obey the protocol."""
    kept, staging = PublishingBackend(), list[PublishingBackend]()

    def objects() -> Backend:
        staging.append(PublishingBackend(kept, write_unit=512))
        return staging[-1]

    factories: dict[str, Factory] = {
        "memory": None,
        "directory": lambda: DirectoryBackend(folder),
        "coroutines": Target(store, {}, factory=lambda: Over(DirectoryBackend(folder))).make,
        "objects": objects,
    }
    kind = Patient if passing else CachedTarget
    plan = Plan(threads=8, tasks=200, capacity=capacity, patience=100, **fields)
    report = clean(plan, make=lambda plan, number: kind(plan, number, factories[store], store))
    found = [one for backend in staging for one in backend.violations]
    assert [one for one in found if "calls at once" not in one] == []  # the tester also reads the store by itself
    return report


def test_faults_that_pass_are_never_seen(tmp_path: Path) -> None:
    """Calls that fail, do a part or lose their reply are retried until they succeed; no call raises. [T-28, I-17]"""
    fields: dict[str, Any] = {"seed": 7, "files": 2, "size": "256KiB", "operations": 6, "rounds": 1, "duration": 60}
    together("objects", tmp_path, "256KiB", passing=True, **fields)


STORES = [("memory", "128KiB", "1MiB"), ("directory", "512KiB", "256KiB")]
STORES += [("coroutines", "256KiB", "64KiB"), ("objects", "1MiB", "1MiB")]
CASES: list[dict[str, Any]] = [
    {"store": store, "capacity": capacity, "size": size, "passing": passing}
    for store, capacity, size in STORES
    for passing in (False, True)
]
SOAK = float(os.environ.get("PAGECACHE_SOAK_SECONDS", "600"))


@pytest.mark.parametrize(
    "seconds",
    [
        pytest.param(8.0, marks=[pytest.mark.slow, pytest.mark.timeout(400)]),
        pytest.param(SOAK / len(CASES), marks=[pytest.mark.soak, pytest.mark.timeout(7200)]),
    ],
    ids=["a minute", "ten minutes"],
)
@pytest.mark.parametrize("case", CASES, ids=[f"{case['store']}-{case['passing']}" for case in CASES])
def test_all_accesses_at_once_are_right_for_long(tmp_path: Path, case: dict[str, Any], seconds: float) -> None:
    """Each round has another variant of the cache and its backend. PAGECACHE_SOAK_SECONDS sets another time than ten
    minutes. [T-28, I-17, I-18]
    """
    together(folder=tmp_path, operations=24, duration=seconds, **case)
