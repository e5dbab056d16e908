"""File systems above a memory and a local target, each with a new cache that is closed after the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from pagecache.fsspec import PageCacheFileSystem

Make = Callable[..., PageCacheFileSystem]

TARGETS = ("memory", "file")


@pytest.fixture
def make() -> Iterator[Make]:
    """A factory of file systems; their caches are saved and closed at the end."""
    made: list[PageCacheFileSystem] = []

    def maker(*args: Any, **options: Any) -> PageCacheFileSystem:
        made.append(PageCacheFileSystem(*args, **{"capacity": "4MiB", **options}))
        return made[-1]

    yield maker
    for fs in made:
        fs.close(timeout=60.0, on_failed="discard")
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


@pytest.fixture(params=TARGETS)
def protocol(request: pytest.FixtureRequest) -> str:
    """Targets of both kinds: whole objects, and files that are changed in place."""
    name: str = request.param
    return name


@pytest.fixture
def root(protocol: str, tmp_path: Path) -> str:
    """A directory of the target."""
    if protocol == "file":
        return str(tmp_path)
    fsspec.filesystem("memory").makedirs("/root", exist_ok=True)
    return "/root"


@pytest.fixture
def fs(make: Make, protocol: str) -> PageCacheFileSystem:
    """A file system above the target."""
    return make(protocol)


@pytest.fixture
def below(protocol: str) -> Any:
    """The target itself."""
    return fsspec.filesystem(protocol)
