"""No false alarm: each profile on the cache over memory and a directory, on real file systems, on asynchronous
backends, and on stores with few operations; and in the long runs of `make soak`.

PAGECACHE_SOAK_SECONDS sets the time of one kind of hell or crashes, instead of ten minutes; all profiles together take
six times that.
"""

from __future__ import annotations

import asyncio
import errno
import io
import os
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pagecache import AsyncBackendFile, Backend, BackendError, BackendFile, BackendLimits, CommitError, ObjectStat
from pagecache.backends import DirectoryBackend, MemoryBackend
from pagecache.backends.passing import PassingBackend
from pagecache.errors import Key
from pagecache.stress import Plan, Report
from pagecache.stress.cached import CachedTarget
from pagecache.stress.content import made
from pagecache.stress.forgetting import ForgettingBackend
from pagecache.stress.history import Model, Write
from pagecache.stress.mounted import MountedTarget
from pagecache.stress.objects import Objects
from pagecache.stress.profiles import PROFILES
from pagecache.stress.world import World
from pagecache.target import Target
from pagecache.testing import FaultPlan, FaultyBackend, Rule

from ..aio.over import Over
from ..check_backend.backends import UndoesRemovals
from ..file.rig import raises
from ..planted.settings import always
from . import clean

SHORT: dict[str, Any] = {
    "threads": 4, "tasks": 6, "files": 2, "size": "256KiB", "capacity": "256KiB", "operations": 40, "rounds": 1,
    "duration": 1,
}  # fmt: skip


def busy(plan: Plan, target: str | None = None) -> Report:
    report = clean(plan, target)
    assert report.counters["operations"] > 100
    return report


@pytest.mark.long
@pytest.mark.parametrize("profile", PROFILES)
def test_a_short_run_of_each_profile_is_clean(profile: str) -> None:
    """The test uses the cache over memory. [I-17, I-18, I-19, I-20, I-22]"""
    busy(Plan(seed=1, profile=profile, **SHORT))


@pytest.mark.parametrize("size", [4096, 5000, 9000, 16383])
def test_files_of_a_page_are_clean(size: int) -> None:
    """Operations after the last rest of a round also stay within them."""
    plan = Plan(**SHORT | {"seed": 1, "threads": 1, "tasks": 0, "files": 1, "size": size, "rounds": 4, "duration": 60})
    report = clean(plan)
    assert report.counters["backends outlived"] > 0


def test_a_file_that_is_longer_than_operations_go_is_read_to_its_end(tmp_path: Path) -> None:
    """Appends that run side by side each see room that is too small for all of them together."""
    plan = Plan(**SHORT | {"seed": 1, "threads": 1, "tasks": 0, "files": 1, "size": 4096})
    target = MountedTarget(plan, 0, str(tmp_path))
    world = World(plan, target, 0)
    length = 3 * world.reach
    world.models.append(Model(0, Write("content", "", 0, 0, 0, world.tag, 0, length), world.clock))
    target.start([made(world.tag, 0, 0, 0, 0, length)])
    world.rest(cold=True)
    world.end()


@pytest.mark.smoke("stress")
def test_a_short_run_on_a_directory_is_clean(tmp_path: Path) -> None:
    """The store is read without the cache, and empty afterwards. [I-18, I-22]"""
    busy(Plan(seed=1, **SHORT), f"dir:{tmp_path}")
    assert list(tmp_path.iterdir()) == []


def test_a_loss_that_a_close_reports_is_no_alarm_if_calls_fail() -> None:
    """A commit that fails may have taken direct writes with it; idle handles report that last, when they are closed."""
    target = CachedTarget(Plan(seed=2, faults="flaky", **SHORT), 0, None, "memory:")
    target.start([bytes(64 << 10)])
    target.faults.use([Rule("commit", error=errno.EACCES)])
    target.handle(0, "direct").pwrite(bytes(8 << 10), 0)
    with pytest.raises(CommitError):
        target.handle(0, "buffered").fsync()
    target.calm()
    target.close()


@pytest.mark.parametrize("folder", ["/dev/shm", ""])
def test_system_calls_on_a_real_file_system_are_clean(tmp_path: Path, folder: str) -> None:
    """The test uses tmpfs, and the file system of temporary files."""
    if folder and not os.path.isdir(folder):
        pytest.skip(f"no {folder} here")
    busy(Plan(seed=1, **SHORT), f"path:{folder or tmp_path}")


