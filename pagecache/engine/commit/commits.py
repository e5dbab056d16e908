"""Commits of one file: the record of failed ones, the call, and the effects of success."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING
from weakref import WeakSet

from ...native import COMMIT_CALL

if TYPE_CHECKING:
    from ..file import EngineFile

__all__ = ["NO_COMMITS", "Commits", "call_commit", "stored"]


class Commits:
    """Failed commits and refused saves of one file since the last success (overdue.py), and uncommitted holes of a
    backend that can roll back. Made with the first of either.

    Lock: `EngineFile.lock`, held by the caller of every method. Holes are added under the token, too.
    """

    __slots__ = (
        "_callers",
        "attempts",
        "error",
        "failed",
        "failing_since",
        "holes",
        "next_try",
        "not_before",
        "parked",
        "round",
        "round_since",
        "stamp",
        "trying",
    )

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.attempts = 0
        self.failed = 0
        """Failed commits in all."""
        self.round = 0
        """Failed commits since a caller or the flusher began to try anew: the number that the policy bounds."""
        self.round_since = 0.0
        self.failing_since: float | None = None
        """Time of the first failure; None: no save is overdue."""
        self.stamp = 0
        """Epoch of the changes that are overdue."""
        self.parked = False
        """Whether the policy gives no quick retry."""
        self.next_try: float | None = None
        """Time of the flusher's next try; None: only a caller makes one."""
        self.trying = False
        """Whether the flusher's try has begun, and no caller has asked for a commit since."""
        self._callers: WeakSet[object] = WeakSet()
        self.not_before = 0.0
        self.holes: list[tuple[int, int]] = []

    def fail(self, error: BaseException, stamp: int, now: float) -> None:
        """Record a failed commit of the changes up to `stamp`."""
        self.fall_due(stamp, now)
        self.attempts += 1
        self.failed += 1
        self.round_since = self.round_since if self.round else now
        self.round += 1
        self.error = error
        self.trying = False

    def fall_due(self, stamp: int, now: float) -> None:
        """Record that the save of the changes up to `stamp` has failed."""
        self.failing_since = now if self.failing_since is None else self.failing_since
        self.stamp = max(self.stamp, stamp)

    def park(self) -> None:
        self.parked = True

    def try_at(self, at: float | None) -> None:
        """Plan the flusher's next try."""
        self.next_try = at

    def begin_try(self, again: float) -> None:
        """Record that the flusher begins a try; `again`: the time of the next one unless it fails before."""
        self.next_try, self.trying, self.round = again, True, 0

    def asked(self, first: bool) -> None:
        """Record that a caller asks for a commit; `first`: for the first time."""
        self.trying = False
        if first:
            self.round = 0

    def set_caller(self, caller: object, makes_it: bool) -> None:
        """Record whether a caller makes the next try."""
        (self._callers.add if makes_it else self._callers.discard)(caller)

    def has_callers(self) -> bool:
        return len(self._callers) > 0

    def end(self) -> None:
        """Record that no save is overdue any longer."""
        self.failing_since, self.stamp, self.parked, self.next_try, self.trying = None, 0, False, None, False

    def wait_until(self, at: float) -> None:
        """Start no commit of its own accord before `at`."""
        self.not_before = at

    def note_hole(self, start: int, end: int) -> None:
        self.holes.append((start, end))

    def forget_holes(self) -> None:
        """Forget the holes: they are committed, or the backend has forgotten them."""
        self.holes.clear()

    def forget_failures(self) -> None:
        """Forget failures of an earlier backend. A save that is overdue stays so, and is tried at once."""
        if self.failed:
            self.error, self.attempts, self.round, self.not_before = None, 0, 0, 0.0
        if self.failing_since is not None:
            self.next_try = 0.0

    def succeed(self) -> tuple[BaseException | None, int]:
        """Start anew after a success; return the last error, and the number of failed commits before it."""
        failed = self.error, self.attempts
        if self is not NO_COMMITS:
            self.error, self.attempts, self.round, self.not_before = None, 0, 0, 0.0
            self.holes.clear()
        return failed


NO_COMMITS = Commits()
"""The commits of every file without a failed one, and without holes."""


def call_commit(file: EngineFile, call: Callable[[], str | None]) -> str | None:
    """Make the commit call, and record its duration."""
    volume = file.volume
    began, since, failed = volume.clock.now(), time.monotonic(), True
    try:
        version = call()
        failed = False
        return version
    finally:
        volume.cache.native.trace_call("commit", file.key, file.native.id, since, failed)
        volume.native.count_call(COMMIT_CALL, volume.clock.now() - began)


def stored(file: EngineFile, version: str | None, changes: int | None, finish: Callable[[], None]) -> None:
    """Record a commit that was carried out; `finish` wakes its waiters.

    `changes`: this cache's changes that had begun before the call; None: some of them may have run beside it.
    """
    with file.lock:  # until the events are queued
        versions = file.versions
        alone = versions.changes == changes
        failed, tries = file.commits.succeed()
        versions.count_change(stale=False)
        if version is not None:
            # Concurrent direct writes may have made another version of it since.
            versions.commit(version, stale=not alone and not file.limits().commit_on_close)
        spooled = file.staging.committed()  # first: `finish` releases the token
        finish()
        file.staging.drop(spooled)
        if file.commits.failing_since is not None and file.native.sync_done(file.commits.stamp):
            file.commits.end()
        what = f"the commit went through after {tries} that failed"
        if failed is not None:
            file.volume.emit("repaired", file.key, message=what, next="it is stored")
        file.volume.emit("committed", file.key, message="committed", next="it is stored")
    file.volume.pass_on_warnings()
    if failed is not None:
        file.volume.say(logging.INFO, "data that was saved after all", what, "it is stored", file.key)
    if file.volume.mirror is not None:
        file.volume.mirror.committed(file)
    file.volume.say(logging.DEBUG, "commits", "committed", key=file.key)
