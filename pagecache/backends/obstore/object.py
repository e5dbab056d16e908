"""An open object: the opened version, later bytes in a spool, and the commit of both.

A commit fetches the missing bytes into the spool and stores it in one conditional request. An object above `single_put`
is stored in parts, which no condition guards: the version is compared before. The mark of an attempt is the random id
in the object's metadata.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import secrets
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ...errors import BackendError, Key
from ..objects.draft import Draft
from ..objects.extents import OLD
from ..objects.file import ObjectFile
from ..objects.parallel import reads_of, side_by_side
from ..spool import Spool
from .errors import RequestError
from .requests import Stored

if TYPE_CHECKING:
    from .backend import ObstoreBackend

__all__ = ["ObstoreObject"]


class ObstoreObject(ObjectFile[Stored]):
    """One object as of its open, and all later writes."""

    def __init__(self, backend: ObstoreBackend, key: Key, name: str, base: Stored | None) -> None:
        super().__init__(backend.requests, backend.names, key, name, Draft(backend.requests, base))
        self._backend, self._requests = backend, backend.requests

    async def _get(self, name: str, offset: int, buffers: Sequence[memoryview], base: Stored) -> int:
        return self._requests.get(name, offset, buffers, base)

    async def _mark_of(self, stored: Stored) -> str:
        return stored.id

    # ---------------------------------------------------------------- writing

    async def write_from(self, offset: int, buffers: Sequence[memoryview]) -> int:
        spool = self._spooled()
        done = spool.write(offset, buffers)
        self.draft.put(offset, offset + done, spool, offset)
        return done

    async def truncate(self, size: int) -> None:
        spool = self._spooled()
        with self.draft.lock:
            spool.cut(size)
            self.draft.cut(size)

    async def punch_hole(self, offset: int, length: int) -> None:
        spool, end = self._spooled(), min(offset + length, self.draft.extents.size)
        if offset < end:
            spool.zero(offset, end)
            self.draft.punch(offset, end)

    # ---------------------------------------------------------------- commit

    async def _settle_attempts(self) -> None:
        await super()._settle_attempts()
        if self.draft.changed and self._spool is not None:  # it has all bytes of the attempts
            self.draft.fetched(self._spool)

    async def _publish(self) -> Stored:
        spool, size = self._spooled(), self.draft.extents.size
        self._complete(spool)
        over, base = self.draft.over, self.draft.base
        parts = size > self._backend.single_put
        if parts:
            self._backend.require_single_put(size)
        if parts or not self._backend.honours("create" if over is None else "replace"):
            await self._check_over()
            mode: Any = None
        else:
            mode = "create" if over is None else over.mode()
        id, carried = secrets.token_hex(16), {} if base is None else base.carried
        stored: Stored | None = None
        self.draft.publish(lambda: id)
        try:
            if parts:
                spool.set_size(size)
                self._requests.put_parts(self.name, spool, id, carried)
            else:
                with _bytes_of(spool, size) as data:
                    stored = self._requests.put(self.name, data, id, carried, mode)
        except RequestError as error:
            return await self._judged(error, id)
        except BaseException:
            self.draft.attempted(id)
            raise
        return stored or await self._judged(None, id)

    def _complete(self, spool: Spool) -> None:
        """Fetch the unchanged bytes of the opened version into the spool, several ranges at once."""
        base, limits = self.draft.base, self._backend.limits
        missing = [(piece.begin, piece.end) for piece in self.draft.extents if piece.source == OLD]
        if not missing or base is None:
            return

        def fetch(group: list[tuple[int, int]]) -> None:
            begin, end = group[0][0], group[-1][1]
            room = memoryview(bytearray(end - begin))
            if self._requests.get(self.name, begin, [room], base) < end - begin:
                raise RequestError(errno.EIO, f"GET of {self.name}: the answer is too short", retry=True)
            for first, last in group:
                spool.write_all(first, [room[first - begin : last - begin]])

        try:
            side_by_side(fetch, reads_of(missing, int(limits.max_read)), int(limits.max_inflight))
        except RequestError as error:
            if error.errno == errno.ENOENT:
                raise self._conflict(None) from error
            raise
        self.draft.fetched(spool)

    async def _judged(self, error: RequestError | None, id: str) -> Stored:
        """Find out the result of a publishing request that failed, or whose answer has no version (`error` is None).
        Return the stored version if the request was carried out; ESTALE: another client's version is stored.
        """
        refused = error is not None and error.refused
        if error is not None and refused and error.errno not in (errno.ESTALE, errno.ENOENT):
            raise _kept(error)
        try:
            stored = await self._stored()
        except OSError as unknown:
            self.draft.attempted(id)
            raise BackendError(
                errno.EIO, f"{error or 'it is stored'}; then {unknown}", retry=True, kept=True
            ) from error
        if stored is not None and stored.id == id:
            return stored
        if stored is not None and stored.id in self.draft.attempts:
            self.draft.land(stored.id, stored)
            raise BackendError(errno.EIO, "an earlier commit was carried out", retry=True, kept=True) from error
        if error is None or refused or not self.draft.replaces(stored):
            raise self._conflict(stored) from error
        self.draft.attempted(id)
        raise _kept(error)


def _kept(error: RequestError) -> RequestError:
    """Mark an error of a commit that has forgotten nothing: repeating the commit suffices."""
    error.kept = error.retry
    return error


@contextlib.contextmanager
def _bytes_of(spool: Spool, size: int) -> Iterator[Any]:
    """Map the spool: an object of any size is sent without a copy of it on the heap."""
    spool.set_size(size)
    if not size:
        yield b""
        return
    room = mmap.mmap(spool.fd, size, prot=mmap.PROT_READ)
    try:
        yield room
    finally:
        with contextlib.suppress(BufferError):  # a request that is being given up has it still
            room.close()
