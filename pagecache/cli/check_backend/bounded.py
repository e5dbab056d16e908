"""A call that may hang: made on a thread that is left behind at the timeout, since a thread cannot be killed."""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

__all__ = ["Hung", "within"]

T = TypeVar("T")
FRAMES = 3


class Hung(Exception):
    """The call has not returned in time; the message has its position."""


class _Call(Generic[T]):
    def __init__(self, call: Callable[[], T]) -> None:
        self._call = call
        self.value: T
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, name="check-backend", daemon=True)

    def _run(self) -> None:
        try:
            self.value = self._call()
        except BaseException as error:
            self.error = error


def within(seconds: float, call: Callable[[], T]) -> T:
    """Return the result of the call, or raise its exception.

    Raises:
        Hung: it has not returned after `seconds`.
    """
    made = _Call(call)
    made.thread.start()
    made.thread.join(seconds)
    if made.thread.is_alive():
        raise Hung(f"no return within {seconds:g} s; it is at {_where(made.thread)}")
    if made.error is not None:
        raise made.error
    return made.value


def _where(thread: threading.Thread) -> str:
    """Return the innermost frames of a thread, innermost first."""
    frame = sys._current_frames().get(thread.ident or 0)
    found = traceback.extract_stack(frame)[-FRAMES:] if frame is not None else []
    return " < ".join(f"{Path(entry.filename).name}:{entry.lineno} {entry.name}" for entry in reversed(found))
