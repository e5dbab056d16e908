"""Asynchronous backends in each place where a backend goes, written with only the interface at hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from pagecache import BackendLimits, ObjectStat
from pagecache.backends import TransformBackend

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


def test_an_async_generator_may_raise_half_way(attach: Attach) -> None:
    class Half(PlainStore):
        async def list(self, prefix: str = "") -> AsyncIterator[ObjectStat]:
            yield ObjectStat(size=1, key="one")
            raise PermissionError(13, "no further", None)

    volume = attach(Half({}))
    with pytest.raises(PermissionError):
        list(volume.list())
