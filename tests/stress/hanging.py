"""Backends that do not answer, in a module, so that other processes find them by name."""

from __future__ import annotations

import os
import threading

from pagecache import Backend
from pagecache.backends import BackendFile, DirectoryBackend
from pagecache.backends.passing import PassingBackend, PassingFile
from pagecache.errors import Key

FOREVER = 1000.0  # seconds


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
