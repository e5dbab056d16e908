"""The store forgets: in a round with crashes each stir ends with one, in this process, over any backend.

    arm       the store will die at a call that the seed chooses, in a way that the seed chooses
    look      while workers run: has it died? Then the volume is aborted, which ends every wait, and everybody stops
    recover   what was not committed is gone, or all but a part of it; then one of two:
              the cache is connected with the store again, and gives it what it has lost;
              the cache is given up, and a new one made over what is there
    rested    everything is known to be stored

What has to be there afterwards: durable.py. A cache that has outlived its store has everything that its users wrote,
but for direct writes and holes that no commit has covered, and of those it says so (contract 2.17, 2.22).
"""

from __future__ import annotations

import random
import threading
from typing import Any, Protocol, cast

from pagecache.backends.protocol import Backend
from pagecache.errors import DataLossError
from pagecache.stress.asked import BEHIND
from pagecache.stress.cached import CachedTarget
from pagecache.stress.durable import Durable, after_crash
from pagecache.stress.forgetting import ForgettingBackend
from pagecache.stress.history import Broken
from pagecache.stress.killed import Killed
from pagecache.stress.mounted import MountedTarget
from pagecache.stress.plan import Plan
from pagecache.stress.player import Players
from pagecache.stress.processes import Processes
from pagecache.stress.recorded import Recorded
from pagecache.stress.targets import Target
from pagecache.stress.world import World

__all__ = ["Crashing", "NoCrash", "crashing"]

CALLS = (4, 30, 200)
"""The store lives for at most so many calls that change something, one of them chosen for each stir."""
COMMITS = (3, 12, 60)
"""Or so many commits: it dies before one, in it, or with its answer."""
LINGERS = (0.0, 0.0005, 0.003)
"""Seconds that its commits take twice, one of them chosen for each stir."""


def crashing(plan: Plan, number: int, target: Target, made_from: Any) -> Crashing:
    """What makes the crashes of a round: those that the target can have, see asked.py."""
    kind = plan.crash_of(number)
    if isinstance(target, MountedTarget) and (plan.processes > 1 or kind == "killed"):
        return Processes(target, kill=kind == "killed")
    if kind == "none":
        return NoCrash()
    assert isinstance(target, CachedTarget)
    target.ways -= BEHIND
    return Killed(target, made_from) if kind == "killed" else Forgetting(plan, number, target)


class Stirring(Protocol):
    """Who plays: see `player.Players`."""

    def stir(self, count: int) -> list[threading.Thread]: ...


class Crashing(Protocol):
    """See the top of this file; called in this order, again and again."""

    def begin(self, world: World) -> None: ...
    def players(self, world: World) -> Stirring: ...
    def arm(self) -> None: ...
    def look(self) -> None: ...
    def recover(self, players: Any) -> None: ...
    def rested(self) -> None: ...
    def end(self) -> None: ...


class NoCrash:
    """Of rounds without."""

    def begin(self, world: World) -> None:
        """The files were made."""

    def players(self, world: World) -> Stirring:
        """Threads and tasks of this process."""
        return Players(world)

    def arm(self) -> None:
        """A stir begins."""

    def look(self) -> None:
        """It goes on."""

    def recover(self, players: Stirring) -> None:
        """It has ended."""

    rested = end = arm


class Forgetting:
    """A round whose store forgets."""

    def __init__(self, plan: Plan, number: int, target: CachedTarget) -> None:
        self._rng: random.Random = plan.rng("crash", number)
        self._target = target
        self._store: ForgettingBackend
        target.between = self._between
        self._aborted = False

    def _between(self, backend: Backend) -> Backend:
        self._store = ForgettingBackend(backend, cannot=self._target.cannot)
        self._target.shows = False  # what is written through is stored, and not committed
        return self._store

    def begin(self, world: World) -> None:
        """The files were made, and are stored."""
        self._world = world
        self._durable = Durable(world.models)
        world.target = cast(Target, Recorded(self._target, lambda: self._durable if world.crashing else None))

    def players(self, world: World) -> Players:
        """Threads and tasks of this process."""
        return Players(world)

    def arm(self) -> None:
        """The store dies in this stir."""
        self._world.crashing = True
        rng = self._rng
        if rng.random() < 0.25:
            return  # when nobody runs any more: nothing has tried to commit what it acknowledged
        commits = rng.random() < 0.5
        self._store.arm(
            rng.randrange(1, rng.choice(COMMITS if commits else CALLS)),
            rng.choice(("before", "half", "after")),
            transient=rng.random() < 0.5,
            commits=commits,
            lingers=rng.choice(LINGERS),
        )

    def look(self) -> None:
        """Has it died? Then nobody waits for it."""
        if self._store.died.is_set() and not self._aborted:
            self._aborted = True
            self._world.stopped.set()
            self._target.volume.abort()

    def recover(self, players: Players) -> None:
        """Nobody runs any more.

        Raises:
            Broken: something is not there that has to be.
        """
        self._store.die()
        self.look()
        self._world.counters["crashes: forgetting"] += 1
        if self._rng.random() < 0.5:
            self._reconnect(players)
        else:
            self._start_again(players)
        self._world.crashing, self._aborted = False, False
        if not self._world.failures:
            self._world.stopped.clear()

    def _reconnect(self, players: Players) -> None:
        target, durable = self._target, self._durable
        self._store.crash(self._rng, names=True)
        target.reconnect(fenced=self._rng.random() < 0.5)
        target.volume.retry_failed()
        for model in self._world.models:
            told = self._hear_of_losses(model.number)
            got = target.everywhere(model.number)[0][1]()
            pieces = durable.survived(model.number, got, told)
            durable.end()
            model.settle(pieces, len(got))
        for name in durable.names():
            durable.judge_name(name, target.look(name))
        players.recall(target.look)

    def _hear_of_losses(self, file: int) -> list[tuple[int, int]]:
        """Each handle says once what was lost, and only what may be; returns what all of them said.

        Raises:
            Broken: something is lost that may not be.
        """
        told, model = [], self._world.models[file]
        for handles in self._target.files[file].values():
            for handle in handles:
                try:
                    handle.flush()
                except DataLossError as error:
                    lost = [(one.offset, one.offset + one.length) for one in error.ranges]
                    told += lost
                    # A commit that failed may have lost it, and one that did not may have come after that.
                    if wrong := [one for one in lost if not model.loose and not model.went_past(*one)]:
                        ranges = ", ".join(f"[{start}, {end})" for start, end in wrong)
                        raise Broken(
                            f"file {file}: {ranges} is lost with the store, and nobody wrote past the cache", "crash"
                        ) from error
        return told

    def _start_again(self, players: Players) -> None:
        target, world, durable = self._target, self._world, self._durable
        target.give_up()
        self._store.crash(self._rng)
        target.resume()
        for number, model in enumerate(world.models):
            got = target.store(number)
            durable.judge(number, got)
            world.models[number] = after_crash(number, world.tag, got or b"", model)
        for name in durable.names():
            durable.judge_name(name, target.store(name))
        players.recall(target.store)
        world.doubts.clear()

    def rested(self) -> None:
        """Everything is stored: what a later crash may leave counts from here."""
        names = {name: found for name in self._durable.names() if (found := self._target.store(name)) is not None}
        self._durable.end()
        self._durable = Durable(self._world.models, names)

    def end(self) -> None:
        """The round is over."""
        self._durable.end()
        self._store.release()
