"""The model of one file: the writes of all workers, and which of them each byte may come from.

    Write      one change of bytes, or of the end: from its call (`begun`) to its return (`ended`), on a logical clock
    Extents    [0, infinity) in pieces; each has the writes whose bytes may be there, often just one
    Model      a file: extents, possible sizes, running writes, and a log of those since the last rest

A byte may come from write W at a time T if W began before T, and no other write of this byte began after W had ended
and ended before T. So sequential calls leave one value: exact. Overlapping calls leave as many as ran, until a later
call, or an observation, decides.

Zeros are a write too: past the end the zeros are those of the truncate that made it the end. So an extension needs no
special rule, and bytes that reappear from past an end are found like any other byte.
"""

from __future__ import annotations

import copy
import itertools
import math
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING

from sortedcontainers import SortedDict

from pagecache.stress.content import APPENDED, made

if TYPE_CHECKING:
    from pagecache.stress.oracle import Finding

FOREVER = 1 << 62  # end of the last extent
RUNNING = math.inf
PAST = ("direct", "parallel")  # ways that bypass a cache
REMEMBERED = 512  # ended writes of a file that a story can name
SIZES_MAX = 64  # possible sizes of a file whose writes are never certain, before they become a range


class Broken(AssertionError):
    """A finding, as a text for a person. Each function that checks something raises it if that is not so. `kind`:
    "data", "error", "hang", "check" or "crash".

    Attributes:
        finding: the wrong bytes, if there are any.
        happened: the operations around a hang (report.py).
    """

    def __init__(self, text: str, kind: str = "data", *, finding: Finding | None = None) -> None:
        super().__init__(text)
        self.kind, self.finding = kind, finding
        self.happened: tuple[str, ...] | None = None


class Clock:
    """A logical clock that orders calls and returns: smaller is earlier."""

    def __init__(self) -> None:
        self._ticks = itertools.count(1)

    def tick(self) -> int:
        return next(self._ticks)


@dataclass(eq=False, slots=True)
class Write:
    """The change of one call: bytes [start, end) of a file.

    Attributes:
        kind: the call, for reports: "pwrite", "append", "truncate", ...
        start: -1 until an append reports its place; `origin`: the place of the first byte of its data.
        size: size of the file after it; None: at least `end`; -1: the size is unchanged.
        zero: its bytes are zeros.
        literal: each piece of a copy with its possible bytes; None: `content.made`.
        wild: it may contain anything, as the copied bytes are unknown.
        before: of an append: the sizes that the file may have had when it began; `vague`: other sizes are possible too.
        floor: of an append: its smallest possible offset.
        certain: it is stored when it has ended. False for a call that failed and may have stored something.
        rest: the part that its call did not report as done, as a separate change.
    """

    kind: str
    way: str
    worker: int
    sequence: int
    file: int
    tag: int
    start: int
    length: int
    _: KW_ONLY
    size: int | None = None
    zero: bool = False
    literal: list[tuple[int, tuple[bytes, ...]]] | None = None
    wild: bool = False
    before: tuple[int, ...] = ()
    vague: bool = False
    floor: int = 0
    certain: bool = True
    rest: Write | None = None
    begun: float = 0
    ended: float = RUNNING
    origin: int = field(init=False)
    end: int = field(init=False)

    def __post_init__(self) -> None:
        self.origin = self.start
        self.end = -1 if self.start < 0 else self.start + self.length

    def __repr__(self) -> str:
        where = "at the end" if self.start < 0 else f"[{self.start}, {self.end if self.end < FOREVER else '...'})"
        return f"{self.kind} {where}"

    def known(self, start: int, data: bytes) -> Write:
        """Return the write with the content of a wild piece filled in."""
        found = copy.copy(self)
        found.start, found.end, found.length = start, start + len(data), len(data)
        found.literal, found.wild = [(start, (data,))], False
        return found

    @property
    def resolved(self) -> bool:
        """Return whether place and content are known."""
        return self.start >= 0 and (self.kind != "copy" or self.wild or self.literal is not None)

    def data(self, start: int, end: int) -> bytes:
        """Return the bytes of a range within the write; for a copy, the first possible ones."""
        if self.zero:
            return bytes(end - start)
        if self.literal is not None:
            return self.possible(start, end)[0]
        if self.kind == "append":
            return made(
                self.tag, self.file | APPENDED, self.worker, self.sequence, start - self.origin, end - self.origin
            )
        return made(self.tag, self.file, self.worker, self.sequence, start, end)

    def possible(self, start: int, end: int) -> list[bytes]:
        """Return the possible contents of a range: one, except for copies of bytes that were being overwritten."""
        if self.literal is None:
            return [self.data(start, end)]
        # The pieces are disjoint and have different numbers of values: enough results to contain each value once.
        found: list[bytearray] = []
        for at, values in self.literal:
            low, high = max(start, at), min(end, at + len(values[0]))
            if low < high:
                while len(found) < len(values):
                    found.append(bytearray(found[0]) if found else bytearray())
                for number, one in enumerate(found):
                    one += values[min(number, len(values) - 1)][low - at : high - at]
        return [bytes(one) for one in found]


