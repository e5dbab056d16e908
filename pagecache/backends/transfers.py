"""Reads and writes of any length: as many calls of a backend's file as its limits require.

A transfer is cut into pieces that one call takes, and continued after short results, in whole units.
"""

from __future__ import annotations

import errno

from ..errors import BackendError, BackendProtocolError, Key
from .protocol import Backend, BackendFile, BackendLimits

ZERO_ANSWERS_MAX = 3


class Transfers:
    """The calls of one file. Context: any thread."""

    def __init__(self, inner: BackendFile, backend: Backend, key: Key) -> None:
        self._inner = inner
        self._backend = backend
        self._key = key
        self._max_write: int | None = None  # set if the inner file asked for less than its limits

    def limits(self) -> BackendLimits:
        return getattr(self._inner, "limits", None) or self._backend.limits

    def fetch(self, position: int, length: int) -> bytearray:
        """Return stored bytes, fewer at the end; the position is a multiple of the read unit."""
        stored, done = bytearray(length), 0
        with memoryview(stored) as view:
            while done < length:
                limits = self.limits()
                at = done - done % int(limits.read_unit)
                room = _room(position + at, length - at, int(limits.max_read), int(limits.boundary))
                answer = self._inner.read_into(position + at, [view[at : at + room]])
                if at + self._counted("read_into", answer, room) <= done:
                    break
                done = at + answer
        del stored[done:]
        return stored

    def _counted(self, method: str, answer: object, requested: int) -> int:
        if not isinstance(answer, int) or not 0 <= answer <= requested:
            raise BackendProtocolError(f"{method} answered {answer!r} for {requested} bytes", self._key)
        return answer

    def send(self, position: int, data: bytes | bytearray) -> tuple[int, BaseException | None]:
        """Send until all is acknowledged or a call fails; return the acknowledged bytes and the error."""
        done, empty = 0, 0
        view = memoryview(data).toreadonly()
        try:
            while done < len(view):
                limits = self.limits()
                unit = int(limits.write_unit)
                most = min(int(limits.max_write), self._max_write or int(limits.max_write))
                at = done - done % unit
                room = _room(position + at, len(view) - at, max(unit, most - most % unit), int(limits.boundary))
                try:
                    answer = self._inner.write_from(position + at, [view[at : at + room]])
                except BackendError as error:
                    if not error.max_write or not unit <= error.max_write < room:
                        raise
                    self._max_write = error.max_write
                    continue
                at += self._counted("write_from", answer, room)
                empty = 0 if at > done else empty + 1
                if empty == ZERO_ANSWERS_MAX:
                    raise OSError(errno.EIO, "write_from made no progress three times", self._key)
                done = max(done, at)
        except BaseException as error:
            return done, error
        return done, None


def _room(position: int, length: int, most: int, boundary: int) -> int:
    """Return how long a call at `position` may be."""
    return min(length, most, boundary - position % boundary if boundary else length)
