"""The assembly of the next version of an object: a pure function of the sources of its bytes.

`Extents` has the source of each byte of the next version, `assembly` makes the requests of its commit:

    offset    0          8 MiB      16 MiB     24 MiB       25 MiB
    extents   | old                 | part     | old | held |          size = 25 MiB
    steps     | copy 1              | sent 3   | send 4     |

    Old       the version that was opened, at an equal offset             copied by the server
    Staged    a private object, complete and readable                     copied by the server
    Zeros     nothing was ever written there                              one private object of zeros, copied
    Part      sent already, to the open upload; cannot be read            used, if it is still whole
    Held      in memory, at most a unit                                   sent
    Lost      acknowledged, and no longer available                       the cache must send it again

All but the last part of an upload have at least 5 MiB, and there are at most 10 000. So parts lie on a grid of units
of `part` bytes: a unit whose bytes are all in one place on the server is copied, together with its neighbours there;
a mixed unit is assembled here and sent. A unit's part has its index as its number, from 1, up to `direct` units. Units
after these are not sent before the commit, so their numbers are assigned in order; if the numbers do not suffice,
neighbours are joined to private objects first, which takes requests and no bytes.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from sortedcontainers import SortedDict

from ..spool import END, Ranges

__all__ = [
    "LOST",
    "OLD",
    "ZEROS",
    "Copy",
    "Extents",
    "Held",
    "Join",
    "Lost",
    "Old",
    "Part",
    "Piece",
    "Send",
    "Sent",
    "Sizes",
    "Source",
    "Staged",
    "Step",
    "Zeros",
    "assembly",
]

MiB, GiB = 1 << 20, 1 << 30


@dataclass(frozen=True, slots=True)
class Old:
    """The version that was opened."""


@dataclass(frozen=True, slots=True)
class Zeros:
    """Bytes that were never written."""


@dataclass(frozen=True, slots=True)
class Lost:
    """Acknowledged bytes that only the cache still has."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of an upload, which can neither be read nor cut."""

    upload: str
    number: int
    etag: str


@dataclass(frozen=True, slots=True)
class Staged:
    """A private object."""

    name: str


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """Memory of the backend."""

    data: bytes = field(repr=False)


Source: TypeAlias = Old | Zeros | Lost | Part | Staged | Held
OLD, ZEROS, LOST = Old(), Zeros(), Lost()


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

    def put(self, begin: int, end: int, source: Source, at: int = 0) -> list[Source]:
        """Set the source of [begin, end), from `at` on; a gap before it is zeros. Return the replaced sources."""
        if begin >= end:
            return []
        if begin > self.size:
            self._join(self.size, begin, ZEROS, 0)
        replaced = self._clear(begin, end)
        self._join(begin, end, source, at)
        self.size = max(self.size, end)
        return replaced

    def cut(self, size: int) -> list[Source]:
        """Set the size: extend by zeros, or cut. Return the dropped sources."""
        replaced = self._clear(size, self.size) if size < self.size else []
        if size > self.size:
            self._join(self.size, size, ZEROS, 0)
        self._gone.add(min(self.size, size), END)
        self.size = size
        return replaced

    def punch(self, begin: int, end: int) -> None:
        """Zero [begin, end), as far as bytes exist. Bytes of a cut part outside of it are lost."""
        end = min(end, self.size)
        if begin < end:
            self.put(begin, end, ZEROS)
            self._gone.add(begin, end)

    def older(self, piece: Piece) -> list[Piece]:
        """Return the readable pieces of a piece: for parts and lost bytes, the earlier bytes."""
        if not isinstance(piece.source, Part | Lost):
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

    def lose(self, upload: str | None = None) -> None:
        """Record that the parts of this upload, or of all, are lost."""
        for begin, piece in self._pieces.items():
            if isinstance(piece.source, Part) and upload in (None, piece.source.upload):
                self._pieces[begin] = replace(piece, source=LOST, at=0)

    def sources(self) -> set[Source]:
        return {piece.source for piece in self._pieces.values()}

    def is_old(self) -> bool:
        """Return whether nothing was written, and no zeros were added."""
        return all(piece.source == OLD for piece in self._pieces.values())

    def _clear(self, begin: int, end: int) -> list[Source]:
        touched = self._touched(begin, end)
        for piece in touched:
            del self._pieces[piece.begin]
            for low, high in ((piece.begin, min(begin, piece.end)), (max(end, piece.begin), piece.end)):
                if low < high:
                    self._pieces[low] = piece.within(low, high)
        return [piece.source for piece in touched]

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
        if isinstance(source, Zeros | Lost):
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
    if isinstance(source, Part | Held) or piece.source != source:
        return False
    return isinstance(source, Zeros | Lost) or piece.at + piece.end - piece.begin == at


# ---------------------------------------------------------------- steps


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """The limits of uploads, in bytes and parts.

    Attributes:
        part: size of a unit, and so of a sent part.
        copied: most bytes that one request copies, if there are enough numbers; requests for more take long.
        part_most: most bytes of a part.
        parts: most parts of an upload.
        direct: units from the start of the object that are sent as they come.
        zeros: number of zero units from which on an object of zeros is made and copied.
        copies: whether the server copies parts at all.
    """

    part: int = 8 * MiB
    copied: int = GiB
    part_most: int = 5 * GiB
    parts: int = 10_000
    direct: int = 6_000
    zeros: int = 2
    copies: bool = True


