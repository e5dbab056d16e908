"""The tester's calls of tasks end, also if the cache is in a state that never ends."""

from __future__ import annotations

import asyncio
import errno
from types import SimpleNamespace
from typing import Any

import pytest

from pagecache import ConflictError, PageCache
from pagecache.backends import MemoryBackend
from pagecache.stress.cached_tasks import CachedTasks


def test_an_open_that_a_conflict_refuses_for_good_ends() -> None:
    """No thread settles the conflict: the round has to report it."""
    with PageCache("1MiB") as cache:
        volume = cache.attach(MemoryBackend())
        with volume.open("key", "w+b") as file:
            file.pwrite(b"ours", 0)
            volume.invalidate_remote("key", version="theirs")
            target: Any = SimpleNamespace(
                volume=volume, explained=frozenset(), contested=frozenset({errno.ESTALE}), call_timeout=0.0
            )

            async def opening() -> None:
                async with asyncio.timeout(5.0):
                    await CachedTasks(target)._open("key")

            with pytest.raises(ConflictError):
                asyncio.run(opening())
            volume.resolve("key", "discard")
            file.abandon()
