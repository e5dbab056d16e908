"""Reduce a failed round to the fewest operations that still fail.

The operations of the failing run become a script (script.py), and ddmin (Zeller and Hildebrandt, "Simplifying and
Isolating Failure-Inducing Input", 2002) removes parts of it: workers, then stirs, then operations. Between these passes
the rest becomes simpler: no faults, no crashes, one worker. A candidate counts if it fails with the original kind of
failure.

Threads decide the order of calls, so a candidate is tried several times: the rarer the failure of the whole round, the
more often. The few remaining operations of a race hardly ever overlap: later tries repeat them. The result has always
failed at least once.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, TypeVar

from pagecache.backends.protocol import AsyncBackend, Backend
from pagecache.stress.job import Run
from pagecache.stress.plan import Plan
from pagecache.stress.report import Report, counted
from pagecache.stress.script import Script, Stir, Worker
from pagecache.stress.targets import Target

T = TypeVar("T")
Place = tuple[int, int, int]
"""Worker, stir and number of an operation in a script."""

SECONDS = 60.0
AGAIN = 40  # tries of the whole round as a script
TIMES = 3  # a candidate is tried so many times as often as the whole round until it failed
TRIES = (3, 12)  # minimum and maximum tries of a candidate
GROWTH = 16  # factor by which the last tries repeat a script more often
PLAYED = 1000  # operations of a try, with repetitions

SIMPLER: dict[str, tuple[Any, ...]] = {"faults": ("none", "mild", "nasty"), "crashes": ((),)}
"""Simpler values of settings, the simplest first."""
LEVELS: tuple[Callable[[Place], object], ...] = (lambda place: place[0], lambda place: place[1], lambda place: place)
"""The part of a script to which an operation belongs: its worker, its stir, the operation itself."""


class NotFailing(Exception):
    """There is no failure to shrink, or it did not repeat; the text is a sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shrunk:
    """The result of a shrink.

    Attributes:
        report: of the smallest failing round; `report.replay` has its script.
        story: its operations, in order, and the failure; for people.
        operations, workers: how many are left; `before`: how many there were.
    """

    report: Report
    story: str
    operations: int
    workers: int
    before: tuple[int, int]

    def to_dict(self) -> dict[str, Any]:
        """Return all of it in JSON form."""
        return asdict(self)


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
        NotFailing: there was no failure, it did not repeat, or it is a hang, whose threads would stay.
        UnusableTarget: there is nothing to test.
        ValueError: `seconds` is not above 0.

    **Blocks:** for some `seconds`.
    """
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < 1e9:
        raise ValueError(f"seconds: {seconds!r} is not a number of seconds above 0")
    if isinstance(failed, Plan):
        failed = tried(Run(failed, target, make))
    elif target is None:
        target = failed.replay.get("target")
    if failed.ok:
        raise NotFailing("nothing was found: there is nothing to shrink")
    if failed.kind == "hang":
        raise NotFailing("a hang is not shrunk, since its threads stay: its report has the waits and the stacks")
    return Shrinking(failed, partial(Run, target=target, make=make), seconds, progress or (lambda _line: None)).run()


def tried(run: Run) -> Report:
    """Return the report of a run that leaves no files."""
    run.keep = False
    return run.run()


class Shrinking:
    """One shrink: `plan` becomes smaller, pass by pass; it has failed with `report`."""

    def __init__(
        self, failed: Report, make: Callable[[Plan], Run], seconds: float, progress: Callable[[str], None]
    ) -> None:
        self.report, self.plan = failed, Plan.from_replay(failed.replay)
        self._make, self._progress = make, progress
        self._seconds, self._begun = seconds, time.monotonic()
        self._count = 0
        self._candidate_tries = TRIES[0]
        self._refused: set[tuple[Any, ...]] = set()

    @property
    def script(self) -> Script:
        """Return the smallest failing script so far."""
        assert self.plan.script is not None
        return self.plan.script

    def run(self) -> Shrunk:
        """Run all passes, until nothing changes or the time is over."""
        self._fail_again()
        before, at = (len(self.script), len(self.script.workers)), None
        while self.script != at and not self._over():
            at = self.script
            for script, settings in self._simpler():
                self._fails(script, **settings)
            for level in LEVELS:
                self._leave_out(level)
        stopped = self._over()
        return Shrunk(
            report=self.report,
            story=self._story(before, stopped=stopped),
            operations=len(self.script),
            workers=len(self.script.workers),
            before=before,
        )

    # -- tries

    def _fails_with(self, plan: Plan) -> Run | None:
        """Run a plan; return the run if it fails with the original kind of failure."""
        self._count += 1
        run = self._make(plan)
        report = tried(run)
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
            self._progress(f"did not fail in {self._count} tries")
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
            if self._fails_with(plan) is not None:
                self.plan = plan
                self._progress(
                    f"{len(script)} operations of {len(script.workers)} workers, {self._count} tries, "
                    f"{time.monotonic() - self._begun:.0f} s of {self._seconds:.0f}"
                )
                return True
        self._refused.add(key)
        return False

    def _repeats(self, script: Script, tries: int) -> Iterator[int]:
        """Yield the repetitions of each try of a candidate: more of them in the later ones, if workers have to meet."""
        repeat, several = self.script.repeat, len(script.workers) > 1
        tries = tries or (self._candidate_tries if several else max(1, self._candidate_tries // 3))
        more = min(max(repeat, PLAYED // max(1, len(script))), repeat * GROWTH)
        return (more if several and 2 * number > tries else repeat for number in range(tries))

    # -- passes

    def _simpler(self) -> Iterator[tuple[Script, dict[str, Any]]]:
        """Yield candidates: without faults and crashes; with threads in place of tasks; and by a single worker. If that
        fails too, the order of threads does not matter.
        """
        for name, values in SIMPLER.items():
            for number, value in enumerate(values):
                if getattr(self.plan, name) not in values[: number + 1]:
                    yield self.script, {name: value}
        script = self.script
        stirs = [[worker[n] if n < len(worker) else () for worker in script.workers] for n in range(script.stirs)]
        for merged in (chained, in_turns):
            if len(self.script.workers) > 1:
                yield replace(script, threads=(tuple(map(merged, stirs)),), tasks=()), {}
        if self.script.tasks:
            yield replace(self.script, threads=self.script.workers, tasks=()), {}

    def _leave_out(self, level: Callable[[Place], object]) -> None:
        """Remove parts."""
        script, parts = self.script, dict[object, list[Place]]()
        for place in places(script):
            parts.setdefault(level(place), []).append(place)
        ddmin([*parts.values()], lambda some: self._fails(kept(script, set(itertools.chain(*some)))))

    def _story(self, before: tuple[int, int], *, stopped: bool) -> str:
        script = self.script
        again = f", repeated {script.repeat} times" if script.repeat > 1 else ""
        few = f"{counted(len(script), 'operation')} of {counted(len(script.workers), 'worker')}"
        lines = [
            f"{few} {'is' if len(script) == 1 else 'are'} enough{again} (there were {before[0]} of {before[1]})",
            *([f"stopped after {self._seconds:g} s; more --shrink-time may make it smaller"] if stopped else []),
            *(f"  {line}" for line in self.report.steps),
            self.report.story,
        ]
        return "\n".join(lines)


# ---------------------------------------------------------------------------------------------- parts of a script


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


def chained(stirs: Sequence[Stir]) -> Stir:
    """Return the operations of several workers, one worker after the other."""
    return tuple(itertools.chain.from_iterable(stirs))


def in_turns(stirs: Sequence[Stir]) -> Stir:
    """Return the first operations of all workers, then the second ones, and so on."""
    return tuple(one for turn in itertools.zip_longest(*stirs) for one in turn if one is not None)


def ddmin(items: Sequence[T], fails: Callable[[Sequence[T]], bool]) -> list[T]:
    """Return a failing part of the items from which no single item can be removed; all items if no part fails."""
    left, parts = list(items), 2
    while len(left) > 1:
        size = -(-len(left) // min(parts, len(left)))
        chunks = [left[at : at + size] for at in range(0, len(left), size)]
        alone = next((chunk for chunk in chunks if fails(chunk)), None)
        if alone is not None:
            left, parts = alone, 2
            continue
        before, number = len(chunks), 0
        while number < len(chunks) and len(chunks) > 2:
            rest = [one for at, chunk in enumerate(chunks) if at != number for one in chunk]
            if fails(rest):
                del chunks[number]
            else:
                number += 1
        left = [one for chunk in chunks for one in chunk]
        if len(chunks) == before and size == 1:
            break
        parts = max(2, len(chunks)) if len(chunks) < before else 2 * parts
    return left
