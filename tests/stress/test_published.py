"""Objects that are replaced as a whole: the content made visible by each commit, other versions, abandoned uploads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from pagecache.engine.io.barrier import FileSync
from pagecache.errors import LostRange
from pagecache.native import NativeInode
from pagecache.stress import Plan, run
from pagecache.stress.cached import CachedTarget
from pagecache.stress.history import Clock, Model, Write
from pagecache.stress.oracle import Observation, verdict
from pagecache.stress.publishing import Publishing
from pagecache.stress.world import World
from pagecache.volume import conflicts
from pagecache.volume.inode import Inode
from pagecache.volume.volume import Volume

from ..planted.failing import failing_store, object_store

FIELDS: dict[str, Any] = {"seed": 1, "duration": 60.0, "threads": 4, "tasks": 2, "files": 1, "size": "64KiB"}
FIELDS |= {"capacity": "128KiB", "profile": "touched", "operations": 40, "mix": "buffered,append,touches"}


def plan(**fields: Any) -> Plan:
    return Plan(**(FIELDS | fields))


@pytest.fixture
def world() -> Iterator[World]:
    """A round over objects that are replaced as a whole: one of a page, and no worker."""
    asked = plan()
    target = CachedTarget(asked, 0, object_store(), "objects")
    target.start([bytes(4096)])
    world = World(asked, target, 0)
    world.models = [Model(0, Write("content", "", 0, 0, 0, 1, 0, 4096), world.clock)]
    yield world
    target.give_up()


def test_a_read_that_goes_on_is_judged_by_earlier_calls() -> None:
    """Later calls are not part of it, and the read itself goes on."""
    model = Model(0, Write("content", "", 0, 0, 0, 1, 0, 4096), Clock())
    observation = Observation(model, 0, 4096, 1, "the store after fsync", store=True)
    first, second = (Write("write", "buffered", 1, number, 0, 1, 0, 4096) for number in (1, 2))
    model.begin(first)
    model.finish(first)
    now = observation.until_now()
    model.begin(second)
    model.finish(second)
    assert verdict(now, first.data(0, 4096), store=True) is None
    with pytest.raises(AssertionError, match="wrong"):
        verdict(now, second.data(0, 4096), store=True)
    observation.returned()
    assert verdict(observation, second.data(0, 4096), store=True) is None


def test_a_commit_whose_caller_has_left_is_not_judged(world: World) -> None:
    """Any call that returned since the last commit may have requested it; otherwise the commit has the bytes of the
    current waiter. [2.15]
    """
    write = Write("write", "buffered", 1, 1, 0, 1, 0, 4096)
    world.models[0].begin(write)
    world.models[0].finish(write)
    world.savers[1] = [Observation(world.models[0], 0, 4096, 1, "the store after fsync", store=True)]
    publishing, key = Publishing(world), world.target.key(0)
    publishing(key)(False)
    world.saved = world.clock.tick()
    publishing(key)(True)
    assert not world.failures
    publishing(key)(True)
    assert [failure.kind for failure in world.failures] == ["data"]


def test_a_commit_that_is_repeated_for_a_caller_that_has_left_is_not_judged(world: World) -> None:
    """It failed after the waiter had left, and is made again before the bytes of the current waiter are sent. [2.15,
    2.23]
    """
    write = Write("write", "buffered", 1, 1, 0, 1, 0, 4096)
    publishing, key = Publishing(world), world.target.key(0)
    publishing(key)(True)
    ended = publishing(key)
    world.saved = world.clock.tick()
    ended(False)
    world.models[0].begin(write)
    world.models[0].finish(write)
    world.savers[1] = [Observation(world.models[0], 0, 4096, 1, "the store after fsync", store=True)]
    publishing(key)(True)
    assert not world.failures
    publishing(key)(True)
    assert [failure.kind for failure in world.failures] == ["data"]


def test_a_commit_without_a_request_is_found(world: World) -> None:
    """Workers run, but no caller waits for a sync, and none has returned from one since the last commit. [2.22]"""
    publishing, key = Publishing(world), world.target.key(0)
    publishing(key)(True)
    publishing(key)(True)  # the tester's own: no worker runs
    publishing.stir(True)
    publishing(key)(True)  # left behind by the tester
    publishing(world.target.key("own1-0"))(True)
    publishing(world.target.key("own1-0"))(True)  # closed by its owner
    world.saved = world.clock.tick()
    publishing(key)(True)  # left behind by a caller that has returned
    publishing(key)(False)
    assert not world.failures
    publishing(key)(True)
    assert [failure.story for failure in world.failures] == [
        "file 0: committed without a request since the last commit"
    ]


def test_work_of_the_cache_that_commits_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes laid over another version are published, though no caller saves. [2.22, 2.24]"""
    resolve = conflicts.resolve

    def commits(volume: Volume, inode: Inode, how: Any) -> list[LostRange]:
        replaced = resolve(volume, inode, how)
        inode.engine.native.start_commit()
        return replaced

    monkeypatch.setattr(conflicts, "resolve", commits)
    report = run(plan(profile="unsaved", tasks=0), object_store())
    assert (report.ok, report.kind) == (False, "data")
    ahead = "the store after a commit, where "  # of a caller whose bytes are not in it
    assert "without a request" in report.story or ahead in report.story


def test_another_version_with_the_same_bytes_changes_nothing() -> None:
    """It comes beside writers and syncs, and no commit publishes discarded bytes. [2.18, 2.19]"""
    report = run(plan(rounds=2), object_store())
    assert report.ok, report.story
    assert "touch" in report.kinds
    assert report.counters["commits looked at"]
    assert report.counters["uploads given up"] == 2


def test_uploads_and_commits_that_fail_lose_nothing() -> None:
    """[2.14, 2.15]"""
    report = run(plan(rounds=2, mix="buffered,append,truncate"), failing_store())
    assert report.ok, report.story
    assert report.counters["commits looked at"]


def test_a_commit_ahead_of_the_bytes_of_its_waiter_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is found although the bytes are there when the waiter's call returns. [2.15]"""
    poll = FileSync.poll

    def hasty(self: FileSync) -> bool:
        if self.commit:
            self.file.native.start_commit(0)
        return poll(self)

    monkeypatch.setattr(FileSync, "poll", hasty)
    report = run(plan(tasks=0, duration=200.0), object_store())
    assert (report.ok, report.kind) == (False, "data")
    assert "the store after a commit, where " in report.story


def test_an_upload_that_is_published_after_it_was_given_up_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache never makes the store forget the discarded bytes. [2.18]"""
    monkeypatch.setattr(NativeInode, "acknowledged", lambda *_args: False)
    report = run(plan(mix="buffered,append", tasks=0, operations=5), object_store())
    assert (report.ok, report.kind) == (False, "data")
