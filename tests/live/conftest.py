"""A cache that is served."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pagecache import PageCache, Volume
from pagecache.observe.server import Timeouts


@dataclass
class Served:
    """A cache, its volume V in memory, and the path of its socket."""

    cache: PageCache
    volume: Volume
    path: str
    folder: Path

    def hurry(self, **timeouts: float) -> None:
        """Give clients less time than usual."""
        assert self.cache.live is not None
        self.cache.live._timeouts = Timeouts(**timeouts)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    path = str(tmp_path / "s")
    with PageCache("8MiB") as cache:
        volume = cache.attach("memory:", name="V")
        cache.serve_stats(path)
        yield Served(cache, volume, path, tmp_path)
