"""An object that is being changed: what was opened, what has been handed over since, and the commit of both.

An object cannot be changed in place. An open file stays with the version that it was opened with, and `Extents`
(`s3_plan.py`) says of each byte of the next version where it is:

    write_from, a whole unit     a part of the upload to the object's own key, sent as it comes
    write_from, a shorter one    in memory: it is the last, and the commit follows
    stage                        a private object, which can be read, and survives conflicts and restarts
    truncate                     cuts, and zeros

A commit has the server copy what it has, sends the rest, and publishes all of it in one request that names the
version it replaces (`If-Match`, `If-None-Match`). An object of a unit at most is one PUT. What fails before that
request has changed nothing. If the answer to it is lost, the object's metadata tells: it has the random id of the
upload. While it cannot be looked at, the commit may have happened; `_attempts` has, for each id, what of this file
lies over that version if so.

An upload that the server does not know any more takes its parts with it. Nobody can read them: the commit fails, and
the cache, which has the bytes until a commit succeeds, sends them again. So it does with a unit that a truncate cuts.

`_lock` guards the fields; it is held for moments. Calls to the server are made without it: the protocol keeps commit,
truncate, rollback and hand-overs apart, reads look afterwards whether what they read of still is so (`_turns`).
"""

from __future__ import annotations

import contextlib
import errno
import secrets
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..errors import BackendError, Key
from .protocol import BackendFile, ObjectStat
from .s3_assembly import Assembler
from .s3_calls import ID, Stored, Upload
from .s3_errors import Told, keeping, send_again, unclear
from .s3_plan import OLD, ZEROS, Extents, Held, Part, Piece, Source, Staged
from .spool import parts_of_buffers

if TYPE_CHECKING:
    from .s3 import S3Backend

__all__ = ["S3File"]

TIDY_AFTER = 64
"""Private objects that nothing is read from any more, before they are deleted."""
REPEATS_MAX = 3
"""Completions of one upload that fail without a reason, before it is taken for dead."""


