"""A program that a user might write: `mypy --strict` accepts all of it. test_programs.py runs mypy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, assert_type

import pagecache
from pagecache import aio
from pagecache.backends import MemoryBackend
from pagecache.options import CacheOverrides, OpenMode, VolumeOverrides


class BlobFile(pagecache.BackendFile):
    """One object of a store."""

    def stat(self) -> pagecache.ObjectStat:
        return pagecache.ObjectStat(size=0)

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> int:
        return 0

    def write_from(self, offset: int, buffers: Sequence[memoryview]) -> int:
        return 0

    def truncate(self, size: int) -> None: ...

    def commit(self) -> str | None: ...


class Blobs(pagecache.Backend):
    """A backend whose keys are texts: `key: str`, not `key: Hashable`."""

    limits = pagecache.BackendLimits(max_inflight=4)

    def open(self, key: str, *, create: bool = False, exclusive: bool = False) -> BlobFile:
        return BlobFile()

    def stat(self, key: str) -> pagecache.ObjectStat:
        return self.open(key).stat()

    def remove(self, key: str) -> None: ...

    def rename(self, src: str, dst: str, *, replace: bool = True) -> None: ...

    def list(self, prefix: str = "") -> list[pagecache.ObjectStat]:
        return [self.stat(key) for key in (prefix,)]

    def canonical(self, key: str) -> str:
        return key.lower()


class AsyncBlobs(pagecache.AsyncBackend):
    """Blobs with coroutines, and with numbers for keys."""

    async def open(self, key: int, *, create: bool = False, exclusive: bool = False) -> pagecache.AsyncBackendFile:
        raise FileNotFoundError(key)

    async def stat(self, key: int) -> pagecache.ObjectStat:
        raise FileNotFoundError(key)


class Tree(pagecache.NamespaceBackend):
    """A backend with directories."""

    def open(self, key: str, *, create: bool = False, exclusive: bool = False) -> BlobFile:
        raise FileNotFoundError(key)

    def stat(self, key: str) -> pagecache.ObjectStat:
        raise FileNotFoundError(key)

    def mkdir(self, key: str, mode: int = 0o777) -> None:
        raise FileExistsError(key)


class Plain:
    """A program's class without a base class."""

    def open(self, key: str, *, create: bool = False, exclusive: bool = False) -> BlobFile:
        raise FileNotFoundError(key)

    def stat(self, key: str) -> pagecache.ObjectStat:
        raise FileNotFoundError(key)


async def tasks(volume: pagecache.Volume) -> None:
    async with aio.open(volume, "greeting", "r+", read_ahead="64KiB", direct=False) as f:
        assert_type(await f.pread(9, 0), bytes)
        assert_type(await f.pread_into(bytearray(9), 0), int)
        assert_type(await f.pwrite(b"hello", 0), int)
        assert_type(await f.append(b"hello"), int)
        assert_type(await f.read(), bytes)
        assert_type(await f.preadv([bytearray(3)], 0), int)
        assert_type(await f.fsync(timeout=1.0), None)
        assert_type(f.try_pread(9, 0), bytes | None)
        assert_type(f.size, int)
        await f.advise("sequential")
        await f.advise(pagecache.Advice.RANDOM)
    opened = await aio.open(volume, "greeting")
    assert_type(opened, aio.AsyncCachedFile)


def made(mode: OpenMode, config: CacheOverrides, options: VolumeOverrides, anything: dict[str, Any]) -> None:
    """Wrappers of a program that pass options on."""
    with pagecache.PageCache("8MiB", **config) as cache:
        cache.configure(**anything)
        cache.attach(Tree(), **options).open("k", mode).close()


def program() -> None:
    with pagecache.PageCache("1MiB", dirty_limit="256KiB", retry=pagecache.RetryPolicy(attempts=2)) as cache:
        cache.configure(dirty_expire=1.0, dirty_background=0.1)
        volume = cache.attach(Blobs(), name="blobs", on_conflict="take_remote", write_through=True)
        cache.attach(AsyncBlobs(), read_only=True)
        cache.attach(Plain(), mirror=Blobs())
        cache.attach(MemoryBackend(max_write="64KiB", durable_writes=True))
        with volume.open("greeting", "w+") as f:
            assert_type(f, pagecache.CachedFile)
            assert_type(f.write(b"hello"), int)
            assert_type(f.pread(4, 1), bytes)
            f.advise("random")
        assert_type(volume.resolve("greeting", "force"), list[pagecache.LostRange])
        assert_type(cache.stats().hits, int)
