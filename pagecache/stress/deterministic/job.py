"""A run whose rounds are played by the deterministic scheduler: usual targets, workers and checks on simulated threads.

A round runs in a separate thread of the system, as the first of its simulated threads: workers, watchdog and all
threads of the cache are others. The thread of this module checks for progress: a call that blocks for real would stop
all of them. `Plan.tasks` become workers too: asyncio is not simulated, so they use the calls of threads.
"""

from __future__ import annotations

import dataclasses
import gc
import sys
import threading
import time
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any

from pagecache import closing
from pagecache.backends.protocol import AsyncBackend, Backend
from pagecache.native import is_debug
from pagecache.stress import job
from pagecache.stress.cached import CachedTarget
from pagecache.stress.deterministic import substitution
from pagecache.stress.deterministic.oversleeping import oversleeping
from pagecache.stress.deterministic.policies import drawn
from pagecache.stress.deterministic.scheduler import Late, Scheduler, Stuck
from pagecache.stress.deterministic.stepped import SteppedBackend
from pagecache.stress.job import Run
from pagecache.stress.plan import Plan
from pagecache.stress.report import Report
from pagecache.stress.targets import Target, UnusableTarget
from pagecache.stress.world import Failure

__all__ = ["SimulatedRun"]

CHECK_S = 0.2  # seconds between two checks for progress
BLOCKED = 30.0  # minimum seconds without a point, after which a call counts as really blocking


class SimulatedRun(Run):
    """A run under the scheduler; see `pagecache.stress.job.Run`.

    Attributes:
        digest: of all rounds: equal in each run of one plan.
    """

    def __init__(
        self,
        plan: Plan,
        target: str | Callable[[], Backend | AsyncBackend] | None = None,
        make: Callable[[Plan, int], Target] | None = None,
    ) -> None:
        super().__init__(plan, target, make)
        self._requested = plan
        script = plan.script
        if script is not None:
            script = dataclasses.replace(script, threads=script.workers, tasks=())
        self.plan = dataclasses.replace(plan, threads=plan.threads + plan.tasks, tasks=0, script=script)
        self._make_target, self._make = self._make, self._stepped
        self._scheduler: Scheduler
        self._modules = () if make is None and not callable(target) else (getattr(make or target, "__module__", ""),)
        self.digest = 0
        self.points = self.switches = 0
        self.seconds = 0.0  # processor time

    def _stepped(self, plan: Plan, number: int) -> Target:
        target = self._make_target(plan, number)
        if not isinstance(target, CachedTarget):
            raise UnusableTarget(f"{target.name}: its order is the system's; the deterministic scheduler needs a cache")
        target.between = lambda backend: SteppedBackend(backend, self._scheduler)
        return target

    # -- a round

    def _round(self) -> Failure | None:
        played = _Played(self, super()._round)
        gc.collect()
        kept = gc.get_freeze_count()  # the host process may have frozen objects: the collector leaves them alone
        gc.freeze()
        gc.disable()  # the time of a collection would depend on earlier allocations
        try:
            with substitution.substituted(self._modules):
                played.thread.start()
                played.oversee()
        except KeyboardInterrupt:
            self._stopped(played)
            raise
        finally:
            gc.enable()
            if not kept:
                gc.unfreeze()
        return self._ended(played)

    def _ended(self, played: _Played) -> Failure | None:
        scheduler = played.scheduler
        if scheduler is not None:
            self.digest = self.digest * 31 + scheduler.digest & (1 << 64) - 1
            self.points += scheduler.points
            self.switches += scheduler.switches
            self.seconds += played.seconds
        if played.error is not None:
            raise played.error
        if played.stuck is None:
            return played.failure
        if (world := self.world) is not None:  # the round did not finish, and never will
            if (cache := getattr(world.target, "cache", None)) is not None:
                closing.give_up(cache)
            self.counters += world.counters
            self.counters["operations"] += world.operations
            self.coverage += world.coverage.now()
            self._latest = world
        return Failure("hang", played.stuck)

    def _stopped(self, played: _Played) -> None:
        """Stop the round where it is, and remove the files it made."""
        stands = played.stop(job.CALLS)
        if (world := self.world or self._latest) is not None:  # a call that met the stop may have ended the round
            if (cache := getattr(world.target, "cache", None)) is not None:
                closing.give_up(cache)
            done = self._give_up([partial(self._clear, world.target)], job.REMOVED)
            self._made = not (stands and done)

    # -- the report

    def replay(self, failure: Failure | None) -> dict[str, Any]:
        replay = super().replay(failure)
        requested = {"threads": self._requested.threads, "tasks": self._requested.tasks}
        return replay | {"plan": replay["plan"] | requested}

    def _report(self, failure: Failure | None) -> Report:
        report = super()._report(failure)
        rate = self.points / max(self.seconds, 1e-9)
        schedule = {
            "scheduler": "deterministic",
            "points": self.points,
            "switches": self.switches,
            "points per second and core": round(rate),
            "digest": f"{self.digest:016x}",
        }
        line = (
            f"deterministic scheduler: {self.points} points, {self.switches} switches, "
            f"{rate:,.0f} points a second and core, digest {self.digest:016x}"
        )
        if not is_debug():
            line += (
                "\nthreads are switched around the core, not within it: only a debug build of the extension has that"
            )
        return dataclasses.replace(report, story=f"{report.story}\n{line}", schedule=schedule)


