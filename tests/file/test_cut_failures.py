"""Failed bytes that were then cut or discarded: the rest can still be saved, and the store ends up as readers
see it.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from pagecache import DataLossError, WritebackError

from ..stores import failing_commit
from .rig import KEY, ONCE, PAGE, Rig, pattern

Make = Callable[..., Rig]


def test_a_block_that_failed_is_saved_after_its_failed_end_was_cut_off(make: Make) -> None:
    """A block fails as a whole; after a truncate of the failed bytes the rest still has a sender. [2.14, 2.17]"""
    content = bytes(range(256)) * (PAGE // 256)
    rig = make({KEY: content})
    file = rig.open("r+b")
    file.pwrite(b"a" * 10, 100)
    file.pwrite(b"b" * 10, 3000)

    def refuse(*_args: object) -> int:
        raise OSError(errno.ENOSPC, "no room")

    rig.backend.fault("write_from", refuse, skip=1)
    with pytest.raises(WritebackError):
        file.fsync()
    file.truncate(2000)
    file.fsync(timeout=20)
    assert rig.backend.committed(KEY) == content[:100] + b"a" * 10 + content[110:2000]
    assert rig.volume.failed() == []


@pytest.mark.parametrize(("offset", "length"), [(0, 1), (1, 1), (5, 2), (0, PAGE)])
def test_a_tail_given_up_in_part_takes_the_size_along(make: Make, offset: int, length: int) -> None:
    """Whole blocks are given up: no size is left that no byte carries. [I-10, 2.17]"""
    rig = make({KEY: b"old"})
    file = rig.open("r+b")
    file.pwrite(b"a longer tail", 0)
    (lost,) = rig.volume.discard(KEY, offset, length)
    assert (lost.offset, lost.length) == (0, 13)
    assert file.size == 3
    rig.cache.check()
    with pytest.raises(DataLossError):
        file.fsync()
    assert file.pread(20, 0) == b"old"


@pytest.mark.parametrize("stored", [b"old", pattern(3 * PAGE)], ids=["extended", "overwritten"])
@pytest.mark.parametrize("how", ["commit failed", "answer lost"])
def test_discarded_bytes_that_the_store_took_are_committed(make: Make, how: str, stored: bytes) -> None:
    """The bytes were discarded after the backend had taken them: readers then see the content that a crash leaves.
    [I-18, 2.17]
    """
    rig = make({KEY: stored}, retry=ONCE)
    file = rig.open("r+b")
    file.pwrite(b"new" * 2000, 0)
    full = OSError(errno.ENOSPC, "full")
    if how == "commit failed":
        rig.backend.fault("commit", failing_commit(full, forget=False))
    else:
        rig.backend.fault("write_from answer", full)
    with pytest.raises(WritebackError):
        file.fsync()
    rig.volume.discard(KEY)
    with pytest.raises(DataLossError):
        file.fsync()
    file.fsync()
    assert rig.backend.committed(KEY) == file.pread(4 * PAGE, 0)
