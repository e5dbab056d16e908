"""Read a journal after a crash: which bytes of which files are not in their stores.

    1  read each segment: its heads, by the echo behind them if they are damaged, and its bad blocks
    2  take the records in the order of their LSNs. `evidence` is the last LSN that some head calls confirmed:
       a record that is missing or bad up to it is damage, and one after it ends the log
    3  apply them to their files: from the last record to the first, the first writer of a byte has it

Nothing is changed. A damaged byte is never replaced by an older one. If no echo of a lost head is left, the record is
in `Recovered.lost`, and files that it may belong to are `suspect`.
"""

from __future__ import annotations

import errno
import os
import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import NamedTuple

from ..backends.spool import END, Ranges
from . import records
from .device import OS, Device
from .records import BLOCK, HEAD, FileState, Head, Kind, Record, block_at

NAME = re.compile(r"([0-9]{8,})\.journal")
CHUNK = 1 << 20
SECTOR = 512


def name_of(number: int) -> str:
    return f"{number:08d}.journal"


class Lost(NamedTuple):
    """Records that were confirmed, and whose files are unknown: LSNs from `first` to `last`; 0: of a whole segment."""

    first: int
    last: int
    segment: int


class Content(NamedTuple):
    """A record of a file, and the size that it leads to."""

    head: Head
    bad: tuple[int, ...]  # blocks
    size: int


class Piece(NamedTuple):
    """A range of a file, and the DATA record that has it; None: zeros."""

    begin: int
    end: int
    head: Head | None
    is_damaged: bool
    is_gap: bool = False
    """Zeros that no record has, behind the base."""


