"""An open that fails, an `abandon`, and a `with` that raises give up no change of a handle that was closed before.
[2.20, K1, I-22]
"""

from __future__ import annotations

import asyncio
import errno
import gc
import os
from collections.abc import Callable
from typing import Any

import pytest

from pagecache import CachedFile, DataLossError, aio
from pagecache.testing import Gate

from ..stores import ObjectBackend
from .rig import KEY, ONCE, PAGE, Rig, Task, eventually, overlay, pattern

Make = Callable[..., Rig]
DATA = pattern(3 * PAGE)
MINE = b"mine" * 1000


@pytest.fixture
def store(make: Make) -> Rig:
    """A volume on an object store."""
    return make(backend=ObjectBackend({KEY: DATA}), retry=ONCE)


def kept(store: Rig, key: str = KEY) -> None:
    """Leave an unsaved object: the commit of its close fails."""
    store.backend.fault("commit", OSError(errno.ENOSPC, "no space"))
    file = store.volume.open(key, "wb")
    file.pwrite(MINE, 0)
    with pytest.raises(OSError, match="no space"):
        file.close()
    assert store.backend.committed(KEY) == DATA


def check_kept(store: Rig, key: str = KEY) -> None:
    """The bytes are there, listed, and saved by the next sync."""
    assert [(found.key, found.size) for found in store.volume.unsaved()] == [(key, len(MINE))]
    with store.volume.open(key) as file:
        assert file.pread(len(DATA) + len(MINE), 0) == MINE
    store.volume.sync(20)
    assert store.backend.committed(key) == MINE


@pytest.mark.parametrize("key", [KEY, "new"])
@pytest.mark.parametrize("flags", [os.O_WRONLY | os.O_CREAT | os.O_TRUNC, os.O_RDWR | os.O_TRUNC])
def test_an_open_whose_truncate_is_refused_leaves_unsaved_bytes(store: Rig, flags: int, key: str) -> None:
    """A definite refusal changes nothing. [2.17, 2.20]"""
    kept(store, key)
    store.backend.fault("truncate", OSError(errno.ENOSPC, "no space"))
    with pytest.raises(OSError, match="no space"):
        store.volume.open(key, flags=flags)
    check_kept(store, key)


def test_an_open_that_times_out_before_its_truncate_leaves_unsaved_bytes(store: Rig) -> None:
    """It waits for bytes in flight until its deadline, and has changed nothing. [2.20]"""
    kept(store)
    gate = store.backend.gate("write_from")
    ticket = store.volume.begin_sync()
    gate.wait_entered()
    with pytest.raises(TimeoutError):
        store.volume.open(KEY, "wb", timeout=0.05)
    gate.open()
    ticket.wait(20)
    assert store.backend.committed(KEY) == MINE


def test_an_open_that_times_out_in_its_truncate_reports_the_bytes_that_it_has_cut_off(store: Rig) -> None:
    """The truncate is taken back, what it has cut off cannot be: a loss, reported to the next opener. [2.16, 2.20]"""
    kept(store)
    gate = store.backend.gate("truncate")
    with pytest.raises(TimeoutError):
        store.volume.open(KEY, "wb", timeout=0.2)
    gate.open()
    with store.volume.open(KEY, "r+b") as file:
        with pytest.raises(DataLossError) as caught:
            file.fsync()
        assert [(lost.offset, lost.length) for lost in caught.value.ranges] == [(0, len(MINE))]
        assert file.pread(len(DATA), 0) == DATA


def test_an_open_that_is_cancelled_reports_the_bytes_that_it_has_cut_off(store: Rig) -> None:
    """Its truncate has succeeded, and is taken back. [2.16, 2.20]"""
    kept(store)
    gate = store.backend.gate("truncate")

    async def main() -> None:
        opening = asyncio.ensure_future(aio.open(store.volume, KEY, "wb"))
        await asyncio.to_thread(gate.wait_entered)
        opening.cancel()
        gate.open()
        with pytest.raises(asyncio.CancelledError):
            await opening

    asyncio.run(main())
    eventually(lambda: not store.volume.engine.native.usage()["local"] and not store.volume.orphans)
    with store.volume.open(KEY, "r+b") as file:
        with pytest.raises(DataLossError):
            file.fsync()
        assert file.pread(len(DATA), 0) == DATA


def abandoned(file: CachedFile) -> None:
    file.abandon()


def raising(file: CachedFile) -> None:
    with pytest.raises(KeyError), file:
        raise KeyError


@pytest.mark.parametrize("leave", [abandoned, raising])
def test_bytes_of_a_handle_that_was_closed_beside_an_abandoned_one_stay(
    store: Rig, leave: Callable[[CachedFile], Any]
) -> None:
    """The close left them to the other writer; they are unsaved, listed, and saved by a sync. [2.20, 2.22]"""
    closed, other = store.volume.open(KEY, "r+b"), store.volume.open(KEY, "r+b")
    closed.truncate(0)
    closed.pwrite(MINE, 0)
    closed.close()
    leave(other)
    assert store.backend.committed(KEY) == DATA
    check_kept(store)


@pytest.mark.parametrize("leave", [abandoned, raising])
def test_bytes_that_cannot_be_told_apart_stay_and_are_not_published_at_exit(
    store: Rig, leave: Callable[[CachedFile], Any]
) -> None:
    """Both handles have written; only an explicit call publishes the half object. [2.20, 2.22, T-77]"""
    closed, other = store.volume.open(KEY, "r+b"), store.volume.open(KEY, "r+b")
    closed.pwrite(MINE, 0)
    other.pwrite(b"half", 0)
    closed.close()
    leave(other)
    assert [found.key for found in store.volume.unsaved()] == [KEY]
    assert store.volume.inodes[KEY].engine.unclosed
    store.volume.sync(20)
    assert store.backend.committed(KEY) == overlay(overlay(DATA, 0, MINE), 0, b"half")


