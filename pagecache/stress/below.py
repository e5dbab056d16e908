"""Steps of those who are about what is below the cache: somebody else changes the store, local data is given up.

    watch, change       a file that is read here alone, and changed in place by somebody else
    lose                what was written to a file and is not saved may be gone at any time, and the end with it
    contest, replace    a file that is written here while somebody else replaces the object below it
    touch               any file: somebody else stores the same content once more, as another version

Of the two in the middle nobody can say, while workers run, which of the bytes that were written since the last rest is
there: each of them may be (`Model.loose`). At rest memory and store have to agree, of each handle and in each byte, and
each handle has been told of what was given up (world.py).
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
    """Read the file that somebody else changes."""
    look = steps.look(model, start, end, "read of what somebody else changes")
    verb = ("read", model.number, "buffered", start, end - start, operation.extra)
    got = yield from steps.seeing(look, "watch", verb)
    if got is not None:
        steps.world.judge(look, got)


def change(steps: Steps, operation: Operation, model: Model, start: int, end: int) -> Step:
    """Behind the cache, in whole units of the store; then the cache is told, or finds out [2.19]."""
    unit, size = steps.world.target.store_unit, model.largest()
    start, end = start - start % unit, min(end + -end % unit, size)
    if start < end:
        write = steps.new(model, "change by somebody else", "", start, end - start, size=-1)
        verb = ("change", model.number, start, write.data(start, end), operation.extra)
        yield from steps.changing(model, write, "change", verb)


def lose(steps: Steps, operation: Operation, model: Model, start: int, end: int) -> Step:
    """Give up what is not saved of a range, or from an offset on [2.18]."""
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
    """Write, read or save; nothing else changes the size, so that what is local has an end of its own."""
    turn = operation.extra % 8
    kind = "read" if turn < 2 else "fsync" if turn == 2 else "sync_range" if turn == 3 else "write"
    yield from steps.same(kind, operation, model, start, end)


def replace(steps: Steps, _operation: Operation, model: Model, start: int, _end: int) -> Step:
    """By other bytes, of another length; then the cache is told, and lays over it what is local [2.19]."""
    unit = steps.world.target.store_unit
    length = start // 2 + unit - start // 2 % unit
    write = steps.new(model, "replacement by somebody else", "", 0, length)
    rest = steps.new(model, "end of a replacement by somebody else", "", length, FOREVER, size=length, zero=True)
    model.begin(write)
    model.begin(rest)
    try:
        yield ("replace", model.number, write.data(0, length))
    except OSError as error:
        steps.world.excuse(error, "replace", steps.worker)
    finally:
        model.finish(write, certain=False)
        model.finish(rest, certain=False)


def touch(steps: Steps, _operation: Operation, model: Model, _start: int, _end: int) -> Step:
    """What is stored, once more: another version, and no byte is another [2.19]."""
    try:
        yield ("touch", model.number)
    except OSError as error:
        steps.world.excuse(error, "touch", steps.worker)
    except ValueError:
        steps.world.count("touch: empty")  # nothing of it could be local


BELOW: dict[str, Callable[[Steps, Operation, Model, int, int], Step]] = {
    "watch": watch,
    "change": change,
    "lose": lose,
    "contest": contest,
    "replace": replace,
    "touch": touch,
}
"""Kind of operation -> its step."""
