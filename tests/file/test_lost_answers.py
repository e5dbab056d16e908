"""Commits with a lost answer, of files with staged bytes: they are made again, with the same bytes."""

from __future__ import annotations

import contextlib
import errno
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pagecache import BackendError, CachedFile, CommitError, ConflictError, PageCache, Volume
from pagecache.options import OpenMode

from ..stores import PublishingBackend, failing_commit
from .rig import FAST, KEY, ONCE, PAGE, Task, overlay, pattern, raises
from .test_spool import CALM, CAPACITY

UNIT = 2 * PAGE
CONTENT = pattern(60 * PAGE)
BASE = pattern(70 * PAGE, 5)
SMALL: dict[str, Any] = {
    "dirty_background": 0.0,
    "dirty_limit": 1 / 64,  # so all of it is staged, from the first byte on
    "max_folio": PAGE,
    "flush_interval": 0.02,
}


def no_answer() -> BackendError:
    return BackendError(errno.EIO, "the commit failed, as the test wants", retry=True)


class Store:
    """A small cache over a store of whole objects; no staged byte stays in memory."""

    def __init__(self, retry: Any = ONCE, **options: Any) -> None:
        self.backend = PublishingBackend(**{"write_unit": UNIT, **options})
        self.cache = PageCache(CAPACITY, retry=retry, **SMALL)
        self.volume: Volume = self.cache.attach(self.backend, read_ahead=0)
        self.handles: list[CachedFile] = []

    def staged(self, mode: OpenMode = "x+b", content: bytes = CONTENT) -> CachedFile:
        """A file all of whose bytes are staged, and none in memory."""
        file = self.volume.open(KEY, mode)
        self.handles.append(file)
        file.pwrite(content, 0)
        file.sync_range(0, len(content))
        self.volume.drop_clean(KEY)
        assert self.of(file, "staged") == len(content)
        self.cache.configure(**CALM)
        return file

    def of(self, file: CachedFile, what: str) -> int:
        return int(file.stats().to_dict()[what])

    def lose_answers(self, times: float = 1) -> None:
        """Carry the next commits out, and report failures to the cache."""
        self.backend.fault("commit answer", no_answer(), times=times)

    def lose_an_answer(self, file: CachedFile, *, done: bool = True) -> None:
        """Carry one commit out, or let the store forget its bytes, and report a failure to the cache."""
        if done:
            self.lose_answers()
        else:
            self.backend.fault("commit", failing_commit(no_answer()))
        raises(CommitError, file.fsync)
        self.volume.drop_clean(KEY)

    def visible(self) -> bytes | None:
        return self.backend.committed(KEY)

    def put(self, content: bytes) -> None:
        """Store another version, as another client does."""
        self.backend.put(KEY, content)

    def finish(self) -> None:
        self.backend.clear_faults()
        for handle in self.handles:
            with contextlib.suppress(OSError):  # the test has checked the errors that it provoked
                handle.close()
        self.cache.check()
        self.cache.close(timeout=30, on_failed="discard")
        assert self.backend.violations == []


@pytest.fixture
def make_store() -> Iterator[Callable[..., Store]]:
    made: list[Store] = []

    def maker(**options: Any) -> Store:
        made.append(Store(**options))
        return made[-1]

    yield maker
    for store in made:
        store.finish()


@pytest.fixture(params=[{}, {"read_back": False}, {"write_unit": 1}], ids=repr)
def store(make_store: Callable[..., Store], request: pytest.FixtureRequest) -> Store:
    return make_store(**request.param)


