"""Keys that are busy: an open, a remove or a rename of them is under way.

An operation marks all the keys it concerns at once, waiting for busy ones while it holds none; then it lets go of the
lock, calls the backend, publishes, and frees them. So a slow or hung call delays its own keys and nothing else.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager

from .engine.park import SLICE, Signal
from .engine.runner import Job
from .engine.volume import EngineVolume
from .errors import Key

__all__ = ["BusyKeys"]


class BusyKeys:
    """The busy keys of a volume. `lock` is that of its names; `alive` raises when waiting has no point any more."""

    def __init__(self, engine: EngineVolume, lock: threading.Lock, alive: Callable[[], None]) -> None:
        self._engine = engine
        self._lock = lock
        self._alive = alive
        self._busy: dict[Key, Signal] = {}

    def __contains__(self, key: Key) -> bool:
        """The lock is held."""
        return key in self._busy

    def take(self, key: Key) -> Signal:
        """Mark a key, unless it is busy already; to be freed by the signal. The lock is held, and nobody waits."""
        done = self._engine.park.signal()
        self._busy.setdefault(key, done)
        return done

    def free(self, keys: Iterable[Key], done: Signal) -> None:
        """The keys are free again, as far as they were marked by this signal."""
        with self._lock:
            for key in keys:
                if self._busy.get(key) is done:
                    del self._busy[key]
        if not done.is_set():
            done.set()

    @contextmanager
    def holding(self, *keys: Key) -> Generator[None, None, None]:
        """Mark keys as busy for a block."""
        wanted, done = set(keys), self._engine.park.signal()
        try:
            self._claim_all(wanted, done)
            yield
        finally:
            self.free(wanted, done)

    def run(
        self,
        call: Callable[[], None],
        what: str,
        *keys: Key,
        within: Callable[[Callable[[], None]], None] = lambda wait: wait(),
    ) -> None:
        """Mark keys as busy and run a call, publishing included, on a thread of the volume. An interrupt ends only the
        waiting: what has begun is finished there, and the keys are busy until then. `within`: holds what the call needs
        while it is waited for.
        """
        self._engine.check_reentry(what, keys[0])
        wanted, done = set(keys), self._engine.park.signal()

        def run() -> None:
            try:
                call()
            finally:
                self.free(wanted, done)

        job = Job(self._engine.park, run, what=what, key=keys[0])
        try:
            self._claim_all(wanted, done)
            within(lambda: self._engine.run(job, keys[0]))
        except BaseException:
            if job.cancel():
                self.free(wanted, done)
            raise

    def _claim_all(self, wanted: set[Key], done: Signal) -> None:
        while (other := self._claim(wanted, done)) is not None:
            self._alive()
            other.wait(SLICE)

    def _claim(self, wanted: set[Key], done: Signal) -> Signal | None:
        """Make the keys ours, unless somebody has one of them: then his signal."""
        with self._lock:
            for key in wanted:
                if key in self._busy:
                    return self._busy[key]
            self._busy.update(dict.fromkeys(wanted, done))
            return None
