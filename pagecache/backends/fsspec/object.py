"""Objects of a file system that can only store them as a whole.

An open object stays with the version that it was opened with. Writes go to a spool (`spool.py`), so memory can be
freed; reads see the spool laid over the stored object. A commit

    1. fetches the missing bytes of the object into the spool       the stored version must be the opened one: ESTALE
    2. stores the spool under a temporary name                      DIRECTORY/.pagecache-stage/TIME-TOKEN-N
    3. checks that the stored version still is the opened one       ESTALE
    4. moves it over the object

so that a part is never visible, and any failure leaves the old object unchanged. If one call stores a whole object or
nothing (`publish="put"`), it replaces steps 2 and 4. Between 3 and 4 nothing keeps other writers out: no file system of
fsspec has a call for that.

If the result of step 4 is unknown, a retry of the commit finds another version. It counts as this file's commit if its
bytes are equal.

A dead process leaves at most a temporary object. A commit in its directory first removes those older than a day.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
from collections.abc import Sequence
from functools import partial
from time import sleep
from typing import TYPE_CHECKING

from ...errors import BackendError, Key
from ..objects.draft import Draft
from ..objects.extents import OLD, Piece
from ..objects.spooled import SpooledFile
from ..protocol import ObjectStat
from ..spool import Spool
from .calls import Reader, tagged
from .looks import Looks

if TYPE_CHECKING:
    from .objects import Objects

STEP = 1 << 20
TICK = 1.1
"""Seconds: at least the resolution of the coarsest clock of a file system, with a margin."""
TICKS = 3


class FsspecObject(SpooledFile[ObjectStat]):
    """One object as of its open, and all later writes. The mark of an attempt is the size and checksum of its bytes."""

    reads_any_version = True

    def __init__(self, objects: Objects, key: Key, path: str, base: ObjectStat | None) -> None:
        super().__init__(objects.calls, objects.names, key, path, Draft(objects.calls, base))
        self._objects = objects
        self._calls = objects.calls
        self._reader: tuple[str, ObjectStat, Reader] | None = None  # the draft's lock guards it, and the next
        self._looks = Looks(objects.calls, path)

    # ---------------------------------------------------------------- reading

    def _reader_of(self, name: str, base: ObjectStat) -> Reader:
        """Return a reader of this version: one that has open files reads no other."""
        with self.draft.lock:
            if self._reader is None or self._reader[:2] != (name, base):
                self._close_reader()
                self._reader = name, base, self._calls.reader(name)
            return self._reader[2]

    def _close_reader(self) -> None:
        if self._reader is not None:
            self._reader[2].close()
            self._reader = None

    def _get(self, name: str, offset: int, buffers: Sequence[memoryview], base: ObjectStat) -> int:
        try:
            return self._reader_of(name, base).read(offset, buffers)
        except FileNotFoundError:
            return 0
        except OSError as error:
            # S3 has no bytes from its end on: EINVAL.
            if error.errno != errno.EINVAL or self._store.same(self._looks_at(name).look(), base):
                raise
            return 0

    def _check_read(self, pieces: Sequence[Piece], done: int, name: str, base: ObjectStat | None) -> None:
        short = done < sum(piece.end - piece.begin for piece in pieces)
        if not any(piece.source == OLD for piece in pieces) or not (self._objects.check_reads or short):
            return
        if not self._store.same(self._looks_at(name).look(), base):
            with self.draft.lock:
                self._close_reader()  # its open files may be of the other version
            raise OSError(errno.ESTALE, f"{self._calls.name} another version is stored")

    def _looks_at(self, name: str) -> Looks:
        """Return the shared looks at a name; after a rename others begin."""
        with self.draft.lock:
            if self._looks.name != name:
                self._looks = Looks(self._calls, name)
            return self._looks

    # ---------------------------------------------------------------- writing

    def _spooled(self, folder: str | None = None) -> Spool:
        if self._objects.why_read_only:
            raise io.UnsupportedOperation(errno.ENOTSUP, self._objects.why_read_only)
        return super()._spooled(self._objects.spool)

    def close(self) -> None:
        super().close()
        with self.draft.lock:
            self._close_reader()
            self._spool = None

    # ---------------------------------------------------------------- commit

    def _publish(self) -> ObjectStat:
        self._check_over()
        spool, objects = self._spooled(), self._objects
        self._complete(spool, objects.step, int(objects.limits.max_inflight))
        for _ in range(TICKS):
            stored = self._replace(spool)
            if stored.version is None or stored.version != self.draft.version():
                break
            mark = self._sum(spool)
            self.draft.attempted(mark)
            if not tagged(stored):
                sleep(TICK)  # the clock of versions has not advanced
            found = self._stored()
            replaces = self.draft.replaces(found)
            if replaces and not tagged(stored):
                continue
            if found is not None and self._mark_of(found) == mark:
                return found  # the store shows a version late, or the bytes are equal
            if not replaces:
                raise self._conflict(found)
            what = f"{self._calls.name} the replaced version is shown where the next one was stored"
            raise BackendError(errno.EIO, what, retry=True, kept=True)
        return stored

    def _looks_replaced(self, stored: ObjectStat) -> bool:
        """Return whether a stored version is that of the replaced bytes, too: its clock has not advanced."""
        return stored.version is not None and stored.version == self.draft.version() and not tagged(stored)

    def _settle_attempts(self) -> None:
        stored = self._stored()
        if stored is None or not self._looks_replaced(stored):  # otherwise it gets a version of its own
            super()._settle_attempts()

    def _replace(self, spool: Spool) -> ObjectStat:
        """Replace the stored object by the spool; return its version."""
        calls, size, temporary = self._calls, self.draft.extents.size, None
        if self._objects.publish == "move":
            temporary = self._objects.temporary(self.name)
        sent = False
        try:
            if temporary is not None:
                self._put(spool, temporary)
                self._check_over()
            sent = True
            self.draft.publish(partial(self._sum, spool))
            self._put(spool, self.name) if temporary is None else calls.move(temporary, self.name)
            temporary = None
            stored = calls.found(self.name)
            if stored is None or stored.size != size:
                raise OSError(errno.EIO, f"{calls.name} {stored} is stored, of {size} bytes", self.key)
            return stored
        except BaseException:
            if sent:
                self.draft.attempted(self._sum(spool))
            if temporary is not None:
                with contextlib.suppress(Exception):
                    calls.delete(temporary)
            raise

    def _put(self, spool: Spool, path: str) -> None:
        calls, size = self._calls, self.draft.extents.size
        try:
            calls.store(spool, size, path)
        except FileNotFoundError:
            calls.make_directories(calls.fs._parent(path))
            calls.store(spool, size, path)

    def _sum(self, spool: Spool) -> tuple[int, bytes]:
        """Return size and checksum of the complete spool."""
        total, room, size = hashlib.blake2b(), memoryview(bytearray(STEP)), self.draft.extents.size
        for at in range(0, size, STEP):
            part = room[: size - at]
            spool.fill(at, [part])
            total.update(part)
        return size, total.digest()

    def _mark_of(self, stored: ObjectStat) -> tuple[int, bytes] | None:
        """Return size and checksum of the stored object, if it may be this file's commit; None: it is not."""
        if stored.size not in {attempt.size for attempt in self.draft.attempts.values()}:
            return None
        total, room, at = hashlib.blake2b(), memoryview(bytearray(STEP)), 0
        reader = self._calls.reader(self.name)
        try:
            while at < stored.size and (done := reader.read(at, [room[: stored.size - at]])):
                total.update(room[:done])
                at += done
        except FileNotFoundError:
            return None  # it was removed meanwhile
        finally:
            reader.close()
        return (at, total.digest()) if self._store.same(self._calls.found(self.name), stored) else None
