"""Our own backends, plain and decorated, keep the promises of the protocol."""

from __future__ import annotations

from pathlib import Path

from pagecache.backends import Backend, DirectoryBackend, MemoryBackend
from pagecache.errors import Key
from pagecache.testing import BackendConformance, FaultyBackend, LatencyBackend


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
