"""Local bytes over another version: which bytes of it they replace (contract 2.19).

    local      |      ▒▒▒▒▒▒      ▒▒▒▒▒|▒▒▒       what is laid over it
    stored     |██████████████████████|           the other version, read from the backend
    replaced   |      ▒▒·▒▒▒      ▒··▒▒|          where both have a byte, and the two differ

The version below the local bytes is gone when another one is stored, so nobody can tell whether the other program
changed a byte or kept it. Staged bytes are not read back for the comparison: they count as different.

Lock: the token, held by the caller.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ...backends.protocol import BackendFile
from ...errors import BackendProtocolError, LostRange

if TYPE_CHECKING:
    from ..file import EngineFile

__all__ = ["read", "replaced"]

STEP = 1 << 20
"""Bytes that are compared at once."""
DIFFERENT = re.compile(rb"[^\0]+", re.DOTALL)


def replaced(file: EngineFile, stored: BackendFile, size: int) -> list[LostRange]:
    """Return the bytes of the stored version, of `size` bytes, that local ones replace with others."""
    found: list[tuple[int, int]] = []
    for pos, length in file.native.local_ranges():
        for at in range(pos, min(pos + length, size), STEP):
            found += _differences(file, stored, at, min(at + STEP, pos + length, size))
    return [LostRange(file.key, pos, end - pos, errno.ESTALE, file.volume.name) for pos, end in _joined(found)]


def _differences(file: EngineFile, stored: BackendFile, pos: int, end: int) -> Iterator[tuple[int, int]]:
    ours = memoryview(bytearray(end - pos))
    known = max(0, file.native.read(pos, ours))
    theirs = read(file, stored, pos, pos + known)
    apart = int.from_bytes(ours[:known], "big") ^ int.from_bytes(theirs, "big")
    for run in DIFFERENT.finditer(apart.to_bytes(known, "big")):
        yield pos + run.start(), pos + run.end()
    if known < end - pos:
        yield pos + known, end  # staged, and not in memory


def _joined(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join ascending ranges that touch."""
    joined: list[tuple[int, int]] = []
    for pos, end in ranges:
        if joined and joined[-1][1] == pos:
            pos = joined.pop()[0]
        joined.append((pos, end))
    return joined


def read(file: EngineFile, stored: BackendFile, pos: int, end: int) -> memoryview:
    """Read [pos, end) of the stored version, which has these bytes, within the limits of one call."""
    limits = file.limits()
    unit, boundary = max(1, int(limits.read_unit)), int(limits.boundary or 0)
    most = max(min(int(limits.max_read), STEP) // unit * unit, unit)
    room, start = memoryview(bytearray(most)), pos
    found = memoryview(bytearray(end - pos))
    while pos < end:
        begin = pos - pos % unit
        stop = min(begin + most, -(-end // unit) * unit)
        if boundary:
            stop = min(stop, (begin // boundary + 1) * boundary)
        got = min(begin + stored.read_into(begin, (room[: stop - begin],)), end)
        if got <= pos:
            raise BackendProtocolError(f"read_into({begin}) returned nothing of the bytes up to {end}", file.key)
        found[pos - start : got - start] = room[pos - begin : got - begin]
        pos = got
    return found
