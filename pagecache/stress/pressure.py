"""Between cache and backend: while somebody presses, no call of the backend ends before more was written.

And one write may be held: until somebody lets it go it is in the backend's hands, and lands then, or never did. And
one commit may fail, and forget what was written since that was asked for.

So there is no moment at which nothing is dirty: not after a request, not after a commit. Who waits for such a moment
waits for as long as writers go on. A call waits for a writer for a moment only: the writer may be waiting for the call.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Sequence

from pagecache.backends.passing import PassingBackend, PassingFile
from pagecache.backends.protocol import Backend, BackendFile
from pagecache.errors import BackendError, Key

__all__ = ["Hold", "PressedBackend", "Relapse"]

MOMENT = 0.02  # seconds
ENOUGH = 3  # writes that end meanwhile: of two writers, one began after the call had


HELD = 30.0  # seconds after which nobody can be about to let a call go


class Hold:
    """What happens to one write: it has `entered`, and goes on when it is let go. `lost`: it is acknowledged then, and
    was done by a store that is gone.
    """

    def __init__(self, *, lost: bool) -> None:
        self._lost = lost
        self.entered, self.over = threading.Event(), threading.Event()
        self._go = threading.Event()

    def let_go(self) -> None:
        """Nobody waits any more."""
        self._go.set()

    def through(self, call: Callable[[], int], length: int) -> int:
        """Make the call, when its time has come."""
        self.entered.set()
        self._go.wait(HELD)
        try:
            return length if self._lost else call()
        finally:
            self.over.set()


class Relapse:
    """What the next commit fails with, and forgets: bytes of before, in the order in which they were overwritten."""

    def __init__(self) -> None:
        self.before: list[tuple[BackendFile, int, memoryview]] = []
        self.failed = False

    def overwritten(self, file: BackendFile, offset: int, length: int) -> None:
        """A write begins."""
        room = bytearray(length)
        count = file.read_into(offset, [memoryview(room)])
        self.before.append((file, offset, memoryview(room)[:count].toreadonly()))

    def commit(self) -> None:
        """Forget. Raises: BackendError: always; another try helps."""
        self.failed = True
        for file, offset, data in reversed(self.before):
            done = 0
            while done < len(data):
                done += file.write_from(offset + done, [data[done:]])
        raise BackendError(errno.EIO, "made up: what was acknowledged is forgotten", retry=True)


class PressedBackend(PassingBackend):
    """See the top of this file."""

    def __init__(self, inner: Backend) -> None:
        super().__init__(inner)
        self._changed = threading.Condition()
        self._writes = 0
        self._pressing = False
        self._hold: Hold | None = None
        self.relapse: Relapse | None = None
        self.unheard: threading.Event | None = None
        """Writes are done and fail, as if their answers were lost; set when one has."""
        self.publishing: Callable[[Key], Callable[[bool], None]] = lambda _key: lambda _ok: None
        """Called with an object whose commit begins; what it answers is called with whether that has succeeded."""

    def hold(self, *, lost: bool) -> Hold:
        """Hold the next write."""
        self._hold = found = Hold(lost=lost)
        return found

    def taken(self) -> Hold | None:
        """For a write that begins: what happens to it."""
        with self._changed:
            found, self._hold = self._hold, None
            return found

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
        return PressedFile(self.inner.open(key, create=create, exclusive=exclusive), self, key)


class PressedFile(PassingFile):
    """An object of it."""

    def __init__(self, inner: BackendFile, backend: PressedBackend, key: Key) -> None:
        super().__init__(inner)
        self._backend = backend
        self._key = key

    def write_from(self, offset: int, buffers: Sequence[memoryview]) -> int:
        hold = self._backend.taken()
        if hold is not None:
            sent = memoryview(b"".join(buffers))  # it is under way, whatever becomes of the memory
            return hold.through(lambda: self.inner.write_from(offset, [sent]), len(sent))
        if (relapse := self._backend.relapse) is not None:
            relapse.overwritten(self.inner, offset, sum(map(len, buffers)))
        count = self.inner.write_from(offset, buffers)
        if (unheard := self._backend.unheard) is not None:
            unheard.set()
            raise BackendError(errno.EIO, "made up: nobody hears that it was done", retry=True)
        self._backend.wait()
        return count

    def commit(self) -> str | None:
        relapse, self._backend.relapse = self._backend.relapse, None
        if relapse is not None:
            relapse.commit()
        published = self._backend.publishing(self._key)
        try:
            version = self.inner.commit()
        except BaseException:
            published(False)
            raise
        published(True)
        self._backend.wait()
        return version
