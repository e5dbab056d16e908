"""Faults under stress: no alarm if a fault explains the outcome, and one if none does. What the tester says about a
dead backend is true [2.22]; objects that are replaced as a whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pagecache import Backend, ConflictError, PageCache, ShutdownError
from pagecache.backends import MemoryBackend
from pagecache.backends.memory import MemoryFile
from pagecache.backends.passing import PassingBackend
from pagecache.backends.protocol import BackendLimits
from pagecache.errors import BackendError
from pagecache.stress import Plan
from pagecache.stress.cached import CachedTarget
from pagecache.stress.cached_tasks import CachedTasks
from pagecache.stress.faulting import Faulting, explained
from pagecache.stress.forgetting import ForgettingBackend
from pagecache.stress.history import Broken
from pagecache.stress.job import Run
from pagecache.stress.profiles import PROFILES, Operation
from pagecache.stress.script import Script
from pagecache.stress.steps import Steps
from pagecache.stress.world import World
from pagecache.testing import FaultPlan, FaultyBackend, Gate, Rule
from pagecache.testing.fault_profiles import PROFILES as FAULTS

from ..file.rig import PAGE, QUIET, Task, at_gate, eventually, raises
from ..plain import Blobs
from ..planted.settings import Factory, always, object_store
from ..stores import ObjectBackend, ObjectFile
from . import clean
from .test_clean import SHORT, busy

LEVELS = ("mild", "nasty", "hell")


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param(SHORT | {"seed": 11}, marks=pytest.mark.long),
        pytest.param({"duration": 5}, marks=[pytest.mark.slow, pytest.mark.timeout(600)]),
    ],
    ids=["short", "longer"],
)
@pytest.mark.parametrize("faults", LEVELS)
@pytest.mark.parametrize("profile", PROFILES)
def test_runs_of_each_profile_under_each_level_of_faults_are_clean(
    tmp_path: Path, profile: str, faults: str, fields: dict[str, Any]
) -> None:
    """Half of the pairs of the longer ones are over a directory. [I-17, I-18, I-19, I-20, I-22]"""
    on_disk = "seed" not in fields and (list(PROFILES).index(profile) + LEVELS.index(faults)) % 2
    busy(Plan(profile=profile, faults=faults, **fields), f"dir:{tmp_path}" if on_disk else None)


@pytest.mark.long
@pytest.mark.parametrize("faults", [*LEVELS, "hostile"])
def test_a_short_run_with_faults_on_a_directory_is_clean(tmp_path: Path, faults: str) -> None:
    """Hell has death and other versions. [I-18, I-22]"""
    wanted, met = {"deaths survived", "conflicts settled"} if faults == "hell" else set(), set[str]()
    for seed in range(12, 22):  # chance decides which of them a round has
        met |= busy(Plan(seed=seed, faults=faults, **SHORT), f"dir:{tmp_path}").counters.keys()
        assert list(tmp_path.iterdir()) == []
        if wanted <= met:
            break
    assert wanted <= met


class RestlessLimits(PassingBackend):
    """Limits that change now and then between queries: from 512 bytes and one buffer to a megabyte."""

    def __init__(self, inner: Backend) -> None:
        super().__init__(inner)
        self.calls = count()

    @property
    def limits(self) -> BackendLimits:  # type: ignore[override]
        turn = next(self.calls) // 3
        most = (1 << 20, 4096, 512, 65536, 12288)[turn % 5]
        return replace(self.inner.limits, max_read=most, max_write=most, max_vectors=1 + turn % 4)


@pytest.mark.long
@pytest.mark.parametrize("make", [Blobs, lambda: RestlessLimits(MemoryBackend())], ids=["no versions", "limits"])
def test_a_store_that_is_nasty_and_legal_raises_no_alarm(make: Callable[[], Any]) -> None:
    """It raises none by itself, and none under faults. [I-17, I-18, I-22]"""
    for faults in ("none", "nasty"):
        clean(Plan(seed=13, faults=faults, **SHORT), always(make()))


# -- failures without an explaining fault


class GivesInToOthers(Faulting):
    """Local bytes are given up for the version of another client."""

    def _settle(self, key: Any) -> None:
        self._volume.resolve(key, "discard")


@pytest.mark.long
def test_accepted_bytes_that_were_discarded_after_a_fault_are_found() -> None:
    """The cache keeps accepted bytes, whatever failed. Planted bugs lose them in other ways. [I-22, K1]"""
    refused = Rule(("write", "commit"), change=True, error=errno.ESTALE, chance=0.03)

    def make(asked: Plan, number: int) -> CachedTarget:
        target = CachedTarget(asked, number, None, "memory:")
        found = GivesInToOthers(asked, number)
        found.plan, found.explained, found.repairing = FaultPlan([refused], seed=5), explained([refused]), True
        target.faulting, target.repairs, target.loses_direct = found, found.repairs, False
        return target

    fields = SHORT | {"operations": 200, "duration": 60, "mix": ("buffered", "append", "truncate", "hints")}
    report = Run(Plan(seed=14, faults="mild", **fields), make=make).run()
    assert not report.ok
    assert report.kind == "data" or "reports an unexplained loss" in report.story, report.story


def test_an_error_that_no_fault_explains_is_an_alarm() -> None:
    """It names the operation and the error."""

    class Refusing(CachedTarget):
        def punch(self, file: int, way: str, offset: int, length: int) -> None:
            raise PermissionError(errno.EACCES, "not allowed")

    fields = SHORT | {"operations": 100, "duration": 60}
    make = lambda asked, number: Refusing(asked, number, None, "memory:")  # noqa: E731
    report = Run(Plan(seed=14, faults="nasty", **fields), make=make).run()
    assert (report.ok, report.kind) == (False, "error")
    assert "punch of writer" in report.story
    assert "not allowed" in report.story


def test_each_level_explains_its_own_errors_and_no_more() -> None:
    """Only hell explains death, a full store and other versions."""
    hells = {errno.ENOSPC, errno.ESTALE, errno.ENOTCONN, errno.ESHUTDOWN}
    found = {name: explained(rules) for name, rules in FAULTS.items()}
    assert found["none"] == frozenset()
    assert errno.EIO in found["mild"] & found["nasty"] & found["hell"]
    assert not hells & (found["mild"] | found["nasty"] | found["flaky"] | found["commits"])
    assert hells <= found["hell"]
    assert errno.EPROTO in found["hostile"] - found["hell"]


@pytest.mark.parametrize(
    ("unit", "faults", "explains"), [(8192, "short", True), (8192, "none", False), (1, "short", False)]
)
def test_units_that_are_stored_in_part_explain_that_there_is_no_progress(
    unit: int, faults: str, explains: bool
) -> None:
    """Answers shorter than a unit do not count, and three of them are EIO. [2.14]"""
    target = CachedTarget(Plan(seed=1, faults=faults), 0, lambda: MemoryBackend(write_unit=unit), "memory:")
    target.start([b"content"])
    assert (errno.EIO in target.explained) is explains
    target.calm()
    target.close()
    target.discard()


def test_a_conflict_whose_old_version_cannot_be_read_any_longer_is_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tester lays the changes over the new version, as the error of "force" says. [2.19]"""
    backend = ObjectBackend({"file": bytes(8192)})
    faulting = Faulting(Plan(), 0)
    with PageCache("1MiB") as cache:
        volume = cache.attach(backend)
        faulting._volume = volume
        monkeypatch.setattr(faulting._rng, "choice", lambda ways: ways[0])
        with volume.open("file", "r+b") as file:
            file.pwrite(b"mine", 4096)
            backend.put("file", b"o" * 8192)
            raises(ConflictError, file.fsync)
            raises(ConflictError, volume.resolve, "file", "force")
            faulting._settle("file")
        assert backend.committed("file") == b"o" * 4096 + b"mine" + b"o" * 4092
    assert faulting.repairs == {"conflicts settled": 1}