@pytest.mark.parametrize("scheme", ["dir:", "path:"])
def test_remains_of_a_run_with_a_finding_are_no_alarm_of_the_next(tmp_path: Path, scheme: str) -> None:
    """It left longer files, and names that the next run has not made yet."""
    short: dict[str, Any] = dict(SHORT) | {"seed": 11, "profile": "metadata"}
    plan = Plan(**short)
    folder = tmp_path if scheme == "dir:" else tmp_path / "pagecache-stress-11-0"
    folder.mkdir(exist_ok=True)
    prefix = "pagecache-stress-11-0-" if scheme == "dir:" else ""
    files = (f"file{number}" for number in range(plan.files + 2))  # with a foreign writer's and a rival's
    for name in (*files, *(f"own{worker}-{number}" for worker in range(1, 11) for number in range(3))):
        (folder / f"{prefix}{name}").write_bytes(b"left" * 100_000)
    busy(plan, f"{scheme}{tmp_path}")
    assert list(tmp_path.iterdir()) == []


def test_the_files_of_a_run_are_removed_durably() -> None:
    """The store undoes removals that nothing has made durable."""
    busy(Plan(seed=1, **SHORT), "python:tests.check_backend.backends:UndoesRemovals")
    assert list(UndoesRemovals.store.list()) == []


FEW: dict[str, Any] = {"threads": 1, "tasks": 0, "files": 1, "size": "64KiB", "capacity": "256KiB", "operations": 5}


def few_operations(**fields: Any) -> Plan:
    few: dict[str, Any] = {"seed": 1, "duration": 60, "mix": ("buffered",)}
    return Plan(**few | FEW | fields)


@pytest.mark.long
def test_a_backend_is_outlived_by_its_calls_and_syncs_beside_writers_that_never_stop_return() -> None:
    """Nothing is found; no thread is left. The syncs are fsync, sync and a ticket. [T-63, T-75b, I-19]"""
    report = clean(few_operations(rounds=6))
    assert report.counters["backends outlived"] >= 2
    assert report.counters["syncs beside writers"] == 6
    assert [one.name for one in threading.enumerate() if one.name == "stress-directed"] == []


def test_a_handle_may_report_a_refusal_of_the_backend_before_the_last_one() -> None:
    """A commit that fails takes direct writes along; each handle reports it with its next call [2.9, I-22]."""
    refused = partial(BackendError, errno.EIO, "no answer", retry=True, retry_after=0.0)
    flaky = Rule("commit", error=refused, done=True, chance=0.3)
    for seed in (4, 5, 8):
        asked = few_operations(seed=seed, files=2, operations=40, rounds=1, mix=("buffered", "direct"))
        store = FaultyBackend(MemoryBackend(), FaultPlan([flaky], seed=1))
        report = clean(asked, always(store))
        assert report.counters["backends outlived"] == 2


SECONDS = float(os.environ.get("PAGECACHE_SOAK_SECONDS", "600"))
LONG: dict[str, dict[str, Any]] = {
    **{profile: {"profile": profile, "duration": 6 * SECONDS / len(PROFILES)} for profile in PROFILES},
    **{f"hell {place}": {"faults": "hell"} for place in ("in memory", "on a directory")},
    **{f"{kind} on a directory": {"crashes": (kind,)} for kind in ("killed", "forgetting")},
}


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", LONG)
def test_long_runs_are_clean(tmp_path: Path, name: str) -> None:
    """[I-17, I-18, I-19, I-20, I-21, I-22]"""
    report = busy(Plan(**{"duration": SECONDS} | LONG[name]), f"dir:{tmp_path}" if "directory" in name else None)
    print(report.story.splitlines()[0], f"seed {report.replay['plan']['seed']}", sep="\n")


HERE = "python:tests.stress.test_clean"
WHERE = "PAGECACHE_FEW_OPERATIONS"


def short_plan(**fields: Any) -> Plan:
    few: dict[str, Any] = {"threads": 2, "tasks": 0, "files": 2, "size": "64KiB", "capacity": "128KiB"}
    return Plan(**({"seed": 1, "duration": 1, "rounds": 1, "operations": 40} | few | fields))


class Bare(Backend):
    """A store with reads and writes only, over a directory; its only names are those that it makes."""

    def __init__(self, inner: Backend) -> None:
        self.inner = inner
        self.limits = BackendLimits()

    def open(self, key: Key, *, create: bool = False, exclusive: bool = False) -> BackendFile:
        return self.inner.open(key, create=create, exclusive=exclusive)

    def stat(self, key: Key) -> ObjectStat:
        return self.inner.stat(key)


class Removing(Bare):
    """A Bare store that can remove objects, and not rename them."""

    def remove(self, key: Key) -> None:
        self.inner.remove(key)


