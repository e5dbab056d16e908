"""The layers between the cache and the backend of a target, top to bottom. Asynchronous backends stay asynchronous.

    blocking       PressedBackend, Witness, FaultyBackend, the layer of the round, the backend
    asynchronous   AsyncFaultyBackend, a second backend of the factory, on the cache's loop
    asynchronous, if it must share the tester's backend, or a layer in between blocks:
                   AsyncFaultyBackend, Elsewhere, PressedBackend, Witness, the layer of the round, the backend

With a second backend on the cache's loop there is no pressure and no witness: both need threads.
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
    """The layers of a round; see the top of this file.

    Attributes:
        top: the backend of the cache.
        faults: makes calls fail.
        apart: the cache has another backend than the tester, and does not close the tester's.
    """

    top: Backend | AsyncBackend
    faults: FaultyBackend | AsyncFaultyBackend
    witness: Witness
    pressure: PressedBackend
    apart: bool


def stacked(beneath: Backend, asynchronous: bool, second: Callable[[], AsyncBackend | None]) -> Stack:
    """Build the layers over a backend.

    Args:
        beneath: the tester's backend, or the round's layer over it.
        asynchronous: the cache gets an asynchronous backend.
        second: makes another asynchronous backend on the tester's store, if that is possible.
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
