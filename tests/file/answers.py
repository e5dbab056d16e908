"""Answers for the faults of a RecordingBackend."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .backends import RecordingFile

# -------------------------------------------------------------------- answers for Fault.action


def short(nr_bytes: int | Callable[[int], int]) -> Callable[..., int]:
    """Do only the first bytes of a transfer: a number, or a function of the requested number."""

    def answer(file: RecordingFile, offset: int, buffers: Sequence[memoryview]) -> int:
        wanted = sum(len(buffer) for buffer in buffers)
        limit = nr_bytes(wanted) if callable(nr_bytes) else nr_bytes
        if all(buffer.readonly for buffer in buffers):
            return file.store(offset, buffers, limit)
        return file.fill(offset, buffers, limit)

    return answer


def answering(value: object) -> Callable[..., object]:
    """Touch nothing and answer `value`; if it is a function, call it with the requested number of bytes."""

    def answer(_file: RecordingFile, *args: Any) -> object:
        if callable(value):
            return value(sum(len(buffer) for buffer in args[1]))
        return value

    return answer


def unanswered(error: BaseException) -> Callable[[RecordingFile, int, Sequence[memoryview]], int]:
    """Take a write whole, and raise: its answer is lost."""

    def answer(file: RecordingFile, offset: int, buffers: Sequence[memoryview]) -> int:
        file.store(offset, buffers)
        raise error.with_traceback(None)

    return answer


def failing_commit(error: BaseException, *, forget: bool = True) -> Callable[[RecordingFile], str]:
    """Return an answer for a commit that fails and loses all bytes acknowledged since the last successful one."""

    def answer(file: RecordingFile) -> str:
        if forget:
            file.forget()
        raise error

    return answer