@dataclass(frozen=True, slots=True)
class Size:
    """A size that the file may have since a call that ran from `begun` to `ended`; `least`: or any down to that."""

    value: int
    begun: float
    ended: float
    least: int | None = None


def _joined(sizes: list[Size]) -> Size:
    """Return one size that allows each of these, and all between them."""
    least = min(size.value if size.least is None else size.least for size in sizes)
    most, begun = max(size.value for size in sizes), min(size.begun for size in sizes)
    return Size(most, begun, max(size.ended for size in sizes), least)


Candidates = tuple[Write, ...]
Piece = tuple[int, int, Candidates]


class Extents:
    """A map of [0, FOREVER) to candidates. Neighbours may be equal; `assign` joins the pieces it makes."""

    def __init__(self, first: Write) -> None:
        self._map: SortedDict[int, Candidates] = SortedDict({0: (first,)})

    def __len__(self) -> int:
        return len(self._map)

    def pieces(self, start: int, end: int) -> Iterator[Piece]:
        """Yield the pieces of a range, cut to it."""
        starts = self._map.keys()
        for number in range(self._map.bisect_right(start) - 1, len(starts)):
            low, candidates = self._map.peekitem(number)
            if low >= end:
                return
            high = starts[number + 1] if number + 1 < len(starts) else FOREVER
            yield max(start, low), min(end, high), candidates

    def assign(self, start: int, end: int, pieces: Iterable[Piece]) -> None:
        """Replace a range by pieces, which are ascending and together cover exactly the range."""
        if start >= end:
            return
        found = list(pieces)
        starts = self._map.keys()
        first = self._map.bisect_left(start)
        after = self._map.bisect_left(end)
        if end < FOREVER and (after == len(starts) or starts[after] != end):
            found.append((end, end, self._map.peekitem(after - 1)[1]))  # the end of the last piece keeps its candidates
        elif end < FOREVER and after < len(starts):
            found.append((end, end, self._map.peekitem(after)[1]))
            after += 1
        before = self._map.peekitem(first - 1)[1] if first else None
        for key in list(self._map.islice(first, after)):
            del self._map[key]
        for low, _high, candidates in found:
            if candidates != before:
                self._map[low] = candidates
            before = candidates