@dataclass(slots=True)
class Unsaved:
    """A file with bytes that its store does not have, as of the end of the log."""

    state: FileState
    content: list[Content] = field(default_factory=list)
    base_size: int = 0
    suspect: int = 0
    """LSN of the last lost record that may belong to it; END: unknown."""
    pieces: list[Piece] = field(default_factory=list)
    """What to lay over the version `state.base`, cut to `base_size` and then extended to `state.size`."""
    recovered: Recovered | None = field(default=None, repr=False, compare=False)

    @property
    def number(self) -> int:
        return self.state.number

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """(offset, length) of the bytes that differ from the base."""
        return self._joined(is_damaged=False)

    @property
    def damaged(self) -> list[tuple[int, int]]:
        """(offset, length) of confirmed bytes that cannot be read."""
        return self._joined(is_damaged=True)

    @property
    def doubtful(self) -> list[tuple[int, int]]:
        """(offset, length) of bytes that lost records may have: all but those of later ones."""
        found = Ranges()
        found.add(0, self.state.size if self.suspect else 0)
        for piece in self.pieces:
            if piece.head is not None and piece.head.lsn > self.suspect:
                found.cut(piece.begin, piece.end)
        return [(begin, end - begin) for begin, end, inside in found.pieces(0, self.state.size) if inside]

    @property
    def is_cut(self) -> bool:
        """Whether a record has cut or extended it."""
        return any(each.head.kind == Kind.SIZE for each in self.content)

    @property
    def zeros(self) -> list[tuple[int, int]]:
        """Those of `ranges` that are zeros and take no space."""
        return [(p.begin, p.end - p.begin) for p in self.pieces if p.head is None]

    def _joined(self, *, is_damaged: bool) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        for piece in self.pieces:
            if piece.is_damaged == is_damaged:
                if found and sum(found[-1]) == piece.begin:
                    found[-1] = (found[-1][0], piece.end - found[-1][0])
                else:
                    found.append((piece.begin, piece.end - piece.begin))
        return found

    def read(self, offset: int, length: int) -> bytes:
        """Return bytes of one of `ranges`. OSError: the disk fails, or has other bytes than were written (EILSEQ)."""
        assert self.recovered is not None
        parts, at, end = [], offset, offset + length
        first = max(0, bisect_right(self.pieces, at, key=lambda piece: piece.begin) - 1)
        for piece in islice(self.pieces, first, None):
            if at == end:
                break
            if piece.begin <= at < piece.end and not piece.is_damaged:
                to = min(end, piece.end)
                head = piece.head
                parts.append(bytes(to - at) if head is None else self.recovered.bytes_of(head, at, to))
                at = to
        if at < end:
            raise ValueError(f"[{offset}, {end}) is not within the recovered ranges of {self.state.key!r}")
        return b"".join(parts)

    def check(self) -> bool:
        """Read its records anew; return whether more blocks are damaged. What fails now may be readable later."""
        content = [each._replace(bad=tuple(self._bad(each))) for each in self.content]
        if content == self.content:
            return False
        self.content, self.pieces = content, []  # other lists: copies share them
        self.finish()
        return True

    def _bad(self, each: Content) -> Iterator[int]:
        assert self.recovered is not None
        begin, length = each.head.offset, each.head.length if each.head.kind == Kind.DATA else 0
        for block, at in enumerate(range(begin, begin + length, BLOCK)):
            bad = block in each.bad
            try:
                self.recovered.bytes_of(each.head, at, min(at + BLOCK, begin + length), strict=True)
            except OSError as error:
                bad |= error.errno == errno.EILSEQ
            if bad:
                yield block

    def until(self, lsn: int) -> Unsaved:
        """Return the file as of an earlier record."""
        content = [each for each in self.content if each.head.lsn <= lsn]
        size = content[-1].size if content else self.base_size
        earlier = replace(self, state=replace(self.state, size=size), content=content, pieces=[])
        earlier.finish()
        return earlier

    def settle(self) -> None:
        """Drop the records that are in the store. FILE says for all before it that the object is not there."""
        drop = 0
        for head, _, size in self.content:
            if head.lsn > self.state.saved and (head.kind != Kind.FILE or self.state.created):
                break
            self.base_size = size
            drop += 1
        del self.content[:drop]

    def lie_over(self, size: int) -> None:
        """Take the size of the version that is stored, which bytes that were never in the journal may have extended."""
        self.base_size = size
        for at, each in enumerate(self.content):
            size = records.size_after(each.head, size)
            self.content[at] = each._replace(size=size)
        self.state.size = size

    def finish(self) -> None:
        """Find the pieces: from the last record to the first, the first that has a byte."""
        final = self.state.size
        covered, dropped = Ranges(), Ranges()

        def uncovered(begin: int, end: int) -> Iterator[tuple[int, int]]:
            end = min(end, final)
            return ((a, b) for a, b, inside in list(covered.pieces(begin, end)) if not inside)

        for head, bad, _ in reversed(self.content):
            begin, end = head.offset, head.offset + head.length
            if head.kind == Kind.DROPPED:
                dropped.add(begin, end)
                continue
            if head.kind == Kind.DATA:
                for a, b in list(uncovered(begin, end)):
                    for c, d, inside in list(dropped.pieces(a, b)):
                        if not inside:
                            self.pieces += split(head, bad, c, d)
                            covered.add(c, d)
                continue
            if head.kind == Kind.HOLE:
                self.pieces += [Piece(a, b, None, False) for a, b in uncovered(begin, end)]
            elif head.kind == Kind.SIZE:
                end = END
                self.pieces += [Piece(a, b, None, False) for a, b in uncovered(begin, end)]
            if begin < end:
                covered.add(begin, end)
        self.pieces += [Piece(a, b, None, False, True) for a, b in uncovered(self.base_size, final)]
        self.pieces.sort(key=lambda piece: piece.begin)


