"""Local bytes over another version: exactly those that this program has written (contract 2.19).

    dirty page |····▒▒▒▒▒▒········|▒▒▒▒▒|▒▒▒       ▒ written   · borrowed: of the version below, or zeros of a gap
    stored     |████████████████████████|          the other version, read from the backend
    page then  |████▒▒▒▒▒▒████████|▒▒▒▒▒|▒▒▒
    replaced   |    ▒▒·▒▒▒        |▒··▒▒|          where both have a byte, and the two differ

The other version is read before it becomes the base, so a failed read replaces nothing. Its pages stay in memory
until they are put below written bytes. A writer may borrow from the earlier version during the reads; these few pages
are read when nothing can borrow from it any longer.

The version below the local bytes is gone when another one is stored, so a byte that the other program has kept cannot
be told from one that it has changed.

Lock: the token, held by the caller.
"""

from __future__ import annotations

import errno
import re
from bisect import bisect_left, bisect_right
from operator import itemgetter
from typing import TYPE_CHECKING

from ...backends.protocol import BackendFile
from ...backends.transfers import Transfers
from ...errors import BackendProtocolError, LostRange

if TYPE_CHECKING:
    from ..file import EngineFile

STEP = 1 << 20
"""Bytes of one read."""
DIFFERENT = re.compile(rb"[^\0]+", re.DOTALL)

END_OF = itemgetter(1)

Spans = list[tuple[int, int]]


class Overlay:
    """The pages that one rebase takes from the other version, and the bytes that it replaces of it."""

    def __init__(self, file: EngineFile) -> None:
        self._file = file
        self._page = int(file.volume.cache.config.page_size)
        self._pages: dict[int, bytes] = {}
        self._replaced: Spans = []

    def read(self, stored: BackendFile, size: int) -> None:
        """Read the other version, of `size` bytes, below everything that is local. Borrowed bytes of the spool are its
        own then.
        """
        written, borrowing = self._written(), self._borrowing()
        self._take(stored, size, borrowing, written, [*written, *borrowing])
        self._file.staged_keep_written()

    def put(self) -> None:
        """Put the bytes of that version into the dirty pages that borrow from the one before."""
        for pos, page in self._pages.items():
            while not self._file.put_borrowed(pos, page):
                self._file.settle_fills(pos, pos + self._page)

    def finish(self, stored: BackendFile, size: int) -> None:
        """The other version is the base. Put its bytes, also into pages that were written since `read`."""
        late = [span for span in self._borrowing() if span[0] not in self._pages]
        self._take(stored, size, late, self._written() if late else [], late)
        self.put()
        self._file.end_at_written()

    @property
    def replaced(self) -> list[LostRange]:
        """The bytes of the other version that local ones replace with others."""
        file = self._file
        return [
            LostRange(file.key, pos, end - pos, errno.ESTALE, file.volume.name) for pos, end in _united(self._replaced)
        ]

    def _written(self) -> Spans:
        return [(pos, pos + length) for pos, length in self._file.written_ranges()]

    def _borrowing(self) -> Spans:
        """Return the dirty pages that have borrowed bytes."""
        pages = dict.fromkeys(
            at // self._page * self._page
            for pos, length in self._file.borrowed_ranges()
            for at in range(pos - pos % self._page, pos + length, self._page)
        )
        return [(pos, pos + self._page) for pos in pages]

    def _take(self, stored: BackendFile, size: int, borrowing: Spans, written: Spans, spans: Spans) -> None:
        """Read the spans, compare the written bytes, and keep the pages of `borrowing`."""
        pages = [pos for pos, _ in borrowing]
        for begin, stop in _united(spans):
            for pos in range(begin - begin % STEP, stop, STEP):
                pos, end = max(pos, begin), min(pos - pos % STEP + STEP, stop)
                theirs = read(self._file, stored, pos, min(end, size)) if pos < size else b""
                for page in pages[bisect_left(pages, pos) : bisect_left(pages, end)]:
                    found = theirs[page - pos : page - pos + self._page]
                    self._pages[page] = found.ljust(self._page, b"\0")
                last = pos + len(theirs)
                for start, to in written[bisect_right(written, pos, key=END_OF) : bisect_left(written, (last, 0))]:
                    self._compare(theirs, pos, max(start, pos), min(to, last))

    def _compare(self, theirs: bytes, base: int, pos: int, end: int) -> None:
        ours = bytearray(end - pos)
        for start, stop in self._file.staging.parts(pos, end):
            with memoryview(ours)[start - pos : stop - pos] as part:
                self._file.staging.read(start, (part,))
        self._file.read_local(pos, ours)  # a page that was written since has newer bytes than the spool
        apart = int.from_bytes(ours, "big") ^ int.from_bytes(theirs[pos - base : end - base], "big")
        for run in DIFFERENT.finditer(apart.to_bytes(end - pos, "big")):
            self._replaced.append((pos + run.start(), pos + run.end()))


def _united(spans: Spans) -> Spans:
    united: Spans = []
    for pos, end in sorted(spans):
        if united and pos <= united[-1][1]:
            pos, end = united[-1][0], max(end, united.pop()[1])
        united.append((pos, end))
    return united


def read(file: EngineFile, stored: BackendFile, pos: int, end: int) -> bytes:
    """Read [pos, end) of the stored version, which has these bytes."""
    unit = int(file.limits().read_unit)
    begin = pos - pos % unit
    found = Transfers(stored, file.volume.backend, file.key).fetch(begin, -(-end // unit) * unit - begin)
    if begin + len(found) < end:
        what = f"read_into({begin + len(found)}) returned nothing of the bytes up to {end}"
        raise BackendProtocolError(what, file.key)
    return bytes(found[pos - begin : end - begin])
