"""Commits with a lost answer, of files with staged bytes: they are made again, with the same bytes."""

from __future__ import annotations

import errno
import math
from typing import Any, cast

import pytest

from pagecache import BackendError, CachedFile, CommitError, ConflictError

from ..stores import Action, PublishingBackend, StoredObject, failing_commit
from .rig import FAST, KEY, ONCE, PAGE, Make, Rig, Task, overlay, pattern, raises
from .test_spool import CAPACITY, SMALL, TIGHT, all_staged, staged

UNIT = 2 * PAGE
CONTENT = pattern(60 * PAGE)
BASE = pattern(70 * PAGE, 5)
NO_ANSWER = BackendError(errno.EIO, "the commit failed, as the test wants", retry=True)


def small(make: Make, retry: Any = ONCE, **options: Any) -> Rig:
    """A small cache over a store of whole objects; no staged byte stays in memory."""
    backend = PublishingBackend(**{"write_unit": UNIT, **options})
    return make(backend=backend, retry=retry, **{**SMALL, **TIGHT, "max_folio": PAGE})


@pytest.fixture(params=[{}, {"read_back": False}, {"write_unit": 1}], ids=repr)
def rig(make: Make, request: pytest.FixtureRequest) -> Rig:
    return small(make, **request.param)


def lose_an_answer(rig: Rig, file: CachedFile, *, done: bool = True) -> None:
    """Carry one commit out, or let the store forget its bytes, and report a failure to the cache."""
    lost: Action = NO_ANSWER if done else failing_commit(NO_ANSWER)
    rig.fails("commit answer" if done else "commit", lost, CommitError, file.fsync)
    rig.volume.drop_clean(KEY)


@pytest.mark.parametrize("retries", [False, True], ids=["the next call", "the same call"])
@pytest.mark.parametrize("changed", [b"", b"x"], ids=["no more", "a small write"])
@pytest.mark.parametrize("how", ["fsync", "close"])
def test_it_is_saved(make: Make, how: str, changed: bytes, retries: bool) -> None:
    """The unit of a small write is completed from the spool. [T-69, 2.12, 2.14, 2.15, 2.20]"""
    rig = small(make, FAST if retries else ONCE)
    file = all_staged(rig, CONTENT, "x+b")
    if retries:
        rig.backend.fault("commit answer", NO_ANSWER)
    else:
        lose_an_answer(rig, file)
        rig.volume.open(KEY).close()  # the version is no foreign one
    file.pwrite(changed, 30 * PAGE + 5)
    getattr(file, how)()
    assert rig.backend.committed(KEY) == overlay(CONTENT, 30 * PAGE + 5, changed)
    with rig.volume.open(KEY) as again:
        assert staged(again) == again.stats().dirty == 0
        assert again.pread(len(CONTENT), 0) == rig.backend.committed(KEY)


def test_writers_that_wait_for_room_get_it(rig: Rig) -> None:
    """[T-61, 2.24]"""
    file = all_staged(rig, CONTENT, "x+b")
    lose_an_answer(rig, file)
    more = pattern(3 * CAPACITY, 8)
    assert Task(file.pwrite, more, 100).result(60) == len(more)
    assert rig.backend.committed(KEY) == CONTENT
    assert rig.saved(file) == CONTENT[:100] + more


def test_a_second_lost_answer_loses_nothing(rig: Rig) -> None:
    """The bytes stay readable, fsyncs raise, and the last commit gets an answer. [T-69]"""
    file = all_staged(rig, CONTENT, "x+b")
    lose_an_answer(rig, file)
    file.pwrite(b"x", 30 * PAGE + 5)
    rig.backend.fault("commit answer", NO_ANSWER, times=math.inf)
    raises(OSError, file.fsync, match="as the test wants")
    assert staged(file) > 0
    rig.backend.clear_faults()
    assert file.pread(10, 20 * PAGE) == CONTENT[20 * PAGE : 20 * PAGE + 10]
    assert rig.saved(file) == overlay(CONTENT, 30 * PAGE + 5, b"x") == file.pread(len(CONTENT), 0)


def test_a_truncate_and_a_hole_come_after_it(rig: Rig) -> None:
    """[2.17]"""
    file = all_staged(rig, CONTENT, "x+b")
    lose_an_answer(rig, file)
    file.punch_hole(4 * PAGE, 2 * PAGE)
    file.truncate(50 * PAGE + 3)
    expected = overlay(CONTENT, 4 * PAGE, bytes(2 * PAGE))[: 50 * PAGE + 3]
    assert file.pread(len(CONTENT), 0) == expected
    assert rig.backend.committed(KEY) == CONTENT
    assert rig.saved(file) == expected


def test_changes_taken_by_the_commit_are_there_after_a_reconnect(rig: Rig) -> None:
    """A truncate to nothing came before the staged bytes, which are sent again over it. [T-75b, 2.17, 2.22]"""
    rig.backend.objects[KEY] = StoredObject(BASE)
    file = all_staged(rig, CONTENT, "w+b")
    lose_an_answer(rig, file)
    assert file.pread(10, 20 * PAGE) == CONTENT[20 * PAGE : 20 * PAGE + 10]
    rig.volume.drop_clean(KEY)
    rig.volume.abort()
    rig.volume.reconnect(PublishingBackend(cast(PublishingBackend, rig.backend), write_unit=UNIT))
    assert file.pread(len(CONTENT), 0) == CONTENT
    assert rig.saved(file) == CONTENT


@pytest.mark.parametrize("done", [True, False])
def test_another_version_stored_after_it_is_a_conflict_that_loses_nothing(rig: Rig, done: bool) -> None:
    """All of ours can be read, and laid over the other one. [T-30, 2.19]"""
    rig.backend.objects[KEY] = StoredObject(BASE)
    file = all_staged(rig, CONTENT)
    lose_an_answer(rig, file, done=done)
    newer = pattern(70 * PAGE, 9)
    cast(PublishingBackend, rig.backend).put(KEY, newer)
    file.pwrite(b"x", 30 * PAGE + 5)
    expected = overlay(CONTENT, 30 * PAGE + 5, b"x")
    raises(ConflictError, file.fsync)
    assert rig.backend.committed(KEY) == newer
    assert file.pread(len(expected), 0)[: len(expected)] == expected
    rig.volume.resolve(KEY, "rebase")
    assert rig.saved(file) == expected + newer[60 * PAGE :]
