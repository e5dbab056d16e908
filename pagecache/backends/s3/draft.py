"""The draft of `..objects` for an object in a bucket, with its upload. The mark of an attempt is the id in the object's
metadata.
"""

from __future__ import annotations

from collections.abc import Hashable

from ..objects import draft
from ..objects.extents import Part
from ..objects.store import Store
from .calls import Stored, Upload

__all__ = ["Draft"]


class Draft(draft.Draft[Stored]):
    """The draft of one file. `upload`: the upload to the object's own key, if one is open."""

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

    # ---------------------------------------------------------------- uploads

    def begun(self, upload: Upload) -> None:
        with self.lock:
            self.upload = upload

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
            for extents in self._maps():
                extents.lose(upload.upload)
            return True

    def is_old(self, id: str) -> bool:
        """Return whether nothing lies over the version that this attempt would make."""
        with self.lock:
            return id not in self.attempts or self.attempts[id].is_old()
