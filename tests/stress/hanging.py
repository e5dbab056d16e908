"""Backends that do not answer, in a module, so that the processes in which hangs are shrunk find them by name."""

from __future__ import annotations

import functools
import os
import threading
from contextlib import AbstractContextManager

from pagecache import Backend
from pagecache.backends import BackendFile, DirectoryBackend, MemoryBackend
from pagecache.backends.passing import PassingBackend, PassingFile
from pagecache.errors import Key
from pagecache.stress import processes
from pagecache.stress.child import Task
from pagecache.stress.journal import Journal
from pagecache.stress.mounted import MountedTarget
from tests.planted.table import BUGS

from .planted import Buffers, Planted

FOREVER = 1000.0  # seconds


class NeverCommits(PassingFile):
    """The first commit of a cache does not return."""

    def commit(self) -> str | None:
        # the tester's own thread, which makes the files and checks them
        if threading.current_thread().name != "stress-rest":
            threading.Event().wait(FOREVER)
        return self.inner.commit()


class NeverWrites(PassingFile):
    """No write returns."""

    def write_from(self, offset: int, buffers: Buffers) -> int:
        threading.Event().wait(FOREVER)
        return self.inner.write_from(offset, buffers)


def never_commits() -> Backend:
    return Planted(PassingFile if "PAGECACHE_TEST_FIXED" in os.environ else NeverCommits)


class HangsElsewhere(PassingFile):
    """Commits of a cache do not return in any process but the first."""

    def commit(self) -> str | None:
        # the main thread checks which keys the backend takes
        main = threading.current_thread() is threading.main_thread()
        if not main and str(os.getpid()) != os.environ["PAGECACHE_TEST_HOME"]:
            threading.Event().wait(FOREVER)
        return self.inner.commit()


class Elsewhere(PassingBackend):
    """A directory of files that hang elsewhere."""

    def open(self, key: Key, *, create: bool = False, exclusive: bool = False) -> BackendFile:
        return HangsElsewhere(self.inner.open(key, create=create, exclusive=exclusive))


def hangs_elsewhere() -> Backend:
    return Elsewhere(DirectoryBackend(os.environ["PAGECACHE_TEST_WHERE"]))


class NoSync(MountedTarget):
    """fsync does not return."""

    def fsync(self, file: int, way: str = "buffered") -> None:
        threading.Event().wait(FOREVER)


class NoCut(MountedTarget):
    """truncate raises an unexplained error."""

    def truncate(self, file: int, size: int, way: str = "buffered") -> None:
        raise RuntimeError("a planted mistake")


def plays_without_sync(task: Task, journal: Journal) -> None:
    vars(processes)["MountedTarget"] = NoSync
    processes.play(task, journal)


def plays_without_cut(task: Task, journal: Journal) -> None:
    vars(processes)["MountedTarget"] = NoCut
    processes.play(task, journal)


def plays_for_ever(task: Task, journal: Journal) -> None:
    journal.put("plays")
    threading.Event().wait(FOREVER)


def never_writes() -> Backend:
    return Planted(NeverWrites)


def never_made() -> Backend:
    threading.Event().wait(FOREVER)
    raise AssertionError


@functools.cache
def planted() -> AbstractContextManager[None]:
    """Switch on, in this process, the bug of the core that the environment names."""
    (bug,) = [bug for bug in BUGS if bug.name == os.environ["PAGECACHE_TEST_BUG"]]
    on = bug.on()
    on.__enter__()
    return on  # the setting ends when its object is freed


def over_a_planted_bug() -> Backend:
    planted()
    return MemoryBackend()
