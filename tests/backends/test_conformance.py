"""The package's backends, plain and decorated, keep the promises of the protocol."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pagecache.backends import Backend, DirectoryBackend, MemoryBackend
from pagecache.testing import FaultyBackend, LatencyBackend
from pagecache.testing.checks import checks_of, run_check

from ..plain import AsyncBlobs, Blobs
from ..suites import suite


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
    with pytest.raises(TypeError, match=words):
        run_check(refusing(), check, tmp_path=tmp_path)
