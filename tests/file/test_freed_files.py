"""A file without open handles is freed, but not while a thread iterates over the files of its volume."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pagecache.volume.inode import Inode

from .rig import KEY, PAGE, Rig, Task, eventually, pattern

Make = Callable[..., Rig]
OLD = pattern(4 * PAGE)


def removed(rig: Rig) -> tuple[Any, Inode]:
    """A handle of a file without a name and without unsaved bytes."""
    file = rig.open("r+b", key="gone")
    inode = rig.volume.inodes["gone"]
    rig.volume.remove("gone")
    return file, inode


def test_a_removed_file_is_freed_when_its_last_handle_is_closed(make: Make) -> None:
    rig = make({KEY: OLD, "gone": OLD})
    file, inode = removed(rig)
    assert not inode.engine.freed
    file.close()
    eventually(lambda: inode.engine.freed and inode not in rig.volume.orphans)


@pytest.mark.parametrize("fenced", [False, True])
def test_a_reconnect_meets_no_file_that_is_freed_beside_it(make: Make, fenced: bool) -> None:
    """It iterates over files whose handles other threads close. The C core could already use their memory for another
    file. [2.22]
    """
    rig = make({KEY: OLD, "gone": OLD})
    file, inode = removed(rig)
    kept = rig.open("r+b")
    kept.pwrite(OLD[PAGE : 2 * PAGE], 0)
    rig.volume.abort()
    fresh = rig.backend.successor()
    gate = fresh.gate("open", KEY)
    reconnecting = Task(lambda: rig.volume.reconnect(fresh, fenced=fenced))
    gate.wait_entered()
    file.close()
    assert not inode.engine.freed
    gate.open()
    reconnecting.result()
    eventually(lambda: inode.engine.freed and inode not in rig.volume.orphans)
    kept.fsync()
    assert fresh.committed(KEY) == OLD[PAGE : 2 * PAGE] + OLD[PAGE:]
    rig.cache.check()


def test_unsaved_bytes_of_a_removed_file_are_given_up_by_the_reconnect_after_its_last_close(make: Make) -> None:
    """It was closed while the volume was aborted: then it could not be given up. [2.20, 2.22]"""
    rig = make({KEY: OLD, "gone": OLD})
    file, inode = removed(rig)
    file.pwrite(OLD[:PAGE], PAGE)
    rig.volume.abort()
    file.close()
    rig.volume.reconnect(rig.backend.successor())
    eventually(lambda: inode.engine.freed and inode not in rig.volume.orphans)
    assert rig.cache.stats().dirty == 0
    rig.cache.check()


def test_a_file_is_freed_once_the_last_iteration_over_the_files_has_ended(make: Make) -> None:
    rig = make({KEY: OLD, "gone": OLD})
    file, inode = removed(rig)
    with rig.volume.engine.keeper():
        with rig.volume.engine.keeper():
            file.close()
        rig.cache.flusher.wake()
        assert not rig.volume.engine.free(inode.engine)
        assert not inode.engine.freed
    eventually(lambda: inode.engine.freed)


def test_an_interrupt_leaves_no_keeper(make: Make) -> None:
    """An interrupt before `with` has begun leaves the keeper without an owner."""
    rig = make({KEY: OLD, "gone": OLD})
    file, inode = removed(rig)
    rig.volume.engine.keeper()
    file.close()
    eventually(lambda: inode.engine.freed)
