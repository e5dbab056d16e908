"""Crashes of the store: in a round with crashes each stir ends with one, in this process, over any backend.

    arm       choose, by the seed, the call at which the store dies, and how
    check     while workers run: if the store has died, abort the volume, which ends every wait, and stop all workers
    recover   drop uncommitted bytes, or all but a part of them; then one of two:
              connect the cache to the store again, and it writes the lost bytes once more;
              abandon the cache, and make a new one over the stored objects
    rested    everything is stored

durable.py decides which bytes must exist afterwards. A cache that outlived its store has all writes of its users,
except direct writes and holes that no commit covered, and it reports those (contract 2.17, 2.22).
"""

from __future__ import annotations

import random
import threading
from typing import Any, Protocol, cast

from pagecache.backends.protocol import Backend
from pagecache.errors import DataLossError
from pagecache.stress.cached import CachedTarget
from pagecache.stress.durable import Durable, after_crash
from pagecache.stress.forgetting import ForgettingBackend
from pagecache.stress.history import Broken
from pagecache.stress.killed import Killed
from pagecache.stress.plan import Plan
from pagecache.stress.player import Players
from pagecache.stress.recorded import Recorded
from pagecache.stress.refusals import BEHIND
from pagecache.stress.targets import Target
from pagecache.stress.world import World

__all__ = ["Crashing", "NoCrash", "crashing"]

CALLS = (4, 30, 200)
"""Upper bounds for the number of changing calls before the store dies; one of them is chosen for each stir."""
COMMITS = (3, 12, 60)
"""Upper bounds for the number of commits before the store dies: before a commit, in it, or with its reply."""
LINGERS = (0.0, 0.0005, 0.003)
"""Extra seconds of a commit; one of them is chosen for each stir."""


def crashing(plan: Plan, number: int, target: Target, made_from: Any) -> Crashing:
    """Return the object that makes the crashes of a round. refusals.py decides which crashes the target can have."""
    kind = plan.crash_of(number)
    if kind == "none":
        return NoCrash()
    assert isinstance(target, CachedTarget)
    target.ways -= BEHIND
    return Killed(target, made_from) if kind == "killed" else Forgetting(plan, number, target)


class Stirring(Protocol):
    """A player of workers: see `player.Players`."""

    def stir(self, count: int) -> list[threading.Thread]: ...


class Crashing(Protocol):
    """The crashes of a round: see the top of this file. Methods are called in this order, repeatedly."""

    def begin(self, world: World) -> None: ...
    def players(self, world: World) -> Stirring: ...
    def arm(self) -> None: ...
    def check(self) -> None: ...
    def recover(self, players: Any) -> None: ...
    def rested(self) -> None: ...
    def end(self) -> None: ...


class NoCrash:
    """Rounds without crashes."""

    def begin(self, world: World) -> None:
        """Take note that the files were made."""

    def players(self, world: World) -> Stirring:
        """Return threads and tasks of this process."""
        return Players(world)

    def arm(self) -> None:
        """Begin a stir."""

    def check(self) -> None:
        """Check the store during a stir."""

    def recover(self, players: Stirring) -> None:
        """Recover after a stir."""

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
        self._target.shows = False  # written through is stored, but not committed
        return self._store

    def begin(self, world: World) -> None:
        """Record the made files as stored."""
        self._world = world
        self._durable = Durable(world.models)
        world.target = cast(Target, Recorded(self._target, lambda: self._durable if world.crashing else None))

    def players(self, world: World) -> Players:
        """Return threads and tasks of this process."""
        return Players(world)

    def arm(self) -> None:
        """Choose when the store dies in this stir."""
        self._world.crashing = True
        rng = self._rng
        if rng.random() < 0.25:
            return  # dies after all workers ended: no commit was tried for the acknowledged bytes
        commits = rng.random() < 0.5
        self._store.arm(
            rng.randrange(1, rng.choice(COMMITS if commits else CALLS)),
            rng.choice(("before", "half", "after")),
            transient=rng.random() < 0.5,
            commits=commits,
            lingers=rng.choice(LINGERS),
        )

    def check(self) -> None:
        """End all waits if the store has died."""
        if self._store.died.is_set() and not self._aborted:
            self._aborted = True
            self._world.stopped.set()
            self._target.volume.abort()

    def recover(self, players: Players) -> None:
        """Crash the store after all workers ended, and check the rest.

        Raises:
            Broken: bytes are missing that must be there.
        """
        self._store.die()
        self.check()
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
            reported = self._reported_losses(model.number)
            got = target.everywhere(model.number)[0][1]()
            pieces = durable.survived(model.number, got, reported)
            durable.end()
            model.settle(pieces, len(got))
        for name in durable.names():
            durable.judge_name(name, target.look(name))
        players.recall(target.look)

    def _reported_losses(self, file: int) -> list[tuple[int, int]]:
        """Return the losses that the handles report; each handle must report them once, and only permitted ones.

        Raises:
            Broken: a reported loss is not permitted.
        """
        reported, model = [], self._world.models[file]
        for handles in self._target.files[file].values():
            for handle in handles:
                try:
                    handle.flush()
                except DataLossError as error:
                    lost = [(one.offset, one.offset + one.length) for one in error.ranges]
                    reported += lost
                    # A failed commit may have lost the range, and a successful one may have come after it.
                    if wrong := [one for one in lost if not model.loose and not model.went_past(*one)]:
                        ranges = ", ".join(f"[{start}, {end})" for start, end in wrong)
                        raise Broken(
                            f"file {file}: {ranges} is lost with the store, and no write went past the cache", "crash"
                        ) from error
        return reported

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
        """Record everything as stored: a later crash starts from this state."""
        names = {name: found for name in self._durable.names() if (found := self._target.store(name)) is not None}
        self._durable.end()
        self._durable = Durable(self._world.models, names)

    def end(self) -> None:
        """End the round."""
        self._durable.end()
        self._store.release()
