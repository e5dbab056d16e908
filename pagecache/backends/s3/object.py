"""An object under change: the opened version, later write-back, and the commit of both.

An object cannot be changed in place. An open file stays with the version that it was opened with. Written-back bytes go
to places where the commit can use them, and the draft (`draft.py`) records the places:

    write_from, a whole unit     a part of the upload to the object's own key, sent as it comes
    write_from, a shorter one    in memory: it is the last, and the commit follows
    stage                        a private object, which can be read, and survives conflicts and restarts
    truncate, punch_hole         cuts, and zeros

A commit has the server copy the bytes that it has, sends the others, and publishes all of it in one request that names
the replaced version (`If-Match`, `If-None-Match`). An object of at most a unit is one PUT. Failures before that request
change nothing. If its reply is lost, the object's metadata decides: it has the random id of the upload. Until it can be
read, the commit may have happened, and the draft has both states.

When the server has dropped an upload, its parts are gone. They cannot be read: the commit fails, and the cache, which
keeps the bytes until a commit succeeds, sends them again. A unit that a truncate cuts is sent again too.

Calls to the server are made without a lock: the protocol separates commit, truncate, rollback and write-back, and reads
check afterwards whether their version is still current (`Draft.turns`).
"""

from __future__ import annotations

import contextlib
import errno
import secrets
import threading
import weakref
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ...errors import BackendError, Key
from ..objects.store import run
from ..protocol import BackendFile, ObjectStat
from ..spool import parts_of_buffers, revoked
from .assembly import Assembler
from .calls import Stored, Upload
from .draft import Draft
from .errors import ServerError, keeping, send_again, unclear
from .plan import OLD, ZEROS, Held, Part, Piece, Source, Staged

if TYPE_CHECKING:
    from .backend import S3Backend

__all__ = ["S3File"]

REPEATS_MAX = 3
"""Unexplained failures of completing one upload, before it counts as dead."""


