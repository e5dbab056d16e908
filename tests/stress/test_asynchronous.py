"""Asynchronous backends under stress: each call waits for its coroutine."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pagecache import AsyncBackendFile, Backend, ObjectStat
from pagecache.backends import BackendFile, DirectoryBackend, MemoryBackend
from pagecache.backends.passing import PassingBackend, PassingFile
from pagecache.errors import BackendError, Key
from pagecache.stress import Plan, run

from ..aio.over import Over

FIELDS: dict[str, Any] = {"seed": 1, "duration": 1, "rounds": 1, "threads": 2, "tasks": 4, "files": 2, "size": "64KiB"}
FIELDS |= {"capacity": "128KiB", "operations": 40}
WHERE = "PAGECACHE_STRESS_FOLDER"


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
    report = run(Plan(**FIELDS | fields), "python:tests.stress.test_asynchronous:folder_of_the_environment")
    assert report.ok, f"{report.story}\n{report.replay}"
    assert not counter or report.counters[counter] == 3
    assert list(tmp_path.iterdir()) == []


class ReluctantFile(PassingFile):
    """An object that refuses every write once, and says that a retry may help."""

    def __init__(self, inner: BackendFile) -> None:
        super().__init__(inner)
        self.asked: set[int] = set()  # offsets: if two calls go out each time, every other one would fail forever

    def write_from(self, offset: int, buffers: Sequence[memoryview]) -> int:
        if offset not in self.asked:
            self.asked.add(offset)
            raise BackendError(errno.EBUSY, "not now", retry=True, retry_after=0.001)
        self.asked.remove(offset)
        return self.inner.write_from(offset, buffers)


class Reluctant(PassingBackend):
    def open(self, key: Key, *, create: bool = False, exclusive: bool = False) -> BackendFile:
        return ReluctantFile(self.inner.open(key, create=create, exclusive=exclusive))


@pytest.mark.long
def test_refusals_of_an_asynchronous_backend_are_explained() -> None:
    """A call that gives up may raise its error, whatever the faults. [I-17, I-18]"""
    store = MemoryBackend()
    report = run(Plan(**FIELDS), lambda: Over(Reluctant(store)))
    assert report.ok, report.story
