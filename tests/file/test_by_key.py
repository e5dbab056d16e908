"""Operations of a volume by key, beside a write-back that is going on or has failed."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable

import pytest

from pagecache import ObjectStat, WritebackError

from ..stores import WAIT_LIMIT_S, StoredObject
from .rig import KEY, ONCE, Rig, Task

Make = Callable[..., Rig]


def test_stat_is_not_older_than_bytes_stored_while_its_answer_travelled(make: Make) -> None:
    """The size is the one that a reader of the cache sees. [2.20]"""
    rig = make({KEY: b"x" * 100})
    file = rig.open("r+b")
    file.append(b"y" * 5000)
    answer_of = rig.backend.object_stat
    entered, go = threading.Event(), threading.Event()

    def late(stored: StoredObject) -> ObjectStat:
        answer = answer_of(stored)
        if not entered.is_set():
            entered.set()
            go.wait(WAIT_LIMIT_S)
        return answer

    rig.backend.object_stat = late  # type: ignore[method-assign]
    asking = Task(rig.volume.stat, KEY)
    assert entered.wait(WAIT_LIMIT_S)
    Task(file.fsync).result()
    go.set()
    assert asking.result().size == 5100


def test_truncate_by_key_does_not_write_back_failed_bytes(make: Make) -> None:
    """The truncate happened; the old failure is reported to the next caller that saves the data. [2.17, 2.16]"""
    rig = make({KEY: b""}, retry=ONCE)
    file = rig.open("r+b")
    file.pwrite(bytes(5000), 0)
    rig.backend.fault("write_from", OSError(errno.ENOSPC, "no room"), times=2)
    with pytest.raises(WritebackError):
        file.close()
    rig.volume.truncate(KEY, 170)
    assert rig.volume.stat(KEY).size == 170
    assert len(rig.backend.seen("write_from")) == 1
