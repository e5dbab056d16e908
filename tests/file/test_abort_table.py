"""One request of a pass, or its commit, hangs; the volume is aborted and gets a new backend.

A cell is: the call that hangs, its outcome when it goes on (it stores its bytes, it fails), the handle and the call
that wait for it, and the content of the new store (all acknowledged bytes, or none). The bytes of the cells are those
of `fault_model`. The hung call goes on before the reconnect, or after a fenced one.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from typing import Any

import pytest

from pagecache import ShutdownError

from .backends import WAIT_LIMIT_S, RecordingBackend, RecordingFile, StoredObject
from .fault_model import CALLS, HANDLES, NEW, NR_REQUESTS, OLD, REQUEST, Table
from .rig import KEY, Task, eventually

COMMIT = -1
LATE = ["stores", "fails", "fenced"]  # fenced: it goes on when the new backend has everything
CELLS = [
    (where, late, handle, call, store)
    for where, late, handle, call, store in itertools.product(
        [*range(NR_REQUESTS), COMMIT], LATE, HANDLES, CALLS, ["kept", "forgotten"]
    )
    # these calls write nothing back, or do not commit
    if (handle, call) not in [("reader", "flush"), ("reader", "close"), ("other writer", "close")]
    if where != COMMIT or call == "fsync"
]


class Hang:
    """The call of one request, or the commit, waits for `release`, then does its work or fails."""

    def __init__(self, where: int, late: str) -> None:
        self.where, self.late = where, late
        self.entered, self.release, self.over = threading.Event(), threading.Event(), threading.Event()

    def __call__(self, file: RecordingFile, *transfer: Any) -> Any:
        work: Callable[[], Any] = (lambda: file.store(*transfer)) if transfer else file.make_durable
        if transfer and transfer[0] // REQUEST != self.where:
            return work()
        self.entered.set()
        assert self.release.wait(WAIT_LIMIT_S), "the call was not released"
        self.over.set()
        if self.late == "fails":
            raise OSError(5, "too late")
        return work()


@pytest.mark.parametrize(("where", "late", "handle", "call", "store"), CELLS)
def test_a_call_that_hangs_and_is_aborted(where: int, late: str, handle: str, call: str, store: str) -> None:
    """Every wait ends, every byte stays, a late answer cleans nothing, a new backend gets all. [T-13, T-75b, I-23]"""
    hang = Hang(where, late)
    with Table(ordered=where == 1) as it:
        rig, old = it.rig, it.rig.backend
        old.fault("commit" if where == COMMIT else "write_from", hang, times=float("inf"))
        waiting = Task(it.call, handle, call)
        try:
            assert hang.entered.wait(WAIT_LIMIT_S), "the call did not come to the backend"
            rig.volume.abort(RuntimeError("cable pulled"))
            with pytest.raises(ShutdownError):
                waiting.result()
            for file in it.open.values():
                with pytest.raises(ShutdownError):
                    Task(file.fsync).result()
            compare_kept(it)

            if late != "fenced":
                hang.release.set()
                assert hang.over.wait(WAIT_LIMIT_S)
                eventually(lambda: rig.cache.stats().writeback == 0)
                compare_kept(it)

            fresh = RecordingBackend(max_write=REQUEST)
            fresh.objects[KEY] = StoredObject(OLD if store == "forgotten" else old.written(KEY))
            rig.backend = fresh  # the cell goes on with it
            eventually(lambda: reconnected(it, fresh, fenced=late == "fenced"))
            for file in it.files():
                Task(file.fsync).result()
            assert fresh.committed(KEY) == NEW
            hang.release.set()
            assert hang.over.wait(WAIT_LIMIT_S)
            it.compare_repaired()
            assert old.violations == []
        finally:
            hang.release.set()


def compare_kept(it: Table) -> None:
    """Everything is still local and readable."""
    assert it.rig.volume.dirty_ranges(KEY) == [(0, len(NEW))]
    for file in it.open.values():
        assert file.pread(2 * len(NEW), 0) == NEW


def reconnected(it: Table, fresh: RecordingBackend, *, fenced: bool) -> bool:
    """A call that went on may take a moment to be over."""
    try:
        Task(it.rig.volume.reconnect, fresh, fenced=fenced).result()
    except BlockingIOError:
        return False
    return True


def test_the_size_of_the_table_is_printed(record_property: Callable[[str, object], None]) -> None:
    """The summary of the run has it. [T-13]"""
    record_property("size", f"table of hanging calls: {len(CELLS)} cells")
