"""Reads beside a discard of acknowledged bytes: no byte of the old state stays, and no read is refused. [K12]"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import pytest

from pagecache.engine.commit.staging import Staging

from ..stores import WAIT_LIMIT_S, ObjectBackend, RecordingBackend
from .rig import KEY, PAGE, Rig, Task, ended_or_behind, eventually, pattern

Make = Callable[..., Rig]
DATA = pattern(4 * PAGE)
MINE = pattern(4 * PAGE, seed=1)


def staged(make: Make) -> tuple[Rig, RecordingBackend]:
    # a call for each page, whichever thread begins to write back
    backend = RecordingBackend({KEY: DATA}, staged=True, max_write=PAGE)
    rig = make(backend=backend, capacity="1MiB", dirty_background=0.0, dirty_limit=1 / 64)
    file = rig.open()
    file.pwrite(MINE, 0)
    file.sync_range(0, 4 * PAGE)
    rig.volume.drop_clean(KEY)
    # the last two; the share of bytes that have to stay in memory is full before
    assert file.stats().to_dict()["staged"] == 2 * PAGE
    return rig, backend


def test_a_read_of_staged_bytes_beside_their_discard_needs_no_backend(make: Make) -> None:
    """The backend has forgotten them, and the cache has not noticed yet: the spool has them. [2.19]"""
    rig, backend = staged(make)
    file = rig.handles[0]
    rolled_back = backend.gate("file_stat")
    discarding = Task(rig.volume.discard, KEY)
    rolled_back.wait_entered()
    assert Task(file.pread, PAGE, 3 * PAGE).result() == MINE[3 * PAGE :]
    rolled_back.open()
    assert [(lost.offset, lost.length) for lost in discarding.result()] == [(0, 4 * PAGE)]
    assert file.pread(4 * PAGE, 0) == DATA
    assert len(backend.seen("rollback")) == 1


@pytest.mark.parametrize("late", [False, True])
def test_a_read_that_got_staged_bytes_before_their_discard_leaves_none_of_them(
    make: Make, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    """Its answer comes between the rollback and the cache's own discard, or after both. [2.19, K12]"""
    rig, backend = staged(make)
    file = rig.handles[0]
    taken, answer = threading.Event(), threading.Event()
    read = Staging.read

    def held(self: Staging, offset: int, buffers: Sequence[memoryview]) -> int:
        done = read(self, offset, buffers)
        taken.set()
        assert answer.wait(WAIT_LIMIT_S)
        return done

    monkeypatch.setattr(Staging, "read", held)
    rolled_back = backend.gate("file_stat")
    reading = Task(file.pread, PAGE, 3 * PAGE)
    assert taken.wait(WAIT_LIMIT_S)
    discarding = Task(rig.volume.discard, KEY)
    rolled_back.wait_entered()
    if not late:
        answer.set()
        assert reading.result() == MINE[3 * PAGE :]
    rolled_back.open()
    discarding.result()
    answer.set()
    assert reading.result() == (DATA if late else MINE)[3 * PAGE :]
    assert file.pread(4 * PAGE, 0) == DATA


def test_a_read_of_a_gap_beside_a_rollback_is_made_again(make: Make) -> None:
    """The object is shorter than the cache assumes: the read returns no bytes where zeros belong. [2.19, 2.3]"""
    backend = ObjectBackend({KEY: DATA})
    rig = make(backend=backend)
    file = rig.open()
    file.pwrite(MINE[:PAGE], 0)
    file.pwrite(MINE[:PAGE], 10 * PAGE)
    file.flush()
    eventually(lambda: rig.cache.stats().unstable == 2 * PAGE)
    read, rolled_back = backend.gate("read_into"), backend.gate("file_stat")
    reading = Task(file.pread, PAGE, 6 * PAGE)
    read.wait_entered()
    discarding = Task(rig.volume.discard, KEY, 0, PAGE)
    rolled_back.wait_entered()
    read.open()
    ended_or_behind(rig.cache, reading, discarding.thread)
    assert not reading.finished.is_set()
    rolled_back.open()
    discarding.result()
    assert reading.result() == bytes(PAGE)
    assert file.pread(PAGE, 10 * PAGE) == MINE[:PAGE]
