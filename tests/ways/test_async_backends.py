"""Asynchronous backends in each place where a backend goes, written with only the interface at hand."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

import pagecache
from pagecache import BackendLimits, ObjectStat, PageCache, ShutdownError, Volume
from pagecache.backends import MemoryBackend, TransformBackend

from ..file.rig import FAST, QUIET
from .conftest import Attach
from .plain import PlainFile, PlainStore

PAGE = 4096
BLOCK = bytes(range(256)) * 16


class Smallest:
    """The required methods and nothing else."""

    def __init__(self) -> None:
        self.files: dict[Any, PlainFile] = {}
        self.limits = BackendLimits()
        self.store = PlainStore()

    def canonical(self, key: Any) -> Any:
        return key

    async def open(self, key: Any, *, create: bool = False, exclusive: bool = False) -> PlainFile:
        if key not in self.files:
            if not create:
                raise FileNotFoundError(2, "it is not there", key)
            self.files[key] = PlainFile(self.store, key, b"")
        return self.files[key]

    async def stat(self, key: Any) -> ObjectStat:
        if key not in self.files:
            raise FileNotFoundError(2, "it is not there", key)
        return ObjectStat(size=len(self.files[key].data))


class Canonical(PlainStore):
    """A backend with canonical as a coroutine, too."""

    waits = False

    async def canonical(self, key: Any) -> Any:
        if self.waits:
            await asyncio.sleep(0)
        return str(key).removeprefix("./")

    async def open(self, key: Any, *, create: bool = False, exclusive: bool = False) -> PlainFile:
        return await super().open(str(key).removeprefix("./"), create=create, exclusive=exclusive)

    async def stat(self, key: Any) -> ObjectStat:
        return await super().stat(str(key).removeprefix("./"))


def test_a_store_without_optional_methods_will_do(attach: Attach) -> None:
    store = Smallest()
    volume = attach(store)
    with volume.open("f", "w+") as file:
        file.pwrite(BLOCK, 0)
        file.fsync()
        volume.drop_clean()
        assert file.pread(PAGE, 0) == BLOCK
    volume.sync()


def test_names_of_an_asynchronous_store(attach: Attach) -> None:
    store = PlainStore({"a": b"1", "b": b"22"})
    volume = attach(store)
    assert [(stat.key, stat.size) for stat in volume.list()] == [("a", 1), ("b", 2)]
    assert [stat.key for stat in volume.list("b")] == ["b"]
    volume.rename("a", "c")
    with pytest.raises(FileExistsError):
        volume.rename("c", "b", replace=False)
    volume.remove("b")
    assert not volume.exists("b")
    assert volume.stat("c").size == 1
    volume.truncate("c", 10)
    assert store.objects["c"] == b"1" + bytes(9)
    with pytest.raises(FileNotFoundError):
        volume.remove("b")


@pytest.mark.parametrize("waits", [False, True])
def test_canonical_may_be_a_coroutine(attach: Attach, waits: bool) -> None:
    """T-67 over a backend that has *all* methods as coroutines."""
    store = Canonical({"a": b"1"})
    store.waits = waits
    volume = attach(store)
    with volume.open("./a", "r+") as one, volume.open("a") as two:
        one.pwrite(b"2", 0)
        assert two.pread(1, 0) == b"2"
    assert volume.stat("./a").size == 1


def test_an_asynchronous_mirror_gets_what_is_written_back(attach: Attach) -> None:
    mirror = PlainStore()
    cache = PageCache("8MiB", **QUIET, retry=FAST)
    volume = cache.attach(MemoryBackend(), mirror=mirror)
    with volume.open("f", "w") as file:
        file.pwrite(BLOCK * 10, 0)
        file.fsync()
    cache.close(timeout=20)
    assert mirror.objects["f"] == BLOCK * 10


def test_both_asynchronous(attach: Attach) -> None:
    store, mirror = PlainStore(), PlainStore()
    cache = PageCache("8MiB", **QUIET, retry=FAST)
    volume = cache.attach(store, mirror=mirror)
    with volume.open("f", "w") as file:
        file.pwrite(BLOCK * 10, 0)
        file.truncate(PAGE + 1)
        file.fsync()
    cache.close(timeout=20)
    assert mirror.objects["f"] == store.objects["f"] == BLOCK + BLOCK[:1]


def test_a_transform_refuses_an_asynchronous_store() -> None:
    """It is a blocking backend around a blocking backend, and says so at once."""

    class Nothing:
        unit = 4096
        overhead = 0

        def encode(self, key: Any, index: int, data: Any) -> bytes:
            return bytes(data)

        def decode(self, key: Any, index: int, data: Any) -> bytes:
            return bytes(data)

    with pytest.raises((TypeError, ValueError)):
        TransformBackend(PlainStore(), Nothing())  # type: ignore[arg-type]


def leave_unclosed(volume: Volume) -> None:
    handle = volume.open("f", "r+")
    handle.pwrite(b"c", 0)
    del handle
    gc.collect()


def test_nothing_is_published_behind_the_programs_back(attach: Attach) -> None:
    """T-77 with views and tasks over an asynchronous store of objects."""
    store = PlainStore({"f": b"old" * PAGE}, commit_on_close=True)
    volume = attach(store)

    async def writes() -> None:
        async with pagecache.aio.open(volume, "f", "r+") as file:
            await file.pwrite(b"x" * PAGE, 0)
            await file.flush()
            await file.sync_range(0, PAGE)
            assert store.objects["f"] == b"old" * PAGE
            await file.abandon()

    asyncio.run(writes())
    assert store.objects["f"] == b"old" * PAGE
    file = volume.open("f", "r+")
    with file.view(0, PAGE, writable=True) as view:
        view.segments[0][:] = b"v" * PAGE
        assert file.pread(3, 0) == b"vvv"
        volume.drop_clean()
        file.flush()
    assert store.objects["f"] == b"old" * PAGE
    with pytest.raises(RuntimeError), file:
        raise RuntimeError
    assert store.objects["f"] == b"old" * PAGE
    with pytest.warns(ResourceWarning):
        leave_unclosed(volume)
    assert store.objects["f"] == b"old" * PAGE
    with pytest.raises(RuntimeError), volume.cache as cache:
        raise RuntimeError
    assert store.objects["f"] == b"old" * PAGE
    if not cache.closed:
        volume.discard("f")


def test_objects_through_views_are_published_by_close(attach: Attach) -> None:
    store = PlainStore({"f": b"o" * PAGE}, commit_on_close=True)
    volume = attach(store)
    with volume.open("f", "r+") as file, file.view(0, PAGE, writable=True) as view:
        view.segments[0][:4] = b"view"
    assert store.objects["f"] == b"view" + b"o" * (PAGE - 4)


def test_abort_and_reconnect_of_an_asynchronous_store(attach: Attach) -> None:
    """2.22: every wait ends; the data is there, and goes to the next backend."""

    class Stuck(PlainStore):
        stuck = False

        def __init__(self, objects: dict[Any, bytes]) -> None:
            super().__init__(objects)
            self.entered = threading.Event()

        async def open(self, key: Any, *, create: bool = False, exclusive: bool = False) -> PlainFile:
            return StuckFile(self, key, self.objects[key])

    class StuckFile(PlainFile):
        async def write_from(self, offset: int, buffers: Any) -> int:
            assert isinstance(self.store, Stuck)
            if self.store.stuck:
                self.store.entered.set()
                await asyncio.sleep(1000)
            return await super().write_from(offset, buffers)

    store = Stuck({"f": b""})
    volume = attach(store)
    file = volume.open("f", "r+")
    file.pwrite(BLOCK, 0)
    store.stuck = True
    errors: list[BaseException] = []

    def syncs() -> None:
        try:
            file.fsync()
        except BaseException as error:
            errors.append(error)

    async def awaits() -> None:
        async with pagecache.aio.open(volume, "f", "r+") as other:
            await other.fsync()

    def on_a_loop() -> None:
        try:
            asyncio.run(awaits())
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=syncs), threading.Thread(target=on_a_loop)]
    for thread in threads:
        thread.start()
    assert store.entered.wait(20)
    volume.abort()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert len(errors) == 2
    assert all(isinstance(error, ShutdownError) for error in errors), errors
    with pytest.raises(ShutdownError):
        volume.open("f")
    new = PlainStore({"f": b""})
    volume.reconnect(new, fenced=True)
    file.fsync()
    file.close()
    assert new.objects["f"] == BLOCK


@pytest.mark.parametrize("result", [None, -1, PAGE * 100, "3", 2.0])
def test_wrong_answers_of_coroutines_are_errors_of_the_backend(attach: Attach, result: Any) -> None:
    """T-60."""

    class Wrong(PlainFile):
        async def read_into(self, offset: int, buffers: Any) -> Any:
            return result

        async def write_from(self, offset: int, buffers: Any) -> Any:
            return result

    class WrongStore(PlainStore):
        async def open(self, key: Any, *, create: bool = False, exclusive: bool = False) -> PlainFile:
            return Wrong(self, key, self.objects[key])

    volume = attach(WrongStore({"f": BLOCK * 4}))
    file = volume.open("f", "r+")
    with pytest.raises(pagecache.BackendProtocolError):
        file.pread(10, 0)
    file.pwrite(BLOCK, 0)
    with pytest.raises(pagecache.WritebackError):
        file.fsync()
    with pytest.raises(OSError):
        file.close()


def test_an_async_generator_may_raise_half_way(attach: Attach) -> None:
    class Half(PlainStore):
        async def list(self, prefix: str = "") -> AsyncIterator[ObjectStat]:
            yield ObjectStat(size=1, key="one")
            raise PermissionError(13, "no further", None)

    volume = attach(Half({}))
    with pytest.raises(PermissionError):
        list(volume.list())
