"""Check that the bytes of a backend call do not change until the call returns [K7, T-11].

This layer between cache and backend copies the bytes of each write, and compares them when the call has returned.
Direct writes send the user's own memory, which may be a view that others change: while such a copy runs, the check is
off.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence

from pagecache.backends.passing import PassingBackend, PassingFile
from pagecache.backends.protocol import Backend, BackendFile
from pagecache.errors import Key

__all__ = ["Witness"]

Call = Callable[[int, Sequence[memoryview]], int]


class Witness(PassingBackend):
    """A layer over the inner backend; `seen` lists the violations."""

    def __init__(self, inner: Backend) -> None:
        super().__init__(inner)
        self.seen: list[str] = []
        self._lock = threading.Lock()
        self._blind = self._blinded = 0  # running copies, and copies begun so far

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
        return self._witness.watch(self._key, self.inner.write_from, offset, buffers)
