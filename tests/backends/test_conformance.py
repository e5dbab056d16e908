"""The package's backends, plain and decorated, keep the promises of the protocol."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pagecache.backends import Backend, DirectoryBackend, MemoryBackend, TransformBackend
from pagecache.backends.passing import PassingBackend, SlowBackend
from pagecache.testing import FaultyBackend, LatencyBackend
from pagecache.testing.checks import checks_of, run_check

from ..file.rig import raises
from ..plain import AsyncBlobs, Blobs
from ..stores import PublishingBackend
from ..suites import suite
from .transforms import Checksums, Sealed, XorStream


def nested(folder: Path) -> Backend:
    (folder / "a" / "b").mkdir(parents=True)
    return DirectoryBackend(folder)


NARROW: dict[str, Any] = {"max_read": 12288, "max_write": 8192, "max_vectors": 3, "boundary": 16384, "write_unit": 4096}
TestMemory = pytest.mark.smoke("memory:")(suite(lambda folder: MemoryBackend()))
TestMemoryWithOtherKeys = suite(
    lambda folder: MemoryBackend(durable_writes=True), make_key=lambda self, i: ("bucket", i)
)
TestMemoryWithNarrowLimits = suite(lambda folder: MemoryBackend(**NARROW))
TestDirectory = pytest.mark.smoke("dir:")(suite(DirectoryBackend))
TestDirectoryWithNestedKeys = suite(nested, make_key=lambda self, i: f"a/object-{i}" if i % 2 else f"a/b/object-{i}")
TestShortAnswers = suite(lambda folder: FaultyBackend(MemoryBackend(), "short", seed=3))
TestFaultyWithoutFaults = suite(lambda folder: FaultyBackend(DirectoryBackend(folder)))
TestLatency = suite(
    lambda folder: LatencyBackend(MemoryBackend(), read=10e-6, write=20e-6, commit=50e-6, jitter=0.5, seed=1)
)
TestPassing = suite(lambda folder: SlowBackend(PassingBackend(DirectoryBackend(folder))))
TestPlainClass = suite(lambda folder: Blobs())  # required methods and no base class: checked as any backend


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
    refusing = suite(lambda folder: made)
    check = next(iter(checks_of(refusing)))
    raises(TypeError, run_check, refusing(), check, tmp_path=tmp_path, match=words)


class Checked(PublishingBackend):
    """A backend that checks at its end whether the suite has broken the protocol."""

    def close(self) -> None:
        assert self.violations == []


TestPublishing = suite(lambda folder: Checked())
TestPublishingOfUnits = suite(lambda folder: Checked(write_unit="4KiB", read_back=False))
TestPublishingOfLargeUnits = suite(lambda folder: Checked(write_unit="64KiB"))


NARROW_UNITS: dict[str, Any] = {
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
TestOverNarrowLimits = suite(lambda folder: TransformBackend(MemoryBackend(**NARROW_UNITS), Checksums(1024 - 4)))
TestOverShortAnswers = suite(
    lambda folder: TransformBackend(FaultyBackend(MemoryBackend(), "short", seed=5), Sealed(512))
)
# One in the other: encryption, and checksums over the stored bytes.
TestTwoTransforms = suite(
    lambda folder: TransformBackend(TransformBackend(MemoryBackend(), Checksums(1000)), Sealed(4096))
)
# Optional methods are those of the inner file, such as rollback.
TestOverPublishing = suite(lambda folder: TransformBackend(PublishingBackend(), Sealed()))
TestOverPublishingOfUnits = suite(
    lambda folder: TransformBackend(PublishingBackend(write_unit=4096), Checksums(2048 - 4))
)
