"""The course of a run: rounds, each of some stirs and rests, until the time is over or a failure is found."""

from __future__ import annotations

import contextlib
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

from pagecache.backends.protocol import AsyncBackend, Backend
from pagecache.stress.cached import CachedTarget
from pagecache.stress.crash import Forgetting, NoCrash
from pagecache.stress.directed import PRESSED, outlived, pressed, withdrawn
from pagecache.stress.hang import hangs, watchdog
from pagecache.stress.history import Broken
from pagecache.stress.killed import Killed, unpicklable
from pagecache.stress.mounted import MountedTarget
from pagecache.stress.naming import maker, name_of
from pagecache.stress.plan import Plan
from pagecache.stress.player import Players
from pagecache.stress.profiles import all_names
from pagecache.stress.report import Report, exercised, narrative
from pagecache.stress.script import Script
from pagecache.stress.targets import Target, UnusableTarget
from pagecache.stress.world import World, described
from pagecache.target import Hung, within

T = TypeVar("T")

RESTS = 3  # rests of a round
OPERATIONS = 150  # default operations of a thread between two rests
GRACE = 5.0  # seconds that the other workers may take to end after a failure
CALLS = 5.0  # seconds after an interrupt: a call of a hanging backend does not return
REMOVED = 5.0  # seconds for each of abandoning the target and removing its files after that
NOTHING = "nothing is left in the target"
LEFT = "objects that begin with 'pagecache-stress-' may be left in the target"
SWITCHES = (0.005, 0.0005, 0.0)  # switch intervals in seconds: a round has one of them, or a longer one by its threads
SWITCH_OF_A_THREAD = 0.00001
"""A waiting thread wakes in each interval. If that is short beside their number, they leave no processor for the thread
that runs."""
BEHIND = {"foreign", "rivals", "shared", "links", "others"}
"""Ways that change the store behind a cache, and shared names. They cannot take part in crashes, and not all rounds
with a cache have them."""


def run(plan: Plan, target: str | Callable[[], Backend | AsyncBackend] | None = None) -> Report:
    """Run a plan.

    Args:
        plan: options of the run.
        target: a backend URL, `python:module:factory`, `path:DIR`, or a factory, which is called for each round and
            again after each crash; None: a backend in memory.

    Raises:
        UnusableTarget: there is nothing to test; the text names the reason.

    **Blocks:** for `plan.duration` seconds, and until the running round ends; longer than `plan.patience` only if the
    finding is a call that hangs.
    """
    return Run(plan, target).run()


