"""Reduce a failed round to the fewest operations that still fail.

The operations of the failing run become a script (script.py). Faults, crashes, and ever smaller parts of the operations
are left out, and the rest is played by one worker, as long as it fails with the original kind of failure.

Threads decide the order of calls, so a candidate is tried several times: the rarer the failure of the whole round, the
more often. The few remaining operations of a race hardly ever overlap: later tries repeat them. The result has always
failed at least once.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from pagecache.backends.protocol import AsyncBackend, Backend
from pagecache.stress.job import Run
from pagecache.stress.plan import Plan
from pagecache.stress.report import Report, counted
from pagecache.stress.script import Script, Worker
from pagecache.stress.targets import Target, UnusableTarget

T = TypeVar("T")
Place = tuple[int, int, int]
"""Worker, stir and number of an operation in a script."""

AGAIN = 40  # tries of the whole round as a script
TIMES = 3  # a candidate is tried so many times as often as the whole round until it failed
TRIES = (3, 12)  # minimum and maximum tries of a candidate
GROWTH = 16  # factor by which the last tries repeat a script more often
PLAYED = 1000  # operations of a try, with repetitions

SIMPLER: tuple[dict[str, Any], ...] = ({"faults": "none"}, {"crashes": ()})


class NotFailing(Exception):
    """There is no failure to shrink, or it did not repeat; the text is a sentence."""


def shrink(
    failed: Report,
    target: str | Callable[[], Backend | AsyncBackend] | None = None,
    *,
    seconds: float,
    make: Callable[[Plan, int], Target] | None = None,
) -> Report:
    """Shrink a failure; return the report of the smallest failing round, with its operations in the story.

    Args:
        failed: the report of a failed run.
        target: of that run; None: the one that the report names, or a memory backend.
        seconds: time to spend; a running try is completed.
        make: see `job.Run`.

    Raises:
        NotFailing: there was no failure, it did not repeat, or it is a hang, whose threads would stay.
        UnusableTarget: there is nothing to test.

    **Blocks:** for some `seconds`.
    """
    if failed.ok:
        raise NotFailing("nothing was found: there is nothing to shrink")
    if failed.kind == "hang":
        raise NotFailing("a hang is not shrunk, since its threads stay: its report has the waits and the stacks")
    target = failed.replay.get("target") if target is None else target
    return Shrinking(failed, partial(Run, target=target, make=make), seconds).run()


class Shrinking:
    """One shrink: `plan` becomes smaller, pass by pass; it has failed with `report`."""

    def __init__(self, failed: Report, make: Callable[[Plan], Run], seconds: float) -> None:
        self.report, self.plan = failed, Plan.from_replay(failed.replay)
        self._make = make
        self._seconds, self._begun = seconds, time.monotonic()
        self._count = 0
        self._candidate_tries = TRIES[0]
        self._refused: set[tuple[Any, ...]] = set()

    @property
    def script(self) -> Script:
        """Return the smallest failing script so far."""
        assert self.plan.script is not None
        return self.plan.script

    def run(self) -> Report:
        """Run all passes, until nothing changes or the time is over."""
        self._fail_again()
        before, at = amount(self.script), None
        while self.script != at and not self._over():
            at = self.script
            for settings in SIMPLER:
                if replace(self.plan, **settings) != self.plan:
                    self._fails(self.script, **settings)
            reduced(places(self.script), self._fails_without(self.script))
            if len(self.script.workers) > 1:  # if one worker alone fails too, the order of threads does not matter
                self._fails(chained(self.script))
        lines = [
            f"enough: {amount(self.script)}, of {before}; each stir is played {counted(self.script.repeat, 'time')}",
            *([f"stopped after {self._seconds:g} s; more --shrink-time may make it smaller"] if self._over() else []),
            *(f"  {line}" for line in self.report.steps),
            self.report.story,
        ]
        return replace(self.report, story="\n".join(lines))

    # -- tries

    def _fails_with(self, plan: Plan) -> Run | None:
        """Try a plan; return the run if it failed like the original."""
        self._count += 1
        run = self._make(plan)
        run.keep = False
        report = run.run()
        if report.ok or report.kind != self.report.kind:
            return None
        self.report = report
        return run

    def _fail_again(self) -> None:
        """Repeat the unchanged round until it fails, and then its operations alone; NotFailing: it does not fail."""
        by_seed, self.plan = self.plan.script is None, replace(self.plan, duration=0.001, rounds=1)
        while (run := self._fails_with(self.plan)) is None:
            if self._over():
                tries = f"{self._count} tries: more of --shrink-time gives it more of them"
                raise NotFailing(f"it did not fail again in {tries}")
        if (script := run.script()) is None:
            raise NotFailing("it fails before any worker begins: there is nothing that could be left out")
        self._candidate_tries = min(max(TIMES * self._count, TRIES[0]), TRIES[1])
        self.plan = replace(self.plan, script=script)
        if by_seed and not self._fails(script, AGAIN):
            raise NotFailing(
                "as a script it does not fail: what found it is not among its operations (a call that outlives its "
                "backend, a commit that forgets), or it fails too seldom for --shrink-time"
            )

    def _over(self) -> bool:
        """Return whether the time is over."""
        return time.monotonic() > self._begun + self._seconds

    def _fails(self, script: Script, tries: int = 0, **settings: Any) -> bool:
        """Return whether a candidate fails in one of its tries; it is the smallest then."""
        key = (script.contents, script.threads, script.tasks, *sorted(settings.items()))
        if key in self._refused:
            return False
        for repeat in self._repeats(script, tries):
            if self._over():
                return False
            plan = replace(self.plan, script=replace(script, repeat=repeat), **settings)
            with suppress(UnusableTarget):  # that of killed processes needs threads
                if self._fails_with(plan) is not None:
                    self.plan = plan
                    return True
        self._refused.add(key)
        return False

    def _fails_without(self, script: Script) -> Callable[[Sequence[Place]], bool]:
        """Return a function that tells whether some of the operations of a script fail."""
        return lambda some: self._fails(kept(script, set(some)))

    def _repeats(self, script: Script, tries: int) -> Iterator[int]:
        """Yield the repetitions of each try of a candidate: more of them in the later ones, if workers have to meet."""
        repeat, several = self.script.repeat, len(script.workers) > 1
        tries = tries or (self._candidate_tries if several else max(1, self._candidate_tries // 3))
        more = min(max(repeat, PLAYED // max(1, len(script))), repeat * GROWTH)
        return (more if several and 2 * number > tries else repeat for number in range(tries))


# ---------------------------------------------------------------------------------------------- parts of a script


def amount(script: Script) -> str:
    """Return how much a script has, in words."""
    return f"{counted(len(script), 'operation')} of {counted(len(script.workers), 'worker')}"


def places(script: Script) -> list[Place]:
    """Return the places of all operations."""
    return [
        (i, j, k) for i, worker in enumerate(script.workers) for j, stir in enumerate(worker) for k in range(len(stir))
    ]


def kept(script: Script, some: Collection[Place]) -> Script:
    """Return the script with some of its operations, without idle workers and empty stirs."""
    stirs = sorted({j for _i, j, _k in some})

    def only(workers: tuple[Worker, ...], first: int) -> tuple[Worker, ...]:
        left = (
            tuple(
                tuple(one for k, one in enumerate(worker[j] if j < len(worker) else ()) if (i, j, k) in some)
                for j in stirs
            )
            for i, worker in enumerate(workers, first)
        )
        return tuple(worker for worker in left if any(worker))

    return replace(script, threads=only(script.threads, 0), tasks=only(script.tasks, len(script.threads)))


def chained(script: Script) -> Script:
    """Return the script played by one thread: in each stir the operations of one worker after the other."""
    stirs = itertools.zip_longest(*script.workers, fillvalue=())
    return replace(script, threads=(tuple(tuple(itertools.chain(*stir)) for stir in stirs),), tasks=())


def reduced(items: Sequence[T], fails: Callable[[Sequence[T]], bool]) -> list[T]:
    """Return a failing part of the items: of parts of half of them, a quarter, and so on down to single items, each is
    left out if the others fail.
    """
    left = list(items)
    size = len(left)
    while size > 1:
        size, at = -(-size // 2), 0
        while at < len(left) > 1:
            rest = left[:at] + left[at + size :]
            if rest and fails(rest):
                left = rest
            else:
                at += size
    return left
