"""A discarded tail that the backend may have stored shows nowhere: its cut is made whatever the outcome of the first
try. [2.17, 2.18]
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from typing import Any

import pytest

from pagecache import BackendError, CachedFile, CommitError, DataLossError, ShutdownError, WritebackError

from ..stores import Fault
from .rig import KEY, ONCE, PAGE, Rig, Task, eventually, overlay, pattern

Make = Callable[..., Rig]
OLD = pattern(4 * PAGE)
TAIL = pattern(4 * PAGE, seed=1)
FULL = OSError(errno.ENOSPC, "no room to cut")
FORBIDDEN = BackendError(errno.EACCES, "no cuts today", retry=False)


class Stored:
    """A tail whose write-back failed, although it was stored."""

    def __init__(self, make: Make, **limits: Any) -> None:
        self.rig: Rig = make({KEY: OLD}, retry=ONCE, limits=limits)
        self.file: CachedFile = self.rig.open("r+b")
        self.file.pwrite(TAIL, len(OLD))

        self.rig.backend.fault("write_from answer", OSError(errno.ECONNRESET, "the line went dead"))
        with pytest.raises(WritebackError):
            self.file.fsync()

    def give_up(self, refusal: OSError) -> Fault:
        """The cut is refused until the answer is cleared."""
        fault = self.rig.backend.fault("truncate", refusal, times=float("inf"))
        assert [(lost.offset, lost.length) for lost in self.rig.volume.discard(KEY)] == [(len(OLD), len(TAIL))]
        self.hear_of_it()
        assert self.rig.backend.written(KEY) == OLD + TAIL
        return fault

    def is_not_saved(self) -> None:
        with pytest.raises((CommitError, WritebackError)):
            self.rig.volume.sync(20)

    def hear_of_it(self) -> None:
        with pytest.raises(DataLossError):
            self.file.flush()

    def ends_as(self, content: bytes) -> None:
        self.rig.volume.sync(20)
        assert self.rig.backend.written(KEY) == self.rig.backend.committed(KEY) == content
        self.rig.volume.drop_clean(KEY)
        assert self.file.pread(len(content) + 1, 0) == content


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("refusal", [FULL, FORBIDDEN], ids=["no space", "forbidden"])
def test_nothing_counts_as_saved_before_the_cut_is_made(make: Make, refusal: OSError, durable: bool) -> None:
    story = Stored(make, durable_writes=durable)
    fault = story.give_up(refusal)
    story.is_not_saved()
    fault.clear()
    story.ends_as(OLD)


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("how", ["append", "write far behind", "truncate"])
def test_calls_that_make_the_file_longer_show_zeros(make: Make, how: str, durable: bool) -> None:
    story = Stored(make, durable_writes=durable)
    fault = story.give_up(FULL)
    far = len(OLD) + 3 * PAGE
    expected = OLD
    if how == "truncate":
        with pytest.raises(OSError, match="no room to cut"):
            story.file.truncate(far)
        fault.clear()
        story.file.truncate(far)
        expected += bytes(3 * PAGE)
    else:
        offset = len(OLD) if how == "append" else far
        story.file.pwrite(b"later", offset)
        fault.clear()
        expected = overlay(OLD + bytes(offset - len(OLD)), offset, b"later")
    story.ends_as(expected)


def test_stored_bytes_can_be_read_while_the_cut_is_refused(make: Make) -> None:
    """It lies before the bytes that the cut would remove. [2.3]"""
    story = Stored(make)
    fault = story.give_up(FORBIDDEN)
    story.is_not_saved()
    story.rig.volume.drop_clean(KEY)
    assert story.file.pread(len(OLD) + 1, 0) == OLD
    fault.clear()
    story.ends_as(OLD)


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("when", ["refused before", "left behind", "refused after"])
def test_the_next_backend_cuts_it(make: Make, when: str, durable: bool) -> None:
    """The cut was refused before the abort, or had not returned by then, or not even when the discard did."""
    story = Stored(make, durable_writes=durable)
    rig = story.rig
    if when == "refused before":
        story.give_up(FULL)
        rig.volume.abort()
        rig.backend.clear_faults()
    else:
        gate = rig.backend.gate("truncate")
        rig.backend.fault("truncate", FULL)
        discarding = Task(rig.volume.discard, KEY)
        gate.wait_entered()
        rig.volume.abort()
        if when == "left behind":
            discarding.result()
        gate.open()
        discarding.result()
        eventually(lambda: not rig.volume.inodes[KEY].engine.native.in_old_hands())
    assert rig.backend.written(KEY) == OLD + TAIL
    rig.volume.reconnect(rig.backend)
    if when != "refused before":
        story.hear_of_it()
    story.ends_as(OLD)


@pytest.mark.parametrize("durable", [False, True])
def test_the_next_backend_makes_a_cut_that_was_called_off(make: Make, durable: bool) -> None:
    """It had not begun when the volume was aborted: all threads that could have made it hung."""
    story = Stored(make, durable_writes=durable, max_inflight=1)
    rig = story.rig
    gate = rig.backend.gate("file_stat", times=2)
    hung = [Task(rig.volume.stat, KEY), Task(rig.volume.stat, KEY)]
    eventually(lambda: gate.nr_entered == 2)
    discarding = Task(rig.volume.discard, KEY)
    eventually(lambda: any(wait.what == "the backend's truncate" for wait in rig.cache.waits()))
    rig.volume.abort()
    discarding.result()
    for task in hung:
        with pytest.raises(ShutdownError):
            task.result()
    gate.open()
    eventually(lambda: rig.backend.nr_running == 0)
    assert rig.backend.seen("truncate") == []
    assert rig.backend.written(KEY) == OLD + TAIL
    rig.volume.reconnect(rig.backend)
    story.hear_of_it()
    story.ends_as(OLD)


def test_a_backend_that_cannot_cut_goes_on_and_the_log_says_so(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    story = Stored(make)
    with caplog.at_level(logging.WARNING):
        story.give_up(OSError(errno.EOPNOTSUPP, "no cuts here"))
    assert "which was given up" in caplog.text
    assert "it may be stored" in caplog.text
    later = pattern(len(TAIL), seed=2)
    story.file.append(later)
    story.ends_as(OLD + later)
