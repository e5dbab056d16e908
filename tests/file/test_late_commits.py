"""Commits of an earlier backend that land after a reconnect."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from pagecache import PageCache, ShutdownError
from pagecache.backends import Backend, BackendFile
from pagecache.backends.passing import PassingBackend, PassingFile
from pagecache.engine.io import reader
from pagecache.errors import Key
from pagecache.testing import Gate

from ..planted.failing import whole_objects
from ..stores import WAIT_LIMIT_S
from .rig import PAGE, QUIET, Patch, Task, raises


class Held(PassingBackend):
    """Holds commits before they are carried out and after it, and opens."""

    def __init__(self, inner: Backend) -> None:
        super().__init__(inner)
        self.commits, self.answers, self.opens = Gate(), Gate(), Gate()
        self.held: set[Gate] = set()

    def open(self, key: Key, *, create: bool = False, exclusive: bool = False) -> BackendFile:
        self.hold(self.opens)
        return HeldFile(self, self.inner.open(key, create=create, exclusive=exclusive))

    def hold(self, gate: Gate) -> None:
        if gate in self.held:
            gate.enter(WAIT_LIMIT_S)


class HeldFile(PassingFile):
    def __init__(self, store: Held, inner: BackendFile) -> None:
        super().__init__(inner)
        self._store = store

    def commit(self) -> Any:
        self._store.hold(self._store.commits)
        made = self.inner.commit()
        self._store.hold(self._store.answers)
        return made


@pytest.mark.parametrize("answered", [False, True])
def test_a_read_beside_a_late_commit_of_the_earlier_backend_waits(monkeypatch: Patch, answered: bool) -> None:
    """Its version is none of another program. [2.22]"""
    make, judge, refused = whole_objects(), reader._judge, threading.Event()

    def judged(*arguments: Any) -> Any:
        try:
            return judge(*arguments)
        finally:
            refused.set()

    first = make().open("k", create=True)
    first.write_from(0, [memoryview(b"a" * (8 * PAGE))])
    first.commit()
    old, new = Held(make()), Held(make())
    old.held = {old.commits, old.answers}
    with PageCache("1MiB", max_folio=PAGE, **QUIET) as cache:
        volume = cache.attach(old, read_ahead=0)
        file = volume.open("k", "r+b")
        file.pwrite(b"b" * PAGE, 0)
        saving = Task(file.fsync)
        old.commits.wait_entered()
        volume.abort()
        raises(ShutdownError, saving.result)
        volume.reconnect(new)
        new.held = {new.opens}
        old.commits.release()
        old.answers.wait_entered()
        if answered:
            old.answers.release()
            new.opens.wait_entered()
        monkeypatch.setattr(reader, "_judge", judged)
        reading = Task(file.pread, PAGE, 4 * PAGE)
        assert refused.wait(WAIT_LIMIT_S)
        old.answers.release()
        new.opens.release()
        assert reading.result() == b"a" * PAGE
        file.fsync()
    assert make().open("k").stat().size == 8 * PAGE
