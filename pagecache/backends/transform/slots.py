"""The stored bytes of a transformed object: as many calls of the file below as its limits require.

`units.py` has their layout; `file.py` decides when they are stored. Here a call is cut into pieces that the
file below takes, and continued after short results, in whole units of it.
"""

from __future__ import annotations

import errno

from ...errors import BackendError, BackendProtocolError, Key
from ..protocol import Backend, BackendFile, BackendLimits

__all__ = ["Slots"]

ZERO_ANSWERS_MAX = 3


class Slots:
    """Calls of the inner file. Context: any thread."""

    def __init__(self, inner: BackendFile, backend: Backend, key: Key) -> None:
        self._inner = inner
        self._backend = backend
        self._key = key
        self._max_write: int | None = None  # set if the inner file asked for less than its limits

    def limits(self) -> BackendLimits:
        return getattr(self._inner, "limits", None) or self._backend.limits

    def fetch(self, method: str, position: int, length: int) -> bytearray:
        """Return stored bytes, fewer at the end; continue after short results, in whole read units."""
        stored, done = bytearray(length), 0
        read = getattr(self._inner, method)
        with memoryview(stored) as view:
            while done < length:
                limits = self.limits()
                at = done - done % int(limits.read_unit)
                room = _room(position + at, length - at, int(limits.max_read), int(limits.boundary))
                answer = read(position + at, [view[at : at + room]])
                if at + self._counted(method, answer, room) <= done:
                    break
                done = at + answer
        del stored[done:]
        return stored

    def _counted(self, method: str, answer: object, requested: int) -> int:
        if not isinstance(answer, int) or not 0 <= answer <= requested:
            raise BackendProtocolError(
                f"{method} of the inner backend answered {answer!r} for {requested} bytes", self._key
            )
        return answer

    def send(self, method: str, position: int, slots: bytes) -> tuple[int, BaseException | None]:
        """Send within the limits of the inner file, until all is acknowledged or a call fails; return the acknowledged
        bytes and the error.
        """
        put, done, empty = getattr(self._inner, method), 0, 0
        view = memoryview(slots).toreadonly()
        try:
            while done < len(slots):
                limits = self.limits()
                unit = int(limits.write_unit)
                most = min(int(limits.max_write), self._max_write or int(limits.max_write))
                at = done - done % unit
                room = _room(position + at, len(slots) - at, max(unit, most - most % unit), int(limits.boundary))
                try:
                    answer = put(position + at, [view[at : at + room]])
                except BackendError as error:
                    if not error.max_write or not unit <= error.max_write < room:
                        raise
                    self._max_write = error.max_write
                    continue
                at += self._counted(method, answer, room)
                empty = 0 if at > done else empty + 1
                if empty == ZERO_ANSWERS_MAX:
                    raise OSError(errno.EIO, f"{method} of the inner backend made no progress", self._key)
                done = max(done, at)
        except BaseException as error:
            return done, error
        return done, None


def _room(position: int, length: int, most: int, boundary: int) -> int:
    """Return how long a call at `position` may be."""
    return min(length, most, boundary - position % boundary if boundary else length)
