"""Discards, replacements and views: the tester's handling of them, and the mistakes in them that it finds."""

from __future__ import annotations

from typing import Any

import pytest

from pagecache import View, Volume
from pagecache.stress import Plan, run
from pagecache.stress.cached import CachedTarget
from pagecache.stress.oracle import Observation

from ..file.rig import Task, at_gate, held
from . import clean
from .test_oracle import SIZE, File

FIELDS: dict[str, Any] = {"duration": 60.0, "threads": 4, "tasks": 4, "files": 1, "size": "64KiB", "capacity": "128KiB"}


def plan(**fields: Any) -> Plan:
    return Plan(**(FIELDS | {"seed": 1, "profile": "losses", "operations": 60} | fields))


def test_a_view_is_cut_off_by_a_truncate_that_began_after_it_and_has_ended() -> None:
    """A truncate that began before the view, still runs, failed or left the range gives no information. [T-47]"""
    own = File()
    file = own.model
    before = own.truncate(100)
    observation = Observation(file, 0, 4096, 1, "a writable view")
    taken = file.clock.tick()
    file.finish(before)
    beside, failed, larger = map(own.truncate, (200, 300, 4096))
    file.finish(failed, certain=False)
    file.finish(larger)
    observation.returned()
    assert observation.cut_since(taken) is None

    observation = Observation(file, 0, 4096, 1, "a writable view")
    taken = file.clock.tick()
    after = own.truncate(400)
    file.finish(after)
    observation.returned()
    assert observation.cut_since(taken) is after
    file.finish(beside)


def test_possibly_discarded_bytes_are_uncertain_until_a_rest() -> None:
    """Each byte written since is possible, and each size."""
    own = File()
    file = own.model
    file.loose = True
    own.done(0, 100)
    assert {one.kind for _, _, found in file.extents.pieces(0, 100) for one in found} == {"content", "write"}
    loss = own.truncate(0)
    file.finish(loss)
    file.shrink(loss)
    assert own.seen().sizes_meanwhile() == (0, SIZE)


@pytest.mark.long
def test_views_that_no_truncate_cuts_off_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that cuts its own view sees it at once; or bytes stored to such a view are missing. [T-47, I-9]"""
    monkeypatch.setattr(View, "detached", False)
    report = run(plan(profile="generic-095"))
    assert (report.ok, report.kind) == (False, "data")
    assert "is not cut off by truncate" in report.story or "(view)" in report.story, report.story


def test_a_cache_that_does_not_mind_other_versions_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory and store differ at a rest, or a read returns bytes that are gone. [2.19]"""
    monkeypatch.setattr(Volume, "invalidate_remote", lambda *_args, **_options: None)
    assert not run(plan()).ok


def test_an_object_is_replaced_by_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Discarding local bytes for one version would remove bytes that other workers rely on."""
    target = CachedTarget(plan(profile="ends", mix="rivals"), 0, None, "memory:")
    target.start([b"content"])
    gate, replacing = at_gate(held(monkeypatch, target.objects, "put"), target.replace, 0, bytes(4096))
    beside = Task(target.replace, 0, bytes(8192))
    assert beside.waits()
    replacing.result(opening=gate)
    beside.result()
    target.close()


@pytest.mark.long
@pytest.mark.parametrize("mix", ["buffered,append,truncate,losses", "rivals,losses"])
def test_ends_that_are_concurrently_discarded_or_replaced_are_right(mix: str) -> None:
    """The workers run in step, without a planted mistake. [I-10, 2.18, 2.19]"""
    report = clean(plan(profile="ends", mix=mix, tasks=0, operations=20, rounds=4))
    assert report.counters["looks in step"]


# -- workers in step: checks in between see states that the next call would repair


def in_step(tasks: int = 0) -> Plan:
    return plan(profile="ends", threads=3, tasks=tasks, rounds=1, operations=10, mix="buffered,append,truncate,losses")


def test_all_threads_begin_an_operation_together() -> None:
    """There are as many checks as operations, if there are no tasks; with tasks each thread goes on alone."""
    report = clean(in_step())
    assert report.counters["looks in step"] == 3 * 10
    report = clean(in_step(tasks=1))
    assert "looks in step" not in report.counters


def test_a_breach_between_two_operations_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """At a rest it would be right again."""
    checks = iter(range(1 << 30))

    def check(_target: CachedTarget) -> None:
        assert next(checks) != 5, "planted"

    monkeypatch.setattr(CachedTarget, "check", check)
    report = run(in_step())
    assert (report.ok, report.kind) == (False, "check")
    assert "in step: planted" in report.story
