"""Reduce a failed round to the fewest operations, workers, files and faults that still fail.

The operations of the failing run become a script (script.py), and ddmin (Zeller and Hildebrandt, "Simplifying and
Isolating Failure-Inducing Input", 2002) removes parts of it: first workers, then stirs, then operations; then files,
ways and faults; then numbers become rounder. A candidate counts if it fails with the original kind of failure.

Threads decide the order of calls, so a candidate is tried several times: the rarer the failure of the whole round, the
more often. The few remaining operations of a race hardly ever overlap: later tries repeat them. The result has always
failed at least once.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from pagecache.backends.protocol import AsyncBackend, Backend
from pagecache.stress.plan import Plan
from pagecache.stress.profiles import KINDS
from pagecache.stress.pytest_file import pytest_file
from pagecache.stress.reducing import (
    CALMER,
    FILELESS,
    buffered,
    chained,
    chained_back,
    ddmin,
    in_turns,
    plainer,
    renumbered,
    stripped,
    swapped,
)
from pagecache.stress.report import Report, counted
from pagecache.stress.rounder import rounder
from pagecache.stress.script import Script, Worker
from pagecache.stress.shrink_tries import Tries
from pagecache.stress.shrunk import NotFailing, Shrunk
from pagecache.stress.targets import Target

__all__ = ["NotFailing", "Shrinking", "Shrunk", "shrink"]

T = TypeVar("T")

SECONDS = 60.0
PASSES = 0.75  # fraction of the time; the rest measures how often the result fails, and how often it must be repeated
SEEN = 3  # failures of the whole round that suffice to estimate their rate
MEASURED = 12  # tries for that estimate, and for the failure rate of the result
AGAIN = 40  # tries of the whole round as a script
MISSED = 0.1  # accepted fraction of failing candidates that are missed
TRIES = (3, 12)  # minimum and maximum tries of a candidate
GROWTH = 16  # factor by which the last tries repeat a script more often
PLAYED = 1000  # operations of a try, with repetitions
HANG = 5.0  # seconds after which a call hangs, while a hang is shrunk
SHORT = 1.0  # minimum of that time for a candidate: LONGER times the longest call that ended
LONGER = 10
LISTED = 20  # operations in a story


def shrink(
    failed: Report | Plan,
    target: str | Callable[[], Backend | AsyncBackend] | None = None,
    *,
    seconds: float = SECONDS,
    make: Callable[[Plan, int], Target] | None = None,
    progress: Callable[[str], None] | None = None,
) -> Shrunk:
    """Shrink a failure.

    Args:
        failed: the report of a failed run, or a plan that fails.
        target: of that run; None: the one that the report names, or a memory backend.
        seconds: time to spend; a running try is completed.
        make: see `job.Run`.
        progress: called with a line now and then.

    Raises:
        NotFailing: there was no failure, or it did not repeat.
        UnusableTarget: there is nothing to test.
        ValueError: `seconds` is not above 0.

    **Blocks:** for some `seconds`.
    """
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < 1e9:
        raise ValueError(f"seconds: {seconds!r} is not a number of seconds above 0")
    if isinstance(failed, Report):
        if failed.ok:
            raise NotFailing("nothing was found: there is nothing to shrink")
        if target is None:
            target = failed.replay.get("target")
        plan, kind = Plan.from_replay(failed.replay), failed.kind
    else:
        plan, kind = failed, ""
    with Tries(target, make) as tries:
        return Shrinking(plan, kind, tries, seconds, progress or (lambda _line: None)).run()


def listed(script: Script) -> Iterator[str]:
    """Yield the operations, as many as a person reads."""
    lines = (
        f"writer {number}: {one.kind}{f' ({one.way})' if one.way else ''} of {one.file}, "
        f"{one.length} bytes at {one.offset}{' from the end' if one.end else ''}"
        for number, worker in enumerate(script.workers, 1)
        for stir in worker
        for one in stir
    )
    yield from itertools.islice(lines, LISTED)
    if (left := len(script) - LISTED) > 0:
        yield f"and {left} more, in the replay"


@dataclass(frozen=True, slots=True)
class Best:
    """The smallest failing candidate so far."""

    plan: Plan
    script: Script
    report: Report


class Shrinking:
    """One shrink: `best` becomes smaller, pass by pass."""

    best: Best

    def __init__(self, plan: Plan, kind: str, tries: Tries, seconds: float, progress: Callable[[str], None]) -> None:
        self._tries, self._progress = tries, progress
        self._begun = time.monotonic()
        self._end = self._begun + PASSES * seconds
        self._seconds = seconds
        self._patience = plan.patience
        self._longest = 0.0  # seconds of the longest call that ended, while a hang is shrunk
        self._earlier: list[Best] = []
        self.kind = kind
        self._plan = plan
        self._refused: set[tuple[Any, ...]] = set()
        self._candidate_tries = TRIES[0]

    # -- the course

    def run(self) -> Shrunk:
        """Run all passes, until nothing changes or the time is over."""
        self._known(self.kind)
        self._fail_again()
        before = len(self.best.script), len(self.best.script.workers)
        passes = (
            self._pressing,
            self._settings,
            self._one_worker,
            self._workers,
            self._one_worker,
            self._stirs,
            self._operations,
            self._files,
            self._settings,
            self._ways,
            self._numbers,
        )
        while True:
            at = self.best.script
            for each in passes:
                each()
            if self.best.script == at or self._over():
                stopped = self._over()
                break
        self._repeat()
        self._confirm()
        rate = self._measure()
        best = self.best
        report = replace(best.report, replay=best.report.replay | {"plan": best.plan.to_dict()})
        return Shrunk(
            report=report,
            story=self._story(before, rate, stopped=stopped),
            test=pytest_file(report, rate, self._tries.target),
            operations=len(best.script),
            workers=len(best.script.workers),
            before=before,
            rate=rate,
            tries=self._tries.count,
            seconds=time.monotonic() - self._begun,
        )

    def _fail_again(self) -> None:
        """Repeat the unchanged round until its failure rate is known.

        Raises:
            NotFailing: it does not fail.
        """
        plan = self._plan
        if plan.rounds != 1:
            run = self._tries.run(plan)
            if run.report.ok:
                raise NotFailing("nothing was found: there is nothing to shrink")
            self._known(run.report.kind)
            plan = Plan.from_replay(run.report.replay)
        found: list[tuple[Script, Report]] = []
        tries = 0
        limit = self._begun + self._seconds / 3
        while len(found) < SEEN and (tries < MEASURED or not found):
            if tries and time.monotonic() > (limit if found else self._end):
                break
            run = self._tries.run(self._quick(plan))
            tries += 1
            self._known(run.report.kind)
            if self._same(run.report):
                if run.script is None:
                    raise NotFailing("it fails before any worker begins: there is nothing that could be left out")
                found.append((run.script, run.report))
                self._longest = max(self._longest, run.longest)
            self._progress(f"failed {len(found)} of {tries} times")
        if not found:
            raise NotFailing(f"it did not fail again in {tries} tries: more of --shrink-time gives it more of them")
        script, report = min(found, key=lambda each: len(each[0]))
        self.best = Best(replace(plan, script=script), script, report)
        self._candidate_tries = self._needed(len(found) / tries)
        if plan.script is None:
            self._fail_as_script([script, max((each[0] for each in found), key=len)])

    def _fail_as_script(self, scripts: list[Script]) -> None:
        """Repeat the failure by its operations alone: by one of the scripts, which are equally likely to fail apart
        from their truncated ends.

        Raises:
            NotFailing: none fails.
        """
        for tries in range(1, AGAIN + 1):
            if self._over():
                break
            plan = self._with(scripts[tries % len(scripts)])
            tried = self._tries.run(self._quick(plan))
            if self._same(tried.report):
                assert tried.script is not None
                script = tried.script
                self.best = Best(replace(plan, script=script), script, tried.report)
                self._candidate_tries = max(self._candidate_tries, self._needed(1 / tries))
                return
        raise NotFailing(
            "as a script it does not fail: what found it is not among its operations (a call that outlives its "
            "backend, a commit that forgets), or it fails too seldom for --shrink-time"
        )

    def _needed(self, rate: float) -> int:
        wanted = math.ceil(math.log(MISSED) / math.log(1 - min(rate, 0.99)))
        return min(max(wanted, TRIES[0]), TRIES[1])

    def _quick(self, plan: Plan) -> Plan:
        """Return a plan of one round, with no more patience with a hang than necessary."""
        patience = plan.patience
        if self.kind == "hang":
            enough = max(SHORT, LONGER * self._longest) if self._longest else HANG
            patience = min(patience, enough, HANG)
        return replace(plan, duration=0.001, rounds=1, patience=patience)

    def _known(self, kind: str) -> None:
        """Fix the kind of failure to shrink. A hang is shrunk only if none of its threads are left.

        Raises:
            NotFailing: it cannot be shrunk.
        """
        if kind == "hang" and (why := self._tries.apart()):
            raise NotFailing(f"a hang is shrunk in another process, and {why}")
        self.kind = self.kind or kind

    def _with(self, script: Script, **fields: Any) -> Plan:
        """Return the best plan with a script, and with no more processes than the script has workers."""
        fields.setdefault("processes", min(self.best.plan.processes, max(1, len(script.threads))))
        return replace(self.best.plan, script=script, **fields)

    def _same(self, report: Report) -> bool:
        return not report.ok and report.kind == self.kind

    def _over(self) -> bool:
        return time.monotonic() > self._end

    def fails(self, script: Script, **fields: Any) -> bool:
        """Return whether a candidate fails in one of its tries; it is the best then."""
        key = (script.contents, script.threads, script.tasks, script.pressed, *sorted(fields.items()))
        if key in self._refused:
            return False
        for repeat in self._repeats(script):
            if self._over():
                return False
            plan = self._with(replace(script, repeat=repeat), **fields)
            run = self._tries.run(self._quick(plan))
            if self._same(run.report):
                assert run.script is not None
                left = run.script
                self._earlier.append(self.best)
                self.best = Best(replace(plan, script=left), left, run.report)
                self._say()
                return True
        self._refused.add(key)
        return False

    def _repeats(self, script: Script) -> Iterator[int]:
        """Yield the repetitions of each try of a candidate: once, and more often if there is more than one worker."""
        count = self._candidate_tries if len(script.workers) > 1 else max(1, self._candidate_tries // 3)
        if len(script.workers) == 1:
            yield from itertools.repeat(script.repeat, count)
            return
        most = max(script.repeat, PLAYED // max(1, len(script)))
        for number in range(count):
            yield script.repeat if number < (count + 1) // 2 else min(most, script.repeat * GROWTH)

    def _say(self) -> None:
        script = self.best.script
        self._progress(
            f"{len(script)} operations of {len(script.workers)} workers, {self._tries.count} tries, "
            f"{time.monotonic() - self._begun:.0f} s of {self._seconds:.0f}"
        )

    # -- passes

    def _pressing(self) -> None:
        """Drop the sync beside writers, or everything else."""
        script = self.best.script
        if script.pressed and not self.fails(replace(script, pressed="")) and len(script):
            self.fails(replace(script, threads=(((),),), tasks=(), repeat=1))

    def _one_worker(self) -> None:
        """Try a single worker that runs the operations of all: if that fails too, the order of threads does not
        matter.
        """
        script = self.best.script
        if len(script.workers) == 1:
            return
        stirs = [[worker[n] if n < len(worker) else () for worker in script.workers] for n in range(script.stirs)]
        for merged in (chained, chained_back, in_turns):
            if self.fails(replace(script, threads=(tuple(map(merged, stirs)),), tasks=(), repeat=1)):
                return

    def _workers(self) -> None:
        """Remove workers; replace tasks by threads."""
        script = self.best.script
        numbered = [(True, one) for one in script.threads] + [(False, one) for one in script.tasks]

        def built(some: Sequence[tuple[bool, Worker]]) -> Script | None:
            threads = tuple(worker for thread, worker in some if thread)
            tasks = tuple(worker for thread, worker in some if not thread)
            return stripped(self.best.script, threads, tasks)

        ddmin(numbered, self._tester(built))
        script = self.best.script
        if script.tasks:
            self.fails(replace(script, threads=script.workers, tasks=()))

    def _stirs(self) -> None:
        """Remove rests, or all but one."""

        def built(some: Sequence[int]) -> Script | None:
            def only(workers: tuple[Worker, ...]) -> tuple[Worker, ...]:
                return tuple(tuple(worker[n] for n in some if n < len(worker)) for worker in workers)

            return stripped(script, only(script.threads), only(script.tasks))

        script = self.best.script
        if script.stirs > 1:
            ddmin(range(script.stirs), self._tester(built))
        script = self.best.script
        if script.stirs > 1:
            self.fails(
                replace(
                    script,
                    threads=tuple((sum(worker, ()),) for worker in script.threads),
                    tasks=tuple((sum(worker, ()),) for worker in script.tasks),
                )
            )

    def _operations(self) -> None:
        """Remove operations."""
        script = self.best.script

        def built(some: Sequence[tuple[int, int, int]]) -> Script | None:
            kept = set(some)

            def only(workers: tuple[Worker, ...], first: int) -> tuple[Worker, ...]:
                return tuple(
                    tuple(
                        tuple(one for k, one in enumerate(stir) if (i, j, k) in kept) for j, stir in enumerate(worker)
                    )
                    for i, worker in enumerate(workers, first)
                )

            return stripped(script, only(script.threads, 0), only(script.tasks, len(script.threads)))

        places = [
            (i, j, k)
            for i, worker in enumerate(script.workers)
            for j, stir in enumerate(worker)
            for k in range(len(stir))
        ]
        ddmin(places, self._tester(built))

    def _tester(self, built: Callable[[Sequence[T]], Script | None]) -> Callable[[Sequence[T]], bool]:
        """Return a function that checks whether the script built from some parts fails."""

        def fails(some: Sequence[T]) -> bool:
            script = built(some)
            if script is None or (
                len(script) >= len(self.best.script) and len(script.workers) >= len(self.best.script.workers)
            ):
                return False
            return self.fails(replace(script, repeat=self.best.script.repeat))

        return fails

    def _files(self) -> None:
        """Remove unused files, and merge files."""
        script = self.best.script
        used = sorted({one.file for one in script.operations() if KINDS[one.kind] not in FILELESS})
        if 0 < len(used) < len(script.contents):
            self.fails(
                script.each(
                    lambda one: renumbered(one, used),
                    contents=tuple(script.contents[number] for number in used),
                )
            )
        if len(self.best.script.contents) > 1:
            self.fails(self.best.script.each(lambda one: replace(one, file=0), contents=self.best.script.contents[:1]))

    def _settings(self) -> None:
        """Remove faults and crashes, and all processes but one."""
        for name, values in CALMER.items():
            for value in values:
                if getattr(self.best.plan, name) == value or self.fails(self.best.script, **{name: value}):
                    break

    def _ways(self) -> None:
        """Replace ways by buffered, and calls by simpler ones."""
        for change in (buffered, plainer):
            for one in dict.fromkeys(self.best.script.operations()):
                if change(one) != one:
                    self.fails(self.best.script.each(swapped(one, change(one))))

    def _numbers(self) -> None:
        """Round the numbers."""
        for candidate in rounder(lambda: self.best.script):
            if self._over():
                return
            self.fails(candidate)

    def _repeat(self) -> None:
        """Reduce repetitions."""
        while (repeat := self.best.script.repeat) > 1 and time.monotonic() < self._begun + self._seconds:
            script = replace(self.best.script, repeat=max(1, repeat // 4))
            runs = [self._tries.run(self._quick(replace(self.best.plan, script=script))) for _ in range(3)]
            failed = [run.report for run in runs if self._same(run.report)]
            if len(failed) < len(runs) - 1:
                return
            self.best = Best(replace(self.best.plan, script=script), script, failed[0])

    def _confirm(self) -> None:
        """Check that a call that was late after a short limit hangs with a longer one, too; otherwise return to the
        best from before.

        Raises:
            NotFailing: neither fails.
        """
        if self.kind != "hang":
            return
        found, patience = [*self._earlier, self.best], min(self._patience, HANG)
        for back in (0, *(1 << n for n in range(len(found).bit_length())), len(found) - 1):
            best = found[max(0, len(found) - 1 - back)]
            for _ in range(self._candidate_tries):
                run = self._tries.run(replace(self._quick(best.plan), patience=patience))
                if self._same(run.report):
                    self.best = replace(best, report=run.report)
                    return
        raise NotFailing(f"no call took longer than {patience:g} s again: it was late, and is no hang")

    def _measure(self) -> float:
        """Return how often the smallest candidate fails; it has failed once."""
        failed, tries = 1, 1
        end = time.monotonic() + max(1.0, self._seconds / 10)
        while tries < MEASURED and time.monotonic() < end:
            run = self._tries.run(self._quick(self.best.plan))
            tries += 1
            failed += self._same(run.report)
        self.best = replace(self.best, plan=replace(self.best.plan, rounds=1, patience=self._patience))
        return failed / tries

    # -- the report

    def _story(self, before: tuple[int, int], rate: float, *, stopped: bool) -> str:
        script, report = self.best.script, self.best.report
        again = f", repeated {script.repeat} times" if script.repeat > 1 else ""
        few = f"{counted(len(script), 'operation')} of {counted(len(script.workers), 'worker')}"
        if script.pressed:
            sync = f"{script.pressed} beside writers that never stop"
            few = f"{few} and then {sync}" if len(script) else sync
        lines = [
            f"{few} {'is' if len(script) == (not script.pressed) else 'are'} enough{again} "
            f"(there were {before[0]} of {before[1]}); failed in {rate:.0%} of its tries",
            *([f"stopped after {self._seconds:g} s; more --shrink-time may make it smaller"] if stopped else []),
            *([] if len(report.steps) >= len(script) else ["all of them:", *(f"  {line}" for line in listed(script))]),
            *(["on the bytes that are wrong:"] if report.steps and len(report.steps) < len(script) else []),
            *(f"  {line}" for line in report.steps),
            report.story,
        ]
        return "\n".join(lines)
