"""Commits of an earlier backend that land after a reconnect."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from pagecache import CachedFile, PageCache, ShutdownError, Volume
from pagecache.backends import Backend, BackendFile
from pagecache.backends.passing import PassingBackend, PassingFile
from pagecache.engine.io import reader
from pagecache.errors import Key
from pagecache.testing import Gate
from pagecache.volume import reconnect as reconnecting
from pagecache.volume.inode import Inode

from ..planted.settings import Factory, whole_objects
from ..stores import WAIT_LIMIT_S
from .rig import PAGE, QUIET, Patch, Task, content_of, eventually, raises


class Held(PassingBackend):
    """Holds commits before they are carried out and after it, and opens."""

    def __init__(self, inner: Backend) -> None:
        super().__init__(inner)
        self.commits, self.answers, self.opens = Gate(), Gate(), Gate()
        self.held: set[Gate] = set()
        self.committed = 0

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
        self._store.committed += 1
        self._store.hold(self._store.answers)
        return made


def stored() -> Factory:
    """A store with an object."""
    make = whole_objects()
    first = make().open("k", create=True)
    first.write_from(0, [memoryview(b"a" * (8 * PAGE))])
    first.commit()
    return make


@contextmanager
def aborted_beside_a_commit(old: Held) -> Iterator[tuple[Volume, CachedFile]]:
    """A file whose first page is changed: its commit by the backend is held, and its volume is aborted."""
    with PageCache("1MiB", max_folio=PAGE, **QUIET) as cache:
        volume = cache.attach(old, read_ahead=0)
        file = volume.open("k", "r+b")
        file.pwrite(b"b" * PAGE, 0)
        saving = Task(file.fsync)
        old.commits.wait_entered()
        volume.abort()
        raises(ShutdownError, saving.result)
        yield volume, file


@contextmanager
def reconnected_beside_a_commit(old: Held, new: Held) -> Iterator[tuple[Volume, CachedFile]]:
    """The same, and its volume has the new backend."""
    with aborted_beside_a_commit(old) as (volume, file):
        volume.reconnect(new)
        yield volume, file


@pytest.mark.parametrize("answered", [False, True])
def test_a_read_beside_a_late_commit_of_the_earlier_backend_waits(monkeypatch: Patch, answered: bool) -> None:
    """Its version is none of another program. [2.22]"""
    make, judge, refused = stored(), reader._judge, threading.Event()

    def judged(*arguments: Any) -> Any:
        try:
            return judge(*arguments)
        finally:
            refused.set()

    old, new = Held(make()), Held(make())
    old.held = {old.commits, old.answers}
    with reconnected_beside_a_commit(old, new) as (_, file):
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


@pytest.mark.parametrize("opened", ["before the abort", "after the abort", "after the reconnect"])
@pytest.mark.parametrize("reached", [False, True], ids=["not begun", "begun"])
def test_a_file_that_an_earlier_reconnect_opens_late_is_that_of_the_last_backend(opened: str, reached: bool) -> None:
    """An abort and another reconnect come before its late opening, beside it or after it. [2.22]"""
    make = stored()
    old, new, last = (Held(make()) for _ in range(3))
    old.held = {old.commits}
    with reconnected_beside_a_commit(old, new) as (volume, file):
        new.held = {new.opens}

        def reach(moment: str) -> None:
            if reached and moment == "before the abort":
                old.commits.release()
                new.opens.wait_entered()
            if opened == moment:
                new.opens.release()
                old.commits.release()
                if reached or not volume.engine.aborted:  # otherwise it begins after the reconnect
                    eventually(lambda: file._inode not in volume.engine.settling)

        reach("before the abort")
        volume.abort()
        reach("after the abort")
        Task(volume.reconnect, last).result()
        reach("after the reconnect")
        file.pwrite(b"c" * PAGE, PAGE)
        Task(file.fsync).result()
        assert (new.committed, last.committed) == (0, 1)
        assert file.pread(3 * PAGE, 0) == b"b" * PAGE + b"c" * PAGE + b"a" * PAGE
        assert content_of(volume, "k")[: 2 * PAGE] == b"b" * PAGE + b"c" * PAGE
    assert make().open("k").stat().size == 8 * PAGE


def test_an_abort_in_a_reconnect_leaves_no_file_that_waits_to_be_opened_again(monkeypatch: Patch) -> None:
    """The next reconnect finds that the late commit is over. Otherwise writers would wait for room that nothing makes.
    [2.22]
    """
    make, send_again = stored(), reconnecting._send_again
    old, new, last = (Held(make()) for _ in range(3))
    old.held = {old.commits}
    with aborted_beside_a_commit(old) as (volume, file):

        def aborted(inode: Inode, *, known: bool) -> None:
            volume.abort()
            raise ShutdownError("aborted beside it", inode.key)

        monkeypatch.setattr(reconnecting, "_send_again", aborted)
        raises(ShutdownError, volume.reconnect, new)
        monkeypatch.setattr(reconnecting, "_send_again", send_again)
        old.commits.release()
        eventually(lambda: old.committed == 1)
        eventually(lambda: not file._inode.publications)
        volume.reconnect(last)
        eventually(lambda: not volume.engine.settling)
        file.fsync()
        assert content_of(volume, "k")[:PAGE] == b"b" * PAGE