def split(head: Head, bad: tuple[int, ...], begin: int, end: int) -> Iterator[Piece]:
    """Cut a range of a DATA record into good and damaged ones."""
    at = begin
    for block in bad:
        a = max(begin, head.offset + block * BLOCK)
        b = min(end, head.offset + (block + 1) * BLOCK)
        if a < b:
            if at < a:
                yield Piece(at, a, head, False)
            yield Piece(a, b, head, True)
            at = b
    if at < end:
        yield Piece(at, end, head, False)


class Found(NamedTuple):
    """A record as it was found. `bad`: its blocks with a wrong sum."""

    head: Head
    bad: tuple[int, ...]
    body: bytes  # of a record without data


@dataclass(slots=True)
class Segment:
    number: int
    salt: int
    counted: int
    first: int
    confirmed: int
    echo: bytes  # head of the last record before it
    found: list[Found] = field(default_factory=list)


class Recovered:
    """What a journal has.

    Attributes:
        files: those with unsaved bytes.
        lost: confirmed records that cannot be read, and whose files are unknown.
        segments: number and size of each.
        end: LSN of the last record that counts.
        last: highest LSN that a record has.
    """

    def __init__(self, folder: str, device: Device) -> None:
        self.folder, self.device = folder, device
        self.files: list[Unsaved] = []
        self.lost: list[Lost] = []
        self.segments: list[tuple[int, int]] = []
        self.end = self.last = self.last_file = 0
        self._salts: dict[int, int] = {}

    def bytes_of(self, head: Head, begin: int, end: int, *, strict: bool = False) -> bytes:
        """Read and check bytes of a DATA record. `strict`: see `_read`."""
        first, last = (begin - head.offset) // BLOCK, (end - 1 - head.offset) // BLOCK
        at, stored = block_at(head, first), min(head.payload, (last + 1) * BLOCK) - first * BLOCK
        path = os.path.join(self.folder, name_of(head.segment))
        fd = self.device.open(path, os.O_RDONLY)
        try:
            room = _read(self.device, fd, at, memoryview(bytearray(block_at(head, last + 1) - at)), strict=strict)
        finally:
            self.device.close(fd)
        if records.bad_blocks(room, 0, stored, self._salts[head.segment] + head.lsn + first):
            raise OSError(errno.EILSEQ, f"the journal has other bytes than were written in {path!r}", path)
        skip = begin - head.offset - first * BLOCK
        return records.joined(room, 0, stored)[skip : skip + end - begin]

    # ------------------------------------------------------------------------------------------------ read

    def read(self, sizes: Mapping[int, int] | None, confirmed: int, end: int) -> None:
        segments = []
        for name in self.device.listdir(self.folder):
            if (match := NAME.fullmatch(name)) and (sizes is None or int(match[1]) in sizes):
                segments.append((int(match[1]), name))
        read: list[Segment] = []
        room = bytearray()  # fresh memory would take longer than the reading
        for number, name in sorted(segments):
            fd = self.device.open(os.path.join(self.folder, name), os.O_RDONLY)
            try:
                size = self.device.size(fd) if sizes is None else sizes[number]
                room = room if len(room) >= size else bytearray(size)
                content = _read(self.device, fd, 0, memoryview(room)[:size])
            finally:
                self.device.close(fd)
            self.segments.append((number, size))
            segment = self._scan(number, content)
            if segment is not None:
                read.append(segment)
        self._mend(read)
        self._replay(self._counted(read, confirmed, end))

    def _start(self, number: int, room: memoryview) -> Segment | None:
        for at in records.COPIES:
            try:
                head = records.parsed(room[at:], 0)
            except records.NewerFormat as newer:
                text = (
                    f"the journal in {self.folder!r} has format {newer.args[0]}; "
                    f"this version of pagecache reads formats up to {records.FORMAT}"
                )
                raise OSError(errno.EPROTONOSUPPORT, text, self.folder) from None
            if head is not None and head.kind == Kind.START and head.segment == number:
                echo = bytes(room[at + HEAD : at + 2 * HEAD])
                return Segment(number, head.file, head.offset, head.length, head.confirmed, echo)
        return None

    def _scan(self, number: int, room: memoryview) -> Segment | None:
        """Find the records of a segment."""
        segment = self._start(number, room)
        if segment is None:
            if any(room[records.FIRST :]):
                self.lost.append(Lost(0, 0, number))  # records follow a start that was confirmed
            return None
        self._salts[number] = segment.salt
        at = records.FIRST
        while at + 2 * HEAD <= len(room):
            head = self._head_at(room, at, segment)
            if head is None:
                behind = self._next_head(room, at, segment)
                if behind is None:
                    break
                echo = self._echo(bytes(room[behind.position + HEAD :][:HEAD]))
                if echo is not None and echo.segment == number and echo.position >= at:
                    segment.found.append(self._checked(room, echo, segment.salt))
                head = behind
            segment.found.append(self._checked(room, head, segment.salt))
            at = head.position + head.span
        return segment

    def _head_at(self, room: memoryview, at: int, segment: Segment) -> Head | None:
        head = records.parsed(room[at : at + HEAD], segment.salt)
        if head is None or (head.segment, head.position) != (segment.number, at):
            return None
        return head

    def _next_head(self, room: memoryview, at: int, segment: Segment) -> Head | None:
        whole = room.obj
        assert isinstance(whole, bytearray)
        at = whole.find(records.MAGIC, at, len(room))
        while at >= 0:
            if at % HEAD == 0 and (head := self._head_at(room, at, segment)) is not None:
                return head
            at = whole.find(records.MAGIC, at + 1, len(room))
        return None

    def _echo(self, room: bytes) -> Head | None:
        """Return the head that an echo repeats, if its segment is known."""
        for salt in reversed(self._salts.values()):
            if (head := records.parsed(memoryview(room), salt)) is not None and self._salts.get(head.segment) == salt:
                return head
        return None

    def _checked(self, room: memoryview, head: Head, salt: int) -> Found:
        at = block_at(head, 0)
        bad = records.bad_blocks(room, at, head.payload, salt + head.lsn)
        body = b"" if bad or head.kind == Kind.DATA else records.joined(room, at, head.payload)
        return Found(head, tuple(bad), body)

    def _mend(self, segments: list[Segment]) -> None:
        """Take the last record of a segment from the echo in a later start, if its head is damaged."""
        known = {segment.number: segment for segment in segments}
        for segment in segments:
            echo = self._echo(segment.echo)
            owner = known.get(echo.segment) if echo is not None else None
            if echo is None or owner is None or any(found.head.lsn == echo.lsn for found in owner.found[-1:]):
                continue
            if owner.found and owner.found[-1].head.lsn > echo.lsn:
                continue
            path = os.path.join(self.folder, name_of(owner.number))
            fd = self.device.open(path, os.O_RDONLY)
            try:
                room = _read(self.device, fd, 0, memoryview(bytearray(self.device.size(fd))))
            finally:
                self.device.close(fd)
            owner.found.append(self._checked(room, echo, owner.salt))

    # ------------------------------------------------------------------------------------------------ order

    def _counted(self, segments: list[Segment], confirmed: int, end: int) -> Iterator[Found]:
        """Yield the records that count, in their order, up to the end of the log: `end` at most."""
        self.last = max((found.head.lsn for segment in segments for found in segment.found), default=0)
        self.last = max([self.last, *(segment.first - 1 for segment in segments)])
        claims = [found.head.confirmed for segment in segments for found in segment.found]
        evidence = max([confirmed, *claims, *(segment.confirmed for segment in segments)])
        self.end = segments[0].counted if segments else 0
        for place, segment in enumerate(segments):
            limit = min([end, *(later.counted for later in segments[place + 1 :])])
            if segment.first > limit:
                continue
            if self._ends_before(segment.counted + 1, self.end + 1, evidence, segment.number):
                return
            expected = segment.first
            for found in segment.found:
                lsn = found.head.lsn
                if lsn > limit:
                    break
                if self._ends_before(lsn, expected, evidence, segment.number):
                    return
                if found.bad and lsn > evidence:
                    return
                self.end, expected = lsn, lsn + 1
                if found.bad and found.head.kind != Kind.DATA:
                    self._lose(lsn, lsn, segment.number)
                else:
                    yield found
        if segments:
            # Records that are confirmed and missing at the end of the log.
            self._ends_before(evidence + 1, max(self.end + 1, segments[-1].first), evidence, segments[-1].number)

    def _ends_before(self, lsn: int, expected: int, evidence: int, segment: int) -> bool:
        """Report records that are missing before this one. Return whether one of them ends the log."""
        if lsn <= expected:
            return False
        if expected <= evidence:
            self._lose(expected, min(lsn - 1, evidence), segment)
            self.end = min(lsn - 1, evidence)
        return lsn - 1 > evidence

    def _lose(self, first: int, last: int, segment: int) -> None:
        self.lost.append(Lost(first, last, segment))

    # ------------------------------------------------------------------------------------------------ apply

    def _replay(self, counted: Iterator[Found]) -> None:
        files: dict[int, Unsaved] = {}
        for head, bad, body in counted:
            self.last_file = max(self.last_file, head.file)
            file = files.get(head.file)
            values = records.unpacked(body)
            if head.kind == Kind.FILE:
                file = file or files.setdefault(head.file, Unsaved(FileState(head.file), recovered=self))
                live = bool(file.content)
                if not live:  # unless that is saved, the oldest segment is gone
                    file.suspect = max(file.suspect, values[3] >> records.FLAGS)
                file.state.restore(head.offset, values, live=live)
                if not live:
                    file.base_size = 0 if file.state.created else file.state.size
            elif file is None:
                self._lose(head.lsn, head.lsn, head.segment)
                continue
            else:
                file.state.apply(Record(Kind(head.kind), head.file, head.offset, head.length, values), head.lsn)
            if head.kind in records.CONTENT or (head.kind == Kind.FILE and file.state.created and not file.content):
                file.content.append(Content(head, bad, file.state.size))
            file.settle()
            if head.kind == Kind.DISCARDED:
                file.base_size = head.offset
            elif head.kind == Kind.SAVED and len(values) > 1:
                file.lie_over(values[1])
        last = max((lost.last or END for lost in self.lost), default=0)
        for file in files.values():
            if file.suspect > file.state.saved:
                self._lose(1, file.suspect, 0)
            file.suspect = lost if (lost := max(last, file.suspect)) > file.state.saved else 0
            if file.content and not file.state.gone:
                file.finish()
                self.files.append(file)


def _read(device: Device, fd: int, offset: int, room: memoryview, *, strict: bool = False) -> memoryview:
    """Fill the room, and return what was filled. Sectors that the disk cannot read are zeros, which no sum fits;
    `strict`: they are an error.
    """
    at, step = 0, CHUNK
    while at < len(room):
        part = room[at : at + step]
        try:
            done = device.preadv(fd, [part], offset + at)
        except OSError:
            if strict:
                raise
            if step > SECTOR:
                step = SECTOR
                continue
            done = len(part)
            part[:] = bytes(done)
        if not done:
            break
        at += done
        step = CHUNK if at % CHUNK == 0 else step
    return room[:at]


def recover(
    folder: str, device: Device = OS, sizes: Mapping[int, int] | None = None, confirmed: int = 0, end: int = END
) -> Recovered:
    """Read the journal in a folder. Two calls return the same; nothing is changed. `sizes`: read only so many bytes of
    these segments. `confirmed`, `end`: the last records that are confirmed and that count, if that is known. OSError:
    of the folder, or a segment has a later format.
    """
    recovered = Recovered(folder, device)
    recovered.read(sizes, confirmed, end)
    return recovered
