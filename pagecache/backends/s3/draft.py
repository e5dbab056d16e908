"""The draft of `..objects` for an object in a bucket, with its upload and private objects.

    upload      the upload to the object's own key, if one is open
    private     private objects of this file: staged bytes, and the note of the upload

The mark of an attempt is the id in the object's metadata.
"""

from __future__ import annotations

from collections.abc import Hashable

from ..objects import draft
from ..objects.extents import Held, Part, Staged
from ..objects.store import Store
from .calls import Stored, Upload

__all__ = ["Draft"]

TIDY_AFTER = 64
"""Number of unused private objects before they are deleted."""


class Draft(draft.Draft[Stored]):
    """The draft of one file."""

    def __init__(self, store: Store[Stored], base: Stored | None) -> None:
        super().__init__(store, base)
        self.upload: Upload | None = None
        self.private: set[str] = set()
        self._tidied = 0  # number of private objects at the last clean-up

    # ---------------------------------------------------------------- the stored object

    def land(self, mark: Hashable, stored: Stored) -> None:
        """Record that the stored version is an attempt, and its upload with it."""
        with self.lock:
            if self.upload is not None and self.upload.id == mark:
                self.upload = None
            super().land(mark, stored)

    # ---------------------------------------------------------------- written-back bytes

    def put_part(self, begin: int, end: int, part: Part, upload: Upload) -> bool:
        """Record a part of an upload. False: that was abandoned."""
        with self.lock:
            if upload is not self.upload:
                return False
            self.put(begin, end, part)
            return True

    def put_staged(self, begin: int, end: int, name: str) -> None:
        with self.lock:
            self.private.add(name)
            self.put(begin, end, Staged(name))

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
