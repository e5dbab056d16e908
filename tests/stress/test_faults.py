"""Faults under stress: no alarm if a fault explains the outcome, and one if none does."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pagecache import AsyncBackend, Backend, BackendFile, ConflictError, Event, ObjectStat, PageCache
from pagecache.backends import MemoryBackend
from pagecache.backends.passing import PassingBackend, PassingFile
from pagecache.backends.protocol import BackendLimits
from pagecache.errors import BackendError, Key
from pagecache.stress import Plan, Report, run
from pagecache.stress.cached import CachedTarget
from pagecache.stress.cached_tasks import CachedTasks
from pagecache.stress.faulting import Faulting, explained
from pagecache.stress.history import Broken
from pagecache.stress.job import Run
from pagecache.stress.profiles import PROFILES, Operation
from pagecache.stress.script import Script
from pagecache.stress.steps import Steps
from pagecache.stress.world import World
from pagecache.testing import FaultPlan, FaultyBackend, Gate, Rule
from pagecache.testing.fault_profiles import PROFILES as FAULTS

from ..file.rig import at_gate, eventually, raises
from ..stores import ObjectBackend
from .test_clean import SHORT, clean

LEVELS = ("mild", "nasty", "hell")
TINY: dict[str, Any] = dict.fromkeys(("write_unit", "read_unit"), 512) | {"max_write": 1024, "max_read": 1024}
TINY |= {"max_vectors": 1, "max_inflight": 1, "boundary": 2048}


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
    clean(Plan(profile=profile, faults=faults, **fields), f"dir:{tmp_path}" if on_disk else None)


@pytest.mark.long
@pytest.mark.parametrize("faults", LEVELS)
def test_a_short_run_with_faults_on_a_directory_is_clean(tmp_path: Path, faults: str) -> None:
    """[I-18, I-22]"""
    clean(Plan(seed=12, faults=faults, **SHORT), f"dir:{tmp_path}")
    assert list(tmp_path.iterdir()) == []


class Nameless(PassingFile):
    def stat(self) -> ObjectStat:
        return replace(self.inner.stat(), version=None)

    def commit(self) -> str | None:
        self.inner.commit()
        return None


class NoVersions(PassingBackend):
    """Objects have no version."""

    def open(self, key: Key, *, create: bool = False, exclusive: bool = False) -> BackendFile:
        return Nameless(self.inner.open(key, create=create, exclusive=exclusive))

    def stat(self, key: Key) -> ObjectStat:
        return replace(self.inner.stat(key), version=None)

    def list(self, prefix: str = "") -> Iterable[ObjectStat]:
        return (replace(stat, version=None) for stat in self.inner.list(prefix))


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


class TinyLimits(PassingBackend):
    """Calls of at most two small units in one buffer, one at a time, within a boundary."""


@pytest.mark.long
@pytest.mark.parametrize("wrap", [NoVersions, RestlessLimits, TinyLimits])
def test_a_store_that_is_nasty_and_legal_raises_no_alarm(wrap: type[PassingBackend]) -> None:
    """It raises none by itself, and none under faults. [I-17, I-18, I-22]"""
    for faults in ("none", "nasty"):
        inner = MemoryBackend(**TINY if wrap is TinyLimits else {})
        report = run(Plan(seed=13, faults=faults, **SHORT), partial(wrap, inner))
        assert report.ok, report.story


# -- one kind at a time


def with_rules(
    *rules: Rule,
    kind: type[CachedTarget] = CachedTarget,
    faulting: Any = Faulting,
    factory: Callable[[], Backend | AsyncBackend] | None = None,
    **plan: Any,
) -> Report:
    """A run whose calls fail by the given rules only."""

    def make(asked: Plan, number: int) -> CachedTarget:
        target = kind(asked, number, factory, "memory:")
        found: Faulting = faulting(asked, number)
        found.plan = FaultPlan(rules, seed=5)
        found.explained = explained(rules)
        found.loses_direct = any(rule.dies for rule in rules)
        found.repairing = True
        target.faulting, target.repairs, target.loses_direct = found, found.repairs, found.loses_direct
        return target

    fields: dict[str, Any] = SHORT | {"operations": 100, "seed": 14, "faults": "mild", "duration": 60} | plan
    return Run(Plan(**fields), make=make).run()


def stays() -> BaseException:
    return BackendError(errno.EIO, "made up", retry=False)


KINDS: dict[str, tuple[Rule, ...]] = {
    "death": (Rule(("write", "commit"), dies=True, chance=0.02),),
    "death after the work": (Rule(("write", "commit"), dies=True, done=True, chance=0.02),),
    "another version": (Rule(("open", "stat"), change=True, chance=0.3),),
    "a version refused": (Rule(("write", "commit"), change=True, error=errno.ESTALE, chance=0.03),),
    "no space": (Rule(("write", "truncate"), spells=(40, 12), error=errno.ENOSPC),),
    "commits that fail": (Rule("commit", error=stays, chance=0.3),),
    "errors that stay": (Rule(("read", "write", "truncate", "punch"), error=stays, chance=0.05),),
    "lost answers": (Rule(("write", "commit", "truncate"), error=errno.EIO, done=True, chance=0.2),),
    "duplicates": (Rule(("write", "commit", "truncate", "punch"), twice=True, chance=0.5),),
    "answers out of order": (Rule(("read", "write", "commit"), delay=0.001, longest=0.01, done=True, chance=0.2),),
    "wrong answers": FAULTS["hostile"],
}


@pytest.mark.long
@pytest.mark.parametrize("name", KINDS)
def test_a_run_with_one_kind_of_fault_is_clean(name: str) -> None:
    """[I-17, I-18, I-22]"""
    report = with_rules(*KINDS[name])
    assert report.ok, report.story
    if name.startswith("death"):
        assert report.counters["deaths survived"] > 0
    if name == "a version refused":
        assert report.counters["conflicts settled"] > 0


# -- failures without an explaining fault


class GivesUpAtDeath(Faulting):
    """Accepted bytes are given up before the volume is reconnected."""

    def _reconnect(self) -> None:
        for inode in self._volume.engine.files():
            self._volume.discard(inode.key)
        super()._reconnect()


class GivesInToOthers(Faulting):
    """Local bytes are given up for the version of another client."""

    def _settle(self, key: Any) -> None:
        self._volume.resolve(key, "discard")


class GivesUpWhatFailed(Faulting):
    """Bytes that a full store refused are given up."""

    def _heard(self, event: Event) -> None:
        if event.kind == "parked" and event.key is not None:
            self._volume.discard(event.key)


MISTAKES: dict[str, tuple[str, type[Faulting]]] = {
    "death": ("death", GivesUpAtDeath),
    "another version": ("a version refused", GivesInToOthers),
    "no space": ("errors that stay", GivesUpWhatFailed),
}


@pytest.mark.long
@pytest.mark.parametrize("name", MISTAKES)
def test_accepted_bytes_that_were_discarded_after_a_fault_are_found(name: str) -> None:
    """The cache keeps accepted bytes, whatever failed. [I-22, K1]"""
    kind, faulting = MISTAKES[name]

    mix = ("buffered", "append", "truncate", "hints")
    report = with_rules(*KINDS[kind], faulting=faulting, mix=mix, operations=200)
    assert not report.ok
    assert report.kind == "data" or "reports an unexplained loss" in report.story, report.story


def test_an_error_that_no_fault_explains_is_an_alarm() -> None:
    """It names the operation and the error."""

    class Refusing(CachedTarget):
        def punch(self, file: int, way: str, offset: int, length: int) -> None:
            raise PermissionError(errno.EACCES, "not allowed")

    report = with_rules(*FAULTS["nasty"], kind=Refusing)
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
    report = run(Plan(seed=1, faults="mild", mix=mix, **SHORT), f"path:{tmp_path}")
    assert report.ok, report.story
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
