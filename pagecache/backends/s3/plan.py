"""The assembly of the next version of an object: a pure function of the sources of its bytes (`..objects.extents`).

    offset    0          8 MiB      16 MiB     24 MiB       25 MiB
    extents   | old                 | part     | old | held |          size = 25 MiB
    steps     | copy 1              | sent 3   | send 4     |

    Old, Staged    copied by the server
    Zeros          copied from one private object of zeros
    Part           used, if it is still whole
    Held           sent
    Lost           an error

All but the last part of an upload have at least 5 MiB, and there are at most 10 000. So parts lie on a grid of units
of `part` bytes: a unit whose bytes are all in one place on the server is copied, together with its neighbours there;
a mixed unit is assembled here and sent. A unit's part has its index as its number, from 1, up to `direct` units. Units
after these are not sent before the commit, so their numbers are assigned in order; if the numbers do not suffice,
neighbours are joined to private objects first, which takes requests and no bytes.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from ..objects.extents import LOST, ZEROS, Extents, Old, Part, Piece, Staged, Zeros

__all__ = ["Copy", "Join", "Send", "Sent", "Sizes", "Step", "assembly"]

MiB, GiB = 1 << 20, 1 << 30


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
