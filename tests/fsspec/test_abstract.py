"""fsspec's own suites, above memory and local files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.local import make_path_posix
from fsspec.tests import abstract

from pagecache.fsspec import PageCacheFileSystem

from .conftest import Make


class Above(abstract.AbstractFixtures):
    """Objects, and files that are changed in place."""

    @pytest.fixture
    def fs(self, make: Make, protocol: str) -> PageCacheFileSystem:
        return make(protocol, {"auto_mkdir": True} if protocol == "file" else None)

    @pytest.fixture
    def fs_path(self, protocol: str, tmp_path: Path) -> str:
        return str(make_path_posix(str(tmp_path))) if protocol == "file" else "/suite"

    @pytest.fixture
    def fs_sanitize_path(self, protocol: str) -> Any:
        return make_path_posix if protocol == "file" else lambda path: path


for kind in ("Copy", "Get", "Put", "Open", "Pipe"):
    globals()[f"Test{kind}"] = type(f"Test{kind}", (getattr(abstract, f"Abstract{kind}Tests"), Above), {})
