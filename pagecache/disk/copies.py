"""Which bytes of an object are on disk, and where: its *copy*.

    object      |---- chunk 0 ----|---- chunk 1 ----|- ...          of 64 MiB each, loaded when they are used
    visible       [=====]  [==]      [=========]
    extents       [=====|==]         [=========]                     one may be covered in part by later bytes

A copy belongs to one version of one object of one volume. A commit of this cache makes it a copy of the next version:
what the commit has changed is cut out of it, or is laid over it. A copy of any other version is another copy.

The catalogue has the chunks as of the last `save`. Both may lead to extents that are gone or were never written: these
are told apart by their addresses and checksums, and are found when they are read.
"""

from __future__ import annotations

import threading
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from typing import NamedTuple

from ..errors import Key

CHUNK = 64 << 20
CUT_MAX = 1024
"""Chunks that are cut one by one; beyond that all that follow go too."""
COLUMNS = "IIIIQ"
"""Of a chunk, for each visible range: where it begins in the chunk, its length, what precedes it in its extent, length
of the extent, address of the extent."""
ENTRY = sum(array(column).itemsize for column in COLUMNS)


class Found(NamedTuple):
    """Visible bytes: `length` of them, behind `skip` bytes of an extent that begins at `offset` of the object."""

    address: int
    extent: int  # bytes
    offset: int
    skip: int
    length: int


def encoded(key: Key) -> bytes | None:
    """Return a key as the catalogue has it; None: objects with such keys are not kept."""
    if isinstance(key, str):
        return b"s" + key.encode("utf-8", "surrogatepass")
    return b"b" + key if isinstance(key, bytes) else None


def below(key: bytes) -> tuple[bytes, bytes]:
    """Return the encoded keys between which those of a directory are, by its own."""
    return key + b"/", key + b"0"


