"""A backend whose calls take virtual time: each begins, lasts, and ends, and other calls overtake it."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from pagecache.backends.passing import PassingBackend, PassingFile
from pagecache.backends.protocol import Backend, BackendFile, ObjectStat
from pagecache.errors import Key
from pagecache.native.simulated import passed
from pagecache.stress.deterministic.scheduler import Scheduler

__all__ = ["SteppedBackend"]

T = TypeVar("T")
AT_ONCE = 0.4  # fraction of calls that take no time
MEAN = 0.0005  # mean seconds of the others, exponential
TAIL, TAIL_MEAN = 0.02, 0.05  # fraction and mean seconds of slow calls


class SteppedBackend(PassingBackend):
    """A backend around an inner one; the bytes of a call move at one moment between its begin and end."""

    def __init__(self, inner: Backend, scheduler: Scheduler) -> None:
        super().__init__(inner)
        self._scheduler = scheduler

    def _last(self, rng: random.Random) -> None:
        chance = rng.random()
        if chance < AT_ONCE:
            passed("call")
        else:
            mean = TAIL_MEAN if chance > 1 - TAIL else MEAN
            self._scheduler.sleep("the backend", rng.expovariate(1 / mean))

    def step(self, call: Callable[..., T], *args: Any, **options: Any) -> T:
        """Make a call of the inner backend in virtual time."""
        rng = self._scheduler.rng
        self._last(rng)
        try:
            return call(*args, **options)
        finally:
            self._last(rng)

    def open(self, key: Key, *, create: bool = False, exclusive: bool = False) -> BackendFile:
        return _SteppedFile(self.step(self.inner.open, key, create=create, exclusive=exclusive), self)

    def stat(self, key: Key) -> ObjectStat:
        return self.step(self.inner.stat, key)

    def remove(self, key: Key) -> None:
        self.step(self.inner.remove, key)

    def rename(self, src: Key, dst: Key, *, replace: bool = True) -> None:
        self.step(self.inner.rename, src, dst, replace=replace)

    def sync(self) -> None:
        self.step(self.inner.sync)

    def close(self) -> None:
        self.step(self.inner.close)


class _SteppedFile(PassingFile):
    def __init__(self, inner: BackendFile, backend: SteppedBackend) -> None:
        super().__init__(inner)
        self._step = backend.step

    def stat(self) -> ObjectStat:
        return self._step(self.inner.stat)

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> int:
        return self._step(self.inner.read_into, offset, buffers)

    def write_from(self, offset: int, buffers: Sequence[memoryview]) -> int:
        return self._step(self.inner.write_from, offset, buffers)

    def truncate(self, size: int) -> None:
        self._step(self.inner.truncate, size)

    def commit(self) -> str | None:
        return self._step(self.inner.commit)

    def _punch_hole(self, offset: int, length: int) -> None:
        self._optional("punch_hole", offset, length)

    def _rollback(self) -> None:
        self._optional("rollback")

    def _close(self) -> None:
        self._optional("close")

    def _optional(self, method: str, *args: Any) -> Any:
        return self._step(getattr(self.inner, method), *args)
