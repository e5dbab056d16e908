"""Pressure between cache and backend: no call of the backend ends before a writer has written more.

In addition, one write may be held: until its release it is in the backend, and is carried out then, or lost.

So something is dirty at any moment: after each request, after each commit. A sync that waits for a clean moment waits
until the writers stop. A call waits for a writer only briefly: the writer may be waiting for the call.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Sequence

from pagecache.backends.passing import PassingBackend, PassingFile
from pagecache.backends.protocol import Backend, BackendFile
from pagecache.errors import BackendError, Key

__all__ = ["Hold", "PressedBackend"]

MOMENT = 0.02  # seconds
ENOUGH = 3  # writes that end during the wait: of two writers, one began after the call


HELD = 30.0  # seconds after which the release of a held call cannot come


class Hold:
    """A held write: it has `entered`, and goes on when released. `lost`: it is acknowledged then, by a store that is
    gone.
    """

    def __init__(self, *, lost: bool) -> None:
        self._lost = lost
        self.entered, self.over = threading.Event(), threading.Event()
        self._go = threading.Event()

    def let_go(self) -> None:
        """Release the write."""
        self._go.set()

    def through(self, call: Callable[[], int], length: int) -> int:
        """Make the call after its release."""
        self.entered.set()
        self._go.wait(HELD)
        try:
            return length if self._lost else call()
        finally:
            self.over.set()


class PressedBackend(PassingBackend):
    """A backend under pressure; see the top of this file."""

    def __init__(self, inner: Backend) -> None:
        super().__init__(inner)
        self._changed = threading.Condition()
        self._writes = 0
        self._pressing = False
        self._hold: Hold | None = None
        self.unreported: threading.Event | None = None
        """If set, writes are done and fail, as if their replies were lost; the first one sets the event."""

    def hold(self, *, lost: bool) -> Hold:
        """Hold the next write."""
        self._hold = found = Hold(lost=lost)
        return found

    def taken(self) -> Hold | None:
        """Return the hold for a write that begins."""
        with self._changed:
            found, self._hold = self._hold, None
            return found

    def press(self, on: bool) -> None:
        """Start or stop the pressure."""
        with self._changed:
            self._pressing = on
            self._changed.notify_all()

    def wrote(self) -> None:
        """Record that a writer has written once more."""
        with self._changed:
            self._writes += 1
            self._changed.notify_all()

    def wait(self) -> None:
        """End a call once more was written."""
        if self._pressing:
            with self._changed:
                enough = self._writes + ENOUGH
                self._changed.wait_for(lambda: not self._pressing or self._writes >= enough, MOMENT)

    def open(self, key: Key, *, create: bool = False, exclusive: bool = False) -> BackendFile:
        return PressedFile(self.inner.open(key, create=create, exclusive=exclusive), self)


class PressedFile(PassingFile):
    """An object of `PressedBackend`."""

    def __init__(self, inner: BackendFile, backend: PressedBackend) -> None:
        super().__init__(inner)
        self._backend = backend

    def write_from(self, offset: int, buffers: Sequence[memoryview]) -> int:
        hold = self._backend.taken()
        if hold is not None:
            sent = memoryview(b"".join(buffers))  # a copy: the bytes are in flight even if the memory changes
            return hold.through(lambda: self.inner.write_from(offset, [sent]), len(sent))
        count = self.inner.write_from(offset, buffers)
        if (unreported := self._backend.unreported) is not None:
            unreported.set()
            raise BackendError(errno.EIO, "made up: done without a reply", retry=True)
        self._backend.wait()
        return count

    def commit(self) -> str | None:
        version = self.inner.commit()
        self._backend.wait()
        return version
