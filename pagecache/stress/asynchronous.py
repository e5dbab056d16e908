"""Asynchronous backends as targets: their coroutines run on a loop of the tester, and each call waits for its end.

The cache calls any asynchronous backend in this way (engine/loop.py), so the layers of the tester are between the two.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pagecache.backends.protocol import Backend
from pagecache.engine.blocking import blocking
from pagecache.engine.loop import CacheLoop
from pagecache.engine.park import Park

__all__ = ["for_threads"]


def for_threads(factory: Callable[[], Any]) -> Callable[[], Backend]:
    """Return a factory of blocking backends, for backends of either kind; asynchronous ones share a loop."""
    loop: list[CacheLoop] = []

    def running() -> CacheLoop:
        if not loop or not loop[0].alive():
            loop[:] = [CacheLoop("stress", Park())]
        return loop[0]

    return lambda: blocking(factory(), running)
