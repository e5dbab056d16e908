"""Asynchronous backends as targets: the cache has one on its own loop, what is stored is read through another.

    factory() ──▶ one for the cache, as it is: PageCache.attach, coroutines on the cache's loop
    factory() ──▶ one for the tester, on a loop of its own: makes files, and reads what is stored

Both have to be on the same store. Where the factory gives a store of its own each time, one backend has to do for both:
then it is on the tester's loop, and the cache sees a blocking one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pagecache.backends.passing import PassingBackend
from pagecache.backends.protocol import AsyncBackend, Backend
from pagecache.engine.loop import Blocking, CacheLoop, blocking, is_async, original
from pagecache.engine.park import Park
from pagecache.errors import Key

__all__ = ["for_the_cache", "for_threads"]

SHARED = "the factory gives a store of its own each time: the cache gets it as a blocking one"


def for_threads(factory: Callable[[], Any]) -> Callable[[], Backend]:
    """A factory of backends that block, whatever those of `factory` do; they share a loop."""
    loop: list[CacheLoop] = []

    def running() -> CacheLoop:
        if not loop or not loop[0].alive():
            loop[:] = [CacheLoop("stress", Park())]
        return loop[0]

    return lambda: blocking(factory(), running)


def for_the_cache(
    backend: Backend, factory: Callable[[], Backend], key: Key, skipped: dict[str, str]
) -> AsyncBackend | None:
    """One more of the same, as it is; None: it is none that is asynchronous, or has a store of its own."""
    inner = backend.inner if isinstance(backend, PassingBackend) else backend
    if not isinstance(inner, Blocking):
        return None
    if inner is not backend:
        skipped["the loop of the cache"] = (
            "the factory gives one and the same object: the cache gets it as a blocking one"
        )
        return None
    probe = factory()
    try:
        probe.stat(key)
    except FileNotFoundError:
        skipped["the loop of the cache"] = SHARED
        return None
    finally:
        probe.close()
    fresh: AsyncBackend = original(factory())
    assert is_async(fresh)
    return fresh
