"""The assembly of the next version of an object: a pure function of the sources of its bytes (`..objects.extents`).

    offset    0          8 MiB      16 MiB     24 MiB       25 MiB
    extents   | old                 | part     | old | spool |         size = 25 MiB
    steps     | copy 1              | sent 3   | send 4      |

    Old       copied by the server
    Part      used, if it is still whole
    others    sent
    Lost      an error

All but the last part of an upload have at least 5 MiB, and there are at most 10 000. So parts lie on a grid of units
of `part` bytes: a unit of the old version is copied, together with its neighbours there; any other one is assembled
here and sent. A unit's part has its index as its number, from 1, up to `direct` units. Units after these are not sent
before the commit, so their numbers are assigned in order, and the old ones among them are copied in larger parts.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from ..objects.extents import LOST, OLD, Extents, Part, Piece

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
        copies: whether the server copies parts at all.
    """

    part: int = 8 * MiB
    copied: int = GiB
    part_most: int = 5 * GiB
    parts: int = 10_000
    direct: int = 6_000
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
    """A part that the server copies from the same place of the opened version."""

    number: int
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Send:
    """A part that is assembled here."""

    number: int
    begin: int
    end: int
    pieces: tuple[Piece, ...]


Step: TypeAlias = Sent | Copy | Send


def assembly(extents: Extents, sizes: Sizes) -> list[Step]:
    """Return the parts of an upload of the next version, ascending in number and offset. An empty object has none.

    Raises:
        OSError: EFBIG: it needs more parts than permitted; names `part_size`, and a value that suffices.
        ValueError: a byte of it is lost.
    """
    copied, most = (_whole(length, sizes.part) for length in (min(sizes.copied, sizes.part_most), sizes.part_most))
    while True:
        steps = list(_steps(extents, sizes, copied))
        near = [replace(step, number=n + 1) for step in steps if (n := step.begin // sizes.part) < sizes.direct]
        far = steps[len(near) :]
        if len(far) <= sizes.parts - sizes.direct:
            return near + [replace(step, number=number) for number, step in enumerate(far, sizes.direct + 1)]
        if copied == most:
            least = -(-extents.size // sizes.parts)
            enough = f"{-(-least // MiB)}MiB"
            what = f"{extents.size} bytes need more than {sizes.parts} parts with part_size={sizes.part}"
            raise OSError(errno.EFBIG, f"{what}; part_size={enough!r} suffices")
        copied = min(copied * 2, most)


def _whole(length: int, unit: int) -> int:
    return length - length % unit


def _steps(extents: Extents, sizes: Sizes, copied: int) -> Iterator[Step]:
    """Yield the steps without numbers."""
    unit, size, pos = sizes.part, extents.size, 0
    pieces = list(extents)
    index = 0
    while pos < size:
        while pieces[index].end <= pos:
            index += 1
        piece = pieces[index]
        stop = piece.end if piece.end == size else _whole(piece.end, unit)
        end = min(pos + unit, size)
        if isinstance(piece.source, Part) and (piece.begin, piece.end) == (pos, end):
            yield Sent(0, pos, end, piece.source.etag)
        elif sizes.copies and piece.source is OLD and stop > pos:
            end = min(stop, pos + copied)
            yield Copy(0, pos, end)
        else:
            yield Send(0, pos, end, tuple(_mixed(pieces, index, pos, end)))
        pos = end


def _mixed(pieces: Sequence[Piece], index: int, begin: int, end: int) -> Iterator[Piece]:
    while index < len(pieces) and pieces[index].begin < end:
        piece = pieces[index].within(begin, end)
        if piece.source == LOST:
            raise ValueError(f"[{piece.begin}, {piece.end}) is lost: it has to be sent again before")
        yield piece
        index += 1