@pytest.mark.parametrize("leave", [abandoned, raising])
def test_a_handle_that_changed_nothing_keeps_no_bytes_of_an_abandoned_one(
    store: Rig, leave: Callable[[CachedFile], Any]
) -> None:
    """It was open beside, and closed first. [2.20]"""
    closed, other = store.volume.open(KEY, "r+b"), store.volume.open(KEY, "r+b")
    other.pwrite(b"half", 0)
    closed.close()
    leave(other)
    with store.volume.open(KEY) as file:
        assert file.pread(len(DATA), 0) == DATA
    assert store.volume.unsaved() == []


@pytest.mark.parametrize("leave", [abandoned, raising])
def test_saved_bytes_of_a_closed_handle_keep_none_of_an_abandoned_one(
    store: Rig, leave: Callable[[CachedFile], Any]
) -> None:
    """The bytes of the closed one were committed, late. [2.20]"""
    kept(store)
    store.volume.sync(20)
    file = store.volume.open(KEY, "r+b")
    file.pwrite(b"half", 0)
    leave(file)
    with store.volume.open(KEY) as file:
        assert file.pread(len(DATA), 0) == MINE
    assert store.volume.unsaved() == []


def test_an_abandoned_handle_gives_up_what_its_own_open_has_made(store: Rig) -> None:
    """It has emptied an object with unsaved bytes, on purpose. [2.20]"""
    kept(store)
    file = store.volume.open(KEY, "wb")
    file.pwrite(b"half", 0)
    file.abandon()
    with store.volume.open(KEY, "r+b") as file:
        assert file.pread(len(DATA), 0) == DATA
        file.fsync()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_bytes_of_a_collected_handle_stay(store: Rig) -> None:
    """They are unsaved, and another handle's end does not give them up. [2.21, 2.22]"""
    other = store.volume.open(KEY, "r+b")
    store.volume.open(KEY, "r+b").pwrite(MINE, 0)
    eventually(lambda: store.volume.inodes[KEY].handles == 1)
    other.abandon()
    assert [found.key for found in store.volume.unsaved()] == [KEY]
    store.volume.sync(20)
    assert store.backend.committed(KEY) == overlay(DATA, 0, MINE)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("changed", [True, False])
def test_a_close_publishes_beside_a_handle_that_was_collected_unclosed(store: Rig, changed: bool) -> None:
    """That one is no writer, even before the flusher has released it: no later close would publish. [2.20, 2.22]"""
    flusher = store.cache.flusher
    with Gate() as gate:
        flusher.defer(gate.enter)
        gate.wait_entered()
        dropped, file = store.volume.open(KEY, "r+b"), store.volume.open(KEY, "r+b")
        if changed:
            dropped.pwrite(MINE, PAGE)
        del dropped
        gc.collect()
        file.pwrite(MINE, 0)
        file.close()
        assert store.backend.committed(KEY) == overlay(overlay(DATA, 0, MINE), PAGE, MINE if changed else b"")
    assert store.volume.unsaved() == []


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_an_abandon_beside_a_handle_that_was_collected_unclosed_leaves_its_bytes(store: Rig) -> None:
    with Gate() as gate:
        store.cache.flusher.defer(gate.enter)
        gate.wait_entered()
        dropped, file = store.volume.open(KEY, "r+b"), store.volume.open(KEY, "r+b")
        dropped.pwrite(MINE, 0)
        del dropped
        gc.collect()
        file.abandon()
    eventually(lambda: not store.volume.handles)
    assert [found.key for found in store.volume.unsaved()] == [KEY]


def test_dirty_bytes_of_a_closed_handle_stay_on_a_store_in_place(make: Make) -> None:
    """Its close left them to the other writer. Once they are acknowledged, an abandon gives its own bytes up. [2.20]"""
    rig = make({KEY: DATA})
    closed, other = rig.volume.open(KEY, "r+b"), rig.volume.open(KEY, "r+b")
    closed.pwrite(MINE, 0)
    closed.close()
    other.abandon()
    with rig.volume.open(KEY, "r+b") as file:
        assert file.pread(len(MINE), 0) == MINE
        file.flush()
    assert rig.backend.written(KEY) == overlay(DATA, 0, MINE)
    late = rig.volume.open(KEY, "r+b")
    late.pwrite(b"half", 0)
    late.abandon()
    eventually(lambda: not rig.volume.orphans)
    with rig.volume.open(KEY) as file:
        assert file.pread(len(MINE), 0) == MINE


def test_an_abandon_beside_the_commit_of_a_close_gives_up_none_of_its_bytes(store: Rig) -> None:
    """The close is not over, and its commit fails. [2.16, 2.20]"""
    file = store.volume.open(KEY, "r+b")
    file.truncate(0)
    file.pwrite(MINE, 0)
    gate = store.backend.gate("commit")
    store.backend.fault("commit", OSError(errno.ENOSPC, "no space"))
    closing = Task(file.close)
    gate.wait_entered()
    store.volume.open(KEY, "r+b", keep_cache=True).abandon()
    gate.open()
    with pytest.raises(OSError, match="no space"):
        closing.result()
    check_kept(store)
