"""One pass of five requests, one of which goes wrong in each possible way, seen through three handles.

A cell is: the request that goes wrong (or the commit), how, the handle whose call meets it (the writer, another
writable one, a reader), the call (fsync, flush, close), and the repair (fsync again, `retry_failed`, `discard`). Each
cell compares the store's content, its content after a crash, `failed()`, `dirty_ranges`, the handles' reads, the errors
that each of them sees, and all of it again after the repair, with `fault_model.Model`. The summary of the run prints
the number of cells; a fault without an expectation in the model is an error.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable

import pytest

from pagecache import CachedFile, CommitError, DataLossError, WritebackError

from .fault_model import (
    ATTEMPTS,
    CALLS,
    COMMIT_FAULTS,
    FAULTS,
    HANDLES,
    NR_REQUESTS,
    Applied,
    Table,
    merged,
    span,
)
from .rig import KEY, eventually

REPAIRS = ["fsync", "retry_failed", "discard"]
WRITE_CELLS = [
    (request, how, handle, call, repair)
    for request, how, handle, call in itertools.product(range(NR_REQUESTS), FAULTS, HANDLES, CALLS)
    for repair in (REPAIRS if FAULTS[how].error is not None else ["discard"])  # of nothing: nothing is lost
]
COMMIT_CELLS = list(itertools.product(COMMIT_FAULTS, HANDLES, CALLS))


def expect(error: int | None, ranges: Iterable[tuple[int, int]], call: Callable[[], object]) -> None:
    """Expect WritebackError with that number and those ranges from the call, or no error."""
    if error is None:
        call()
        return
    with pytest.raises(WritebackError) as caught:
        call()
    assert caught.value.errno == error
    assert caught.value.filename == KEY
    assert merged((item.offset, item.length) for item in caught.value.ranges) == list(ranges)
    assert {item.errno for item in caught.value.ranges} == {error}


@pytest.mark.parametrize(("request_nr", "how", "handle", "call", "repair"), WRITE_CELLS)
def test_a_request_that_goes_wrong(request_nr: int, how: str, handle: str, call: str, repair: str) -> None:
    """Nothing is lost, failed bytes are listed, every handle reports it, it can be repaired. [T-16, T-17, I-22]"""
    fault, failing = FAULTS[how], [span(request_nr)]
    with Table(ordered=request_nr % 2 == 0) as it:
        model, applied = it.model, Applied(request_nr, fault)
        armed = it.rig.backend.fault("write_from", applied, times=float("inf"))

        meets = it.hands_over(handle, call)
        reported = model.hand_over(request_nr, fault) if meets else None
        expect(reported, failing, lambda: it.call(handle, call))
        if meets:
            compare_sent(it, request_nr, how)
            compare_attempts(it, how)
        if call == "fsync":
            committed_by_fsync(it, reported)
        it.compare()

        for file in it.files():  # each reports it until it is repaired
            reported = model.hand_over(request_nr, fault)
            expect(reported, failing, file.fsync)
            committed_by_fsync(it, reported)
            it.compare()

        armed.clear()
        lost = repair_by(it, repair, request_nr)
        if lost:
            hear_of_loss(it, lost, call)
        model.hand_over()
        it.compare_repaired()


def committed_by_fsync(it: Table, reported: int | None) -> None:
    """Check that a successful fsync commits. One that fails may commit the bytes acknowledged beside the failure or
    leave them; if left, they have to be local.
    """
    if reported is None or it.rig.backend.committed(KEY) == bytes(it.model.written):
        it.model.commit()


def compare_sent(it: Table, request_nr: int, how: str) -> None:
    """Check the bytes sent to the backend: each other request once, the faulty one as its fault describes."""
    sent = FAULTS[how].sent
    if sent is None:
        return  # the number of calls and the pieces are not promised
    offset, length = span(request_nr)
    calls = [(call.offset, call.length) for call in it.rig.backend.seen("write_from")]
    expected = [span(other) for other in range(NR_REQUESTS) if other != request_nr]
    expected += [(offset + start, min(part, length - start)) for start, part in sent]
    assert sorted(calls) == sorted(expected)


def compare_attempts(it: Table, how: str) -> None:
    """Check that `failed()` has the number of attempts, and that no retry happens without a request."""
    for item in it.rig.volume.failed():
        assert (item.key, item.volume, item.errno) == (KEY, "volume", FAULTS[how].error)
        assert FAULTS[how].attempts in (None, item.attempts)
        assert item.next_retry is None


def repair_by(it: Table, repair: str, request_nr: int) -> list[tuple[int, int]]:
    """Repair a failure whose cause is gone, and return the discarded ranges."""
    if repair == "discard":
        expected = it.model.discard(request_nr)
        lost = it.rig.volume.discard(KEY, *span(request_nr))
        assert [(item.key, item.offset, item.length, item.volume) for item in lost] == [
            (KEY, offset, length, "volume") for offset, length in expected
        ]
        return expected
    if repair == "retry_failed":
        it.rig.volume.retry_failed()
        eventually(lambda: it.rig.volume.failed() == [])
        eventually(lambda: it.rig.backend.written(KEY) == it.model.content)
        it.compare_content()
    else:
        it.files()[0].fsync()
        assert it.rig.backend.committed(KEY) == bytes(it.model.content)
    return []


def hear_of_loss(it: Table, lost: list[tuple[int, int]], call: str) -> None:
    """Check that each handle that was open reports it once, with its next call, and that one opened now does not."""
    later = it.rig.open("r+b")
    for handle, file in list(it.open.items()):
        with pytest.raises(DataLossError) as caught:
            getattr(file, call)()
        assert [(item.key, item.offset, item.length) for item in caught.value.ranges] == [(KEY, *lost[0])]
        if call == "close":
            assert file.closed
            del it.open[handle]
        else:
            getattr(file, call)()
    later.fsync()
    later.close()


@pytest.mark.parametrize(("how", "handle", "call"), COMMIT_CELLS)
def test_a_commit_that_goes_wrong(how: str, handle: str, call: str) -> None:
    """After all requests were acknowledged, the bytes are dirty again, or kept and not sent again; each handle reports
    it. [T-18, K2]
    """
    fault = COMMIT_FAULTS[how]
    with Table(ordered=False) as it:
        armed = it.rig.backend.fault("commit", fault.answer, times=fault.times)
        if call != "fsync":  # these do not commit
            it.call(handle, call)
            if it.hands_over(handle, call):
                it.model.hand_over()
            it.compare()
        for file in [it.open[handle]] if call == "fsync" else it.files():
            fsync_with_failing_commit(it, how, file)
        if fault.reported is not None:
            for file in it.files():
                fsync_with_failing_commit(it, how, file)
        armed.clear()
        it.rig.backend.forget_calls()
        it.files()[-1].fsync()
        assert bool(it.rig.backend.seen("write_from")) == bool(it.model.dirty)
        it.model.hand_over()
        it.model.commit()
        it.compare()
        it.compare_repaired()


def fsync_with_failing_commit(it: Table, how: str, file: CachedFile) -> None:
    """Make one fsync beside a faulty commit, and apply it to the model."""
    model, backend, fault = it.model, it.rig.backend, COMMIT_FAULTS[how]
    backend.forget_calls()
    nr_local, nr_dirty = len(model.local()), len(model.dirty)
    model.hand_over()
    if fault.reported is not None:
        with pytest.raises(CommitError) as caught:
            file.fsync()
        assert (caught.value.errno, caught.value.filename) == (fault.reported, KEY)
        model.fail_commit(fault)
    else:
        file.fsync()
        model.commit()
        if nr_local:
            assert len(backend.seen("commit")) == ATTEMPTS
            again = 0 if fault.kept else NR_REQUESTS * (ATTEMPTS - 1)
            assert len(backend.seen("write_from")) == nr_dirty + again
    it.compare()


def test_the_table_is_complete(record_property: Callable[[str, object], None]) -> None:
    """Each fault has an expectation: a lasting error, or no error and when it ends. [T-16]"""
    for fault in FAULTS.values():
        assert (fault.error is None) == (fault.times < float("inf"))
    for commit in COMMIT_FAULTS.values():
        assert (commit.reported is None) == (commit.times < float("inf"))
    nr_cells = len(WRITE_CELLS) + len(COMMIT_CELLS)
    assert nr_cells >= NR_REQUESTS * 5 * len(HANDLES)
    record_property("size", f"fault table: {nr_cells} cells")
