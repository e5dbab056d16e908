"""Who stored what where, and which of it a byte may be: the model of one file.

    Write      one change of bytes, or of the end: from its call (`begun`) to its return (`ended`), on a logical clock
    Extents    [0, infinity) in pieces; each has the writes whose bytes may be there, often just one
    Model      a file: extents, possible sizes, what runs, and the log of what began lately

A byte may be that of write W at a time T if W began before T, and no other write of this byte began after W had ended
and ended before T. So with calls one after another there is one value: exact. Where calls ran side by side there are as
many as ran, until a later one, or a look at it, decides.

Zeros are a write too: behind the end there are those of the truncate that made it the end. So an extension needs no
rule of its own, and what comes back from behind an end is found like any other byte.
"""

from __future__ import annotations

import copy
import itertools
import math
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sortedcontainers import SortedDict

from pagecache.stress.content import APPENDED, made

if TYPE_CHECKING:
    from pagecache.stress.story import Finding

__all__ = ["FOREVER", "PAST", "Broken", "Clock", "Extents", "Model", "Size", "Write"]

FOREVER = 1 << 62  # where the last extent ends
RUNNING = math.inf
PAST = ("direct", "parallel")  # ways in that go past a cache
REMEMBERED = 512  # ended writes of a file that a story can name


class Broken(AssertionError):
    """A promise was broken; the text is for a person. `kind`, `finding`: see `world.Failure`."""

    def __init__(self, text: str, kind: str = "data", finding: Finding | None = None) -> None:
        super().__init__(text)
        self.kind = kind
        self.finding = finding


class Clock:
    """Orders calls and returns: a smaller number was there first."""

    def __init__(self) -> None:
        self._ticks = itertools.count(1)

    def tick(self) -> int:
        return next(self._ticks)


class Write:
    """Bytes [start, end) of a file, as one call has them.

    Attributes:
        kind: what the call was, for people: "pwrite", "append", "truncate", ...
        start: -1 while an append has not said where it went; `origin`: where the first byte of its data is.
        size: what the file's size is after it; None: at least `end`; -1: it leaves the size alone.
        zero: they are zeros.
        literal: each piece with the bytes that it may have, for what was copied; None: `content.made`.
        wild: it may be anything, as nobody knows what was copied.
        before: of an append: the sizes that the file may have had when it began; `vague`: and others.
        floor: of an append: it is not before this.
        certain: it is there when it has ended. Not so what failed in a way that may have stored something.
        rest: what its call did not say it did, as a change of its own.
    """

    __slots__ = (
        "before",
        "begun",
        "certain",
        "end",
        "ended",
        "file",
        "floor",
        "kind",
        "length",
        "literal",
        "origin",
        "rest",
        "sequence",
        "size",
        "start",
        "tag",
        "vague",
        "way",
        "wild",
        "worker",
        "zero",
    )

    def __init__(
        self,
        kind: str,
        way: str,
        worker: int,
        sequence: int,
        file: int,
        tag: int,
        start: int,
        length: int,
        *,
        size: int | None = None,
        zero: bool = False,
    ) -> None:
        self.kind, self.way = kind, way
        self.worker, self.sequence, self.file, self.tag = worker, sequence, file, tag
        self.start = self.origin = start
        self.length = length
        self.end = -1 if start < 0 else start + length
        self.size = size
        self.zero = zero
        self.literal: list[tuple[int, tuple[bytes, ...]]] | None = None
        self.begun: float = 0
        self.ended: float = RUNNING
        self.certain = True
        self.rest: Write | None = None
        self.wild = False
        self.before: tuple[int, ...] = ()
        self.vague = False
        self.floor = 0

    def __repr__(self) -> str:
        where = "at the end" if self.start < 0 else f"[{self.start}, {self.end if self.end < FOREVER else '...'})"
        return f"{self.kind} {where}"

    def known(self, start: int, data: bytes) -> Write:
        """What was wild there has turned out to be this."""
        found = copy.copy(self)
        found.start, found.end, found.length = start, start + len(data), len(data)
        found.literal, found.wild = [(start, (data,))], False
        return found

    @property
    def resolved(self) -> bool:
        """It is known where its bytes are, and what they are."""
        return self.start >= 0 and (self.kind != "copy" or self.wild or self.literal is not None)

    def data(self, start: int, end: int) -> bytes:
        """Its bytes of a range that lies in its own; of a copy the first that are possible."""
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
        """What the range may be: one value, but for copies of bytes that others wrote meanwhile."""
        if self.literal is None:
            return [self.data(start, end)]
        # The pieces are disjoint and have different numbers of values: enough of them to have each value once.
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


