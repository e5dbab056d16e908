"""The next version of an object, while it is being made: what is known of it, without a single request.

    base        the version that was opened, or that the last commit made; None: there is no object yet
    extents     of each byte of the next version, where it is (`plan.py`)
    upload      the upload to the object's own key, if one is open
    private     private objects of this file: staged bytes, and the note of the upload
    attempts    commits of which it is not known whether they were carried out: by the id in the object's metadata, what
                of this file lies over that version if so
    handed      whether it is known what of it was handed over here: a file opened anew knows of nothing
    turns       how often what is stored or what is cut has changed: a read that saw a change is made again

Every change is one method, which leaves all of these in keeping with each other. Any thread may call them. `lock`
guards the fields and is held for moments; who looks at several fields takes it himself. Its waiters wait for the end of
`publishing`.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from ...errors import Key
from .calls import Stored, Upload
from .plan import Extents, Held, Source, Staged

__all__ = ["Draft"]

TIDY_AFTER = 64
"""Private objects that nothing is read from any more, before they are deleted."""


class Draft:
    """Of one file.

    Args:
        base: what is stored.
    """

    def __init__(self, base: Stored | None) -> None:
        self.lock = threading.Condition()
        self.turns = 0
        self.publishing = False
        self.rolled_back = False
        self.upload: Upload | None = None
        self.private: set[str] = set()
        self.attempts: dict[str, Extents] = {}
        self._tidied = 0  # how many private objects there were when that was done last
        self.take(base)

    def _maps(self) -> tuple[Extents, ...]:
        return (self.extents, *self.attempts.values())

    # ---------------------------------------------------------------- what is stored

    def take(self, base: Stored | None, over: Extents | None = None) -> None:
        """This is stored; `over`: what lies over it, None for nothing."""
        with self.lock:
            self.base = base
            self.extents = over or Extents(0 if base is None else base.size)
            self.changed = base is None or over is not None
            self.handed = over is not None
            self.attempts.clear()
            self.turns += 1

    def published(self, base: Stored, over: Extents | None = None) -> None:
        """A commit was carried out: of what was handed over nothing is missing."""
        with self.lock:
            self.take(base, over)
            self.handed = True
            self.rolled_back = False

    def roll_back(self, base: Stored | None) -> None:
        """Nothing that was handed over since the last commit is kept."""
        with self.lock:
            self.take(base)
            self.changed = base is None
            self.rolled_back = True

    def rebase(self, base: Stored | None, kept: Iterable[tuple[int, int]], key: Key) -> None:
        """This is stored, and what is staged in these ranges, [begin, end), lies over it: nothing else is kept.

        Raises:
            FileNotFoundError: not all of it is staged. Nothing has changed.
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
        """It may be carried out yet. From here on it is known what lies over that version, too."""
        with self.lock:
            self.attempts.setdefault(id, Extents(self.extents.size))
            if upload is not None:
                upload.failures += 1

    def land(self, stored: Stored) -> Upload | None:
        """What is stored is an attempt that was not heard of. Returns its upload, if that still counted as open."""
        with self.lock:
            over, upload = self.attempts[stored.id], self.upload
            if upload is not None and upload.id == stored.id:
                self.upload = None
                self.private.discard(upload.note)
            else:
                upload = None
            self.published(stored, None if over.is_old() and over.size == stored.size else over)
            return upload

    @contextmanager
    def publish(self) -> Iterator[None]:
        """A commit runs: who cannot tell what is stored waits for its end."""
        with self.lock:
            self.publishing = True
        try:
            yield
        finally:
            with self.lock:
                self.publishing = False
                self.lock.notify_all()

    # ---------------------------------------------------------------- what is handed over

    def put(self, begin: int, end: int, source: Source, upload: Upload | None = None) -> bool:
        """These bytes are there. False: it is a part of an upload that is not to be used any more."""
        with self.lock:
            if upload is not None and upload is not self.upload:
                return False
            self.changed = self.handed = True
            self.rolled_back = False
            if isinstance(source, Staged):
                self.private.add(source.name)
            for extents in self._maps():
                extents.put(begin, end, source)
        return True

    def cut(self, size: int) -> None:
        with self.lock:
            self.changed = self.handed = True
            self.turns += 1
            for extents in self._maps():
                extents.cut(size)

    def punch(self, begin: int, end: int) -> None:
        with self.lock:
            self.changed = self.handed = True
            self.turns += 1
            for extents in self._maps():
                extents.punch(begin, end)

    def may_hold(self, begin: int, unit: int) -> bool:
        """One unit at most is in memory: the last, which is handed over right before a commit."""
        with self.lock:
            first = begin - begin % unit
            others = [p for p in self.extents.pieces(0, first) if isinstance(p.source, Held)]
            return not others and self.extents.size <= first + unit

    def forget(self) -> bool:
        """What is lost is what was there before. Returns whether anything was lost."""
        with self.lock:
            lost = [extents.forget() for extents in self._maps()]  # all of them
            return any(lost)

    # ---------------------------------------------------------------- uploads and private objects

    def begun(self, upload: Upload) -> None:
        with self.lock:
            self.upload = upload
            self.private.add(upload.note)

    def uploaded(self) -> None:
        """The upload is the object now."""
        with self.lock:
            self.upload = None

    def lose(self, upload: Upload) -> bool:
        """It is not to be used any more: its parts have to be sent again. False: it is not the one that is open."""
        with self.lock:
            if self.upload is not upload:
                return False
            self.upload = None
            self.private.discard(upload.note)
            for extents in self._maps():
                extents.lose(upload.upload)
            return True

    def unused(self, *, now: bool) -> set[str]:
        """Private objects that nothing is read from: they are no longer of this file. `now`: not only now and then."""
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
        """The private objects that bytes of the next version are in."""
        with self.lock:
            return {source.name for source in self.extents.sources() if isinstance(source, Staged)}

    def is_old(self, id: str) -> bool:
        """Whether nothing lies over the version that this attempt would make."""
        with self.lock:
            return id not in self.attempts or self.attempts[id].is_old()

    def leave(self) -> set[str]:
        """The file is closed: its private objects are nobody's."""
        with self.lock:
            left = set(self.private)
            self.private.clear()
            return left
