"""The state of the next version of an object while it is being made, without a single request.

    extents     source of each byte of the next version (`plan.py`)
    upload      the upload to the object's own key, if one is open
    private     private objects of this file: staged bytes, and the note of the upload
    attempts    commits with unknown result: the id in the object's metadata -> the size of that version, and the
                changes of this file that lie over it if it was carried out
    recorded    whether this file's write-back since the last commit is recorded: a file opened anew has no record

The versions are those of `..objects.draft`. Every change is one method, which keeps all of these consistent. Any thread
may call them. `lock` guards the fields and is held briefly; a caller that reads several fields takes it itself. Its
condition waits for the end of `publishing`.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ...errors import Key
from ..objects import draft
from ..objects.store import Store
from .calls import Stored, Upload
from .plan import Extents, Held, Source, Staged

__all__ = ["Draft"]

TIDY_AFTER = 64
"""Number of unused private objects before they are deleted."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """A commit with unknown result: the size that it stores, and later changes over that version."""

    size: int
    over: Extents

    def is_old(self) -> bool:
        """Return whether nothing was changed since."""
        return self.over.is_old() and self.over.size == self.size


class Draft(draft.Draft[Stored]):
    """The draft of one file.

    Args:
        store: compares versions.
        base: the stored version.
    """

    def __init__(self, store: Store[Stored], base: Stored | None) -> None:
        super().__init__(store, base)
        self.upload: Upload | None = None
        self.private: set[str] = set()
        self.attempts: dict[str, Attempt] = {}
        self._tidied = 0  # number of private objects at the last clean-up
        self._start(None)

    def _maps(self) -> tuple[Extents, ...]:
        return (self.extents, *(attempt.over for attempt in self.attempts.values()))

    # ---------------------------------------------------------------- the stored object

    def take(self, base: Stored | None, over: Extents | None = None) -> None:
        """Set the stored version; `over`: the changes over it, None for none."""
        with self.lock:
            self.begin(base)
            self._start(over)

    def _start(self, over: Extents | None) -> None:
        """Begin with these changes over the base, and no others."""
        self.extents = over or Extents(0 if self.base is None else self.base.size)
        self.changed = self.base is None or over is not None
        self.recorded = over is not None
        self.attempts.clear()

    def published(self, base: Stored, over: Extents | None = None) -> None:
        """Record a successful commit: all written-back bytes are in it."""
        with self.lock:
            self.take(base, over)
            self.recorded = True
            self.rolled_back = False

    def roll_back(self, landed: Stored | None) -> None:
        """Forget all write-back since the last commit; `landed`: that is one whose reply was lost."""
        with self.lock:
            self.go_back(landed or self.base)
            self._start(None)

    def rebase(self, base: Stored | None, kept: Iterable[tuple[int, int]], key: Key) -> None:
        """Set the stored version, and keep only the bytes that are staged in these ranges, [begin, end), over it.

        Raises:
            FileNotFoundError: not all of them are staged. Nothing has changed.
        """
        with self.lock:
            over = Extents(0 if base is None else base.size)
            for begin, end in kept:
                pieces = self.extents.pieces(begin, end)
                if not pieces or pieces[-1].end < end or not all(isinstance(p.source, Staged) for p in pieces):
                    raise FileNotFoundError(errno.ENOENT, f"not all of [{begin}, {end}) is staged", key)
                for piece in pieces:
                    over.put(piece.begin, piece.end, piece.source, piece.at)
            self.take(base, over)
            self.rolled_back = False

    def attempted(self, id: str, upload: Upload | None) -> None:
        """Record a commit with unknown result. From now on changes over that version are recorded, too."""
        with self.lock:
            self.attempts.setdefault(id, Attempt(self.extents.size, Extents(self.extents.size)))
            if upload is not None:
                upload.failures += 1

    def land(self, stored: Stored) -> Upload | None:
        """Recognize the stored version as an attempt with unknown result. Return its upload, if that still counted as
        open.
        """
        with self.lock:
            attempt, upload = self.attempts[stored.id], self.upload
            if upload is not None and upload.id == stored.id:
                self.upload = None
                self.private.discard(upload.note)
            else:
                upload = None
            self.published(stored, None if attempt.is_old() else attempt.over)
            return upload

    def seen_over(self, landed: Stored | None) -> tuple[Stored | None, Extents]:
        """Return the version that a read sees, and the changes over it; `landed`: the stored version is an attempt."""
        with self.lock:
            if landed is not None and landed.id in self.attempts:
                return landed, self.attempts[landed.id].over
            return self.base, self.extents

    @contextmanager
    def publish(self) -> Iterator[None]:
        """Context of a running commit: readers without the stored version wait for its end."""
        with self.lock:
            self.publishing = True
        try:
            yield
        finally:
            with self.lock:
                self.publishing = False
                self.lock.notify_all()

    # ---------------------------------------------------------------- written-back bytes

    def put(self, begin: int, end: int, source: Source, upload: Upload | None = None) -> bool:
        """Record bytes in a source. False: the source is a part of an abandoned upload."""
        with self.lock:
            if upload is not None and upload is not self.upload:
                return False
            self.changed = self.recorded = True
            self.rolled_back = False
            if isinstance(source, Staged):
                self.private.add(source.name)
            for extents in self._maps():
                extents.put(begin, end, source)
        return True

    def cut(self, size: int) -> None:
        with self.lock:
            self.changed = self.recorded = True
            self.turns += 1
            for extents in self._maps():
                extents.cut(size)

    def punch(self, begin: int, end: int) -> None:
        with self.lock:
            self.changed = self.recorded = True
            self.turns += 1
            for extents in self._maps():
                extents.punch(begin, end)

    def may_hold(self, begin: int, unit: int) -> bool:
        """Return whether a unit may be held in memory: at most one, the last, which is written back right before a
        commit.
        """
        with self.lock:
            first = begin - begin % unit
            others = [p for p in self.extents.pieces(0, first) if isinstance(p.source, Held)]
            return not others and self.extents.size <= first + unit

    def forget(self) -> bool:
        """Replace lost bytes by earlier ones. Return whether any were lost."""
        with self.lock:
            lost = [extents.forget() for extents in self._maps()]  # all of them
            return any(lost)

    # ---------------------------------------------------------------- uploads and private objects

    def begun(self, upload: Upload) -> None:
        with self.lock:
            self.upload = upload
            self.private.add(upload.note)

    def uploaded(self) -> None:
        """Record that the upload has become the object."""
        with self.lock:
            self.upload = None

    def lose(self, upload: Upload) -> bool:
        """Abandon the upload: its parts must be sent again. False: it is not the open one."""
        with self.lock:
            if self.upload is not upload:
                return False
            self.upload = None
            self.private.discard(upload.note)
            for extents in self._maps():
                extents.lose(upload.upload)
            return True

    def unused(self, *, now: bool) -> set[str]:
        """Return and drop private objects that no byte comes from. `now`: regardless of their number."""
        with self.lock:
            if not now and len(self.private) < self._tidied + TIDY_AFTER:
                return set()
            used = {s.name for extents in self._maps() for s in extents.sources() if isinstance(s, Staged)}
            used |= {self.upload.note} if self.upload else set()
            unused = self.private - used
            self.private &= used
            self._tidied = len(self.private)
            return unused

    def staged(self) -> set[str]:
        """Return the private objects with bytes of the next version."""
        with self.lock:
            return {source.name for source in self.extents.sources() if isinstance(source, Staged)}

    def is_old(self, id: str) -> bool:
        """Return whether nothing lies over the version that this attempt would make."""
        with self.lock:
            return id not in self.attempts or self.attempts[id].is_old()

    def leave(self) -> set[str]:
        """Return all private objects, at the close of the file."""
        with self.lock:
            left = set(self.private)
            self.private.clear()
            return left
