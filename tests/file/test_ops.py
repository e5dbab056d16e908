"""Operations refuse misuse that no backend can commit through a return value: answering twice, too late, or before the
call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pagecache.engine.file import EngineFile

from .rig import KEY, PAGE, Make, Patch, eventually, raises

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
