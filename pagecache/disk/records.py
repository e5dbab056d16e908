"""Records of a journal: their form on disk, and the state of a file that they lead to.

    segment   | START | START |  record  |   record    |  record  |  unwritten: zeros
                0       512     1024                                each begins at a multiple of 64

    record    | head | echo | block | sum | block | sum | ... | pad
                64     64     4096    4     1 to 4096

The *head* has the kind, the file, a range and the LSN: records are numbered in the order in which they count. The
*echo* repeats the head of the record before, so a damaged head costs none of the bytes behind it. A block is checked
for itself: a bad one costs its own bytes. All sums depend on the LSN and on a random number of the segment (*salt*), so
that bytes of a user that look like a record never pass for one.

START has the salt, the last earlier LSN that counts, and its first own LSN. Records between these two do not count: a
crash or a failed sync left them behind. Its head stays the same in all formats.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, NamedTuple

from ..errors import Key

FORMAT = 2
MAGIC = b"pcj\n"
HEAD = 64
BLOCK = 4096
FIRST = 1024
"""Position of the first record of a segment."""
COPIES = (0, 512)
"""Positions of START: two sectors."""
DATA_MAX = 1 << 20
"""Bytes of a DATA record."""
FLAGS = 3
"""Bits of FILE before the LSN of an earlier record."""
MARKS_MAX = 64
"""Attempts of a commit that are kept for one file."""

_HEAD = struct.Struct("<4sBBHQQQQQIII")
_SUM = struct.Struct("<I")
_PART = struct.Struct("<cI")


class Kind(IntEnum):
    START = 0
    FILE = 1  # state of the file; each segment with records of a file has one before them
    DATA = 2
    SIZE = 3  # cut or extended to `offset`: bytes beyond it are zeros
    HOLE = 4
    SAVING = 5  # a commit of all up to LSN `offset` is about to begin
    SAVED = 6  # all up to LSN `offset` is in the store
    RENAMING = 7
    RENAMED = 8
    REMOVING = 9
    REMOVED = 10
    DISCARDED = 11  # all bytes up to here are given up; the size is `offset`
    DROPPED = 12  # bytes of a range that were written up to here are given up


CONTENT = frozenset((Kind.DATA, Kind.SIZE, Kind.HOLE, Kind.DROPPED))
LAID = CONTENT | {Kind.FILE}
"""Kinds of records that a start lays over an object: the description of a new one empties it."""


class Record(NamedTuple):
    """A record to append. The functions below make them."""

    kind: Kind
    file: int
    offset: int = 0
    length: int = 0
    values: tuple[Any, ...] = ()


class Head(NamedTuple):
    kind: int
    file: int
    offset: int
    length: int
    lsn: int
    confirmed: int  # last LSN that the device had confirmed when this was written
    payload: int  # bytes
    segment: int
    position: int

    @property
    def span(self) -> int:
        return span(self.payload)

    def packed(self, salt: int) -> bytes:
        fields = (*self[1:7], self.segment, self.position // HEAD)
        head = _HEAD.pack(MAGIC, FORMAT, self.kind, 0, *fields)
        return head + _SUM.pack(checksum(head, salt + self.lsn))


def size_after(record: Record | Head, size: int) -> int:
    """Return the size that a record leads to; `size`: before it."""
    if record.kind == Kind.DATA:
        return max(size, record.offset + record.length)
    return record.offset if record.kind == Kind.SIZE else size


def file(
    number: int,
    volume: str,
    key: Key,
    base: str | None,
    *,
    created: bool,
    size: int,
    renaming: Key | None = None,
    removing: bool = False,
    identity: str | None = None,
) -> Record:
    """FILE. `size`: of the version `base`. A file with unsaved records keeps its base: a later one may be newer than
    they are. `renaming`, `removing`: as in a record of a call that has not ended. `identity`: of the stored object;
    None: it has none that lasts.
    """
    if not isinstance(key, str | bytes):
        raise TypeError(f"key {key!r} is a {type(key).__name__}: a journal keeps str and bytes")
    return Record(Kind.FILE, number, size, 0, (volume, key, base, created, renaming, removing, identity))


def data(number: int, offset: int, length: int) -> Record:
    if not 0 < length <= DATA_MAX:
        raise ValueError(f"{length} bytes: a record has 1 to {DATA_MAX}")
    return Record(Kind.DATA, number, offset, length)


def size(number: int, size: int) -> Record:
    return Record(Kind.SIZE, number, size)


def hole(number: int, offset: int, length: int) -> Record:
    return Record(Kind.HOLE, number, offset, length)


def dropped(number: int, offset: int, length: int) -> Record:
    return Record(Kind.DROPPED, number, offset, length)


def saving(number: int, lsn: int, mark: bytes = b"") -> Record:
    """SAVING. Confirm it before the commit: recovery has to recognise the version that the commit makes."""
    return Record(Kind.SAVING, number, lsn, 0, (mark,))


def saved(number: int, lsn: int, version: str | None, *size: int) -> Record:
    """SAVED. `size`: of that version, which may have bytes that were never in the journal."""
    return Record(Kind.SAVED, number, lsn, 0, (version, *size))


def renaming(number: int, key: str | bytes) -> Record:
    return Record(Kind.RENAMING, number, 0, 0, (key,))


def renamed(number: int, key: str | bytes, *base: str | None) -> Record:
    """RENAMED: the object has this key now. After a rename that failed, its old one. `base`: the version that the
    rename has made; None: it is not known.
    """
    return Record(Kind.RENAMED, number, 0, 0, (key, *base))


def removing(number: int, by: str | bytes | None = None) -> Record:
    """REMOVING. `by`: the name of a stored object that is about to take this one's."""
    return Record(Kind.REMOVING, number, 0, 0, () if by is None else (by,))


