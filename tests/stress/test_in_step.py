"""Workers in step: they begin together, and checks in between see states that the next call would repair."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from pagecache.stress import Plan, run
from pagecache.stress.bars import Bar
from pagecache.stress.cached import CachedTarget

BOUND = 60.0  # seconds: the end of a hang
FIELDS: dict[str, Any] = {"seed": 1, "threads": 3, "tasks": 0, "files": 1, "size": "64KiB", "capacity": "128KiB"}
FIELDS |= {"profile": "ends", "rounds": 1, "operations": 10, "mix": "buffered,append,truncate,losses"}


def played(threads: int, turns: list[int], stopped: threading.Event) -> list[int]:
    """The number of busy threads at each check; thread n comes to the barrier that often."""
    lock, busy, seen = threading.Lock(), 0, list[int]()
    bar = Bar(threads, lambda: seen.append(busy), stopped)

    def work(turn: int) -> None:
        nonlocal busy
        for _ in range(turn):
            with lock:
                busy += 1
            with lock:
                busy -= 1
            bar.wait()
        bar.leave()

    workers = [threading.Thread(target=work, args=(turn,), daemon=True) for turn in turns]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(BOUND)
    assert not any(worker.is_alive() for worker in workers)
    return seen


def test_no_thread_is_busy_during_a_check() -> None:
    """One check runs for each operation of the busiest thread; a thread that has ended is not waited for."""
    assert played(4, [50, 20, 50, 0], threading.Event()) == [0] * 50


def test_no_thread_waits_for_others_when_all_are_to_stop() -> None:
    """The last thread never comes."""
    stopped = threading.Event()
    stopped.set()
    assert played(3, [1, 1], stopped) == []


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
