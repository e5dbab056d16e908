"""Shared by the tests of waits: read a report until it shows the expected wait, and check that none is left."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from pagecache import PageCache, Wait

from ..file.rig import Task, eventually

__all__ = ["no_wait_left", "start", "wait_of"]


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


def no_wait_left(cache: PageCache) -> None:
    """Check that the report is empty, now or in a moment: threads of the volume may be about to end."""
    eventually(lambda: not cache.waits())
    cache.check()