def removed(number: int) -> Record:
    return Record(Kind.REMOVED, number)


def discarded(number: int, size: int) -> Record:
    """DISCARDED: the application gave up all bytes up to here. If no object is stored, FILE has to come again."""
    return Record(Kind.DISCARDED, number, size)


@dataclass(slots=True)
class FileState:
    """A file after the records that were applied."""

    number: int
    volume: str = ""
    key: str | bytes = ""
    base: str | None = None
    created: bool = False
    size: int = 0
    saved: int = 0
    """LSN up to which the store has everything, or the application gave it up."""
    stored: int | None = None
    """Size of the version `base`, if the last SAVED has it. FILE has not."""
    saving: list[tuple[int, bytes]] = field(default_factory=list)
    """LSN and mark of commits whose outcome is not recorded."""
    renaming: str | bytes | None = None
    """The name that it is about to get; if it is `removing`, that of the object that is about to get its name."""
    removing: bool = False
    gone: bool = False
    identity: str | None = None

    def record(self, written: int) -> Record:
        """Return the FILE record of this state. `written`: LSN of its last content record before this."""
        marks = [part for lsn, mark in self.saving for part in (lsn, mark)]
        flags = self.created | self.removing << 1 | self.gone << 2 | written << FLAGS
        values = (self.volume, self.key, self.base, flags, self.saved, self.renaming, *marks, self.identity)
        return Record(Kind.FILE, self.number, self.size, 0, values)

    def restore(self, size: int, values: Sequence[Any], *, live: bool) -> None:
        """Take the state of a FILE record. `live`: the file has unsaved records, and the size that they lead to."""
        self.volume, self.key, self.base, flags, saved, self.renaming = values[:6]
        self.created, self.removing, self.gone = bool(flags & 1), bool(flags & 2), bool(flags & 4)
        marks, (self.identity,) = (values[6:-1], values[-1:]) if len(values) % 2 else (values[6:], (None,))  # FORMAT 1
        self.saving = list(zip(marks[::2], marks[1::2], strict=True))
        if not live:
            self.size, self.stored = size, None
        self.saved = max(self.saved, saved)

    def apply(self, record: Record, lsn: int) -> None:
        """Apply a record of another kind than FILE."""
        kind, values = record.kind, record.values
        if kind in CONTENT:
            self.size = size_after(record, self.size)
        elif kind == Kind.SAVING:
            mark = (record.offset, values[0])
            self.saving = [*(old for old in self.saving if old != mark), mark][-MARKS_MAX:]
        elif kind == Kind.SAVED:
            self.settle(record.offset)
            self.base, self.created, self.stored = values[0], False, values[1] if len(values) > 1 else None
        elif kind == Kind.RENAMING:
            self.renaming = values[0]
        elif kind == Kind.RENAMED:
            self.key, self.renaming, self.removing = values[0], None, False
            self.base = values[1] if len(values) > 1 else self.base
        elif kind == Kind.REMOVING:
            self.removing, self.renaming = True, values[0] if values else None
        elif kind == Kind.REMOVED:
            self.gone = True
            self.settle(lsn)
        elif kind == Kind.DISCARDED:
            self.size, self.created = record.offset, False
            self.settle(lsn)

    def identify(self, identity: str | None) -> None:
        self.identity = identity

    def settle(self, saved: int) -> None:
        self.saved = max(self.saved, saved)
        self.saving = [attempt for attempt in self.saving if attempt[0] > self.saved]


