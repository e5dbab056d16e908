"""The backend keeps the promises of the protocol over file systems of all kinds."""

from __future__ import annotations

import errno
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper

from pagecache.backends import backend_from_url
from pagecache.backends.fsspec import FsspecBackend
from tests.fsspec_below.stores import Elsewhere, Parts, Whole, once
from tests.suites import suite

numbers = itertools.count()


def folder() -> str:
    """A new folder of the file system in memory, which is a singleton."""
    return f"/conformance-{next(numbers)}"


def failing(when: str, method: str) -> Callable[[Any], None]:
    """Make the next call of a method of the file system fail, `before` or `after` its work."""
    return lambda backend: getattr(backend.fs.hooks, when).update({method: once(OSError(errno.EIO, "planted"))})


def directory(_: Path) -> FsspecBackend:
    return FsspecBackend(fsspec.filesystem("dir", path=folder(), fs=fsspec.filesystem("memory")), "below")


TestMemory = pytest.mark.smoke("fsspec:")(suite(lambda _: FsspecBackend(fsspec.filesystem("memory"), folder())))
TestMemoryFromUrl = suite(
    lambda _: backend_from_url(f"fsspec:memory:/{folder()}", max_read="64KiB", max_write=8192, max_vectors=3)
)
TestDirectoryOfMemory = suite(directory)
TestLocal = suite(lambda path: FsspecBackend(fsspec.filesystem("file"), str(path)))
TestElsewhere = suite(lambda path: FsspecBackend(Elsewhere(), str(path)), failing("before", "mv"))
TestParts = suite(lambda _: FsspecBackend(Parts(), "bucket/folder"), failing("before", "upload"))
# An instance of an asynchronous class: it has fsspec's loop.
TestBlockingInstance = suite(lambda _: FsspecBackend(Whole(), "bucket"), failing("before", "pipe_file"))
TestWithoutVersions = suite(lambda _: FsspecBackend(Whole(tells="nothing"), "bucket"))


# Coroutines, and a blocking file system that fsspec has made asynchronous.
TestAsynchronousInstance = suite(
    lambda _: FsspecBackend(Whole(asynchronous=True), "bucket"),
    failing("after", "cp_file"),  # the answer is lost
)
TestWrapped = suite(
    lambda _: FsspecBackend(AsyncFileSystemWrapper(fsspec.filesystem("memory"), asynchronous=True), folder())
)
