"""The backend keeps the promises of the protocol over file systems of all kinds."""

from __future__ import annotations

import errno
import itertools
from pathlib import Path
from typing import Any, cast

import fsspec
import pytest
from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper

from pagecache.backends import Backend, backend_from_url
from pagecache.backends.fsspec import FsspecBackend
from pagecache.engine.blocking import blocking
from pagecache.engine.loop import CacheLoop
from pagecache.engine.park import Park
from pagecache.testing import BackendConformance
from tests.fsspec_below.stores import Elsewhere, Parts, Whole, once

numbers = itertools.count()


def folder() -> str:
    """A new folder of the file system in memory, which is a singleton."""
    return f"/conformance-{next(numbers)}"


def file_system(backend: Any) -> Any:
    return backend.fs


@pytest.mark.smoke("fsspec:")
class TestMemory(BackendConformance):
    def make_backend(self, tmp_path: Path) -> Backend:
        return FsspecBackend(fsspec.filesystem("memory"), folder())


class TestMemoryFromUrl(BackendConformance):
    def make_backend(self, tmp_path: Path) -> Backend:
        url = f"fsspec:memory:/{folder()}"
        return cast(Backend, backend_from_url(url, max_read="64KiB", max_write=8192, max_vectors=3))


class TestDirectoryOfMemory(BackendConformance):
    def make_backend(self, tmp_path: Path) -> Backend:
        fs = fsspec.filesystem("dir", path=folder(), fs=fsspec.filesystem("memory"))
        return FsspecBackend(fs, "below")


class TestLocal(BackendConformance):
    def make_backend(self, tmp_path: Path) -> Backend:
        return FsspecBackend(fsspec.filesystem("file"), str(tmp_path))


class TestElsewhere(BackendConformance):
    def make_backend(self, tmp_path: Path) -> Backend:
        return FsspecBackend(Elsewhere(), str(tmp_path))

    def fail_commit(self, backend: Backend) -> None:
        file_system(backend).hooks.before["mv"] = once(OSError(errno.EIO, "planted"))


class TestParts(BackendConformance):
    def make_backend(self, tmp_path: Path) -> Backend:
        return FsspecBackend(Parts(), "bucket/folder")

    def fail_commit(self, backend: Backend) -> None:
        file_system(backend).hooks.before["upload"] = once(OSError(errno.EIO, "planted"))


class TestBlockingInstance(BackendConformance):
    """An instance of an asynchronous class: it has fsspec's loop."""

    def make_backend(self, tmp_path: Path) -> Backend:
        return FsspecBackend(Whole(), "bucket")

    def fail_commit(self, backend: Backend) -> None:
        file_system(backend).hooks.before["pipe_file"] = once(OSError(errno.EIO, "planted"))


class TestWithoutVersions(BackendConformance):
    def make_backend(self, tmp_path: Path) -> Backend:
        return FsspecBackend(Whole(tells="nothing"), "bucket")


class OnALoop(BackendConformance):
    """Asynchronous instances, on a loop like the cache's."""

    loop: CacheLoop

    @pytest.fixture(autouse=True)
    def _loop(self) -> Any:
        self.loop = CacheLoop("conformance", Park())
        yield
        assert self.loop.stop(30.0)


class TestAsynchronousInstance(OnALoop):
    def make_backend(self, tmp_path: Path) -> Backend:
        return blocking(FsspecBackend(Whole(asynchronous=True), "bucket"), lambda: self.loop)

    def fail_commit(self, backend: Backend) -> None:
        file_system(backend).hooks.after["cp_file"] = once(OSError(errno.EIO, "planted"))  # the answer is lost


class TestWrapped(OnALoop):
    """A blocking file system that fsspec has made asynchronous."""

    def make_backend(self, tmp_path: Path) -> Backend:
        fs = AsyncFileSystemWrapper(fsspec.filesystem("memory"), asynchronous=True)
        return blocking(FsspecBackend(fs, folder()), lambda: self.loop)
