"""What the tests of waits share: looking at a report until it shows what is awaited, and that nothing is left."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from pagecache import PageCache, Wait

from ..file.rig import Task, eventually

__all__ = ["nobody_waits", "start", "wait_of"]


def start(name: str, call: Callable[..., Any], *args: Any) -> Task[Any]:
    """Call something on a thread of this name."""

    def named() -> Any:
        threading.current_thread().name = name
        return call(*args)

    return Task(named)


def wait_of(cache: PageCache, name: str = "waiter") -> Wait:
    """The one wait of this thread or task, once it is there."""
    found: list[Wait] = []

    def there() -> bool:
        found[:] = [wait for wait in cache.waits() if wait.name == name]
        return bool(found)

    eventually(there)
    assert len(found) == 1, found
    return found[0]


def nobody_waits(cache: PageCache) -> None:
    """Nobody is said to wait, now or in a moment: threads of the volume may be on their way out."""
    eventually(lambda: not cache.waits())
    cache.check()