class S3File(BackendFile):
    """One object."""

    def __init__(self, backend: S3Backend, key: Key, name: str, base: Stored | None) -> None:
        self._backend = backend
        self._bucket = backend.bucket
        self._unit = backend.sizes.part
        self.key, self.name = key, name
        self.detached = False  # the name was removed, or belongs to another object
        self._beginning = threading.Lock()  # one thread begins an upload; taken before the draft's lock
        self.draft = Draft(backend.requests, base)
        # For files that are never closed.
        weakref.finalize(self, backend.session.left.append, self.draft).atexit = False

    # ---------------------------------------------------------------- reading

    def stat(self) -> ObjectStat:
        with self.draft.lock:
            base, version, size = self.draft.base, self.draft.version(), self.draft.extents.size
        mtime, links = None if base is None else base.mtime, 0 if self.detached else None
        return ObjectStat(size=size, version=version, mtime=mtime, key=self.key, nlink=links)

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> int:
        """Read bytes. Uncommitted bytes may be read in their earlier state."""
        wanted = sum(map(len, buffers))
        landed: Stored | None = None
        while True:
            with self.draft.lock:
                turns, name, (base, extents) = self.draft.turns, self.name, self.draft.seen_over(landed)
                pieces = [older for p in extents.pieces(offset, offset + wanted) for older in extents.older(p)]
            done = 0
            try:
                for piece in pieces:
                    with revoked(parts_of_buffers(buffers, piece.begin - offset, piece.end - offset)) as parts:
                        moved = self._read(piece, parts, name, base)
                    done += moved
                    if moved < piece.end - piece.begin:
                        break
            except OSError as error:
                if error.errno not in (errno.ESTALE, errno.ENOENT, errno.ERANGE):
                    raise
                seen, landed = landed, self._landed()
                if (landed is None or landed == seen) and self._still(turns):
                    what = f"{error.strerror or error}; the opened version no longer exists"
                    raise OSError(errno.ESTALE, what, self.key) from error
                continue
            if turns == self.draft.turns:
                return done

    def _read(self, piece: Piece, buffers: Sequence[memoryview], name: str, base: Stored | None) -> int:
        match piece.source:
            case Held(data):
                at = piece.at
                for buffer in buffers:
                    buffer[:] = data[at : at + len(buffer)]
                    at += len(buffer)
            case Staged(private):
                return self._bucket.get(private, piece.at, buffers, None)
            case _ if piece.source == ZEROS or base is None:
                for buffer in buffers:
                    buffer[:] = bytes(len(buffer))
            case _:
                return self._bucket.get(name, piece.at, buffers, base.etag)
        return piece.end - piece.begin

    def _still(self, turns: int) -> bool:
        """Return whether this file has not changed the stored version since; wait for a commit that is about to."""
        with self.draft.lock:
            self.draft.lock.wait_for(lambda: not self.draft.publishing)
            return turns == self.draft.turns

    def _landed(self) -> Stored | None:
        """Return the stored version, if it is a commit of this file with unknown result. The next commit records it."""
        if not self.draft.attempts:
            return None
        stored = self._bucket.head(self.name)
        return stored if stored is not None and stored.id in self.draft.attempts else None

    def read_staged(self, offset: int, buffers: Sequence[memoryview]) -> int:
        """Read staged bytes. Committed bytes are no longer staged; so the cache discovers a commit whose reply was
        lost. Rolled-back bytes are gone.
        """
        wanted = sum(map(len, buffers))
        seen: Source | None = None
        while True:
            with self.draft.lock:
                self.draft.lock.wait_for(lambda: not self.draft.publishing)
                piece = next(iter(self.draft.extents.pieces(offset, offset + wanted)), None)
                rolled_back = self.draft.rolled_back
            if piece is None or not isinstance(piece.source, Staged | Held):
                break
            try:
                with revoked(parts_of_buffers(buffers, 0, piece.end - offset)) as parts:
                    return self._read(piece, parts, "", None)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ERANGE) or seen == piece.source:
                    raise
                seen = piece.source
        if rolled_back:
            return 0
        raise FileNotFoundError(errno.ENOENT, "nothing is staged there", self.key)

    # ---------------------------------------------------------------- handing over

    def write_from(self, offset: int, buffers: Sequence[memoryview]) -> int:
        end = offset + sum(map(len, buffers))
        begin = offset
        while begin < end:
            stop = min(begin - begin % self._unit + self._unit, end)
            with revoked(parts_of_buffers(buffers, begin - offset, stop - offset)) as parts:
                if stop - begin == self._unit and begin // self._unit < self._backend.sizes.direct:
                    self._send(begin, stop, parts)
                elif self.draft.may_hold(begin, self._unit):
                    self.draft.put(begin, stop, Held(b"".join(parts)))
                else:
                    self.stage(begin, parts)
            begin = stop
        return end - offset

    def _send(self, begin: int, end: int, parts: Sequence[memoryview]) -> None:
        if not self._backend.honours().copies:  # without copies a sent unit cannot be sent again, read, or moved
            self.stage(begin, parts)
            return
        upload, number = self._opened_upload(), begin // self._unit + 1
        upload.done.pop(number, None)
        try:
            etag = self._bucket.send(upload.name, upload.upload, number, parts)
        except ServerError as error:
            if not self._is_gone(upload, error):
                raise
            self._lose(upload)
            raise send_again(error.strerror) from error
        if not self.draft.put(begin, end, Part(upload.upload, number, etag), upload):
            raise send_again(f"the upload of {self.key!r} was given up")

    def stage(self, offset: int, buffers: Sequence[memoryview]) -> int:
        """Stage bytes in a new private object."""
        name = self._backend.session.private_name()
        length = sum(map(len, buffers))
        try:
            self._bucket.put(name, buffers, {}, condition={})
        except BaseException:
            self._backend.session.discard({name})  # it may be stored
            raise
        self.draft.put(offset, offset + length, Staged(name))
        self._backend.session.discard(self.draft.unused(now=False))
        return length

    def truncate(self, size: int) -> None:
        self.draft.cut(size)

    def punch_hole(self, offset: int, length: int) -> None:
        self.draft.punch(offset, offset + length)

    def kept(self) -> bool:
        """Return whether all acknowledged bytes are kept, or the cache still has them: parts of a lost upload are sent
        again. Committed bytes are stored, which the cache discovers when it reads them. A call from before the abort
        may still end.
        """
        needed = self.draft.staged()
        missing = needed - self._backend.session.stored()
        return self.draft.recorded and not missing & self.draft.staged()

    # ---------------------------------------------------------------- uploads

    def _opened_upload(self) -> Upload:
        with self._beginning:
            with self.draft.lock:
                upload, name, base = self.draft.upload, self.name, self.draft.base
            if upload is None:
                id = secrets.token_hex(16)
                upload = self._backend.session.begin_upload(name, id, self._bucket.properties(base, id))
                self.draft.begun(upload)
            return upload

    def _lose(self, upload: Upload) -> None:
        """Abandon an upload, which may be gone: its parts must be sent again."""
        if self.draft.lose(upload):
            self._backend.session.give_up(upload.name, upload.upload)
            self._backend.session.discard({upload.note})

    # ---------------------------------------------------------------- commit

    def commit(self) -> str | None:
        if self.draft.changed:
            run(self._backend.names.settle(self.name))
        if self.draft.changed and not self.detached:
            with self.draft.publish():
                try:
                    self._commit()
                except OSError as error:
                    raise keeping(error) from error
            self._clear()
        return self.draft.version()

    def _commit(self) -> None:
        draft = self.draft
        if draft.attempts:
            self._check_attempts()
            if not draft.changed:
                return
        if draft.forget():
            raise send_again(f"some of {self.key!r} was sent to an upload that is gone, or was cut since")
        assembler = Assembler(self._backend, self.name, draft, self._read_piece)
        try:
            put = assembler.is_one_put()
            draft.published(self._put_whole(assembler) if put else self._complete(assembler))
        finally:
            self._backend.session.discard(assembler.made)

    def _read_piece(self, piece: Piece, buffers: Sequence[memoryview]) -> int:
        try:
            return self._read(piece, buffers, self.name, self.draft.base)
        except OSError as error:
            if piece.source == OLD and error.errno in (errno.ENOENT, errno.ERANGE):
                raise self._conflict(None) from error
            raise

    def _put_whole(self, assembler: Assembler) -> Stored:
        id = secrets.token_hex(16)
        extra = self._bucket.properties(self.draft.base, id)
        with assembler.bytes_of_all() as buffer:
            size = len(buffer)
            assembler.check_base()
            try:
                etag, when = self._bucket.put(self.name, [buffer], extra, condition=assembler.condition("put"))
            except OSError as error:
                return self._judged(error, id, None)
        return self._published(Stored(etag, size, when, id, self._carried()))

    def _complete(self, assembler: Assembler) -> Stored:
        upload = self._opened_upload()
        if upload.name != self.name:
            self._lose(upload)
            raise send_again(f"{self.key!r} was renamed")
        try:
            parts = assembler.parts(upload)
            assembler.check_base()
            condition = assembler.condition("complete")
        except ServerError as error:
            raise self._without_upload(error, upload) from error
        try:
            etag, when = self._bucket.complete(self.name, upload.upload, parts, condition)
        except OSError as error:
            if isinstance(error, ServerError) and error.status < 500:
                upload.done.clear()  # a copied part may be the cause
            return self._judged(error, upload.id, upload)
        if upload.failures:  # an earlier completion may have succeeded, and the object been replaced since
            return self._judged(OSError(errno.EIO, "a completion that was repeated"), upload.id, upload)
        self.draft.uploaded()
        return self._published(Stored(etag, assembler.size, when, upload.id, self._carried()))

    def _published(self, stored: Stored) -> Stored:
        """Return the version with its actual etag, which some servers do not send."""
        if self._backend.honours().etags:
            return stored
        try:
            found = self._bucket.head(self.name)
        except OSError as error:
            self.draft.attempted(stored.id, None)
            raise BackendError(errno.EAGAIN, f"it is stored; then {error}", retry=True, kept=True) from error
        if found is None or found.id != stored.id:
            raise self._conflict(found)
        return found

    def _carried(self) -> dict[str, Any]:
        return {} if self.draft.base is None else dict(self.draft.base.carried)

    def _without_upload(self, error: ServerError, upload: Upload) -> OSError:
        """Return an error from before the publishing request: of the upload, of a copied source, or another one."""
        if error.status == 409 or self._is_gone(upload, error):
            self._lose(upload)
            return send_again(error.strerror)
        return error

    def _is_gone(self, upload: Upload, error: ServerError) -> bool:
        """Return whether an error means that the server has dropped the upload. Some servers only report a failure."""
        if error.status != 500 or error.code == "NoSuchUpload":
            return error.code == "NoSuchUpload"
        try:
            return not self._bucket.knows(upload.name, upload.upload)
        except OSError:
            return False

    def _judged(self, error: OSError, id: str, upload: Upload | None) -> Stored:
        """Find out the result of a failed publishing request. Return the stored version, if the request was carried
        out.

        Raises:
            OSError: ESTALE: a foreign version is stored; otherwise the commit may be repeated.
        """
        answered = error if isinstance(error, ServerError) else None
        gone = answered is not None and (answered.code in ("NoSuchUpload", "InvalidPart") or answered.status == 409)
        refused = answered is not None and answered.status in (404, 412) and answered.code != "NoSuchUpload"
        if not (gone or refused or unclear(error)):
            raise error
        try:
            stored = self._bucket.head(self.name)
        except OSError as unknown:
            self.draft.attempted(id, upload)
            if gone and upload is not None:
                self._lose(upload)
                raise send_again(f"{error}; then {unknown}") from unknown
            raise BackendError(errno.EAGAIN, f"{error}; then {unknown}", retry=True, kept=True) from unknown
        if stored is not None and stored.id == id:
            if upload is not None:  # otherwise an upload may be open that this commit did not use
                self.draft.uploaded()
            return stored
        if stored is not None and stored.id in self.draft.attempts:
            self._land(stored)
            raise send_again("an earlier commit was carried out")
        if refused or not self.draft.replaces(stored):
            raise self._conflict(stored) from error
        if not gone:
            self.draft.attempted(id, upload)
        if upload is not None and (gone or upload.failures >= REPEATS_MAX):
            self._lose(upload)
            raise send_again(error) from error
        after = answered.retry_after if answered is not None else None
        raise BackendError(error.errno or errno.EIO, str(error), retry=True, retry_after=after, kept=True) from error

    def _check_attempts(self) -> None:
        """Check for commits with unknown result."""
        stored = self._bucket.head(self.name)
        if stored is not None and stored.id in self.draft.attempts:
            self._land(stored)
            return
        if not self.draft.replaces(stored):
            raise self._conflict(stored)
        upload = self.draft.upload
        if upload is not None and not self.draft.is_old(upload.id):
            self._lose(upload)  # its id belongs to other bytes

    def _land(self, stored: Stored) -> None:
        """Record that the stored version is the commit with unknown result."""
        upload = self.draft.land(stored)
        if upload is not None:
            self._backend.session.discard({upload.note})

    def _conflict(self, stored: Stored | None) -> OSError:
        found = "no object" if stored is None else f"version {stored.version}"
        over = self.draft.over
        ours = "none" if over is None else f"version {over.version}"
        return OSError(errno.ESTALE, f"{found} is stored where {ours} was opened", self.key)

    # ---------------------------------------------------------------- the end

    def _clear(self) -> None:
        """Delete unused private objects, and abort an unused upload, after a commit."""
        upload = self.draft.upload
        if upload is not None and not self.draft.changed:
            self._lose(upload)
        self._backend.session.discard(self.draft.unused(now=True))

    def rollback(self) -> None:
        """Forget all write-back since the last commit."""
        self.draft.roll_back(self._landed())
        self._end_upload()
        self._clear()

    def rebase(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Lay the staged bytes of these ranges over the current stored version, and forget all other write-back since
        the last commit.
        """
        self.draft.rebase(self._bucket.head(self.name), ranges, self.key)
        self._end_upload()
        self._clear()

    def renamed(self, key: Key, name: str, before: Stored | None, now: Stored | None) -> None:
        """Record another name of the object. Parts of an upload to the old name must be sent again."""
        with self.draft.lock:
            self.key, self.name = key, name
            self.draft.renamed(before, now)
        self._end_upload()

    def _end_upload(self) -> None:
        upload = self.draft.upload
        if upload is not None:
            self._lose(upload)

    def close(self) -> None:
        """Drop uncommitted bytes."""
        self._backend.names.leave(self)
        with contextlib.suppress(OSError):
            self._end_upload()
        self._backend.session.discard(self.draft.leave())
