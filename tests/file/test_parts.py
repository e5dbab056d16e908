"""The parts of the engine's state of a file: trouble makes them."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from pagecache import CachedFile, WritebackError
from pagecache.engine.file import EngineFile

from ..stores import failing_commit
from .rig import KEY, ONCE, PAGE, Make, pattern, raises

OLD = pattern(2 * PAGE)
TROUBLE = ("dispute", "commits", "owed", "failures", "settling")
NO = OSError(errno.EACCES, "no")


def changed(file: CachedFile) -> None:
    file.pwrite(OLD, PAGE)
    file.fsync()
    file.truncate(PAGE)
    file.fsync()


def failed(file: CachedFile) -> None:
    file.pwrite(OLD, 0)
    raises(WritebackError, file.fsync)


@pytest.mark.parametrize(
    ("work", "op", "made"),
    [
        (lambda file: file.pread(len(OLD), 0), "", set()),
        (changed, "", set()),
        (failed, "write_from", {"failures"}),
        (failed, "commit", {"commits"}),
    ],
)
def test_only_a_failure_makes_parts_and_always_the_one_that_records_it(
    make: Make, work: Callable[[CachedFile], object], op: str, made: set[str]
) -> None:
    rig, file = make({KEY: OLD}, retry=ONCE).opened("r+b")
    if op:
        rig.backend.fault(op, NO if op == "write_from" else failing_commit(NO))
    work(file)
    engine = rig.volume.inodes[KEY].engine
    found = {name for name in TROUBLE if getattr(engine, name) is not getattr(EngineFile, name)}
    assert found >= made
    assert bool(found) == bool(made)
    assert not len(EngineFile.failures)
    assert EngineFile.commits.error is None
    file.fsync()
