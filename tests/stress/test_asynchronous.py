"""Asynchronous backends under stress: each call waits for its coroutine."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from pagecache import AsyncBackend, Backend, BackendLimits, ObjectStat
from pagecache.backends import AsyncBackendFile, BackendFile, DirectoryBackend, MemoryBackend
from pagecache.errors import BackendError, Key
from pagecache.stress import Plan, run

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
def test_an_asynchronous_backend_is_clean(tmp_path: Path) -> None:
    """All of its calls run on one loop. [I-17, I-18, I-22]"""
    report = run(plan(), lambda: Folder(DirectoryBackend(tmp_path)))
    assert report.ok, f"{report.story}\n{report.replay}"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
def test_an_asynchronous_backend_that_acknowledges_too_early_is_found(tmp_path: Path) -> None:
    """An open file shows its last write to its own readers; another one of the same object does not find it. [I-18]"""
    report = run(plan(duration=99, rounds=0, profile="database"), lambda: Folder(DirectoryBackend(tmp_path), late=True))
    assert (report.ok, report.kind) == (False, "data"), report.story
    assert "the store after" in report.story


@pytest.mark.long
def test_a_store_that_forgets_lies_over_coroutines_too(tmp_path: Path) -> None:
    """Crash after crash, the cache is connected again or made anew. [I-21, K2]"""
    report = run(plan(crashes=("forgetting",)), lambda: Folder(DirectoryBackend(tmp_path)))
    assert report.ok, report.story
    assert report.counters["crashes: forgetting"] == 3
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


@pytest.mark.long
@pytest.mark.parametrize("faults", ["nasty", "hell"])
def test_a_short_run_of_an_asynchronous_backend_with_faults_is_clean(faults: str) -> None:
    """Death is survived, and conflicts are settled, as with one that blocks. [I-17, I-18, I-19, I-20, I-22]"""
    store = MemoryBackend()
    report = run(plan(faults=faults), lambda: Folder(store))
    assert report.ok, f"{report.story}\n{report.replay}"


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
    report = run(plan(), lambda: Reluctant(store))
    assert report.ok, report.story
