"""Crashes: in a round with them each stir ends with one, of the store (`Forgetting`) or of the cache (killed.py).

    arm       choose, by the seed, the call at which it dies, and how
    check     while workers run: end all waits if the store has died
    recover   check the remains; then the cache goes on, or a new one takes over

A store that forgets dies in this process, over any backend. It loses its uncommitted bytes, or all but a part of them;
then the cache is connected to it again, and writes the lost bytes once more; or it is abandoned, and a new one made.

durable.py decides which bytes must exist afterwards. A cache that outlived its store has all writes of its users,
except direct writes and holes that no commit covered, and it reports those (contract 2.17, 2.22).
"""

from __future__ import annotations

import contextlib
import errno
import random
import time
from functools import partial
from typing import TYPE_CHECKING

from pagecache.backends.protocol import Backend
from pagecache.errors import BackendError
from pagecache.stats import RecoveredFile
from pagecache.stress.durable import Durable, after_crash
from pagecache.stress.forgetting import ForgettingBackend
from pagecache.stress.history import Broken
from pagecache.stress.player import Players
from pagecache.stress.power import Power
from pagecache.stress.world import World
from pagecache.testing import FaultPlan, Rule

if TYPE_CHECKING:
    from pagecache.stress.cached import CachedTarget

COMMITTING = ("commit", "sync")
CHANGING = ("open", "write", "truncate", "punch", "remove", "rename", *COMMITTING)
CALLS = (4, 30, 200)
"""Upper bounds for the number of changing calls before the store dies; one of them is chosen for each stir."""
COMMITS = (3, 12, 60)
"""Upper bounds for the number of commits before the store dies: before a commit, or with its reply."""
PASSES = BackendError(errno.ECONNRESET, "the store is gone", retry=True)
DEVICE_CALLS = (6, 40, 300)
"""Upper bounds for the number of calls of the disk before a power cut; one of them is chosen for each stir."""
GOES_ON = (0.0, 0.02, 0.2)
"""Seconds in which calls go on without the store; one of them is chosen for each stir."""
LINGERS = (0.0, 0.0005, 0.003)
"""Extra seconds of a commit; one of them is chosen for each stir."""


class NoCrash:
    """The course of a round without crashes. Methods are called in this order, repeatedly."""

    def arm(self) -> None:
        """Begin a stir."""

    def check(self) -> None:
        """Check the store during a stir."""

    def recover(self, players: Players) -> None:
        """Crash after a stir, unless that has happened, and check the remains.

        Raises:
            Broken: bytes are missing that must be there.
        """

    def end(self) -> None:
        """End the round: nothing stays open."""

    def stop(self) -> None:
        """Leave nothing running, whatever has happened."""


class Crash(NoCrash):
    """A round whose stirs end with crashes, over a target whose durable state is known."""

    kind: str

    def __init__(self, world: World, target: CachedTarget) -> None:
        self._world, self._target = world, target
        self._durable = Durable([])

    def arm(self) -> None:
        """Begin a stir; everything is stored."""
        self._target.check_recovered()
        names = self._durable.names()
        stored = {name: found for name in names if (found := self._target.store(name)) is not None}
        gives_up = self._world.plan.durability == "disk" and not self._target.withholds
        self._world.durable = self._durable = Durable(self._world.models, stored, gives_up=gives_up)

    def recover(self, players: Players) -> None:
        world, begun = self._world, self._world.clock.tick()
        world.counters[f"crashes: {self.kind}"] += 1
        world.durable, world.target = None, self._target
        try:
            self._recover(players)
        finally:
            world.crashed(begun)
        world.crashing = False
        if not world.failures:
            world.stopped.clear()

    def _recover(self, players: Players) -> None:
        raise NotImplementedError

    def _start_again(self, players: Players) -> None:
        """Check what is left, by a new cache: in the store, or if there is a journal, seen through the cache."""
        target, world, durable = self._target, self._world, self._durable
        on_disk = world.plan.durability == "disk"
        look = self._look if on_disk else target.store
        stored = [target.store(number) for number in range(len(world.models))] if on_disk else []
        target.resume()
        tier = target.cache.tier
        if on_disk and tier is not None and (lost := tier.journal().recovered.lost):
            raise Broken(f"the journal reports lost records: {lost}", "crash")  # the disk has lost nothing confirmed
        world.count("files recovered", target.recovered)
        for number, model in enumerate(world.models):
            got = look(number)
            if (rebased := self._without_cut(number, got)) is not None:
                for begin, length in rebased.ranges:  # they lie over another version
                    durable.judge_part(number, begin, (got or b"")[begin : begin + length])
            else:
                durable.judge(number, got)
            world.models[number] = after_crash(number, world.tag, got or b"", model)
        for name in durable.names():
            if self._without_cut(name, found := look(name)) is None:
                durable.judge_name(name, found)
        players.recall(look)
        world.doubts.clear()
        if on_disk:
            self._resume(stored)

    def _without_cut(self, what: int | str, got: bytes | None) -> RecoveredFile | None:
        """Return what was recovered of an object whose cut a rebase has given up; None: of this one none has."""
        rebased = self._target.rebased.get(self._target.key(what))
        return rebased if rebased is not None and rebased.size < len(got or b"") else None

    def _look(self, what: int | str) -> bytes | None:
        return self._target.patiently(what, partial(self._target.look, what))

    def _resume(self, stored: list[bytes | None]) -> None:
        """Have the cache save what it has recovered; if it holds that back, check that the store is unchanged.

        Raises:
            Broken: it is not.
        """
        for number, (before, after) in enumerate(zip(stored, self._target.held, strict=False)):
            if before != after:
                raise Broken(f"file {number}: held recovered bytes have changed the store", "crash")
        self._target.volume.resume()


