"""The states of a file's sync: the steps of a commit that fails and is repeated, and the tables of transitions."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pagecache.engine.io.barrier import (
    COMMITS,
    PHASES,
    Commit,
    FileSync,
    Phase,
    _Attempt,
    begin_flush,
    begin_fsync,
    drive,
)

from .backends import WAIT_LIMIT_S
from .objects import ObjectBackend
from .rig import FAST, PAGE, Rig, pattern
from .test_commit_order import Published

Make = Callable[..., Rig]


def watched(monkeypatch: pytest.MonkeyPatch) -> tuple[list[Phase], list[Commit]]:
    """Return lists that get each new state of a sync."""
    phases: list[Phase] = []
    commits: list[Commit] = []
    enter, commit_is = FileSync._enter, FileSync._commit_is

    def entered(sync: FileSync, phase: Phase) -> None:
        enter(sync, phase)
        phases.append(phase)

    def commit_became(sync: FileSync, attempt: _Attempt) -> None:
        commit_is(sync, attempt)
        commits.append(attempt.state)

    monkeypatch.setattr(FileSync, "_enter", entered)
    monkeypatch.setattr(FileSync, "_commit_is", commit_became)
    return phases, commits


def test_a_failed_commit_leads_back_to_the_flush(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commit that forgot the bytes is repeated after they are sent again. [2.15]"""
    backend = ObjectBackend()
    rig = make(backend=backend, retry=FAST)
    published = Published(backend, holds=True)
    published.fail.set()
    file = rig.open("w+b")
    file.pwrite(pattern(PAGE), 0)
    phases, commits = watched(monkeypatch)
    file.fsync()
    assert published.contents == [pattern(PAGE)]
    assert phases[-1] is Phase.DONE
    first = phases.index(Phase.COMMITTING)
    assert Phase.FLUSHING in phases[first:]
    assert commits[:2] == [Commit.AWAITED, Commit.BACKOFF]
    assert commits[2] is Commit.NONE
    assert Commit.AWAITED in commits[3:]


def test_a_finished_sync_stays_finished(make: Make) -> None:
    file = make().open("w+b")
    sync = begin_fsync(file._inode.engine)
    drive(sync, WAIT_LIMIT_S, "fsync")
    assert sync.phase is Phase.DONE
    assert sync.poll()


def test_other_transitions_are_refused(make: Make) -> None:
    """A debug check: each table is asserted at each step."""
    file = make().open("w+b")
    sync = begin_flush(file._inode.engine)
    sync.phase = Phase.LOOKUP
    with pytest.raises(AssertionError):
        sync._enter(Phase.FLUSHING)
    with pytest.raises(AssertionError):
        sync._commit_is(_Attempt(Commit.BACKOFF, until=1.0))
    sync.phase, sync._attempt = Phase.FLUSHING, _Attempt(Commit.NONE, until=1.0)
    assert "another state" in (sync.mistake() or "")


def test_every_state_has_a_line_in_its_table() -> None:
    assert PHASES.keys() == set(Phase)
    assert COMMITS.keys() == set(Commit)