class S3File(BackendFile):
    """One object."""

    def __init__(self, backend: S3Backend, key: Key, name: str, base: Stored | None) -> None:
        self._backend = backend
        self._bucket = backend.bucket
        self._unit = backend.sizes.part
        self.key, self.name = key, name
        self.detached = False  # the name was taken away, or is another object's
        self._lock = threading.Condition()
        self._beginning = threading.Lock()  # an upload is begun by one; above _lock
        self._turns = 0  # of what is stored and of what is cut: a read that saw one is done again
        self._publishing = False
        self._rolled_back = self._committed = False
        self._upload: Upload | None = None
        self._private: set[str] = set()
        self._tidied = 0  # how many of them there were when that was done last
        self._attempts: dict[str, Extents] = {}
        self._take(base)

    def _take(self, base: Stored | None, over: Extents | None = None) -> None:
        """This is stored; `over`: what lies over it, None for nothing. The lock is held, or the file is new."""
        self._base = base
        self._extents = over or Extents(0 if base is None else base.size)
        self._changed = base is None or over is not None
        self._attempts.clear()
        self._turns += 1

    # ---------------------------------------------------------------- reading

    def stat(self) -> ObjectStat:
        with self._lock:
            if self._base is None:
                return ObjectStat(size=self._extents.size)
            return replace(self._backend.told(self.name, self._base), size=self._extents.size)

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> int:
        """What was handed over and not committed may be read as it was before."""
        wanted = sum(map(len, buffers))
        while True:
            with self._lock:
                turns, base, name, extents = self._turns, self._base, self.name, self._extents
                pieces = [older for p in extents.pieces(offset, offset + wanted) for older in extents.older(p)]
            done = 0
            try:
                for piece in pieces:
                    parts = parts_of_buffers(buffers, piece.begin - offset, piece.end - offset)
                    moved = self._read(piece, parts, name, base)
                    done += moved
                    if moved < piece.end - piece.begin:
                        break
            except OSError as error:
                if error.errno not in (errno.ESTALE, errno.ENOENT, errno.ERANGE):
                    raise
                if self._still(turns) and not self._landed_meanwhile():
                    what = f"{error.strerror or error}; the version that was opened is not there any more"
                    raise OSError(errno.ESTALE, what, self.key) from error
                continue
            with self._lock:
                if turns == self._turns:
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
        """Whether nothing of this file's own has changed what is stored since; waits for a commit that is about to."""
        with self._lock:
            self._lock.wait_for(lambda: not self._publishing)
            return turns == self._turns

    def _landed_meanwhile(self) -> bool:
        """Whether what is stored is a commit of ours that was not heard of, and has been taken as that now."""
        with self._lock:
            attempts = set(self._attempts)
        if not attempts:
            return False
        stored = self._bucket.head(self.name)
        if stored is None or stored.id not in attempts:
            return False
        self._land(stored)
        return True

    def read_staged(self, offset: int, buffers: Sequence[memoryview]) -> int:
        """What a commit has taken meanwhile is read from the object; of what was rolled back there is nothing left."""
        wanted = sum(map(len, buffers))
        seen: Source | None = None
        while True:
            with self._lock:
                self._lock.wait_for(lambda: not self._publishing)
                piece = next(iter(self._extents.pieces(offset, offset + wanted)), None)
                rolled_back, committed = self._rolled_back, self._committed
            if piece is None or not isinstance(piece.source, Staged | Held):
                break
            try:
                return self._read(piece, parts_of_buffers(buffers, 0, piece.end - offset), "", None)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ERANGE) or seen == piece.source:
                    raise
                seen = piece.source
        if rolled_back:
            return 0
        if not committed:
            raise FileNotFoundError(errno.ENOENT, "nothing is staged there", self.key)
        return self.read_into(offset, buffers)

    # ---------------------------------------------------------------- handing over

    def write_from(self, offset: int, buffers: Sequence[memoryview]) -> int:
        end = offset + sum(map(len, buffers))
        begin = offset
        while begin < end:
            stop = min(begin - begin % self._unit + self._unit, end)
            parts = parts_of_buffers(buffers, begin - offset, stop - offset)
            if stop - begin == self._unit and begin // self._unit < self._backend.sizes.direct:
                self._send(begin, stop, parts)
            elif self._may_hold(begin):
                self._put(begin, stop, Held(b"".join(parts)))
            else:
                self.stage(begin, parts)
            begin = stop
        return end - offset

    def _may_hold(self, begin: int) -> bool:
        """One unit at most is in memory: the last, which is handed over right before a commit."""
        with self._lock:
            first = begin - begin % self._unit
            others = [p for p in self._extents.pieces(0, first) if isinstance(p.source, Held)]
            behind = self._extents.size > first + self._unit
            return not others and not behind

    def _send(self, begin: int, end: int, parts: Sequence[memoryview]) -> None:
        if not self._backend.honours().copies:  # a unit that is sent could not be sent again, or read, or moved
            self.stage(begin, parts)
            return
        upload, number = self._opened_upload(), begin // self._unit + 1
        upload.done.pop(number, None)
        try:
            etag = self._bucket.send(upload.name, upload.upload, number, parts)
        except Told as error:
            if error.code != "NoSuchUpload":
                raise
            self._lose(upload)
            raise send_again(error.strerror) from error
        if not self._put(begin, end, Part(upload.upload, number, etag), upload):
            raise send_again(f"the upload of {self.key!r} was given up")

    def stage(self, offset: int, buffers: Sequence[memoryview]) -> int:
        """One private object each time."""
        name = self._backend.private_name()
        length = sum(map(len, buffers))
        try:
            self._bucket.put(name, buffers, {}, condition={})
        except BaseException:
            self._backend.discard({name})  # it may be stored
            raise
        self._put(offset, offset + length, Staged(name))
        self._tidy()
        return length

    def _put(self, begin: int, end: int, source: Source, upload: Upload | None = None) -> bool:
        with self._lock:
            if upload is not None and upload is not self._upload:
                return False
            self._changed, self._rolled_back, self._committed = True, False, False
            if isinstance(source, Staged):
                self._private.add(source.name)
            for extents in (self._extents, *self._attempts.values()):
                extents.put(begin, end, source)
        return True

    def _tidy(self) -> None:
        """Private objects that were written over go, now and then."""
        with self._lock:
            if len(self._private) < self._tidied + TIDY_AFTER:
                return
            used = {s.name for e in (self._extents, *self._attempts.values()) for s in e.sources() if type(s) is Staged}
            used |= {self._upload.note} if self._upload else set()
            dead, self._private = self._private - used, self._private & used
            self._tidied = len(self._private)
        self._backend.discard(dead)

    def truncate(self, size: int) -> None:
        with self._lock:
            self._changed = True
            self._turns += 1
            for extents in (self._extents, *self._attempts.values()):
                extents.cut(size)

    # ---------------------------------------------------------------- uploads

    def _opened_upload(self) -> Upload:
        with self._beginning:
            with self._lock:
                upload, name, base = self._upload, self.name, self._base
            if upload is not None:
                return upload
            id = secrets.token_hex(16)
            upload = self._backend.begin_upload(name, id, self._extra(base, id))
            with self._lock:
                self._upload = upload
                self._private.add(upload.note)
                return upload

    def _extra(self, base: Stored | None, id: str) -> dict[str, Any]:
        """What the next version has besides its bytes: as the one before, and the id."""
        carried = dict(base.carried) if base is not None else {}
        if "Tagging" in carried:
            carried["Tagging"] = self._bucket.tags(carried["Tagging"])
        return {**carried, "Metadata": {**carried.get("Metadata", {}), ID: id}}

    def _lose(self, upload: Upload) -> None:
        """The upload is not to be used any more, or is gone: its parts have to be sent again."""
        with self._lock:
            if self._upload is not upload:
                return
            self._upload = None
            for extents in (self._extents, *self._attempts.values()):
                extents.lose(upload.upload)
        self._backend.give_up(upload.name, upload.upload)
        self._forget_note(upload)

    def _forget_note(self, upload: Upload) -> None:
        with self._lock:
            self._private.discard(upload.note)
        self._backend.discard({upload.note})

    # ---------------------------------------------------------------- commit

    def commit(self) -> str | None:
        if self._changed and not self.detached:
            with self._lock:
                self._publishing = True
            try:
                self._commit()
            except OSError as error:
                raise keeping(error) from error
            finally:
                with self._lock:
                    self._publishing = False
                    self._lock.notify_all()
            self._clear()
        with self._lock:
            return None if self._base is None else self._backend.told(self.name, self._base).version

    def _commit(self) -> None:
        if self._attempts:
            self._look_back()
            if not self._changed:
                return
        with self._lock:
            forgotten = [extents.forget() for extents in (self._extents, *self._attempts.values())]
        if any(forgotten):
            raise send_again(f"some of {self.key!r} was sent to an upload that is gone, or was cut since")
        assembler = Assembler(self._backend, self.name, self._base, self._extents.copy(), self._read_piece)
        try:
            put = assembler.is_one_put()
            stored = self._put_whole(assembler) if put else self._complete(assembler)
            with self._lock:
                self._take(stored)
                self._committed, self._rolled_back = True, False
        finally:
            self._backend.discard(assembler.made)

    def _read_piece(self, piece: Piece, buffers: Sequence[memoryview]) -> int:
        try:
            return self._read(piece, buffers, self.name, self._base)
        except OSError as error:
            if piece.source == OLD and error.errno in (errno.ENOENT, errno.ERANGE):
                raise self._conflict(None) from error
            raise

    def _put_whole(self, assembler: Assembler) -> Stored:
        id = secrets.token_hex(16)
        extra = self._extra(self._base, id)
        buffer = assembler.bytes_of_all()
        assembler.check_base()
        try:
            etag, when = self._bucket.put(self.name, [buffer], extra, condition=assembler.condition("put"))
        except OSError as error:
            return self._judged(error, id, None)
        return self._published(Stored(etag, len(buffer), when, id, self._carried()))

    def _complete(self, assembler: Assembler) -> Stored:
        upload = self._opened_upload()
        if upload.name != self.name:
            self._lose(upload)
            raise send_again(f"{self.key!r} was renamed")
        try:
            parts = assembler.parts(upload)
            assembler.check_base()
            condition = assembler.condition("complete")
        except Told as error:
            raise self._without_upload(error, upload) from error
        try:
            etag, when = self._bucket.complete(self.name, upload.upload, parts, condition)
        except OSError as error:
            return self._judged(error, upload.id, upload)
        if upload.failures:  # an earlier one may have been carried out, and the object replaced since
            return self._judged(OSError(errno.EIO, "a completion that was repeated"), upload.id, upload)
        with self._lock:
            self._upload = None
        return self._published(Stored(etag, assembler.size, when, upload.id, self._carried()))

    def _published(self, stored: Stored) -> Stored:
        """With the etag that it has, which is not what every server answers."""
        if self._backend.honours().etags:
            return stored
        try:
            found = self._bucket.head(self.name)
        except OSError as error:
            self._attempted(stored.id, None)
            raise BackendError(errno.EAGAIN, f"it is stored; then {error}", retry=True, kept=True) from error
        if found is None or found.id != stored.id:
            raise self._conflict(found)
        return found

    def _carried(self) -> dict[str, Any]:
        return {} if self._base is None else dict(self._base.carried)

    def _without_upload(self, error: Told, upload: Upload) -> OSError:
        """An error before the publishing request: of the upload, of what is copied, or of something else."""
        if error.code == "NoSuchUpload" or error.status == 409:
            self._lose(upload)
            return send_again(error.strerror)
        return error

    def _judged(self, error: OSError, id: str, upload: Upload | None) -> Stored:
        """What has become of a publishing request that failed. Returns what is stored, if that is it.

        Raises:
            OSError: ESTALE, somebody else's is stored; else it may be tried again.
        """
        told = error if isinstance(error, Told) else None
        gone = told is not None and (told.code in ("NoSuchUpload", "InvalidPart") or told.status == 409)
        refused = told is not None and told.status in (404, 412) and told.code != "NoSuchUpload"
        if not (gone or refused or unclear(error)):
            raise error
        try:
            stored = self._bucket.head(self.name)
        except OSError as unknown:
            self._attempted(id, upload)
            if gone and upload is not None:
                self._lose(upload)
                raise send_again(f"{error}; then {unknown}") from unknown
            raise BackendError(errno.EAGAIN, f"{error}; then {unknown}", retry=True, kept=True) from unknown
        if stored is not None and stored.id == id:
            with self._lock:
                self._upload = None
            return stored
        if stored is not None and stored.id in self._attempts:
            self._land(stored)
            raise send_again("an earlier commit was carried out")
        if refused or not self._is_base(stored):
            raise self._conflict(stored) from error
        if not gone:
            self._attempted(id, upload)
        if upload is not None and (gone or upload.failures >= REPEATS_MAX):
            self._lose(upload)
            raise send_again(error) from error
        after = told.retry_after if told is not None else None
        raise BackendError(error.errno or errno.EIO, str(error), retry=True, retry_after=after, kept=True) from error

    def _attempted(self, id: str, upload: Upload | None) -> None:
        """It may be carried out yet. From here on it is known what lies over that version, too."""
        with self._lock:
            self._attempts.setdefault(id, Extents(self._extents.size))
            if upload is not None:
                upload.failures += 1

    def _look_back(self) -> None:
        """Commits were made of which nothing is known."""
        stored = self._bucket.head(self.name)
        if stored is not None and stored.id in self._attempts:
            self._land(stored)
            return
        if not self._is_base(stored):
            raise self._conflict(stored)
        upload = self._upload
        if upload is not None and not _is_old(self._attempts.get(upload.id, Extents())):
            self._lose(upload)  # its id is that of other bytes

    def _land(self, stored: Stored) -> None:
        """What is stored is the commit of ours that was not heard of."""
        upload = self._upload
        with self._lock:
            over = self._attempts[stored.id]
            mine = upload is not None and upload.id == stored.id
            if mine:
                self._upload = None
            self._take(stored, None if _is_old(over) and over.size == stored.size else over)
            self._committed, self._rolled_back = True, False
        if mine and upload is not None:
            self._forget_note(upload)

    def _is_base(self, stored: Stored | None) -> bool:
        if stored is None or self._base is None:
            return stored is self._base
        return stored.etag == self._base.etag

    def _conflict(self, stored: Stored | None) -> OSError:
        found = "no object" if stored is None else f"version {stored.version}"
        ours = "none" if self._base is None else f"version {self._base.version}"
        return OSError(errno.ESTALE, f"{found} is stored where {ours} was opened", self.key)

    # ---------------------------------------------------------------- the end

    def _clear(self) -> None:
        """After a commit: private objects that nothing needs any more go, and so does an upload."""
        with self._lock:
            upload = self._upload if not self._changed else None
            if upload is not None:
                self._upload = None
            used = {s.name for s in self._extents.sources() if isinstance(s, Staged)}
            used |= {self._upload.note} if self._upload else set()
            dead, self._private = self._private - used, self._private & used
            self._tidied = len(self._private)
        if upload is not None:
            self._backend.give_up(upload.name, upload.upload)
        self._backend.discard(dead)

    def rollback(self) -> None:
        """Nothing that was handed over since the last commit is kept."""
        stored = self._bucket.head(self.name)
        with self._lock:
            self._take(stored)
            self._changed = stored is None
            self._rolled_back, self._committed = True, False
        self._end_upload()
        self._clear()

    def moved(self, key: Key, name: str, stored: Stored | None) -> None:
        """The object has another name. What was sent to an upload of the old one has to be sent again."""
        with self._lock:
            self.key, self.name = key, name
            self._turns += 1
            if stored is not None and self._base is not None:
                self._base = replace(stored, carried=self._base.carried, id=self._base.id)
            elif stored is None:
                self._base = None
            upload = self._upload
        if upload is not None:
            self._lose(upload)

    def _end_upload(self) -> None:
        with self._lock:
            upload = self._upload
        if upload is not None:
            self._lose(upload)

    def close(self) -> None:
        """What was not committed goes."""
        with contextlib.suppress(OSError):
            self._end_upload()
        with self._lock:
            dead, self._private = self._private, set()
        self._backend.discard(dead)


def _is_old(extents: Extents) -> bool:
    return all(piece.source == OLD for piece in extents)
