"""A look at the store counts only if this cache has changed nothing while it ran."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from pagecache import CachedFile, PageCache, Volume
from pagecache.backends.protocol import ObjectStat
from pagecache.errors import Key

from .objects import ObjectBackend
from .rig import KEY, Task


class LateBackend(ObjectBackend):
    """`beside` runs between the moment at which a look finds no object, and its answer: at each of the next `late`
    looks.
    """

    def __init__(self) -> None:
        super().__init__()
        self.beside: Callable[[], object] = lambda: None
        self.late = 0

    def stat(self, key: Key) -> ObjectStat:
        if self.late:
            self.late -= 1
            self.beside()
            raise FileNotFoundError(2, "no such object", str(key))
        return super().stat(key)


@pytest.fixture
def late() -> LateBackend:
    return LateBackend()


@pytest.fixture
def volume(late: LateBackend) -> Iterator[Volume]:
    with PageCache("1MiB") as cache:
        yield cache.attach(late)
        cache.check()


def saved(file: CachedFile, data: bytes) -> None:
    file.pwrite(data, 0)
    file.fsync()


@pytest.mark.parametrize("looks", [1, 2, 3])
def test_an_open_beside_a_commit_finds_the_object(volume: Volume, late: LateBackend, looks: int) -> None:
    """The store had no such object before its first commit. Beside commits without end the open takes the object as it
    is, after the second look. [2.19, 2.20]
    """
    with volume.open(KEY, "x+b") as creator:
        creator.pwrite(b"first", 0)
        late.late, late.beside = looks, lambda: Task(saved, creator, b"again").result()
        with volume.open(KEY, "r+b") as other:
            assert late.late == max(0, looks - 2)
            late.late = 0
            saved(creator, b"later")
            assert other.pread(5, 0) == b"later"
        with volume.open(KEY) as named:
            assert named.pread(5, 0) == b"later"
    assert late.content(KEY) == b"later"


def test_an_object_that_another_program_removes_is_gone_for_the_next_open(volume: Volume, late: LateBackend) -> None:
    """Nothing of it is local, and no change of this cache runs. [2.19, 2.20]"""
    with volume.open(KEY, "x+b") as creator:
        saved(creator, b"first")
        del late.objects[KEY]
        with pytest.raises(FileNotFoundError):
            volume.open(KEY)