@pytest.mark.parametrize("retries", [False, True], ids=["the next call", "the same call"])
@pytest.mark.parametrize("changed", [b"", b"x"], ids=["no more", "a small write"])
@pytest.mark.parametrize("how", ["fsync", "close"])
def test_it_is_saved(make_store: Callable[..., Store], how: str, changed: bytes, retries: bool) -> None:
    """The unit of a small write is completed from the spool. [T-69, 2.12, 2.14, 2.15, 2.20]"""
    store = make_store(retry=FAST if retries else ONCE)
    file = store.staged()
    if retries:
        store.lose_answers()
    else:
        store.lose_an_answer(file)
        store.volume.open(KEY).close()  # the version is no foreign one
    file.pwrite(changed, 30 * PAGE + 5)
    getattr(file, how)()
    assert store.visible() == overlay(CONTENT, 30 * PAGE + 5, changed)
    with store.volume.open(KEY) as again:
        assert store.of(again, "staged") == store.of(again, "dirty") == 0
        assert again.pread(len(CONTENT), 0) == store.visible()


def test_writers_that_wait_for_room_get_it(store: Store) -> None:
    """[T-61, 2.24]"""
    file = store.staged()
    store.lose_an_answer(file)
    more = pattern(3 * CAPACITY, 8)
    assert Task(file.pwrite, more, 100).result(60) == len(more)
    assert store.visible() == CONTENT
    file.fsync()
    assert store.visible() == CONTENT[:100] + more


def test_a_second_lost_answer_loses_nothing(store: Store) -> None:
    """The bytes stay readable, fsyncs raise, and the last commit gets an answer. [T-69]"""
    file = store.staged()
    store.lose_an_answer(file)
    file.pwrite(b"x", 30 * PAGE + 5)
    store.lose_answers(math.inf)
    raises(OSError, file.fsync, match="as the test wants")
    assert store.of(file, "staged") > 0
    store.backend.clear_faults()
    assert file.pread(10, 20 * PAGE) == CONTENT[20 * PAGE : 20 * PAGE + 10]
    file.fsync()
    assert store.visible() == overlay(CONTENT, 30 * PAGE + 5, b"x") == file.pread(len(CONTENT), 0)


def test_a_truncate_and_a_hole_come_after_it(store: Store) -> None:
    """[2.17]"""
    file = store.staged()
    store.lose_an_answer(file)
    file.punch_hole(4 * PAGE, 2 * PAGE)
    file.truncate(50 * PAGE + 3)
    expected = overlay(CONTENT, 4 * PAGE, bytes(2 * PAGE))[: 50 * PAGE + 3]
    assert file.pread(len(CONTENT), 0) == expected
    assert store.visible() == CONTENT
    file.fsync()
    assert store.visible() == expected


def test_changes_taken_by_the_commit_are_there_after_a_reconnect(store: Store) -> None:
    """A truncate to nothing came before the staged bytes, which are sent again over it. [T-75b, 2.17, 2.22]"""
    store.put(BASE)
    file = store.staged("w+b")
    store.lose_an_answer(file)
    assert file.pread(10, 20 * PAGE) == CONTENT[20 * PAGE : 20 * PAGE + 10]
    store.volume.drop_clean(KEY)
    store.volume.abort()
    store.volume.reconnect(PublishingBackend(store.backend, write_unit=UNIT))
    assert file.pread(len(CONTENT), 0) == CONTENT
    file.fsync()
    assert store.visible() == CONTENT


@pytest.mark.parametrize("done", [True, False])
def test_another_version_stored_after_it_is_a_conflict_that_loses_nothing(store: Store, done: bool) -> None:
    """All of ours can be read, and laid over the other one. [T-30, 2.19]"""
    store.put(BASE)
    file = store.staged("r+b")
    store.lose_an_answer(file, done=done)
    newer = pattern(70 * PAGE, 9)
    store.put(newer)
    file.pwrite(b"x", 30 * PAGE + 5)
    expected = overlay(CONTENT, 30 * PAGE + 5, b"x")
    raises(ConflictError, file.fsync)
    assert store.visible() == newer
    assert file.pread(len(expected), 0)[: len(expected)] == expected
    store.volume.resolve(KEY, "rebase")
    file.fsync()
    assert store.visible() == expected + newer[60 * PAGE :]