class Model:
    """One file. `lock` protects all of it, and is held for some ten microseconds."""

    def __init__(self, number: int, first: Write, clock: Clock) -> None:
        """Make a model with the content `first`."""
        self.number = number
        self.clock = clock
        self.lock = threading.Lock()
        assert first.start == 0
        first.ended = first.begun
        zeros = Write("zeros", "", 0, 0, number, first.tag, 0, FOREVER, zero=True)
        zeros.ended = 0
        self.extents = Extents(zeros)
        self.extents.assign(0, first.end, [(0, first.end, (first,))])
        self.sizes: list[Size] = [Size(first.end, 0, 0)]
        self.running: dict[Write, None] = {}
        self.log: list[Write] = []
        self.ended: deque[Write] = deque([first], REMEMBERED)
        self.loose = False  # writes may be discarded or replaced: none is certain
        self.loses_past = False  # direct writes may be lost later, without an error of their call
        self.overtaken: dict[Write, list[Piece]] = {}  # running write that was seen -> pieces overwritten since
        self._past: list[Write] = []  # all direct writes and holes

    # -- changes

    def begin(self, write: Write) -> None:
        """Record that the call of a write begins."""
        with self.lock:
            write.begun = self.clock.tick()
            if write.way in PAST or write.kind in ("punch", "zero"):
                self._past.append(write)
            self.running[write] = None
            self.log.append(write)
            if write.resolved:
                self._add(write)
            elif write.start < 0:
                write.before = tuple(size.value for size in self.sizes)
                write.vague = any(size.least is not None for size in self.sizes)
                cuts = [one.size for one in self.running if one.size is not None and one.size >= 0]
                write.floor = 0 if write.vague else min([*write.before, *cuts])
            if write.size is not None and write.size >= 0:
                for one in self.running:
                    one.floor = min(one.floor, write.size)

    def _add(self, write: Write) -> None:
        pieces = [
            (low, high, found if self._same(found, write) else (*found, write))
            for low, high, found in self.extents.pieces(write.start, write.end)
        ]
        self.extents.assign(write.start, write.end, pieces)

    def _same(self, found: Candidates, write: Write) -> bool:
        """Return whether the write is among the candidates, or zeros over zeros that stay: one entry is enough."""
        return write in found or (self.loose and write.zero and any(one.zero for one in found))

    def finish(self, write: Write, *, certain: bool = True) -> None:
        """Record that the call of a write has returned; its place is known. Not `certain`: the done part is unknown."""
        assert write.start >= 0
        certain = certain and not self.loose and not (self.loses_past and write.way in PAST)
        with self.lock:
            self._end(write, certain)
            pieces = []
            for low, high, found in self.extents.pieces(write.start, write.end):
                if not self._same(found, write):
                    found = (*found, write)
                pieces.append((low, high, self._left(found, write) if certain else found))
            self.extents.assign(write.start, write.end, pieces)
            self._resize(write)

    def changed_since(self, time: float) -> bool:
        """Return whether a change runs, or has ended since a time."""
        with self.lock:
            return bool(self.running) or self.ended[-1].ended >= time

    def shrink(self, write: Write) -> None:
        """Allow any size down to 0: a discard took the end with it."""
        with self.lock:
            most = max(size.value for size in self.sizes)
            self.sizes = [size for size in self.sizes if size.least != 0]
            self.sizes.append(Size(most, write.begun, write.ended, least=0))

    def cancel(self, write: Write) -> None:
        """Record that a call did nothing; where it was seen, a byte was the same by chance."""
        with self.lock:
            overtaken = self.overtaken.get(write, ())
            self._end(write, False)
            if write.resolved:
                self._remove(write, write.start, write.end)
            for start, end, gone in overtaken:
                low = max(start, write.start)
                pieces = []
                for a, b, found in self.extents.pieces(low, end):
                    certain = [other for other in found if other.certain and other not in self.running]
                    left = [one for one in gone if all(one.ended >= other.begun for other in certain)]
                    pieces.append((a, b, (*found, *left)))  # none of the others has certainly overwritten them
                self.extents.assign(low, end, pieces)
            write.start, write.end, write.size = 0, 0, -1

    def place(self, write: Write, offset: int, done: int | None = None) -> Write | None:
        """Record the place that an append reports: the end, possibly as moved by concurrent calls.

        `done`: number of bytes it stored; returns the remainder as a separate change, which still runs.

        Raises:
            Broken: the end was never there.
        """
        with self.lock:
            write.start = write.origin = offset
            write.end = offset + write.length
            rest = None if done is None else self._split(write, done)
            beside = [one for one in self.log if one is not write and one.ended >= write.begun and one.size != -1]
            oldest = min((one.begun for one in beside), default=write.begun)
            cut = any(one.size is not None and one.size >= 0 and one.ended >= oldest for one in self.log)
            for one in beside:
                if not cut and one.kind == "append" and one.certain and one.start < write.end and offset < one.end:
                    raise Broken(
                        f"file {self.number}: {write!r} of writer {write.worker} lies on {one!r} of writer {one.worker}"
                    )
            ends = {*write.before, *(one.size if one.size is not None else one.end for one in beside)}
            # The stored part of a large, still running write is an end too. So is the part that a failed append stored.
            within = any(
                one.size is None and not (one.kind == "append" and one.certain) and one.start <= offset <= one.end
                for one in beside
            )
            if not (cut or offset in ends or within or write.vague or any(one.ended == RUNNING for one in beside)):
                raise Broken(
                    f"file {self.number}: {write!r} of writer {write.worker}, where the end was at "
                    f"{' or '.join(map(str, sorted(ends)))}"
                )
            return rest

    def resolve(self, write: Write) -> None:
        """Record the content of a copy, which still runs."""
        with self.lock:
            self._add(write)

    def split(self, write: Write, length: int) -> Write:
        """Cut a write after `length` bytes, which its call did; return the remainder as a separate change, which still
        runs.
        """
        with self.lock:
            return self._split(write, length)

    def _split(self, write: Write, length: int) -> Write:
        rest = copy.copy(write)
        rest.start = write.start + length
        rest.length = max(0, write.end - rest.start)
        rest.certain = False
        write.rest = rest
        self.overtaken[rest] = self.overtaken.get(write, [])
        write.end, write.length = rest.start, length
        pieces = [
            (low, high, tuple(rest if one is write else one for one in found))
            for low, high, found in self.extents.pieces(rest.start, rest.end)
        ]
        self.extents.assign(rest.start, rest.end, pieces)
        self.running[rest] = None
        self.log.append(rest)
        if rest.way in PAST:
            self._past.append(rest)
        return rest

    def lose(self, write: Write) -> None:
        """Record that part of an append may be stored somewhere at the end."""
        with self.lock:
            self._end(write, False)
            most = self._reach(write)
            write.start = min(write.floor, *(size.value for size in self.sizes))
            write.end, write.wild = most, True
            write.length = write.end - write.start
            self._add(write)
            self.sizes.append(Size(write.end, write.begun, write.ended, write.start))

    def _reach(self, write: Write) -> int:
        """Return the largest end of an append that never reported: past any end since then, and past appends of unknown
        place.
        """
        beside = [one for one in self.log if one is not write and one.ended >= write.begun and one.size != -1]
        ends = [one.end if one.size is None else one.size for one in beside]
        most = max([*ends, *write.before, *(size.value for size in self.sizes)])
        return most + sum(one.length for one in beside if one.start < 0) + write.length

    def strand(self) -> None:
        """Give up running writes, whose calls will never return: an unreported append or copy may have stored
        anything.
        """
        with self.lock:
            running = [write for write in self.running if not write.resolved]
            ends = [self._reach(write) if write.start < 0 else write.end for write in running]
            for write, end in zip(running, ends, strict=True):
                write.wild = True
                if write.start < 0:
                    write.start, write.end = write.floor, end
                    write.length = end - write.floor

    def _remove(self, write: Write, start: int, end: int) -> None:
        pieces = [
            (low, high, tuple(one for one in found if one is not write))
            for low, high, found in self.extents.pieces(start, end)
        ]
        self.extents.assign(start, end, pieces)

    def _end(self, write: Write, certain: bool) -> None:
        write.ended = self.clock.tick()
        write.certain = certain
        self.overtaken.pop(write, None)
        del self.running[write]
        self.ended.append(write)

    @staticmethod
    def _left(found: Candidates, write: Write) -> Candidates:
        """Return the candidates that remain once `write` is certain."""
        if len(found) == 1:
            return found
        return tuple(one for one in found if one is write or one.ended >= write.begun)

    def _resize(self, write: Write) -> None:
        """Update the possible sizes when `write` has ended."""
        if write.size == -1:
            return
        old = [size for size in self.sizes if size.ended >= write.begun] if write.certain else self.sizes
        found: list[Size] = []
        if write.size is not None:
            found = [*old, Size(write.size, write.begun, write.ended)]
            found += [Size(max(write.size, one.end), write.begun, write.ended) for one in self._beside(write)]
        elif any(size.value < write.end for size in self.sizes) and write.length:
            for size in self.sizes:
                if size.value >= write.end or not write.certain or size.ended >= write.begun:
                    found.append(size)
                if size.value < write.end:
                    least = None if write.certain else max(size.value, write.start)
                    found.append(Size(write.end, write.begun, write.ended, least))
        else:
            return
        latest: dict[tuple[int, int | None], Size] = {}
        for size in found:
            key = size.value, size.least
            if key not in latest or latest[key].ended < size.ended:
                latest[key] = size
        self.sizes = list(latest.values())
        if self.loose and len(self.sizes) > SIZES_MAX:  # none of them goes before the next rest
            self.sizes = [_joined(self.sizes)]

    def _beside(self, write: Write) -> Iterator[Write]:
        """Yield writes that may have extended the file, have ended, and overlapped in time."""
        for one in self.log:
            if one is not write and one.size is None and one.length and write.begun <= one.ended < RUNNING:
                yield one

    # -- queries

    def largest(self) -> int:
        """Return the size, or the largest possible one."""
        with self.lock:
            return max(size.value for size in self.sizes)

    def went_past(self, start: int, end: int) -> bool:
        """Return whether a direct write or hole may be in a range."""
        with self.lock:
            return any(write.start < 0 or (write.start < end and start < write.end) for write in self._past)

    def settle(self, pieces: Iterable[Piece], size: int) -> None:
        """Fix the observed content while nothing runs: other candidates are dropped."""
        with self.lock:
            assert not self.running, self.running
            for low, high, found in pieces:
                self.extents.assign(low, high, [(low, high, found)])
            self.sizes = [Size(size, 0, 0)]
            self.log.clear()
