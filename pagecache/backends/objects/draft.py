"""The versions of one open object, while its next one is being made.

    base          the version that reads see below later bytes: the opened one, or that of the last commit; None: there
                  is no object yet
    over          the version that the next commit replaces. That is the base, but for an object that was never stored
                  and renamed: it is the object of its new name, of which nothing is read
    turns         number of changes of these and of truncates: a read that overlapped one is repeated
    publishing    a new version may be stored that is not recorded yet
    rolled_back   nothing was written since a rollback

A rename copies a version, and the copy may have another name for it (an ETag, a time). The draft goes on with that of
the copy, if the copied version is the one that it had; otherwise another client has stored it, and the draft keeps its
own: its commit and its reads are refused, and nothing is mixed.
"""

from __future__ import annotations

import threading
from typing import Generic

from .store import Store, V

__all__ = ["Draft"]


class Draft(Generic[V]):
    """The versions of one open object. `lock` guards all fields, and is held briefly."""

    def __init__(self, store: Store[V], base: V | None) -> None:
        self.lock = threading.Condition()
        self._store = store
        self.base = self.over = base
        self.turns = 0
        self.publishing = False
        self.rolled_back = False

    def begin(self, base: V | None) -> None:
        """Set the stored version: later bytes lie over it, and the next commit replaces it."""
        with self.lock:
            self.base = self.over = base
            self.turns += 1

    def go_back(self, base: V | None) -> None:
        """Go back to a version, at a rollback: the base, or a commit whose answer was lost."""
        with self.lock:
            if base is not self.base:
                self.base = self.over = base
            self.turns += 1
            self.rolled_back = True

    def version(self) -> str | None:
        """Return the version that the next commit replaces: another one is a change by another client."""
        with self.lock:
            return None if self.over is None else self.over.version

    def is_created(self) -> bool:
        """Return whether the object was created, and no commit of it is known to have succeeded; False after a
        rollback.
        """
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