# ------------------------------------------------------------------------------------------------ bytes


def checksum(part: bytes | bytearray | memoryview, seed: int) -> int:
    return zlib.crc32(part, seed & 0xFFFFFFFF)


def span(payload: int) -> int:
    """Return the bytes that a record takes in its segment."""
    return -(-(2 * HEAD + payload + _SUM.size * -(-payload // BLOCK)) // HEAD) * HEAD


def summed(buffers: Iterable[Any], seed: int) -> list[Any]:
    """Return the buffers cut into blocks, each followed by its sum. Nothing is copied."""
    parts: list[Any] = []
    value, room = seed, BLOCK
    for buffer in buffers:
        view = memoryview(buffer).cast("B")
        while len(view):
            part = view[:room]
            value, room, view = checksum(part, value), room - len(part), view[len(part) :]
            parts.append(part)
            if not room:
                parts.append(_SUM.pack(value))
                seed += 1
                value, room = seed, BLOCK
    if room < BLOCK:
        parts.append(_SUM.pack(value))
    return parts


def block_at(head: Head, block: int) -> int:
    """Return the position of a block in its segment."""
    return head.position + 2 * HEAD + block * (BLOCK + _SUM.size)


def bad_blocks(room: memoryview, at: int, length: int, seed: int) -> list[int]:
    """Return the blocks with a wrong sum among those of `length` bytes that begin at `at`."""
    bad, step, blocks = [], BLOCK + _SUM.size, -(-length // BLOCK)
    last, whole = at + length + _SUM.size * (blocks - 1), len(room) - _SUM.size
    for block, begin in enumerate(range(at, at + blocks * step, step)):  # half of the time of a recovery
        end = begin + BLOCK if begin + BLOCK < last else last
        if end > whole or _SUM.unpack_from(room, end)[0] != zlib.crc32(room[begin:end], seed + block & 0xFFFFFFFF):
            bad.append(block)
    return bad


def joined(room: memoryview, at: int, length: int) -> bytes:
    """Return the bytes of blocks without their sums."""
    step = BLOCK + _SUM.size
    begins = range(at, at + -(-length // BLOCK) * step, step)
    return b"".join(room[begin : begin + min(BLOCK, length - (begin - at) // step * BLOCK)] for begin in begins)


def parsed(room: memoryview, salt: int) -> Head | None:
    """Return the head in these bytes; None: they are none of a segment with this salt."""
    if len(room) < HEAD or room[:4] != MAGIC:
        return None
    _, version, kind, _, *fields, position = _HEAD.unpack_from(room)
    head = Head._make((kind, *fields, position * HEAD))
    if _SUM.unpack_from(room, _HEAD.size)[0] != checksum(room[: _HEAD.size], salt + head.lsn):
        return None
    if version > FORMAT:
        raise NewerFormat(version)
    return head


class NewerFormat(Exception):
    """A segment was written by a later version of this package."""


def packed(values: Iterable[Any]) -> bytes:
    """Return None, bool, int, str and bytes as bytes."""
    parts = []
    for value in values:
        if value is None:
            tag, body = b"n", b""
        elif isinstance(value, int):
            tag, body = b"i", int(value).to_bytes(8, "little")
        elif isinstance(value, str):
            tag, body = b"s", value.encode("utf-8", "surrogatepass")
        else:
            tag, body = b"b", bytes(value)
        parts += [_PART.pack(tag, len(body)), body]
    return b"".join(parts)


def unpacked(room: bytes) -> tuple[Any, ...]:
    values: list[Any] = []
    at = 0
    while at < len(room):
        tag, length = _PART.unpack_from(room, at)
        body = room[at + _PART.size : at + _PART.size + length]
        at += _PART.size + length
        if tag == b"n":
            values.append(None)
        elif tag == b"i":
            values.append(int.from_bytes(body, "little"))
        else:
            values.append(body.decode("utf-8", "surrogatepass") if tag == b"s" else body)
    return tuple(values)
