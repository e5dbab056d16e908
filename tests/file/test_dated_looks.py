"""A look at the store counts only if this cache has changed nothing while it ran."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pagecache import CachedFile, PageCache, Volume

from ..stores import ObjectBackend
from .rig import KEY, Task


@pytest.fixture
def late() -> ObjectBackend:
    return ObjectBackend()


@pytest.fixture
def volume(late: ObjectBackend) -> Iterator[Volume]:
    with PageCache("1MiB") as cache:
        yield cache.attach(late)
        cache.check()


def saved(file: CachedFile, data: bytes) -> None:
    file.pwrite(data, 0)
    file.fsync()


@pytest.mark.parametrize("looks", [1, 2, 3])
def test_an_open_beside_a_commit_finds_the_object(volume: Volume, late: ObjectBackend, looks: int) -> None:
    """The store had no such object before its first commit. Beside commits without end the open takes the object as it
    is, after the second look. [2.19, 2.20]
    """
    with volume.open(KEY, "x+b") as creator:
        creator.pwrite(b"first", 0)

        def look() -> None:
            """Find no object, and answer after the next commit."""
            Task(saved, creator, b"again").result()
            raise FileNotFoundError(2, "no such object", KEY)

        fault = late.fault("stat", look, times=looks)
        with volume.open(KEY, "r+b") as other:
            assert fault.left == max(0, looks - 2)
            fault.clear()
            saved(creator, b"later")
            assert other.pread(5, 0) == b"later"
        with volume.open(KEY) as named:
            assert named.pread(5, 0) == b"later"
    assert late.content(KEY) == b"later"


def test_an_object_that_another_program_removes_is_gone_for_the_next_open(volume: Volume, late: ObjectBackend) -> None:
    """Nothing of it is local, and no change of this cache runs. [2.19, 2.20]"""
    with volume.open(KEY, "x+b") as creator:
        saved(creator, b"first")
        del late.objects[KEY]
        with pytest.raises(FileNotFoundError):
            volume.open(KEY)
