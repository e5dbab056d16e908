"""Keys that are busy: an open, a remove or a rename of them is under way.

An operation marks all the keys it concerns at once, waiting for busy ones while it holds none; then it lets go of the
lock, calls the backend, publishes, and frees them. So a slow or hung call delays its own keys and nothing else. A
rename marks the trees of its keys too: every key below them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass

from .engine.look import Look, Owner, nobody
from .engine.park import SLICE, Signal
from .engine.reason import Reason, during
from .engine.runner import Job
from .engine.volume import EngineVolume
from .errors import Key

__all__ = ["BusyKeys", "is_below"]


@dataclass(slots=True, eq=False)
class _Claim:
    """Who made keys busy, and what for; for reports."""

    what: str
    thread: int
    since: float
    job: Job[None] | None = None
    trees: bool = False  # the keys and all below them


class BusyKeys:
    """The busy keys of a volume. `lock` is that of its names; `alive` raises when waiting has no point any more."""

    def __init__(self, engine: EngineVolume, lock: threading.Lock, alive: Callable[[], None]) -> None:
        self._engine = engine
        self._lock = lock
        self._alive = alive
        self._busy: dict[Key, Signal] = {}
        self._next: dict[Key, list[Signal]] = {}  # who has a key after the one who has it now
        self._claims: dict[Signal, _Claim] = {}
        self._trees: dict[str, Signal] = {}  # every key below these is busy

    def __contains__(self, key: Key) -> bool:
        """The lock is held."""
        return key in self._busy

    def take(self, key: Key) -> Signal:
        """Mark a key; where somebody has it, as soon as he frees it, before those who wait. To be freed by the signal.
        The lock is held, and nobody waits.
        """
        done = self._engine.park.signal()
        if self._busy.setdefault(key, done) is not done:
            self._next.setdefault(key, []).append(done)
        return done

    def free(self, keys: Iterable[Key], done: Signal) -> None:
        """The keys are free again, as far as they were marked by this signal."""
        with self._lock:
            for key in keys:
                following = self._next.get(key, [])
                if done in following:
                    following.remove(done)
                elif self._busy.get(key) is done:
                    del self._busy[key]
                    if following:
                        self._busy[key] = following.pop(0)
                if not following:
                    self._next.pop(key, None)
            self._claims.pop(done, None)
            for tree in [tree for tree, owner in self._trees.items() if owner is done]:
                del self._trees[tree]
        if not done.is_set():
            done.set()

    def take_away(self, keys: Iterable[Key]) -> None:
        """Free keys whose call can change nothing any more, and may never return."""
        with self._lock:
            found = {key: self._busy[key] for key in keys if key in self._busy}
        for key, done in found.items():
            self.free([key], done)

    @contextmanager
    def holding(self, *keys: Key, what: str) -> Generator[None, None, None]:
        """Mark keys as busy for a block."""
        wanted, done = tuple(dict.fromkeys(keys)), self._engine.park.signal()
        try:
            self._claim_all(wanted, done, _Claim(what, threading.get_ident(), time.monotonic()))
            yield
        finally:
            self.free(wanted, done)

    def run(
        self,
        call: Callable[[], None],
        what: str,
        *keys: Key,
        within: Callable[[Callable[[], None]], None] = lambda wait: wait(),
        trees: bool = False,
    ) -> None:
        """Mark keys as busy and run a call, publishing included, on a thread of the volume. An interrupt ends only the
        waiting: what has begun is finished there, and the keys are busy until then. `within`: holds what the call needs
        while it is waited for. `trees`: every key below these keys is busy too.
        """
        self._engine.check_reentry(what, keys[0])
        wanted, done = tuple(dict.fromkeys(keys)), self._engine.park.signal()

        def run() -> None:
            try:
                call()
            finally:
                self.free(wanted, done)

        job = Job(self._engine.park, run, what=what, key=keys[0])
        try:
            claim = _Claim(what, threading.get_ident(), time.monotonic(), job, trees=trees)
            self._claim_all(wanted, done, claim)
            within(lambda: self._engine.run(job, keys[0]))
        except BaseException:
            if job.cancel():
                self.free(wanted, done)
            raise

    def _claim_all(self, wanted: tuple[Key, ...], done: Signal, claim: _Claim) -> None:
        other = self._claim(wanted, done, claim)

        def sleep() -> None:
            nonlocal other
            while other is not None:
                self._alive()
                other.wait(SLICE)
                other = self._claim(wanted, done, claim)

        def owner(look: Look) -> Owner | None:
            found = other
            return None if found is None else self._owner(look, self._claims.get(found))

        if other is not None:
            key = wanted[0]
            during(Reason("the name", self._engine.native, owner, key=key), sleep)

    def _owner(self, look: Look, claim: _Claim | None) -> Owner | None:
        """Who has the keys, for reports: a thread that waits for something, or the call that it left behind."""
        if claim is None:
            return nobody("a file of that name is being given up")
        if claim.job is not None and look.sleeping(claim.thread, claim.since) is None:
            return look.job(claim.job)
        return Owner(claim.what, f"has the name for {claim.what}", claim.thread, claim.since)

    def _claim(self, wanted: tuple[Key, ...], done: Signal, claim: _Claim) -> Signal | None:
        """Make the keys ours, unless somebody has one of them: then his signal."""
        with self._lock:
            for key in wanted:
                if key in self._busy:
                    return self._busy[key]
                if (above := self._above(key)) is not None:
                    return above
                if claim.trees and (below := self._below(key)) is not None:
                    return below
            if claim.trees:
                self._trees.update(dict.fromkeys([key for key in wanted if isinstance(key, str)], done))
            self._busy.update(dict.fromkeys(wanted, done))
            self._claims[done] = claim
            return None

    def _above(self, key: Key) -> Signal | None:
        """Who has a tree that the key is in. The lock is held."""
        if self._trees and isinstance(key, str):
            for tree, done in self._trees.items():
                if is_below(key, tree):
                    return done
        return None

    def _below(self, tree: Key) -> Signal | None:
        """Who has a key of the tree. The lock is held."""
        if isinstance(tree, str):
            for key, done in self._busy.items():
                if isinstance(key, str) and is_below(key, tree):
                    return done
        return None


def is_below(key: str, tree: str) -> bool:
    """Whether a key is that of something in a directory, as keys of paths go."""
    return key.startswith(f"{tree}/")
