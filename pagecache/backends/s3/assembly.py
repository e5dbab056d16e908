"""Carry out the requests of one commit: parts concurrently, with daemon threads that end with it.

The server copies the bytes that it has, on the condition that they are still of the opened version. Mixed parts are
gathered in memory, one unit for each request in flight. If a server ignores that condition, the stored version is
compared before and after the copies.

Any of a thousand requests may fail. Completed requests stay done, and the others are done before the failure is
reported, so that the next attempt of the commit has little left. An attempt ends early only if many requests fail, the
server asks for less, or an error is final.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from ..objects.extents import OLD, ZEROS, Part, Piece
from ..objects.parallel import side_by_side
from ..spool import revoke, revoked
from .calls import Upload
from .errors import ServerError, may_pass
from .plan import Copy, Send, Sent, Step, assembly

if TYPE_CHECKING:
    from .backend import S3Backend
    from .conditions import Conditions
    from .object import Draft

SMALL = 1 << 20
"""Bytes: an object that is cut to less is read and stored, in two requests; a copy would take more."""


class Assembler:
    """One commit of one object. `read` fills buffers with a piece; may be short."""

    def __init__(
        self, backend: S3Backend, name: str, draft: Draft, read: Callable[[Piece, Sequence[memoryview]], int]
    ) -> None:
        self._backend, self._bucket = backend, backend.bucket
        with draft.lock:
            self._name, self._base = name, draft.base
            self._extents, self._read = draft.extents.copy(), read
        self.size = self._extents.size

    @cached_property
    def _honours(self) -> Conditions:
        return self._backend.honours(self._name)

    # ---------------------------------------------------------------- as one request

    def is_one_put(self) -> bool:
        pieces = list(self._extents)
        if self.size > self._backend.sizes.part or any(isinstance(piece.source, Part) for piece in pieces):
            return False
        there = all(piece.source is OLD for piece in pieces)
        return not there or self.size <= SMALL or not self._honours.copies

    def bytes_of_all(self) -> memoryview:
        return self._gathered(list(self._extents), 0, self.size)

    def _gathered(self, pieces: Sequence[Piece], begin: int, end: int) -> memoryview:
        """Return the bytes of the pieces, in new memory."""
        room = memoryview(bytearray(end - begin))
        try:
            for piece in pieces:
                if piece.source is not ZEROS:
                    self._fill(room[piece.begin - begin : piece.end - begin], piece)
        except BaseException:
            revoke([room])
            raise
        return room

    def _fill(self, room: memoryview, piece: Piece) -> None:
        with room:
            done, length = 0, piece.end - piece.begin
            while done < length:
                with revoked([room[done:]]) as rest:
                    moved = self._read(piece.within(piece.begin + done, piece.end), rest)
                if not moved:
                    missing = f"[{piece.begin + done}, {piece.end})"
                    raise OSError(errno.EIO, f"{missing} of the stored bytes are missing", self._name)
                done += moved

    # ---------------------------------------------------------------- as parts

    @cached_property
    def _steps(self) -> list[Step]:
        return assembly(self._extents, replace(self._backend.sizes, copies=self._honours.copies))

    @property
    def copies_unchecked(self) -> bool:
        """Return whether parts are copied from the opened version, and the server does not check that it is that."""
        return not self._honours.copy and any(isinstance(step, Copy) for step in self._steps)

    def parts(self, upload: Upload) -> list[tuple[int, str]]:
        """Bring all parts to the server; return their numbers and etags."""
        done = upload.done
        base = "" if self._base is None else self._base.etag

        def carry_out(step: Step) -> tuple[int, str]:
            if isinstance(step, Sent):
                return step.number, step.etag
            before = done.pop(step.number, None)
            if before is not None and before[:2] == (step, base):
                etag = before[2]
            else:
                etag = self._part(step, upload.upload)
            if self._honours.copy:  # otherwise it may be of a foreign version that was stored for a moment
                done[step.number] = step, base, etag
            return step.number, etag

        return side_by_side(carry_out, self._steps, int(self._backend.limits.max_inflight), may_pass)

    def _part(self, step: Send | Copy, upload: str) -> str:
        if isinstance(step, Copy):
            return self._copied(step, upload)
        with self._gathered(step.pieces, step.begin, step.end) as buffer:  # revoked, for the reason given in `Body`
            return self._bucket.send(self._name, upload, step.number, [buffer])

    def _copied(self, step: Copy, upload: str) -> str:
        etag = self._base.etag if self._base is not None else None
        try:
            return self._bucket.copy(self._name, upload, step.number, self._name, step.begin, step.end, etag)
        except ServerError as error:
            if error.status == 404 and error.code not in ("NoSuchUpload", "NoSuchBucket"):
                raise OSError(errno.ESTALE, f"{error.strerror}: the object was removed", self._name) from error
            raise
