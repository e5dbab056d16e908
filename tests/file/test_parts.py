"""The parts of the engine's state of a file: trouble makes them."""

from __future__ import annotations

import errno

import pytest

from pagecache import CommitError, DataLossError, WritebackError
from pagecache.engine.file import EngineFile

from ..stores import failing_commit
from .rig import KEY, ONCE, PAGE, Make, Rig, pattern

OLD, NEW = pattern(2 * PAGE), pattern(2 * PAGE, seed=1)
TROUBLE = ("dispute", "commits", "owed", "failures", "settling")
NO = OSError(errno.EACCES, "no")


def made(rig: Rig) -> set[str]:
    """The parts that the file of KEY has made."""
    engine = rig.volume.inodes[KEY].engine
    return {name for name in TROUBLE if getattr(engine, name) is not getattr(EngineFile, name)}


def test_a_file_that_was_opened_read_and_closed_has_made_no_part(make: Make) -> None:
    rig = make({KEY: OLD})
    with rig.open("rb") as file:
        assert file.pread(len(OLD), 0) == OLD
    assert made(rig) == set()
    assert sorted(vars(rig.volume.inodes[KEY].engine)) == [
        "_aside_lock",
        "_limits_lock",
        "_report_loss",
        "_seen_limits",
        "backend_file",
        "holds",
        "identity",
        "key",
        "lock",
        "native",
        "read_into",
        "versions",
        "volume",
    ]


def test_a_file_that_was_written_cut_and_committed_has_made_no_part(make: Make) -> None:
    rig = make({KEY: OLD})
    with rig.open("r+b") as file:
        file.pwrite(OLD, PAGE)
        file.fsync()
        file.truncate(PAGE)
        file.fsync()
    assert made(rig) == set()


@pytest.mark.parametrize(("call", "part"), [("write_from", "failures"), ("commit", "commits")])
def test_a_failure_makes_the_part_that_records_it(make: Make, call: str, part: str) -> None:
    rig = make({KEY: OLD}, retry=ONCE)
    file = rig.open("r+b")
    file.pwrite(OLD, 0)
    rig.backend.fault(call, NO if call == "write_from" else failing_commit(NO))
    with pytest.raises((WritebackError, CommitError)):
        file.fsync()
    assert part in made(rig)
    file.fsync()
    file.close()


def test_parts_are_made_once_and_the_shared_ones_stay_empty(make: Make) -> None:
    rig = make({KEY: OLD})
    with rig.open("rb"):
        engine = rig.volume.inodes[KEY].engine
        assert engine.failing() is engine.failing() is engine.failures
        assert engine.committing() is engine.committing() is engine.commits
        assert engine.disputed() is engine.disputed() is engine.dispute
    assert not len(EngineFile.failures)
    assert not len(EngineFile.owed)
    assert not EngineFile.settling
    assert EngineFile.commits.error is None
    assert not EngineFile.commits.holes
    assert EngineFile.dispute.versions is None


def test_a_failed_range_without_a_record_is_found_and_reported_all_the_same(make: Make) -> None:
    """The index has the failed bytes; the record of their failure may be missing. [I-29, 2.16]"""
    rig = make({KEY: OLD}, retry=ONCE)
    file = rig.open("r+b")
    file.pwrite(NEW, 0)
    rig.backend.fault("write_from", NO)
    with pytest.raises(WritebackError):
        file.fsync()
    rig.cache.check()
    engine = rig.volume.inodes[KEY].engine
    with engine.lock:
        engine.failures.forget()
    with pytest.raises(AssertionError, match=r"I-29: .* has no record"):
        rig.cache.check()
    assert [(failed.offset, failed.length, failed.attempts) for failed in rig.volume.failed()] == [(0, len(NEW), 0)]
    file.fsync()
    assert rig.backend.committed(KEY) == NEW
    rig.cache.check()


def test_a_record_ends_with_its_range(make: Make) -> None:
    """Cut, given up or written back: the records follow the index. [I-29, 2.16]"""
    rig = make({KEY: OLD}, retry=ONCE)
    file = rig.open("r+b")
    engine = rig.volume.inodes[KEY].engine
    file.pwrite(NEW, 0)
    rig.backend.fault("write_from", NO)
    with pytest.raises(WritebackError):
        file.fsync()
    file.truncate(PAGE)
    assert [(failure.start, failure.end) for failure in engine.failures] == [(0, PAGE)]
    file.truncate(2 * PAGE)
    rig.cache.check()
    rig.volume.discard(KEY)
    assert not len(engine.failures)
    with pytest.raises(DataLossError):
        file.fsync()
    file.pwrite(NEW, 0)
    rig.backend.fault("write_from", NO)
    with pytest.raises(WritebackError):
        file.fsync()
    file.fsync()
    assert not len(engine.failures)
    assert rig.backend.committed(KEY) == NEW
