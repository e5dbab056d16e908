"""The stores of the clients' tests: a file system above the cache, and the target below it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import pytest

from pagecache.fsspec import PageCacheFileSystem


@dataclass
class Store:
    """A directory of a target, through the cache and without it. `target`: the URL of the target, up to a path."""

    target: str
    fs: PageCacheFileSystem
    below: Any
    root: str
    options: dict[str, Any]  # `storage_options` of URLs

    def url(self, name: str) -> str:
        """The URL through the cache."""
        return f"pagecache::{self.plain_url(name)}"

    def plain_url(self, name: str) -> str:
        """The URL without it."""
        return f"{self.target}{self.root}/{name}"

    def path(self, name: str) -> str:
        """The path for `fs` and `below`."""
        return f"{self.root}/{name}"

    def stored(self, name: str) -> bytes:
        """The content without the cache."""
        self.below.invalidate_cache()
        return bytes(self.below.cat_file(self.path(name)))


@pytest.fixture(params=["file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A store with files that are changed in place, and one with whole objects; afterwards the stored content is
    checked and the cache closed.
    """
    protocol: str = request.param
    below = fsspec.filesystem(protocol)
    root = str(tmp_path) if protocol == "file" else f"/{tmp_path.name}"
    below.makedirs(root, exist_ok=True)
    options = {"auto_mkdir": True} if protocol == "file" else {}  # zarr has no directories
    fs = fsspec.filesystem("pagecache", target_protocol=protocol, target_options=options)
    yield Store(
        "file://" if protocol == "file" else "memory:/", fs, below, root, {protocol: options} if options else {}
    )
    fs.cache.check()
    fs.close(timeout=60.0)
    below.rm(root, recursive=True)
