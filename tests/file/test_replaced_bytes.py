"""`resolve(key, "rebase")` returns which bytes of the other version the local ones replace. [2.19]"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import pytest

from pagecache import ConflictError, LostRange

from ..stores import ObjectBackend
from .rig import KEY, ONCE, PAGE, Rig, pattern

Make = Callable[..., Rig]
DATA = pattern(4 * PAGE)


def spans(lost: list[LostRange]) -> list[tuple[int, int]]:
    return [(entry.offset, entry.offset + entry.length) for entry in lost]


def conflict(make: Make, ours: bytes, theirs: bytes, *, whole: bool, **limits: Any) -> Rig:
    """Local pages `ours`, from the second one on, over an object that another client has replaced by `theirs`."""
    if whole:
        rig = make(backend=ObjectBackend({KEY: DATA}, **limits), retry=ONCE)
    else:
        rig = make({KEY: DATA}, retry=ONCE, limits=limits)
    rig.open().pwrite(ours, PAGE)
    if isinstance(rig.backend, ObjectBackend):
        rig.backend.put(KEY, theirs)
    else:
        rig.backend.change_remotely(KEY, theirs)
    with pytest.raises(ConflictError):
        rig.volume.open(KEY)
    return rig


@pytest.mark.parametrize("whole", [False, True], ids=["in place", "whole"])
@pytest.mark.parametrize("limits", [{}, {"read_unit": 512, "max_read": 1024}, {"max_read": 1000}], ids=str)
def test_bytes_that_differ_are_returned_exactly(make: Make, whole: bool, limits: dict[str, int]) -> None:
    """What lies under equal bytes, and beside ours, is not replaced. [T-30, 2.19]"""
    ours = pattern(2 * PAGE, seed=3)
    theirs = bytearray(DATA[:PAGE] + ours + DATA[3 * PAGE :])
    theirs[10:20] = bytes(10)  # not under ours
    changed = [(PAGE, PAGE + 1), (PAGE + 100, PAGE + 350), (2 * PAGE - 3, 2 * PAGE + 3), (3 * PAGE - 1, 3 * PAGE)]
    for begin, end in changed:
        theirs[begin:end] = bytes(255 - byte for byte in theirs[begin:end])
    rig = conflict(make, ours, bytes(theirs), whole=whole, **limits)
    lost = rig.volume.resolve(KEY, "rebase")
    assert spans(lost) == changed
    assert {(entry.key, entry.errno, entry.volume) for entry in lost} == {(KEY, errno.ESTALE, rig.volume.name)}
    rig.handles[0].fsync()
    assert rig.backend.committed(KEY) == bytes(theirs[:PAGE]) + ours + bytes(theirs[3 * PAGE :])


@pytest.mark.parametrize("whole", [False, True], ids=["in place", "whole"])
def test_nothing_is_replaced_behind_the_end_of_the_other_version(make: Make, whole: bool) -> None:
    """It ends within ours. [T-30, 2.19]"""
    rig = conflict(make, pattern(2 * PAGE, seed=3), bytes(PAGE + 10), whole=whole)
    ours = pattern(2 * PAGE, seed=3)
    assert sum(entry.length for entry in rig.volume.resolve(KEY, "rebase")) == 10 - ours[:10].count(0)


def test_a_version_that_cannot_be_read_is_not_replaced(make: Make) -> None:
    """The conflict stands with all local bytes, and the next call settles it. [T-30, 2.19]"""
    theirs = pattern(4 * PAGE, seed=9)
    rig = conflict(make, b"mine" * (PAGE // 4), theirs, whole=True)
    rig.backend.fault("read_into", OSError(errno.EACCES, "no reading"))
    with pytest.raises(OSError, match="no reading"):
        rig.volume.resolve(KEY, "rebase")
    with pytest.raises(ConflictError):
        rig.handles[0].fsync()
    assert rig.handles[0].pread(PAGE, PAGE) == b"mine" * (PAGE // 4)
    assert rig.backend.committed(KEY) == theirs
    assert rig.volume.resolve(KEY, "rebase") != []
    rig.handles[0].fsync()
    assert rig.backend.committed(KEY) == theirs[:PAGE] + b"mine" * (PAGE // 4) + theirs[2 * PAGE :]
