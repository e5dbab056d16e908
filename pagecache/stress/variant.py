"""Settings of a round that the seed chooses in addition to its plan: folio sizes, thresholds, readahead. For the
default memory backend also its limits.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from pagecache.backends import MemoryBackend
from pagecache.backends.protocol import Backend, BackendLimits
from pagecache.engine.blocking import blocking
from pagecache.engine.loop import CacheLoop
from pagecache.engine.park import Park
from pagecache.stress.forgetting import ForgettingBackend

__all__ = ["PAGE", "Variant", "for_threads"]

PAGE = 4096


@dataclass(frozen=True, slots=True)
class Variant:
    """Settings of a round, in addition to its plan."""

    config: dict[str, Any]
    options: dict[str, Any]
    limits: dict[str, Any]
    mirror: bool = False
    objects: bool = False  # the memory backend makes objects visible by commit

    @classmethod
    def of(cls, rng: random.Random) -> Variant:
        """Choose settings by the seed."""
        config: dict[str, Any] = {
            "max_folio": rng.choice([PAGE, 4 * PAGE, 16 * PAGE, "2MiB"]),
            "dirty_background": rng.choice([0.1, 0.25]),
            "dirty_limit": rng.choice([0.4, 0.5, 0.6]),
            "flush_interval": 0.05,
            "dirty_expire": rng.choice([0.05, 0.5, 30.0]),
            "gil_release": rng.choice([1, PAGE, "1MiB"]),
            "poison": rng.random() < 0.5,
        }
        limits: dict[str, Any] = {
            "parallel_direct_writes": rng.random() < 0.6,
            "max_inflight": rng.choice([2, 8]),
            "durable_writes": rng.random() < 0.2,
            "max_write": rng.choice([2 * PAGE, 1 << 20]),
            "max_read": rng.choice([4 * PAGE, 1 << 20]),
            "direct_unit": rng.choice([1, 1, 512, PAGE]),
            "write_unit": rng.choice([1, 1, 1, 512, 2 * PAGE]),
            "ordered_writes": rng.random() < 0.1,
        }
        options: dict[str, Any] = {"read_ahead": rng.choice([0, "64KiB", "1MiB"])}
        mirror, objects = rng.random() < 0.2, rng.random() < 0.15
        if objects:
            limits |= {"durable_writes": False, "parallel_direct_writes": False, "ordered_writes": False}
            limits["write_unit"] = rng.choice([512, 2 * PAGE, 4 * PAGE])
            config["max_folio"] = PAGE
        limits["max_write"] = max(limits["max_write"], limits["write_unit"])
        return cls(config, options, limits, mirror, objects)

    def store(self, *, crash: bool) -> Backend:
        """Make a memory backend with these limits."""
        limits = BackendLimits(**self.limits)
        if not self.objects or crash:
            return MemoryBackend(limits)
        return ForgettingBackend(MemoryBackend(limits), replace(limits, commit_on_close=True))


def for_threads(factory: Callable[[], Any]) -> Callable[[], Backend]:
    """Return a factory of blocking backends, for backends of either kind. The coroutines of asynchronous ones run on a
    loop of the tester, and each call waits for its end: so the layers of the tester are between cache and backend.
    """
    loop: list[CacheLoop] = []

    def running() -> CacheLoop:
        if not loop or not loop[0].alive():
            loop[:] = [CacheLoop("stress", Park())]
        return loop[0]

    return lambda: blocking(factory(), running)
