"""The state of the next version of an object while it is being made, without a single request.

    base          the version that reads see below later bytes: the opened one, or that of the last commit; None: there
                  is no object yet
    over          the version that the next commit replaces. That is the base, but for an object that was never stored
                  and renamed: it is the object of its new name, of which nothing is read
    extents       source of each byte of the next version (`extents.py`)
    attempts      commits with unknown result: their mark -> the size of that version, and the changes of this file that
                  lie over it if it was carried out
    turns         number of changes of the version, of commits with unknown result, and of truncates and holes: a read
                  that overlapped one is repeated
    publishing    a new version may be stored that is not recorded yet: the end of that
    sending       what returns the mark of that version
    committed     the base was made by this file
    rolled_back   nothing was changed since a rollback

A mark identifies one image of the object among the commits of this file: an id in the metadata of the object, or the
size and checksum of its bytes.

A rename copies a version, and the copy may have another name for it (an ETag, a time). The draft goes on with that of
the copy, if the copied version is the one that it had; otherwise another client has stored it, and the draft keeps its
own: its commit and its reads are refused, and nothing is mixed.

Every change is one method, which keeps all of these consistent. Any thread may call them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Generic

from .extents import OLD, Extents, Source
from .store import Store, V


@dataclass(frozen=True, slots=True)
class Attempt:
    """A commit with unknown result: the size that it stores, and later changes over that version."""

    size: int
    over: Extents

    def is_old(self) -> bool:
        """Return whether nothing was changed since."""
        return self.over.is_old() and self.over.size == self.size


class Draft(Generic[V]):
    """The draft of one file. `lock` guards all fields, and is held briefly; a caller that reads several takes it."""

    def __init__(self, store: Store[V], base: V | None) -> None:
        self.lock = threading.RLock()
        self._store = store
        self.base = self.over = base
        self.turns = 0
        self.publishing: Future[None] | None = None
        self.sending: Callable[[], Hashable] | None = None
        self.rolled_back = False
        self.attempts: dict[Hashable, Attempt] = {}
        self._start(None)

    def _start(self, changes: Extents | None) -> None:
        """Begin with these changes over the base, and no others."""
        self.extents = changes or Extents(0 if self.base is None else self.base.size)
        self.changed = self.base is None or changes is not None
        self.committed = False
        self.attempts.clear()

    def _maps(self) -> tuple[Extents, ...]:
        return (self.extents, *(attempt.over for attempt in self.attempts.values()))

    # ---------------------------------------------------------------- the stored object

    def version(self) -> str | None:
        """Return the version that the next commit replaces: another one is a change by another client."""
        with self.lock:
            return None if self.over is None else self.over.version

    def is_created(self) -> bool:
        """Return whether no commit of a created object is known to have succeeded; False after a rollback."""
        with self.lock:
            return self.base is None and not self.rolled_back

    def replaces(self, stored: V | None) -> bool:
        """Return whether the next commit may replace the stored version."""
        return self._store.same(stored, self.over)

    def renamed(self, before: V | None, now: V | None) -> None:
        """Record that `before` was copied, and that the copy is `now`. If `before` is None, nothing was copied,
        and `now` is the object of the new name.
        """
        with self.lock:
            self.turns += 1
            if before is None:
                self.over = now
                return
            if self._store.same(self.over, before):
                self.over = now
            if self._store.same(self.base, before):
                self.base = now

    def take(
        self, base: V | None, changes: Extents | None = None, attempts: Mapping[Hashable, Attempt] | None = None
    ) -> None:
        """Set the stored version; `changes`: those over it, None for none; `attempts`: those that may land over it."""
        with self.lock:
            self.base = self.over = base
            self.turns += 1
            self._start(changes)
            self.attempts.update(attempts or {})

    def count_as_made(self) -> None:
        """Record that the base was made by an earlier file with this draft."""
        with self.lock:
            self.committed = True

    def published(self, base: V, changes: Extents | None = None) -> None:
        """Record a successful commit: all other written-back bytes are in it."""
        with self.lock:
            self.take(base, changes)
            self.committed, self.rolled_back = True, False

    def roll_back(self, landed: V | None) -> None:
        """Forget all write-back since the last commit; `landed`: that is one whose reply was lost."""
        with self.lock:
            if landed is not None:
                self.base = self.over = landed
            self.turns += 1
            self.rolled_back = True
            self._start(None)

    def attempted(self, mark: Hashable) -> None:
        """Record a commit with unknown result. From now on changes over that version are recorded, too."""
        with self.lock:
            self.turns += 1  # what a read found beside the commit may be its version
            self.attempts.setdefault(mark, Attempt(self.extents.size, Extents(self.extents.size)))

    def land(self, mark: Hashable, stored: V) -> None:
        """Record that the stored version is the attempt with this mark."""
        with self.lock:
            attempt = self.attempts[mark]
            self.published(stored, None if attempt.is_old() else attempt.over)

    def seen_over(self, landed: V | None, mark: Hashable) -> tuple[V | None, Extents]:
        """Return the version that a read sees, and the changes over it; `landed`: an attempt that is stored."""
        with self.lock:
            if landed is not None and mark in self.attempts:
                return landed, self.attempts[mark].over
            return self.base, self.extents

    def inherit(self, earlier: Draft[V]) -> V | None:
        """Take over the attempts of an earlier file, the running one included. Return the version that its last
        successful commit made, if there was one; without attempts, the version that its next commit would have
        replaced, which a rename may have made.
        """
        sending = earlier.sending  # first: it becomes an attempt, or the base
        sizes = {} if sending is None else {sending(): earlier.extents.size}
        with earlier.lock:
            sizes |= {mark: attempt.size for mark, attempt in earlier.attempts.items()}
            made = earlier.base if earlier.committed else None if sizes else earlier.over
        with self.lock:
            self.attempts |= {mark: Attempt(size, Extents(size)) for mark, size in sizes.items()}
        return made

    def publish(self, mark: Callable[[], Hashable]) -> None:
        """Record that the publishing request is about to be sent: readers that find another version wait for
        `answered`. `mark` returns the mark of the new version.
        """
        self.sending = mark
        if self.publishing is None:
            end: Future[None] = Future()
            end.set_running_or_notify_cancel()  # a waiter that gives up does not cancel it
            self.publishing = end

    def answered(self) -> None:
        """Record that no publishing request is out."""
        end, self.publishing, self.sending = self.publishing, None, None
        if end is not None:
            end.set_result(None)

    # ---------------------------------------------------------------- written-back bytes

    def put(self, begin: int, end: int, source: Source, at: int = 0) -> None:
        """Record bytes in a source."""
        with self.lock:
            self._change()
            for extents in self._maps():
                extents.put(begin, end, source, at)

    def cut(self, size: int) -> None:
        with self.lock:
            self._change()
            self.turns += 1
            for extents in self._maps():
                extents.cut(size)

    def punch(self, begin: int, end: int) -> None:
        with self.lock:
            self._change()
            self.turns += 1
            for extents in self._maps():
                extents.punch(begin, end)

    def fetched(self, source: Source) -> None:
        """Record that the source has all bytes of the base, too."""
        with self.lock:
            for piece in self.extents:
                if piece.source == OLD:
                    self.extents.put(piece.begin, piece.end, source, piece.begin)

    def _change(self) -> None:
        self.changed = True
        self.rolled_back = False