class Chunk:
    """The visible ranges that begin in one chunk: ascending, disjoint."""

    __slots__ = ("_columns",)

    def __init__(self, packed: bytes = b"", is_live: Callable[[int], bool] | None = None) -> None:
        """`is_live`: leave out those whose extents are gone."""
        count = len(packed) // ENTRY
        self._columns = tuple(array(column) for column in COLUMNS)
        at = 0
        for column in self._columns:
            column.frombytes(packed[at : at + count * column.itemsize])
            at += count * column.itemsize
        if is_live is not None:
            self.keep(is_live)

    def keep(self, is_live: Callable[[int], bool]) -> None:
        """Remove the ranges whose extents are gone."""
        kept = [k for k, address in enumerate(self._columns[4]) if is_live(address)]
        if len(kept) < len(self):
            self._columns = tuple(array(column.typecode, [column[k] for k in kept]) for column in self._columns)

    def __len__(self) -> int:
        return len(self._columns[0])

    def packed(self) -> bytes:
        return b"".join(column.tobytes() for column in self._columns)

    def highest(self) -> int:
        """Return the highest address; 0: there is none."""
        return max(self._columns[4], default=0)

    def at(self, pos: int) -> tuple[int, int, int, int, int] | None:
        """Return begin, length, skip, extent and address of the range with this byte."""
        k = bisect_right(self._columns[0], pos) - 1
        if k < 0 or pos >= self._columns[0][k] + self._columns[1][k]:
            return None
        begins, lengths, skips, extents, addresses = self._columns
        return begins[k], lengths[k], skips[k], extents[k], addresses[k]

    def gaps(self, begin: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield what is not visible of [begin, end)."""
        begins, lengths = self._columns[:2]
        for k in range(max(bisect_right(begins, begin) - 1, 0), len(begins)):
            if begins[k] >= end:
                break
            if begin < begins[k]:
                yield begin, begins[k]
            begin = max(begin, begins[k] + lengths[k])
        if begin < end:
            yield begin, end

    def cut(self, begin: int, end: int) -> bool:
        """Remove [begin, end); return whether any of it was there."""
        first, last, left, right = self._covered(begin, end)
        if first < last:
            self._replace(first, last, [*left, *right])
        return first < last

    def insert(self, begin: int, length: int, skip: int, extent: int, address: int) -> None:
        """Make a part of an extent visible, over all others; arguments as in COLUMNS."""
        first, last, left, right = self._covered(begin, begin + length)
        self._replace(first, last, [*left, (begin, length, skip, extent, address), *right])

    def _covered(self, begin: int, end: int) -> tuple[int, int, list[tuple[int, ...]], list[tuple[int, ...]]]:
        """Return the first range that overlaps [begin, end), the one behind the last, and what lies to both sides."""
        begins, lengths = self._columns[:2]
        first = bisect_right(begins, begin) - 1
        first += first < 0 or begins[first] + lengths[first] <= begin
        last = bisect_left(begins, end)
        left: list[tuple[int, ...]] = []
        right: list[tuple[int, ...]] = []
        if first < last:
            at, length, skip, extent, address = (column[first] for column in self._columns)
            if at < begin:
                left.append((at, begin - at, skip, extent, address))
            at, length, skip, extent, address = (column[last - 1] for column in self._columns)
            if at + length > end:
                right.append((end, at + length - end, skip + end - at, extent, address))
        return first, max(first, last), left, right

    def _replace(self, first: int, last: int, entries: list[tuple[int, ...]]) -> None:
        """At once: an interrupt leaves the old columns or the new ones."""
        values = zip(*entries, strict=True) if entries else ((),) * len(COLUMNS)
        self._columns = tuple(
            column[:first] + array(column.typecode, value) + column[last:]
            for column, value in zip(self._columns, values, strict=True)
        )

    def moved(self, before: int, now: int) -> bool:
        """Replace an address; return whether it was there."""
        if before not in self._columns[4]:
            return False
        addresses = array(COLUMNS[4], [now if address == before else address for address in self._columns[4]])
        self._columns = (*self._columns[:4], addresses)
        return True

    def entries(self) -> Iterator[tuple[int, ...]]:
        """Yield all visible ranges, as in COLUMNS."""
        return zip(*self._columns, strict=True)


class Copy:
    """The bytes on disk of one version of an object.

    Attributes:
        number: in checksums and the catalogue; never used again.
        version: None before the first commit of a new object.
        lock: guards all but `number`; held briefly, and while a chunk is loaded.
        turn: grows with each cut and each new version: bytes that were read before are not kept.
    """

    def __init__(
        self, number: int, volume: str, key: bytes, version: str | None, load: Callable[[int, int], Chunk]
    ) -> None:
        self.number, self.volume, self.key, self.version = number, volume, key, version
        self.lock = threading.Lock()
        self.turn = 0
        self.known = False  # the catalogue has it
        self.replaced = False  # no file finds it: a save would bring back a name that has changed
        self._load = load
        self._chunks: dict[int, Chunk] = {}
        self._changed: set[int] = set()  # chunks that differ from the catalogue
        self._cut: int | None = None  # the catalogue's chunks from this one on are void
        self._saving: int | None = None  # as `_cut`, of a save that runs
        self.high = 0  # the highest address so far

    # Callers hold the lock.

    def _chunk(self, number: int) -> Chunk:
        chunk = self._chunks.get(number)
        if chunk is None:
            void = not self.known or any(cut is not None and number >= cut for cut in (self._cut, self._saving))
            try:
                chunk = Chunk() if void else self._load(self.number, number)
            except OSError:  # what cannot be read cannot be cut either: the next save replaces it
                chunk = Chunk()
                self._changed.add(number)
            self._chunks[number] = chunk
        return chunk

    def find(self, pos: int) -> Found | None:
        """Return where the byte at `pos` is, and those that follow."""
        base = pos - pos % CHUNK
        entry = self._chunk(pos // CHUNK).at(pos - base)
        if entry is None:
            return None
        begin, length, skip, extent, address = entry
        begin += base
        return Found(address, extent, begin - skip, skip + pos - begin, begin + length - pos)

    def gaps(self, begin: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield what is not on disk of [begin, end), in pieces of one chunk each."""
        while begin < end:
            base = begin - begin % CHUNK
            stop = min(end, base + CHUNK)
            for low, high in self._chunk(begin // CHUNK).gaps(begin - base, stop - base):
                yield base + low, base + high
            begin = stop

    def renamed(self, key: bytes) -> None:
        """Set the name of its object."""
        self.key = key

    def put(self, begin: int, length: int, address: int) -> None:
        """Make an extent visible that lies in one chunk."""
        self._chunk(begin // CHUNK).insert(begin % CHUNK, length, 0, length, address)
        self._changed.add(begin // CHUNK)
        self.high = max(self.high, address)

    def cut(self, begin: int, end: int | None) -> None:
        """Remove [begin, end), which has changed; None: all from there on."""
        self.turn += 1
        self._remove(begin, end)

    def _remove(self, begin: int, end: int | None) -> None:
        first, start = divmod(begin, CHUNK)
        if end is not None and end - begin > CUT_MAX * CHUNK:
            end = None
        if start:
            stop = CHUNK if end is None else min(end - first * CHUNK, CHUNK)
            if self._chunk(first).cut(start, stop):
                self._changed.add(first)
            first += 1
        if end is None:
            for number in [number for number in self._chunks if number >= first]:
                self._chunks[number] = Chunk()
            self._changed = {number for number in self._changed if number < first}
            self._cut = first if self._cut is None else min(self._cut, first)
            return
        for number in range(first, -(-end // CHUNK)):
            stop = min(end - number * CHUNK, CHUNK)
            if stop == CHUNK:
                self._chunks[number] = Chunk()
                self._changed.add(number)
            elif self._chunk(number).cut(0, stop):
                self._changed.add(number)

    def drop(self, found: Found, is_live: Callable[[int], bool]) -> None:
        """Forget the visible bytes of an extent that cannot be read, and of those near it that are gone. What a read
        beside it has read may be kept.
        """
        begin = found.offset + found.skip
        self._remove(begin, begin + found.length)
        self._chunk(begin // CHUNK).keep(is_live)

    def changes(self) -> tuple[int | None, dict[int, Chunk]]:
        """Take what the catalogue lacks: the chunk from which on all are void, and then those that differ. `saved` or
        `not_saved` follows.
        """
        cut, changed = self._cut, {number: self._chunks[number] for number in self._changed}
        self._saving = cut
        self._cut = None
        self._changed = set()
        return cut, changed

    def saved(self) -> None:
        """Record that the catalogue has what `changes` has returned. Takes the lock."""
        with self.lock:
            self.known, self._saving = True, None

    def not_saved(self, cut: int | None, numbers: tuple[int, ...]) -> None:
        """Take back what `changes` has returned: it was not saved. Takes the lock."""
        with self.lock:
            self._saving = None
            if cut is not None:
                self._cut = cut if self._cut is None else min(self._cut, cut)
            self._changed.update(number for number in numbers if number in self._chunks)

    def void(self) -> None:
        """Make it a copy of no version. Takes the lock."""
        with self.lock:
            self.version = None
            self.turn += 1

    def lose_saved(self) -> None:
        """Record that the catalogue has nothing any longer. Takes the lock."""
        with self.lock:
            self.known = False
            self._cut, self._saving, self._changed = None, None, set(self._chunks)

    def moved(self, chunk: int, before: int, now: int) -> None:
        """Record another address of an extent."""
        if chunk in self._chunks and self._chunks[chunk].moved(before, now):
            self._changed.add(chunk)
            self.high = max(self.high, now)

    def lay(self, other: Copy) -> None:
        """Make all visible bytes of another copy visible here, over all others."""
        for number, chunk in other._chunks.items():
            own = self._chunk(number)
            for entry in chunk.entries():
                own.insert(*entry)
            self._changed.add(number)
        self.high = max(self.high, other.high)

    def size(self) -> int:
        """Return the number of loaded ranges."""
        return sum(map(len, self._chunks.values()))

    def release(self) -> None:
        """Let go of chunks that the catalogue has."""
        if self._cut is None:
            self._chunks = {number: self._chunks[number] for number in self._changed}
