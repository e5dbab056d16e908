"""One try of a shrink: run a round, and return its operations as a script.

    Tries.run(plan) ──▶ here, or in a separate process ──▶ Try: report, script, the longest call that ended

A hang leaves its threads behind. So while a hang is shrunk, all tries run in another process, which is killed after
each hang, and at the end of the shrink. One process makes many tries that do not hang, since a start costs more than a
try.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Self

from pagecache.backends.protocol import AsyncBackend, Backend
from pagecache.stress.child import unpicklable
from pagecache.stress.job import run_of
from pagecache.stress.plan import Plan
from pagecache.stress.report import Report
from pagecache.stress.script import Script
from pagecache.stress.targets import Target, UnusableTarget
from pagecache.stress.zygote import START, Forked, prepared

__all__ = ["Tries", "Try", "main"]

GRACE = 0.5  # seconds that a process gets to end before it is killed
ROUND = 10  # a round ends or hangs within so many times the patience


@dataclass(frozen=True, slots=True)
class Try:
    """The result of a try.

    Attributes:
        report: of the round.
        script: the begun operations; None without a failure, or before any began.
        longest: seconds of the longest call that ended.
    """

    report: Report
    script: Script | None
    longest: float


class Tries:
    """Runs of one round each, which leave nothing behind; a context manager."""

    def __init__(
        self,
        target: str | Callable[[], Backend | AsyncBackend] | None,
        make: Callable[[Plan, int], Target] | None = None,
    ) -> None:
        self.target, self._make = target, make
        self.count = 0
        self._apart = False
        self._process: TryProcess | None = None
        self._prepared = prepared()

    def apart(self) -> str:
        """Run the next tries in a separate process; return "", or a sentence that explains why that is impossible."""
        for what in (self.target, self._make):
            if why := unpicklable(what):
                return why
        self._apart = True
        return ""

    def run(self, plan: Plan) -> Try:
        """Run one try.

        Raises:
            UnusableTarget: there is nothing to test.
        """
        self.count += 1
        if not self._apart:
            return tried(plan, self.target, self._make)
        if self._process is None:
            self._process = TryProcess(self.target, self._make)
        found = self._process.run(plan)
        if found is None or found.report.hung:
            self.close()
        return found if found is not None else Try(nothing(plan), None, 0.0)

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            process.__exit__()

    def __enter__(self) -> Self:
        self._prepared.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
        self._prepared.__exit__(None, None, None)


def tried(plan: Plan, target: Any, make: Any, grace: float | None = None) -> Try:
    """Run one try in this process."""
    run = run_of(plan, target, make)
    run.keep = False
    run.grace = run.grace if grace is None else grace
    report = run.run()
    return Try(report, None if report.ok else run.script(), run.longest)


def nothing(plan: Plan) -> Report:
    """Return the report of a try that crashed its process, or took too long: it resembles no other failure."""
    return Report(ok=False, story="the process of a try has ended", replay={"plan": plan.to_dict()}, counters={})


class TryProcess(Forked):
    """The separate process; it makes one try after another."""

    def __init__(self, target: Any, make: Any) -> None:
        mine, other = os.pipe(), os.pipe()
        self._answers, self._plans = Connection(mine[0], writable=False), Connection(other[1], readable=False)
        try:
            super().__init__(__name__, [other[0], mine[1]], target, make)
        finally:
            os.close(mine[1])
            os.close(other[0])

    def run(self, plan: Plan) -> Try | None:
        """Run one try; None: the process has ended, or does not reply.

        Raises:
            UnusableTarget: there is nothing to test.
            RuntimeError: with the exception of the try.
        """
        try:
            self._plans.send(plan)
            found = self._answers.recv() if self._answers.poll(START + ROUND * plan.patience) else None
        except (BrokenPipeError, EOFError):
            return None
        if isinstance(found, Exception):
            raise found
        return found if isinstance(found, Try) else None

    def __exit__(self, *exc: object) -> None:
        super().__exit__(*exc)
        self._answers.close()
        self._plans.close()


def main(plans: int, answers: int, target: Any, make: Any) -> None:
    """Run tries; the entry point of the separate process."""
    plans_in, answers_out = Connection(plans, writable=False), Connection(answers, readable=False)
    while True:
        plan = plans_in.recv()
        try:
            answers_out.send(tried(plan, target, make, GRACE))
        except UnusableTarget as error:
            answers_out.send(error)
        except Exception as error:
            answers_out.send(RuntimeError("".join(traceback.format_exception(error)).strip()))
