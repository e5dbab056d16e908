"""Sees that bytes which a backend was given for a call stay what they are until the call returns [K7, T-11].

It stands between the cache and the backend, keeps what each write was given, and compares when the call has returned.
What a user writes past the cache is his own memory, and may be a view that others change: while such a copy runs,
nothing is said.
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
    """The inner backend; `seen` is what it had to see."""

    def __init__(self, inner: Backend) -> None:
        super().__init__(inner)
        self.seen: list[str] = []
        self._lock = threading.Lock()
        self._blind = self._blinded = 0  # copies that run, and that began so far

    def open(self, key: Key, *, create: bool = False, exclusive: bool = False) -> BackendFile:
        return _File(self.inner.open(key, create=create, exclusive=exclusive), self, key)

    @contextlib.contextmanager
    def blind(self) -> Iterator[None]:
        """Somebody writes from memory that may change."""
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

    def _stage(self, offset: int, buffers: Sequence[memoryview]) -> int:
        stage: Call = self.inner.stage  # type: ignore[attr-defined]
        return self._witness.watch(self._key, stage, offset, buffers)
