"""An open that has found the file when its last writer abandons it: it gets another inode, after the rollback."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from .objects import ObjectBackend
from .rig import KEY, PAGE, Rig, Task, eventually, pattern

Make = Callable[..., Rig]
DATA = pattern(3 * PAGE)
GOOD = b"good" + DATA[4:]


@pytest.mark.parametrize("whole", [False, True])
def test_an_open_beside_an_abandon_gets_what_is_stored(make: Make, whole: bool) -> None:
    """It reads no byte that was given up, and its own writes are saved. [2.20]"""
    rig = make(backend=ObjectBackend({KEY: DATA})) if whole else make({KEY: DATA})
    file = rig.open()
    file.pwrite(b"bad!", 0)
    gate = rig.backend.gate("stat")
    opening = Task(rig.open)
    gate.wait_entered()
    Task(file.abandon).result()
    gate.open()
    opened = opening.result()
    assert opened.pread(len(DATA), 0) == DATA
    opened.pwrite(b"good", 0)
    opened.fsync()
    assert rig.backend.committed(KEY) == GOOD
    rig.cache.check()


def test_an_open_beside_an_abandon_waits_for_the_rollback(make: Make) -> None:
    """No call of the old file may follow a write to the new one; the key passes directly to the open. [2.20]"""
    backend = ObjectBackend({KEY: DATA})
    rig = make(backend=backend)
    file = rig.open()
    file.pwrite(b"bad!", 0)
    looked, rolling = backend.gate("stat", KEY), backend.gate("rollback")
    opening, other = Task(rig.open), Task(rig.volume.exists, "other")
    looked.wait_entered()
    file.abandon()
    rolling.wait_entered()
    looked.open()
    assert opening.waits()
    other.result()
    rolling.open()
    assert opening.result().pread(len(DATA), 0) == DATA
    eventually(lambda: not rig.volume.orphans)
    assert not rig.volume.busy._busy
    assert not rig.volume.busy._next


def test_a_writer_that_came_first_keeps_what_another_one_abandons(make: Make) -> None:
    """The abandoning handle is not the last. [2.20]"""
    rig = make({KEY: DATA})
    file = rig.open()
    opened = rig.open()
    file.pwrite(b"good", 0)
    file.abandon()
    opened.fsync()
    assert rig.backend.committed(KEY) == GOOD
