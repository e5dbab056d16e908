"""A longer version of another client: forced away, or below a truncate with an unknown outcome."""

from __future__ import annotations

import errno
import math
from collections.abc import Callable
from typing import Any, Literal

import pytest

from pagecache import BackendError, CachedFile, ConflictError, DataLossError
from pagecache.engine.commit import remote

from ..stores import Gate
from .rig import KEY, ONCE, PAGE, Make, Patch, Rig, Task, at_gate, pattern, raises

DATA = pattern(2 * PAGE)
LONGER = pattern(3 * PAGE + 100, seed=9)
MINE = b"mine" * (PAGE // 4)
FAR = pattern(PAGE, seed=4)


def in_conflict(make: Make, at: int = PAGE, **limits: Any) -> tuple[Rig, CachedFile]:
    """A file with a dirty page, of which another client has stored a longer version in place."""
    rig, file = make({KEY: DATA}, retry=ONCE, limits=limits).opened()
    file.pwrite(MINE, at)
    rig.backend.change_remotely(KEY, LONGER)
    raises(ConflictError, rig.volume.open, KEY)
    return rig, file


@pytest.mark.parametrize("durable", [False, True])
def test_a_longer_version_in_place_is_cut_to_the_length_of_ours(make: Make, durable: bool) -> None:
    """The bytes behind the local end are gone afterwards. [2.19]"""
    rig, file = in_conflict(make, durable_writes=durable)
    assert rig.volume.resolve(KEY, "force") == []
    assert (file.size, file.pread(3 * PAGE, 0)) == (2 * PAGE, LONGER[:PAGE] + MINE)
    file.fsync()
    rig.cache.check()
    assert rig.backend.written(KEY) == LONGER[:PAGE] + MINE


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ETIMEDOUT, "late"), BackendError(errno.EIO, "no", retry=False)],
    ids=["worth another try", "refused"],
)
def test_a_cut_that_fails_is_owed(make: Make, error: OSError) -> None:
    """It is made before anything else is called. [2.17, 2.19]"""
    rig, file = in_conflict(make)
    rig.backend.fault("truncate", error, times=math.inf)
    rig.volume.resolve(KEY, "force")
    raises(OSError, file.fsync)
    assert len(rig.backend.written(KEY)) == len(LONGER)
    rig.backend.clear_faults()
    assert file.pread(len(LONGER), 0) == LONGER[:PAGE] + MINE
    file.fsync()
    assert rig.backend.committed(KEY) == LONGER[:PAGE] + MINE


@pytest.mark.parametrize("how", ["force", "rebase"])
def test_an_owed_truncate_is_paid_before_another_version_is_taken(make: Make, how: Literal["force", "rebase"]) -> None:
    """The bytes it cut off do not come back. [2.17, 2.19]"""
    rig, file = in_conflict(make, at=0)
    rig.backend.fault("truncate", OSError(errno.ETIMEDOUT, "late"), times=math.inf)
    raises(TimeoutError, file.truncate, PAGE + 10)
    raises(TimeoutError, rig.volume.resolve, KEY, how)
    raises(ConflictError, rig.volume.open, KEY)
    rig.backend.clear_faults()
    rig.volume.resolve(KEY, how)
    assert (file.size, file.pread(3 * PAGE, 0)) == (PAGE + 10, MINE + LONGER[PAGE : PAGE + 10])
    file.fsync()
    rig.cache.check()
    assert rig.backend.committed(KEY) == MINE + LONGER[PAGE : PAGE + 10]


def beside_a_direct_write(make: Make) -> tuple[Rig, CachedFile, Gate, Task[int]]:
    """That file, while a direct write far behind its end runs."""
    rig, file, direct = make({KEY: DATA}, retry=ONCE).both(direct=True)
    file.pwrite(MINE, PAGE)
    gate, writing = at_gate(rig.backend.gate("write_from"), direct.pwrite, FAR, 6 * PAGE)
    rig.backend.change_remotely(KEY, LONGER)
    rig.volume.invalidate_remote(KEY, version="another")
    return rig, file, gate, writing


def ends_with_the_direct_write(rig: Rig, file: CachedFile) -> None:
    assert file.size == 7 * PAGE
    assert (file.pread(PAGE, PAGE), file.pread(PAGE, 6 * PAGE)) == (MINE, FAR)
    file.fsync()
    assert (file.pread(PAGE, PAGE), file.pread(PAGE, 6 * PAGE)) == (MINE, FAR)
    rig.cache.check()
    assert rig.backend.written(KEY)[6 * PAGE :] == FAR


def test_a_direct_write_that_ends_while_another_version_is_taken_is_kept(make: Make, monkeypatch: Patch) -> None:
    """The stored size at the time of the check is not final. [2.10, 2.19]"""
    rig, file, gate, writing = beside_a_direct_write(make)
    taken = remote.take_base

    def after_it(*args: Any) -> None:
        taken(*args)
        writing.result(opening=gate)

    monkeypatch.setattr(remote, "take_base", after_it)
    rig.volume.resolve(KEY, "rebase")
    ends_with_the_direct_write(rig, file)


def test_a_forced_version_waits_for_direct_writes_and_cuts_nothing_of_them_off(make: Make) -> None:
    """A running direct write may store behind the local end: its bytes are part of the forced version. [2.10, 2.19]"""
    rig, file, gate, writing = beside_a_direct_write(make)
    forcing = Task(rig.volume.resolve, KEY, "force")
    assert forcing.waits()
    writing.result(opening=gate)
    assert forcing.result() == []
    ends_with_the_direct_write(rig, file)


@pytest.mark.parametrize("first", ["discard", "write"])
def test_a_discard_that_cuts_a_tail_off_takes_nothing_of_a_direct_write(make: Make, first: str) -> None:
    """The later call waits; bytes acknowledged by the backend stay. [2.10, 2.18]"""
    rig, file, direct = make({KEY: DATA[:PAGE]}).both(direct=True)
    file.pwrite(MINE, 4 * PAGE)
    calls: dict[str, Callable[[], object]] = {
        "discard": lambda: rig.volume.discard(KEY, 4 * PAGE),
        "write": lambda: direct.pwrite(FAR * 2, PAGE),
    }
    gate, one = at_gate(rig.backend.gate("truncate" if first == "discard" else "write_from"), calls.pop(first))
    other = Task(*calls.values())
    assert other.waits()
    one.result(opening=gate)
    other.result()
    raises(DataLossError, file.fsync)
    file.fsync()
    assert (file.size, file.pread(4 * PAGE, 0)) == (3 * PAGE, DATA[:PAGE] + FAR * 2)
    assert direct.pread(4 * PAGE, 0) == DATA[:PAGE] + FAR * 2
    raises(DataLossError, direct.fsync)
    rig.cache.check()
    assert rig.backend.written(KEY) == DATA[:PAGE] + FAR * 2