class _Played:
    """One running round, in a separate thread of the system, and its result."""

    def __init__(self, run: SimulatedRun, call: Callable[[], Failure | None]) -> None:
        self._run = run
        self._call = call
        self.scheduler: Scheduler | None = None
        self.failure: Failure | None = None
        self.stuck: str | None = None
        self.error: BaseException | None = None
        self.began = self.seconds = 0.0  # processor time of the thread
        self._stops = False
        self._over = threading.Event()
        self.thread = threading.Thread(target=self._play, name="stress-deterministic", daemon=True)

    def _play(self) -> None:
        self.began = time.thread_time()
        rng = self._run.plan.rng("schedule", self._run.number)
        scheduler = self.scheduler = self._run._scheduler = Scheduler(drawn(rng), rng)
        scheduler.stopped |= self._stops
        scheduler.at_rest = self._late
        try:
            scheduler.run(self._first)
        except Late as late:
            self.stuck = f"a thread sleeps too long: {late}"
        except Stuck as stuck:
            self.stuck = f"no thread can run\n{stuck}"
        except BaseException as error:
            self.error = error
        self.seconds = time.thread_time() - self.began
        self._over.set()
        if scheduler.threads:  # they are suspended on the stack of this thread
            threading.Event().wait()

    def _late(self) -> str | None:
        """Return a sentence about a thread of the round's cache that sleeps too long, or None."""
        scheduler, world = self.scheduler, self._run.world
        cache = None if world is None else getattr(world.target, "cache", None)
        if scheduler is None or cache is None or cache.closed:
            return None
        return oversleeping(cache, scheduler.now_ns() / 1e9, scheduler.wakes)

    def _first(self) -> None:
        try:
            self.failure = self._call()
        except BaseException as error:
            self.error = error

    def oversee(self) -> None:
        """Wait until the round is over, or blocks.

        Raises:
            KeyboardInterrupt: the round is stopped where it is.
        """
        patience, points, since = max(BLOCKED, self._run.plan.patience), -1, time.monotonic()
        try:
            while not self._over.wait(CHECK_S):
                scheduler = self.scheduler
                now, seen = time.monotonic(), -1 if scheduler is None else scheduler.points
                if seen != points:
                    points, since = seen, now
                elif now - since > patience:
                    self.seconds = time.clock_gettime(time.pthread_getcpuclockid(self.thread.ident or 0)) - self.began
                    self.stuck = f"a call blocks for real, or runs and runs, for {now - since:.0f} s\n{self._stack()}"
                    return
        finally:
            self.stop(0.0)

    def stop(self, seconds: float) -> bool:
        """Stop the round at its next point; return whether it stopped within `seconds`. A backend call may run until
        then.
        """
        self._stops = True
        if self.scheduler is not None:
            self.scheduler.stopped = True
        return self.thread.ident is None or self._over.wait(seconds)

    def _stack(self) -> str:
        frame = sys._current_frames().get(self.thread.ident or 0)
        return "" if frame is None else "".join(traceback.format_stack(frame)).rstrip()
