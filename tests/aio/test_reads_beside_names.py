"""Reads of a task beside the remove or rename of its object, in a store that finds objects by their names. [2.20]"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from pagecache import Volume, aio
from pagecache.engine.file import EngineFile
from pagecache.engine.io import reader

from ..file.rig import KEY, PAGE, Task, eventually
from ..stores import RecordingBackend
from .conftest import Attach
from .stores import Store
from .test_handles import DATA

STORES: dict[str, Callable[[], Any]] = {
    "blocking": lambda: RecordingBackend({KEY: DATA}, by_name=True),
    "asynchronous": lambda: Store({KEY: DATA}),
}
CHANGES: dict[str, Callable[[Volume], None]] = {
    "remove": lambda volume: volume.remove(KEY),
    "rename": lambda volume: volume.rename(KEY, "new"),
}
NAMES = "the call that changes the name of the object"


@asynccontextmanager
async def beside(store: Any, volume: Volume, change: str, *, direct: bool = False) -> AsyncIterator[tuple[Any, Any]]:
    """A handle, and the gate of a change of its name that runs; the change ends with it."""
    async with aio.open(volume, KEY, direct=direct) as file:
        gate = store.gate(change)
        changing = Task(CHANGES[change], volume)
        await asyncio.to_thread(gate.wait_entered)
        yield file, gate
        gate.open()
        await asyncio.to_thread(changing.result)


async def until_it_waits(volume: Volume) -> None:
    await asyncio.to_thread(eventually, lambda: any(wait.what == NAMES for wait in volume.cache.waits()))


async def ends(reading: Awaitable[bytes], change: str) -> None:
    """A renamed object is read by its new name, and a removed one is gone."""
    if change == "rename":
        assert await reading == DATA[PAGE : PAGE + 10]
    else:
        with pytest.raises(FileNotFoundError):
            await reading


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("make", STORES.values(), ids=STORES)
async def test_a_read_waits_and_reads_again(attach: Attach, make: Callable[[], Any], change: str, direct: bool) -> None:
    """The loop is free while it waits. [T-56]"""
    volume = attach(store := make())
    async with beside(store, volume, change, direct=direct) as (file, gate):
        reading = asyncio.create_task(file.pread(10, PAGE))
        await until_it_waits(volume)
        assert not reading.done()
        gate.open()
        await ends(reading, change)


@pytest.mark.parametrize("make", STORES.values(), ids=STORES)
async def test_a_cancelled_read_waits_for_the_rename_no_longer(attach: Attach, make: Callable[[], Any]) -> None:
    """The task ends at once, and later reads find the object by its new name. [T-56]"""
    volume = attach(store := make())
    async with beside(store, volume, "rename") as (file, gate):
        reading = asyncio.create_task(file.pread(10, PAGE))
        await until_it_waits(volume)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        gate.open()
        await ends(file.pread(10, PAGE), "rename")
    eventually(lambda: not volume.cache.waits())


@pytest.mark.parametrize("ended", [False, True], ids=["judged beside the change", "judged as it ends"])
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("make", STORES.values(), ids=STORES)
async def test_a_refused_read_is_no_conflict_though_the_change_ends_at_once(
    attach: Attach, make: Callable[[], Any], change: str, ended: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file refuses it while its name changes. It may be judged when the change has just ended. [T-56]"""
    volume = attach(store := make())
    refused, over = threading.Event(), threading.Event()
    judge, bind = reader._judge, EngineFile._bind_beside_names

    def late(*arguments: Any) -> Any:
        refused.set()
        assert not ended or over.wait(60)
        return judge(*arguments)

    def ending(file: EngineFile) -> None:
        if ended and file.unnaming is None:
            over.set()  # and the call goes no further, as if it were interrupted here
        else:
            bind(file)

    async with beside(store, volume, change) as (file, gate):
        monkeypatch.setattr(reader, "_judge", late)
        monkeypatch.setattr(EngineFile, "_bind_beside_names", ending)
        reading = asyncio.create_task(file.pread(10, PAGE))
        await asyncio.to_thread(refused.wait, 60)
        if not ended:
            await until_it_waits(volume)
        gate.open()
        await ends(reading, change)
