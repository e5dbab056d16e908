"""Dirty bytes of a volume that saves in the disk tier leave memory when that is short, also while the store hangs.

    writer without room ──► spool of its file, or of another one      up to 8 MiB, then it looks for room again
    commit              ──► the store                                 from the spool (staging.py)

So such a volume may have unsaved bytes up to `journal_limit`, and its writers wait for the store beyond that. Its
background passes send nothing: what a commit will send is in memory or in the spool by then.

Only objects that a commit publishes as a whole can spill: of others each acknowledged byte counts as saved. A mirror
would get nothing of it.
"""

from __future__ import annotations

import logging
import threading
from functools import partial
from typing import TYPE_CHECKING
from weakref import WeakSet

from ...native import LOCK, uninterrupted
from ..report.notices import cause

if TYPE_CHECKING:
    from ...disk.tier import Tier
    from ..file import EngineFile
    from ..volume import EngineVolume

PIECE = 256 << 10
"""Bytes that leave memory at a time, which are copied once."""
TURN = 8 << 20
"""Bytes of one turn of a writer, if there are as many."""
OTHERS = 16
"""Files of one turn in which a writer finds nothing to spill of its own."""
LEAST, SHARE = 1 << 20, 16
"""Dirty bytes for which a file of another writer gets a spool, or one part in so many of the dirty limit."""
SPOOLS_MAX = 128
"""Files with a spool: each has a descriptor."""


class Spills:
    """The spilled bytes of a volume.

    Lock: `_lock` guards the set of files: several writers may lack room.
    """

    def __init__(self, volume: EngineVolume, tier: Tier) -> None:
        self._volume, self._tier = volume, tier
        self._lock = threading.Lock()
        self._files: WeakSet[EngineFile] = WeakSet()

    def room(self) -> int:
        """Return how many bytes may leave memory without the store."""
        volume = self._volume
        if volume.spool is None or volume.mirror is not None or not volume.backend.limits.commit_on_close:
            return 0
        return self._tier.spool_room()

    def gives_way(self, error: OSError) -> bool:
        """Return whether clean data has made room for a spool on a full disk."""
        return self._volume.spool == self._tier.described.path and self._tier.gives_way(error)

    def may_leave(self, error: OSError) -> bool:
        """Return whether a spool that the disk of the tier does not take may be elsewhere, and say so."""
        if self._volume.spool != self._tier.described.path:
            return False
        what = f"the disk tier does not take it: {cause(error)}"
        self._volume.say(logging.WARNING, "the spool", what, "it goes to the directory of temporary files")
        return True

    def make_room(self, file: EngineFile, *, locked: bool) -> int:
        """Spill dirty bytes of a file, or of others; return how many. `locked`: the caller has the inode lock of it."""
        most = min(TURN, self.room())
        if most <= 0:
            return 0
        moved = self._of(file, most, locked=locked)
        if not moved:
            least = min(LEAST, self._volume.native.pressure().limit // SHARE)
            for other in self._volume.some_aged(OTHERS):
                if other is not file and (other in self._files or other.number("dirty") >= least):
                    moved += self._of(other, most - moved, locked=False)
        return moved

    def _of(self, file: EngineFile, most: int, *, locked: bool) -> int:
        done: list[int] = []
        if locked:  # a signal handler would not count as inside an operation, and could wait for this thread
            done.append(uninterrupted(partial(self._spill, file, min(most, PIECE))))
        else:
            file.run_if_free(LOCK, "holding", lambda: done.append(self._spill(file, most)))
        return sum(done)

    def _spill(self, file: EngineFile, most: int) -> int:
        """The inode lock is held."""
        if file.freed or file.removed or file.is_given_up() or file.conflict is not None:
            return 0
        if file.direct_ranges() or file.direct_count():
            return 0
        at = moved = 0
        try:
            while moved < most and (
                found := file.spillable_from(at, min(PIECE, most - moved), sending=file.staging.sends())
            ):
                if file not in self._files and not self._may_open(file):
                    break
                moved += file.staged().spill(found)
                self._tier.others_grow()
                at = found[-1][1]
        except OSError as error:
            what = f"nothing leaves memory for the spool: {cause(error)}"
            self._volume.say(logging.WARNING, "the spool", what, "writers wait for the store")
        return moved

    def _may_open(self, file: EngineFile) -> bool:
        """Return whether another file may have a spool."""
        with self._lock:
            if len(self._files) >= SPOOLS_MAX:
                for other in [other for other in self._files if not other.staged_bytes()]:
                    self._files.discard(other)
            if len(self._files) >= SPOOLS_MAX:
                return False
            self._files.add(file)
            return True