def test_a_conflict_of_a_file_that_was_renamed_before_its_repair_is_settled() -> None:
    """Its event has an earlier name; its worker would meet the conflict again and again. [2.19]"""
    faulting = Faulting(Plan(seed=1, faults="hell"), 0)
    faulting.plan = FaultPlan([Rule("commit", nth=1, change=True, error=errno.ESTALE)])
    backend = FaultyBackend(MemoryBackend())
    with PageCache("1MiB", **faulting.config) as cache:
        volume = cache.attach(backend)
        file = volume.open("f", "w+")
        file.write(b"accepted")
        backend.use(faulting.plan)
        raises(ConflictError, file.fsync)
        volume.rename("f", "g")
        faulting.begin(volume, backend)
        faulting._conflict.set()
        eventually(lambda: all(one.conflict is None for one in volume.engine.files()))
        faulting.calm()
        assert faulting.repairs["conflicts settled"] == 1
        file.close()


def test_a_conflict_of_a_call_that_was_under_way_when_faults_ended_is_settled_at_rest() -> None:
    """The commit reports another version after the faults have ended; a sync at rest has none to raise. [2.19]"""
    faulting, gate = Faulting(Plan(seed=1, faults="hell"), 0), Gate()

    class Told(FaultyBackend):
        def use(self, plan: FaultPlan | Iterable[Rule]) -> None:
            super().use(plan)
            if plan == []:
                gate.release()

    backend = Told(MemoryBackend())
    faulting.plan = FaultPlan([Rule("commit", nth=1, gate=gate, change=True, error=errno.ESTALE)])
    with gate, PageCache("1MiB", **faulting.config) as cache:
        volume = cache.attach(backend)
        file = volume.open("f", "w+")
        faulting.begin(volume, backend)
        file.write(b"accepted")
        _, saving = at_gate(gate, file.fsync)
        faulting.calm()
        volume.sync()
        with contextlib.suppress(OSError):
            saving.result()
        assert faulting.repairs["conflicts settled"] == 1
        file.close()


