"""An object under change: the opened version, later write-back, and the commit of both.

An object cannot be changed in place. An open file stays with the version that it was opened with. Written-back bytes go
to places where the commit can use them, and the draft records the places:

    write_from, a whole unit     a part of the upload to the object's own key, sent as it comes
    write_from, another piece    a nameless file of this machine (each piece, if the server has no copies)
    truncate, punch_hole         cuts, and zeros

A commit has the server copy the bytes that it has, sends the others, and publishes all of it in one request that names
the replaced version (`If-Match`, `If-None-Match`). An object of at most a unit is one PUT. `..objects.file` has the
rules of commits and lost replies; the mark of an attempt is the random id of the upload, in the object's metadata.

When the server has dropped an upload, its parts are gone. They cannot be read: the commit fails, and the cache, which
keeps the bytes until a commit succeeds, sends them again. A unit that a truncate cuts is sent again too.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import secrets
import threading
import time
import weakref
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

from ... import loglines
from ...errors import BackendError, Key
from ..objects import draft
from ..objects.extents import OLD, Part, Piece
from ..objects.file import ObjectFile
from ..objects.store import Store
from ..spool import parts_of_buffers, revoked
from .assembly import Assembler
from .beginnings import Beginning
from .calls import TAGS, Stored, Upload
from .conditions import Of
from .errors import OtherBytes, ServerError, keeping, send_again, unclear

if TYPE_CHECKING:
    from .backend import S3Backend

log = logging.getLogger("pagecache.volume")

REPEATS_MAX = 3
"""Unexplained failures of completing one upload, before it counts as dead."""


class Draft(draft.Draft[Stored]):
    """The draft of one file. The mark of an attempt is the id in the object's metadata.

    Attributes:
        upload: to the object's own key, if one is open.
    """

    def __init__(self, store: Store[Stored], base: Stored | None) -> None:
        super().__init__(store, base)
        self.upload: Upload | None = None

    def land(self, mark: Hashable, stored: Stored) -> None:
        """Record that the stored version is an attempt, and its upload with it."""
        with self.lock:
            if self.upload is not None and self.upload.id == mark:
                self.upload = None
            super().land(mark, stored)

    def put_part(self, begin: int, end: int, part: Part, upload: Upload) -> bool:
        """Record a part of an upload. False: that was abandoned."""
        with self.lock:
            if upload is not self.upload:
                return False
            self.put(begin, end, part)
            return True

    def forget(self) -> bool:
        """Replace lost bytes by earlier ones. Return whether any were lost."""
        with self.lock:
            lost = [extents.forget() for extents in self._maps()]  # all of them
            return any(lost)

    def lose(self, upload: Upload) -> bool:
        """Abandon the upload: its parts must be sent again. False: it is not the open one."""
        with self.lock:
            if self.upload is not upload:
                return False
            self.upload = None
            for extents in self._maps():
                extents.lose(upload.upload)
            return True


class S3Object(ObjectFile[Stored]):
    """One object."""

    draft: Draft

    def __init__(
        self, backend: S3Backend, key: Key, name: str, base: Stored | None, beginning: Beginning | None = None
    ) -> None:
        super().__init__(backend.requests, backend.names, key, name, Draft(backend.requests, base))
        self._opened, self._first = base, beginning
        self._backend = backend
        self._bucket = backend.bucket
        self._unit = backend.sizes.part
        self._beginning = threading.Lock()  # one thread begins an upload; taken before the draft's lock
        # For files that are never closed.
        weakref.finalize(self, backend.uploads.left.append, self.draft).atexit = False

    # ---------------------------------------------------------------- reading

    def _get(self, name: str, offset: int, buffers: Sequence[memoryview], base: Stored) -> int:
        if self._first is not None and base is self._opened and (done := self._first.fill(offset, buffers)):
            return done
        return self._bucket.get(name, offset, buffers, base.etag)

    def _stored(self) -> Stored | None:
        found = self._bucket.head(self.name)
        if found is None and self.draft.over is not None:
            self._store.check_place()
        return found

    def _mark_of(self, stored: Stored) -> str:
        return stored.id

    # ---------------------------------------------------------------- handing over

    def write_from(self, offset: int, buffers: Sequence[memoryview]) -> int:
        end = offset + sum(map(len, buffers))
        begin = offset
        while begin < end:
            stop = min(begin - begin % self._unit + self._unit, end)
            with revoked(parts_of_buffers(buffers, begin - offset, stop - offset)) as parts:
                direct = stop - begin == self._unit and begin // self._unit < self._backend.sizes.direct
                if direct and self._backend.honours(self.name).copies:  # others may refuse to replace a part
                    self._send(begin, stop, parts)
                else:
                    self._forget_sent(begin)
                    spool = self._spooled()
                    spool.write_all(begin, parts)
                    self.draft.put(begin, stop, spool, begin)
            begin = stop
        return end - offset

    def _forget_sent(self, begin: int) -> None:
        """Forget what tries of a commit have sent of a unit, before other bytes take their place in the spool."""
        upload, unit, direct = self.draft.upload, begin // self._unit, self._backend.sizes.direct
        if upload is not None and unit < direct:
            upload.done.pop(unit + 1, None)
        elif upload is not None:  # each try gives these units other numbers
            for number in [number for number in upload.done if number > direct]:
                del upload.done[number]

    def _send(self, begin: int, end: int, parts: Sequence[memoryview]) -> None:
        upload, number = self._opened_upload(), begin // self._unit + 1
        upload.done.pop(number, None)
        try:
            etag = self._bucket.send(upload.name, upload.upload, number, parts)
        except ServerError as error:
            if not self._is_gone(upload, error):
                raise
            self._lose(upload)
            raise send_again(error.strerror) from error
        if not self.draft.put_part(begin, end, Part(upload.upload, number, etag), upload):
            raise send_again(f"the upload of {self.key!r} was given up")

    # ---------------------------------------------------------------- uploads

    def _opened_upload(self) -> Upload:
        with self._beginning:
            with self.draft.lock:
                upload, name, base = self.draft.upload, self.name, self.draft.base
            if upload is None:
                id = secrets.token_hex(16)
                properties = self._bucket.properties(base, id)
                upload = self._backend.uploads.begin(name, id, properties)
                upload.tags = properties.get(TAGS, "")
                self.draft.upload = upload
            return upload

    def _lose(self, upload: Upload | None) -> None:
        """Abandon an upload, if there is one. It may be gone: its parts must be sent again."""
        if upload is not None and self.draft.lose(upload):
            self._backend.uploads.give_up(upload.name, upload.upload)

    # ---------------------------------------------------------------- commit

    def _commit(self) -> None:
        try:
            super()._commit()
        except OSError as error:
            raise keeping(error) from error
        except BaseException:
            if (sending := self.draft.sending) is not None:  # it may be carried out
                self._attempted(sending(), self.draft.upload)
            raise
        self._clear()

    def _settle_attempts(self) -> None:
        super()._settle_attempts()
        upload = self.draft.upload
        attempt = None if upload is None else self.draft.attempts.get(upload.id)
        if attempt is not None and not attempt.is_old():
            self._lose(upload)  # its id belongs to other bytes

    def _publish(self) -> Stored:
        if self.draft.forget():
            raise send_again(f"some of {self.key!r} was sent to an upload that is gone, or was cut since")
        assembler = Assembler(self._backend, self.name, self.draft, self._read_piece)
        return self._put_whole(assembler) if assembler.is_one_put() else self._complete(assembler)

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
            condition = self._condition("put")
            self.draft.publish(lambda: id)
            try:
                etag, when = self._bucket.put(self.name, [buffer], {**extra, **condition})
            except OtherBytes as error:
                # Stored, in doubt: the next commit finds this version, and replaces it by all of these bytes.
                self._attempted(id, None)
                spool = self._spooled()
                spool.write_all(0, [buffer])
                self.draft.put(0, size, spool)
                raise BackendError(errno.EIO, str(error), retry=True, kept=True) from error
            except OSError as error:
                return self._judged(error, id, None)
        known = self._backend.honours(self.name, "put").put_etags
        stored = self._published(Stored(etag, size, when, id, self._carried()), None, known=known)
        self._keep_tags(stored, extra.get(TAGS, ""))
        return stored

    def _complete(self, assembler: Assembler) -> Stored:
        upload = self._opened_upload()
        if upload.name != self.name:
            self._lose(upload)
            raise send_again(f"{self.key!r} was renamed")
        try:
            before = self._stored() if assembler.copies_unchecked else None
            if before is not None and before.pause:
                # Times are whole seconds: a version that is put back in this second would look the same.
                time.sleep(before.pause)
            parts = assembler.parts(upload)
            if assembler.copies_unchecked:
                self._check_source(before)
            condition = self._condition("upload")
        except ServerError as error:
            raise self._without_upload(error, upload) from error
        self.draft.publish(lambda: upload.id)
        try:
            etag, when = self._bucket.complete(self.name, upload.upload, parts, condition)
        except OSError as error:
            if isinstance(error, ServerError) and error.status < 500:
                upload.done.clear()  # a copied part may be the cause
            return self._judged(error, upload.id, upload)
        if upload.failures:  # an earlier completion may have succeeded, and the object been replaced since
            return self._judged(OSError(errno.EIO, "a completion that was repeated"), upload.id, upload)
        known = etag != "" and self._backend.honours(self.name).etags
        stored = self._published(Stored(etag, assembler.size, when, upload.id, self._carried()), upload, known=known)
        self.draft.upload = None
        self._keep_tags(stored, upload.tags)
        return stored

    def _keep_tags(self, stored: Stored, tags: str) -> None:
        """Check that a published version has the tags of its predecessor: some servers ignore those of an upload."""
        try:
            if not tags or self._bucket.keep_tags(stored, self.name, tags):
                return
            why = "the server does not keep them, or another version is stored"
        except OSError as error:
            why = str(error)
        loglines.say(log, logging.WARNING, "%r is stored without its tags %s: %s", self.key, tags, why)

    def _condition(self, of: Of) -> dict[str, str]:
        """Return the condition that the stored version is to be replaced; without one, compare the versions."""
        honours, over = self._backend.honours(self.name, of), self.draft.over
        if not (honours.complete if of == "upload" else honours.create if over is None else honours.put):
            self._check_over()
            return {}
        return {"If-None-Match": "*"} if over is None else {"If-Match": over.etag}

    def _check_source(self, before: Stored | None) -> None:
        """Check that an object was the same before and after parts were copied from it without a condition: else some
        of them may be of another version.
        """
        after = self._stored()
        if not self.draft.replaces(after):
            raise self._conflict(after)
        if before != after:
            what = f"{self.key!r} was replaced, and put back, while its parts were copied"
            raise BackendError(errno.EAGAIN, what, retry=True)

    def _published(self, stored: Stored, upload: Upload | None, *, known: bool) -> Stored:
        """Return the version with its actual etag, which some servers do not send. `known`: it has it."""
        if known:
            return stored
        return self._judged(OSError(errno.EIO, "it is stored"), stored.id, upload)

    def _carried(self) -> dict[str, str]:
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
            OSError: ESTALE: a foreign version is stored. EIO: this commit, or an earlier one, may have been carried
                out. Otherwise it was not; in either case it may be repeated.
        """
        answered = error if isinstance(error, ServerError) else None
        gone = answered is not None and (answered.code in ("NoSuchUpload", "InvalidPart") or answered.status == 409)
        elsewhere = ("NoSuchUpload", "NoSuchBucket")
        refused = answered is not None and answered.status in (404, 412) and answered.code not in elsewhere
        if not (gone or refused or unclear(error)):
            raise error
        try:
            stored = self._stored()
        except OSError as unknown:
            self._attempted(id, upload)
            if gone and upload is not None:
                self._lose(upload)
                raise send_again(f"{error}; then {unknown}", errno.EIO) from unknown
            raise BackendError(errno.EIO, f"{error}; then {unknown}", retry=True, kept=True) from unknown
        if stored is not None and stored.id == id:
            if upload is not None:  # otherwise an upload may be open that this commit did not use
                self.draft.upload = None
            return stored
        if stored is not None and stored.id in self.draft.attempts:
            self.draft.land(stored.id, stored)
            raise send_again("an earlier commit was carried out", errno.EIO)
        if refused or not self.draft.replaces(stored):
            raise self._conflict(stored) from error
        if not gone:
            self._attempted(id, upload)
        if upload is not None and (gone or upload.failures >= REPEATS_MAX):
            self._lose(upload)
            raise send_again(error, errno.EAGAIN if gone else errno.EIO) from error
        after = answered.retry_after if answered is not None else None
        raise BackendError(errno.EIO, str(error), retry=True, retry_after=after, kept=True) from error

    def _attempted(self, id: Hashable, upload: Upload | None) -> None:
        """Record a commit with unknown result, by a completion of this upload, if by one."""
        self.draft.attempted(id)
        if upload is not None:
            upload.failures += 1

    # ---------------------------------------------------------------- the end

    def _clear(self) -> None:
        """Abort an unused upload, after a commit."""
        if not self.draft.changed:
            self._lose(self.draft.upload)
        self._backend.uploads.settle()

    def rollback(self) -> None:
        """Forget all write-back since the last commit."""
        super().rollback()
        self._lose(self.draft.upload)
        self._clear()

    def renamed(self, key: Key, name: str, before: Stored | None, now: Stored | None) -> None:
        """Record another name of the object. Parts of an upload to the old name must be sent again."""
        super().renamed(key, name, before, now)
        self._lose(self.draft.upload)

    def close(self) -> None:
        """Drop uncommitted bytes."""
        super().close()
        with contextlib.suppress(OSError):
            self._lose(self.draft.upload)
        self._backend.uploads.settle()
