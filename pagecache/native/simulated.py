"""Threads that are simulated, as C sees them: see `_native/types/simulated.c`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from .extension import extension, lib

__all__ = ["KEPT", "POINT", "WAIT", "WAKE", "WANTED", "WITHOUT", "YIELD", "away", "passed", "simulate", "simulation"]

T = TypeVar("T")
POINT, WAIT, WAKE, YIELD = range(4)
"""What a scheduler is asked."""
WITHOUT, KEPT, WANTED = range(3)
"""By a thread that goes on without the interpreter lock; that has it, and keeps it; that goes on once nobody has it."""

simulate: Callable[[Callable[[int, str | None, int, int, int], int] | None], None] = extension.simulate
"""This thread of the system plays simulated threads from now on, and a callable decides: (what, name of the point,
address of the word, timeout in nanoseconds or how many to wake, how the thread stands to the interpreter lock) -> 0 or
an errno. None: it is over. The caller keeps the callable.
"""

passed: Callable[[str], None] = extension.point
"""A point where another simulated thread may go on. In threads that simulate nothing it does nothing."""

away: Callable[[Callable[[], T]], T] = extension.away
"""Call what switches to another simulated thread, and returns when this one runs again."""


def simulation() -> Any:
    """What C counts for this thread of the system: `struct pc_simulation`. Valid as long as the thread lives."""
    return lib.pc_simulation()