class Forgetting(Crash):
    """A round whose store forgets."""

    kind = "forgetting"

    def __init__(self, world: World, target: CachedTarget) -> None:
        super().__init__(world, target)
        self._rng: random.Random = world.plan.rng("crash", world.number)
        self._store: ForgettingBackend
        target.between = self._between
        self._aborted = False
        self._ends = 0.0  # when the calls end that go on without the store
        self._power = Power(self._rng) if world.plan.durability == "disk" else None
        if self._power is not None:
            target.device = self._power.disk

    def _between(self, backend: Backend) -> Backend:
        self._store = ForgettingBackend(backend, cannot=self._target.cannot)
        self._target.shows = False  # written through is stored, but not committed
        if self._power is not None:
            self._power.store = self._store
        return self._store

    def arm(self) -> None:
        super().arm()
        self._world.crashing, self._aborted, self._ends, rng = True, False, 0.0, self._rng
        if self._power is not None:
            calls = rng.randrange(1, rng.choice(DEVICE_CALLS)) if rng.random() < 0.7 else 0
            self._power.arm(calls, fails=rng.random() < 0.3)
        if rng.random() < 0.25:
            return  # dies after all workers ended: no commit was tried for the acknowledged bytes
        commits, done, transient = (rng.random() < 0.5 for _ in range(3))
        dies = Rule(
            COMMITTING if commits else CHANGING,
            nth=rng.randrange(1, rng.choice(COMMITS if commits else CALLS)),
            dies=True,
            done=done,
            error=PASSES if transient or done else None,  # a final error promises that nothing was changed
        )
        faults, self._store.lingers = self._target.faulting.plan, rng.choice(LINGERS)
        self._target.faults.use(FaultPlan((dies, *faults.rules), faults.seed))

    def check(self) -> None:
        """End all waits if the store has died, and the time is over in which an fsync may end at the disk."""
        if self._power is not None and self._power.is_off:
            self._abort()
        elif self._target.faults.dead:
            self._ends = self._ends or time.monotonic() + (0.0 if self._power is None else self._rng.choice(GOES_ON))
            if time.monotonic() >= self._ends:
                self._abort()

    def _abort(self) -> None:
        if not self._aborted:
            self._aborted = True
            self._world.stopped.set()
            self._target.volume.abort()

    def _recover(self, players: Players) -> None:
        power = self._power
        if power is not None and (power.is_off or self._rng.random() < 0.6):
            self._cut(power)
            while self._rng.random() < 0.3:
                self._recover_in_vain(power)
            self._start_again(players)
            return
        self._target.faults.die(Rule(dies=True).exception)
        self._abort()
        if power is not None:
            power.calm()
        if power is not None or self._rng.random() < 0.5:
            self._reconnect(players)
        else:
            self._target.give_up()
            self._store.crash(self._rng)
            self._start_again(players)

    def _cut(self, power: Power) -> None:
        """Cut the power, and restore it."""
        power.cut()
        self._abort()
        self._target.give_up()
        self._store.crash(self._rng)
        power.restore()
        self._target.device = power.disk
        self._world.count("power cuts")

    def _recover_in_vain(self, power: Power) -> None:
        """Cut the power during a recovery."""
        self._aborted = False
        power.arm(self._rng.randrange(1, DEVICE_CALLS[1]) if self._rng.random() < 0.5 else 0)
        with contextlib.suppress(OSError):
            self._target.resume()
            time.sleep(self._rng.choice(LINGERS) * 10)
        self._cut(power)

    def _reconnect(self, players: Players) -> None:
        target, durable = self._target, self._durable
        self._store.crash(self._rng, names=True)
        target.reconnect(fenced=self._rng.random() < 0.5)
        target.volume.retry_failed()
        for model in self._world.models:
            reported = self._reported_losses(model.number)
            got = target.everywhere(model.number)[0][1]()
            pieces = durable.survived(model.number, got, reported)
            model.settle(pieces, len(got))
        for name in durable.names():
            durable.judge_name(name, target.look(name))
        players.recall(target.look)

    def _reported_losses(self, file: int) -> list[tuple[int, int]]:
        """Return the losses that the handles report, only permitted ones; Broken: a reported loss is not permitted."""
        reported, model = [], self._world.models[file]
        for _name, losses in self._target.reported_losses(file, all_of_them=True):
            lost = [(offset, offset + length) for offset, length in losses]
            reported += lost
            # A failed commit may have lost the range, and a successful one may have come after it.
            if wrong := [one for one in lost if not model.loose and not model.went_past(*one)]:
                ranges = ", ".join(f"[{start}, {end})" for start, end in wrong)
                raise Broken(f"file {file}: {ranges} is lost with the store, and no write went past the cache", "crash")
        return reported

    def end(self) -> None:
        self._store.release()
