"""Simulated threads as seen by C: see `_native/types/simulated.c`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from .extension import extension, lib

__all__ = ["KEPT", "POINT", "WAIT", "WAKE", "WANTED", "WITHOUT", "YIELD", "away", "passed", "simulate", "simulation"]

T = TypeVar("T")
POINT, WAIT, WAKE, YIELD = range(4)
"""Requests to a scheduler."""
WITHOUT, KEPT, WANTED = range(3)
"""Interpreter lock of a switching thread: runs without it, has it and keeps it, or needs it once it is free."""

simulate: Callable[[Callable[[int, str | None, int, int, int], int] | None], None] = extension.simulate
"""Let this thread of the system play simulated threads; a callable decides: (request, name of the point, address of the
word, timeout in nanoseconds or number to wake, state of the interpreter lock) -> 0 or an errno. None: end. The caller
keeps the callable.
"""

passed: Callable[[str], None] = extension.point
"""Mark a point where another simulated thread may run. Without effect in other threads."""

away: Callable[[Callable[[], T]], T] = extension.away
"""Make a call that switches to another simulated thread, and returns when this one runs again."""


def simulation() -> Any:
    """Return C's counters for this thread of the system: `struct pc_simulation`. Valid as long as the thread lives."""
    return lib.pc_simulation()