def test_an_open_that_a_conflict_refuses_for_good_ends() -> None:
    """No thread settles the conflict: the round has to report it."""
    with PageCache("1MiB") as cache:
        volume = cache.attach(MemoryBackend())
        with volume.open("key", "w+b") as file:
            file.pwrite(b"ours", 0)
            volume.invalidate_remote("key", version="theirs")
            target: Any = SimpleNamespace(
                volume=volume, explained=frozenset(), contested=frozenset({errno.ESTALE}), call_timeout=0.0
            )

            async def opening() -> None:
                async with asyncio.timeout(5.0):
                    await CachedTasks(target)._open("key")

            raises(ConflictError, asyncio.run, opening())
            volume.resolve("key", "discard")
            file.abandon()


def test_the_same_seed_gives_the_same_faults() -> None:
    """Rules, seed and settings of a round depend on the plan alone."""
    first, again, other = (Faulting(Plan(seed=seed, faults="hell"), 3) for seed in (5, 5, 6))
    assert (first.plan, first.config, first.options) == (again.plan, again.config, again.options)
    assert first.plan != other.plan


def test_faults_of_system_calls_are_not_made_and_that_is_said(tmp_path: Path) -> None:
    mix = ("buffered", "append", "truncate")
    report = clean(Plan(seed=1, faults="mild", mix=mix, **SHORT), f"path:{tmp_path}")
    assert report.skipped["faults"] == "system calls are not made to fail"


def full(fields: dict[str, Any], factory: Callable[[], Backend] | None = None) -> bool:
    """Return whether a write of a round may report a full cache."""
    plan = Plan(seed=1, **fields)
    target = CachedTarget(plan, 0, factory, "memory:")
    target.start([b""] * plan.files)
    world = World(plan, target, 0)
    try:
        world.excuse(OSError(errno.ENOBUFS, "the cache is full"), "write", 1)
    except Broken:
        return False
    finally:
        target.give_up()
    return True


def test_a_cache_says_that_it_is_full_only_where_something_fills_it_for_good() -> None:
    """Views, uncommitted objects and failing calls fill it; a script is searched for them. [2.23, 2.24]"""
    crowd: dict[str, Any] = {"profile": "crowd"}
    script = partial(Script, (0,))
    view, read = (((Operation(kind, 0, way),),) for kind, way in (("view", ""), ("read", "buffered")))
    assert not full(crowd)
    assert not full({"profile": "fsx", "mix": "buffered,direct"})
    assert not full({"script": script((read,))})
    assert full({"script": script((read, view))})
    assert full({"profile": "fsx"})
    assert full(crowd | {"faults": "flaky"})
    assert full(crowd | {"crashes": "forgetting"})
    assert full(crowd, lambda: MemoryBackend(BackendLimits(commit_on_close=True)))


def test_a_look_that_faults_refuse_lets_others_go_on_before_it_is_tried_again() -> None:
    """Simulated threads go on in turns: without a pause the repairing thread would never get one."""
    plan = Plan(seed=1, faults="hell")
    world = World(plan, CachedTarget(plan, 0, None, "memory:"), 0)
    world.crashing = True  # every error is explained
    steps = Steps(world, 1)
    steps_of_look = steps._own._read_own("own1-0")
    assert next(steps_of_look) == ("look", "own1-0")
    assert steps_of_look.throw(OSError(errno.EIO, "refused")) == ("pause",)
    assert steps_of_look.send(None) == ("look", "own1-0")
    with pytest.raises(StopIteration) as end:
        steps_of_look.send(b"found")
    assert end.value.value == b"found"


