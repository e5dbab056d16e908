"""A backend with delays, to see how a cache handles them."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence

from ..backends.passing import PassingFile, SlowBackend
from ..backends.plain import PlainBackend
from ..backends.protocol import Backend, BackendFile, ObjectStat
from ..errors import Key

SLEEP_SLACK = 150e-6  # a sleep may last so much longer than requested; the rest of a delay is a busy wait


class _LatencyFile(PassingFile):
    def __init__(self, inner: BackendFile, backend: LatencyBackend) -> None:
        super().__init__(inner)
        self._backend = backend

    def stat(self) -> ObjectStat:
        self._backend._delay(self._backend.look_up)
        return self.inner.stat()

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> int:
        self._backend._delay(self._backend.read)
        return self.inner.read_into(offset, buffers)

    def write_from(self, offset: int, buffers: Sequence[memoryview]) -> int:
        self._backend._delay(self._backend.write)
        return self.inner.write_from(offset, buffers)

    def commit(self) -> str | None:
        self._backend._delay(self._backend.commit)
        return self.inner.commit()


class LatencyBackend(SlowBackend):
    """A backend around `inner`, with a delay before each call that carries bytes or commits. Delays overlap.

    Delays below 150 µs are exact to about a microsecond, but are busy waits, which keep the GIL: such short calls run
    one after the other. `delayed` is the number of calls that had a delay so far.

    Args:
        inner: does the work.
        read: seconds before each read.
        write: seconds before each write.
        commit: seconds before each commit.
        look_up: seconds before each `stat`, of the backend or of an open object.
        jitter: fraction of each delay by which it varies; 0.5: from half to one and a half of it.
        seed: of the jitter.

    Raises:
        ValueError: a negative delay, or a jitter outside of 0 to 1.
    """

    def __init__(
        self,
        inner: Backend | PlainBackend,
        *,
        read: float = 0.0,
        write: float = 0.0,
        commit: float = 0.0,
        look_up: float = 0.0,
        jitter: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__(inner)
        for name, delay in (("read", read), ("write", write), ("commit", commit), ("look_up", look_up)):
            if not isinstance(delay, int | float) or not delay >= 0:
                raise ValueError(f"{name}: {delay!r} is not a number of seconds of at least 0")
        if not isinstance(jitter, int | float) or not 0 <= jitter <= 1:
            raise ValueError(f"jitter: {jitter!r} is not a share from 0 to 1")
        self.read = read
        self.write = write
        self.commit = commit
        self.look_up = look_up
        self.jitter = jitter
        self.delayed = 0
        self._random = random.Random(seed)
        self._lock = threading.Lock()

    def open(self, key: Key, *, create: bool = False, exclusive: bool = False) -> BackendFile:
        return _LatencyFile(self.inner.open(key, create=create, exclusive=exclusive), self)

    def stat(self, key: Key) -> ObjectStat:
        self._delay(self.look_up)
        return self.inner.stat(key)

    def _delay(self, seconds: float) -> None:
        if not seconds:
            return
        end = time.perf_counter() + seconds
        with self._lock:
            self.delayed += 1
            if self.jitter:
                end += seconds * self.jitter * self._random.uniform(-1.0, 1.0)
        if (left := end - time.perf_counter() - SLEEP_SLACK) > 0:
            time.sleep(left)
        while time.perf_counter() < end:
            pass