Candidates = tuple[Write, ...]
Piece = tuple[int, int, Candidates]


class Extents:
    """A map of [0, FOREVER) to candidates. Neighbours may be equal; `assign` joins what it makes."""

    def __init__(self, first: Write) -> None:
        self._map: SortedDict[int, Candidates] = SortedDict({0: (first,)})

    def __len__(self) -> int:
        return len(self._map)

    def pieces(self, start: int, end: int) -> Iterator[Piece]:
        """What lies in a range, cut to it."""
        starts = self._map.keys()
        for number in range(self._map.bisect_right(start) - 1, len(starts)):
            low, candidates = self._map.peekitem(number)
            if low >= end:
                return
            high = starts[number + 1] if number + 1 < len(starts) else FOREVER
            yield max(start, low), min(end, high), candidates

    def assign(self, start: int, end: int, pieces: Iterable[Piece]) -> None:
        """Put pieces, ascending and together exactly the range, in the place of what is there."""
        if start >= end:
            return
        found = list(pieces)
        starts = self._map.keys()
        first = self._map.bisect_left(start)
        after = self._map.bisect_left(end)
        if end < FOREVER and (after == len(starts) or starts[after] != end):
            found.append((end, end, self._map.peekitem(after - 1)[1]))  # the rest of the last one keeps its own
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
    """One file. Everything under `lock`, which is held for some ten microseconds."""

    def __init__(self, number: int, first: Write, clock: Clock) -> None:
        """`first`: the content that it begins with."""
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
        self.dropped = 0  # entries of the log that are not there any more
        self.lookers: dict[object, int] = {}  # who looks -> the first entry that he needs
        self.ended: deque[Write] = deque([first], REMEMBERED)
        self.loose = False  # what was written may be given up again, or be replaced: nothing of it is certain
        self.loses_past = False  # what went past a cache may be lost again, without an error of its call
        self.synced: float = 0  # a commit was asked for at this time, and succeeded
        self.overtaken: dict[Write, list[Piece]] = {}  # what runs and was seen -> what nobody sees any more since
        self._past: list[Write] = []  # all that went past a cache: direct writes, and holes

    # -- changes

    def begin(self, write: Write) -> None:
        """Its call begins now."""
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
            if len(self.log) > 4096:
                self._trim()

    def _add(self, write: Write) -> None:
        pieces = [
            (low, high, found if self._same(found, write) else (*found, write))
            for low, high, found in self.extents.pieces(write.start, write.end)
        ]
        self.extents.assign(write.start, write.end, pieces)

    def _same(self, found: Candidates, write: Write) -> bool:
        """Whether it is one of them, or zeros where nothing that was there goes and there are zeros: once is enough."""
        return write in found or (self.loose and write.zero and any(one.zero for one in found))

    def finish(self, write: Write, *, certain: bool = True) -> None:
        """Its call has returned, and where it went is known by now. Not `certain`: nobody knows how much it did."""
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

    def shrink(self, write: Write) -> None:
        """After a change that may have left any size down to 0: what was given up took the end with it."""
        with self.lock:
            most = max(size.value for size in self.sizes)
            self.sizes = [size for size in self.sizes if size.least != 0]
            self.sizes.append(Size(most, write.begun, write.ended, least=0))

    def cancel(self, write: Write) -> None:
        """Its call has said that it did nothing."""
        with self.lock:
            self._end(write, False)
            if write.resolved:
                self._remove(write, write.start, write.end)
            write.start, write.end, write.size = 0, 0, -1

    def place(self, write: Write, offset: int, done: int | None = None) -> Write | None:
        """An append has said where it went: to the end as it was, or as something beside it made it.

        `done`: it did so much of it; returns the rest as a change of its own, which still runs.

        Raises:
            Broken: there was no end.
        """
        with self.lock:
            write.start = write.origin = offset
            write.end = offset + write.length
            rest = None if done is None else self._split(write, done)
            beside = [one for one in self.log if one is not write and one.ended >= write.begun and one.size != -1]
            oldest = min((one.begun for one in beside), default=write.begun)
            cut = self.dropped > 0 or any(
                one.size is not None and one.size >= 0 and one.ended >= oldest for one in self.log
            )
            for one in beside:
                if not cut and one.kind == "append" and one.certain and one.start < write.end and offset < one.end:
                    raise Broken(
                        f"file {self.number}: {write!r} of writer {write.worker} lies on {one!r} of writer {one.worker}"
                    )
            ends = {*write.before, *(one.size if one.size is not None else one.end for one in beside)}
            # What a large write has stored so far is an end too, while it goes on piece by piece.
            # And so is what an append stored that failed.
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
        """What a copy has copied is known; it still runs."""
        with self.lock:
            self._add(write)

    def split(self, write: Write, length: int) -> Write:
        """Its call did so much from the beginning on; the rest as a change of its own, which still runs."""
        with self.lock:
            return self._split(write, length)

    def _split(self, write: Write, length: int) -> Write:
        rest = copy.copy(write)
        rest.start = write.start + length
        rest.length = max(0, write.end - rest.start)
        rest.certain = False
        write.rest = rest
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
        """An append of which some may be somewhere at the end."""
        with self.lock:
            self._end(write, False)
            most = self._reach(write)
            write.start = min(write.floor, *(size.value for size in self.sizes))
            write.end, write.wild = most, True
            write.length = write.end - write.start
            self._add(write)
            self.sizes.append(Size(write.end, write.begun, write.ended, write.start))

    def _reach(self, write: Write) -> int:
        """The end of an append of which nobody heard, at most: behind any end that there was meanwhile, and behind
        appends whose place is not known yet.
        """
        beside = [one for one in self.log if one is not write and one.ended >= write.begun and one.size != -1]
        ends = [one.end if one.size is None else one.size for one in beside]
        most = max([*ends, *write.before, *(size.value for size in self.sizes)])
        return most + sum(one.length for one in beside if one.start < 0) + write.length

    def strand(self) -> None:
        """What still runs will never return: an append or a copy of which nobody heard may have stored anything."""
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
        """What is not over since `write` is there for certain."""
        if len(found) == 1:
            return found
        return tuple(one for one in found if one is write or one.ended >= write.begun)

    def _resize(self, write: Write) -> None:
        """The sizes that are possible when `write` has ended."""
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

    def _beside(self, write: Write) -> Iterator[Write]:
        """Writes that may have made the file longer, ended, and ran at the same time."""
        for one in self.log:
            if one is not write and one.size is None and one.length and write.begun <= one.ended < RUNNING:
                yield one

    def _trim(self) -> None:
        first = min(self.lookers.values(), default=self.dropped + len(self.log))
        oldest = min((write.begun for write in self.running), default=RUNNING)
        while self.dropped < first and self.log and self.log[0].ended < oldest:
            # From the front only, in slices: what runs long keeps what began after it.
            count = 0
            most = min(first - self.dropped, len(self.log))
            while count < most and self.log[count].ended < oldest:
                count += 1
            del self.log[:count]
            self.dropped += count

    # -- what is known

    def largest(self) -> int:
        """The size, or the largest that is possible."""
        with self.lock:
            return max(size.value for size in self.sizes)

    def went_past(self, start: int, end: int) -> bool:
        """Whether something that went past a cache may have been in a range."""
        with self.lock:
            return any(write.start < 0 or (write.start < end and start < write.end) for write in self._past)

    def settle(self, pieces: Iterable[Piece], size: int) -> None:
        """Nothing runs, and somebody has seen what there is: from here on that is what there is."""
        with self.lock:
            assert not self.running, self.running
            for low, high, found in pieces:
                self.extents.assign(low, high, [(low, high, found)])
            self.sizes = [Size(size, 0, 0)]
            self.log.clear()
            self.dropped = 0
            assert not self.lookers
