"""Operations that concern the store below the cache: foreign changes of the store, and unsaved data that is given up.

    watch, change       a file that is only read through the cache, and changed in place by a foreign writer
    lose                unsaved writes to a file may be discarded at any time, including a longer size
    contest, replace    a file that is written through the cache while a foreign writer replaces its object

With lose, contest and replace the model cannot decide, while workers run, which bytes written since the last rest
are present: each of them may be (`Model.loose`). At rest, memory and store must agree for each handle and byte, and
each handle must have reported the discarded ranges (world.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pagecache.stress.history import FOREVER, Model
from pagecache.stress.profiles import Operation

if TYPE_CHECKING:
    from pagecache.stress.steps import Step, Steps

__all__ = ["BELOW"]


def watch(steps: Steps, operation: Operation, model: Model, start: int, end: int) -> Step:
    """Read the file that a foreign writer changes."""
    observation = steps.observe(model, start, end, "read of a file with foreign changes")
    verb = ("read", model.number, "buffered", start, end - start, operation.extra)
    got = yield from steps.seeing(observation, "watch", verb)
    if got is not None:
        steps.world.judge(observation, got)


def change(steps: Steps, operation: Operation, model: Model, start: int, end: int) -> Step:
    """Change whole units in the store behind the cache; then invalidate the cache, or let it find out [2.19]."""
    unit, size = steps.world.target.store_unit, model.largest()
    start, end = start - start % unit, min(end + -end % unit, size)
    if start < end:
        write = steps.new(model, "foreign change", "", start, end - start, size=-1)
        verb = ("change", model.number, start, write.data(start, end), operation.extra)
        yield from steps.changing(model, write, "change", verb)


def lose(steps: Steps, operation: Operation, model: Model, start: int, end: int) -> Step:
    """Discard unsaved bytes of a range, or from an offset on [2.18]."""
    world = steps.world
    write = steps.new(model, "loss", "", 0, FOREVER, size=0, zero=True)
    model.begin(write)
    try:
        lost = yield ("lose", model.number, start, None if operation.extra % 2 else end - start)
    except OSError as error:
        world.excuse(error, "lose", steps.worker)
    else:
        with world.lock:
            world.given_up += lost
    finally:
        model.finish(write, certain=False)
        model.shrink(write)


def contest(steps: Steps, operation: Operation, model: Model, start: int, end: int) -> Step:
    """Write, read or save; nothing else changes the size, so the local content has its own end."""
    turn = operation.extra % 8
    kind = "read" if turn < 2 else "fsync" if turn == 2 else "sync_range" if turn == 3 else "write"
    yield from steps.same(kind, operation, model, start, end)


def replace(steps: Steps, _operation: Operation, model: Model, start: int, _end: int) -> Step:
    """Replace the object by other bytes of another length; then invalidate the cache, and lay local data over
    them or give it up [2.19].
    """
    unit = steps.world.target.store_unit
    length = start // 2 + unit - start // 2 % unit
    write = steps.new(model, "foreign replacement", "", 0, length)
    rest = steps.new(model, "end of a foreign replacement", "", length, FOREVER, size=length, zero=True)
    model.begin(write)
    model.begin(rest)
    try:
        yield ("replace", model.number, write.data(0, length))
    except OSError as error:
        steps.world.excuse(error, "replace", steps.worker)
    finally:
        model.finish(write, certain=False)
        model.finish(rest, certain=False)


BELOW: dict[str, Callable[[Steps, Operation, Model, int, int], Step]] = {
    "watch": watch,
    "change": change,
    "lose": lose,
    "contest": contest,
    "replace": replace,
}
"""Kind of operation -> its generator of verbs."""
