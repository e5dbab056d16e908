"""An open file that the loop in C reads and writes directly: C keeps the marks that both sides write."""

from __future__ import annotations

from ..file.cached import CachedFile
from ..native.loop import NativeOpened
from .files import OpenFile


class LoopFile(NativeOpened, OpenFile):
    """One open of a file by a program, registered with a loop from `begin` to `close`."""

    def __init__(self, file: CachedFile, number: int, *, writable: bool) -> None:
        NativeOpened.__init__(self, number)
        OpenFile.__init__(self, file, number, writable=writable)

    def close(self) -> None:
        self.end()
        super().close()
