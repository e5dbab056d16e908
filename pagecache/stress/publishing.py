"""What a commit makes visible: objects that are replaced as a whole are never seen with half of what was to be saved.

Only who waits for a sync has such an object committed. So when a commit is carried out, whoever has waited longest has
all of his bytes in it: what was written before he called, or something newer [2.15, 2.22]. That it is there when his
call returns is looked at by the step itself (steps.py); what was visible until then is not seen any more.

Who returns may leave a commit behind that he has asked for and does not need any more: it is his, and nobody knows his
bytes. One that fails may be carried out by who comes next, before anything newer is sent [2.23]. So commits are judged
only where nobody has returned since the last that has succeeded.

A commit takes with it whatever was asked for until it began, and who asks while it runs is not heard. So where nobody
waits for a sync, and nobody has returned from one since that ended, nobody has asked for this one: it publishes what
nobody wanted to be seen yet [2.22]. While workers run, that is: at rest the tester itself saves.
"""

from __future__ import annotations

from collections.abc import Callable

from pagecache.errors import Key
from pagecache.stress.history import Broken
from pagecache.stress.oracle import Look
from pagecache.stress.world import Failure, World

__all__ = ["Publishing"]


class Publishing:
    """For each object: when its last commit that has succeeded has ended."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._done: dict[Key, int] = {}
        self._stirring = False

    def stir(self, on: bool) -> None:
        """From now on workers alone ask for commits; or others do, too, and may leave some behind."""
        world = self._world
        world.saved = world.clock.tick()
        # A call that failed may be done all the same, later; and a conflict that stays asks for a commit, too.
        self._stirring = on and world.plan.faults == "none" and world.plan.crash_of(world.number) == "none"

    def __call__(self, key: Key) -> Callable[[bool], None]:
        """A commit of an object begins; what is returned is called with whether it has succeeded."""
        world = self._world
        waiting = [look for looks in world.savers.copy().values() for look in looks]
        looks = [look for look in waiting if world.target.key(look.model.number) == key]
        judged = world.saved < self._done.get(key, 0)  # last: who was there is gone or among them
        stirring = self._stirring

        def ended(ok: bool) -> None:
            if ok and judged and looks:
                _published(world, min(looks, key=lambda look: look.begun))
            elif ok and judged and stirring:
                _unasked(world, key)
            if ok:
                self._done[key] = world.clock.tick()

        return ended


def _published(world: World, look: Look) -> None:
    got = world.target.store(look.model.number)
    look = look.until_now()
    look.what = f"the store after a commit, where {look.what[len('the store after ') :]} waits for one"
    world.count("commits looked at")
    try:
        if got is None:
            raise Broken(f"file {look.model.number}: {look.what} has no such object")
        world.judge(look, got, store=True)
    except Broken as error:
        world.fail(Failure.of(error))


def _unasked(world: World, key: Key) -> None:
    for model in world.models:  # what is a worker's own is committed by closing it
        if world.target.key(model.number) == key:
            text = "committed, and nobody has asked for that since it was committed before"
            world.fail(Failure.of(Broken(f"file {model.number}: {text}")))