@dataclass(frozen=True, slots=True)
class Sent:
    """A part that the server has already."""

    number: int
    begin: int
    end: int
    etag: str


@dataclass(frozen=True, slots=True)
class Copy:
    """A part that the server copies from [at, at + end - begin) of one object."""

    number: int
    begin: int
    end: int
    source: Old | Staged | Zeros
    at: int


@dataclass(frozen=True, slots=True)
class Send:
    """A part that is assembled here."""

    number: int
    begin: int
    end: int
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, slots=True)
class Join:
    """A part that the server copies from a private object, which it assembles from these first."""

    number: int
    begin: int
    end: int
    steps: tuple[Copy | Send, ...]


Step: TypeAlias = Sent | Copy | Send | Join


def assembly(extents: Extents, sizes: Sizes) -> list[Step]:
    """Return the parts of an upload of the next version, ascending in number and offset. An empty object has none.

    Raises:
        OSError: EFBIG: it needs more parts than permitted.
        ValueError: a byte of it is lost.
    """
    copied = min(_whole(sizes.copied, sizes.part), _whole(sizes.part_most, sizes.part))
    while True:
        near, far = _numbered(list(_steps(extents, sizes, copied)), sizes)
        if len(far) <= sizes.parts - sizes.direct or copied == _whole(sizes.part_most, sizes.part):
            break
        copied = min(copied * 2, _whole(sizes.part_most, sizes.part))
    return near + _joined(far, sizes)


def _whole(length: int, unit: int) -> int:
    return length - length % unit


def _steps(extents: Extents, sizes: Sizes, copied: int) -> Iterator[Copy | Send | Sent]:
    """Yield the steps without numbers."""
    unit, size, pos = sizes.part, extents.size, 0
    pieces = list(extents)
    index = 0
    spans = (_whole(p.end, unit) - _whole(p.begin + unit - 1, unit) for p in pieces if p.source == ZEROS)
    zeros = sum(max(0, span) for span in spans) // unit
    while pos < size:
        while pieces[index].end <= pos:
            index += 1
        piece = pieces[index]
        stop = piece.end if piece.end == size else _whole(piece.end, unit)
        unit_end = min(pos + unit, size)
        if isinstance(piece.source, Part) and (piece.begin, piece.end) == (pos, unit_end):
            yield Sent(0, pos, unit_end, piece.source.etag)
            pos = unit_end
        elif sizes.copies and isinstance(piece.source, Old | Staged) and stop > pos:
            end = min(stop, pos + copied)
            yield Copy(0, pos, end, piece.source, piece.at + pos - piece.begin)
            pos = end
        elif sizes.copies and piece.source == ZEROS and stop > pos and zeros >= sizes.zeros:
            yield Copy(0, pos, unit_end, ZEROS, 0)
            pos = unit_end
        else:
            yield Send(0, pos, unit_end, tuple(_mixed(pieces, index, pos, unit_end)))
            pos = unit_end


def _mixed(pieces: Sequence[Piece], index: int, begin: int, end: int) -> Iterator[Piece]:
    while index < len(pieces) and pieces[index].begin < end:
        piece = pieces[index].within(begin, end)
        if piece.source == LOST:
            raise ValueError(f"[{piece.begin}, {piece.end}) is lost: it has to be sent again before")
        yield piece
        index += 1


def _numbered(steps: list[Copy | Send | Sent], sizes: Sizes) -> tuple[list[Step], list[Copy | Send]]:
    """Return the steps that begin in a unit with a fixed number, with that number; and the other steps."""
    near: list[Step] = []
    far: list[Copy | Send] = []
    for step in steps:
        index = step.begin // sizes.part
        if index < sizes.direct:
            near.append(replace(step, number=index + 1))
        elif isinstance(step, Sent):
            raise ValueError(f"a part at {step.begin} was sent, behind the {sizes.direct} units that have numbers")
        else:
            far.append(step)
    return near, far


def _joined(far: list[Copy | Send], sizes: Sizes) -> list[Step]:
    """Assign the remaining numbers to steps, joining as few neighbours as possible."""
    numbers, most = sizes.parts - sizes.direct, _whole(sizes.part_most, sizes.part)
    each = 1
    while True:
        groups: list[list[Copy | Send]] = []
        for step in far:
            full = not groups or len(groups[-1]) >= each or step.end - groups[-1][0].begin > most
            if full:
                groups.append([])
            groups[-1].append(step)
        if len(groups) <= numbers:
            break
        if not sizes.copies or each >= min(len(far), sizes.parts):
            what = f"{far[-1].end} bytes need more than {sizes.parts} parts of at most {sizes.part_most} bytes"
            raise OSError(errno.EFBIG, what)
        each = min(each * 2, sizes.parts)
    made: list[Step] = []
    for number, group in enumerate(groups, sizes.direct + 1):
        if len(group) == 1:
            made.append(replace(group[0], number=number))
            continue
        steps = tuple(replace(step, number=n) for n, step in enumerate(group, 1))
        made.append(Join(number, group[0].begin, group[-1].end, steps))
    return made
