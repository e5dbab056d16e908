"""Another program removes an object between the creation of an exclusive open and its look at it. [2.14, 2.20]"""

from __future__ import annotations

import errno

import pytest

from pagecache import PageCache
from pagecache.backends import BackendFile, MemoryBackend, ObjectStat
from pagecache.backends.passing import PassingBackend, PassingFile
from pagecache.errors import BackendError, Key

from .rig import FAST


class LookFails(PassingFile):
    def stat(self) -> ObjectStat:
        raise BackendError(errno.EIO, "made up, goes away", retry=True)


class Others(PassingBackend):
    """The first object is removed before the look at it is made again; then the name is taken."""

    opens = 0

    def open(self, key: Key, *, create: bool = False, exclusive: bool = False) -> BackendFile:
        self.opens += 1
        if self.opens == 1:
            return LookFails(self.inner.open(key, create=create, exclusive=exclusive))
        if self.opens == 2:
            self.inner.remove(key)
            self.inner.open(key, create=True).commit()
            raise FileNotFoundError(errno.ENOENT, "no such object", key)
        return super().open(key, create=create, exclusive=exclusive)


def test_an_exclusive_open_finds_the_object_that_another_program_has_made_since() -> None:
    with PageCache("1MiB", retry=FAST) as cache:
        volume = cache.attach(Others(MemoryBackend()))
        with pytest.raises(FileExistsError):
            volume.open("key", "x+b")
