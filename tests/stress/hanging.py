"""Backends that do not answer, in modules: the processes in which hangs are shrunk find them by their names."""

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
    """The first commit that a cache asks for does not return."""

    def commit(self) -> str | None:
        if threading.current_thread().name != "stress-rest":  # which makes the files, and looks at them
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
    """No commit returns that a cache asks for in another process than the first."""

    def commit(self) -> str | None:
        main = threading.current_thread() is threading.main_thread()  # which looks at what keys the backend takes
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

    def fsync(self, file: int) -> None:
        threading.Event().wait(FOREVER)


class NoCut(MountedTarget):
    """truncate raises what nothing explains."""

    def truncate(self, file: int, size: int) -> None:
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
    """The bug of the core that the environment names is there from now on, in this process."""
    (bug,) = [bug for bug in BUGS if bug.name == os.environ["PAGECACHE_TEST_BUG"]]
    on = bug.on()
    on.__enter__()
    return on  # which would be over if nobody had it


def over_a_planted_bug() -> Backend:
    planted()
    return MemoryBackend()
