"""Asynchronous backends under stress: used on the loop of the cache, and read through a second backend."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from pagecache import AsyncBackend, Backend, BackendLimits, ObjectStat
from pagecache.backends import AsyncBackendFile, BackendFile, DirectoryBackend, MemoryBackend
from pagecache.errors import BackendError, Key
from pagecache.stress import Plan, Report, run
from pagecache.stress.asynchronous import Elsewhere
from pagecache.stress.cached import CachedTarget
from pagecache.stress.job import Run

from .test_faults import KINDS, MISTAKES, with_rules

FIELDS: dict[str, Any] = {"threads": 2, "tasks": 4, "files": 2, "size": "64KiB", "capacity": "128KiB", "operations": 40}


class Folder(AsyncBackend):
    """A store used by coroutines of the loop that first used it: on another one it raises."""

    def __init__(self, inner: Backend, *, late: bool = False) -> None:
        self.inner = inner
        self.limits = BackendLimits()
        self.late = late
        self.loop: asyncio.AbstractEventLoop | None = None

    async def here(self) -> None:
        loop = asyncio.get_running_loop()
        self.loop = self.loop or loop
        assert self.loop is loop, "called on two loops"
        await asyncio.sleep(0)

    async def open(self, key: Key, *, create: bool = False, exclusive: bool = False) -> AsyncBackendFile:
        await self.here()
        return Piece(self, self.inner.open(key, create=create, exclusive=exclusive))

    async def stat(self, key: Key) -> ObjectStat:
        await self.here()
        return self.inner.stat(key)

    async def remove(self, key: Key) -> None:
        await self.here()
        self.inner.remove(key)

    async def rename(self, src: Key, dst: Key, *, replace: bool = True) -> None:
        await self.here()
        self.inner.rename(src, dst, replace=replace)

    async def list(self, prefix: str = "") -> AsyncIterator[ObjectStat]:
        for stat in self.inner.list(prefix):
            yield stat

    async def sync(self) -> None:
        await self.here()
        self.inner.sync()

    async def close(self) -> None:
        self.inner.close()


class Piece(AsyncBackendFile):
    def __init__(self, folder: Folder, inner: BackendFile) -> None:
        self.folder, self.inner = folder, inner
        self.waiting: dict[int, bytes] = {}

    async def stat(self) -> ObjectStat:
        await self.folder.here()
        return self.inner.stat()

    async def read_into(self, offset: int, buffers: Sequence[memoryview]) -> int:
        await self.folder.here()
        self.write_out()
        return self.inner.read_into(offset, buffers)

    async def write_from(self, offset: int, buffers: Sequence[memoryview]) -> int:
        await self.folder.here()
        if not self.folder.late:
            return self.inner.write_from(offset, buffers)
        data = b"".join(buffers)
        self.write_out()
        end = offset + len(data)
        if end > self.inner.stat().size:
            self.inner.truncate(end)
        self.waiting[offset] = data
        return len(data)

    def write_out(self) -> None:
        while self.waiting:
            offset, data = self.waiting.popitem()
            self.inner.write_from(offset, [memoryview(data)])

    async def truncate(self, size: int) -> None:
        await self.folder.here()
        self.write_out()
        self.inner.truncate(size)

    async def commit(self) -> str | None:
        await self.folder.here()
        return self.inner.commit()


def plan(**fields: Any) -> Plan:
    return Plan(**({"seed": 1, "duration": 1, "rounds": 1} | FIELDS | fields))


@pytest.mark.long
def test_an_asynchronous_backend_is_clean_on_the_loop_of_the_cache(tmp_path: Path) -> None:
    """Each backend runs on one loop: that of the cache, or that of the reader of stored bytes. [I-17, I-18, I-22]"""
    report = run(plan(), lambda: Folder(DirectoryBackend(tmp_path)))
    assert report.ok, f"{report.story}\n{report.replay}"
    assert "coroutines on the event loop of the cache" not in report.skipped
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
def test_an_asynchronous_backend_that_acknowledges_too_early_is_found(tmp_path: Path) -> None:
    """It shows its last write to its own readers; another backend that reads the same directory does not find it.
    [I-18]
    """
    report = run(plan(duration=99, rounds=0, profile="database"), lambda: Folder(DirectoryBackend(tmp_path), late=True))
    assert (report.ok, report.kind) == (False, "data"), report.story
    assert "the store after" in report.story


def ran(factory: Callable[[], AsyncBackend]) -> tuple[Report, CachedTarget]:
    """A run of one round, with its target."""
    targets: list[CachedTarget] = []

    def make(asked: Plan, number: int) -> CachedTarget:
        targets.append(CachedTarget(asked, number, factory, "asynchronous"))
        return targets[-1]

    return Run(plan(), make=make).run(), targets[0]


@pytest.mark.long
def test_one_that_has_a_store_of_its_own_is_used_by_the_cache_and_by_the_tester() -> None:
    """Only the cache's backend could read it otherwise. The cache still has an asynchronous one. [I-17, I-18]"""
    report, target = ran(lambda: Folder(MemoryBackend()))
    assert report.ok, report.story
    assert "a store of its own each time" in report.skipped["coroutines on the event loop of the cache"]
    assert isinstance(target.volume.backend, AsyncBackend)


