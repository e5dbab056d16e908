"""What failed and was then cut: the rest of its block can still be saved."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from pagecache import WritebackError

from .rig import KEY, PAGE, Rig

Make = Callable[..., Rig]


def test_a_block_that_failed_is_saved_after_its_failed_end_was_cut_off(make: Make) -> None:
    """A block fails as a whole; truncating what failed leaves nobody without a sender. [2.14, 2.17]"""
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
