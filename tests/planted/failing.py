"""Object stores that settings of the tester run on: a correct one, and one whose calls fail.

An upload may be done and lose its answer, and a commit may fail and forget the bytes that it was to make visible. Both
report that a retry may help, and it does. The promises of `ObjectBackend` are kept: nothing is visible before a commit,
and a commit over another version is refused.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Sequence

from pagecache.errors import BackendError, Key

from ..file.objects import ObjectBackend, ObjectFile
from .planted import Factory

__all__ = ["failing_store", "object_store"]

UNIT = 4 * 4096
UNHEARD = 0.02  # of the uploads
GONE = 0.5  # of the commits


class FailingFile(ObjectFile):
    """See the top of this file."""

    objects: FailingBackend

    def store(self, offset: int, buffers: Sequence[memoryview], limit: int | None = None) -> int:
        count = super().store(offset, buffers, limit)
        if self.objects.fails(UNHEARD):
            raise BackendError(errno.EIO, "made up: the answer is lost", retry=True)
        return count

    def make_durable(self) -> str:
        if self.objects.fails(GONE):
            with self.backend.lock:  # the bytes; truncates are kept, and the object's length
                ends = (at + len(data) for at, data in self.parts)
                size = max([self.cuts[-1] if self.cuts else len(self.base), *ends])
                self.parts = []
                self.cuts.append(size)
            raise BackendError(errno.EIO, "made up: the upload is gone", retry=True)
        return super().make_durable()


class FailingBackend(ObjectBackend):
    """See the top of this file; in each instance equal calls fail."""

    def __init__(self) -> None:
        super().__init__(write_unit=UNIT, max_write=UNIT)
        self._rng = random.Random(1)

    def fails(self, chance: float) -> bool:
        with self.lock:
            return self._rng.random() < chance

    def open(self, key: Key, *, create: bool = False, exclusive: bool = False) -> FailingFile:
        found = super().open(key, create=create, exclusive=exclusive)
        return FailingFile(self, key, found.stored)


def object_store() -> Factory:
    """A store whose objects are replaced as a whole, in units, only over the version last seen."""
    store = ObjectBackend(write_unit=UNIT, max_write=UNIT)
    return lambda: store


def failing_store() -> Factory:
    """The store of object_store, with failing calls."""
    store = FailingBackend()
    return lambda: store
