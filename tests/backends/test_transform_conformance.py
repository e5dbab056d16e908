"""A TransformBackend keeps the promises of a backend, over any backend and with any transform."""

from __future__ import annotations

from typing import Any

import pytest

from pagecache.backends import DirectoryBackend, MemoryBackend, TransformBackend
from pagecache.testing import FaultyBackend

from ..publishing import PublishingBackend
from ..suites import suite
from .transforms import Checksums, Sealed, XorStream

NARROW: dict[str, Any] = {
    "max_read": 6144, "max_write": 8192, "max_vectors": 1, "boundary": 16384, "write_unit": 4096, "read_unit": 512,
}  # fmt: skip
"""Slots do not fit the units below, so that several of them are stored together."""

TestXorOverMemory = pytest.mark.smoke("TransformBackend")(
    suite(lambda folder: TransformBackend(MemoryBackend(), XorStream()))
)
TestSealedOverMemory = suite(lambda folder: TransformBackend(MemoryBackend(), Sealed()))
TestChecksumsOverDirectory = suite(lambda folder: TransformBackend(DirectoryBackend(folder), Checksums()))
TestSealedOverDirectory = suite(lambda folder: TransformBackend(DirectoryBackend(folder), Sealed(65536)))
TestSmallUnits = suite(lambda folder: TransformBackend(MemoryBackend(), Checksums(100)))
TestOverNarrowLimits = suite(lambda folder: TransformBackend(MemoryBackend(**NARROW), Checksums(1024 - 4)))
TestOverShortAnswers = suite(
    lambda folder: TransformBackend(FaultyBackend(MemoryBackend(), "short", seed=5), Sealed(512))
)
# One in the other: encryption, and checksums over the stored bytes.
TestTwoTransforms = suite(
    lambda folder: TransformBackend(TransformBackend(MemoryBackend(), Checksums(1000)), Sealed(4096))
)
# Optional methods are those of the inner file, such as rollback.
TestOverPublishing = suite(lambda folder: TransformBackend(PublishingBackend(folder), Sealed()))
TestOverPublishingOfUnits = suite(
    lambda folder: TransformBackend(PublishingBackend(folder, write_unit=4096), Checksums(2048 - 4))
)
