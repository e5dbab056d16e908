"""Commits of one file: the record of failed ones, and uncommitted holes."""

from __future__ import annotations

from weakref import WeakSet


class Commits:
    """Failed commits and refused saves of one file since the last success (overdue.py), and uncommitted holes of a
    backend that can roll back. Made with the first of either.

    Lock: `EngineFile.lock`, held by whoever calls a method or changes `holes`: under the token, too.
    """

    __slots__ = (
        *("attempts", "callers", "error", "failed", "failing_since", "holes", "next_try", "not_before", "parked"),
        *("round", "round_since", "stamp", "trying"),
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
        self.callers: WeakSet[object] = WeakSet()  # syncs that make the next commit themselves
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
        self.next_try = at

    def wait_until(self, at: float) -> None:
        self.not_before = at

    def begin_try(self, again: float) -> None:
        """Record that the flusher begins a try; `again`: the time of the next one unless it fails before."""
        self.next_try, self.trying, self.round = again, True, 0

    def asked(self, first: bool) -> None:
        """Record that a caller asks for a commit; `first`: for the first time."""
        self.trying = False
        if first:
            self.round = 0

    def end(self) -> None:
        """Record that no save is overdue any longer."""
        self.failing_since, self.stamp, self.parked, self.next_try, self.trying = None, 0, False, None, False

    def forget_failures(self) -> None:
        """Forget failures of an earlier backend. A save that is overdue stays so, and is tried at once."""
        if self.failed:
            self.error, self.attempts, self.round, self.not_before = None, 0, 0, 0.0
            self.callers.clear()  # they have ended: who has their error may keep them
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
