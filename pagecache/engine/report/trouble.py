"""Recent troubles: the last failure events of a volume, each with the next step, and files with failures.

For reports: no decision depends on it. It holds texts and numbers, never the exceptions, whose tracebacks would keep
alive everything that their frames refer to.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from ...errors import Key
from ...objects import Event
from ..foreign import errno_of, text_of

if TYPE_CHECKING:
    from ..file import EngineFile

KEPT = 20
KINDS = ("failed", "parked", "conflict", "stalled")

SETTLED = "nothing until `resolve` or `discard` settles it"
STALLED = "nothing is given up; it is waited for until it ends, or `abort`"


class Trouble(NamedTuple):
    """One event; `at` is monotonic, `next` the automatic next step."""

    at: float
    kind: str
    key: Key | None
    offset: int | None
    length: int | None
    errno: int | None
    message: str | None
    next: str | None


def tried_again(wait: float | None) -> str:
    """Describe the future of failed bytes; None: no automatic retry."""
    if wait is None:
        return "kept until `retry_failed`, a new write to the file, or `discard`"
    return "tried again at once" if wait <= 0 else f"tried again in {wait:.1f} s"


def _fails(file: EngineFile) -> bool:
    return len(file.failures) > 0 or file.commits.failing_since is not None


class Troubles:
    """The troubles of one volume. Thread-safe: each step is atomic in CPython."""

    def __init__(self) -> None:
        self.last: deque[Trouble] = deque(maxlen=KEPT)
        self._failing: dict[EngineFile, None] = {}

    def add(self, event: Event, now: float) -> None:
        """Keep an event, if it is a failure."""
        if event.kind not in KINDS:
            return
        offset, length = event.ranges[0] if event.ranges else (None, None)
        code = None if event.error is None else errno_of(event.error)
        text = None if event.error is None else text_of(event.error)
        self.last.append(Trouble(now, event.kind, event.key, offset, length, code, text, event.next or None))

    def failing(self, file: EngineFile) -> None:
        """Record that the file has a failure; called after the failure is recorded there."""
        self._failing[file] = None

    def failing_files(self) -> list[EngineFile]:
        """Return files with failed data, and some that have none by now."""
        return list(self._failing)

    def failures_since(self) -> float | None:
        """Return when the oldest pending failure began."""
        first = None
        for file in self.failing_files():
            if not _fails(file):
                self._failing.pop(file, None)
                if not _fails(file):
                    continue
                self._failing[file] = None  # it failed again in between
            with file.lock:
                times = [failure.since for failure in file.failures]
            if (overdue := file.overdue_since()) is not None:
                times.append(overdue)
            since = min(times, default=None)
            if since is not None and (first is None or since < first):
                first = since
        return first

    def forget(self, file: EngineFile) -> None:
        self._failing.pop(file, None)
