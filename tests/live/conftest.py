"""A cache that is served."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pagecache import PageCache, Volume


@dataclass
class Served:
    """A cache, its volume V in memory, and the path of its socket."""

    cache: PageCache
    volume: Volume
    path: str
    folder: Path

    def fill(self, files: int = 300) -> None:
        """Make enough files for an answer that no socket takes at once."""
        for k in range(files):
            with self.volume.open(f"{k:04}" + "x" * 1000, "w") as f:
                f.write(b"x")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    path = str(tmp_path / "s")
    with PageCache("8MiB") as cache:
        volume = cache.attach("memory:", name="V")
        cache.serve_stats(path)
        yield Served(cache, volume, path, tmp_path)