@pytest.mark.long
@pytest.mark.parametrize("kind", [Bare, Removing])
def test_a_store_that_forgets_and_has_no_renames_is_clean(tmp_path: Path, kind: type[Bare]) -> None:
    """The report lists the operations that the store lacks, with crashes and without. [I-21]"""
    expected = f"{kind.__name__} cannot rename objects"
    for crashes in ("none", "forgetting"):
        asked = short_plan(crashes=(crashes,), profile="metadata", operations=60)
        report = clean(asked, lambda: kind(DirectoryBackend(tmp_path)))
        # None: a crash ended each publish before its rename
        assert report.skipped.get("publish") in (expected, *((None,) if crashes == "forgetting" else ()))


def test_a_store_that_forgets_refuses_the_names_that_the_store_below_refuses(tmp_path: Path) -> None:
    """The error is the sentence of that store, before any bytes change. [I-21]"""
    bare = Bare(DirectoryBackend(tmp_path))
    objects = Objects(short_plan(), 1, bare, "bare")
    objects.try_keys()
    store = ForgettingBackend(bare, cannot=objects.cannot)
    raises(io.UnsupportedOperation, store.rename, "a", "b", match=r"Bare cannot rename objects$")
    raises(io.UnsupportedOperation, store.remove, "a", match=r"Bare cannot remove objects$")


def test_the_same_seed_again_is_clean_on_a_store_where_nothing_can_be_removed(tmp_path: Path) -> None:
    """Objects of earlier runs stay as they are."""
    for runs in (1, 2, 3):
        report = clean(short_plan(), lambda: Bare(DirectoryBackend(tmp_path)))
        assert len({path.name.rpartition("-file")[0] for path in tmp_path.glob("*-file0")}) == runs
        assert report.skipped["removal of the files"] == "Bare cannot remove objects"


MADE: list[Any] = []
CLOSED: list[Any] = []


class Counted(PassingBackend):
    def close(self) -> None:
        CLOSED.append(self)


def counted() -> Backend:
    MADE.append(Counted(DirectoryBackend(os.environ[WHERE])))
    return MADE[-1]  # type: ignore[no-any-return]


def only_one() -> Backend:
    if MADE:
        raise BlockingIOError(errno.EAGAIN, "the store is locked")
    MADE.append(MemoryBackend())
    return MADE[0]  # type: ignore[no-any-return]


def test_a_second_backend_that_the_factory_gave_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is never used later: what it has read may be outdated then. One that cannot be made is no failure: its users
    lock the store.
    """
    monkeypatch.setenv(WHERE, str(tmp_path))
    MADE.clear()
    CLOSED.clear()
    target = Target(f"{HERE}:counted", {})
    assert target.make() is MADE[0]
    assert MADE[1:] == CLOSED
    assert target.make() is MADE[-1]
    assert len(MADE) == 3
    MADE.clear()
    assert isinstance(Target(f"{HERE}:only_one", {}).make(), MemoryBackend)


class OneLoop(Over):
    """A store used by coroutines of the loop that first used it: on another one it raises."""

    def __init__(self, inner: Backend) -> None:
        super().__init__(inner)
        self.loop: asyncio.AbstractEventLoop | None = None

    def here(self) -> None:
        loop = asyncio.get_running_loop()
        self.loop = self.loop or loop
        assert self.loop is loop, "called on two loops"

    async def open(self, key: Key, *, create: bool = False, exclusive: bool = False) -> AsyncBackendFile:
        self.here()
        return await super().open(key, create=create, exclusive=exclusive)

    async def stat(self, key: Key) -> ObjectStat:
        self.here()
        return await super().stat(key)


def folder_of_the_environment() -> OneLoop:
    return OneLoop(DirectoryBackend(os.environ[WHERE]))


@pytest.mark.long
@pytest.mark.parametrize(
    ("fields", "counter"),
    [
        ({}, ""),
        ({"crashes": ("forgetting",)}, "crashes: forgetting"),
        ({"crashes": ("killed",)}, "crashes: killed"),
        ({"faults": "nasty"}, ""),
        ({"faults": "hell"}, ""),
    ],
)
def test_an_asynchronous_backend_is_clean(
    fields: dict[str, Any], counter: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of its calls run on one loop. With crashes the next process or cache finds saved bytes; with faults death is
    survived, and conflicts are settled, as with one that blocks. [I-17, I-18, I-19, I-20, I-21, I-22, K2]
    """
    monkeypatch.setenv(WHERE, str(tmp_path))
    report = clean(short_plan(tasks=4, **fields), f"{HERE}:folder_of_the_environment")
    assert not counter or report.counters[counter] == 3
    assert list(tmp_path.iterdir()) == []
