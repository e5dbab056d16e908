"""An open file that the loop in C reads and writes directly: C keeps the fields that both sides write.

Each write sets `written_ns` and `wrote`, in C and in Python. `_reported`: a failure was reported; then the next write
is passed to Python, which checks whether the failure has ended since.
"""

from __future__ import annotations

from ..file.cached import CachedFile
from ..native.loop import NativeLoop, NativeOpened
from .files import OpenFile

__all__ = ["LoopFile"]


class LoopFile(OpenFile):
    """One open of a file by a program, registered with a loop from `begin` to `close`."""

    __slots__ = ("_was_reported", "native")

    def __init__(self, file: CachedFile, number: int, *, writable: bool) -> None:
        self.native = NativeOpened(number)
        super().__init__(file, number, writable=writable)

    def begin(self, loop: NativeLoop, node: int) -> None:
        """Register the file with a loop, before the kernel gets its number."""
        self.native.begin(loop, node, self.file)

    def close(self) -> None:
        self.native.end()
        super().close()

    def take_wrote(self) -> bool:
        return self.native.take_wrote()

    def handed_over(self, written_ns: int) -> None:
        self._reported = False
        self.native.handed_over(written_ns)

    @property
    def written_ns(self) -> int:
        return self.native.written_ns

    @written_ns.setter
    def written_ns(self, ns: int) -> None:
        self.native.written_ns = ns

    @property
    def wrote(self) -> bool:
        return self.native.wrote

    @wrote.setter
    def wrote(self, wrote: bool) -> None:
        self.native.wrote = wrote

    @property
    def was_read(self) -> bool:  # type: ignore[override]
        return self.native.was_read

    @property
    def _reported(self) -> bool:
        return self._was_reported

    @_reported.setter
    def _reported(self, told: bool) -> None:
        self._was_reported = told
        self.native.set_told(told)
