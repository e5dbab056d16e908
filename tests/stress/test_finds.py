"""The tester finds mistakes, and describes them."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from pagecache.stress import Plan, Report, run
from pagecache.stress.job import Run
from pagecache.volume import lifetimes

from .planted import BACKENDS, TARGETS

MIX = ("buffered", "direct", "parallel", "through", "views", "append", "truncate", "punch", "hints")
PLAN: dict[str, Any] = {
    "threads": 4,
    "tasks": 4,
    "files": 2,
    "size": "128KiB",
    "capacity": "128KiB",
    "operations": 60,
    "mix": MIX,
}
BYTES = re.compile(r"file \d, bytes \d+ to \d+: wrong|file \d: \d+ bytes, where|file \d: append \[\d+, \d+\)")


def expect(report: Report, *words: str) -> None:
    assert not report.ok
    story = report.story
    assert BYTES.search(story), story
    assert "writer" in story, story
    for word in words:
        assert word in story, story


@pytest.mark.long
@pytest.mark.parametrize("name", BACKENDS)
def test_a_backend_that_loses_bytes_is_found_with_range_and_writer(name: str) -> None:
    """The finding has the lost range, its writer, and the bytes found instead. [I-17, I-18]"""
    expect(run(Plan(seed=1, duration=100, **PLAN), BACKENDS[name]))


@pytest.mark.long
@pytest.mark.parametrize("name", TARGETS)
def test_calls_that_do_not_keep_their_word_are_found(name: str) -> None:
    """A torn write, an fsync that does nothing, appends on top of each other, and bytes behind the end are found.
    [I-17, I-18]
    """
    kind = TARGETS[name]
    make = Run(Plan(seed=1, duration=100, **PLAN), make=lambda plan, number: kind(plan, number, None, name))
    expect(make.run())


def test_a_close_that_hands_nothing_over_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The store is checked after the last close of an object that no other worker has open. [2.20]"""
    plan = Plan(seed=1, duration=20, profile="metadata", threads=2, tasks=0, operations=60)
    monkeypatch.setattr(lifetimes, "close_handle", lambda use, **_: lifetimes.release(use))
    report = run(plan)
    assert (report.ok, report.kind) == (False, "data")
    assert "is in the store after the last close, should be" in report.story


def test_a_failure_is_replayed_by_its_round() -> None:
    """The replay is JSON, and has that round only."""
    report = run(Plan(seed=3, duration=100, **PLAN), BACKENDS["DropsTail"])
    plan = Plan.from_replay(json.loads(json.dumps(report.replay)))
    assert (plan.seed, plan.rounds, plan.threads, plan.size) == (3, 1, 4, 128 << 10)
    again = run(plan, BACKENDS["DropsTail"])
    assert not again.ok
    assert again.replay == report.replay
