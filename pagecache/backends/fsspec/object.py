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
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ...errors import Key
from ..objects.draft import Draft
from ..protocol import AsyncBackendFile, ObjectStat
from ..spool import END, Ranges, Spool, parts_of_buffers
from .calls import about, tagged
from .fetch import fetched

if TYPE_CHECKING:
    from .objects import Objects

__all__ = ["ObjectFile"]

STEP = 1 << 20
TICK = 1.1
"""Seconds: at least the resolution of the coarsest clock of a file system, with a margin."""
TICKS = 3
PAUSE = 0.005


def _stale(key: Key, what: str) -> OSError:
    return OSError(errno.ESTALE, what, key)


class ObjectFile(AsyncBackendFile):
    """One object as of its open, and all later writes."""

    def __init__(self, objects: Objects, key: Key, path: str, base: ObjectStat | None) -> None:
        self._objects = objects
        self._calls = objects.calls
        self._same = objects.requests.same
        self.key, self.name = key, path
        self.detached = False  # the name was removed, or belongs to another object
        self.draft: Draft[ObjectStat] = Draft(objects.requests, base)
        self._lock = self.draft.lock  # guards all below, too
        self._attempts: set[tuple[int, bytes]] = set()  # size and checksum of commits whose result is unknown
        self._reader: Any = None
        self._begin(committed=False)

    def _begin(self, *, committed: bool) -> None:
        """Begin with no writes over the base; `committed`: it has the content of earlier ones."""
        base = self.draft.base
        reader, self._reader = self._reader, None if base is None else self._calls.reader(self.name)
        if reader is not None:
            reader.close()
        with self._lock:
            self._size = 0 if base is None else base.size
            self._spool: Spool | None = None
            self._spooled = Ranges()
            self._spooled.add(self._size, END)
            self._changed = base is None
            self.draft.publishing = False
            self._attempts.clear()
            self._committed = committed

    def _take(self, stored: ObjectStat | None) -> None:
        """Record the stored version as a commit of all writes."""
        with self._lock:
            self.draft.begin(stored)
            self.draft.rolled_back = False
            self._begin(committed=True)

    def renamed(self, key: Key, name: str, before: ObjectStat | None, now: ObjectStat | None) -> None:
        """Record another name of the object, and possibly another version due to that."""
        with self._lock:
            self.key, self.name = key, name
            self.draft.renamed(before, now)
        if self._reader is not None:
            self._reader.close()
            self._reader = self._calls.reader(self.name)

    # ---------------------------------------------------------------- reading

    async def stat(self) -> ObjectStat:
        with self._lock:
            stored = self.draft.base or ObjectStat(size=0)
            links = 0 if self.detached else stored.nlink
            return replace(stored, key=self.key, size=self._size, version=self.draft.version(), nlink=links)

    async def read_into(self, offset: int, buffers: Sequence[memoryview]) -> int:
        with about(self.key, self._calls.name):
            while True:
                with self._lock:
                    turns, spool, base, reader = self.draft.turns, self._spool, self.draft.base, self._reader
                    end = min(offset + sum(map(len, buffers)), self._size)
                    pieces = list(self._spooled.pieces(offset, end)) if offset < end else []
                done, requested = offset, False
                for begin, stop, spooled in pieces:
                    parts = parts_of_buffers(buffers, begin - offset, stop - offset)
                    if spooled:
                        self._fill(spool, begin, parts)
                        done = stop
                        continue
                    requested = True
                    try:
                        done = begin + await reader.read(begin, parts)
                    except FileNotFoundError:
                        done = begin
                    if done < stop:
                        break
                if not requested or await self._still(base, turns, short=bool(pieces) and done < end):
                    with self._lock:
                        if turns == self.draft.turns:
                            return done - offset

    def _fill(self, spool: Spool | None, begin: int, parts: Sequence[memoryview]) -> None:
        if spool is not None:
            spool.fill(begin, parts)
        else:
            for part in parts:  # past the stored end, and never written: a truncate extended the object
                part[:] = bytes(len(part))

    async def _still(self, base: ObjectStat | None, turns: int, short: bool) -> bool:
        """Return whether the bytes read are of the version that this file stays with. False: read them again.

        Raises:
            OSError: ESTALE: that version no longer exists.
        """
        if not (self._objects.check_reads or short):
            return True
        stored = await self._calls.found(self.name)
        if self._same(stored, base):
            return True
        while self.draft.publishing:  # the other version may be this file's commit
            await self._calls.sleep(PAUSE)
        if turns == self.draft.turns:
            raise _stale(self.key, f"{self._calls.name} another version is stored than the one that was opened")
        return False

    # ---------------------------------------------------------------- writing

    def _writable_spool(self) -> Spool:
        """Return the spool for writes. The lock is held."""
        if self._objects.why_read_only:
            raise io.UnsupportedOperation(errno.ENOTSUP, self._objects.why_read_only)
        if self._spool is None:
            self._spool = Spool(self._objects.spool)
        self._changed, self.draft.rolled_back = True, False
        return self._spool

    async def write_from(self, offset: int, buffers: Sequence[memoryview]) -> int:
        with self._lock:
            spool = self._writable_spool()
        done = spool.write(offset, buffers)
        with self._lock:
            self._spooled.add(offset, offset + done)
            self._size = max(self._size, offset + done)
        return done

    async def stage(self, offset: int, buffers: Sequence[memoryview]) -> int:
        return await self.write_from(offset, buffers)

    async def read_staged(self, offset: int, buffers: Sequence[memoryview]) -> int:
        """Read staged bytes. Bytes that a concurrent commit took are read from the object; rolled-back bytes are gone.
        An earlier caller retries, with the state after that.
        """
        with self._lock:
            spool, committed, rolled_back = self._spool, self._committed, self.draft.rolled_back
            end = min(offset + sum(map(len, buffers)), self._size)
            piece = next(self._spooled.pieces(offset, end), None) if offset < end else None
        if spool is not None and piece is not None and piece[2]:
            spool.fill(offset, parts_of_buffers(buffers, 0, piece[1] - offset))
            return piece[1] - offset
        if rolled_back:
            return 0
        if not committed:
            raise FileNotFoundError(errno.ENOENT, "nothing is staged there", self.key)
        return await self.read_into(offset, buffers)

    async def truncate(self, size: int) -> None:
        with self._lock:
            spool = self._writable_spool()
            if size < self._size:
                spool.set_size(min(size, os.fstat(spool.fd).st_size))
                self._spooled.add(size, END)
            self._size = size
            self.draft.turns += 1

    async def punch_hole(self, offset: int, length: int) -> None:
        with self._lock:
            spool, end = self._writable_spool(), min(offset + length, self._size)
        if offset < end:
            spool.zero(offset, end)
            with self._lock:
                self._spooled.add(offset, end)

    async def rollback(self) -> None:
        """Forget all writes since the last commit, which may be one whose answer was lost."""
        base = self.draft.base
        with about(self.key, self._calls.name):
            stored = await self._calls.found(self.name) if self._attempts else None
            if stored is not None and await self._sum_of(stored) in self._attempts:
                base = stored
        self.draft.go_back(base)
        self._begin(committed=False)

    async def rebase(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Lay the staged bytes of these ranges, [begin, end), over the current stored version, and forget all other
        writes since the last commit.

        Raises:
            FileNotFoundError: not all of them are staged. Nothing has changed.
        """
        with about(self.key, self._calls.name):
            stored = await self._calls.found(self.name)
        with self._lock:
            spool, kept, size = self._spool, Ranges(), 0 if stored is None else stored.size
            for begin, end in ranges:
                if end > self._size or any(not held for _, _, held in self._spooled.pieces(begin, end)):
                    raise FileNotFoundError(errno.ENOENT, f"not all of [{begin}, {end}) is staged", self.key)
                kept.add(begin, end)
            if spool is not None:
                for begin, end, held in list(kept.pieces(size, self._size)):
                    if not held:
                        spool.zero(begin, end)  # behind the stored version: a later write may be behind it
            self.draft.begin(stored)
            self._begin(committed=False)
            for begin, end, held in kept.pieces(0, END):
                if held:
                    self._spooled.add(begin, end)
                    self._size, self._changed = max(self._size, end), True
            self._spool, self.draft.rolled_back = spool, False

    async def close(self) -> None:
        self._objects.names.leave(self)
        if self._reader is not None:
            self._reader.close()
        with self._lock:
            self._spool = None

    # ---------------------------------------------------------------- commit

    async def commit(self) -> str | None:
        with about(self.key, self._calls.name):
            if self._changed:
                await self._objects.names.settle(self.name)
            if self._changed and not self.detached:
                await self._commit()
        return self.draft.version()

    async def _commit(self) -> None:
        stored = await self._calls.found(self.name)
        if not self.draft.replaces(stored):
            theirs = None if stored is None else await self._sum_of(stored)
            if theirs not in self._attempts:
                raise self._conflict(stored)
            if theirs == self._sum():
                self._take(stored)
                return
            with self._lock:  # later writes go over it
                self.draft.begin(stored)
                self._reader = self._reader or self._calls.reader(self.name)
        with self._lock:
            spool = self._writable_spool()
        await self._complete(spool)
        try:
            for _ in range(TICKS):
                await self._publish(spool)
                stored = await self._calls.found(self.name)
                if stored is None or stored.size != self._size:
                    raise OSError(errno.EIO, f"{self._calls.name} {stored} is stored, of {self._size} bytes", self.key)
                known = None if self.draft.over is None else self.draft.over.version
                if known is None or stored.version != known or tagged(stored):
                    break
                await self._calls.sleep(TICK)  # the clock of versions has not advanced
            self._take(stored)
        except BaseException:
            if self.draft.publishing:
                self._attempts.add(self._sum())
            raise
        finally:
            self.draft.publishing = False

    async def _complete(self, spool: Spool) -> None:
        """Complete the spool."""
        missing = [(begin, end) for begin, end, held in self._spooled.pieces(0, self._size) if not held]
        if not missing:
            return
        objects = self._objects
        most = objects.limits.max_inflight
        if not await fetched(self._calls, self._reader, spool, missing, objects.step, most):
            raise self._conflict(await self._calls.found(self.name))
        stored = await self._calls.found(self.name)
        if not self.draft.replaces(stored):
            raise self._conflict(stored)
        with self._lock:
            self._spooled.add(0, END)

    async def _publish(self, spool: Spool) -> None:
        objects, calls = self._objects, self._calls
        if objects.publish == "put":
            self.draft.publishing = True
            await self._store(spool, self.name, calls.fs._parent(self.name))
            return
        temporary = await objects.temporary(self.name)
        try:
            await self._store(spool, temporary, calls.fs._parent(temporary))
            stored = await self._calls.found(self.name)
            if not self.draft.replaces(stored):
                raise self._conflict(stored)
            self.draft.publishing = True
            await calls.move(temporary, self.name)
        except BaseException:
            with contextlib.suppress(Exception):
                await calls.remove(temporary)
            raise

    async def _store(self, spool: Spool, path: str, directory: str) -> None:
        try:
            await self._calls.store(spool, self._size, path)
        except FileNotFoundError:
            await self._calls.make_directories(directory)
            await self._calls.store(spool, self._size, path)

    def _sum(self) -> tuple[int, bytes]:
        """Return size and checksum of the spool, which is complete after the first attempt of a commit."""
        total, room = hashlib.blake2b(), memoryview(bytearray(STEP))
        for at in range(0, self._size, STEP):
            part = room[: self._size - at]
            self._fill(self._spool, at, [part])
            total.update(part)
        return self._size, total.digest()

    async def _sum_of(self, stored: ObjectStat) -> tuple[int, bytes] | None:
        """Return size and checksum of the stored object, if it may be this file's commit; None: it is not."""
        if stored.size not in {size for size, _ in self._attempts}:
            return None
        total, room, at = hashlib.blake2b(), memoryview(bytearray(STEP)), 0
        reader = self._calls.reader(self.name)
        try:
            while at < stored.size and (done := await reader.read(at, [room[: stored.size - at]])):
                total.update(room[:done])
                at += done
        finally:
            reader.close()
        return (at, total.digest()) if self._same(await self._calls.found(self.name), stored) else None

    def _conflict(self, stored: ObjectStat | None) -> OSError:
        found = "no object" if stored is None else f"version {stored.version}"
        ours = "none" if self.draft.over is None else f"version {self.draft.over.version}"
        return _stale(self.key, f"{self._calls.name} {found} is stored where {ours} was opened")
