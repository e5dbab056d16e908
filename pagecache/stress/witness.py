"""Check that the bytes of a backend call do not change until the call returns [K7, T-11].

This layer between cache and backend copies the bytes of each write, and compares them when the call has returned. It
also counts which calls on one object overlap in time: only then does a missing lock in a backend matter. Direct writes
send the user's own memory, which may be a view that others change: while such a copy runs, the check is off.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from pagecache.backends.passing import PassingBackend, PassingFile
from pagecache.backends.protocol import Backend, BackendFile
from pagecache.errors import Key

__all__ = ["Witness"]

Call = Callable[[int, Sequence[memoryview]], int]
Span = tuple[str, int, int]
"""A method, and the range of one call."""
PAIRS_MAX = 1000  # pairs of calls, for each object
SHOWN = 3


class Witness(PassingBackend):
    """A layer over the inner backend; `seen` lists the violations."""

    def __init__(self, inner: Backend) -> None:
        super().__init__(inner)
        self.seen: list[str] = []
        self._lock = threading.Lock()
        self._blind = self._blinded = 0  # running copies, and copies begun so far
        self._running: dict[Key, list[Span]] = {}
        self._together: dict[Key, Counter[tuple[Span, Span]]] = {}

    def open(self, key: Key, *, create: bool = False, exclusive: bool = False) -> BackendFile:
        return _File(self.inner.open(key, create=create, exclusive=exclusive), self, key)

    @contextlib.contextmanager
    def blind(self) -> Iterator[None]:
        """Turn the check off during a write from memory that may change."""
        with self._lock:
            self._blind += 1
            self._blinded += 1
        try:
            yield
        finally:
            with self._lock:
                self._blind -= 1

    @contextlib.contextmanager
    def counted(self, key: Key, method: str, offset: int, buffers: Sequence[memoryview]) -> Iterator[None]:
        """Count the calls that overlap this one in time on its object."""
        span = method, offset, offset + sum(map(len, buffers))
        with self._lock:
            running = self._running.setdefault(key, [])
            pairs = self._together.setdefault(key, Counter())
            for other in running:
                pair = (span, other) if span <= other else (other, span)
                two_reads = method == other[0] == "read_into"
                if not two_reads and (pair in pairs or len(pairs) < PAIRS_MAX):
                    pairs[pair] += 1
            running.append(span)
        try:
            yield
        finally:
            with self._lock:
                running.remove(span)

    def side_by_side(self, key: Key, low: int, high: int) -> str:
        """Return which calls on an object overlapped in time; "" if none did.

        Pairs of two writes, which lose updates, come before pairs with a read; of each those next to [low, high) first.
        """
        with self._lock:
            pairs = Counter(self._together.get(key, ()))

        def order(pair: tuple[Span, Span]) -> tuple[bool, int]:
            reads = any(call == "read_into" for call, _, _ in pair)
            return reads, sum(max(0, begin - high, low - end) for _, begin, end in pair)

        near = sorted(pairs, key=order)[:SHOWN]
        shown = [
            f"{one} [{begin}, {end}) beside {other} [{first}, {last})"
            for (one, begin, end), (other, first, last) in near
        ]
        return f"{', '.join(shown)}; {pairs.total()} such pairs in all" if shown else ""

    def watch(self, key: Key, call: Call, offset: int, buffers: Sequence[memoryview]) -> int:
        """Make a call that sends bytes."""
        with self._lock:
            blind, blinded = self._blind, self._blinded
        given = b"".join(buffers)
        try:
            return call(offset, buffers)
        finally:
            kept = b"".join(buffers)
            with self._lock:
                if not blind and blinded == self._blinded and kept != given:
                    first = next(at for at, (one, other) in enumerate(zip(given, kept, strict=True)) if one != other)
                    self.seen.append(f"{key!r}: byte {offset + first} changed while a call had it")


class _File(PassingFile):
    def __init__(self, inner: BackendFile, witness: Witness, key: Key) -> None:
        super().__init__(inner)
        self._witness = witness
        self._key = key

    def write_from(self, offset: int, buffers: Sequence[memoryview]) -> int:
        with self._witness.counted(self._key, "write_from", offset, buffers):
            return self._witness.watch(self._key, self.inner.write_from, offset, buffers)

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> int:
        with self._witness.counted(self._key, "read_into", offset, buffers):
            return self.inner.read_into(offset, buffers)
