"""An open object of a store of whole objects: the opened version, later changes, and the commit of both.

An open file stays with the version that it was opened with. Written-back bytes lie over it (`draft.py`), and a commit
replaces it by one publishing request. Failures before that request change nothing. If its reply is lost, the mark of
the stored object decides; until it can be read, the commit may have happened, and the draft has both states. The next
commit asks first.

Requests are made without a lock: the protocol separates commit, truncate, rollback and write-back, and reads check
afterwards whether their version is still current (`Draft.turns`).
"""

from __future__ import annotations

import errno
from abc import abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Generic

from ...errors import BackendError, Key
from ..protocol import BackendFile, ObjectStat
from ..spool import Spool, parts_of_buffers, revoked
from .draft import Draft
from .extents import OLD, Piece
from .store import Store, V

if TYPE_CHECKING:
    from .names import Names


class ObjectFile(BackendFile, Generic[V]):
    """One object.

    Attributes:
        name: of the store.
        detached: the name was removed, or belongs to another object.
        draft: the next version.
    """

    def __init__(self, store: Store[V], names: Names[V], key: Key, name: str, draft: Draft[V]) -> None:
        self._store, self._names = store, names
        self.key, self.name = key, name
        self.detached = False
        self.draft = draft
        self._spool: Spool | None = None  # of uncommitted bytes; the draft's lock guards it

    # ---------------------------------------------------------------- of each store

    @abstractmethod
    def _get(self, name: str, offset: int, buffers: Sequence[memoryview], base: V) -> int:
        """Fill buffers with bytes of the base; return their number. ESTALE, ENOENT, ERANGE: it no longer exists."""

    def _check_read(self, pieces: Sequence[Piece], done: int, name: str, base: V | None) -> None:
        """Check that the bytes read are of the base, if `_get` does not; ESTALE: another version is stored."""

    @abstractmethod
    def _publish(self) -> V:
        """Publish the next version, and return it. `Draft.publish` precedes the publishing request."""

    def _stored(self) -> V | None:
        return self._store.head(self.name)

    @abstractmethod
    def _mark_of(self, stored: V) -> Hashable:
        """Return the mark of a stored version; None: it has none of this file's, or another one is stored by now."""

    # ---------------------------------------------------------------- reading

    def stat(self) -> ObjectStat:
        with self.draft.lock:
            base, version, size = self.draft.base, self.draft.version(), self.draft.extents.size
        stored = ObjectStat(size=0) if base is None else self._store.status(base)
        links = 0 if self.detached else stored.nlink
        return replace(stored, key=self.key, size=size, version=version, nlink=links)

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> int:
        """Read bytes. Uncommitted bytes may be read in their earlier state."""
        draft, wanted = self.draft, sum(map(len, buffers))
        landed: V | None = None
        mark: Hashable = None
        with self._store.about(self.key):
            while True:
                with draft.lock:
                    turns, name, (base, extents) = draft.turns, self.name, draft.seen_over(landed, mark)
                    pieces = [older for p in extents.pieces(offset, offset + wanted) for older in extents.older(p)]
                done = 0
                try:
                    for piece in pieces:
                        with revoked(parts_of_buffers(buffers, piece.begin - offset, piece.end - offset)) as parts:
                            moved = self._read(piece, parts, name, base)
                        done += moved
                        if moved < piece.end - piece.begin:
                            break
                    self._check_read(pieces, done, name, base)
                except OSError as error:
                    if error.errno not in (errno.ESTALE, errno.ENOENT, errno.ERANGE):
                        raise
                    while (publishing := draft.publishing) is not None:  # the version found may be its
                        publishing.result()
                    seen, (landed, mark) = landed, self._landed()
                    # In this order: a commit that was begun beside the look may have stored what that found.
                    if landed in (None, seen) and draft.publishing is None and turns == draft.turns:
                        what = f"{error.strerror or error}; the opened version no longer exists"
                        raise OSError(errno.ESTALE, what, self.key) from error
                    continue
                if turns == draft.turns:
                    return done

    def _read(self, piece: Piece, buffers: Sequence[memoryview], name: str, base: V | None) -> int:
        if piece.source is OLD and base is not None:
            return self._get(name, piece.at, buffers, base)
        if isinstance(piece.source, Spool):
            piece.source.fill(piece.at, buffers)
        else:
            for buffer in buffers:
                buffer[:] = bytes(len(buffer))
        return piece.end - piece.begin

    # ---------------------------------------------------------------- changes

    def _spooled(self, folder: str | None = None) -> Spool:
        """Return the spool of uncommitted bytes."""
        with self.draft.lock:
            if self._spool is None:
                self._spool = Spool(folder)
            return self._spool

    def truncate(self, size: int) -> None:
        self.draft.cut(size)

    def punch_hole(self, offset: int, length: int) -> None:
        self.draft.punch(offset, offset + length)

    def rollback(self) -> None:
        """Forget all write-back since the last commit, which may be one whose answer was lost."""
        with self._store.about(self.key):
            landed, _ = self._landed()
        self.draft.roll_back(landed)
        self._spool = None

    def renamed(self, key: Key, name: str, before: V | None, now: V | None) -> None:
        """Record another name; the versions are those of `Draft.renamed`."""
        with self.draft.lock:
            self.key, self.name = key, name
            self.draft.renamed(before, now)

    @property
    def seen(self) -> V | None:
        """The version with which `open` can open the object anew, without a request; None: it is being changed."""
        with self.draft.lock:
            return None if self.draft.changed or self.detached or self.draft.attempts else self.draft.base

    @property
    def unanswered(self) -> Draft[V]:
        """What identifies the commits and the version of this file, for `recognises`."""
        return self.draft

    def recognises(self, unanswered: object) -> bool:
        """Return whether the opened version is a commit of the earlier file with this draft, or what a rename has made
        of its version. From now on this file recognises its other commits like its own: one may land later.
        """
        draft, base = self.draft, self.draft.base
        if type(unanswered) is not type(draft):
            return False
        others = dict(draft.attempts)  # of the files asked before: they may land over the opened version
        made = draft.inherit(unanswered)
        with self._store.about(self.key):
            if base is None:
                return False
            if made is not None and self._store.same(base, made):
                draft.count_as_made()
                return True
            mark = self._mark_of(base)
            if mark is None:
                landed, mark = self._landed()
                base = base if landed is None else landed  # it has replaced the opened version
            if mark not in draft.attempts:
                return False
        others.pop(mark, None)
        draft.take(base, attempts=others)
        draft.count_as_made()
        return True

    def close(self) -> None:
        self._names.leave(self)

    # ---------------------------------------------------------------- commit

    def commit(self) -> str | None:
        with self._store.about(self.key):
            if self.draft.changed:
                self._names.settle(self.name)
            if self.draft.changed and not self.detached:
                try:
                    self._commit()
                finally:
                    self.draft.answered()
        return self.draft.version()

    def _commit(self) -> None:
        if self.draft.attempts:
            self._settle_attempts()
        if self.draft.changed:
            try:
                made = self._publish()
            except OSError as error:
                if error.errno == errno.ESTALE:
                    self._check_landed(error)
                raise
            self.draft.published(made)
        self._spool = None

    def _look(self) -> tuple[V | None, Hashable]:
        """Return the stored version, and its mark; None: it is no commit of this file."""
        stored, mark = self._stored(), None
        for _ in range(len(self.draft.attempts) + 1):  # each may land while the mark of the version before is read
            if stored is None or (mark := self._mark_of(stored)) is not None:
                break
            before, stored = stored, self._stored()
            if self._store.same(before, stored):
                break
        return stored, mark

    def _landed(self) -> tuple[V | None, Hashable]:
        """Return the stored version and its mark, if it is a commit of this file with unknown result."""
        if self.draft.attempts:
            stored, mark = self._look()
            if mark in self.draft.attempts:
                return stored, mark
        return None, None

    def _check_landed(self, error: OSError) -> None:
        """Check that no earlier commit was carried out beside this one; EIO: the version that this one found is its."""
        landed, mark = self._landed()
        if landed is not None:
            self.draft.land(mark, landed)
            raise BackendError(errno.EIO, "an earlier commit was carried out", retry=True, kept=True) from error

    def _settle_attempts(self) -> None:
        """Find out the result of the commits whose answer was lost; ESTALE: a version of another client is stored."""
        stored, mark = self._look()
        if stored is not None and mark in self.draft.attempts:
            self.draft.land(mark, stored)
        elif not self.draft.replaces(stored):
            raise self._conflict(stored)

    def _check_over(self) -> None:
        """Compare the stored version with the one that the commit replaces; ESTALE: it is another one."""
        stored = self._stored()
        if not self.draft.replaces(stored):
            raise self._conflict(stored)

    def _conflict(self, stored: V | None) -> OSError:
        found = "no object" if stored is None else f"version {stored.version}"
        over = self.draft.over
        ours = "none" if over is None else f"version {over.version}"
        return OSError(errno.ESTALE, f"{found} is stored where {ours} was opened", self.key)
