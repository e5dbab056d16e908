"""Asynchronous backends under stress: on the loop of the cache, read through another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from pagecache import AsyncBackend, Backend, BackendLimits, ObjectStat
from pagecache.backends import AsyncBackendFile, BackendFile, DirectoryBackend, MemoryBackend
from pagecache.errors import Key
from pagecache.stress import Plan, run

FIELDS: dict[str, Any] = {"threads": 2, "tasks": 4, "files": 2, "size": "64KiB", "capacity": "128KiB", "operations": 40}


class Folder(AsyncBackend):
    """A store, by coroutines of the loop that it was first used on: on another one it raises."""

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


def test_an_asynchronous_backend_is_clean_on_the_loop_of_the_cache(tmp_path: Path) -> None:
    """Each backend on one loop: that of the cache, or that of who reads what is stored. [I-17, I-18, I-22]"""
    report = run(plan(), lambda: Folder(DirectoryBackend(tmp_path)))
    assert report.ok, f"{report.story}\n{report.replay}"
    assert "the loop of the cache" not in report.skipped
    assert list(tmp_path.iterdir()) == []


def test_an_asynchronous_backend_that_acknowledges_too_early_is_found(tmp_path: Path) -> None:
    """It shows its last write to all who ask it; another one that reads the same directory does not find it. [I-18]"""
    report = run(plan(duration=60, rounds=0, profile="database"), lambda: Folder(DirectoryBackend(tmp_path), late=True))
    assert (report.ok, report.kind) == (False, "data"), report.story
    assert "the store after" in report.story


@pytest.mark.parametrize("crashes", [("forgetting",), ("none",)])
def test_one_that_has_a_store_of_its_own_is_used_as_a_blocking_one(crashes: tuple[str, ...]) -> None:
    """Nobody but the cache's could read it otherwise. [I-17, I-18, I-21]"""
    report = run(plan(crashes=crashes), lambda: Folder(MemoryBackend()))
    assert report.ok, report.story
    assert ("the loop of the cache" in report.skipped) == (crashes == ("none",))
