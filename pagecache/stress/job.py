"""The course of a run: rounds, each of some stirs and rests, until time is over or something is found."""

from __future__ import annotations

import contextlib
import random
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from typing import Any

from pagecache.backends.protocol import AsyncBackend, Backend
from pagecache.native import sync_noise
from pagecache.stress.cached import CachedTarget
from pagecache.stress.coverage import Key, kinds_of, summary
from pagecache.stress.crash import Crashing, NoCrash, crashing
from pagecache.stress.history import Broken
from pagecache.stress.naming import maker, name_of
from pagecache.stress.outlived import outlived
from pagecache.stress.plan import Plan
from pagecache.stress.player import Players, planned, ways_of
from pagecache.stress.pressed import pressed
from pagecache.stress.profiles import PROFILES
from pagecache.stress.relapsed import relapsed
from pagecache.stress.report import Report, exercised
from pagecache.stress.script import Script
from pagecache.stress.targets import Target, UnusableTarget
from pagecache.stress.timeline import narrative, timeline
from pagecache.stress.watchdog import Watchdog, hangs
from pagecache.stress.world import Failure, World

__all__ = ["Run", "run", "run_of"]

RESTS = 3  # of a round
OPERATIONS = 150  # of a thread between two rests, where the plan does not say
GRACE = 5.0  # seconds: what the others may take to end after a failure
SWITCHES = (0.005, 0.0005, 0.00001)  # seconds after which a thread gives way: a round has one of them
NOISES = ((0, 0), (16, 100), (64, 1000))  # one passage of a sync point in so many pauses, for at most so many µs


def run(plan: Plan, target: str | Callable[[], Backend | AsyncBackend] | None = None) -> Report:
    """Run a plan.

    Args:
        plan: what to do.
        target: a backend URL, `python:module:factory`, `path:DIR`, or a factory, which is called for each round and
            again after each crash; None: a backend in memory.

    Raises:
        UnusableTarget: there is nothing to test; says why.

    **Blocks:** for `plan.duration` seconds, and the end of the round that runs then; longer than `plan.patience` only
    where a call that hangs is the finding.
    """
    return run_of(plan, target).run()


def run_of(
    plan: Plan,
    target: str | Callable[[], Backend | AsyncBackend] | None = None,
    make: Callable[[Plan, int], Target] | None = None,
) -> Run:
    """A run of the plan's scheduler. `make`: as of `Run`.

    Raises:
        UnusableTarget: there is nothing to test, or something that the scheduler needs is not installed.
    """
    if plan.scheduler == "threads":
        return Run(plan, target, make)
    if find_spec("greenlet") is None:
        raise UnusableTarget("the deterministic scheduler needs greenlet: pip install 'pagecache[stress]'")
    from pagecache.stress.deterministic.job import SimulatedRun

    return SimulatedRun(plan, target, make)


@contextlib.contextmanager
def disturbed(rng: random.Random) -> Iterator[None]:
    """Threads give way where they would not by themselves: between two steps of Python, and with the debug extension at
    the sync points of the core.
    """
    before = sys.getswitchinterval()
    sys.setswitchinterval(rng.choice(SWITCHES))
    sync_noise(rng.randrange(1 << 64), *rng.choice(NOISES))
    try:
        yield
    finally:
        sys.setswitchinterval(before)
        sync_noise(0, 0, 0)


