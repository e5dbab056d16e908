"""The tester's statements to a cache about a dead backend are true: after a fence, no earlier call lands. [2.22]"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from pagecache import PageCache, ShutdownError
from pagecache.backends import MemoryBackend
from pagecache.backends.memory import MemoryFile
from pagecache.stress import Plan
from pagecache.stress.faulting import Faulting
from pagecache.testing import FaultyBackend, Gate, Rule

from ..file.rig import PAGE, QUIET, Task, eventually, raises

NEW = b"new " * (PAGE // 4)


class Repaired:
    """A volume whose backend has died, to be repaired with a fence, for which the volume is stopped."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.memory = MemoryBackend()
        self.memory.put("file", bytes(PAGE))
        self.faulty = FaultyBackend(self.memory)
        self.cache = PageCache("4MiB", **QUIET)
        self.volume = self.cache.attach(self.faulty, name="volume")
        self.file = self.volume.open("file", "r+b")
        self.file.pwrite(NEW, 0)
        self.faulty.use([Rule("sync", dies=True)])
        raises(OSError, self.faulty.sync)
        self.faulting = Faulting(Plan(), 0)
        self.faulting._volume, self.faulting._backend = self.volume, self.faulty
        monkeypatch.setattr(self.faulting, "_rng", FencedOnly())

    def finish(self) -> None:
        self.cache.check()
        self.file.close()
        self.cache.close(timeout=20)


class FencedOnly:
    """Chances: a fence, and no other end to all waits."""

    def __init__(self) -> None:
        self._numbers = iter((0.0, 0.9))

    def random(self) -> float:
        return next(self._numbers)


def test_a_write_that_begins_as_soon_as_the_backend_takes_calls_again_does_not_land_after_a_fence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The volume is stopped before, so it makes no such write."""
    repaired = Repaired(monkeypatch)
    revive, threads = repaired.faulty.revive, repaired.volume.engine.runner._threads
    saving: list[Task[None]] = []
    write_from = MemoryFile.write_from
    with Gate() as gate:

        def on_its_way(file: MemoryFile, offset: int, buffers: Sequence[memoryview]) -> int:
            """A call that has begun in the store, like a system call: its bytes cannot be revoked."""
            data = b"".join(buffers)
            gate.enter()
            return write_from(file, offset, [memoryview(data)])

        def revived() -> None:
            monkeypatch.setattr(MemoryFile, "write_from", on_its_way)
            repaired.faulty.use([])
            revive()
            saving.append(Task(repaired.file.fsync))
            eventually(lambda: saving[0].finished.is_set() or gate.entered > 0)

        monkeypatch.setattr(repaired.faulty, "revive", revived)
        repaired.faulting._reconnect()
        Task(repaired.file.punch_hole, 0, PAGE).result()
    raises(ShutdownError, saving[0].result)
    eventually(lambda: not any(thread.is_alive() for thread in threads))  # they have sent everything
    assert repaired.memory.snapshot("file") == bytes(PAGE)
    repaired.finish()


def test_no_fence_is_claimed_while_a_rename_is_on_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may come to the backend after the fence."""
    repaired = Repaired(monkeypatch)
    repaired.faulty.revive()
    claims: list[bool] = []
    reconnect = repaired.volume.reconnect

    def reconnected(backend: Any, *, fenced: bool) -> None:
        claims.append(fenced)
        reconnect(backend, fenced=fenced)

    monkeypatch.setattr(repaired.volume, "reconnect", reconnected)
    with Gate() as gate:
        repaired.faulty.use([Rule("rename", nth=1, gate=gate)])
        renaming = Task(repaired.volume.rename, "file", "moved")
        gate.wait_entered()
        repaired.faulting._reconnect()
        raises(ShutdownError, renaming.result)
    repaired.file.fsync()
    assert claims == [False]
    assert repaired.memory.snapshot("moved") == NEW
    repaired.finish()
