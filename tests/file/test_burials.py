"""The end of local data that no handle reaches: of abandoned files, and of removed and closed ones. [2.20]"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import pytest

from pagecache import CachedFile

from ..stores import ObjectBackend
from .rig import KEY, eventually, make_rig

CHANGES: dict[str, Callable[[CachedFile], Any]] = {
    "written": lambda file: file.pwrite(b"x" * 5000, 10),
    "truncated": lambda file: file.truncate(100),
    "written twice": lambda file: file.pwritev([b"x" * 5000, b"y"], 10),
    "written directly": lambda file: file.pwrite(b"x" * 4096, 0),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("end", ["abandoned", "removed"])
@pytest.mark.parametrize("objects", [False, True])
@pytest.mark.parametrize("key", [KEY, "new"])
def test_no_local_data_is_left_of_an_unreachable_file(objects: bool, end: str, change: str, key: str) -> None:
    """With any uncommitted bytes or none. A stored file that was abandoned stays; other inodes and backend files go."""
    stored: dict[Hashable, bytes] = {KEY: b"old" * 10_000}
    backend = ObjectBackend(stored) if objects else None
    rig = make_rig(stored, backend=backend)
    try:
        file = rig.volume.open(key, "r+" if key == KEY else "w+", direct="directly" in change)
        inode = file._inode
        CHANGES[change](file)
        if end == "removed":
            rig.volume.remove(key) if key == KEY or not objects else file.abandon()
            file.close()
        else:
            file.abandon()
        eventually(lambda: not rig.volume.orphans and not (inode.engine.abandoned and not inode.engine.removed))
        assert rig.cache.stats().dirty == 0
        if end == "abandoned" and (key == KEY or not objects):
            assert rig.volume.inodes[key] is inode
        else:
            eventually(lambda: "file_close" in [call.op for call in rig.backend.calls])
    finally:
        rig.finish()
