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
import functools
from abc import abstractmethod
from collections.abc import Callable, Coroutine, Hashable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar

from ...errors import Key
from ..protocol import AsyncBackendFile, BackendFile, ObjectStat
from ..spool import Spool, parts_of_buffers, revoked
from .draft import Draft
from .extents import OLD, Piece
from .store import Store, V, run

if TYPE_CHECKING:
    from .names import Names

__all__ = ["BlockingFile", "ObjectFile", "blocking"]

P = ParamSpec("P")
T = TypeVar("T")


class ObjectFile(AsyncBackendFile, Generic[V]):
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
    async def _get(self, name: str, offset: int, buffers: Sequence[memoryview], base: V) -> int:
        """Fill buffers with bytes of the base; return their number. ESTALE, ENOENT, ERANGE: it no longer exists."""

    async def _check_read(self, pieces: Sequence[Piece], done: int, name: str, base: V | None) -> None:
        """Check that the bytes read are of the base, if `_get` does not; ESTALE: another version is stored."""

    @abstractmethod
    async def _publish(self) -> V:
        """Publish the next version, and return it. `Draft.publish` precedes the publishing request."""

    async def _stored(self) -> V | None:
        return await self._store.head(self.name)

    @abstractmethod
    async def _mark_of(self, stored: V) -> Hashable:
        """Return the mark of a stored version."""

    # ---------------------------------------------------------------- reading

    async def stat(self) -> ObjectStat:
        with self.draft.lock:
            base, version, size = self.draft.base, self.draft.version(), self.draft.extents.size
        stored = ObjectStat(size=0) if base is None else self._store.status(base)
        links = 0 if self.detached else stored.nlink
        return replace(stored, key=self.key, size=size, version=version, nlink=links)

    async def read_into(self, offset: int, buffers: Sequence[memoryview]) -> int:
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
                            moved = await self._read(piece, parts, name, base)
                        done += moved
                        if moved < piece.end - piece.begin:
                            break
                    await self._check_read(pieces, done, name, base)
                except OSError as error:
                    if error.errno not in (errno.ESTALE, errno.ENOENT, errno.ERANGE):
                        raise
                    while (publishing := self.draft.publishing) is not None:  # the version found may be its
                        await self._store.wait(publishing)
                    seen, (landed, mark) = landed, await self._landed()
                    if landed in (None, seen) and turns == draft.turns:
                        what = f"{error.strerror or error}; the opened version no longer exists"
                        raise OSError(errno.ESTALE, what, self.key) from error
                    continue
                if turns == draft.turns:
                    return done

    async def _read(self, piece: Piece, buffers: Sequence[memoryview], name: str, base: V | None) -> int:
        if piece.source is OLD and base is not None:
            return await self._get(name, piece.at, buffers, base)
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

    async def truncate(self, size: int) -> None:
        self.draft.cut(size)

    async def punch_hole(self, offset: int, length: int) -> None:
        self.draft.punch(offset, offset + length)

    async def rollback(self) -> None:
        """Forget all write-back since the last commit, which may be one whose answer was lost."""
        with self._store.about(self.key):
            landed, _ = await self._landed()
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

    async def recognises(self, unanswered: object) -> bool:
        """Return whether the opened version is a commit of the earlier file with this draft, or what a rename has made
        of its version. From now on this file recognises its other commits like its own.
        """
        draft, base = self.draft, self.draft.base
        if type(unanswered) is not type(draft):
            return False
        made = draft.inherit(unanswered)
        with self._store.about(self.key):
            if base is None or not (
                (made is not None and self._store.same(base, made)) or await self._mark_of(base) in draft.attempts
            ):
                return False
        draft.take(base)
        return True

    async def close(self) -> None:
        self._names.leave(self)

    # ---------------------------------------------------------------- commit

    async def commit(self) -> str | None:
        with self._store.about(self.key):
            if self.draft.changed:
                await self._names.settle(self.name)
            if self.draft.changed and not self.detached:
                try:
                    await self._commit()
                finally:
                    self.draft.answered()
        return self.draft.version()

    async def _commit(self) -> None:
        if self.draft.attempts:
            await self._settle_attempts()
        if self.draft.changed:
            self.draft.published(await self._publish())
        self._spool = None

    async def _look(self) -> tuple[V | None, Hashable]:
        """Return the stored version, and its mark."""
        stored = await self._stored()
        return stored, None if stored is None else await self._mark_of(stored)

    async def _landed(self) -> tuple[V | None, Hashable]:
        """Return the stored version and its mark, if it is a commit of this file with unknown result."""
        if self.draft.attempts:
            stored, mark = await self._look()
            if mark in self.draft.attempts:
                return stored, mark
        return None, None

    async def _settle_attempts(self) -> None:
        """Find out the result of the commits whose answer was lost; ESTALE: a version of another client is stored."""
        stored, mark = await self._look()
        if stored is not None and mark in self.draft.attempts:
            self.draft.land(mark, stored)
        elif not self.draft.replaces(stored):
            raise self._conflict(stored)

    async def _check_over(self) -> None:
        """Compare the stored version with the one that the commit replaces; ESTALE: it is another one."""
        stored = await self._stored()
        if not self.draft.replaces(stored):
            raise self._conflict(stored)

    def _conflict(self, stored: V | None) -> OSError:
        found = "no object" if stored is None else f"version {stored.version}"
        over = self.draft.over
        ours = "none" if over is None else f"version {over.version}"
        return OSError(errno.ESTALE, f"{found} is stored where {ours} was opened", self.key)


def blocking(method: Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]) -> Callable[Concatenate[Any, P], T]:
    """Return a method that carries out the method of this name of `self.inner`, which never suspends."""

    def carry_out(self: Any, /, *args: P.args, **options: P.kwargs) -> T:
        work: Coroutine[Any, Any, T] = getattr(self.inner, method.__name__)(*args, **options)
        return run(work)

    functools.update_wrapper(carry_out, method, updated=())  # else it may be abstract, too
    return carry_out


class BlockingFile(BackendFile):
    """An object of a blocking store: its calls are carried out on the calling thread."""

    def __init__(self, inner: ObjectFile[Any]) -> None:
        self.inner = inner

    @property
    def seen(self) -> object:
        return self.inner.seen

    @property
    def unanswered(self) -> object:
        return self.inner.unanswered

    stat = blocking(ObjectFile.stat)
    read_into = blocking(ObjectFile.read_into)
    write_from = blocking(ObjectFile.write_from)
    truncate = blocking(ObjectFile.truncate)
    punch_hole = blocking(ObjectFile.punch_hole)
    commit = blocking(ObjectFile.commit)
    rollback = blocking(ObjectFile.rollback)
    recognises = blocking(ObjectFile.recognises)
    close = blocking(ObjectFile.close)
