"""Rollbacks that hang, are refused, or lose their answer: no caller is stuck in the backend, and no data is lost."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable

import pytest

from pagecache import BackendError, CachedFile, ShutdownError

from ..stores import ObjectBackend
from .clock import HandClock
from .rig import KEY, ONCE, PAGE, Rig, Task, dirty_bytes, eventually, pattern

Make = Callable[..., Rig]
DATA = pattern(4 * PAGE)
MINE = b"m" * PAGE


def uploaded(make: Make) -> tuple[Rig, CachedFile, ObjectBackend]:
    """Two pages are acknowledged and not committed."""
    backend = ObjectBackend({KEY: DATA}, max_write=PAGE)
    rig = make(backend=backend, retry=ONCE)
    file = rig.open()
    file.pwrite(MINE, 0)
    file.pwrite(MINE, 2 * PAGE)
    file.flush()
    eventually(lambda: rig.cache.stats().unstable == 2 * PAGE)
    return rig, file, backend


ALL = MINE + DATA[PAGE : 2 * PAGE] + MINE + DATA[3 * PAGE :]


def test_discard_rolls_back_on_a_thread_of_the_volume(make: Make) -> None:
    """All backend calls run there but fills and `canonical`. [2.1, 2.19]"""
    rig, _file, backend = uploaded(make)
    caller = Task(lambda: (threading.get_ident(), rig.volume.discard(KEY, 0, PAGE)))
    ident, lost = caller.result()
    assert [(entry.offset, entry.length) for entry in lost] == [(0, PAGE)]
    assert [call.thread == ident for call in backend.seen("rollback")] == [False]


def test_an_abort_ends_a_discard_whose_rollback_hangs_and_a_reconnect_saves_the_data(make: Make) -> None:
    """Nothing is given up; bytes that the old backend may have forgotten are sent to the new one. [2.22, K7, K9]"""
    rig, file, backend = uploaded(make)
    gate = backend.gate("rollback")
    discarding = Task(rig.volume.discard, KEY, 0, PAGE)
    gate.wait_entered()
    rig.volume.abort(ConnectionError("cable pulled"))
    with pytest.raises(ShutdownError, match="cable pulled"):
        discarding.result()
    assert dirty_bytes(rig.volume) == 2 * PAGE
    rig.cache.check()
    gate.open()
    fresh = ObjectBackend({KEY: DATA}, max_write=PAGE)
    rig.volume.reconnect(fresh)
    file.fsync()
    assert fresh.committed(KEY) == ALL
    assert file.pread(4 * PAGE, 0) == ALL


@pytest.mark.parametrize(
    ("error", "rollbacks"), [(OSError(errno.EACCES, "no"), 1), (OSError(errno.ECONNRESET, "cable pulled"), 2)]
)
def test_a_discard_whose_rollback_fails_gives_up_nothing(make: Make, error: OSError, rollbacks: int) -> None:
    """Refused: nothing has changed. Unknown outcome: all of it is sent again, after another rollback. [2.17, 2.19]"""
    rig, file, backend = uploaded(make)
    backend.fault("rollback", error)
    with pytest.raises(OSError, match=str(error.strerror)):
        rig.volume.discard(KEY, 0, PAGE)
    rig.cache.check()
    assert file.pread(4 * PAGE, 0) == ALL
    file.fsync()
    assert backend.committed(KEY) == ALL
    assert len(backend.seen("rollback")) == rollbacks
    file.fsync()  # no loss is reported


def test_a_discard_whose_stat_after_the_rollback_fails_sends_everything_again(make: Make) -> None:
    """The rollback was done: the upload no longer has the acknowledged bytes. [2.19]"""
    rig, file, backend = uploaded(make)
    backend.fault("file_stat", OSError(errno.EACCES, "no"))
    with pytest.raises(PermissionError):
        rig.volume.discard(KEY, 0, PAGE)
    file.fsync()
    assert backend.committed(KEY) == ALL


def test_abandon_returns_while_its_rollback_hangs(make: Make) -> None:
    """The key is busy until it is over, other keys are not. [2.20, T-50]"""
    rig, file, backend = uploaded(make)
    gate = backend.gate("rollback")
    Task(file.abandon).result()
    gate.wait_entered()
    opening = Task(rig.open)
    assert opening.waits()
    rig.open("wb", key="other").close()
    gate.open()
    assert opening.result().pread(4 * PAGE, 0) == DATA
    assert backend.committed(KEY) == DATA


def test_closing_with_a_deadline_ends_though_the_rollback_hangs(make: Make, clock: HandClock) -> None:
    """Unsaved data is given up at the deadline, and listed. [2.22, K9]"""
    rig, _file, backend = uploaded(make)
    backend.fault("commit", BackendError(errno.EACCES, "no", retry=False, kept=True), times=9)
    gate = backend.gate("rollback", times=9)
    closing = Task(rig.cache.close, timeout=60.0, on_failed="discard")
    gate.wait_entered()
    clock.advance(60.0)
    lost = closing.result()
    assert sum(entry.length for entry in lost) == 2 * PAGE
    assert gate.nr_entered == 1
    gate.open()
