"""A failed direct write may leave bytes in storage beyond the end. They are cut off before the file changes again, even
if its calls return long after it; and bytes stored by a later write never are. [2.10, 2.22]
"""

from __future__ import annotations

import errno
import threading

import pytest

from pagecache import ShutdownError
from pagecache.engine.io import direct
from pagecache.volume import reconnect

from ..stores import WAIT_LIMIT_S, RecordingBackend
from .rig import KEY, ONCE, PAGE, Task, eventually, make_rig, pattern
from .test_interrupts import ctrl_c

OLD = pattern(2 * PAGE)
TAIL = pattern(2 * PAGE, seed=1)
LATER = pattern(3 * PAGE, seed=2)


class Extended:
    """A direct write behind the end whose call does not answer, and lands when its gate opens, or has landed."""

    def __init__(self, *, landed: bool, error: OSError | None = None) -> None:
        self.old = RecordingBackend({KEY: OLD}, direct_unit=PAGE)
        self.rig = make_rig(backend=self.old, retry=ONCE)
        self.file = self.rig.open("r+b", direct=True)
        self.gate = self.old.gate("write_from answer" if landed else "write_from")
        if error is not None:
            self.old.fault("write_from answer", error)

    def write(self) -> None:
        self.writing = Task(self.file.pwrite, TAIL, len(OLD))
        self.gate.wait_entered()

    def abort(self) -> None:
        self.rig.volume.abort()
        with pytest.raises(ShutdownError):
            self.writing.result()

    def answer(self) -> None:
        ended = self.old.nr_ended
        self.gate.open()
        eventually(lambda: self.old.nr_ended > ended)

    def answer_last(self) -> None:
        """Answer the call after its caller has gone."""
        self.answer()
        eventually(lambda: not self.rig.volume.inodes[KEY].native.direct_count())


@pytest.mark.parametrize("landed", [False, True], ids=["lands late", "has landed"])
def test_a_sync_after_a_late_answer_leaves_no_tail(landed: bool) -> None:
    """The next commit cuts it off first."""
    story = Extended(landed=landed)
    story.write()
    story.abort()
    fresh = story.old.successor(lose=False)
    story.rig.volume.reconnect(fresh)
    story.answer_last()
    Task(story.rig.volume.sync).result()
    assert fresh.written(KEY) == OLD
    story.rig.finish()


@pytest.mark.parametrize("fenced", [False, True])
def test_bytes_stored_by_a_later_write_are_not_cut_off(fenced: bool) -> None:
    """The cut of the first tail comes while the next direct write is stored and not acknowledged yet."""
    story = Extended(landed=True)
    story.write()
    story.abort()
    fresh = story.old.successor(lose=False, shared=not fenced)
    story.rig.volume.reconnect(fresh, fenced=fenced)
    story.answer()
    gate = fresh.gate("write_from answer")
    writing = Task(story.file.pwrite, LATER, len(OLD))
    gate.wait_entered()
    file = story.rig.volume.inodes[KEY].engine
    eventually(lambda: not file.settling and not file.native.locks()["token"])
    gate.open()
    assert writing.result() == len(LATER)
    assert fresh.written(KEY) == OLD + LATER
    story.rig.finish()


def test_a_sync_leaves_no_tail_before_the_writer_has_noticed_that_its_backend_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The volume is live again when the writer resumes: its tail is owed by then."""
    story = Extended(landed=True)
    noticed, genuine = threading.Event(), direct._Sender.running

    def late(sender: direct._Sender) -> bool:
        assert noticed.wait(60)
        return genuine(sender)

    monkeypatch.setattr(direct._Sender, "running", late)
    monkeypatch.setattr(reconnect, "CALLERS", 0.0)  # the reconnect does not wait for the writer
    story.write()
    story.rig.volume.abort()
    fresh = story.old.successor(lose=False)
    story.rig.volume.reconnect(fresh)
    story.answer()
    Task(story.rig.volume.sync).result()
    assert fresh.written(KEY) == OLD
    noticed.set()
    with pytest.raises(ShutdownError):
        story.writing.result()
    story.rig.finish()


def test_a_sync_after_an_interrupted_write_leaves_no_tail() -> None:
    """Its call goes on alone, and fails after storing something."""
    story = Extended(landed=True, error=OSError(errno.ECONNRESET, "the line went dead"))
    with ctrl_c(story.gate.entered), pytest.raises(KeyboardInterrupt):
        story.file.pwrite(TAIL, len(OLD))
    story.answer_last()
    Task(story.rig.volume.sync).result()
    assert story.old.written(KEY) == OLD
    story.rig.finish()


@pytest.mark.parametrize("returns", [True, False])
def test_a_cut_that_a_fenced_reconnect_overtakes_is_made_in_the_new_backend(returns: bool) -> None:
    """It is in flight when the backend is lost, does not land, and may never return."""
    story = Extended(landed=True, error=OSError(errno.ECONNRESET, "the line went dead"))
    cutting = story.old.gate("truncate")
    story.write()
    story.gate.open()
    cutting.wait_entered()
    story.rig.volume.abort()
    with pytest.raises(OSError):
        story.writing.result()
    fresh = story.old.successor(lose=False, shared=False)
    story.rig.volume.reconnect(fresh, fenced=True)
    if returns:
        cutting.open()
    Task(story.rig.volume.sync).result(WAIT_LIMIT_S / 3)
    assert fresh.written(KEY) == OLD
    cutting.open()
    story.rig.finish()


def test_a_write_that_extends_is_refused_while_the_tail_of_another_cannot_be_cut() -> None:
    """Its bytes would be cut with the tail later; nothing of it is sent, and the cut is owed once, however often it
    failed.
    """
    story = Extended(landed=True, error=OSError(errno.ECONNRESET, "the line went dead"))
    with ctrl_c(story.gate.entered), pytest.raises(KeyboardInterrupt):
        story.file.pwrite(TAIL, len(OLD))
    story.old.fault("truncate", OSError(errno.EACCES, "not now"), times=100)
    story.answer_last()
    for _ in range(3):
        with pytest.raises(OSError, match="not now"):
            story.file.pwrite(LATER, len(OLD))
        with pytest.raises(OSError):
            story.file.fsync()
    assert len(story.rig.volume.inodes[KEY].engine.owed) == 1
    assert len(story.old.seen("write_from")) == 1
    story.old.clear_faults("truncate")
    assert story.file.pwrite(LATER, len(OLD)) == len(LATER)
    Task(story.rig.volume.sync).result()
    assert story.old.written(KEY) == OLD + LATER
    story.rig.finish()
