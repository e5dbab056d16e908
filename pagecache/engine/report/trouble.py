"""Recent troubles: the last failure events of a volume, each with the next step.

For reports: no decision depends on it. It holds texts and numbers, never the exceptions, whose tracebacks would keep
alive everything that their frames refer to.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from ...errors import Key
from ...objects import Event
from ..foreign import errno_of, text_of

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


class Troubles:
    """The troubles of one volume. Thread-safe: each step is atomic in CPython."""

    def __init__(self) -> None:
        self.last: deque[Trouble] = deque(maxlen=KEPT)

    def add(self, event: Event, now: float) -> None:
        """Keep an event, if it is a failure."""
        if event.kind not in KINDS:
            return
        offset, length = event.ranges[0] if event.ranges else (None, None)
        code = None if event.error is None else errno_of(event.error)
        text = None if event.error is None else text_of(event.error)
        self.last.append(Trouble(now, event.kind, event.key, offset, length, code, text, event.next or None))
