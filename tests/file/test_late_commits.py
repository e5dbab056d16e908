"""Commits of an earlier backend that land after a reconnect."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from pagecache import CachedFile, ShutdownError, Volume
from pagecache.engine.io import reader
from pagecache.volume import reconnect as reconnecting
from pagecache.volume.inode import Inode

from ..stores import WAIT_LIMIT_S, ObjectBackend
from .rig import KEY, PAGE, Make, Patch, Task, content_of, cut_off, eventually, raises


def clients() -> list[ObjectBackend]:
    """Three clients of one store with an object."""
    first, *others = found = [ObjectBackend({KEY: b"a" * (8 * PAGE)}), ObjectBackend(), ObjectBackend()]
    for other in others:
        for name in ("lock", "objects", "versions", "made_by", "attempts"):
            setattr(other, name, getattr(first, name))
    return found


def aborted_beside_a_commit(make: Make, old: ObjectBackend) -> tuple[Volume, CachedFile]:
    """A file whose first page is changed: its commit by the backend is held, and its volume is aborted."""
    rig, file = make(backend=old, capacity="1MiB", max_folio=PAGE).opened()
    file.pwrite(b"b" * PAGE, 0)
    cut_off(rig.volume, old.gate("commit"), file.fsync)
    return rig.volume, file


@pytest.mark.parametrize("answered", [False, True])
def test_a_read_beside_a_late_commit_of_a_former_backend_waits(make: Make, monkeypatch: Patch, answered: bool) -> None:
    """Its version is none of another program. [2.22]"""
    judge, refused = reader._judge, threading.Event()

    def judged(*arguments: Any) -> Any:
        try:
            return judge(*arguments)
        finally:
            refused.set()

    old, new, _last = clients()
    volume, file = aborted_beside_a_commit(make, old)
    volume.reconnect(new)
    opening, answer = new.gate("open"), old.gate("commit answer")
    old.gates[0].open()
    answer.wait_entered()
    if answered:
        answer.open()
        opening.wait_entered()
    monkeypatch.setattr(reader, "_judge", judged)
    reading = Task(file.pread, PAGE, 4 * PAGE)
    assert refused.wait(WAIT_LIMIT_S)
    answer.open()
    assert reading.result(opening=opening) == b"a" * PAGE
    file.fsync()
    assert new.committed(KEY) == b"b" * PAGE + b"a" * (7 * PAGE)


@pytest.mark.parametrize("opened", ["before the abort", "after the abort", "after the reconnect"])
@pytest.mark.parametrize("reached", [False, True], ids=["not begun", "begun"])
def test_a_file_that_an_earlier_reconnect_opens_late_is_of_the_last_one(make: Make, opened: str, reached: bool) -> None:
    """An abort and another reconnect come before its late opening, beside it or after it. [2.22]"""
    old, new, last = clients()
    volume, file = aborted_beside_a_commit(make, old)
    volume.reconnect(new)
    opening = new.gate("open")

    def reach(moment: str) -> None:
        if reached and moment == "before the abort":
            old.gates[0].open()
            opening.wait_entered()
        if opened == moment:
            opening.open()
            old.gates[0].open()
            if reached or not volume.engine.aborted:  # otherwise it begins after the reconnect
                eventually(lambda: file._inode not in volume.engine.settling)

    reach("before the abort")
    volume.abort()
    reach("after the abort")
    Task(volume.reconnect, last).result()
    reach("after the reconnect")
    file.pwrite(b"c" * PAGE, PAGE)
    Task(file.fsync).result()
    assert (len(new.seen("commit")), len(last.seen("commit"))) == (0, 1)
    assert file.pread(3 * PAGE, 0) == b"b" * PAGE + b"c" * PAGE + b"a" * PAGE
    assert last.committed(KEY) == content_of(volume, KEY) == b"b" * PAGE + b"c" * PAGE + b"a" * (6 * PAGE)


def test_an_abort_in_a_reconnect_leaves_no_file_that_waits_to_be_opened_again(make: Make, monkeypatch: Patch) -> None:
    """Otherwise writers would wait for room that nothing makes. [2.22]"""
    old, new, last = clients()
    volume, file = aborted_beside_a_commit(make, old)

    def aborted(inode: Inode, *, known: bool) -> None:
        volume.abort()
        raise ShutdownError("aborted beside it", inode.key)

    with monkeypatch.context() as patch:
        patch.setattr(reconnecting, "_send_again", aborted)
        raises(ShutdownError, volume.reconnect, new)
    old.gates[0].open()
    eventually(lambda: old.nr_running == 0)
    eventually(lambda: not file._inode.publications)
    volume.reconnect(last)
    eventually(lambda: not volume.engine.settling)
    file.fsync()
    assert content_of(volume, KEY)[:PAGE] == b"b" * PAGE
