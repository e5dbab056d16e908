"""Local bytes over another version: which bytes of it they replace (contract 2.19).

    local      |      ▒▒▒▒▒▒      ▒▒▒▒▒|▒▒▒       what is laid over it
    stored     |██████████████████████|           the other version, read from the backend
    replaced   |      ▒▒·▒▒▒      ▒··▒▒|          where both have a byte, and the two differ

The version below the local bytes is gone when another one is stored, so nobody can tell whether the other program
changed a byte or kept it.

Lock: the token, held by the caller.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ...backends.protocol import BackendFile
from ...backends.transfers import Transfers
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
    ours, theirs = memoryview(bytearray(end - pos)), read(file, stored, pos, end)
    done = 0
    while done < len(ours):
        known = max(0, file.native.read(pos + done, ours[done:]))
        done += known or file.staging.read(pos + done, (ours[done:],))
    apart = int.from_bytes(ours, "big") ^ int.from_bytes(theirs, "big")
    for run in DIFFERENT.finditer(apart.to_bytes(end - pos, "big")):
        yield pos + run.start(), pos + run.end()


def _joined(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join ascending ranges that touch."""
    joined: list[tuple[int, int]] = []
    for pos, end in ranges:
        if joined and joined[-1][1] == pos:
            pos = joined.pop()[0]
        joined.append((pos, end))
    return joined


def read(file: EngineFile, stored: BackendFile, pos: int, end: int) -> bytes:
    """Read [pos, end) of the stored version, which has these bytes."""
    unit = int(file.limits().read_unit)
    begin = pos - pos % unit
    found = Transfers(stored, file.volume.backend, file.key).fetch(begin, -(-end // unit) * unit - begin)
    if begin + len(found) < end:
        what = f"read_into({begin + len(found)}) returned nothing of the bytes up to {end}"
        raise BackendProtocolError(what, file.key)
    return bytes(found[pos - begin : end - begin])
