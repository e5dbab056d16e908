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
from ..objects.spooled import SpooledFile
from ..spool import Spool
from .errors import RequestError
from .requests import Stored

if TYPE_CHECKING:
    from .backend import ObstoreBackend


class ObstoreObject(SpooledFile[Stored]):
    """One object as of its open, and all later writes."""

    def __init__(self, backend: ObstoreBackend, key: Key, name: str, base: Stored | None) -> None:
        super().__init__(backend.requests, backend.names, key, name, Draft(backend.requests, base))
        self._backend, self._requests = backend, backend.requests

    def _get(self, name: str, offset: int, buffers: Sequence[memoryview], base: Stored) -> int:
        return self._requests.get(name, offset, buffers, base)

    def _mark_of(self, stored: Stored) -> str:
        return stored.id

    def _stored(self) -> Stored | None:
        found = super()._stored()
        if found is None and self.draft.over is not None:
            self._requests.check_place()
        return found

    # ---------------------------------------------------------------- commit

    def _publish(self) -> Stored:
        spool, size = self._spooled(), self.draft.extents.size
        self._complete(spool, int(self._backend.limits.max_read), int(self._backend.limits.max_inflight))
        over, base = self.draft.over, self.draft.base
        parts = size > self._backend.single_put
        if parts:
            self._backend.require_single_put(size)
        if parts or not self._backend.honours("create" if over is None else "replace"):
            self._check_over()
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
            return self._judged(error, id)
        except BaseException:
            self.draft.attempted(id)
            raise
        return stored or self._judged(None, id)

    def _judged(self, error: RequestError | None, id: str) -> Stored:
        """Find out the result of a publishing request that failed, or whose answer has no version (`error` is None).
        Return the stored version if the request was carried out; ESTALE: another client's version is stored.
        """
        if error is None:
            error = RequestError(errno.EIO, "it is stored, and its version is not known", retry=True)
        refused = error.refused
        if refused and error.errno not in (errno.ESTALE, errno.ENOENT):
            raise _kept(error)
        try:
            stored = self._stored()
        except BaseException as unknown:
            self.draft.attempted(id)
            if not isinstance(unknown, OSError):
                raise
            raise BackendError(errno.EIO, f"{error}; then {unknown}", retry=True, kept=True) from error
        if stored is not None and stored.id == id:
            return stored
        if stored is not None and stored.id in self.draft.attempts:
            self.draft.land(stored.id, stored)
            raise BackendError(errno.EIO, "an earlier commit was carried out", retry=True, kept=True) from error
        if not self.draft.replaces(stored):
            raise self._conflict(stored) from error
        if refused:  # another request for the name ran (409), or what it had stored is gone
            raise BackendError(errno.EIO, f"{error}; no other version is stored", retry=True, kept=True) from error
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
