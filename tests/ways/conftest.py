"""Every kind of backend under the same tests: memory, a directory, objects that a commit publishes, awaited ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pagecache import PageCache, Volume
from pagecache.backends import DirectoryBackend, MemoryBackend

from ..file.rig import FAST, QUIET
from ..stores import ObjectBackend
from .plain import PlainStore

KINDS = ("memory", "directory", "plain-async", "objects", "async-objects")
Attach = Callable[..., Volume]


def make_backend(kind: str, root: Path) -> Any:
    """An empty backend of that kind."""
    if kind == "directory":
        return DirectoryBackend(root)
    if kind in ("plain-async", "async-objects"):
        return PlainStore(commit_on_close=kind == "async-objects")
    return ObjectBackend() if kind == "objects" else MemoryBackend()


@pytest.fixture
def attach() -> Iterator[Attach]:
    """A function that attaches a backend to a new cache, which is checked and closed afterwards."""
    caches: list[PageCache] = []

    def attacher(backend: Any, *, capacity: str = "8MiB", **options: Any) -> Volume:
        caches.append(PageCache(capacity, **QUIET, retry=FAST))
        return caches[-1].attach(backend, **{"read_ahead": 0, **options})

    yield attacher
    for cache in caches:
        if not cache.closed:
            cache.check()
            cache.close(timeout=20, on_failed="discard")


@pytest.fixture(params=KINDS)
def volume(request: pytest.FixtureRequest, attach: Attach, tmp_path: Path) -> Volume:
    """A volume of each kind."""
    return attach(make_backend(request.param, tmp_path))
