"""A TransformBackend keeps the promises of a backend, over any backend and with any transform."""

from __future__ import annotations

from pathlib import Path

import pytest

from pagecache.backends import Backend, DirectoryBackend, MemoryBackend, TransformBackend
from pagecache.testing import BackendConformance, FaultyBackend

from ..publishing import PublishingBackend
from .transforms import Checksums, Sealed, XorStream


@pytest.mark.smoke("TransformBackend")
class TestXorOverMemory(BackendConformance):
    def make_backend(self, tmp_path: Path) -> Backend:
        return TransformBackend(MemoryBackend(), XorStream())


class TestSealedOverMemory(BackendConformance):
    def make_backend(self, tmp_path: Path) -> Backend:
        return TransformBackend(MemoryBackend(), Sealed())


class TestChecksumsOverDirectory(BackendConformance):
    def make_backend(self, tmp_path: Path) -> Backend:
        return TransformBackend(DirectoryBackend(tmp_path), Checksums())


class TestSealedOverDirectory(BackendConformance):
    def make_backend(self, tmp_path: Path) -> Backend:
        return TransformBackend(DirectoryBackend(tmp_path), Sealed(65536))


class TestSmallUnits(BackendConformance):
    def make_backend(self, tmp_path: Path) -> Backend:
        return TransformBackend(MemoryBackend(), Checksums(100))


class TestOverNarrowLimits(BackendConformance):
    """Slots do not fit the units below, so that several of them are stored together."""

    def make_backend(self, tmp_path: Path) -> Backend:
        inner = MemoryBackend(
            max_read=6144, max_write=8192, max_vectors=1, boundary=16384, write_unit=4096, read_unit=512
        )
        return TransformBackend(inner, Checksums(1024 - 4))


class TestOverShortAnswers(BackendConformance):
    def make_backend(self, tmp_path: Path) -> Backend:
        return TransformBackend(FaultyBackend(MemoryBackend(), "short", seed=5), Sealed(512))


class TestTwoTransforms(BackendConformance):
    """One in the other: encryption, and checksums over the stored bytes."""

    def make_backend(self, tmp_path: Path) -> Backend:
        return TransformBackend(TransformBackend(MemoryBackend(), Checksums(1000)), Sealed(4096))


class TestOverPublishing(BackendConformance):
    """Optional methods are those of the inner file, such as rollback."""

    def make_backend(self, tmp_path: Path) -> Backend:
        return TransformBackend(PublishingBackend(tmp_path), Sealed())


class TestOverPublishingOfUnits(BackendConformance):
    def make_backend(self, tmp_path: Path) -> Backend:
        return TransformBackend(PublishingBackend(tmp_path, write_unit=4096), Checksums(2048 - 4))