NEW = b"new " * (PAGE // 4)


class Repaired:
    """A volume whose backend has died, to be repaired with a fence, for which the volume is stopped."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.memory = MemoryBackend()
        self.memory.put("file", bytes(PAGE))
        self.faulty = FaultyBackend(self.memory)
        self.cache = PageCache("4MiB", **QUIET)
        self.volume = self.cache.attach(self.faulty, name="volume")
        self.file = self.volume.open("file", "r+b")
        self.file.pwrite(NEW, 0)
        self.faulty.use([Rule("sync", dies=True)])
        raises(OSError, self.faulty.sync)
        self.faulting = Faulting(Plan(), 0)
        self.faulting._volume, self.faulting._backend = self.volume, self.faulty
        monkeypatch.setattr(self.faulting, "_rng", FencedOnly())

    def finish(self) -> None:
        self.cache.check()
        self.file.close()
        self.cache.close(timeout=20)


class FencedOnly:
    """Chances: a fence, and no other end to all waits."""

    def __init__(self) -> None:
        self._numbers = iter((0.0, 0.9))

    def random(self) -> float:
        return next(self._numbers)


def test_a_write_that_begins_as_soon_as_the_backend_takes_calls_again_does_not_land_after_a_fence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The volume is stopped before, so it makes no such write."""
    repaired = Repaired(monkeypatch)
    revive, threads = repaired.faulty.revive, repaired.volume.engine.runner._threads
    saving: list[Task[None]] = []
    write_from = MemoryFile.write_from
    with Gate() as gate:

        def on_its_way(file: MemoryFile, offset: int, buffers: Sequence[memoryview]) -> int:
            """A call that has begun in the store, like a system call: its bytes cannot be revoked."""
            data = b"".join(buffers)
            gate.enter()
            return write_from(file, offset, [memoryview(data)])

        def revived() -> None:
            monkeypatch.setattr(MemoryFile, "write_from", on_its_way)
            repaired.faulty.use([])
            revive()
            saving.append(Task(repaired.file.fsync))
            eventually(lambda: saving[0].finished.is_set() or gate.entered > 0)

        monkeypatch.setattr(repaired.faulty, "revive", revived)
        repaired.faulting._reconnect()
        Task(repaired.file.punch_hole, 0, PAGE).result()
    raises(ShutdownError, saving[0].result)
    eventually(lambda: not any(thread.is_alive() for thread in threads))  # they have sent everything
    assert repaired.memory.snapshot("file") == bytes(PAGE)
    repaired.finish()


def test_no_fence_is_claimed_while_a_rename_is_on_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may come to the backend after the fence."""
    repaired = Repaired(monkeypatch)
    repaired.faulty.revive()
    claims: list[bool] = []
    reconnect = repaired.volume.reconnect

    def reconnected(backend: Any, *, fenced: bool) -> None:
        claims.append(fenced)
        reconnect(backend, fenced=fenced)

    monkeypatch.setattr(repaired.volume, "reconnect", reconnected)
    with Gate() as gate:
        repaired.faulty.use([Rule("rename", nth=1, gate=gate)])
        renaming = Task(repaired.volume.rename, "file", "moved")
        gate.wait_entered()
        repaired.faulting._reconnect()
        raises(ShutdownError, renaming.result)
    repaired.file.fsync()
    assert claims == [False]
    assert repaired.memory.snapshot("moved") == NEW
    repaired.finish()


LIMITS = BackendLimits(write_unit=4096)
WHOLE = replace(LIMITS, commit_on_close=True)


def whole() -> Backend:
    return ForgettingBackend(MemoryBackend(LIMITS), WHOLE)


@pytest.mark.long
@pytest.mark.parametrize("seed", [4, 5, 6])
def test_a_run_under_all_faults_on_objects_that_are_replaced_as_a_whole_is_clean(seed: int) -> None:
    """[I-17, I-18, I-22]"""
    clean(Plan(seed=seed, faults="hell", **SHORT), whole)


def test_the_tester_stores_no_other_version_of_an_object_that_is_replaced_as_a_whole() -> None:
    """Handles of the old one would end, and cut bytes would come back; the report says so. [2.19]"""
    plan = Plan(seed=1, faults="hell", **SHORT)
    objects, other = CachedTarget(plan, 0, whole, "python:"), CachedTarget(plan, 0, MemoryBackend, "python:")
    assert not any(rule.change for rule in objects.faulting.plan.rules)
    assert any(rule.dies for rule in objects.faulting.plan.rules)
    assert "another version" in objects.skipped
    assert any(rule.change for rule in other.faulting.plan.rules)
    assert "another version" not in other.skipped


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
    report = clean(Plan(**FIELDS, tasks=2, operations=40, rounds=2), store())
    assert report.counters["uploads given up"] == 2
