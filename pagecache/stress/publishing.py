"""Check the content that a commit makes visible: objects that are replaced as a whole never show half of a sync.

Such an object is committed only for a waiting sync. So at each commit, all bytes of the longest waiter are in the
object: the bytes written before its sync was called, or newer ones [2.15, 2.22]. The step itself checks that they are
there when its call returns (steps.py), but not the states that were visible before.

A sync that returns may leave behind a commit that it requested and no longer needs; the bytes of that commit are
unknown. The next sync may repeat a failed commit before any newer bytes are sent [2.23]. So commits are judged only if
no sync has returned since the last successful commit.

A commit covers all requests made before it begins; a request made while it runs does not count. So if no sync is
waiting, and none has returned since the last commit ended, nothing requested this commit: it publishes unrequested
bytes [2.22]. This holds while workers run: at rest the tester itself saves.
"""

from __future__ import annotations

from collections.abc import Callable

from pagecache.errors import Key
from pagecache.stress.history import Broken
from pagecache.stress.oracle import Observation
from pagecache.stress.world import Failure, World

__all__ = ["Publishing"]


class Publishing:
    """For each object: the time at which its last successful commit ended."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._done: dict[Key, int] = {}
        self._stirring = False

    def stir(self, on: bool) -> None:
        """Note whether only workers request commits from now on; otherwise other requests may be left behind."""
        world = self._world
        world.saved = world.clock.tick()
        # A failed call may be carried out later, and a pending conflict requests a commit, too.
        self._stirring = on and world.plan.faults == "none" and world.plan.crash_of(world.number) == "none"

    def __call__(self, key: Key) -> Callable[[bool], None]:
        """Begin a commit of an object; return a function to call with whether it succeeded."""
        world = self._world
        waiting = [observation for observations in world.savers.copy().values() for observation in observations]
        observations = [observation for observation in waiting if world.target.key(observation.model.number) == key]
        judged = world.saved < self._done.get(key, 0)  # read last: syncs that have ended are in one of the two
        stirring = self._stirring

        def ended(ok: bool) -> None:
            if ok and judged and observations:
                _published(world, min(observations, key=lambda observation: observation.begun))
            elif ok and judged and stirring:
                _unrequested(world, key)
            if ok:
                self._done[key] = world.clock.tick()

        return ended


def _published(world: World, observation: Observation) -> None:
    got = world.target.store(observation.model.number)
    observation = observation.until_now()
    observation.what = f"the store after a commit, where {observation.what[len('the store after ') :]} waits for one"
    world.count("commits looked at")
    try:
        if got is None:
            raise Broken(f"file {observation.model.number}: {observation.what} has no such object")
        world.judge(observation, got, store=True)
    except Broken as error:
        world.fail(Failure.of(error))


def _unrequested(world: World, key: Key) -> None:
    for model in world.models:  # a worker's own objects are committed by closing them
        if world.target.key(model.number) == key:
            text = "committed without a request since the last commit"
            world.fail(Failure.of(Broken(f"file {model.number}: {text}")))