@pytest.mark.long
def test_a_store_that_forgets_lies_below_coroutines_too(tmp_path: Path) -> None:
    """Crash after crash, the cache is connected again or made anew, with an asynchronous backend. [I-21, K2]"""
    report = run(plan(crashes=("forgetting",)), lambda: Folder(DirectoryBackend(tmp_path)))
    assert report.ok, report.story
    assert report.counters["crashes: forgetting"] == 3
    assert "something that blocks lies in between" in report.skipped["coroutines on the event loop of the cache"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
def test_a_process_with_an_asynchronous_backend_is_killed_and_its_store_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes that an fsync made durable are there for the next process. [I-21]"""
    monkeypatch.setenv("PAGECACHE_STRESS_FOLDER", str(tmp_path))
    report = run(plan(crashes=("killed",)), "python:tests.stress.test_asynchronous:folder_of_the_environment")
    assert report.ok, report.story
    assert report.counters["crashes: killed"] > 0
    assert list(tmp_path.iterdir()) == []


def folder_of_the_environment() -> Folder:
    return Folder(DirectoryBackend(os.environ["PAGECACHE_STRESS_FOLDER"]))


# -- faults


@pytest.mark.long
@pytest.mark.parametrize("own", [False, True], ids=["its own on the loop", "one for both"])
@pytest.mark.parametrize("faults", ["mild", "nasty", "hell"])
def test_a_short_run_of_an_asynchronous_backend_under_each_level_of_faults_is_clean(faults: str, own: bool) -> None:
    """[I-17, I-18, I-19, I-20, I-22]"""
    store = MemoryBackend()
    report = run(plan(faults=faults), lambda: Folder(MemoryBackend() if own else store))
    assert report.ok, f"{report.story}\n{report.replay}"
    assert ("coroutines on the event loop of the cache" in report.skipped) == own


@pytest.mark.long
@pytest.mark.parametrize("name", KINDS)
def test_a_run_of_an_asynchronous_backend_with_one_kind_of_fault_is_clean(name: str) -> None:
    """Death is survived, and conflicts are settled, as with one that blocks. [I-17, I-18, I-22]"""
    store = MemoryBackend()
    report = with_rules(*KINDS[name], factory=lambda: Folder(store))
    assert report.ok, report.story
    if name.startswith("death"):
        assert report.counters["deaths survived"] > 0
    if name == "a version refused":
        assert report.counters["conflicts settled"] > 0


@pytest.mark.long
@pytest.mark.parametrize("name", MISTAKES)
def test_discarded_accepted_bytes_are_found_with_an_asynchronous_backend(name: str) -> None:
    """The check is as strict as with a blocking backend. [I-22, K1]"""
    kind, faulting = MISTAKES[name]
    store, mix = MemoryBackend(), ("buffered", "append", "truncate", "hints")
    report = with_rules(*KINDS[kind], faulting=faulting, mix=mix, operations=200, factory=lambda: Folder(store))
    assert not report.ok
    assert report.kind == "data" or "reports an unexplained loss" in report.story, report.story


class Reluctant(Folder):
    """A backend that refuses every write once, and says that a retry may help."""

    async def open(self, key: Key, *, create: bool = False, exclusive: bool = False) -> AsyncBackendFile:
        await self.here()
        return ReluctantPiece(self, self.inner.open(key, create=create, exclusive=exclusive))


class ReluctantPiece(Piece):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.asked: set[int] = set()  # offsets: if two calls go out each time, every other one would fail forever

    async def write_from(self, offset: int, buffers: Sequence[memoryview]) -> int:
        if offset not in self.asked:
            self.asked.add(offset)
            raise BackendError(errno.EBUSY, "not now", retry=True, retry_after=0.001)
        self.asked.remove(offset)
        return await super().write_from(offset, buffers)


@pytest.mark.long
def test_refusals_of_an_asynchronous_backend_are_explained() -> None:
    """A call that gives up may raise its error, whatever the faults. [I-17, I-18]"""
    store = MemoryBackend()
    report, target = ran(lambda: Reluctant(store))
    assert report.ok, report.story
    assert target.refused == {errno.EBUSY} <= target.explained


# -- one that blocks, as one of coroutines


def test_a_call_that_is_cancelled_is_over_when_its_thread_is() -> None:
    """The call uses its buffers until then, and the store still changes. [K7]"""

    class Slow(MemoryBackend):
        def sync(self) -> None:
            entered.set()
            assert release.wait(60)
            over.append(True)

    async def cancelled() -> None:
        calling = asyncio.ensure_future(Elsewhere(Slow()).sync())
        await asyncio.to_thread(entered.wait, 60)
        calling.cancel()
        for _ in range(10):
            await asyncio.sleep(0)
        assert not calling.done()
        release.set()
        with pytest.raises(asyncio.CancelledError):
            await calling
        assert over

    entered, release, over = threading.Event(), threading.Event(), list[bool]()
    asyncio.run(cancelled())


def test_an_object_elsewhere_has_what_the_inner_one_has() -> None:
    """Optional methods exist, as coroutines, if the inner one has them."""

    async def asked() -> None:
        file: Any = await Elsewhere(MemoryBackend()).open("f", create=True)
        await file.write_from(0, [memoryview(b"0123456789")])
        await file.punch_hole(2, 3)
        room = bytearray(10)
        assert await file.read_into(0, [memoryview(room)]) == 10
        assert room == b"01\0\0\x0056789"
        assert not hasattr(file, "stage")
        assert not hasattr(file, "snapshot")

    asyncio.run(asked())


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("own", [False, True], ids=["its own on the loop", "one for both"])
@pytest.mark.parametrize("faults", ["none", "mild", "nasty", "hell"])
def test_runs_of_an_asynchronous_backend_under_each_level_of_faults_are_clean(faults: str, own: bool) -> None:
    """[I-17, I-18, I-19, I-20, I-22]"""
    store = MemoryBackend()
    report = run(Plan(faults=faults, duration=10), lambda: Folder(MemoryBackend() if own else store))
    assert report.ok, f"{report.story}\n{report.replay}"
