"""The sources of the bytes of an object's next version.

    offset    0          8 MiB      16 MiB     24 MiB       25 MiB
    extents   | old                 | part     | old | spool |         size = 25 MiB

    Old       the version that was opened, at an equal offset
    Zeros     nothing was ever written there
    Spool     a file of this machine, with the bytes at their own offsets
    Part      sent already, to an open upload; cannot be read
    Lost      acknowledged, and no longer available: the cache must send it again

A change concerns the bytes of its range only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, TypeAlias

from sortedcontainers import SortedDict

from ..spool import END, Ranges, Spool


class Plain(Enum):
    """A source without attributes."""

    OLD, ZEROS, LOST = "old", "zeros", "lost"


@dataclass(frozen=True, slots=True)
class Part:
    """A part of an upload, which can neither be read nor cut."""

    upload: str
    number: int
    etag: str


Source: TypeAlias = Plain | Part | Spool
OLD, ZEROS, LOST = Plain


@dataclass(frozen=True, slots=True)
class Piece:
    """A range [begin, end) of the next version, which is in `source` from `at` on."""

    begin: int
    end: int
    source: Source
    at: int

    def within(self, begin: int, end: int) -> Piece:
        """Return the part of the piece in [begin, end)."""
        low, high = max(begin, self.begin), min(end, self.end)
        if (low, high) == (self.begin, self.end):
            return self
        source = LOST if isinstance(self.source, Part) else self.source
        return Piece(low, high, source, self.at + low - self.begin)


class Extents:
    """The sources of the bytes [0, size). Not thread-safe. A change costs O(log n) for each piece that it replaces.

    Args:
        size: bytes, all of them of the opened version.
    """

    def __init__(self, size: int = 0) -> None:
        self._pieces: Any = SortedDict()  # begin: piece; they cover [0, size)
        self._gone = Ranges()  # ranges in which the opened version is gone, whatever becomes of later writes
        self._gone.add(size, END)
        self.size = size
        if size:
            self._pieces[0] = Piece(0, size, OLD, 0)

    def copy(self) -> Extents:
        made = Extents()
        made._pieces, made._gone, made.size = self._pieces.copy(), self._gone.copy(), self.size
        return made

    def __iter__(self) -> Iterator[Piece]:
        return iter(list(self._pieces.values()))

    def pieces(self, begin: int, end: int) -> list[Piece]:
        """Return the pieces of [begin, end), cut at the size; a part that is cut is lost."""
        return [piece.within(begin, end) for piece in self._touched(begin, end)]

    def put(self, begin: int, end: int, source: Source, at: int = 0) -> None:
        """Set the source of [begin, end), from `at` on; a gap before it is zeros."""
        if begin >= end:
            return
        if begin > self.size:
            self._join(self.size, begin, ZEROS, 0)
        self._clear(begin, end)
        self._join(begin, end, source, at)
        self.size = max(self.size, end)

    def cut(self, size: int) -> None:
        """Set the size: extend by zeros, or cut."""
        if size < self.size:
            self._clear(size, self.size)
        elif size > self.size:
            self._join(self.size, size, ZEROS, 0)
        self._gone.add(min(self.size, size), END)
        self.size = size

    def punch(self, begin: int, end: int) -> None:
        """Zero [begin, end), as far as bytes exist. Bytes of a cut part outside of it are lost."""
        end = min(end, self.size)
        if begin < end:
            self.put(begin, end, ZEROS)
            self._gone.add(begin, end)

    def older(self, piece: Piece) -> list[Piece]:
        """Return the readable pieces of a piece: for parts and lost bytes, the earlier bytes."""
        if not (piece.source is LOST or isinstance(piece.source, Part)):
            return [piece]
        spans = self._gone.pieces(piece.begin, piece.end)
        return [Piece(begin, end, ZEROS, 0) if gone else Piece(begin, end, OLD, begin) for begin, end, gone in spans]

    def forget(self) -> bool:
        """Replace lost bytes by the earlier ones. Return whether there were any."""
        lost = [piece for piece in self._pieces.values() if piece.source == LOST]
        for piece in lost:
            for older in self.older(piece):
                self.put(older.begin, older.end, older.source, older.at)
        return bool(lost)

    def lose(self, upload: str) -> None:
        """Record that the parts of this upload are lost."""
        for begin, piece in self._pieces.items():
            if isinstance(piece.source, Part) and piece.source.upload == upload:
                self._pieces[begin] = replace(piece, source=LOST, at=0)

    def is_old(self) -> bool:
        """Return whether nothing was written, and no zeros were added."""
        return all(piece.source == OLD for piece in self._pieces.values())

    def _clear(self, begin: int, end: int) -> None:
        for piece in self._touched(begin, end):
            del self._pieces[piece.begin]
            for low, high in ((piece.begin, min(begin, piece.end)), (max(end, piece.begin), piece.end)):
                if low < high:
                    self._pieces[low] = piece.within(low, high)

    def _touched(self, begin: int, end: int) -> list[Piece]:
        found = []
        for index in range(max(self._pieces.bisect_right(begin) - 1, 0), len(self._pieces)):
            piece = self._pieces.peekitem(index)[1]
            if piece.begin >= end:
                break
            if piece.end > begin:
                found.append(piece)
        return found

    def _join(self, begin: int, end: int, source: Source, at: int) -> None:
        """Add a piece to a free range, merged with a neighbour that continues its source."""
        if source in (ZEROS, LOST):
            at = 0
        before = self._pieces.bisect_left(begin) - 1
        if before >= 0:
            left = self._pieces.peekitem(before)[1]
            if left.end == begin and _goes_on(left, source, at):
                del self._pieces[left.begin]
                begin, at = left.begin, left.at
        right = self._pieces.get(end)
        if right is not None and _goes_on(Piece(begin, end, source, at), right.source, right.at):
            del self._pieces[end]
            end = right.end
        self._pieces[begin] = Piece(begin, end, source, at)


def _goes_on(piece: Piece, source: Source, at: int) -> bool:
    if isinstance(source, Part) or piece.source != source:
        return False
    return source in (ZEROS, LOST) or piece.at + piece.end - piece.begin == at
