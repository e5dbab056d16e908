"""Operations refuse misuse that no backend can commit through a return value: answering twice, too late, or before the
call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pagecache.engine.file import EngineFile

from .rig import KEY, PAGE, Make, Patch, Task, eventually, raises

DATA = bytes(4 * PAGE)


def sending(monkeypatch: Patch, send: Callable[[EngineFile, Any], None]) -> list[Any]:
    """Send write requests to `send`; collect its exception, or None, for each."""
    outcomes: list[Any] = []

    def write(self: EngineFile, op: Any) -> None:
        try:
            send(self, op)
        except BaseException as error:
            outcomes.append(error)
            raise
        outcomes.append(None)

    monkeypatch.setattr(EngineFile, "write", write)
    unbound = property(lambda file: None, lambda file, method: None)
    monkeypatch.setattr(EngineFile, "write_from", unbound, raising=False)  # C sends none by itself
    return outcomes


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("answer", ["twice", "before the call", "after the end", "finished twice"])
def test_an_answer_to_no_call_is_refused_and_changes_nothing(make: Make, monkeypatch: Patch, answer: str) -> None:
    """The bytes arrive once and stay right, whatever answer comes out of turn. [T-60, 2.1, 2.14]"""
    refused: list[str] = []

    def out_of_turn(call: Callable[[], object]) -> None:
        refused.append(str(raises(ValueError, call, match=r"no backend call has begun|is settled")))

    def send(self: EngineFile, op: Any) -> None:
        if answer == "before the call":
            out_of_turn(lambda: op.complete(PAGE))
        offset, buffers = op.begin()
        n = self.opened().write_from(offset, buffers)
        assert op.complete(n) == 1
        if answer == "twice":
            out_of_turn(lambda: op.complete(n))
        op.finish(True, False)
        if answer == "after the end":
            out_of_turn(lambda: op.complete(n))
        if answer == "finished twice":
            out_of_turn(lambda: op.finish(False, True))

    rig, file = make({KEY: DATA}).opened("r+b")
    outcomes = sending(monkeypatch, send)
    file.pwrite(b"x" * PAGE, PAGE)
    file.fsync(timeout=20)
    eventually(lambda: outcomes == [None])  # the sending thread gets there after the fsync was woken
    assert rig.backend.committed(KEY) == DATA[:PAGE] + b"x" * PAGE + DATA[2 * PAGE :]
    assert rig.volume.failed() == []
    assert len(refused) == 1


def test_an_answer_may_come_from_another_thread(make: Make, monkeypatch: Patch) -> None:
    """No part of an operation is bound to the thread that began it. [2.1]"""

    def send(self: EngineFile, op: Any) -> None:
        offset, buffers = op.begin()
        n = Task(self.opened().write_from, offset, buffers).result()
        assert Task(op.complete, n).result() == 1
        Task(op.finish, True, False).result()

    rig, file = make({KEY: DATA}).opened("r+b")
    outcomes = sending(monkeypatch, send)
    file.pwrite(b"y" * PAGE, 0)
    file.fsync(timeout=20)
    eventually(lambda: outcomes == [None])  # the sending thread gets there after the fsync was woken
    assert rig.backend.committed(KEY) == b"y" * PAGE + DATA[PAGE:]


def refusals(op: Any, *calls: Callable[[], object]) -> list[str]:
    """Return the messages of calls that the operation must refuse."""
    found = []
    for call in calls:
        found.append(str(raises(ValueError, call)))
    return found


def test_a_write_request_refuses_the_methods_of_a_caller(make: Make, monkeypatch: Patch) -> None:
    """A write request has no locks, no token and no direct write; a call of theirs changes nothing. [2.1]"""
    found: list[str] = []

    def send(self: EngineFile, op: Any) -> None:
        buffer = memoryview(bytearray(PAGE))
        found.extend(
            refusals(
                op,
                lambda: op.acquire(0),
                op.release_lock,
                op.direct_begin,
                op.direct_end,
                lambda: op.carry(list),
                lambda: op.send(len, 0, buffer),
                lambda: op.read(len, 0, buffer),
                lambda: op.call(list),
            )
        )
        offset, buffers = op.begin()
        assert op.complete(self.opened().write_from(offset, buffers)) == 1
        op.finish(True, False)
        found.extend(refusals(op, op.begin, lambda: op.mirror(None)))

    rig, file = make({KEY: DATA}).opened("r+b")
    outcomes = sending(monkeypatch, send)
    file.pwrite(b"z" * PAGE, PAGE)
    file.fsync(timeout=20)
    eventually(lambda: outcomes == [None])
    assert set(found[:7]) == {"not the operation of a caller"}
    assert found[7:] == [
        "only the operation of a caller lends its token",
        "this operation has no backend call",
        "only write-back is mirrored",
    ]
    assert rig.backend.committed(KEY) == DATA[:PAGE] + b"z" * PAGE + DATA[2 * PAGE :]


def test_the_operation_of_a_caller_refuses_the_methods_of_a_request(make: Make, monkeypatch: Patch) -> None:
    """A rename has no request to send, answer, mirror or finish; it continues after these calls. [2.1]"""
    found: list[str] = []
    lending = EngineFile.lending

    def lend(self: EngineFile, op: Any, call: Any) -> None:
        assert (op.anew(), op.ahead, op.stage, op.staged, op.extent) == (False, False, False, False, (0, 0))
        found.extend(
            refusals(op, op.begin, lambda: op.complete(PAGE), lambda: op.mirror(None), lambda: op.finish(True, False))
        )
        lending(self, op, call)

    monkeypatch.setattr(EngineFile, "lending", lend)
    rig = make({KEY: DATA})
    with rig.open("r+b"):
        rig.volume.rename(KEY, "other")
    assert found == [
        "this operation has no backend call",
        "no backend call has begun",
        "only write-back is mirrored",
        "only write-back and commits are finished",
    ]
    assert rig.backend.committed("other") == DATA
