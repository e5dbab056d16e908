"""Objects larger than the cache on the PublishingBackend, which publishes whole objects, in its variants."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pagecache import CachedFile, CommitError, PageCache, Volume
from pagecache.observe import documents
from pagecache.options import OpenMode

from ..publishing import PublishingBackend
from .rig import FAST, PAGE, eventually, pattern

CAPACITY = 64 * PAGE
KEY = "object"


class Store:
    """A small cache over a PublishingBackend."""

    def __init__(self, root: Path, **options: Any) -> None:
        self.cache = PageCache(
            CAPACITY,
            dirty_background=0.1,
            dirty_limit=0.5,
            max_folio=4 * PAGE,
            flush_interval=0.02,
            retry=options.pop("retry", FAST),
        )
        self.backend = PublishingBackend(root, **options)
        self.volume: Volume = self.cache.attach(self.backend, read_ahead=0)

    def open(self, mode: OpenMode = "x+b") -> CachedFile:
        return self.volume.open(KEY, mode)

    def write(self, file: CachedFile, content: bytes) -> None:
        for offset in range(0, len(content), 8 * PAGE):
            file.pwrite(content[offset : offset + 8 * PAGE], offset)
            self.cache.check()

    def finish(self) -> None:
        self.cache.check()
        self.cache.close(timeout=30, on_failed="discard")
        assert self.backend.violations == []


@pytest.fixture
def store(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Store]:
    made = Store(tmp_path, **getattr(request, "param", {}))
    yield made
    made.finish()


VARIANTS = [{}, {"read_back": False}, {"write_unit": 8 * PAGE}, {"write_unit": 3 * 4096, "read_back": False}]


@pytest.mark.parametrize("store", VARIANTS, indirect=True, ids=repr)
def test_a_large_object_is_written_read_rewritten_and_published_or_abandoned(store: Store) -> None:
    """Four times the cache: written, read back, rewritten in parts, committed; then once more, and abandoned. [T-61]"""
    content = bytearray(pattern(4 * CAPACITY + 321))
    with store.open() as file:
        store.write(file, bytes(content))
        for k, offset in enumerate(range(50, len(content), 7 * PAGE)):
            data = pattern(PAGE + k, k)[: len(content) - offset]
            file.pwrite(data, offset)
            content[offset : offset + len(data)] = data
        assert file.pread(len(content), 0) == content
        assert store.backend.visible(KEY) is None
    assert store.backend.visible(KEY) == bytes(content)
    file = store.open("r+b")
    store.write(file, pattern(3 * CAPACITY, 8))
    file.abandon()
    assert store.backend.visible(KEY) == bytes(content)
    with store.open("rb") as file:
        assert file.pread(len(content), 0) == content


@pytest.mark.parametrize("store", VARIANTS, indirect=True, ids=repr)
@pytest.mark.parametrize("how", [{}, {"kept": True}, {"done": True}], ids=repr)
def test_commits_that_fail_once_and_forget_keep_or_only_lose_their_answer(store: Store, how: dict[str, Any]) -> None:
    """Whatever the backend has forgotten is sent again. [T-18a, T-69, 1.1]"""
    content = pattern(2 * CAPACITY)
    file = store.open()
    store.write(file, content)
    store.backend.fail_commits(1, **how)
    file.fsync()
    assert store.backend.visible(KEY) == content
    store.volume.drop_clean(KEY)
    assert file.pread(len(content), 0) == content
    file.close()


@pytest.mark.parametrize("store", VARIANTS, indirect=True, ids=repr)
def test_everything_staged_and_evicted_appears_whole(store: Store) -> None:
    """[T-70]"""
    content = pattern(40 * PAGE)
    store.cache.configure(dirty_background=0.0, dirty_limit=1 / 64)
    file = store.open()
    store.write(file, content)
    file.sync_range(0, len(content))
    store.volume.drop_clean(KEY)
    file.close()
    assert store.backend.visible(KEY) == content


def test_commits_that_fail_for_long_lose_nothing(store: Store) -> None:
    content = pattern(2 * CAPACITY)
    file = store.open()
    store.write(file, content)
    store.backend.fail_commits(50)
    with pytest.raises(CommitError):
        file.fsync()
    assert file.pread(len(content), 0) == content
    store.backend._failures.clear()
    file.close()
    assert store.backend.visible(KEY) == content


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize(
    "store", [{"retry": dataclasses.replace(FAST, failed_retry=0.01)}], indirect=True, ids=["soon"]
)
def test_staged_bytes_whose_commit_failed_raise_the_alarm_until_they_are_published(store: Store, kept: bool) -> None:
    """They count as failed like bytes in memory, and are published without another call. [2.16, 2.23, 2.27]"""
    content = pattern(2 * CAPACITY)
    file = store.open()
    store.write(file, content)
    store.backend.fail_commits(1_000_000, kept=kept)
    with pytest.raises(CommitError):
        file.fsync()
    assert sum(failed.length for failed in store.volume.failed()) == len(content)
    assert store.volume.stats().failed >= len(content)
    assert documents.stats(store.cache)["volumes"][0]["oldest"]["failed"] > 0
    store.backend._failures.clear()
    eventually(lambda: store.backend.visible(KEY) == content and not store.volume.failed())
    assert store.volume.stats().failed == 0
    assert documents.stats(store.cache)["volumes"][0]["oldest"] == {"dirty": None, "failed": None}
    file.close()