class Run:
    """A run; `counters` and `number` may be looked at while it goes on. `make` gives targets of another kind; `keep`:
    what was made stays where something was found.
    """

    def __init__(
        self,
        plan: Plan,
        target: str | Callable[[], Backend | AsyncBackend] | None = None,
        make: Callable[[Plan, int], Target] | None = None,
    ) -> None:
        self.plan = plan
        self.keep = True
        self.target = target
        self._make = make or maker(target)
        self.counters: Counter[str] = Counter()
        self.coverage: Counter[Key] = Counter()
        self.kinds: list[str] = []  # that can meet each other
        self.skipped: dict[str, str] = {}
        self.name = ""
        self.number = plan.first_round
        self._grace = min(GRACE, plan.patience)
        self.world: World | None = None  # of the round that runs
        self._latest: World | None = None
        self._players: object = None
        self._stirs = 0
        self._remarks: list[str] = []

    def run(self) -> Report:
        """Rounds, until something is found or it is over."""
        end = time.monotonic() + self.plan.duration
        last = self.plan.first_round + self.plan.rounds if self.plan.rounds else None
        while True:
            failure = self._round()
            if failure is not None:
                return self._report(failure)
            self.number += 1
            if time.monotonic() >= end or (last is not None and self.number >= last):
                return self._report(None)

    def _round(self) -> Failure | None:
        target: Target = self._make(self.plan, self.number)
        self.name, self._players, self._stirs = target.name, None, 1
        world = self.world = World(self.plan, target, self.number)
        crash = crashing(self.plan, self.number, target, self.target, self.skipped)
        try:
            self._bounded(world, "making the files", world.begin)
            if not world.failures:
                crash.begin(world)
                with disturbed(self.plan.rng("noise", self.number)):
                    self._stir_and_rest(world, target, crash)
                if not world.failures:
                    self._bounded(world, "the end", world.end)
                crash.end()
            if world.failures:
                self._give_up(target)
            else:
                target.discard()
        finally:
            self.counters += world.counters + target.repairs
            self.counters["operations"] += world.operations
            self.counters["rounds"] += 1
            self.coverage += world.coverage.now()
            self.kinds = kinds_of(PROFILES[self.plan.profile], ways_of(self.plan, target))
            self.skipped |= target.skipped | world.unsupported
            self._remarks = target.remarks
            self.world, self._latest = None, world
        return world.failures[0] if world.failures else None

    def _stir_and_rest(self, world: World, target: Target, crash: Crashing) -> None:
        players = self._players = crash.players(world)
        script = self.plan.script
        rests = RESTS if script is None else script.stirs
        for rest in range(rests):
            self._stirs = rest + 1
            with Watchdog(world):
                crash.arm()
                threads = players.stir(self.plan.operations or OPERATIONS)
                while any(thread.is_alive() for thread in threads) and not world.failures:
                    crash.look()
                    for thread in threads:
                        thread.join(0.05)
            give_up = time.monotonic() + self._grace
            for thread in threads:
                thread.join(max(0.0, give_up - time.monotonic()))
            if world.failures:
                return
            begun = world.clock.tick()
            self._bounded(world, "a crash", partial(crash.recover, players))
            if not isinstance(crash, NoCrash):
                world.crashed(begun)
            if world.failures:
                return
            self._bounded(world, "a rest", partial(world.rest, cold=rest % 2 == 0))
            self.counters["rests"] += 1
            if world.failures:
                return
            crash.rested()
            pressing = rest == rests - 1 and script is None and self.plan.scheduler == "threads"
            if pressing and isinstance(target, CachedTarget):
                self._bounded(world, "a sync beside writers", partial(pressed, world, target))
                if not world.failures and isinstance(crash, NoCrash):
                    self._bounded(world, "a call that outlives its backend", partial(outlived, world, target))
                if not world.failures and isinstance(crash, NoCrash):
                    self._bounded(world, "a commit that forgets", partial(relapsed, world, target))
            if world.failures:
                return

    def _give_up(self, target: Target) -> None:
        """As far as what went wrong lets it."""

        def give_up() -> None:
            with contextlib.suppress(Exception):
                target.give_up()
                if not self.keep:
                    target.discard()

        thread = threading.Thread(target=give_up, name="stress-end", daemon=True)
        thread.start()
        thread.join(self._grace)

    def _bounded(self, world: World, what: str, call: Callable[[], None]) -> None:
        """What is done while nothing runs; it may hang too.

        Raises:
            UnusableTarget: it said so.
        """
        unusable: list[UnusableTarget] = []

        def guarded() -> None:
            try:
                call()
            except UnusableTarget as error:
                unusable.append(error)
            except Broken as error:
                world.fail(Failure.of(error))
            except AssertionError as error:
                world.fail(Failure("check", f"{what}: {error}"))
            except BaseException as error:
                world.fail(Failure("error", f"{what}: " + "".join(traceback.format_exception(error)).strip()))

        thread = threading.Thread(target=guarded, name="stress-rest", daemon=True)
        thread.start()
        thread.join(3 * self.plan.patience)
        if thread.is_alive():
            world.fail(hangs(world, [f"{what} does not end"]))
        if unusable:
            raise unusable[0]

    # -- the report

    def script(self) -> Script:
        """What the last round did, one by one. With crashes, what it was to do: when they come depends on it."""
        world = self.world or self._latest
        assert world is not None
        players = self._players
        if isinstance(players, Players) and self.plan.crash_of(self.number) == "none":
            return players.script()
        lives = not isinstance(players, Players)
        return planned(world, self.plan.operations or OPERATIONS, self._stirs, lives=lives)

    def replay(self, failure: Failure | None) -> dict[str, Any]:
        """What does the same again: from the round that failed on."""
        plan = self.plan.to_dict()
        if failure is not None:
            plan |= {"first_round": self.number, "rounds": 1}
        return {"version": 1, "plan": plan, "target": name_of(self.target)}

    def _report(self, failure: Failure | None) -> Report:
        if failure is None:
            story = exercised(self.counters, summary(self.coverage, self.kinds), self.name, self.skipped)
        else:
            story = f"{self.name}, round {self.number} of seed {self.plan.seed}: {failure.kind}\n{failure.story}"
            story += "".join(f"\nremark: {remark}" for remark in self._remarks)
        happened = timeline(self._latest, failure) if failure is not None and self._latest is not None else {}
        return Report(
            ok=failure is None,
            story=story,
            replay=self.replay(failure),
            counters=dict(sorted(self.counters.items())),
            coverage={" | ".join(key): count for key, count in sorted(self.coverage.items())},
            skipped=self.skipped,
            kinds=tuple(self.kinds),
            kind="" if failure is None else failure.kind,
            hung=failure is not None and failure.kind == "hang",
            steps=tuple(narrative(happened)) if happened else (),
            timeline=happened,
            hang=failure.hang.to_dict() if failure is not None and failure.hang is not None else {},
        )
