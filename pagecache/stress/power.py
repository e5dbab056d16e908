"""A power cut: the journal of a disk tier loses what its device has not confirmed, at the same moment as the store."""

from __future__ import annotations

import contextlib
import errno
import random

from pagecache.stress.forgetting import ForgettingBackend
from pagecache.testing.disk import PowerCut, SimulatedDisk

FAILS = {"pwritev": errno.EIO, "fdatasync": errno.EIO, "fallocate": errno.ENOSPC}
FAILS_OFTEN = 0.05


class Power:
    """The power of a machine that has the tier.

    Args:
        rng: decides what the disk keeps.

    Attributes:
        disk: the simulated disk below the journal.
        store: loses its power, too.
        is_off: no call of either is carried out any longer.
    """

    store: ForgettingBackend

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.disk = SimulatedDisk(fault=self._call)
        self.is_off = False
        self._left = 0  # calls of the disk before the cut; not above 0: none is chosen
        self._fails = 0.0
        self._count = 0  # calls that the disk carried out before the cut

    def arm(self, calls: int, *, fails: bool = False) -> None:
        """Cut the power at a later call of the disk; 0: at none. `fails`: calls of the disk may fail before that."""
        self._left, self._fails = calls, FAILS_OFTEN if fails else 0.0

    def calm(self) -> None:
        """Let no call fail."""
        self._left, self._fails = 0, 0.0

    def _call(self, name: str, _number: int) -> int:
        """Return the errno of a call of the disk, whose lock is held; 0: it is carried out."""
        if self.is_off:
            return errno.EIO
        self._left -= 1
        if self._left:
            return FAILS.get(name, 0) if self._rng.random() < self._fails else 0
        self.store.cut()
        self.is_off, self._count = True, len(self.disk.calls)
        return errno.EIO

    def cut(self) -> None:
        """Cut the power now, if that has not happened."""
        self._left = 1
        with contextlib.suppress(OSError):
            self.disk.listdir("")

    def restore(self) -> None:
        """Go on with a disk as the cut may have left it."""
        cut, rng = PowerCut(), self._rng
        for call in self.disk.calls[: self._count]:
            cut.after(call)
        kept = rng.choice((0.0, 1.0, *(rng.random() for _ in range(3))))
        newest = rng.random() < 0.5
        self.disk = cut.disk(lambda n: 0 if rng.random() >= kept else n - 1 if newest else rng.randrange(1, n))
        self.disk.fault = self._call
        self.calm()
        self.is_off = False
