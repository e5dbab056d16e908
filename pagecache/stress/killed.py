"""Kill the process of the cache: each stir of a round runs in a child, over a store that outlives it.

    rest        the parent's cache saves everything, and is closed
    stir        a child makes a cache over the parent's store, plays the workers, and dies (child.py)
    recover     replay the child's journal into the parent's models; call the factory again; the stored state must be
                one that a crash may leave (durable.py); then make a new cache in the parent
    rest        read everything by every way

If the child does not find the parent's files, the store ends with its process: the report says so, and the round goes
on without crashes.
"""

from __future__ import annotations

import random
import threading
from dataclasses import replace
from functools import partial
from typing import Any

from pagecache.stress.cached import CachedTarget
from pagecache.stress.child import START, Child, MortalBackend, Task, die, first_write, spawn, waiting
from pagecache.stress.durable import Durable, after_crash
from pagecache.stress.history import Broken
from pagecache.stress.journal import Journal, read
from pagecache.stress.journaled import JournaledKeeper, JournaledModel, JournaledWorld, JournalReplay
from pagecache.stress.naming import maker
from pagecache.stress.narrative import narrative
from pagecache.stress.player import Players
from pagecache.stress.recorded import Recorded
from pagecache.stress.targets import UnusableTarget
from pagecache.stress.watchdog import Watchdog
from pagecache.stress.world import Failure, Found, World

__all__ = ["Killed", "KilledPlayers", "stir", "within"]

CALLS = (4, 30, 120)
RECORDS = (20, 200, 800)
"""Upper bounds for the number of store calls, or journal records, before the child dies."""


class Killed:
    """Crashes by SIGKILL; see `crash.Crashing`.

    Args:
        target: of the round.
        made_from: source of the target, by name or as a factory.
    """

    def __init__(self, target: CachedTarget, made_from: Any) -> None:
        self.target, self.made_from = target, made_from
        self.refused = ""  # why no other process could play

    def begin(self, world: World) -> None:
        self.world = world
        self.names: dict[str, bytes] = {}
        self.durable: Durable

    def players(self, world: World) -> KilledPlayers:
        """Return the player of the stirs."""
        return KilledPlayers(self, world)

    def arm(self) -> None:
        """Do nothing: the child chooses the moment."""

    check = arm

    def recover(self, players: Any) -> None:
        """Check the state after the child's death.

        Raises:
            Broken: bytes are missing that must be there.
            UnusableTarget: there can be no such crash.
        """
        if self.refused:
            raise UnusableTarget(f"crashes: killed cannot be on {self.target.name}: {self.refused}")
        world, target, durable = self.world, self.target, self.durable
        world.counters["crashes: killed"] += 1
        target.resume()
        target.remember(durable.names())
        for number, model in enumerate(world.models):
            got = target.store(number)
            durable.judge(number, got)
            world.models[number] = after_crash(number, world.tag, got or b"", model)
        for name in durable.names():
            durable.judge_name(name, target.store(name))
        self.names = {name: found for name in durable.names() if (found := target.store(name)) is not None}
        world.doubts.clear()

    def rested(self) -> None:
        """Record everything as stored and read."""

    end = rested


class KilledPlayers:
    """Workers in a child."""

    def __init__(self, crash: Killed, world: World) -> None:
        self._crash, self._world = crash, world
        self._life = 0

    def stir(self, count: int) -> list[threading.Thread]:
        """Start a stir, see `player.Players`; return the thread that waits for the child."""
        self._life += 1
        return waiting(self._world, "the process of the cache", partial(self._stir, count))

    def _stir(self, count: int) -> None:
        try:
            self._play(count)
        except UnusableTarget as error:
            self._crash.refused = str(error)

    def _play(self, count: int) -> None:
        world, target, plan = self._world, self._crash.target, self._world.plan
        target.close()
        contents = [target.store(model.number) or b"" for model in world.models]
        rng = plan.rng("killed", world.number, self._life)
        calls, records = _moment(rng)
        task = Task(
            play,
            plan,
            world.number,
            self._life,
            self._crash.made_from,
            contents,
            self._crash.names,
            range(1, 1 + plan.threads + plan.tasks),
            count,
            calls,
            rng.choice(("before", "half", "after")),
            records,
        )
        self._crash.durable = Durable(world.models, self._crash.names)
        if world.stopped.is_set():
            return
        with spawn(task) as child:
            status = child.end(3 * plan.patience + START, world.stopped)
            self._replay(child, status)

    def _replay(self, child: Child, status: int) -> None:
        world = self._world
        replay = JournalReplay(world, self._crash.durable)
        for _when, (what, *rest) in read(child.fd):
            if replay.apply((what, *rest)):
                continue
            if what == "unusable":
                raise UnusableTarget(rest[0])
            if what == "failure":
                raise Found(within("the process of the cache", rest[0]))
        world.cut_off()
        if status != -9:
            raise Broken(f"the process of the cache ended with status {status}\n{child.errors()}", "error")


def within(process: str, failure: Failure) -> Failure:
    """Add the name of another process to its failure."""
    return replace(failure, story=f"in {process}: {failure.story}")


def _moment(rng: random.Random) -> tuple[int, int]:
    """Choose a store call or a record, and return both numbers."""
    if rng.random() < 0.5:
        return rng.randrange(1, rng.choice(CALLS)), 0
    return 0, rng.randrange(1, rng.choice(RECORDS))


# ---------------------------------------------------------------------------------------------- in the child


def play(task: Task, journal: Journal) -> None:
    """Play workers over a cache of the child.

    Raises:
        UnusableTarget: the files are not there.
        Found: something was wrong before the end.
    """
    target = maker(task.target)(task.plan, task.number)
    assert isinstance(target, CachedTarget)
    target.ways -= {"foreign", "rivals", "losses"}
    if task.calls:
        target.between = lambda backend: MortalBackend(backend, task)
    if not target.adopt():
        raise UnusableTarget("the store ends with its process: another one does not find the files")
    world = JournaledWorld(task.plan, target, task.number)
    world.journal = journal
    for number, content in enumerate(task.contents):
        first = first_write(number, world.tag, content)
        world.models.append(JournaledModel(number, first, world.clock, journal))
    keeper = JournaledKeeper(journal)
    recorded: Any = Recorded(target, lambda: keeper)
    world.target = recorded
    stir(task, world)
    die()


def stir(task: Task, world: World) -> None:
    """Play the workers, to the end of their operations.

    Raises:
        Found: something was wrong.
    """
    players = Players(world, task.life, task.workers)
    players.recall(task.names.get)
    with Watchdog(world):
        threads = players.stir(task.count)
        for thread in threads:
            while thread.is_alive() and not world.failures:
                thread.join(0.05)
    if world.failures:
        failure = world.failures[0]
        raise Found(replace(failure, finding=None, happened=narrative(world, failure)))
