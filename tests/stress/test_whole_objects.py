"""Objects that are replaced as a whole: the losses of a death, what others must not do to them, uploads given up."""

from __future__ import annotations

import errno
import math
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from pagecache.backends import Backend, MemoryBackend
from pagecache.backends.protocol import BackendLimits
from pagecache.errors import BackendError, DataLossError, LostRange
from pagecache.stress import Plan, run
from pagecache.stress.cached import CachedTarget
from pagecache.stress.forgetting import ForgettingBackend
from pagecache.stress.history import Broken, Write
from pagecache.stress.world import World
from pagecache.testing import Rule

from ..planted.settings import Factory, object_store
from ..stores import ObjectFile
from .test_clean import SHORT

LIMITS = BackendLimits(write_unit=4096)
WHOLE = replace(LIMITS, commit_on_close=True)
SIZE = 256 << 10


def whole() -> Backend:
    return ForgettingBackend(MemoryBackend(LIMITS), WHOLE)


def outlived(make: Callable[[], Backend]) -> tuple[World, list[DataLossError]]:
    """A world whose backend has died after more bytes were written than fit into the cache. Return it, with the
    reported losses.
    """
    plan = Plan(seed=1, faults="hell", threads=1, tasks=0, files=1, size=SIZE, capacity="64KiB")
    target = CachedTarget(plan, 0, make, "python:")
    world = World(plan, target, 0)
    world.begin()
    target.calm()
    model, file = world.models[0], target.handle(0, "buffered")
    write = Write("write", "buffered", 1, 1, 0, world.tag, 0, SIZE)
    model.begin(write)
    file.pwrite(write.data(0, SIZE), 0)
    model.finish(write)
    assert sum(one.usage()["staged"] for one in target.volume.engine.files())
    target.faults.die(Rule(dies=True).exception)
    target.calm()
    reported = []
    try:
        file.fsync()
    except DataLossError as error:
        reported.append(error)
    return world, reported


def over(world: World) -> None:
    """Check that it agrees with its models, and end it."""
    world.rest(cold=True)
    world.end()
    target = world.target
    assert isinstance(target, CachedTarget)
    target.discard()


@pytest.mark.long
@pytest.mark.parametrize("seed", [4, 5, 6])
def test_a_run_under_all_faults_on_objects_that_are_replaced_as_a_whole_is_clean(seed: int) -> None:
    """[I-17, I-18, I-22]"""
    report = run(Plan(seed=seed, faults="hell", **SHORT), whole)
    assert report.ok, f"{report.story}\n{report.replay}"


def test_the_tester_stores_no_other_version_of_an_object_that_is_replaced_as_a_whole() -> None:
    """Handles of the old one would end, and cut bytes would come back; the report says so. [2.19]"""
    plan = Plan(seed=1, faults="hell", **SHORT)
    objects, other = CachedTarget(plan, 0, whole, "python:"), CachedTarget(plan, 0, MemoryBackend, "python:")
    assert not any(rule.change for rule in objects.faulting.plan.rules)
    assert any(rule.dies for rule in objects.faulting.plan.rules)
    assert "another version" in objects.skipped
    assert any(rule.change for rule in other.faulting.plan.rules)
    assert "another version" not in other.skipped


def test_staged_bytes_that_a_dead_store_has_forgotten_are_not_lost() -> None:
    """The spool has them, and a loss would be an alarm. [2.22, I-22]"""
    world, reported = outlived(whole)
    assert not reported
    assert not world.models[0].loose
    lost = LostRange(world.target.key(0), 0, SIZE, errno.EIO, "stress")
    with pytest.raises(Broken, match="an unexplained loss"):
        world.excuse(DataLossError("gone", ranges=[lost]), "fsync", 1)
    over(world)


# -- an upload that is given up

FIELDS: dict[str, Any] = {"seed": 1, "duration": 60.0, "threads": 4, "files": 1, "size": "64KiB", "capacity": "128KiB"}
FIELDS |= {"profile": "saving", "mix": "buffered,append,truncate"}


def failing_store() -> Factory:
    """An object store whose uploads may lose their answers, and whose commits may forget the bytes; a retry helps."""
    make, chance = object_store(), random.Random(1).random
    store: Any = make()

    def upload() -> None:
        if chance() < 0.02:
            raise BackendError(errno.EIO, "made up: the answer is lost", retry=True)

    def commit(file: ObjectFile) -> str:
        if chance() < 0.5:
            file.parts = [(offset + len(data), b"") for offset, data in file.parts]  # the size stays
            raise BackendError(errno.EIO, "made up: the upload is gone", retry=True)
        return file.make_durable()

    store.fault("write_from answer", upload, times=math.inf)
    store.fault("commit", commit, times=math.inf)
    return make


@pytest.mark.parametrize("store", [object_store, failing_store])
def test_whole_objects_lose_nothing_and_publish_nothing_that_was_given_up(store: Any) -> None:
    """Also if uploads lose their answers and commits fail. [2.14, 2.15, 2.18]"""
    report = run(Plan(**FIELDS, tasks=2, operations=40, rounds=2), store())
    assert report.ok, report.story
    assert report.counters["uploads given up"] == 2
