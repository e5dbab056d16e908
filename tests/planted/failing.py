"""Stores that settings of the tester run on: a directory, objects that are found by their names, objects that are
replaced as a whole, such a store whose exclusive opens ask nothing, and one whose calls fail.

An upload may be done and lose its answer, and a commit may fail and forget the bytes that it was to make visible. Both
report that a retry may help, and it does. The promises of `ObjectBackend` are kept: nothing is visible before a commit,
and a commit over another version is refused.
"""

from __future__ import annotations

import atexit
import errno
import itertools
import random
import shutil
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from fsspec.implementations.memory import MemoryFileSystem

from pagecache.backends import Backend, BackendFile, DirectoryBackend, MemoryBackend, ObjectStat
from pagecache.backends.fsspec import FsspecBackend
from pagecache.backends.passing import PassingBackend
from pagecache.errors import BackendError, Key

from ..publishing import PublishingBackend
from ..stores import ObjectBackend, ObjectFile
from .planted import Factory

__all__ = [
    "asking_nothing",
    "directory",
    "failing_store",
    "object_store",
    "publishing",
    "store_by_name",
    "whole_objects",
    "without_answers",
]

UNIT = 4 * 4096
UNHEARD = 0.02  # of the uploads
GONE = 0.5  # of the commits
LOST = 0.5  # of the renames
SLOW, SLOW_S = 0.3, 0.01  # of the requests that store an object of fsspec; in seconds
ROOTS = itertools.count()


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


class ByName(BackendFile):
    """An object that is looked up by its name at each call, and has no identity."""

    def __init__(self, store: Backend, key: Key) -> None:
        self._store, self._key = store, key

    def stat(self) -> ObjectStat:
        return replace(self._store.stat(self._key), identity=None)

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> int:
        return self._store.open(self._key).read_into(offset, buffers)

    def write_from(self, offset: int, buffers: Sequence[memoryview]) -> int:
        return self._store.open(self._key).write_from(offset, buffers)

    def truncate(self, size: int) -> None:
        self._store.open(self._key).truncate(size)

    def commit(self) -> str | None:
        return self._store.open(self._key).commit()


class Names(PassingBackend):
    """A store that knows names only."""

    def open(self, key: Key, *, create: bool = False, exclusive: bool = False) -> BackendFile:
        self.inner.open(key, create=create, exclusive=exclusive)
        return ByName(self.inner, key)

    def stat(self, key: Key) -> ObjectStat:
        return replace(self.inner.stat(key), identity=None)

    def list(self, prefix: str = "") -> Iterable[ObjectStat]:
        return (replace(stat, identity=None) for stat in self.inner.list(prefix))


def store_by_name() -> Factory:
    """A store that looks objects up by their names."""
    inner = MemoryBackend()
    return lambda: Names(inner)


def directory() -> Factory:
    """A directory, which has links; it is removed with the process."""
    folder = tempfile.mkdtemp(prefix="planted-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return lambda: DirectoryBackend(folder)


class StoresSlowly(MemoryFileSystem):  # type: ignore[misc]
    """A file system whose requests to store an object are often slow."""

    rng = random.Random(1)

    def pipe_file(self, path: str, value: bytes, **options: Any) -> None:
        if self.rng.random() < SLOW:
            time.sleep(SLOW_S)
        super().pipe_file(path, value, **options)


def whole_objects() -> Factory:
    """Objects of fsspec, which are replaced as a whole and known by their names."""
    fs = StoresSlowly(skip_instance_cache=True)
    root = f"planted-{next(ROOTS)}"
    return lambda: FsspecBackend(fs, root)


def publishing() -> Factory:
    """Objects of a directory, which are replaced as a whole; a rename keeps their versions."""
    root = tempfile.mkdtemp(prefix="planted-")
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    store = PublishingBackend(root)
    return lambda: store


class AsksNothing(PassingBackend):
    """An exclusive open finds no object, as in S3: if there is one, its commit is refused."""

    def open(self, key: Key, *, create: bool = False, exclusive: bool = False) -> BackendFile:
        file = self.inner.open(key, create=create)
        if create and exclusive:
            file.inner.draft.take(None)  # type: ignore[attr-defined]
        return file


class LosesAnswers(PassingBackend):
    """Renames that are carried out, and often have no answer."""

    def __init__(self, inner: Backend) -> None:
        super().__init__(inner)
        self._lock = threading.Lock()
        self._rng = random.Random(1)

    def rename(self, src: Key, dst: Key, *, replace: bool = True) -> None:
        super().rename(src, dst, replace=replace)
        with self._lock:
            lost = self._rng.random() < LOST
        if lost:
            raise BackendError(errno.EIO, "made up: the answer is lost", retry=True)


def asking_nothing() -> Factory:
    """Objects of fsspec, in which an exclusive open asks nothing."""
    fs = MemoryFileSystem(skip_instance_cache=True)
    root = f"planted-{next(ROOTS)}"
    return lambda: AsksNothing(FsspecBackend(fs, root))


def without_answers() -> Factory:
    """Objects of fsspec, whose renames often have no answer."""
    fs = MemoryFileSystem(skip_instance_cache=True)
    root = f"planted-{next(ROOTS)}"
    return lambda: LosesAnswers(FsspecBackend(fs, root))


def object_store() -> Factory:
    """A store whose objects are replaced as a whole, in units, only over the version last seen."""
    store = ObjectBackend(write_unit=UNIT, max_write=UNIT)
    return lambda: store


def failing_store() -> Factory:
    """The store of object_store, with failing calls."""
    store = FailingBackend()
    return lambda: store
