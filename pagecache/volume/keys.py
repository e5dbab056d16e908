"""Busy keys: those with a running open, remove or rename.

An operation marks all its keys at once, waiting for busy ones while it holds none; then it releases the lock, calls the
backend, publishes, and frees the keys. So a slow or hung call delays only its own keys. A rename marks the trees of its
keys too: every key below them.

A signal handler may raise in the middle of freeing. So a key that a block of the caller's own thread holds is busy only
while the lock of that block is locked: a `with` releases it in C. The next operation frees the keys of a block that has
ended.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial

from ..engine.attempts import Attempts
from ..engine.park import SLICE, Signal
from ..engine.report.reason import Reason, during
from ..engine.volume import EngineVolume
from ..errors import Key


@dataclass(slots=True, eq=False)
class Claim:
    """The keys that an operation makes busy. `done`: set when they are free; made by a waiter.

    For the block of a caller: `with claim.block, claim:`.
    """

    busy: BusyKeys
    what: str
    keys: tuple[Key, ...]
    tries: Attempts | None
    done: Signal | None = None
    trees: bool = False  # the keys and all below them
    block: threading.Lock = field(default_factory=threading.Lock)  # locked while the keys are needed

    def __enter__(self) -> None:
        try:
            if (other := self.busy.mark(self)) is not None:
                self.busy.outlast(self, other)
        except BaseException:
            self.free()
            raise

    def free(self, *exc: object) -> None:
        """Free the keys. After an interrupt, a second call completes this."""
        with self.busy.lock:
            self.busy.drop(self)
        if self.done is not None and not self.done.is_set():
            self.done.set()

    __exit__ = free


class _Hold:
    """Keys of a call with several attempts: their last holder frees them.

    An attempt holds them while it runs, on a thread of the volume, also after its caller has stopped waiting. The
    caller holds them before, and between two attempts.
    """

    def __init__(self, claim: Claim, tries: Attempts, ended: Callable[[], None]) -> None:
        self._claim = claim
        self._tries = tries
        self._ended = ended
        self._lock = threading.Lock()  # guards the two flags; held briefly
        self._callers = True
        self._left = False

    def _free(self) -> None:
        try:
            self._ended()
        except BaseException:  # an interrupt: no other call has the keys before this is complete
            self._ended()
            raise
        finally:
            self._claim.free()

    def run(self, call: Callable[[], None]) -> None:
        """Run one attempt, on a thread of the volume, unless the caller has left."""
        with self._lock:
            if self._left:
                return
            self._callers = False
        try:
            call()
        except BaseException as error:
            with self._lock:
                self._callers = not self._left and self._tries.judge(error) is not None
            raise
        finally:
            if not self._callers:
                self._free()

    def leave(self) -> None:
        """Release the caller's hold: it stops waiting, or cannot begin."""
        with self._lock:
            self._left, callers = True, self._callers
        if callers:
            self._free()


class BusyKeys:
    """The busy keys of a volume. `lock` is that of its inode table; `alive` raises when waiting is pointless."""

    def __init__(self, engine: EngineVolume, lock: threading.Lock, alive: Callable[[], None]) -> None:
        self._engine = engine
        self.lock = lock
        self._alive = alive
        self._busy: dict[Key, Claim] = {}

    def __contains__(self, key: Key) -> bool:
        """Return whether a key is busy, by itself or below another one. The lock is held."""
        return key in self._busy or self._above(key) is not None

    def holding(self, *keys: Key, what: str, tries: Attempts | None = None) -> Claim:
        """Return the claim of a block on keys, which are not marked yet. `tries`: a call with a deadline."""
        return Claim(self, what, keys, tries)

    def drop(self, claim: Claim) -> None:
        """Drop the keys of a claim. The lock is held."""
        for key in claim.keys:
            if self._busy.get(key) is claim:
                del self._busy[key]

    def take_away(self, keys: Iterable[Key]) -> None:
        """Free the keys of a call that can no longer change anything, and may never return."""
        with self.lock:
            found = [self._busy[key] for key in keys if key in self._busy]
        for claim in found:
            claim.free()

    def run(
        self,
        call: Callable[[], None],
        tries: Attempts,
        *keys: Key,
        within: Callable[[Callable[..., object]], None],
        trees: bool,
        ended: Callable[[], None],
    ) -> None:
        """Mark keys as busy and run a call, including its publishing, on a thread of the volume, with retries after
        transient errors. An interrupt or a deadline ends only the wait: a begun call is completed there, and the keys
        are busy until then.

        Args:
            call: one attempt.
            tries: the call of the program.
            keys: of the call.
            within: context of the call while it is waited for.
            trees: every key below these keys is busy too.
            ended: called when no attempt runs or follows, before the keys are free.
        """
        claim = Claim(self, tries.what, keys, tries, trees=trees)
        claim.block.acquire()  # for good: the keys are needed until they are freed
        hold = _Hold(claim, tries, ended)
        try:
            if (other := self.mark(claim)) is not None:
                self.outlast(claim, other)
            within(partial(tries.repeated, partial(hold.run, call), whole=True))
        except BaseException:
            try:
                hold.leave()
            finally:
                hold.leave()  # completes the first one after another interrupt
            raise

    def outlast(self, claim: Claim, busy: Claim) -> None:
        """Mark the keys of a claim, after waiting for busy ones until the deadline."""
        most, tries = SLICE, claim.tries

        def sleep() -> None:
            nonlocal most
            other: Claim | None = busy
            while other is not None:
                self._alive()
                if tries is not None:
                    if tries.deadline.passed():
                        raise tries.late(f"the name is busy with {other.what}")
                    most = min(SLICE, tries.deadline.left())
                assert other.done is not None
                other.done.wait(most)
                other = self.mark(claim)

        during(Reason("the name", self._engine.native, key=claim.keys[0]), sleep)

    def mark(self, claim: Claim) -> Claim | None:
        """Mark the keys, or return a claim that has one of them."""
        with self.lock:
            while self._busy and (other := self._holder(claim)) is not None:
                if other.block.locked():
                    other.done = other.done or Signal()
                    return other
                self.drop(other)
            self._busy.update(dict.fromkeys(claim.keys, claim))
            return None

    def _holder(self, claim: Claim) -> Claim | None:
        """Return the holder of a key that a claim concerns. The lock is held."""
        for key in claim.keys:
            if (found := self._busy.get(key) or self._above(key)) is not None:
                return found
            if claim.trees and isinstance(key, str):
                for other, found in self._busy.items():
                    if isinstance(other, str) and is_below(other, key):
                        return found
        return None

    def _above(self, key: Key) -> Claim | None:
        """Return the holder of a tree that contains the key. The lock is held."""
        for tree in above(key):
            if (found := self._busy.get(tree)) and found.trees:
                return found
        return None


def above(key: Key) -> Iterator[str]:
    """Yield the directories above a key, by its path."""
    if isinstance(key, str):
        at = key.rfind("/")
        while at > 0:
            yield key[:at]
            at = key.rfind("/", 0, at)


def is_below(key: str, tree: str) -> bool:
    """Return whether a key lies below a directory, by its path."""
    return key.startswith(f"{tree}/")
