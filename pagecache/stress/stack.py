"""What lies between the cache and the backend of a target, top to bottom. What is asynchronous stays so.

    blocking       PressedBackend, Witness, FaultyBackend, what the round puts there, the backend
    asynchronous   AsyncFaultyBackend, a second backend of the factory, on the cache's loop
    the same, where it has to be the tester's, or something blocks in between:
                   AsyncFaultyBackend, Elsewhere, PressedBackend, Witness, what the round puts there, the backend

Where a second one is on the cache's loop nobody presses or watches: that would be a thread's work.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from pagecache.backends.protocol import AsyncBackend, Backend
from pagecache.stress.asynchronous import Elsewhere
from pagecache.stress.pressure import PressedBackend
from pagecache.stress.witness import Witness
from pagecache.testing import AsyncFaultyBackend, FaultyBackend

__all__ = ["Stack", "stacked"]


class Stack(NamedTuple):
    """See the top of this file.

    Attributes:
        top: what the cache has.
        faults: makes calls fail.
        apart: the cache has another backend than the tester, and does not close the tester's.
    """

    top: Backend | AsyncBackend
    faults: FaultyBackend | AsyncFaultyBackend
    witness: Witness
    pressure: PressedBackend
    apart: bool


def stacked(beneath: Backend, asynchronous: bool, second: Callable[[], AsyncBackend | None]) -> Stack:
    """A stack over a backend.

    Args:
        beneath: the backend as the tester has it, or what the round puts over it.
        asynchronous: what the cache has is to be.
        second: gives another asynchronous one on the same store, where there can be one.
    """
    if not asynchronous:
        faults = FaultyBackend(beneath)
        witness = Witness(faults)
        pressure = PressedBackend(witness)
        return Stack(pressure, faults, witness, pressure, apart=False)
    witness = Witness(beneath)
    pressure = PressedBackend(witness)
    own = second()
    failing = AsyncFaultyBackend(own or Elsewhere(pressure))
    return Stack(failing, failing, witness, pressure, apart=own is not None)