@contextlib.contextmanager
def disturbed(rng: random.Random) -> Iterator[None]:
    """Force extra switches between threads, between two steps of Python."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(max(rng.choice(SWITCHES), SWITCH_OF_A_THREAD * threading.active_count()))
    try:
        yield
    finally:
        sys.setswitchinterval(before)


class Failed(Exception):
    """The world of the round has a failure."""


class Run:
    """A run. `make` gives targets of another kind; `keep`: files stay after a failure."""

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
        self.kinds: Counter[str] = Counter()  # operations by kind
        self.skipped: dict[str, str] = {}
        self.name = target if isinstance(target, str) else getattr(target, "__qualname__", "memory:")
        self.number = plan.first_round
        self.grace = min(GRACE, plan.patience)
        self.world: World | None = None  # of the running round
        self._latest: World | None = None
        self._players: Players | None = None
        self._crash = NoCrash()
        self.begun: Callable[[], None] = lambda: None  # called once, when the target is known to be usable
        self._made = False  # files of a round may be in the target

    def run(self) -> Report:
        """Run rounds until a failure is found or the time is over."""
        end, last = time.monotonic() + self.plan.duration, self.plan.first_round + self.plan.rounds
        try:
            while (failure := self._round()) is None:
                self.number += 1
                if time.monotonic() >= end or (self.plan.rounds and self.number >= last):
                    break
        except KeyboardInterrupt:
            raise KeyboardInterrupt(LEFT if self._made else NOTHING) from None
        return self._report(failure)

    def _round(self) -> Broken | None:
        self._players, self._latest = None, None
        try:
            target = self._in_time(partial(self._make, self.plan, self.number))
        except Hung:
            return hangs(None, ["what makes the backend does not return"])
        world = self.world = World(self.plan, target, self.number)
        try:
            self.name, self._made = target.name, True
            refuse_options(self.plan, target, self.target)
            self._crash = crashing(world, target, self.target)
            if self.number == self.plan.first_round:
                self.begun()
            with contextlib.suppress(Failed):
                self._course(world, target)
            if world.failures:
                target.check_place()
                clear = [] if self.keep else [partial(self._clear, target)]
                self._give_up([self._crash.end, target.give_up, *clear], self.grace)
        except UnusableTarget:
            self._give_up([target.give_up, partial(self._clear, target)], self.grace)
            raise
        except KeyboardInterrupt:
            self._interrupted(world)
            raise
        finally:
            self._crash.stop()
            self.counters += world.counters + target.repairs
            self.counters["operations"] += world.operations
            self.counters["rounds"] += 1
            self.kinds += world.kinds
            self.skipped |= target.skipped | world.unsupported
            self.world, self._latest = None, world
        return world.failures[0] if world.failures else None

    def _course(self, world: World, target: Target) -> None:
        """Play a round; Failed: a failure was found."""
        self._bounded(world, "making the files", world.begin)
        refuse_ways(self.plan, target)
        with disturbed(self.plan.rng("noise", self.number)):
            self._stir_and_rest(world, target)
        self._bounded(world, "the end", world.end)
        self._crash.end()
        self._bounded(world, "removing the files", partial(self._discard, target))

    def _stir_and_rest(self, world: World, target: Target) -> None:
        players, crash = Players(world, self.plan.operations or OPERATIONS), self._crash
        self._players, script = players, self.plan.script
        rests = RESTS if script is None else script.stirs
        for rest in range(rests):
            with watchdog(world):
                try:
                    crash.arm()
                except Broken as error:
                    world.fail(error)
                    raise Failed from None
                threads = players.stir()
                while any(thread.is_alive() for thread in threads) and not world.failures:
                    crash.check()
                    for thread in threads:
                        thread.join(0.05)
            give_up = time.monotonic() + self.grace
            for thread in threads:
                thread.join(max(0.0, give_up - time.monotonic()))
            if world.failures:
                raise Failed
            self._bounded(world, "a crash", partial(crash.recover, players))
            self._bounded(world, "a rest", partial(world.rest, cold=rest % 2 == 0))
            self.counters["rests"] += 1
        self._press(world, target)

    def _crashes(self) -> bool:
        return self.plan.crash_of(self.number) != "none"

    def _press(self, world: World, target: Target) -> None:
        """Run the final checks of a cache, which a script does not have."""
        if self.plan.script is not None or not isinstance(target, CachedTarget):
            return
        self._bounded(world, "closing shared objects", world.shared.end)  # a reconnect finds objects by their names
        kind = PRESSED[world.number % len(PRESSED)]
        self._bounded(world, "a sync beside writers", partial(pressed, world, target, kind))
        for play in (outlived, withdrawn) if not self._crashes() else ():
            self._bounded(world, f"the check {play.__name__!r}", partial(play, world, target))

    def _in_time(self, call: Callable[[], T]) -> T:
        """Return the result of a call. Raises: Hung: it hangs."""
        return within(3 * self.plan.patience, call, "stress-rest", None if self.world is None else self.world.run)

    def _give_up(self, calls: Sequence[Callable[[], None]], seconds: float) -> bool:
        """Run clean-up calls as far as a broken target permits; return whether the last one finished."""
        for call in calls:
            done = False
            with contextlib.suppress(Exception):
                within(seconds, call, "stress-rest")
                done = True
        return done

    def _discard(self, target: Target) -> None:
        """Remove the files of the round."""
        target.discard()
        self._made = False

    def _clear(self, target: Target) -> None:
        """Remove the files of the round, those of a killed process too, once."""
        if not self._made:
            return
        target.remember(all_names(self.plan.threads + self.plan.tasks))
        self._discard(target)

    def _interrupted(self, world: World) -> None:
        """End all workers and remove the files, within a time limit."""
        world.interrupted = True
        world.stopped.set()
        self._crash.stop()
        end = time.monotonic() + CALLS
        while (runs := bool(world.running)) and time.monotonic() < end:
            time.sleep(0.02)
        clear = partial(self._clear, world.target)
        # The cache waits for a hanging call of the backend; a call that removes may well return.
        done = self._give_up([clear] if runs else [world.target.give_up, clear], REMOVED)
        self._made = runs or not done

    def _bounded(self, world: World, what: str, call: Callable[[], None]) -> None:
        """Run a call while nothing else runs; it may hang too.

        Raises:
            Failed: it failed, or a failure was found.
            UnusableTarget: the call raised it.
        """
        try:
            self._in_time(call)
        except Hung:
            world.fail(hangs(world, [f"{what} does not end"]))
        except UnusableTarget:
            raise
        except Broken as error:
            world.fail(error)
        except AssertionError as error:
            world.fail(Broken(f"{what}: {error}", "check"))
        except Exception as error:
            world.fail(Broken(f"{what}: {described(error)}", "error"))
        if world.failures:
            raise Failed

    # -- the report

    def script(self) -> Script | None:
        """Return the operations of the last round, one by one. With crashes return the planned operations: the moments
        of crashes depend on them. None: no worker had begun.
        """
        if self._players is None or not self._players.stirs:
            return None
        return self._players.script(planned=self._crashes())

    def _report(self, failure: Broken | None) -> Report:
        """Return the report. Its replay repeats the run from the failed round on."""
        plan = self.plan.to_dict()
        fields: dict[str, Any] = {
            "replay": {"version": 1, "plan": plan, "target": name_of(self.target)},
            "counters": dict(sorted(self.counters.items())),
            "kinds": dict(self.kinds.most_common()),
            "skipped": self.skipped,
        }
        if failure is None:
            return Report(ok=True, story=exercised(self.counters, self.kinds, self.name, self.skipped), **fields)
        plan |= {"first_round": self.number, "rounds": 1}
        story = f"{self.name}, round {self.number} of seed {self.plan.seed}: {failure.kind}\n{failure}"
        steps = failure.happened  # in the process that found it
        if steps is None:
            steps = () if self._latest is None else narrative(self._latest, failure)
        fields |= {"kind": failure.kind, "hung": failure.kind == "hang", "steps": steps}
        return Report(ok=False, story=story, **fields)


# Options that the target cannot serve: a run that silently skipped them would be green without a test. The plan itself
# refuses a mix that shares nothing with the profile. Operations that the target cannot do and that no option names are
# left out, and the report lists them.


def refuse_options(plan: Plan, target: Target, made_from: Any) -> None:
    """Refuse a disk tier, or crashes, that the target cannot have.

    Raises:
        UnusableTarget: names the refused option and the reason.
    """
    if plan.disk and isinstance(target, MountedTarget):
        raise UnusableTarget(f"disk: {target.name} has no cache that could have one: mount it with --disk")
    for kind in plan.crashes:
        if kind != "none" and (why := why_no_crash(kind, plan, target, made_from)):
            raise UnusableTarget(f"crashes: {kind} cannot be on {target.name}: {why}")
    for way in BEHIND & set(plan.mix):
        if plan.crashes and "none" not in plan.crashes:
            raise UnusableTarget(f"mix: {way} cannot be in rounds with crashes: name none among them, too")


def why_no_crash(kind: str, plan: Plan, target: Target, made_from: Any) -> str:
    """Return a sentence that explains why crashes of this kind are impossible; "" if they are possible."""
    if isinstance(target, MountedTarget):
        return "a crash is of a cache and its store, and here is none"
    assert isinstance(target, CachedTarget)
    named = made_from not in (None, "memory:")
    if kind == "killed":
        if not plan.threads:
            return "its workers are threads"
        return unpicklable(made_from) if named else "the store ends with its process"
    if target.faulting.repairing:
        return f"the faults of {plan.faults!r} are repaired by reconnecting, too"
    if named and target.backend.limits.durable_writes:
        return "durable_writes: the backend promises that acknowledged bytes survive"
    return ""


def crashing(world: World, target: Target, made_from: Any) -> NoCrash:
    """Return the object that makes the crashes of a round."""
    kind = world.plan.crash_of(world.number)
    if kind == "none":
        return NoCrash()
    assert isinstance(target, CachedTarget)
    target.ways -= BEHIND
    return Killed(world, target, made_from) if kind == "killed" else Forgetting(world, target)


def refuse_ways(plan: Plan, target: Target) -> None:
    """Refuse ways of the mix that the target lacks; UnusableTarget: names a way that the target lacks."""
    for way in plan.mix:
        later = way in BEHIND and way not in target.skipped and isinstance(target, CachedTarget)  # in other rounds
        if way not in target.ways and not later:
            why = f": {target.skipped[way]}" if way in target.skipped else ""
            raise UnusableTarget(f"mix: {way} cannot be on {target.name}{why}")
