"""fsspec's own suites, above memory and local files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.local import make_path_posix
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.tests import abstract

from pagecache.fsspec import PageCacheFileSystem


class OverMemory(abstract.AbstractFixtures):
    """Objects."""

    @pytest.fixture
    def fs(self) -> Iterator[PageCacheFileSystem]:
        fs = PageCacheFileSystem("memory", capacity="4MiB")
        yield fs
        fs.close()
        MemoryFileSystem.store.clear()
        MemoryFileSystem.pseudo_dirs[:] = [""]

    @pytest.fixture
    def fs_path(self) -> str:
        return "/suite"


class OverFiles(abstract.AbstractFixtures):
    """Files that are changed in place."""

    @pytest.fixture
    def fs(self) -> Iterator[PageCacheFileSystem]:
        fs = PageCacheFileSystem("file", {"auto_mkdir": True}, capacity="4MiB")
        yield fs
        fs.close()

    @pytest.fixture
    def fs_path(self, tmp_path: Path) -> str:
        return str(make_path_posix(str(tmp_path)))

    @pytest.fixture
    def fs_sanitize_path(self) -> Any:
        return make_path_posix


for kind in ("Copy", "Get", "Put", "Open", "Pipe"):
    for above in (OverMemory, OverFiles):
        name = f"Test{kind}{above.__name__}"
        globals()[name] = type(name, (getattr(abstract, f"Abstract{kind}Tests"), above), {})
