"""Fixtures: caches over stores. A test that is a coroutine runs on a new loop."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from pagecache import PageCache, Volume

from ..file.rig import FAST, QUIET
from .stores import Store

Attach = Callable[..., Volume]
SECONDS = 60


def run(work: Coroutine[Any, Any, Any]) -> Any:
    """Run on a new loop, within a time limit."""
    return asyncio.run(asyncio.wait_for(work, SECONDS))


async def cancelled(gate: Any, call: Coroutine[Any, Any, Any]) -> None:
    """Cancel the task of a call that has come to a gate of its backend."""
    task = asyncio.create_task(call)
    await asyncio.to_thread(gate.wait_entered)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that is a coroutine."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = inspect.signature(pyfuncitem.obj).parameters
    run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names}))
    return True


@pytest.fixture
def attach() -> Iterator[Attach]:
    """A function that attaches a backend to a new quiet cache; the cache is closed, and its invariants hold."""
    volumes: list[Volume] = []

    def attacher(backend: Any, *, capacity: str = "8MiB", **options: Any) -> Volume:
        config = {name: options.pop(name) for name in list(options) if name in CONFIG}
        cache = PageCache(capacity, **{**QUIET, "retry": FAST, **config})
        volumes.append(cache.attach(backend, **{"read_ahead": 0, **options}))
        return volumes[-1]

    yield attacher
    for volume in reversed(volumes):
        if isinstance(volume.backend, Store):
            volume.backend.open_all()
        if not volume.cache.closed:
            volume.cache.check()
            volume.cache.close(timeout=20, on_failed="discard")


CONFIG = {"max_folio", "dirty_background", "dirty_limit", "retry", "dirty_expire", "throttle_timeout", "gil_release"}
