"""The package's backends, plain and decorated, keep the promises of the protocol."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pagecache.backends import Backend, DirectoryBackend, MemoryBackend
from pagecache.errors import Key
from pagecache.testing import BackendConformance, FaultyBackend, LatencyBackend
from pagecache.testing.checks import checks_of, run_check

from ..plain import AsyncBlobs, Blobs


@pytest.mark.smoke("memory:")
class TestMemory(BackendConformance):
    def make_backend(self, tmp_path: Path) -> Backend:
        return MemoryBackend()


class TestMemoryWithOtherKeys(BackendConformance):
    def make_backend(self, tmp_path: Path) -> Backend:
        return MemoryBackend(durable_writes=True)

    def make_key(self, i: int) -> Key:
        return ("bucket", i)


class TestMemoryWithNarrowLimits(BackendConformance):
    def make_backend(self, tmp_path: Path) -> Backend:
        return MemoryBackend(max_read=12288, max_write=8192, max_vectors=3, boundary=16384, write_unit=4096)


@pytest.mark.smoke("dir:")
class TestDirectory(BackendConformance):
    def make_backend(self, tmp_path: Path) -> Backend:
        return DirectoryBackend(tmp_path)


class TestDirectoryWithNestedKeys(BackendConformance):
    def make_backend(self, tmp_path: Path) -> Backend:
        (tmp_path / "a" / "b").mkdir(parents=True)
        return DirectoryBackend(tmp_path)

    def make_key(self, i: int) -> Key:
        return f"a/object-{i}" if i % 2 else f"a/b/object-{i}"


class TestShortAnswers(BackendConformance):
    def make_backend(self, tmp_path: Path) -> Backend:
        return FaultyBackend(MemoryBackend(), "short", seed=3)


class TestFaultyWithoutFaults(BackendConformance):
    def make_backend(self, tmp_path: Path) -> Backend:
        return FaultyBackend(DirectoryBackend(tmp_path))


class TestLatency(BackendConformance):
    def make_backend(self, tmp_path: Path) -> Backend:
        return LatencyBackend(MemoryBackend(), read=10e-6, write=20e-6, commit=50e-6, jitter=0.5, seed=1)


class TestPlainClass(BackendConformance):
    """A class that has the required methods and no base class is checked as any backend."""

    def make_backend(self, tmp_path: Path) -> Any:
        return Blobs()


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (object(), "has no open and no stat"),
        (Blobs, "Blobs is a class"),
        (Path("/tmp/x"), "dir:/tmp/x"),
        (AsyncBlobs(), "is asynchronous: use `pagecache check-backend`"),
    ],
    ids=["object", "class", "path", "asynchronous"],
)
def test_the_suite_refuses_what_is_no_backend(made: Any, words: str, tmp_path: Path) -> None:
    class Suite(BackendConformance):
        def make_backend(self, tmp_path: Path) -> Any:
            return made

    check = next(iter(checks_of(Suite)))
    with pytest.raises(TypeError, match=words):
        run_check(Suite(), check, tmp_path=tmp_path)
