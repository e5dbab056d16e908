"""An open file that the loop in C reads and writes directly: C keeps the marks that both sides write."""

from __future__ import annotations

from ..file.cached import CachedFile
from ..native.loop import NativeLoop, NativeOpened
from .files import OpenFile

__all__ = ["LoopFile"]


class LoopFile(OpenFile):
    """One open of a file by a program, registered with a loop from `begin` to `close`."""

    __slots__ = ("native",)

    def __init__(self, file: CachedFile, number: int, *, writable: bool) -> None:
        self.native = NativeOpened(number)
        super().__init__(file, number, writable=writable, marks=self.native)

    def begin(self, loop: NativeLoop, node: int) -> None:
        """Register the file with a loop, before the kernel gets its number."""
        self.native.begin(loop, node, self.file)

    def close(self) -> None:
        self.native.end()
        super().close()
