"""Between cache and backend: while somebody presses, no call of the backend ends before more was written.

So there is no moment at which nothing is dirty: not after a request, not after a commit. Who waits for such a moment
waits for as long as writers go on. A call waits for a writer for a moment only: the writer may be waiting for the call.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from pagecache.backends.passing import PassingBackend, PassingFile
from pagecache.backends.protocol import Backend, BackendFile
from pagecache.errors import Key

__all__ = ["PressedBackend"]

MOMENT = 0.02  # seconds
ENOUGH = 3  # writes that end meanwhile: of two writers, one began after the call had


class PressedBackend(PassingBackend):
    """See the top of this file."""

    def __init__(self, inner: Backend) -> None:
        super().__init__(inner)
        self._changed = threading.Condition()
        self._writes = 0
        self._pressing = False

    def press(self, on: bool) -> None:
        """From now on, or no more."""
        with self._changed:
            self._pressing = on
            self._changed.notify_all()

    def wrote(self) -> None:
        """A writer has written once more."""
        with self._changed:
            self._writes += 1
            self._changed.notify_all()

    def wait(self) -> None:
        """A call is over: it returns when more was written."""
        if self._pressing:
            with self._changed:
                enough = self._writes + ENOUGH
                self._changed.wait_for(lambda: not self._pressing or self._writes >= enough, MOMENT)

    def open(self, key: Key, *, create: bool = False, exclusive: bool = False) -> BackendFile:
        return PressedFile(self.inner.open(key, create=create, exclusive=exclusive), self)


class PressedFile(PassingFile):
    """An object of it."""

    def __init__(self, inner: BackendFile, backend: PressedBackend) -> None:
        super().__init__(inner)
        self._backend = backend

    def write_from(self, offset: int, buffers: Sequence[memoryview]) -> int:
        count = self.inner.write_from(offset, buffers)
        self._backend.wait()
        return count

    def commit(self) -> str | None:
        version = self.inner.commit()
        self._backend.wait()
        return version
