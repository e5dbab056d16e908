"""A commit that fails while its sync checks for remaining work: it is reported as a commit's failure, before anything
is sent.

A sync asks the C core several questions in turn: has my commit ended, is anything dirty, is a commit needed. A commit
that fails between two of the questions makes bytes dirty, or failed, that were neither when the question was asked.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from typing import Any

import pytest

from pagecache import CommitError
from pagecache.engine.io import barrier
from pagecache.engine.io.barrier import FileSync

from ..stores import WAIT_LIMIT_S
from .rig import KEY, ONCE, PAGE, Rig, Task, eventually, pattern

Make = Callable[..., Rig]
DATA = pattern(4 * PAGE)
ERRORS = [errno.ENOSPC, errno.ETIMEDOUT]  # bytes are failed after the first, and dirty after the second


class Failing:
    """A commit that runs until a sync is about to query the C core again, and has failed when it does."""

    def __init__(self, rig: Rig, error: int) -> None:
        self.rig, self.error = rig, OSError(error, "made up")
        self.running, self.fail = threading.Event(), threading.Event()
        rig.backend.fault("commit", self.commit)

    def commit(self, file: Any) -> str:
        self.running.set()
        assert self.fail.wait(WAIT_LIMIT_S)
        file.forget()
        self.rig.backend.forget_calls()
        raise self.error

    def before(self, monkeypatch: pytest.MonkeyPatch, question: str) -> None:
        ask = getattr(FileSync, question)

        def query(sync: FileSync) -> bool:
            if self.running.is_set() and not self.fail.is_set():
                self.fail.set()
                eventually(lambda: not sync.file.native.commit_running())
            return bool(ask(sync))

        monkeypatch.setattr(FileSync, question, query)


@pytest.mark.parametrize("question", ["_flushed", "_committed"])
@pytest.mark.parametrize("error", ERRORS)
def test_an_fsync_reports_its_commit_and_sends_nothing_before(
    make: Make, monkeypatch: pytest.MonkeyPatch, error: int, question: str
) -> None:
    """[T-18, 2.15, 2.16]"""
    rig = make({KEY: b""}, retry=ONCE)
    file = rig.open("w+b")
    file.pwrite(DATA, 0)
    failing = Failing(rig, error)
    failing.before(monkeypatch, question)
    with pytest.raises(CommitError) as caught:
        Task(file.fsync).result()
    assert caught.value.errno == error
    assert rig.backend.seen("write_from") == []
    assert rig.volume.failed()
    file.fsync()
    assert rig.backend.committed(KEY) == DATA


@pytest.mark.parametrize("error", ERRORS)
def test_a_commit_alone_is_no_success_when_none_is_needed_because_it_failed(
    make: Make, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    """Holes and direct writes ask for it, over acknowledged bytes. [T-18, 2.10, 2.17]"""
    rig = make({KEY: DATA}, retry=ONCE)
    file = rig.open()
    file.pwrite(DATA[:PAGE], 0)
    file.flush()
    Failing(rig, error).before(monkeypatch, "_committed")
    with pytest.raises(CommitError) as caught:
        Task(lambda: barrier.commit(rig.volume.inodes[KEY].engine)).result()
    assert caught.value.errno == error
