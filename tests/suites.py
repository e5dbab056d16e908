"""The conformance suite of a backend as one row: `TestMemory = suite(lambda folder: MemoryBackend())`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pagecache.testing import BackendConformance

__all__ = ["suite"]


def suite(
    make: Callable[[Path], Any], fail_commit: Callable[[Any], None] | None = None, **members: Any
) -> type[BackendConformance]:
    """Return the suite of the backend that `make` makes in an empty folder.

    Args:
        make: the factory.
        fail_commit: makes the next commit of the backend fail.
        members: of the class, in place of the suite's own.
    """
    members["make_backend"] = lambda self, tmp_path: make(tmp_path)
    if fail_commit is not None:
        members["fail_commit"] = lambda self, backend: fail_commit(backend)
    return type("Suite", (BackendConformance,), members)
